"""The groups of one kernel as pruning sees them: their norms, how many weights each has, and what they are ranked by."""

import dataclasses

import numpy as np
from keras import ops

from tf_reweight.kernels.budgeted import lamp
from tf_reweight.structures import Structure


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Norms and sizes of a kernel's groups.

    Attributes:
        structure: the `Structure` that makes them, fitted to the kernel.
        norms: float64 `(scopes, groups)`.
        members: int64 `(scopes, groups)`: weights in each group.
    """

    structure: Structure
    norms: np.ndarray
    members: np.ndarray

    @classmethod
    def of(cls, structure, standard, mask=None):
        """The groups of a kernel in standard order, or of what a bool mask of the same shape leaves of it."""
        if mask is None or mask.all():
            members = structure.num_members(tuple(standard.shape))
        else:
            left = ops.convert_to_tensor(mask, dtype="float32")
            standard = standard * left
            members = ops.convert_to_numpy(ops.sum(structure.partition(left), axis=-1)).round().astype("int64")
        return cls(structure, _norms(structure, standard), members)

    @property
    def scores(self):
        """Root mean square of each group's weights, float64 `(scopes, groups)`: what a `sparsity` ranks by."""
        if self.members.max(initial=0) <= 1:
            return self.norms
        return self.norms / np.sqrt(np.maximum(self.members, 1))

    @property
    def relative(self):
        """Norms divided by the root mean square of all in the kernel, so that kernels of unlike scale can be compared."""
        real = self.members > 0
        scale = np.sqrt(np.mean(np.square(self.norms[real]))) if real.any() else 0.0
        return self.norms / scale if scale > 0 else self.norms

    @property
    def lamp(self):
        """The scores of `budgeted.lamp`, with the kernel as one set."""
        return lamp(self.norms)

    def by(self, criterion):
        """What groups are ranked by, float64 `(scopes, groups)`; see `CRITERIA`."""
        return CRITERIA[criterion](self)

    def decided(self):
        """Keep flags `(scopes, groups)` where the structure itself says what is kept, else None."""
        largest = self.norms.max(axis=-1, keepdims=True, initial=0.0)
        outside = (largest > 0) & ((largest < 1 / _SQUARED) | (largest > _SQUARED))
        # Structures may square them in single precision.
        norms = self.norms / np.where(outside, largest, 1.0) if outside.any() else self.norms
        keep = self.structure.select(ops.convert_to_tensor(norms, "float32"))
        return None if keep is None else ops.convert_to_numpy(keep)


# Numbers from one over this up to it have squares, and sums of many squares, that single precision holds to all its digits.
_SQUARED = 1e15
# Norms below this part of the kernel's largest weight are computed once more from their weights times a larger number.
_SMALL, _FACTOR = 2.0**-40, 2.0**80


def _norms(structure, standard):
    """Norms of a kernel in standard order, float64, also where squares of its weights are beyond single precision.

    Weights are brought near 1 by powers of two, which rounds nothing: the norms are those of `structure.group_norms`, to the
    last bit where that can compute them.
    """
    largest = float(ops.convert_to_numpy(ops.max(ops.abs(standard))))
    if not largest > 0 or not np.isfinite(largest):
        return _as_float64(structure.group_norms(standard))
    scale = float(2.0 ** max(np.frexp(largest)[1] - 1, -126))
    near_one = ops.convert_to_tensor(standard) / scale
    norms = _as_float64(structure.group_norms(near_one))
    small = norms < _SMALL
    if small.any():
        others = ops.where(ops.abs(near_one) < _SMALL, near_one, ops.zeros_like(near_one)) * _FACTOR
        norms = np.where(small, _as_float64(structure.group_norms(others)) / _FACTOR, norms)
    return norms * scale


def _as_float64(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


# What groups of several kernels are ranked by where nobody says.
LAMP = "lamp"
# What they can be ranked by.
CRITERIA = {
    "magnitude": lambda groups: groups.scores,
    "relative": lambda groups: groups.relative,
    LAMP: lambda groups: groups.lamp,
}
