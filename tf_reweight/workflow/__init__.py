"""The main job in one call: train, regularize, prune, retrain, shrink, export, report, into one run folder."""

import copy
import inspect
import os
import pathlib
import typing
from collections.abc import Callable, Sequence

import keras
import numpy as np
from rich.console import Console

from tf_reweight import coupling, errors
from tf_reweight.budget import Budget
from tf_reweight.data import Dataset
from tf_reweight.files import absolute, folder_path
from tf_reweight.graph.checking import check_eager, check_model
from tf_reweight.kernels.selection import select
from tf_reweight.lazy import submodules
from tf_reweight.reports.progress import QUIET, say, terminal
from tf_reweight.workflow import config as configs
from tf_reweight.workflow import defaults, loading, methods, search, strategies, unheeded
from tf_reweight.workflow import fronts as sweeps
from tf_reweight.workflow import task as tasks
from tf_reweight.workflow.config import Config
from tf_reweight.workflow.folder import check_folder
from tf_reweight.workflow.fronts import Front
from tf_reweight.workflow.measures import accuracy, environment
from tf_reweight.workflow.result import Result
from tf_reweight.workflow.run import Run

__all__ = ["Result", "accuracy", "compress", "environment", "plan", "sweep"]
__getattr__ = submodules(__name__)

ConfigLike = str | os.PathLike | dict | Config
Callbacks = Sequence[keras.callbacks.Callback] | Callable[[str], Sequence[keras.callbacks.Callback]]


@typing.overload
def compress(
    model: keras.Model,
    train: typing.Any = None,
    validation: typing.Any = None,
    test: typing.Any = None,
    *,
    structure: typing.Any = "channels",
    budget: Budget | dict[str, float] | str | None = None,
    epochs: int | dict[str, int] | None = None,
    config: ConfigLike | None = None,
    callbacks: Callbacks = (),
    out: str | os.PathLike | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    command: str | None = None,
) -> Result: ...


@typing.overload
def compress(
    config: ConfigLike,
    model: keras.Model | None = None,
    data: Dataset | None = None,
    out: str | os.PathLike | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    command: str | None = None,
) -> Result: ...


