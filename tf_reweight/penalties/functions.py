"""Functions of group norms, and the weights their linearisation gives."""

import abc
import dataclasses
import typing

from keras import ops

from tf_reweight import errors, registry
from tf_reweight.checks import check_number
from tf_reweight.records import fields_of

# An epsilon, to the power by which a penalty divides, has at most so many zeros before or after the point: float32 ends at 38.
_DIGITS = 36


@dataclasses.dataclass(frozen=True)
class Penalty(abc.ABC):
    """A concave function of the norm `r >= 0`, minimised through weighted norms.

    Between two updates the regularizer adds `weight(r_old) * r ** power`, which lies above `value(r)` and touches it at
    `r_old` up to a constant (majorisation), so each round descends on `sum value(r)`. Candes, Wakin and Boyd 2008; Zhang et
    al., arXiv 2004.05531.
    """

    power = 1
    reweighted = True

    @property
    @abc.abstractmethod
    def name(self):
        """The name used in configs and reports."""

    @property
    def no_proximal_step(self):
        """Why no proximal step can stand in for it, or None."""
        return None if self.power == 1 else f"{self.name!r} acts on squared norms and gives no zeros"

    @abc.abstractmethod
    def value(self, norms, epsilon=None):
        """The penalty of each group, same shape as `norms`; 0 at 0."""

    @abc.abstractmethod
    def weight(self, norms, epsilon=None):
        """Derivative of `value` by `r ** power`, same shape as `norms`, >= 0 and finite at 0."""

    def negligible(self, epsilon=None):
        """Norm below which a group counts as freed: a tenth of epsilon.

        Under a gradient optimizer freed groups swing around zero by about a learning rate, and the penalty leaves few groups
        between there and epsilon.
        """
        return self._epsilon(epsilon) / 10.0

    def get_config(self):
        return fields_of(self)

    def serialize(self):
        """`{"name": ..., **fields}`, or the name alone where there are no fields."""
        return registry.serialize(self, self.get_config())

    def _epsilon(self, epsilon):
        return self.epsilon if epsilon is None else epsilon


@dataclasses.dataclass(frozen=True)
class LogSum(Penalty):
    """`log(1 + r / epsilon)`, weight `1 / (r + epsilon)`: the paper's penalty and the default.

    Args:
        epsilon: norm below which a group counts as nearly gone; a little below the norms worth keeping.
    """

    epsilon: float = 1e-2

    name = "log_sum"

    def __post_init__(self):
        _check_epsilon(self.epsilon)

    def value(self, norms, epsilon=None):
        return ops.log1p(norms / self._epsilon(epsilon))

    def weight(self, norms, epsilon=None):
        return 1.0 / (norms + self._epsilon(epsilon))


@dataclasses.dataclass(frozen=True)
class Arctan(Penalty):
    """`arctan(r / epsilon) / epsilon`, weight `1 / (r**2 + epsilon**2)`: bounded, so large groups are hardly pressed."""

    epsilon: float = 1e-2

    name = "arctan"

    def __post_init__(self):
        _check_epsilon(self.epsilon, power=2)

    def value(self, norms, epsilon=None):
        epsilon = self._epsilon(epsilon)
        return ops.arctan(norms / epsilon) / epsilon

    def weight(self, norms, epsilon=None):
        return 1.0 / (ops.square(norms) + self._epsilon(epsilon) ** 2)


@dataclasses.dataclass(frozen=True)
class LogSquared(Penalty):
    """`log(1 + r**2 / epsilon)`, weight `1 / (r**2 + epsilon)` on `r**2`: a reweighted ridge; shrinks, gives no exact zeros."""

    epsilon: float = 1e-4

    name = "log_squared"
    power = 2

    def __post_init__(self):
        _check_epsilon(self.epsilon)

    def value(self, norms, epsilon=None):
        return ops.log1p(ops.square(norms) / self._epsilon(epsilon))

    def weight(self, norms, epsilon=None):
        return 1.0 / (ops.square(norms) + self._epsilon(epsilon))

    def negligible(self, epsilon=None):
        # Here epsilon is compared with the squared norm.
        return self._epsilon(epsilon) ** 0.5 / 10.0


@dataclasses.dataclass(frozen=True)
class Lasso(Penalty):
    """`r`, weight 1: the static (group) lasso, never reweighted; the baseline."""

    name = "lasso"
    reweighted = False

    def value(self, norms, epsilon=None):
        return norms

    def weight(self, norms, epsilon=None):
        return ops.ones_like(norms)

    def negligible(self, epsilon=None):
        return 1e-3


# What every `penalty=` takes: a name, a configuration with a name, or the object.
PenaltyLike: typing.TypeAlias = str | dict | Penalty

_BY_NAME = {cls.name: cls for cls in (LogSum, Arctan, LogSquared, Lasso)}


def names():
    """The names that `get` and every config accept."""
    return tuple(_BY_NAME)


def get(identifier):
    """A penalty from a name, a config `{"name": ..., **fields}`, or a penalty itself.

    Example:
        >>> get({"name": "log_sum", "epsilon": 1e-3})
        LogSum(epsilon=0.001)
    """
    return registry.build("penalty", Penalty, _BY_NAME, identifier)


def register(cls):
    """Teaches the table a penalty of yours, so that `get`, configurations and saved models know it by its name.

    Args:
        cls: a frozen dataclass derived from `Penalty`, with a `name`, `value` and its derivative `weight`; see
            docs/extending.md.

    Returns:
        The class, so that this can decorate it.

    Example:
        >>> register(MyPenalty)
        >>> regularize(model, "filter", strength=1e-3, penalty="my_penalty")
    """
    return registry.add("penalty", Penalty, _BY_NAME, cls)


def _check_epsilon(epsilon, power=1):
    """Raises ValueError for an epsilon by whose `power` nothing can be divided in single precision."""
    fix = "A little below the norm of a group worth keeping."
    check_number("epsilon", epsilon, exclusive=True, fix=fix)
    most = 10.0 ** (_DIGITS / power)
    if not 1 / most <= epsilon <= most:
        expected = f"`epsilon` must be from {1 / most:g} to {most:g}, so that float32 holds what is divided by it."
        raise ValueError(errors.message(expected, fix, epsilon=epsilon))
