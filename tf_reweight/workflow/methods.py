"""How a run finds its zeros: reweighting, or one of the baselines with the same rules, the same epochs and the same report."""

import abc
import dataclasses

from tf_reweight import baselines, coupling, errors, penalties, registry, structures
from tf_reweight.baselines import schedules
from tf_reweight.deadline.solver import BudgetProximal
from tf_reweight.kernels.selection import select
from tf_reweight.learning_rate import CosineDecay
from tf_reweight.penalties.attachment import regularize
from tf_reweight.penalties.proximal import Proximal
from tf_reweight.penalties.reweighting import Reweighting
from tf_reweight.records import fields_of


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """What the stages regularize and prune of a run do. `settings` is the section `regularize` of its configuration."""

    # Whether it has to be told beforehand how much goes, by `prune.sparsity`.
    needs_sparsity = False
    # Whether its rules have strengths, and add up on one kernel.
    penalises = False
    # Whether it works on channels that go together as well.
    couples = False
    # Whether `prune.budget` can say how much goes.
    takes_budget = False
    # Whether there is anything to train before pruning.
    trains = True

    @property
    @abc.abstractmethod
    def name(self):
        """The name used in configs."""

    def put(self, model, settings, amount):
        """Puts on a model what `prune` asks for later; returns the kernels left out, by name with the reason."""
        left_out = {}
        for rule in settings.rules:
            # Without strength it only marks the kernels and holds their structure, also through save and load.
            strength, penalty = (rule.strength, self.penalty(settings)) if self.penalises else (0.0, "lasso")
            attached = regularize(model, rule.structure, strength, penalty, layers=rule.layers, price=rule.price)
            left_out.update({item.name: item.reason for item in attached.left_out})
        return left_out

    def couple(self, model, settings, amount):
        """The same for channels that go together; without a penalty nothing is put on the model."""
        return {item.name: "; ".join(item.reasons[:3]) for item in coupling.groups(model).frozen}

    def penalty(self, settings):
        """The penalty of the rules."""
        return settings.penalty

    @abc.abstractmethod
    def callbacks(self, settings, amount, steps):
        """Callbacks of the training that finds the zeros.

        Args:
            settings: the section `regularize`.
            amount: the section `prune`.
            steps: optimizer steps of the whole training.
        """

    def figures(self, callbacks):
        """What the report says of the training that is over, JSON-ready."""
        return {}

    def pruning(self, amount):
        """Arguments of `pruning.prune` afterwards."""
        how = {"sparsity": amount.sparsity, "threshold": amount.threshold, "budget": amount.budget, "scope": amount.scope}
        return {name: value for name, value in how.items() if value is not None}

    def grouping(self, settings, amount):
        """Arguments of `coupling.prune_groups` afterwards, where channels go together."""
        how = {"sparsity": amount.sparsity, "macs": amount.macs, "budget": amount.budget}
        how["scope"] = "model" if amount.scope == "model" else "set"
        return how | ({"criterion": settings.coupled.criterion} if amount.budget is None else {})

    def get_config(self):
        return fields_of(self)

    def serialize(self):
        """The name where there are no fields, else `{"name": ..., **fields}`."""
        return registry.serialize(self, self.get_config())


@dataclasses.dataclass(frozen=True)
class Reweighted(Method):
    """Penalty weights that follow the norms, by gradient or proximal steps."""

    name = "reweighted"
    penalises = couples = True

    def couple(self, model, settings, amount):
        coupled = settings.coupled
        how = {"criterion": coupled.criterion, "price": coupled.price, "relative": coupled.relative}
        attached = coupling.regularize_coupled(model, coupled.strength, self.penalty(settings), **how)
        return {item.name: item.reason for item in attached.left_out}

    def callbacks(self, settings, amount, steps):
        learning_rate = settings.learning_rate if settings.restart else None
        reweighting = Reweighting(settings.every, settings.rounds, epsilon=settings.epsilon, learning_rate=learning_rate)
        if settings.solver == "gradient":
            return [reweighting]
        if settings.coupled is None:
            return [reweighting, Proximal(settings.step)]
        return [reweighting, coupling.CoupledProximal(settings.step, amount.macs)]

    def figures(self, callbacks):
        return {"rounds": callbacks[0].history}


