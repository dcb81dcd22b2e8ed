"""What every method of finding zeros has in common: the stages regularize and prune ask it, and it owns its settings."""

import abc
import dataclasses

from tf_reweight import budget as budgets
from tf_reweight import coupling, registry
from tf_reweight.penalties.attachment import regularize
from tf_reweight.records import fields_of


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """What the stages regularize and prune of a run do. Its fields are the keys of `regularize.method` in a configuration.

    In the methods below `settings` is the section `regularize` of the configuration, and `amount` the section `prune`.
    """

    # Whether it has to be told beforehand how much goes, by `prune.sparsity`.
    needs_sparsity = False
    # Whether several rules may add up on one kernel.
    penalises = False
    # Whether it works on channels that go together as well.
    couples = False
    # Whether there is anything to train before pruning.
    trains = True
    # For channels that go together: those that stay are a multiple of it.
    multiple_of = 1
    # Factor on the strengths each time the stage comes again.
    growth = 1.0
    # Keys of a rule and of `coupled` that it reads, beside structure and layers, with what is taken where they are not said.
    of_rule = {}
    of_coupled = {}
    # Keys of the section prune that it reads.
    of_prune = ("sparsity", "threshold", "budget", "macs", "scope")

    @property
    @abc.abstractmethod
    def name(self):
        """The name used in configs."""

    def check(self, settings, amount):
        """Raises ValueError where these sections cannot work with it; what all methods ask for is checked already."""

    def check_model(self, settings, model):
        """Raises ValueError where the section `regularize` cannot work on a model; called before any work, like `check`."""

    def put(self, model, settings, amount):
        """Puts on a model what `prune` asks for later; returns the kernels left out, by name with the reason."""
        left_out = {}
        for rule in settings.rules:
            # Without strength it only marks the kernels and holds their structure, also through save and load.
            attached = regularize(model, rule.structure, 0.0, "lasso", layers=rule.layers)
            left_out.update({item.name: item.reason for item in attached.left_out})
        return left_out

    def couple(self, model, settings, amount):
        """The same for channels that go together; without a penalty nothing is put on the model."""
        return {item.name: "; ".join(item.reasons[:3]) for item in coupling.groups(model).frozen}

    @abc.abstractmethod
    def callbacks(self, settings, amount, steps):
        """Callbacks of the training that finds the zeros.

        Args:
            settings: the section `regularize`. The `layers` of its rules are the kernels that they select, as `Target`s: a
                trainer's own model, which the callbacks meet, may have them by other names.
            amount: the section `prune`.
            steps: training steps of the whole training; where the optimizer accumulates gradients, fewer move the weights.
        """

    def budget(self, amount):
        """The `Budget` that the groups have to meet in the end; None where there is none."""
        return budgets.get(amount.budget)

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
        return how | {"scope": "model" if amount.scope in (None, "model") else "set"}

    def strengths(self, settings):
        """The strength of each rule, or a list with that of `coupled`; None for what has none."""
        return [None] if settings.coupled is not None else [None] * len(settings.rules)

    def grown(self, settings, times):
        """The section as it is when the stage comes after `times` times before."""
        return settings

    def get_config(self):
        return fields_of(self)

    def serialize(self):
        """The name where there are no fields, else `{"name": ..., **fields}`."""
        return registry.serialize(self, self.get_config())


def said(section, defaults):
    """The values of the keys in `defaults`: what a section says, else the default."""
    values = {name: getattr(section, name) for name in defaults}
    return {name: defaults[name] if value is None else value for name, value in values.items()}
