"""What pruning the dense model at once, without any training, gives at the size that a run reached: no run may be behind it."""

import warnings

import keras

from tf_reweight import coupling, structures
from tf_reweight.batch_statistics import are_enough
from tf_reweight.coupling.scores import group_norms
from tf_reweight.kernels.grouping import LAMP
from tf_reweight.kernels.selection import select
from tf_reweight.pruning.prune import prune
from tf_reweight.pruning.prune import sparsity as count_zeros
from tf_reweight.workflow import methods

# Unlabelled training examples for statistics of BatchNormalization and least squares after the cut.
_EXAMPLES = 256


def one_shot(run, stages):
    """Figures of the dense model pruned at once to what a run has left, on validation examples; None where nothing went.

    Args:
        run: the `Run`, its stages done.
        stages: the figures of its stages.

    Returns:
        Dict with `validation` (every metric), `num_macs` or `num_nonzero` of what is left, and `criterion`; or None, also for
        runs of several rules, which no single cut can follow, for those that prune at once themselves, where no cut of the
        kernels that the run's rule selects leaves so few weights, and where the examples are too few to renew the statistics
        of BatchNormalization.
    """
    settings = run.config.regularize
    if not methods.get(settings.method).trains or settings.coupled is None and len(settings.rules) > 1:
        return None
    cut = _cut_channels if settings.coupled is not None else _cut_zeros
    dense = run.folder.load("dense")
    examples = run.data.inputs(dense, "train", min(_EXAMPLES, run.config.export.representative))
    if not are_enough(dense, len(keras.tree.flatten(examples)[0])):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the cut has to say was said of the run itself
        how = cut(dense, run, stages, examples)
    return None if how is None else {"validation": run.scorer.of_model(dense, run.data.validation), **how}


def _cut_channels(dense, run, stages, examples):
    left, whole = stages[-1]["num_macs"], stages[0]["num_macs"]
    if left >= whole:
        return None
    coupling.prune_groups(dense, budget={"macs": left}, minimum=0, data=examples, reconstruct=True)
    coupled = coupling.groups(dense)
    num_macs = coupling.Cost(coupled).macs([group_norms(item) > 0 for item in coupled.sets])
    return {"num_macs": num_macs, "criterion": LAMP, "reconstructed": True}


def _cut_zeros(dense, run, stages, examples):
    (rule,) = run.config.regularize.rules
    structure = structures.get(rule.structure)
    left, whole = stages[-1]["num_nonzero"], stages[0]["num_weights"]
    if left >= whole or stages[-1]["num_weights"] < whole:
        return None
    criterion, sparsity = (None, None) if structure.decides else (LAMP, _sparsity(dense, rule, left))
    if sparsity is not None and not 0.0 < sparsity < 1.0:
        return None
    prune(dense, structure, layers=rule.layers, data=examples, sparsity=sparsity, criterion=criterion)
    return {"num_nonzero": _num_nonzero(dense), "criterion": criterion}


def _sparsity(dense, rule, left):
    """The fraction to remove from the kernels that are pruned, so that they and all others together have `left` weights."""
    selected = [item.target for item in select(dense, rule.structure, rule.layers)[0]]
    names = {target.name for target in selected if target.variable.trainable}
    counts = count_zeros(dense)
    pruned = sum(counts[name][1] for name in names)
    others = sum(num - zeros for name, (zeros, num) in counts.items() if name not in names)
    return 1.0 - (left - others) / pruned


def _num_nonzero(model):
    return sum(size - zeros for zeros, size in count_zeros(model).values())
