"""The stages between a model and its files, each a function that changes the run's model and returns figures of its own."""

import collections
import dataclasses
import typing

from tf_reweight import coupling, errors, quantization, shrinking
from tf_reweight.learning_rate import CosineDecay
from tf_reweight.pruning.prune import keep_zeros, prune, release
from tf_reweight.reports.curves import NormSummaries
from tf_reweight.workflow import methods, own_stages


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: what the model is after it; its file is `<name>.keras`.
        apply: function `run -> dict`; sets `run.model`.
        keeps_zeros: whether the zeros of this stage's model count as pruned.
        times_before: how often it came before in the run.
    """

    name: str
    apply: typing.Callable
    keeps_zeros: bool
    times_before: int = 0


def stages_of(config):
    """The stages a configuration asks for, in order; one that comes again has its number in its name: `pruned_2`."""
    stages, before = [], collections.Counter()
    for step in config.steps:
        stage, times = _STAGES[step], before[step]
        name = f"{stage.name}_{times + 1}" if times else stage.name
        stages.append(dataclasses.replace(stage, name=name, times_before=times))
        before[step] += 1
    return stages


def register(step, stage, settings=None):
    """Teaches a run a stage of yours: `stages` of a configuration may name it then, and a section of its name sets it.

    Args:
        step: the name in configurations.
        stage: a `Stage`; its `apply` takes the `Run`, sets `run.model`, and returns figures of its own.
        settings: a pydantic model of its section, whose defaults are taken where there is none; or None. `apply` finds it as
            `run.config.own[step]`.

    Raises:
        TypeError: for another kind of stage or settings.
        ValueError: for a name that a stage has already.

    Example:
        >>> register("noise", Stage("noisy", add_noise, keeps_zeros=True), NoiseSettings)
        >>> compress({"stages": ["train", "regularize", "prune", "noise", "retrain"], "noise": {"scale": 0.1}})
    """
    if not isinstance(stage, Stage):
        raise TypeError(errors.message("`stage` must be a Stage.", "See docs/extending.md.", stage=stage))
    taken = {known.name: step for step, known in _STAGES.items()}
    if step in _STAGES and step not in own_stages.OWN or taken.get(stage.name, step) != step:
        fix = "Choose another name, in configurations and for its file."
        raise ValueError(errors.message("The names of a stage must be new.", fix, step=step, name=stage.name))
    own_stages.add(step, settings)
    _STAGES[step] = stage


def merged(details):
    """The details of all stages as one mapping; what a stage says again goes on from what it said before.

    Args:
        details: one dict per stage, in order.
    """
    whole = {}
    for found in details:
        for name, value in found.items():
            whole[name] = _MERGED_BY[name](whole[name], value) if name in whole and name in _MERGED_BY else value
    return whole


def _later(records, more):
    """Records of further epochs (or steps), counted on."""
    if not records or not more:
        return records + more
    unit = "epoch" if "epoch" in more[0] else "step"
    last = max(record[unit] for record in records)
    return records + [{**record, unit: record[unit] + last} for record in more]


def _smaller(entries, again):
    """What was kept of kernels or sets in the end, of all there was in the beginning."""
    by_name = {(entry["name"], entry.get("structure")): entry for entry in again}
    whole = []
    for entry in entries:
        later = by_name.get((entry["name"], entry.get("structure")), entry)
        entry = {**later, **{name: value for name, value in entry.items() if name.startswith("num_")}}
        if "sparsity" in entry:
            entry["sparsity"] = 1.0 - entry["kept_weights"] / entry["num_weights"]
        whole.append(entry)
    return whole


def _train(run):
    settings = run.config.train
    if settings.epochs:
        run.fit("train", settings.epochs, settings.learning_rate, [CosineDecay(settings.learning_rate)])
    return {}


def _regularize(run):
    settings, amount = run.config.regularize.grown(run.stage.times_before), run.config.prune
    method = methods.get(settings.method)
    release(run.model)  # pruned before: what is zero may come back until it is pruned again
    if settings.coupled is not None:
        left_out = method.couple(run.model, settings, amount)
    else:
        left_out = method.put(run.model, settings, amount)
    steps = run.data.train.num_batches * settings.epochs
    callbacks, curves = method.callbacks(settings, amount, steps), []
    if method.trains:
        spread = [NormSummaries(settings.every, run.logs)] if run.logs else []
        curves = run.fit("regularize", settings.epochs, settings.learning_rate, [*callbacks, *spread])
    fields = ("epoch", "counts", "living_groups", "num_groups", "negligible")
    norms = [{name: record[name] for name in fields} for record in curves if record["epoch"] % settings.every == 0]
    return {**method.figures(callbacks), "norms": norms, "left_out": left_out}


def _prune(run):
    settings = run.config.prune
    regularize = run.config.regularize
    method = methods.get(regularize.method)
    if regularize.coupled is not None:
        # Rounded here and not by `shrink` alone, so that what is kept for the hardware's sake is retrained with the rest.
        multiple_of = 1 if run.config.shrink is None else run.config.shrink.multiple_of
        report = coupling.prune_groups(run.model, **method.grouping(regularize, settings), multiple_of=multiple_of)
        return {"sets": report.to_dict()["sets"]}
    pruned = prune(run.model, **method.pruning(settings))
    return {"kernels": pruned.to_dict()["kernels"]}


def _retrain(run):
    settings = run.config.retrain
    if run.config.regularize.coupled is not None:
        coupling.hold_groups(run.model)
    keep_zeros(run.model)
    if settings.epochs:
        run.fit("retrain", settings.epochs, settings.learning_rate, [CosineDecay(settings.learning_rate)], run.teacher())
    return {}


def _shrink(run):
    settings = run.config.shrink
    batch = run.data.inputs(run.model, "validation", 16)
    run.model, report = shrinking.shrink(run.model, settings.multiple_of, inputs=batch, return_report=True)
    return {"shrunk": report.to_dict()}


def _quantize(run):
    settings = run.config.quantize
    bits = (settings.weight_bits, settings.activation_bits)
    run.model, report = quantization.quantize(run.model, *bits, return_report=True)
    quantization.calibrate(run.model, run.data.inputs(run.model, "train", run.config.export.representative))
    if "cluster" in run.config.steps[: run.config.steps.index("quantize")]:
        quantization.keep_clusters(run.model, run.config.cluster.clusters, run.config.cluster.per_channel)
    keep_zeros(run.model)
    callbacks = [CosineDecay(settings.learning_rate), quantization.FreezeRanges(settings.epochs - 1)]
    run.fit("quantize", settings.epochs, settings.learning_rate, callbacks, run.teacher())
    return {"quantized": report.to_dict()}


def _cluster(run):
    settings = run.config.cluster
    callbacks = [CosineDecay(settings.learning_rate)]
    if quantization.is_quantized(run.model):
        callbacks.append(quantization.FreezeRanges(0))
    else:
        # Folding BatchNormalization later would multiply the values of each channel by a number of its own.
        run.model, _ = quantization.simplify(run.model)
    report = quantization.cluster(run.model, settings.clusters, per_channel=settings.per_channel)
    keep_zeros(run.model)
    if settings.epochs:
        run.fit("cluster", settings.epochs, settings.learning_rate, callbacks, run.teacher())
    return {"clustered": report.to_dict()}


# By the name of their section in a configuration.
_STAGES = {
    "train": Stage("dense", _train, False),
    "regularize": Stage("regularized", _regularize, False),
    "prune": Stage("pruned", _prune, True),
    "retrain": Stage("retrained", _retrain, True),
    "shrink": Stage("shrunk", _shrink, True),
    "cluster": Stage("clustered", _cluster, True),
    "quantize": Stage("quantized", _quantize, True),
}
_MERGED_BY = {
    "rounds": _later,
    "updates": _later,
    "norms": _later,
    "kernels": _smaller,
    "sets": _smaller,
    "left_out": lambda names, more: {**names, **more},
    "shrunk": lambda before, after: {**after, "parameters_before": before["parameters_before"]},
}
