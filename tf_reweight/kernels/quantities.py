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

    # Float64 `(groups,)`, what each group costs where that does not depend on the others; else None.
    costs = None

    def without(self, freed):
        """The amounts, float64, without groups that cost `freed` together, an array; only where there are `costs`."""
        raise NotImplementedError


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

    def without(self, freed):
        return float(self.costs.sum()) - freed + self.rest


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


@dataclasses.dataclass(frozen=True, eq=False)
class Timed(Products):
    """The time of operations run one after the other: each has its own curve over what it multiplies and adds.

    Attributes:
        curves: per part of `parts`, `(multiply-accumulates, milliseconds)`: two rising lists of the same length.
    """

    curves: tuple[tuple[list, list], ...]

    def at(self, keep):
        sizes = self.fixed + self.members @ np.asarray(keep, "float64")
        done = [part.factor * part.rest * np.prod(sizes[list(part.axes)]) for part in self.parts]
        return float(sum(interpolated(work, *curve) for work, curve in zip(done, self.curves)))

    def changes(self, keep):
        keep = np.asarray(keep, bool)
        sizes = self.fixed + self.members @ keep.astype("float64")
        signs = np.where(keep, -1.0, 1.0)
        total = np.zeros(len(keep))
        for part, curve in zip(self.parts, self.curves):
            before, after = part.factor * part.rest, np.full(len(keep), part.factor * part.rest)
            for axis in part.axes:
                before, after = before * sizes[axis], after * (sizes[axis] + signs * self.members[axis])
            total += interpolated(after, *curve) - interpolated(before, *curve)
        return np.abs(total)


@dataclasses.dataclass(frozen=True, eq=False)
class Curve(Quantity):
    """What a file has, as a curve over another quantity that is known without one; points were measured on files.

    Attributes:
        inner: the other `Quantity`.
        at_points: rising amounts of it.
        is_points: what files with these amounts have.
    """

    inner: Quantity
    at_points: list
    is_points: list

    @property
    def costs(self):
        return self.inner.costs

    def without(self, freed):
        return interpolated(self.inner.without(freed), self.at_points, self.is_points)

    def at(self, keep):
        return float(interpolated(self.inner.at(keep), self.at_points, self.is_points))

    def changes(self, keep):
        keep = np.asarray(keep, bool)
        now = self.inner.at(keep)
        other = now + np.where(keep, -1.0, 1.0) * self.inner.changes(keep)
        points = (self.at_points, self.is_points)
        return np.abs(interpolated(other, *points) - interpolated(now, *points))


def interpolated(amounts, at_points, is_points):
    """Values on the straight lines through points, the first and the last of which go on beyond the ends."""
    at_points, is_points = np.asarray(at_points, "float64"), np.asarray(is_points, "float64")
    if len(at_points) == 1:
        return np.asarray(amounts, "float64") - at_points[0] + is_points[0]
    left = np.clip(np.searchsorted(at_points, amounts, side="right") - 1, 0, len(at_points) - 2)
    slopes = np.diff(is_points) / np.diff(at_points)
    return is_points[left] + slopes[left] * (np.asarray(amounts, "float64") - at_points[left])
