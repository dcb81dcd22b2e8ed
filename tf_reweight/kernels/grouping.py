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
        return cls(structure, np.asarray(ops.convert_to_numpy(structure.group_norms(standard)), "float64"), members)

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
        keep = self.structure.select(ops.convert_to_tensor(self.norms, "float32"))
        return None if keep is None else ops.convert_to_numpy(keep)


# What groups of several kernels are ranked by where nobody says.
LAMP = "lamp"
# What they can be ranked by.
CRITERIA = {
    "magnitude": lambda groups: groups.scores,
    "relative": lambda groups: groups.relative,
    LAMP: lambda groups: groups.lamp,
}