def compress(*args: typing.Any, **options: typing.Any) -> Result:
    """Compresses any compiled model on any data that `fit` takes, to a smaller, executed-and-checked `.tflite` with a report.

    Stages: train (dense), regularize, prune, retrain (zeros fixed), shrink and quantize where they are asked for, export,
    report. Every stage compiles the model as you did, with your loss, metrics and a fresh optimizer of your settings, and lets
    the learning rate follow a cosine. Your own model stays as it is. Each finished stage is kept in the run folder; the same
    call continues an interrupted run, inside a stage from its last whole epoch.

    With nothing but a model and data, channels that go together over the whole network are drawn to zero until half of the
    computing is free (no strength has to be known; see `callbacks.BudgetProximal`), what is left is retrained, and a float32
    and an int8 file are written.

    `compress(config, model=None, data=None, out=None, overrides=(), console=None, command=None)`, with a configuration first,
    runs what a YAML file, a mapping or a `config.Config` says; `model` is then used instead of `config.model`, and `data`, a
    `data.Dataset`, instead of `config.data`. So does a call by keywords alone that has `config` and none but these.

    Args:
        model: a built Keras model. Compiled, it is trained with its own loss, metrics and optimizer; one that is not needs
            `task.loss` in `config`, unless it classifies labels that are whole numbers. With optimizer steps behind it, it
            counts as trained.
        train: examples as `fit` takes them: `(x, y)` or `(x, y, sample_weight)` of arrays or structures of arrays, a
            `tf.data.Dataset` (in batches or not), a `keras.utils.PyDataset`, a function that makes a generator; or a generator
            with `train.steps` in `config`. Or a `data.Dataset`, which has all splits. None: `data` of `config`, which then has
            to name it.
        validation: the same, for decisions; None holds out `data.validation` (0.1) of the training examples.
        test: the same, for the final figures only; None repeats those of `validation`, and the report says so.
        structure: `"channels"`, which are removed for good; `"unstructured"` or any other structure, which becomes zeros. Rules
            and `coupled` of `config` go before it; a method in `config` that knows no channels has single weights by default.
        budget: what may be left, a `Budget`, its mapping or text, such as `"macs=0.5"` for channels or `"weights=0.2"`; None
            leaves half of the computing, or a fifth of single weights.
        epochs: a number, shared out over the stages that train, one at least for each, but those to which `config` gives 0; or
            a dict such as `{"train": 0, "retrain": 8}`, for each time that a stage comes.
        config: path of a YAML file, mapping or `config.Config` with whatever else; what it says goes before defaults. What an
            argument says otherwise, or stands in the place of, may not be in it, unless it was written by a run.
        callbacks: your callbacks, given to `fit` in every stage that trains, the same objects each time as in several calls of
            `fit`; or a function `name of the stage -> callbacks` that makes new ones. `val_loss` contains penalties.
        out: run folder; default `runs/<name of the model>`.
        monitor: the metric that decides and heads the report, such as `"val_accuracy"`; default the first one compiled, else
            the loss without penalties.
        mode: `"max"` or `"min"`, which way `monitor` is better, where its name does not say.
        overrides: `"section.key=value"` strings.
        console: a rich console for progress and tables; None prints to the terminal.
        command: what the user typed, for the report.

    Returns:
        `Result`: the report, a dict with every figure, with `model`, `files`, `report` and `best_file`.

    Raises:
        TypeError, ValueError, FileNotFoundError: for a bad config, data, labels, model or run folder, before any training; and
            when the loss or a weight is no number any more, in the epoch in which that happens.
        export.VerificationError: when a written file does not compute what the model does; it is not kept.

    Example:
        >>> result = compress(model, (x, y), validation=(x_val, y_val), epochs=10, out="runs/mine")
        >>> result.best_file, result.model.count_params()
        >>> figures = compress("configs/quickstart.yaml", overrides=["train.epochs=3"])
    """
    check_eager()
    called: typing.Callable[..., Result]
    if _begins_with_config(args, options):
        called, first = _compress_config, "configuration"
        fix = "Say it in the configuration or in overrides=[...], or pass the model first: compress(model, ..., config=config)."
    else:
        called, first = _compress_model, "model"
        fix = "Losses, metrics and their weights are those of `model.compile`; all else is said in config={...}."
    known = inspect.signature(called).parameters
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(errors.message(f"`compress` with a {first} first takes {', '.join(known)}.", fix, unknown=unknown))
    return called(*args, **options)


def _begins_with_config(args, options):
    """Whether the arguments of `compress` are those of the call that begins with a configuration."""
    if args:
        return isinstance(args[0], ConfigLike)
    # By keywords alone, any argument that this call does not have tells that it is the other one.
    return "config" in options and set(options) <= set(inspect.signature(_compress_config).parameters)


def sweep(
    model: keras.Model,
    train: typing.Any = None,
    validation: typing.Any = None,
    test: typing.Any = None,
    *,
    budgets: Sequence[Budget | dict[str, float] | str] = ("macs=0.75", "macs=0.5", "macs=0.25"),
    structure: typing.Any = defaults.CHANNELS,
    epochs: int | dict[str, int] | None = None,
    config: ConfigLike | None = None,
    callbacks: Callbacks = (),
    out: str | os.PathLike | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    command: str | None = None,
) -> Front:
    """The front of a metric against size, computing and time: `compress` for several budgets, all from one dense model.

    Every budget has a run folder of its own with its files and report; `sweep.json` and the page `sweep.html` hold all of them,
    with the models for which no other is better in both, and the knee. The same call goes on with what was cut off.

    Args:
        model, train, validation, test, structure, epochs, config, callbacks, monitor, mode, overrides, console, command: as for
            `compress`; `epochs` are those of each budget.
        budgets: two or more, of any form that a `Budget` has.
        out: folder of the sweep; default `runs/<name of the model>`.

    Returns:
        `workflow.fronts.Front`.

    Raises:
        TypeError: for `budgets` that are no list of budgets.
        ValueError: for fewer than two budgets, or one that is named twice; and what `compress` raises.

    Example:
        >>> front = tfr.sweep(model, (x, y), budgets=["macs=0.7", "macs=0.4", "macs=0.2"], epochs=10, out="runs/front")
        >>> print(front)
    """
    check_eager()
    wanted, out = sweeps.check(budgets), _placed(out)
    run, configured = _run_of_model(
        model, (train, validation, test), structure, wanted[-1], epochs, config, callbacks, monitor, mode, overrides,
        console or terminal(), command,
    )  # fmt: skip
    return sweeps.trace(run, wanted, out, configured)


