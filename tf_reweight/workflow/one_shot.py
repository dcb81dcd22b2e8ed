"""What pruning the dense model at once, without training it, gives at what a run has left: no run may be behind it."""

import math
import warnings

import keras
import numpy as np

from tf_reweight import budget as budgets
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
# What is equal where the budget does not count it from a model alone.
_BOTH = ("macs", "parameters")
# A file's bytes as a curve over those that are estimated of a model: the same.
_AS_ESTIMATED = [[0.0, 1.0], [0.0, 1.0]]
# Stages that leave every channel, in layers of their own.
_ROUNDING = ("cluster", "quantize")


def one_shot(run, stages):
    """Figures of the dense model pruned at once to what a run has left, on validation examples; None where nothing went.

    Args:
        run: the `Run`, its stages done.
        stages: the figures of its stages.

    Returns:
        Dict with `validation` (every metric), `num_macs` and `num_parameters`, or `num_nonzero`, of what is left, `at_most`
        (by the names of a `Budget`, what of the run it has no more of; empty where the structure says what goes) and
        `criterion`; where channels went also `reconstructed`, and `num_examples` of that. Or None, also for runs of several
        rules, which no single cut can follow, for those that prune at once themselves, where no cut of the kernels that the
        run's rule selects, or of the channels, leaves so little, and where the examples are too few to renew the statistics of
        BatchNormalization.
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
    """Channels go until no more is left than the run has, of all that its budget counts."""
    if stages[-1]["num_macs"] >= stages[0]["num_macs"]:
        return None
    plain = [stage["name"] for stage, step in zip(stages, run.config.steps) if step not in _ROUNDING]
    asked = run.config.prune.budget or {}
    left = _amounts(run.folder.load(plain[-1]), asked.get("precision"))
    at_most = {name: max(2, math.ceil(left[name])) for name in _counted(run.config.prune)}
    # Bytes are compared as they are estimated of both, so that no file has to be written for it.
    filed = {name: {"points": _AS_ESTIMATED} for name in at_most if name in budgets.OF_FILES}
    beside = {"precision": asked.get("precision"), "calibration": filed} if filed else {}
    limit = budgets.Budget(**at_most, **beside)
    try:
        coupling.prune_groups(dense, budget=limit, minimum=0, data=examples, reconstruct=True)
    except ValueError:
        # A training that broke may have left nothing of a layer, of which a cut leaves a group: the report says what broke.
        return None
    left = _amounts(dense, asked.get("precision"))
    counts = {f"num_{name}": round(left[name]) for name in _BOTH}
    fitted = {"reconstructed": True, "num_examples": len(keras.tree.flatten(examples)[0])}
    return {**counts, "at_most": at_most, "criterion": LAMP, **fitted}


def _counted(settings):
    """The names of what a run's budget counts; of both in `_BOTH` where it counts nothing that a model tells by itself."""
    asked = {"macs"} if settings.macs is not None else {name for name, amount in (settings.budget or {}).items() if amount}
    asked |= {"weights"} if "sparsity" in asked else set()
    told = [name for name in ("macs", "parameters", "weights", "bytes", "zipped_bytes") if name in asked]
    # Times come of operations, which are not timed again for this.
    return told if told and "latency_ms" not in asked else list(dict.fromkeys((*told, *_BOTH)))


def _amounts(model, precision):
    """What a model has without the channels that are zero, by the names of a `Budget`; bytes are those of its weights."""
    coupled = coupling.groups(model)
    cost = coupling.Cost(coupled)
    estimated = {name: cost.inner(name, budgets.Budget(bytes=1, precision=precision)) for name in ("bytes", "zipped_bytes")}
    keep = np.concatenate([np.zeros(0, bool), *(group_norms(item) > 0 for item in coupled.sets)])
    return {name: quantity.at(keep) for name, quantity in {**cost.quantities, **estimated}.items()}


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
    at_most = {} if sparsity is None else {"weights": left}
    return {"num_nonzero": _num_nonzero(dense), "at_most": at_most, "criterion": criterion}


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
