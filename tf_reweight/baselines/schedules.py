"""How much is pruned at which step: tfmot's two schedules, with tfmot's arguments."""

import abc
import dataclasses

from tf_reweight import registry
from tf_reweight.checks import REMOVED, STEPS, check_fraction, check_integer, check_number, is_integer
from tf_reweight.records import fields_of


@dataclasses.dataclass(frozen=True)
class Schedule(abc.ABC):
    """Sparsity as a function of the optimizer's step, renewed every `frequency` steps from `begin_step` to `end_step`."""

    @property
    @abc.abstractmethod
    def name(self):
        """The name used in configs."""

    @abc.abstractmethod
    def sparsity(self, step):
        """Fraction removed at a step, a float in [0, 1)."""

    def last_update(self, step):
        """The latest step, up to and including `step`, at which masks are chosen anew; None before the first.

        The end counts as one even where `frequency` does not divide the way to it, so that the final sparsity is reached.
        """
        if step < self.begin_step:
            return None
        if self.end_step >= 0 and step >= self.end_step:
            return self.end_step
        return step - (step - self.begin_step) % self.frequency

    def get_config(self):
        return fields_of(self)

    def serialize(self):
        """`{"name": ..., **fields}`: what `get` reads."""
        return registry.serialize(self, self.get_config())

    def _check_steps(self, endless):
        check_integer("begin_step", self.begin_step, 0, fix=STEPS)
        check_integer("frequency", self.frequency, 1, fix=STEPS)
        if not (endless and is_integer(self.end_step) and self.end_step == -1):
            check_integer("end_step", self.end_step, self.begin_step if endless else self.begin_step + 1, fix=STEPS)


@dataclasses.dataclass(frozen=True)
class ConstantSparsity(Schedule):
    """`target_sparsity` from `begin_step` on.

    Args:
        target_sparsity: fraction removed, in [0, 1).
        begin_step: first step with masks.
        end_step: step after which masks are not chosen anew; -1 for never.
        frequency: steps between choices.
    """

    target_sparsity: float
    begin_step: int
    end_step: int = -1
    frequency: int = 100

    name = "constant"

    def __post_init__(self):
        check_fraction("target_sparsity", self.target_sparsity, REMOVED)
        self._check_steps(endless=True)

    def sparsity(self, step):
        return float(self.target_sparsity) if step >= self.begin_step else 0.0


@dataclasses.dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """`final + (initial - final) * (1 - (step - begin) / (end - begin)) ** power` (Zhu and Gupta, arXiv 1710.01878).

    Args:
        initial_sparsity: fraction removed at `begin_step`, in [0, 1).
        final_sparsity: fraction removed from `end_step` on, in [0, 1).
        begin_step: first step with masks.
        end_step: step at which the final sparsity is reached, > `begin_step`.
        power: exponent, > 0; with 3 most is removed early.
        frequency: steps between choices.

    Example:
        >>> [round(PolynomialDecay(0.2, 0.8, 100, 110).sparsity(step), 4) for step in (100, 102, 105, 110)]
        [0.2, 0.4928, 0.725, 0.8]
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3
    frequency: int = 100

    name = "polynomial"

    def __post_init__(self):
        check_fraction("initial_sparsity", self.initial_sparsity, REMOVED)
        check_fraction("final_sparsity", self.final_sparsity, REMOVED)
        self._check_steps(endless=False)
        check_number("power", self.power, exclusive=True, fix="3 is usual.")

    def sparsity(self, step):
        if step < self.begin_step:
            return 0.0
        left = 1.0 - min(1.0, (step - self.begin_step) / (self.end_step - self.begin_step))
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * left**self.power


_BY_NAME = {cls.name: cls for cls in (ConstantSparsity, PolynomialDecay)}


def get(identifier):
    """A schedule from a config `{"name": "constant" or "polynomial", **fields}`, or a schedule itself."""
    return registry.build("schedule", Schedule, _BY_NAME, identifier)