def sweep_by_names(
    budgets, structure=defaults.CHANNELS, epochs=None, config=None, overrides=(), monitor=None, out=None, console=None,
    command=None,
):  # fmt: skip
    """`sweep` of a model and data that a configuration, or the overrides, name: the command line's."""
    wanted, out = sweeps.check(budgets), _placed(out)
    run, configured = _run_by_names(structure, wanted[-1], epochs, config, overrides, monitor, console or terminal(), command)
    return sweeps.trace(run, wanted, out, configured)


def _compress_config(config, model=None, data=None, out=None, overrides=(), console=None, command=None):
    out = _placed(out)
    return _finished(Run(config, model, data, overrides, console or terminal(), command), out)


def _placed(out):
    """The run folder as it is named when a call begins, before code of the user's can change the working folder."""
    return None if out is None else folder_path("out", out)


def check_out(out):
    """Raises ValueError where no run folder can be: at a file, or inside of one; for plans, which need none."""
    check_folder(_placed(out))


def _compress_model(
    model: keras.Model,
    train: typing.Any = None,
    validation: typing.Any = None,
    test: typing.Any = None,
    *,
    structure: typing.Any = defaults.CHANNELS,
    budget: Budget | dict[str, float] | str | None = None,
    epochs: int | dict[str, int] | None = None,
    config: ConfigLike | None = None,
    callbacks: Callbacks = (),
    out: str | os.PathLike | None = None,
    monitor: str | None = None,
    mode: str | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    command: str | None = None,
) -> Result:
    out = _placed(out)
    run, _ = _run_of_model(
        model, (train, validation, test), structure, budget, epochs, config, callbacks, monitor, mode, overrides,
        console or terminal(), command,
    )  # fmt: skip
    return _finished(run, out)


# What `help` and editors show: the call that begins with a model.
compress.__signature__ = inspect.signature(_compress_model)  # type: ignore[attr-defined]


def _run_of_model(model, data, structure, budget, epochs, config, callbacks, monitor, mode, overrides, console, command):
    """`(Run, function from a budget to the values of such a configuration)`."""
    check_model(model)
    given, said = (read({} if config is None else config, overrides) for read in (configs.read, configs.said))
    train, *others = data
    unheeded.check(said, train, data[1])
    unheeded.check_task(said, monitor, mode)
    task = tasks.of_model(model)
    configured = _configured(model, task, structure, epochs, given, monitor, mode)
    values = configured(budget)
    unheeded.check_epochs(said, values, epochs)
    if isinstance(train, Dataset) or train is None:
        if any(part is not None for part in others):
            fix = "Pass arrays or data sets for all splits, or a data.Dataset alone."
            expected = "A Dataset, and the data of a configuration, have their own splits."
            raise ValueError(errors.message(expected, fix, train=type(train).__name__))
        data = train
    return Run(values, model, data, (), console, command, callbacks), configured


