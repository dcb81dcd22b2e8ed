"""The main job in one call: train, regularize, prune, retrain, shrink, export, report, into one run folder."""

import os
import typing
from collections.abc import Sequence

import keras
import numpy as np
from rich.console import Console

from tf_reweight import coupling
from tf_reweight.data import Dataset
from tf_reweight.kernels.selection import select
from tf_reweight.lazy import submodules
from tf_reweight.reports.progress import QUIET, terminal
from tf_reweight.workflow import own_stages
from tf_reweight.workflow.config import Config
from tf_reweight.workflow.measures import accuracy, environment
from tf_reweight.workflow.run import Run
from tf_reweight.workflow.stages import stages_of

__all__ = ["accuracy", "compress", "environment", "plan"]
__getattr__ = submodules(__name__)


def compress(
    config: str | os.PathLike | dict | Config,
    model: keras.Model | None = None,
    data: Dataset | None = None,
    out: str | os.PathLike | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    command: str | None = None,
) -> dict[str, typing.Any]:
    """Compresses a classifier: from a config to a pruned, quantized, executed-and-checked `.tflite` with a report.

    Stages: train (dense), regularize (reweighted), prune, retrain (zeros fixed), shrink and quantize when the config asks for
    them (`config.stages` names them in another order), export, report. Each finished stage is kept in the run folder; the same
    call continues an interrupted run, inside a stage from its last whole epoch.

    Args:
        config: path of a YAML file, mapping or `config.Config`.
        model: your own built Keras classifier, used instead of `config.model`; `train.epochs: 0` when it is trained.
        data: your own `data.Dataset`, used instead of `config.data`.
        out: run folder; default `runs/<name of the config>`.
        overrides: `"section.key=value"` strings.
        console: a rich console for progress and tables; None prints to the terminal.
        command: what the user typed, for the report.

    Returns:
        The report: a dict with every figure, the same as in `report.json`.

    Raises:
        ValueError, FileNotFoundError: for a bad config, data set, model or run folder, before any training.
        export.VerificationError: when a written file does not compute what the model does; it is not kept.

    Example:
        >>> figures = compress("configs/quickstart.yaml", overrides=["train.epochs=3"])
    """
    run = Run(config, model, data, overrides, console or terminal(), command)
    run.open(out)
    for stage in stages_of(run.config):
        run.do(stage)
    run.export()
    return run.report()


def plan(
    config: str | os.PathLike | dict | Config,
    model: keras.Model | None = None,
    data: Dataset | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, typing.Any]:
    """What `compress` would do, without doing it: the kernels of each rule, what is left out and why, and the epochs.

    Returns:
        Dict with `config`, `kernels` (name, structure, strength, groups, weights), `left_out`, `epochs` per stage.
    """
    run = Run(config, model, data, overrides, QUIET, None)
    kernels, left_out = _coupled_plan(run) if run.config.regularize.coupled else _kernel_plan(run)
    chosen = {kernel["name"] for kernel in kernels}
    settings = run.config
    return {
        "config": settings.model_dump(mode="json"),
        "kernels": kernels,
        "left_out": [{"name": name, "reason": reason} for name, reason in left_out.items() if name not in chosen],
        "epochs": {
            step: getattr(settings, step).epochs * settings.steps.count(step)
            for step in dict.fromkeys(settings.steps)
            if step not in ("prune", "shrink", *own_stages.OWN)
        },
    }


def _kernel_plan(run):
    kernels, left_out = [], {}
    for rule in run.config.regularize.rules:
        selected, skipped = select(run.model, rule.structure, rule.layers)
        left_out.update({item.name: item.reason for item in skipped})
        for item in selected:
            shape = item.target.standard_shape
            kernels.append(
                {
                    "name": item.target.name,
                    "structure": item.structure.name,
                    "strength": rule.strength,
                    "num_groups": int(np.prod(item.structure.group_shape(shape))),
                    "num_weights": int(np.prod(shape)),
                }
            )
    return kernels, left_out


def _coupled_plan(run):
    coupled = coupling.groups(run.model)
    kernels = [
        {
            "name": item.name,
            "structure": "coupled",
            "strength": run.config.regularize.coupled.strength,
            "num_groups": item.num_groups,
            "num_weights": item.num_groups * item.weights_per_group,
        }
        for item in coupled.sets
    ]
    return kernels, {item.name: "; ".join(item.reasons[:3]) for item in coupled.frozen}
