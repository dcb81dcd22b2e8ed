"""What a budget counts, as a function of the groups that are kept."""

import abc
import dataclasses

import numpy as np


class Quantity(abc.ABC):
    """An amount that falls with every group removed; abstract."""

    @abc.abstractmethod
    def at(self, keep):
        """The amount, float, with the groups of a bool array `(groups,)` kept."""

    @abc.abstractmethod
    def changes(self, keep):
        """How much the amount would change, float64 `(groups,)`, if one group alone came back, or went."""


@dataclasses.dataclass(frozen=True, eq=False)
class Linear(Quantity):
    """Each group costs the same whatever else is kept: zeros inside kernels.

    Attributes:
        costs: float64 `(groups,)`.
        rest: what no group can free.
    """

    costs: np.ndarray
    rest: float = 0.0

    def at(self, keep):
        return float(self.costs[keep].sum()) + self.rest

    def changes(self, keep):
        return self.costs


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """One array of a model: `factor` times the product of its axes' sizes.

    Attributes:
        factor: how often each entry counts; a convolution's kernel is used at every position.
        rest: the product of the sizes that no group changes.
        axes: numbers of the rows of `Products.members` for the axes that groups cut.
    """

    factor: float
    rest: int
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Products(Quantity):
    """Groups cut axes of arrays, so that what one frees depends on what the others left: whole channels of a net.

    Attributes:
        parts: the `Product`s that are summed.
        members: float64 `(axes, groups)`: entries along the axis that go with the group.
        fixed: float64 `(axes,)`: entries along the axis that no group takes.
    """

    parts: tuple[Product, ...]
    members: np.ndarray
    fixed: np.ndarray

    def at(self, keep):
        sizes = self.fixed + self.members @ np.asarray(keep, "float64")
        return float(sum(part.factor * part.rest * np.prod(sizes[list(part.axes)]) for part in self.parts))

    def changes(self, keep):
        keep = np.asarray(keep, bool)
        sizes = self.fixed + self.members @ keep.astype("float64")
        signs = np.where(keep, -1.0, 1.0)
        total = np.zeros(len(keep))
        for part in self.parts:
            if part.axes:
                before = [sizes[axis] for axis in part.axes]
                after = np.ones(len(keep))
                for axis, size in zip(part.axes, before):
                    after = after * (size + signs * self.members[axis])
                total += part.factor * part.rest * (after - np.prod(before))
        return np.abs(total)
