"""How the epsilon of reweighting follows training: fixed, lowered over the rounds, or adapted to each kernel."""

import abc
import dataclasses
import math

import numpy as np

from tf_reweight import errors, registry
from tf_reweight.checks import check_fraction, check_number, is_sequence
from tf_reweight.records import fields_of

_FIX = "A little below the norm of a group worth keeping."


@dataclasses.dataclass(frozen=True)
class Epsilon(abc.ABC):
    """A rule that gives epsilon at each update; what `callbacks.Reweighting(epsilon=...)` takes.

    Too small an epsilon keeps a group that is small by chance small for ever, too large a one tells no group from another
    (Candes, Wakin and Boyd 2008, section 2.3): a little below the norms worth keeping is right.
    """

    needs_rounds = False

    @property
    @abc.abstractmethod
    def name(self):
        """The name used in configs."""

    @abc.abstractmethod
    def at(self, done, rounds, norms):
        """Epsilon of one kernel at one update, a float > 0.

        Args:
            done: how many updates came before this one.
            rounds: how many updates there are in all, or None.
            norms: array of the kernel's group norms, raised to the penalty's `power`: what epsilon is compared with.
        """

    def get_config(self):
        return fields_of(self)

    def serialize(self):
        """`{"name": ..., **fields}`: what `get` reads."""
        return registry.serialize(self, self.get_config())


@dataclasses.dataclass(frozen=True)
class Fixed(Epsilon):
    """The same `value` at every update and for every kernel."""

    value: float = 1e-2

    name = "fixed"

    def __post_init__(self):
        check_number("epsilon", self.value, exclusive=True, fix=_FIX)

    def at(self, done, rounds, norms):
        return float(self.value)


@dataclasses.dataclass(frozen=True)
class Annealed(Epsilon):
    """`first * (last / first) ** (done / (rounds - 1))`: from `first` to `last` over the rounds, geometrically.

    A large epsilon first decides roughly and can still be corrected; a small one then sharpens. Needs `rounds`.
    """

    first: float = 1e-1
    last: float = 1e-3

    name = "annealed"
    needs_rounds = True

    def __post_init__(self):
        check_number("first", self.first, exclusive=True, fix=_FIX)
        check_number("last", self.last, exclusive=True, fix=_FIX)

    def at(self, done, rounds, norms):
        return float(self.first * (self.last / self.first) ** (done / max(1, rounds - 1)))


@dataclasses.dataclass(frozen=True)
class Adaptive(Epsilon):
    """`max(r_(i0), minimum)`: the norm of the group at rank `i0 = ceil(keep * groups)`, counted from the largest.

    Each kernel gets its own epsilon, which follows the scale of its norms (Candes, Wakin and Boyd 2008, section 2.3, with
    their floor of 1e-3). For a kernel whose groups have all vanished it is the floor.

    Args:
        keep: fraction of the groups expected to survive, in (0, 1); of the groups kept, most should be clearly above it.
        minimum: floor, > 0; in units of the squared norm for `LogSquared`.
    """

    keep: float = 0.1
    minimum: float = 1e-3

    name = "adaptive"

    def __post_init__(self):
        check_fraction("keep", self.keep, "groups kept", exclusive=True)
        check_number("minimum", self.minimum, exclusive=True, fix=_FIX)

    def at(self, done, rounds, norms):
        ranked = np.sort(np.ravel(norms))[::-1]
        return float(max(ranked[math.ceil(self.keep * ranked.size) - 1], self.minimum))


_BY_NAME = {cls.name: cls for cls in (Fixed, Annealed, Adaptive)}


def names():
    """The names that `get` and every config accept."""
    return tuple(_BY_NAME)


def get(identifier):
    """A rule from a number, a pair `(first, last)`, a name, a config `{"name": ..., **fields}`, or a rule itself.

    Example:
        >>> get((1e-1, 1e-3))
        Annealed(first=0.1, last=0.001)
    """
    if isinstance(identifier, (int, float)):
        return Fixed(identifier)
    if is_sequence(identifier) and len(identifier) == 2:
        return Annealed(*identifier)
    if is_sequence(identifier):
        fix = "Write 0.01, or [0.1, 0.001] for one that shrinks over the rounds."
        expected = "`epsilon` must be one number, or two: the first and the last."
        raise ValueError(errors.message(expected, fix, epsilon=identifier))
    return registry.build("epsilon", Epsilon, _BY_NAME, identifier)