@dataclasses.dataclass(frozen=True)
class Lasso(Reweighted):
    """The static L1 penalty or group lasso: the same training with weights that never move."""

    name = "lasso"

    def penalty(self, settings):
        return penalties.Lasso()


@dataclasses.dataclass(frozen=True)
class Admm(Method):
    """`baselines.ADMM` towards `prune.sparsity`.

    Args:
        rho: its coefficient, or `(first, last)`.
        every: epochs between updates of Z and U.
    """

    rho: float | tuple[float, float] = (1e-4, 1e-2)
    every: int = 1

    name = "admm"
    needs_sparsity = True

    def __post_init__(self):
        object.__setattr__(self, "rho", tuple(self.rho) if isinstance(self.rho, list) else self.rho)
        self._callback("unstructured", None, 0.5, "layer")  # checks both

    def put(self, model, settings, amount):
        (rule,) = settings.rules
        self._callback(rule.structure, rule.layers, amount.sparsity, amount.scope).attach(model)
        return {item.name: item.reason for item in select(model, rule.structure, rule.layers)[1]}

    def callbacks(self, settings, amount, steps):
        (rule,) = settings.rules
        admm = self._callback(rule.structure, rule.layers, amount.sparsity, amount.scope)
        return [admm, CosineDecay(settings.learning_rate)]

    def figures(self, callbacks):
        return {"updates": callbacks[0].history}

    def _callback(self, structure, layers, sparsity, scope):
        return baselines.ADMM(structure, sparsity, self.rho, self.every, layers, scope)


