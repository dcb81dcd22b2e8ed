"""The stages between a model and its files, each a function `(model, context) -> (model, figures)`."""

import collections
import dataclasses
import inspect
import typing

import keras

from tf_reweight import coupling, errors, quantization, shrinking
from tf_reweight.checks import check_flags, is_sequence
from tf_reweight.kernels.selection import select
from tf_reweight.learning_rate import CosineDecay
from tf_reweight.pruning.prune import keep_zeros, prune, release
from tf_reweight.reports.curves import NormSummaries
from tf_reweight.workflow import methods, own_stages


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: what the model is after it; its file is `<name>.keras`.
        apply: function `(model, context) -> (model, figures)`: what it is given and what it returns may be the same model,
            changed in place. The `context.Context` has configuration, data and folder, and fits; the figures are a dict.
        keeps_zeros: whether the zeros of this stage's model count as pruned.
        step: the name of its section in a configuration.
        times_before: how often it came before in the run.
    """

    name: str
    apply: typing.Callable
    keeps_zeros: bool
    step: str = ""
    times_before: int = 0

    def __call__(self, model, context):
        """Runs it.

        Raises:
            TypeError: where it does not return a model and a dict of figures.
        """
        returned = self.apply(model, context)
        if _is_model_with_figures(returned):
            return returned
        fix = "End it with `return model, {}`; see docs/extending.md."
        expected = f"The stage {self.name!r} must return a model and a dict of figures."
        raise TypeError(errors.message(expected, fix, returned=returned))


def _is_model_with_figures(returned):
    pair = is_sequence(returned) and len(returned) == 2
    return pair and isinstance(returned[0], keras.Model) and isinstance(returned[1], dict)


def stages_of(config):
    """The stages a configuration asks for, in order; one that comes again has its number in its name: `pruned_2`."""
    stages, before = [], collections.Counter()
    for step in config.steps:
        stage, times = _STAGES[step], before[step]
        name = f"{stage.name}_{times + 1}" if times else stage.name
        stages.append(dataclasses.replace(stage, name=name, step=step, times_before=times))
        before[step] += 1
    return stages


def register(step, stage, settings=None):
    """Teaches a run a stage of yours: `stages` of a configuration may name it then, and a section of its name sets it.

    Args:
        step: the name in configurations.
        stage: a `Stage`, whose `apply` takes a model and a `context.Context` and returns a model and figures of its own.
        settings: a pydantic model of its section, whose defaults are taken where there is none; or None. `apply` finds it as
            `context.config.own[step]`.

    Raises:
        TypeError: for another kind of stage or settings, or a function that does not take a model and a context.
        ValueError: for a name that a stage has already.

    Example:
        >>> register("noise", Stage("noisy", add_noise, keeps_zeros=True), NoiseSettings)
        >>> compress({"stages": ["train", "regularize", "prune", "noise", "retrain"], "noise": {"scale": 0.1}})
    """
    if not isinstance(stage, Stage):
        raise TypeError(errors.message("`stage` must be a Stage.", "See docs/extending.md.", stage=stage))
    check_flags(keeps_zeros=stage.keeps_zeros)
    _check_apply(stage.apply)
    taken = {known.name: step for step, known in _STAGES.items()}
    if step in _STAGES and step not in own_stages.OWN or taken.get(stage.name, step) != step:
        fix = "Choose another name, in configurations and for its file."
        raise ValueError(errors.message("The names of a stage must be new.", fix, step=step, name=stage.name))
    own_stages.add(step, settings)
    _STAGES[step] = stage


def _check_apply(apply):
    """Raises unless a function takes two arguments: stages were functions of a run once."""
    try:
        inspect.signature(apply).bind(None, None)
    except TypeError:
        fix = "Write `def stage(model, context): ...; return model, {}`; what was run.config is context.config now."
        raise TypeError(errors.message("A stage must be a function of a model and a context.", fix, apply=apply)) from None
    except ValueError:
        return  # written in C: its signature is not known


def merged(figures, num_batches):
    """The details of all stages as one mapping; what a stage says again goes on from what it said before.

    Args:
        figures: one dict per stage, in order, with its `details` and the number of `epochs` that it trained for.
        num_batches: training steps of an epoch.
    """
    whole, passed = {}, collections.Counter()
    for stage in figures:
        for name, value in stage["details"].items():
            if name in _RECORDS:
                whole[name] = whole.get(name, []) + _counted_on(value, passed[name], num_batches)
                passed[name] += stage.get("epochs", 0)
            else:
                whole[name] = _MERGED_BY[name](whole[name], value) if name in whole and name in _MERGED_BY else value
    return whole


def _counted_on(records, epochs, num_batches):
    """Records of epochs or steps, counted from where so many epochs had passed."""
    passed = {"epoch": epochs, "step": epochs * num_batches}
    return [{**record, **{unit: record[unit] + passed[unit] for unit in passed if unit in record}} for record in records]


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


def _train(model, context):
    settings = context.config.train
    if settings.epochs:
        context.fit(model, "train", settings.epochs, settings.learning_rate, [CosineDecay(settings.learning_rate)])
    return model, {}


def _regularize(model, context):
    settings, amount = context.config.regularize, context.config.prune
    method = methods.get(settings.method)
    settings = method.grown(settings, context.stage.times_before)
    release(model)  # pruned before: what is zero may come back until it is pruned again
    put = method.put if settings.coupled is None else method.couple
    left_out = put(model, settings, amount)
    steps = context.data.train.num_batches * settings.epochs
    callbacks, curves = method.callbacks(_selected(settings, model), amount, steps), []
    if method.trains:
        spread = [NormSummaries(settings.every, context.logs)] if context.logs else []
        curves = context.fit(model, "regularize", settings.epochs, settings.learning_rate, [*callbacks, *spread])
    fields = ("epoch", "counts", "living_groups", "num_groups", "negligible")
    norms = [{name: record[name] for name in fields} for record in curves if record["epoch"] % settings.every == 0]
    return model, {**method.figures(callbacks), "norms": norms, "left_out": left_out}


def _selected(settings, model):
    """The section `regularize` with the kernels that each rule selects in place of their names, which a trainer's model may
    have changed."""
    if settings.coupled is not None:
        return settings
    rules = [
        rule.model_copy(update={"layers": [item.target for item in select(model, rule.structure, rule.layers)[0]]})
        for rule in settings.rules
    ]
    return settings.model_copy(update={"rules": rules})


def _prune(model, context):
    settings, regularize = context.config.prune, context.config.regularize
    method = methods.get(regularize.method)
    if regularize.coupled is not None:
        # Rounded here and not by `shrink` alone, so that what is kept for the hardware's sake is retrained with the rest.
        multiple_of = 1 if context.config.shrink is None else context.config.shrink.multiple_of
        report = coupling.prune_groups(model, **method.grouping(regularize, settings), multiple_of=multiple_of)
        return model, {"sets": report.to_dict()["sets"]}
    return model, {"kernels": prune(model, **method.pruning(settings)).to_dict()["kernels"]}


def _retrain(model, context):
    settings = context.config.retrain
    if context.config.regularize.coupled is not None:
        coupling.hold_groups(model)
    keep_zeros(model)
    if settings.epochs:
        context.fit(model, "retrain", settings.epochs, settings.learning_rate, [CosineDecay(settings.learning_rate)])
    return model, {}


def _shrink(model, context):
    batch = context.data.inputs(model, "validation", 16)
    small, report = shrinking.shrink(model, context.config.shrink.multiple_of, inputs=batch, return_report=True)
    return small, {"shrunk": report.to_dict()}


def _quantize(model, context):
    config, settings = context.config, context.config.quantize
    bits = (settings.weight_bits, settings.activation_bits)
    model, report = quantization.quantize(model, *bits, return_report=True)
    quantization.calibrate(model, context.data.inputs(model, "train", config.export.representative))
    if "cluster" in config.steps[: config.steps.index("quantize")]:
        # All kernels are clustered, those as well that have few weights in each channel.
        quantization.keep_clusters(model, config.cluster.clusters, config.cluster.per_channel, small_kernels=True)
    keep_zeros(model)
    callbacks = [CosineDecay(settings.learning_rate), quantization.FreezeRanges(settings.epochs - 1)]
    context.fit(model, "quantize", settings.epochs, settings.learning_rate, callbacks)
    return model, {"quantized": report.to_dict()}


def _cluster(model, context):
    settings = context.config.cluster
    callbacks = [CosineDecay(settings.learning_rate)]
    if quantization.is_quantized(model):
        callbacks.append(quantization.FreezeRanges(0))
    else:
        # Folding BatchNormalization later would multiply the values of each channel by a number of its own.
        model, _ = quantization.simplify(model)
    report = quantization.cluster(model, settings.clusters, per_channel=settings.per_channel)
    keep_zeros(model)
    if settings.epochs:
        context.fit(model, "cluster", settings.epochs, settings.learning_rate, callbacks)
    return model, {"clustered": report.to_dict()}


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
# What is recorded by epochs or steps.
_RECORDS = ("rounds", "updates", "norms")
_MERGED_BY = {
    "kernels": _smaller,
    "sets": _smaller,
    "left_out": lambda names, more: {**names, **more},
    "shrunk": lambda before, after: {**after, "parameters_before": before["parameters_before"]},
}
