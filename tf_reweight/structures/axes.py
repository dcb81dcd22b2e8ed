"""Structures whose groups are slices along kernel axes: filters, neurons, channels, columns, kernels."""

import dataclasses

from keras import ops

from tf_reweight.checks import check_integer, check_name
from tf_reweight.structures.base import Structure, num_rows
from tf_reweight.structures.one_pass import sum_of_squares


class _Outputs(Structure):
    """One group per output."""

    removes_outputs = True

    def partition(self, kernel):
        return ops.expand_dims(ops.transpose(ops.reshape(kernel, (-1, kernel.shape[-1]))), 0)

    def assemble(self, parts, shape):
        return ops.reshape(ops.transpose(parts[0]), tuple(shape))

    def squared_norms(self, kernel):
        return sum_of_squares(kernel, tuple(range(len(kernel.shape) - 1)))[None]

    def scaled(self, kernel, factors):
        return kernel * factors[0]


@dataclasses.dataclass(frozen=True)
class Filter(_Outputs):
    """Whole outputs: filters of a convolution, units of a Dense. Physically removable, so smaller and faster anywhere.

    In recurrent kernels the gates are apart: a group is one unit's input to one gate, and zeros gain file size. Units that go
    with all their gates are coupled sets (`regularize_coupled`).
    """

    name = "filter"


@dataclasses.dataclass(frozen=True)
class Neuron(_Outputs):
    """Whole units of Dense-like kernels; convolutions are left alone (use `filter` for both)."""

    name = "neuron"

    def misfit(self, shape):
        return "neuron is for kernels without spatial axes; use 'filter' for convolutions" if len(shape) > 2 else None


@dataclasses.dataclass(frozen=True)
class Channel(Structure):
    """Whole input channels: what the layer no longer reads. Physically removable."""

    name = "channel"

    def misfit(self, shape):
        return "the kernel has a single input channel" if shape[-2] == 1 else None

    def partition(self, kernel):
        rank = len(kernel.shape)
        # Not moveaxis: Keras' own fails on variables.
        kernel = ops.transpose(kernel, (rank - 2, *range(rank - 2), rank - 1))
        return ops.reshape(kernel, (1, kernel.shape[0], -1))

    def assemble(self, parts, shape):
        shape = tuple(shape)
        return ops.moveaxis(ops.reshape(parts[0], (shape[-2], *shape[:-2], shape[-1])), 0, -2)

    def squared_norms(self, kernel):
        rank = len(kernel.shape)
        return sum_of_squares(kernel, (*range(rank - 2), rank - 1))[None]

    def scaled(self, kernel, factors):
        return kernel * ops.reshape(factors, (-1, 1))


@dataclasses.dataclass(frozen=True)
class Column(Structure):
    """The same `(*spatial, in)` position of every filter: rows of the matrix the kernel is multiplied as.

    Gains file size; physical only where all positions of a kernel row, kernel column or input channel vanish.
    """

    name = "column"

    def partition(self, kernel):
        return ops.reshape(kernel, (1, -1, kernel.shape[-1]))

    def assemble(self, parts, shape):
        return ops.reshape(parts, tuple(shape))

    def squared_norms(self, kernel):
        return ops.reshape(sum_of_squares(kernel, (len(kernel.shape) - 1,)), (1, -1))

    def scaled(self, kernel, factors):
        return kernel * ops.reshape(factors, (*kernel.shape[:-1], 1))


@dataclasses.dataclass(frozen=True)
class Kernel(Structure):
    """The `h x w` kernel between one input and one output (connectivity pruning). Gains file size."""

    name = "kernel"

    def misfit(self, shape):
        return "kernel pruning needs spatial axes; use 'unstructured'" if len(shape) < 3 else None

    def partition(self, kernel):
        matrix = ops.reshape(kernel, (-1, kernel.shape[-2] * kernel.shape[-1]))
        return ops.expand_dims(ops.transpose(matrix), 0)

    def assemble(self, parts, shape):
        return ops.reshape(ops.transpose(parts[0]), tuple(shape))

    def squared_norms(self, kernel):
        return ops.reshape(sum_of_squares(kernel, tuple(range(len(kernel.shape) - 2))), (1, -1))

    def scaled(self, kernel, factors):
        return kernel * ops.reshape(factors, kernel.shape[-2:])


@dataclasses.dataclass(frozen=True)
class Head(Structure):
    """Attention heads: equal runs of outputs (query, key, value) or of inputs (the output projection).

    Args:
        num_heads: how many runs the axis is cut into; None takes it from the layer (see `kernels.table`).
        axis: `"out"` or `"in"`; None takes it from the layer.

    Kernels of attention layers whose heads are others than these are left out.
    """

    num_heads: int | None = None
    axis: str | None = None

    name = "head"

    def __post_init__(self):
        if self.num_heads is not None:
            check_integer("num_heads", self.num_heads, 1, fix="None takes it from the layer.")
        if self.axis is not None:
            check_name("axis", self.axis, ("in", "out"))

    def fit(self, layout):
        if layout.num_heads is None:
            return self
        axis = "out" if layout.axes.count("out") == 2 else "in"
        if self.num_heads not in (None, layout.num_heads):
            return _OtherHead(reason=f"the layer has {layout.num_heads} attention heads and not {self.num_heads}")
        if self.axis not in (None, axis):
            return _OtherHead(reason=f"the layer has its heads on the axis {axis!r} and not on {self.axis!r}")
        return Head(layout.num_heads, axis)

    def misfit(self, shape):
        if self.num_heads is None or self.axis is None:
            return "the layer has no attention heads"
        size = shape[-1] if self.axis == "out" else num_rows(shape)
        return f"{size} cannot be cut into {self.num_heads} heads" if size % self.num_heads else None

    def partition(self, kernel):
        matrix = ops.reshape(kernel, (-1, kernel.shape[-1]))
        matrix = ops.transpose(matrix) if self.axis == "out" else matrix
        return ops.reshape(matrix, (1, self.num_heads, -1))

    def assemble(self, parts, shape):
        shape = tuple(shape)
        if self.axis == "in":
            return ops.reshape(parts, shape)
        return ops.reshape(ops.transpose(ops.reshape(parts, (shape[-1], -1))), shape)


@dataclasses.dataclass(frozen=True)
class _OtherHead(Head):
    """Heads that a layer does not have, and why; no kernel can have them."""

    reason: str = ""

    def misfit(self, shape):
        return self.reason
