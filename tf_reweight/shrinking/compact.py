"""Smaller kernels for convolutions: rows and columns that vanished are cut off, block-diagonal kernels become groups."""

import dataclasses
import math

import keras
import numpy as np

_L = keras.layers
_PLAIN = (_L.Conv1D, _L.Conv2D, _L.Conv3D)
_DEPTHWISE = (_L.DepthwiseConv1D, _L.DepthwiseConv2D)
_PAD = {1: _L.ZeroPadding1D, 2: _L.ZeroPadding2D, 3: _L.ZeroPadding3D}
_CROP = {1: _L.Cropping1D, 2: _L.Cropping2D, 3: _L.Cropping3D}


@dataclasses.dataclass(frozen=True)
class Compact:
    """A smaller kernel that gives the same outputs.

    Attributes:
        start: first row kept, per spatial axis.
        size: rows kept, per spatial axis.
        padding: the new layer's padding; with `margins` it is `"valid"`, and the input is padded and cropped before.
        groups: the number of groups, or None to leave it.
        margins: mapping of an input's sizes to the zeros put before and after each axis, negative where some are cut off;
            empty where the padding does it.
    """

    start: tuple
    size: tuple
    padding: str
    groups: int | None
    margins: dict

    def config(self):
        """The fields of the layer's config that change."""
        fields = {"kernel_size": list(self.size), "padding": self.padding}
        return fields if self.groups is None else {**fields, "groups": self.groups}

    def kernel(self, kernel):
        """The smaller kernel, from one `(*spatial, in, out)` whose dead channels are gone."""
        kernel = kernel[tuple(slice(first, first + size) for first, size in zip(self.start, self.size))]
        if self.groups is None:
            return kernel
        rows = np.split(kernel, self.groups, axis=-2)
        blocks = [np.split(part, self.groups, axis=-1)[number] for number, part in enumerate(rows)]
        return np.concatenate(blocks, axis=-1)

    def layers_before(self, name, shape):
        """Padding and cropping layers, named after `name`, that an input of `shape` goes through before the new layer."""
        margins, made = self.margins.get(_spatial(shape), ()), []
        for suffix, kind, amounts in (
            ("pad", _PAD, [tuple(max(0, n) for n in pair) for pair in margins]),
            ("crop", _CROP, [tuple(max(0, -n) for n in pair) for pair in margins]),
        ):
            if any(map(any, amounts)):
                rank = len(margins)
                made.append(kind[rank](amounts[0] if rank == 1 else tuple(amounts), name=f"{name}_{suffix}"))
        return made

    def words(self, layer):
        """What became smaller, to read."""
        old = "x".join(map(str, layer.kernel_size))
        new = "x".join(map(str, self.size))
        parts = [f"kernel {old} -> {new}"] if old != new else []
        return ", ".join(parts + ([f"{self.groups} groups"] if self.groups else []))


def compact(layer, kernel, shapes, find_groups=False):
    """How a convolution can become smaller, or None.

    Args:
        layer: any layer.
        kernel: its kernel `(*spatial, in, out)` without the channels that go, or None where it has none.
        shapes: shapes of the inputs of all its calls, without the batch.
        find_groups: whether a block-diagonal kernel becomes a grouped convolution.
    """
    plain, depthwise = type(layer) in _PLAIN, type(layer) in _DEPTHWISE
    if kernel is None or not (plain or depthwise) or layer.data_format != "channels_last":
        return None
    start, size = _window(kernel)
    groups = _diagonal_blocks(kernel) if find_groups and plain and layer.groups == 1 else None
    same_size = size == tuple(layer.kernel_size)
    whole = Compact((0,) * len(size), tuple(layer.kernel_size), layer.padding, groups, {})
    if not same_size:
        needed = {_spatial(shape): _margins(layer, _spatial(shape), start, size) for shape in shapes}
        if None not in needed.values():
            kept = {_spatial(s): _own_margins(layer, _spatial(s), size, layer.padding) for s in shapes}
            if kept == needed:
                return Compact(start, size, layer.padding, groups, {})
            # A depthwise kernel is cheap: padding by a layer of its own would cost more than the rows did.
            if plain:
                return Compact(start, size, "valid", groups, needed)
    return whole if groups else None


def _window(kernel):
    """First row and number of rows, per spatial axis, that hold all nonzero weights; everything for a kernel of zeros."""
    living = kernel != 0
    start, size = [], []
    for axis in range(kernel.ndim - 2):
        rows = np.flatnonzero(living.any(axis=tuple(other for other in range(kernel.ndim) if other != axis)))
        if not len(rows):
            return (0,) * (kernel.ndim - 2), tuple(kernel.shape[:-2])
        start.append(int(rows[0]))
        size.append(int(rows[-1] - rows[0] + 1))
    return tuple(start), tuple(size)


def _own_margins(layer, sizes, kernel_size, padding):
    """Zeros that a padding mode puts before and after each axis; None where an unknown size decides."""
    reaches = [(taps - 1) * dilation for taps, dilation in zip(kernel_size, layer.dilation_rate)]
    margins = tuple(_margin(*axis, padding) for axis in zip(sizes, reaches, layer.strides))
    return None if None in margins else margins


def _margin(size, reach, stride, padding):
    """The zeros before and after one axis; None where its size is unknown and decides."""
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return reach, 0
    if stride == 1:
        return reach // 2, reach - reach // 2
    if size is None:
        return None
    total = max((math.ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2


def _margins(layer, sizes, start, size):
    """Zeros that the kept rows need before and after each axis to meet the same inputs as before; None where unknown."""
    full = _own_margins(layer, sizes, layer.kernel_size, layer.padding)
    if full is None:
        return None
    cut = zip(full, start, size, layer.kernel_size, layer.dilation_rate)
    return tuple(
        (before - first * step, after - (taps - first - rows) * step) for (before, after), first, rows, taps, step in cut
    )


def _diagonal_blocks(kernel):
    """The largest number of groups in which inputs and outputs stay among themselves, in order; None for one."""
    joined = (kernel != 0).any(axis=tuple(range(kernel.ndim - 2)))
    inputs, outputs = joined.shape
    for count in range(math.gcd(inputs, outputs), 1, -1):
        if inputs % count == 0 and outputs % count == 0:
            blocks = joined.reshape(count, inputs // count, count, outputs // count).any(axis=(1, 3))
            if not (blocks & ~np.eye(count, dtype=bool)).any():
                return count
    return None


def _spatial(shape):
    return tuple(shape[:-1])
