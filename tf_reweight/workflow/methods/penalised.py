"""Methods with a penalty: reweighting, the static lasso that it is compared with, and the two-objective rule."""

import abc
import dataclasses
import typing

from tf_reweight import coupling, errors, penalties
from tf_reweight.checks import check_flag, check_number
from tf_reweight.coupling.scores import CRITERIA
from tf_reweight.kernels.selection import select
from tf_reweight.learning_rate import CosineDecay
from tf_reweight.penalties import epsilons, multi_gradient
from tf_reweight.penalties.attachment import regularize
from tf_reweight.penalties.proximal import Proximal
from tf_reweight.penalties.reweighting import Reweighting
from tf_reweight.workflow.methods.base import Method, said

_SOLVERS = ("gradient", "proximal")


@dataclasses.dataclass(frozen=True)
class Penalised(Method):
    """A penalty that presses on the groups while the model trains.

    Args:
        growth: factor on the strengths each time the stage comes again, >= 1.
        restart: whether the learning rate falls along a cosine anew in each round.
        solver: `"gradient"`, the penalty in the loss, or `"proximal"`, a soft threshold after each optimizer step.
        step: factor on the strength in the proximal solver, > 0; None takes the solver's default. Nothing for gradients.
    """

    growth: float = 1.0
    restart: bool = True
    solver: str = "gradient"
    step: float | None = None

    penalises = couples = True
    of_rule = {"strength": 1e-5, "price": 1.0}
    of_coupled = {"strength": 1e-3, "criterion": CRITERIA[0], "price": "equal"}

    def __post_init__(self):
        check_number("growth", self.growth, minimum=1.0, fix="1 leaves the strength as it is.")
        check_flag("restart", self.restart)
        if self.solver not in _SOLVERS:
            raise ValueError(errors.unknown("solver", self.solver, _SOLVERS))
        if self.step is None:
            return
        check_number("step", self.step, exclusive=True)
        if self.solver != "proximal":
            fix = "Leave it out, or set solver: proximal."
            raise ValueError(errors.message("`step` belongs to the proximal solver.", fix, step=self.step, solver=self.solver))

    def check(self, settings, amount):
        reason = penalties.get(self.applied_penalty()).no_proximal_step
        if self.solver == "proximal" and reason is not None:
            fix = "Set solver: gradient, which takes any penalty, or choose one such as log_sum."
            expected = f"A proximal step needs a penalty on norms: {reason}."
            raise ValueError(errors.message(expected, fix, penalty=self.applied_penalty(), solver=self.solver))

    def check_model(self, settings, model):
        if self.solver != "proximal" or settings.coupled is not None:
            return
        chosen = [item.target.name for rule in settings.rules for item in select(model, rule.structure, rule.layers)[0]]
        twice = sorted({name for name in chosen if chosen.count(name) > 1})
        if twice:
            fix = "Let the rules choose different layers, or set solver: gradient, which takes several rules on one kernel."
            expected = "A proximal step needs a penalty that is a sum over groups of one kernel, and one on each."
            raise ValueError(errors.message(expected, fix, kernels=twice[:5]))

    @abc.abstractmethod
    def applied_penalty(self):
        """The penalty, an object or its name or config."""

    @abc.abstractmethod
    def reweighting(self, settings):
        """The callback that renews the penalty's weights and restarts the learning rate."""

    def put(self, model, settings, amount):
        left_out = {}
        for rule in settings.rules:
            how = said(rule, self.of_rule)
            attached = regularize(
                model, rule.structure, how["strength"], self.applied_penalty(), layers=rule.layers, price=how["price"]
            )  # fmt: skip
            left_out.update({item.name: item.reason for item in attached.left_out})
        return left_out

    def couple(self, model, settings, amount):
        attached = coupling.regularize_coupled(model, penalty=self.applied_penalty(), **said(settings.coupled, self.of_coupled))
        return {item.name: item.reason for item in attached.left_out}

    def callbacks(self, settings, amount, steps):
        reweighting = self.reweighting(settings)
        if self.solver == "gradient":
            return [reweighting]
        step = {} if self.step is None else {"step": self.step}
        if settings.coupled is None:
            return [reweighting, Proximal(**step)]
        return [reweighting, coupling.CoupledProximal(macs=amount.macs, **step)]

    def figures(self, callbacks):
        return {"rounds": callbacks[0].history}

    def grouping(self, settings, amount):
        how = Method.grouping(self, settings, amount)
        # Ranks where an amount says how much goes; what the penalty freed is told by its own norms.
        if amount.sparsity is None and amount.macs is None and amount.budget is None:
            return how
        return how | {"criterion": settings.coupled.criterion}  # None takes what `prune_groups` ranks that amount by

    def strengths(self, settings):
        if settings.coupled is not None:
            return [said(settings.coupled, self.of_coupled)["strength"]]
        return [said(rule, self.of_rule)["strength"] for rule in settings.rules]

    def grown(self, settings, times):
        copy = settings.model_copy(deep=True)
        sections = copy.rules if copy.coupled is None else [copy.coupled]
        for section, strength in zip(sections, self.strengths(copy)):
            section.strength = strength * self.growth**times
        return copy

    def learning_rate(self, settings):
        """Where the learning rate begins in each round; None where it is not touched."""
        return settings.learning_rate if self.restart else None