@dataclasses.dataclass(frozen=True)
class Gradual(Method):
    """`baselines.GradualMagnitude`: a little more goes every few steps.

    Args:
        schedule: config of a `baselines.schedules` entry, with tfmot's arguments; None goes from 0 to `prune.sparsity` over the
            whole training.
    """

    schedule: dict | None = None

    name = "gradual"

    def __post_init__(self):
        if self.schedule is not None:
            object.__setattr__(self, "schedule", schedules.get(self.schedule).serialize())

    @property
    def needs_sparsity(self):
        return self.schedule is None

    def callbacks(self, settings, amount, steps):
        schedule = self.schedule
        if schedule is None:
            # A structure that decides itself has its own sparsity, and is reached whole at any above it.
            final = 0.999 if amount.sparsity is None else amount.sparsity
            last = max(1, steps - 1)  # masks are chosen before a step: after the last one nothing would be
            schedule = baselines.PolynomialDecay(0.0, final, 0, last, frequency=max(1, steps // 50))
        (rule,) = settings.rules
        gradual = baselines.GradualMagnitude(schedule, rule.structure, rule.layers, amount.scope)
        return [gradual, CosineDecay(settings.learning_rate)]

    def figures(self, callbacks):
        return {"updates": callbacks[0].history}

    def pruning(self, amount):
        return {"threshold": 0.0}  # the zeros are there


@dataclasses.dataclass(frozen=True)
class Clipping(Method):
    """`baselines.Clipping`: what is at or below `threshold` after a batch becomes zero, and may grow back with the next."""

    threshold: float = 1e-3

    name = "clipping"

    def __post_init__(self):
        baselines.Clipping(self.threshold)  # checks it

    def callbacks(self, settings, amount, steps):
        (rule,) = settings.rules
        return [baselines.Clipping(self.threshold, rule.structure, rule.layers), CosineDecay(settings.learning_rate)]

    def pruning(self, amount):
        return {"threshold": 0.0}  # the zeros are there


@dataclasses.dataclass(frozen=True)
class OneShot(Method):
    """Magnitude pruning of the dense model, without any training before it."""

    name = "one_shot"
    needs_sparsity = couples = takes_budget = True
    trains = False

    def callbacks(self, settings, amount, steps):
        return []


@dataclasses.dataclass(frozen=True)
class Deadline(Method):
    """`callbacks.BudgetProximal` towards `prune.budget`: no strength, and the budget is met by a deadline.

    The learning rate stays as it is, since what is left has to recover: in the rest of this stage and in `retrain`.

    Args:
        until: the deadline, as a fraction of the epochs of this stage.
        criterion: what groups are ranked by; None takes the solver's default.
        multiple_of: for channels that go together: those that stay are a multiple of it.
    """

    until: float = 0.5
    criterion: str | None = None
    multiple_of: int = 1

    name = "deadline"
    couples = takes_budget = needs_sparsity = True

    def __post_init__(self):
        self._solver()  # checks them

    def put(self, model, settings, amount):
        (rule,) = settings.rules
        attached = regularize(model, rule.structure, budget=_budget_of(amount), layers=rule.layers)
        return {item.name: item.reason for item in attached.left_out}

    def couple(self, model, settings, amount):
        attached = coupling.regularize_coupled(model, budget=_budget_of(amount))
        return {item.name: item.reason for item in attached.left_out}

    def callbacks(self, settings, amount, steps):
        return [self._solver(max(1, steps // settings.epochs))]

    def figures(self, callbacks):
        return {"updates": callbacks[0].history}

    def pruning(self, amount):
        return {}  # the zeros are there, and the penalties know the budget

    def grouping(self, settings, amount):
        return {}

    def _solver(self, steps=None):
        return BudgetProximal(until=self.until, criterion=self.criterion, multiple_of=self.multiple_of, steps=steps)


def _budget_of(amount):
    return {"sparsity": amount.sparsity} if amount.budget is None else amount.budget


_BY_NAME = {cls.name: cls for cls in (Reweighted, Lasso, Admm, Gradual, Clipping, OneShot, Deadline)}


def names():
    """The names that `get` and every config accept."""
    return tuple(_BY_NAME)


def get(identifier):
    """A method from a name, a config `{"name": ..., **fields}`, or a method itself.

    Example:
        >>> get({"name": "admm", "rho": [1e-4, 1e-2]})
        Admm(rho=(0.0001, 0.01), every=1)
    """
    return registry.build("method", Method, _BY_NAME, identifier)


def register(cls):
    """Teaches the table a method of yours, so that `regularize.method` of a configuration knows it by its name.

    Args:
        cls: a frozen dataclass derived from `Method`, with a `name` and `callbacks`; see docs/extending.md.

    Returns:
        The class, so that this can decorate it.

    Example:
        >>> register(MyMethod)
        >>> compress({"regularize": {"method": "my_method"}, "prune": {"sparsity": 0.8}})
    """
    return registry.add("method", Method, _BY_NAME, cls)


def check(settings, amount):
    """Raises where the sections `regularize` and `prune` of a configuration do not go together."""
    method = get(settings.method)
    if method.penalises:
        return
    coupled = settings.coupled is not None
    if coupled and not method.couples or len(settings.rules) != 1:
        fix = "Drop `coupled` and all rules but one, or use reweighting."
        found = "coupled" if coupled else len(settings.rules)
        raise ValueError(errors.message(f"The method {method.name!r} takes one rule.", fix, rules=found))
    if settings.growth != 1:
        fix = "Drop growth, or use reweighting or lasso."
        raise ValueError(errors.message(f"The method {method.name!r} has no strength to grow.", fix, growth=settings.growth))
    decides = not coupled and structures.get(settings.rules[0].structure).decides
    by_budget = amount.budget is not None and method.takes_budget
    told = amount.sparsity is not None or by_budget or coupled and amount.macs is not None
    if method.needs_sparsity and not told and not decides:
        fix = "Set prune.sparsity: only a penalty finds out by itself."
        raise ValueError(errors.message(f"The method {method.name!r} must be told how much goes.", fix, sparsity=None))
    if amount.sparsity is not None and (decides or not method.needs_sparsity):
        known = "the structure" if decides else f"the method {method.name!r}"
        fix = "Leave prune.sparsity out."
        raise ValueError(errors.message(f"How much goes is for {known} to say.", fix, sparsity=amount.sparsity))
    if method.name == Admm.name and method.every >= settings.epochs:
        fix = "Lower method.every, or raise rounds or every."
        expected = f"ADMM has to update before the {settings.epochs} epochs are over."
        raise ValueError(errors.message(expected, fix, every=method.every))
