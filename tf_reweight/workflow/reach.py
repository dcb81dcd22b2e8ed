"""Whether what a run is to remove can go from its model, found before any training."""

from tf_reweight import structures
from tf_reweight.coupling.pruning import check_macs_within_reach
from tf_reweight.coupling.pruning import check_within_reach as check_channels
from tf_reweight.kernels import filed
from tf_reweight.kernels.nonzeros import check_countable
from tf_reweight.kernels.nonzeros import check_within_reach as check_zeros
from tf_reweight.kernels.selection import select
from tf_reweight.workflow import methods
from tf_reweight.workflow.as_trained import as_trained


def check(config, model):
    """Raises where what a budget counts cannot become so small, or what it limits of files cannot be measured here, and where
    channels hold less computing than is to go.

    Args:
        config: the `Config` of the run.
        model: its model; it stays as it is.

    Raises:
        ValueError: the smallest that can be reached, and what holds it up.
        ImportError: for milliseconds without LiteRT.
    """
    if config.regularize.coupled is not None and config.prune.macs is not None:
        check_macs_within_reach(model, config.prune.macs, _shrunk_to(config))
    budget = _budget_of(config)
    if budget is None:
        return
    if budget.of_files:
        if config.regularize.coupled is None:
            check_countable(budget)
        filed.check_can_measure(model, budget)
    else:
        _check_reached(config, model, budget)


def check_files(config, model):
    """The same of what a budget limits of files, for which files of the model are made and measured: that takes a while.

    What is to be trained first is measured as training leaves it, since the file of a model that was never trained is smaller.
    """
    budget = _budget_of(config)
    if budget is not None and budget.of_files:
        _check_reached(config, as_trained(model) if config.train.epochs else model, budget)


def _budget_of(config):
    """The `Budget` that groups have to meet; None where there is none, or a metric says how much goes."""
    budget = methods.get(config.regularize.method).budget(config.prune)
    return None if budget is None or budget.accuracy_drop is not None else budget


def _shrunk_to(config):
    """What the channels that `prune` keeps are a multiple of."""
    return 1 if config.shrink is None else config.shrink.multiple_of


def _check_reached(config, model, budget):
    if config.regularize.coupled is not None:
        check_channels(model, budget, max(_shrunk_to(config), methods.get(config.regularize.method).multiple_of))
        return
    rules = [rule for rule in config.regularize.rules if not structures.get(rule.structure).decides]
    selected = [item for rule in rules for item in select(model, rule.structure, rule.layers)[0]]
    # An amount is for the last structure on each kernel, and for those that train.
    last = {item.target.name: (item.target, item.structure) for item in selected if item.target.variable.trainable}
    if last:
        pairs = list(last.values())
        check_zeros(model, filed.calibrated(model, budget, "of_zeros", pairs), pairs)
