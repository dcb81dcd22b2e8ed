"""The stages between a model and its files, each a function that changes the run's model and returns figures of its own."""

import dataclasses
import typing

from tf_reweight import coupling, quantization, shrinking
from tf_reweight.attachment import regularize
from tf_reweight.callbacks import CosineDecay, Reweighting
from tf_reweight.masking import keep_zeros, prune
from tf_reweight.proximal import Proximal
from tf_reweight.summaries import NormSummaries


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: what the model is after it; its file is `<name>.keras`.
        apply: function `run -> dict`; sets `run.model`.
        wanted: function `config -> bool`.
        keeps_zeros: whether the zeros of this stage's model count as pruned.
    """

    name: str
    apply: typing.Callable
    wanted: typing.Callable
    keeps_zeros: bool


def stages_of(config):
    """The stages a configuration asks for, in order."""
    return [stage for stage in STAGES if stage.wanted(config)]


def _train(run):
    settings = run.config.train
    if settings.epochs:
        run.fit("train", settings.epochs, settings.learning_rate, [CosineDecay(settings.learning_rate)])
    return {}


def _regularize(run):
    settings, left_out = run.config.regularize, {}
    if settings.coupled is not None:
        coupled = settings.coupled
        price = _weights_price(run.model) if coupled.price == "weights" else 1.0
        attached = coupling.regularize_coupled(run.model, coupled.strength, settings.penalty, coupled.criterion, price)
        left_out.update({item.name: item.reason for item in attached.left_out})
    else:
        for rule in settings.rules:
            attached = regularize(run.model, rule.structure, rule.strength, settings.penalty, rule.layers, rule.price)
            left_out.update({item.name: item.reason for item in attached.left_out})
    learning_rate = settings.learning_rate if settings.restart else None
    reweighting = Reweighting(settings.every, settings.rounds, epsilon=settings.epsilon, learning_rate=learning_rate)
    norms = NormSummaries(settings.every, log_dir=run.folder / "logs" if settings.tensorboard else None)
    solver = [Proximal(settings.step)] if settings.solver == "proximal" else []
    run.fit("regularize", settings.epochs, settings.learning_rate, [reweighting, *solver, norms])
    return {"rounds": reweighting.history, "norms": norms.history, "left_out": left_out}


def _prune(run):
    settings = run.config.prune
    if run.config.regularize.coupled is not None:
        scope = "model" if settings.scope == "model" else "set"
        criterion = run.config.regularize.coupled.criterion
        report = coupling.prune_groups(run.model, settings.sparsity, scope, criterion, macs=settings.macs)
        return {"sets": report.to_dict()["sets"]}
    pruned = prune(run.model, sparsity=settings.sparsity, threshold=settings.threshold, scope=settings.scope)
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
    batch = run.data.validation[0][:16]
    run.model, report = shrinking.shrink(run.model, settings.multiple_of, inputs=batch, return_report=True)
    return {"shrunk": report.to_dict()}


def _quantize(run):
    settings = run.config.quantize
    run.model, report = quantization.quantize(run.model, return_report=True)
    quantization.calibrate(run.model, run.data.representative(run.config.export.representative))
    details = {"quantized": report.to_dict()}
    if settings.clusters is not None:
        details["clustered"] = quantization.cluster(run.model, settings.clusters).to_dict()
    keep_zeros(run.model)
    callbacks = [CosineDecay(settings.learning_rate), quantization.FreezeRanges(settings.epochs - 1)]
    run.fit("quantize", settings.epochs, settings.learning_rate, callbacks, run.teacher())
    return details


def _weights_price(model):
    """Price of a group: its weights relative to the mean over the sets, so that costly layers pay more."""
    sets = coupling.groups(model).sets
    mean = sum(item.weights_per_group for item in sets) / len(sets)
    return lambda item: max(0.25, min(4.0, item.weights_per_group / mean))


STAGES = (
    Stage("dense", _train, lambda config: True, False),
    Stage("regularized", _regularize, lambda config: True, False),
    Stage("pruned", _prune, lambda config: True, True),
    Stage("retrained", _retrain, lambda config: True, True),
    Stage("shrunk", _shrink, lambda config: config.shrink is not None, True),
    Stage("quantized", _quantize, lambda config: config.quantize is not None, True),
)
