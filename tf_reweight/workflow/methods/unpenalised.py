"""Methods without a strength: ADMM, gradual and one-shot magnitude pruning, clipping, and proximal steps towards a budget."""

import dataclasses

from tf_reweight import baselines
from tf_reweight import budget as budgets
from tf_reweight import coupling, errors, structures
from tf_reweight.baselines import schedules
from tf_reweight.baselines.admm import RHO
from tf_reweight.checks import check_name, is_sequence
from tf_reweight.coupling.scores import RANKINGS
from tf_reweight.deadline.coupled import CoupledGroups
from tf_reweight.deadline.iterative import IterativePruning
from tf_reweight.deadline.single import SingleGroups
from tf_reweight.deadline.solver import BudgetProximal
from tf_reweight.graph.gradients import TAYLOR, can_listen
from tf_reweight.graph.optimizers import accumulated
from tf_reweight.kernels.grouping import CRITERIA, LAMP
from tf_reweight.kernels.selection import select
from tf_reweight.learning_rate import CosineDecay
from tf_reweight.penalties.attachment import regularize
from tf_reweight.workflow.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Admm(Method):
    """`baselines.ADMM` towards `prune.sparsity`.

    Args:
        rho: its coefficient, or `(first, last)`.
        every: epochs between updates of Z and U.
        criterion: what groups are ranked by; see `prune`. None takes its default.
    """

    rho: float | tuple[float, float] = RHO
    every: int = 1
    criterion: str | None = None

    name = "admm"
    needs_sparsity = True
    of_prune = ("sparsity", "scope")

    def __post_init__(self):
        object.__setattr__(self, "rho", tuple(self.rho) if is_sequence(self.rho) else self.rho)
        baselines.ADMM("unstructured", 0.5, self.rho, self.every, criterion=self.criterion or LAMP)  # checks them

    def check(self, settings, amount):
        if self.every >= settings.epochs:
            fix = "Lower method.every, or raise rounds or every."
            expected = f"ADMM has to update before the {settings.epochs} epochs are over."
            raise ValueError(errors.message(expected, fix, every=self.every))
        _check_ranks(self.criterion, settings)

    def put(self, model, settings, amount):
        (rule,) = settings.rules
        self._callback(rule, amount).attach(model)
        return {item.name: item.reason for item in select(model, rule.structure, rule.layers)[1]}

    def callbacks(self, settings, amount, steps):
        (rule,) = settings.rules
        return [self._callback(rule, amount), CosineDecay(settings.learning_rate)]

    def figures(self, callbacks):
        return {"updates": callbacks[0].history}

    def pruning(self, amount):
        return _ranked_by(self.criterion, Method.pruning(self, amount))

    def _callback(self, rule, amount):
        scope = amount.scope or "model"
        criterion = self.criterion or LAMP
        return baselines.ADMM(rule.structure, amount.sparsity, self.rho, self.every, rule.layers, scope, criterion)


@dataclasses.dataclass(frozen=True)
class Gradual(Method):
    """`baselines.GradualMagnitude`: a little more goes every few steps.

    Args:
        schedule: config of a `baselines.schedules` entry, with tfmot's arguments; None goes from 0 to `prune.sparsity` over the
            whole training.
        criterion: what groups are ranked by; see `prune`. None takes its default.
    """

    schedule: dict | None = None
    criterion: str | None = None

    name = "gradual"
    of_prune = ("sparsity", "scope")

    def __post_init__(self):
        check_name("criterion", self.criterion or LAMP, CRITERIA)
        if self.schedule is not None:
            object.__setattr__(self, "schedule", schedules.get(self.schedule).serialize())

    @property
    def needs_sparsity(self):
        return self.schedule is None

    def callbacks(self, settings, amount, steps):
        (rule,) = settings.rules
        how = (rule.structure, rule.layers, amount.scope or "model", self.criterion or LAMP)
        if self.schedule is None:
            # A structure that decides itself has its own sparsity, and is reached whole at any above it.
            gradual = _OverTraining(0.999 if amount.sparsity is None else amount.sparsity, steps, *how)
        else:
            gradual = baselines.GradualMagnitude(self.schedule, *how)
        return [gradual, CosineDecay(settings.learning_rate)]

    def figures(self, callbacks):
        return {"updates": callbacks[0].history}

    def pruning(self, amount):
        return {"threshold": 0.0}  # the zeros are there