@dataclasses.dataclass(frozen=True)
class Reweighted(Penalised):
    """Penalty weights that follow the norms, by gradient or proximal steps.

    Args:
        penalty: a name or config of `penalties`.
        epsilon: a rule of `penalties.epsilons` in place of the penalty's own, such as `[first, last]`; None keeps that.
    """

    penalty: str | dict = "log_sum"
    epsilon: typing.Any = None

    name = "reweighted"
    of_coupled = {**Penalised.of_coupled, "relative": False}

    def __post_init__(self):
        Penalised.__post_init__(self)
        object.__setattr__(self, "penalty", penalties.get(self.penalty).serialize())
        if self.epsilon is not None:
            object.__setattr__(self, "epsilon", epsilons.get(self.epsilon).serialize())

    def check(self, settings, amount):
        Penalised.check(self, settings, amount)
        relative = settings.coupled is not None and settings.coupled.relative
        if relative and not penalties.get(self.penalty).reweighted:
            fix = "Choose one such as log_sum, or leave `relative` out."
            expected = "`coupled.relative` needs a penalty whose weights are renewed."
            raise ValueError(errors.message(expected, fix, penalty=self.penalty))

    def applied_penalty(self):
        return self.penalty

    def reweighting(self, settings):
        return Reweighting(settings.every, settings.rounds, epsilon=self.epsilon, learning_rate=self.learning_rate(settings))


@dataclasses.dataclass(frozen=True)
class Lasso(Penalised):
    """The static L1 penalty or group lasso: the same training with weights that never move."""

    name = "lasso"

    def applied_penalty(self):
        return penalties.Lasso()

    def reweighting(self, settings):
        return Reweighting(settings.every, settings.rounds, learning_rate=self.learning_rate(settings))


@dataclasses.dataclass(frozen=True)
class MultiGradient(Method):
    """`callbacks.MultiGradient`: the loss and a lasso as two objectives, without a strength; pruned to `prune` afterwards.

    Args:
        clip: root mean square of a group at or below which it becomes zero.
        scale: norm of the penalty's gradient when the training begins.
    """

    clip: float = 1e-3
    scale: float = 1.0

    name = "multi_gradient"
    penalises = True
    of_rule = {"price": 1.0}
    of_prune = ("sparsity", "threshold", "budget", "scope")

    def __post_init__(self):
        self._solver()  # checks them

    def put(self, model, settings, amount):
        left_out = {}
        for rule in settings.rules:
            how = said(rule, self.of_rule)
            attached = regularize(model, rule.structure, 1.0, penalties.Lasso(), layers=rule.layers, price=how["price"])
            left_out.update({item.name: item.reason for item in attached.left_out})
        return left_out

    def callbacks(self, settings, amount, steps):
        return [self._solver(), CosineDecay(settings.learning_rate)]

    def figures(self, callbacks):
        return {"updates": callbacks[0].history}

    def pruning(self, amount):
        return Method.pruning(self, amount) or {"threshold": 0.0}  # the zeros are there

    def _solver(self):
        return multi_gradient.MultiGradient(self.clip, self.scale)
