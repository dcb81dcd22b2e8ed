"""Structures whose groups are single weights: unstructured sparsity and n of m."""

import dataclasses

from keras import ops

from tf_reweight import errors
from tf_reweight.structures.base import Structure


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


@dataclasses.dataclass(frozen=True)
class NOfM(Structure):
    """Keeps the `n` largest of each `m` consecutive weights along one axis, as 2:4 sparse hardware wants them.

    Only the `m - n` smallest weights of a scope are penalised: `n` of them may live for free, since they will be kept.

    Args:
        n: how many of `m` are kept, `1 <= n < m`.
        m: length of a scope; must divide the axis (a ragged tail has no n-of-m form, and is refused).
        axis: `"in"` (default: the axis the hardware sums over) or `"out"`.
    """

    n: int = 2
    m: int = 4
    axis: str = "in"

    name = "n_of_m"
    decides = True

    def __post_init__(self):
        if not (isinstance(self.n, int) and isinstance(self.m, int) and 1 <= self.n < self.m):
            raise ValueError(
                errors.message(
                    "`n` and `m` must be integers with 1 <= n < m.", "`n` counts what is KEPT of `m`.", n=self.n, m=self.m
                )
            )
        if self.axis not in ("in", "out"):
            raise ValueError(errors.unknown("axis", self.axis, ("in", "out")))

    def misfit(self, shape):
        size = shape[-2] if self.axis == "in" else shape[-1]
        if size % self.m:
            return f"n of m needs a multiple of {self.m} along {self.axis!r}, and the kernel has {size}"
        return None

    def partition(self, kernel):
        if self.axis == "in":
            rank = len(kernel.shape)
            kernel = ops.transpose(kernel, (*range(rank - 2), rank - 1, rank - 2))
        return ops.reshape(kernel, (-1, self.m, 1))

    def assemble(self, parts, shape):
        shape = tuple(shape)
        if self.axis == "out":
            return ops.reshape(parts, shape)
        return ops.swapaxes(ops.reshape(parts, (*shape[:-2], shape[-1], shape[-2])), -1, -2)

    def group_norms(self, kernel):
        return ops.abs(self.partition(kernel))[..., 0]

    def select(self, norms):
        # Rank by a double argsort, so that ties keep exactly n.
        rank = ops.argsort(ops.argsort(-norms, axis=-1), axis=-1)
        return rank < self.n

    def penalty_weights(self, penalty, norms, epsilon=None):
        freed = ops.cast(ops.logical_not(self.select(norms)), norms.dtype)
        return penalty.weight(norms, epsilon) * freed