class _OverTraining(baselines.GradualMagnitude):
    """Gradual pruning over a whole training.

    Args:
        final: the fraction removed in the end.
        steps: training steps. The optimizer moves weights in fewer where it accumulates gradients, and schedules go by that.
        how: further arguments of `GradualMagnitude`.
    """

    def __init__(self, final, steps, *how):
        super().__init__(_from_dense(final, steps), *how)
        self._final, self._training_steps = final, steps

    def on_train_begin(self, logs=None):
        self.schedule = _from_dense(self._final, self._training_steps // accumulated(self.model.optimizer))
        super().on_train_begin(logs)


def _from_dense(final, steps):
    last = max(1, steps - 1)  # masks are chosen before a step: after the last one nothing would be
    return baselines.PolynomialDecay(0.0, final, 0, last, frequency=max(1, steps // 50))


@dataclasses.dataclass(frozen=True)
class Clipping(Method):
    """`baselines.Clipping`: what is at or below `threshold` after a batch becomes zero, and may grow back with the next."""

    threshold: float = 1e-3

    name = "clipping"
    of_prune = ()

    def __post_init__(self):
        baselines.Clipping(self.threshold)  # checks it

    def callbacks(self, settings, amount, steps):
        (rule,) = settings.rules
        return [baselines.Clipping(self.threshold, rule.structure, rule.layers), CosineDecay(settings.learning_rate)]

    def pruning(self, amount):
        return {"threshold": 0.0}  # the zeros are there


@dataclasses.dataclass(frozen=True)
class OneShot(Method):
    """Pruning of the dense model by its weights, without any training before it.

    Args:
        criterion: what groups are ranked by; see `prune`, and `prune_groups` for channels that go together. None leaves it to
            them.
    """

    criterion: str | None = None

    name = "one_shot"
    needs_sparsity = couples = True
    trains = False
    of_coupled = {"criterion": None}
    of_prune = ("sparsity", "budget", "macs", "scope")

    def check(self, settings, amount):
        if self.criterion is None:
            return
        if settings.coupled is None:
            check_name("criterion", self.criterion, CRITERIA)
            _check_ranks(self.criterion, settings)
            return
        # The Taylor term needs labelled examples, which the stage of a run does not give.
        check_name("criterion", self.criterion, [ranking for ranking in RANKINGS if ranking != TAYLOR])
        if settings.coupled.criterion is not None:
            both = {"method.criterion": self.criterion, "coupled.criterion": settings.coupled.criterion}
            raise ValueError(errors.message("Expected one criterion.", "Leave regularize.coupled.criterion out.", **both))

    def callbacks(self, settings, amount, steps):
        return []

    def pruning(self, amount):
        return _ranked_by(self.criterion, Method.pruning(self, amount))

    def grouping(self, settings, amount):
        return Method.grouping(self, settings, amount) | {"criterion": self.criterion or settings.coupled.criterion}


@dataclasses.dataclass(frozen=True)
class TowardsBudget(Method):
    """A solver that knows `prune.budget`, through penalties that carry it, and meets it inside the training; abstract."""

    couples = needs_sparsity = True
    of_prune = ("sparsity", "budget")
    # What groups of single kernels, and of channels that go together, may be ranked by.
    of_single, of_channels = SingleGroups.criteria, CoupledGroups.criteria

    def check(self, settings, amount):
        options = self.of_single if settings.coupled is None else self.of_channels
        options = [option for option in options if option != TAYLOR or can_listen()]
        if self.criterion is not None:
            check_name("criterion", self.criterion, options)
        if settings.coupled is None and self.multiple_of != 1:
            fix = "Leave it out, or set `coupled`."
            expected = "`multiple_of` is for channels that go together."
            raise ValueError(errors.message(expected, fix, multiple_of=self.multiple_of))

    def put(self, model, settings, amount):
        (rule,) = settings.rules
        attached = regularize(model, rule.structure, budget=self.budget(amount), layers=rule.layers)
        return {item.name: item.reason for item in attached.left_out}

    def couple(self, model, settings, amount):
        attached = coupling.regularize_coupled(model, budget=self.budget(amount))
        return {item.name: item.reason for item in attached.left_out}

    def budget(self, amount):
        return budgets.get({"sparsity": amount.sparsity} if amount.budget is None else amount.budget)

    def figures(self, callbacks):
        return {"updates": callbacks[0].history}

    def pruning(self, amount):
        return {}  # the zeros are there, and the penalties know the budget

    def grouping(self, settings, amount):
        return {}


@dataclasses.dataclass(frozen=True)
class Deadline(TowardsBudget):
    """`callbacks.BudgetProximal` towards `prune.budget`: no strength, and the budget is met by a deadline.

    The learning rate stays as it is, since what is left has to recover: in the rest of this stage and in `retrain`.

    Args:
        until: the deadline, as a fraction of the steps of this stage; None takes the solver's default.
        criterion: what groups are ranked by; None takes the solver's default.
        multiple_of: for channels that go together: those that stay are a multiple of it.
    """

    until: float | None = None
    criterion: str | None = None
    multiple_of: int = 1

    name = "deadline"

    def __post_init__(self):
        self._solver()  # checks them

    def callbacks(self, settings, amount, steps):
        return [self._solver(max(1, steps // settings.epochs))]

    def _solver(self, steps=None):
        return BudgetProximal(until=self.until, criterion=self.criterion, multiple_of=self.multiple_of, steps=steps)


@dataclasses.dataclass(frozen=True)
class Iterative(TowardsBudget):
    """`callbacks.IterativePruning` towards `prune.budget`: a cut by norms in each round, and the learning rate anew.

    Args:
        criterion: what groups are ranked by; None takes the solver's default.
        multiple_of: for channels that go together: those that stay are a multiple of it.
    """

    criterion: str | None = None
    multiple_of: int = 1

    name = "iterative"
    of_single, of_channels = SingleGroups.by_norms, CoupledGroups.by_norms

    def __post_init__(self):
        IterativePruning(criterion=self.criterion, multiple_of=self.multiple_of)  # checks them

    def callbacks(self, settings, amount, steps):
        return [IterativePruning(None, settings.rounds, settings.learning_rate, self.criterion, self.multiple_of)]


def _check_ranks(criterion, settings):
    """Raises for a criterion where every structure says itself what it keeps: nothing would be ranked by it."""
    if criterion is not None and all(structures.get(rule.structure).decides for rule in settings.rules):
        expected = "Nothing is ranked where the structures say themselves how much is kept."
        raise ValueError(errors.message(expected, "Leave method.criterion out.", criterion=criterion))


def _ranked_by(criterion, how):
    """Arguments of `prune` with a criterion, where an amount is among them: a structure that decides itself ranks nothing."""
    amounts = {"sparsity", "budget"} & set(how)
    return how | {"criterion": criterion} if amounts and criterion is not None else how