def _configured(model, task, structure, epochs, given, monitor, mode):
    """Function from a budget to the values of a configuration, see `defaults.configuration`."""
    return lambda budget: defaults.configuration(
        model, task, structure, budget, epochs, copy.deepcopy(given), monitor, mode
    )  # fmt: skip


def compress_by_names(
    structure=defaults.CHANNELS, budget=None, epochs=None, config=None, overrides=(), monitor=None, out=None, console=None,
    command=None,
):  # fmt: skip
    """`compress` of a model and data that a configuration, or the overrides, name: the command line's."""
    out = _placed(out)
    run, _ = _run_by_names(structure, budget, epochs, config, overrides, monitor, console or terminal(), command)
    return _finished(run, out)


def plan_by_names(structure=defaults.CHANNELS, budget=None, epochs=None, config=None, overrides=(), monitor=None):
    """`plan` of the same."""
    run, _ = _run_by_names(structure, budget, epochs, config, overrides, monitor, QUIET, None)
    return _planned(run)


def _run_by_names(structure, budget, epochs, config, overrides, monitor, console, command):
    """The same as of `_run_of_model`."""
    runs = absolute(pathlib.Path("runs"))  # before the code that loads data and model
    source = {} if config is None else config
    given = configs.read(source, overrides)
    # How much goes, and how, may be for the defaults to say.
    named = configs.load({name: section for name, section in given.items() if name not in ("regularize", "prune")})
    loading.check_data_is_named(named, given, (), None)
    data = loading.data_of(named, source, overrides)
    model = loading.model_of(named, data)
    check_model(model)
    task = tasks.of_names(named.task) or tasks.of_model(model)
    configured = _configured(model, task, structure, epochs, given, monitor, None)
    values = configured(budget)
    # What a file says is overridden; what the same command says is not.
    unheeded.check_epochs(configs.said({}, overrides), values, epochs)
    return Run(values, model, data, (), console, command, runs=runs, named=True), configured


def _finished(run, out):
    """Runs all stages."""
    with run.open(out), run.scope():
        for note in run.data.notes:
            say(run.console, f"[bold]data[/bold]: {note}")
        note = strategies.note_of(run.config)
        if note is not None:
            say(run.console, f"[bold]distribute[/bold]: {note}")
        if "accuracy_drop" in (run.config.prune.budget or {}):
            search.search(run)
        return Result(run.finish(), run.last_model)


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
    return _planned(Run(config, model, data, overrides, QUIET, None))


def _planned(run):
    kernels, left_out = _coupled_plan(run) if run.config.regularize.coupled else _kernel_plan(run)
    chosen = {kernel["name"] for kernel in kernels}
    settings = run.config
    return {
        "config": settings.model_dump(mode="json"),
        "kernels": kernels,
        "left_out": [{"name": name, "reason": reason} for name, reason in left_out.items() if name not in chosen],
        "epochs": settings.epochs,
    }


def _kernel_plan(run):
    kernels, left_out = [], {}
    settings = run.config.regularize
    for rule, strength in zip(settings.rules, methods.get(settings.method).strengths(settings)):
        selected, skipped = select(run.model, rule.structure, rule.layers)
        left_out.update({item.name: item.reason for item in skipped})
        for item in selected:
            shape = item.target.standard_shape
            kernels.append(
                {
                    "name": item.target.name,
                    "structure": item.structure.name,
                    "strength": strength,
                    "num_groups": int(np.prod(item.structure.group_shape(shape))),
                    "num_weights": int(np.prod(shape)),
                }
            )
    return kernels, left_out


def _coupled_plan(run):
    coupled, settings = coupling.groups(run.model), run.config.regularize
    (strength,) = methods.get(settings.method).strengths(settings)
    kernels = [
        {
            "name": item.name,
            "structure": "coupled",
            "strength": strength,
            "num_groups": item.num_groups,
            "num_weights": item.num_groups * item.weights_per_group,
        }
        for item in coupled.sets
    ]
    return kernels, {item.name: "; ".join(item.reasons[:3]) for item in coupled.frozen}
