"""Structures whose groups are single weights: unstructured sparsity and n of m."""

import dataclasses
import math

import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import is_integer
from tf_reweight.structures.base import Structure
from tf_reweight.structures.one_pass import weighted_magnitudes


@dataclasses.dataclass(frozen=True)
class Unstructured(Structure):
    """Every weight for itself: the highest sparsity at equal accuracy; gains file size, speed only on sparse runtimes.

    Example:
        >>> Unstructured().group_norms(np.array([[3.0, -4.0]])).shape
        TensorShape([1, 2])
    """

    name = "unstructured"

    def partition(self, kernel):
        return ops.reshape(kernel, (1, -1, 1))

    def assemble(self, parts, shape):
        return ops.reshape(parts, tuple(shape))

    def squared_norms(self, kernel):
        return ops.reshape(ops.square(kernel), (1, -1))

    def group_norms(self, kernel):
        # |w| directly: a third of the cost of the square root, and the penalty of every step is computed from it.
        return ops.reshape(ops.abs(kernel), (1, -1))

    def penalised(self, weights, kernel, power=1):
        return weighted_magnitudes(kernel, weights) if power == 1 else super().penalised(weights, kernel, power)

    def shrunk(self, kernel, thresholds):
        # What is above its threshold loses it, and the rest itself: no quotients are needed.
        thresholds = ops.reshape(thresholds, kernel.shape)
        return kernel - ops.maximum(ops.minimum(kernel, thresholds), -thresholds)

    def num_members(self, shape):
        # One number in the place of an array as large as the kernel.
        return np.broadcast_to(np.int64(1), (1, math.prod(shape)))


# Names of axes of `(*spatial, in, out)`.
_AXES = {"in": -2, "out": -1}


@dataclasses.dataclass(frozen=True)
class NOfM(Structure):
    """Keeps the `n` largest of each `m` consecutive weights along one axis, as 2:4 sparse hardware wants them.

    Only the `m - n` smallest weights of a scope are penalised: `n` of them may live for free, since they will be kept.

    Args:
        n: how many of `m` are kept, `1 <= n < m`.
        m: length of a scope; must divide the axis (a ragged tail has no n-of-m form, and is refused).
        axis: `"in"` (default: the axis the hardware sums over), `"out"`, or the number of any axis of
            `(*spatial, in, out)`: 0 is the first spatial one.
    """

    n: int = 2
    m: int = 4
    axis: str | int = "in"

    name = "n_of_m"
    decides = True

    def __post_init__(self):
        if not (is_integer(self.n) and is_integer(self.m) and 1 <= self.n < self.m):
            raise ValueError(
                errors.message(
                    "`n` and `m` must be integers with 1 <= n < m.", "`n` counts what is KEPT of `m`.", n=self.n, m=self.m
                )
            )
        if not (isinstance(self.axis, str) and self.axis in _AXES) and not (is_integer(self.axis) and self.axis >= 0):
            raise ValueError(errors.unknown("axis", self.axis, (*_AXES, "or a number of an axis, 0 and up")))

    def _axis(self, shape):
        """The axis counted from the end, negative."""
        return _AXES[self.axis] if self.axis in _AXES else self.axis - len(shape)

    def misfit(self, shape):
        axis = self._axis(shape)
        if axis >= 0:
            return f"the kernel has no axis {self.axis}"
        if shape[axis] % self.m:
            return f"n of m needs a multiple of {self.m} along {self.axis!r}, and the kernel has {shape[axis]}"
        return None

    def partition(self, kernel):
        rank, axis = len(kernel.shape), self._axis(kernel.shape) % len(kernel.shape)
        # Not moveaxis: Keras' own fails on variables.
        kernel = ops.transpose(kernel, (*range(axis), *range(axis + 1, rank), axis))
        return ops.reshape(kernel, (-1, self.m, 1))

    def assemble(self, parts, shape):
        shape, axis = tuple(shape), self._axis(shape)
        moved = (*shape[:axis], *shape[len(shape) + axis + 1 :], shape[axis])
        return ops.moveaxis(ops.reshape(parts, moved), -1, axis)

    def group_norms(self, kernel):
        return ops.abs(self.partition(kernel))[..., 0]

    def select(self, norms):
        # Rank by a double argsort, so that ties keep exactly n.
        rank = ops.argsort(ops.argsort(-norms, axis=-1), axis=-1)
        return rank < self.n

    def penalty_weights(self, penalty, norms, epsilon=None):
        freed = ops.cast(ops.logical_not(self.select(norms)), norms.dtype)
        return penalty.weight(norms, epsilon) * freed
