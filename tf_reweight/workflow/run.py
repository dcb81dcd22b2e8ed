"""One run: its configuration, data, model and folder, and what all stages share."""

import pathlib
import time

import keras
import numpy as np

from tf_reweight import data as datasets
from tf_reweight import errors
from tf_reweight.coupling.pruning import removable
from tf_reweight.data import models, value_range
from tf_reweight.data.augment import Shifted
from tf_reweight.export.edge_quantizer import check_installed
from tf_reweight.export.precisions import TABLE
from tf_reweight.graph.access import begin_at_first_epoch
from tf_reweight.graph.checking import check_model
from tf_reweight.graph.walking import graph_of
from tf_reweight.kernels.selection import select
from tf_reweight.quantization import simplify
from tf_reweight.quantization.choosing import Choice
from tf_reweight.reports import page
from tf_reweight.reports.curves import Curves, read_curves
from tf_reweight.reports.progress import EpochLines, say
from tf_reweight.reports.tables import model_report, pruned_figures, run_tables, summary
from tf_reweight.tflite.emulation import Emulator
from tf_reweight.workflow.chance import check_better_than_chance
from tf_reweight.workflow.config import load
from tf_reweight.workflow.files import app_zip, export_files
from tf_reweight.workflow.folder import Folder
from tf_reweight.workflow.measures import environment, outputs_of, stage_figures
from tf_reweight.workflow.stages import merged, stages_of

CURVES = "curves.jsonl"


class Run:
    """Everything that can be wrong is found when it is made, before any work.

    Args:
        config: path, mapping or `Config`.
        model: a built model to use instead of the config's, or None.
        data: a `Dataset` to use instead of the config's, or None.
        overrides: `"section.key=value"` strings.
        console: a rich console.
        command: what the user typed, or None.
    """

    def __init__(self, config, model, data, overrides, console, command):
        self.config = load(config, overrides)
        self.console, self.command = console, command
        keras.utils.set_random_seed(self.config.seed)
        given = self.config.data
        self.data = data or datasets.load(
            given.name, given.data_dir, given.validation, self.config.seed, given.limit, value_range=value_range.RAW
        )
        self.model = model or models.load(self.config.model.name, self.data.input_shape, self.data.num_classes)
        check_model(self.model)
        self.data = _in_range(self.data, given.value_range, self.model)
        _check_fit(self.model, self.data)
        # A model that is built by its name begins with random weights: with no epochs it is regularized from there on.
        if not self.config.train.epochs and (model is not None or self.config.model.name not in models.names()):
            check_better_than_chance(self.model, self.data)
        if self.config.data.shift and len(self.data.input_shape) != 3:
            fix = "Set data.shift to 0."
            raise ValueError(errors.message("`data.shift` moves images.", fix, input_shape=self.data.input_shape))
        _check_stages(self.config, self.model, self.data)
        self.folder = self.reached = self.stage = None
        self.files, self.latency = [], None

    def open(self, out):
        """Makes the run folder, or finds the same run in it."""
        path = pathlib.Path(out) if out is not None else pathlib.Path("runs") / self.config.name
        self.folder = Folder(path, self.config.to_yaml())
        self.folder.write_json("environment.json", environment())

    def do(self, stage):
        """Runs a stage, or finds it done; measures the model after it and keeps both."""
        if self.folder.figures(stage.name) is not None:
            say(self.console, f"[bold]{stage.name}[/bold]: done before, in {self.folder / stage.name}.keras")
            self.reached = stage.name
            return
        self._catch_up()
        self.stage = stage
        started = time.monotonic()
        details = stage.apply(self)
        figures = {"name": stage.name, "seconds": round(time.monotonic() - started, 1), **stage_figures(self.model, self.data)}
        self.folder.finish(stage.name, self.model, {**figures, "keeps_zeros": stage.keeps_zeros, "details": details})
        validation, seconds = figures["validation_accuracy"], figures["seconds"]
        say(self.console, f"[bold]{stage.name}[/bold]: validation {validation:.2%}, {seconds:.0f} s")

    def _catch_up(self):
        """Loads the model of the last stage that was found done."""
        if self.reached is not None:
            self.model = self.folder.load(self.reached)
            self.reached = None

    def teacher(self):
        """The dense model, when the configuration asks for distillation; else None."""
        return self.folder.load("dense") if self.config.distill is not None else None

    def fit(self, label, epochs, learning_rate, callbacks, teacher=None):
        """`model.fit` with a backup after each epoch, from which an interrupted run goes on.

        Args:
            label: for the terminal.
            epochs, learning_rate, callbacks: of `fit`.
            teacher: a model to learn from as well, or None.

        Returns:
            One record per epoch, those before an interruption included; see `summaries.Curves`.
        """
        from_logits = not _gives_probabilities(self.model, self.data)
        trainee = self.model if teacher is None else self._taught(teacher)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        trainee.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
        backup = keras.callbacks.BackupAndRestore(self.folder.backup / self.stage.name, delete_checkpoint=True)
        curves = Curves(self.stage.name, self.folder / CURVES, self.logs)
        settings = self.config.train.batch_size, self.config.data.shift, self.config.seed
        batches = Shifted(*self.data.train, *settings, black=self.data.black)
        trainee.fit(
            batches,
            shuffle=False,  # they are shuffled in an order of their own, that a resumed run finds again
            epochs=epochs,
            validation_data=self.data.validation,
            validation_batch_size=512,
            # Curves come before the backup, or an epoch could count as done without its record.
            callbacks=[curves, backup, batches.epochs_in_order(), *callbacks, EpochLines(label, self.console)],
            verbose=0,
        )
        begin_at_first_epoch(trainee)
        return curves.history

    @property
    def logs(self):
        """Where the stage writes for TensorBoard; None where the configuration does not ask for it."""
        return self.folder / "logs" / self.stage.name if self.config.regularize.tensorboard else None

    def _taught(self, teacher):
        """The model with the dense one beside it, as Keras' own distillation wants them."""
        settings = self.config.distill
        teacher.trainable = False
        taught = keras.distillation.Distiller(
            teacher,
            self.model,
            # The object, not its name: given "kl_divergence", Keras compares logits as if they were probabilities.
            keras.distillation.LogitsDistillation(settings.temperature, loss=keras.losses.KLDivergence()),
            distillation_loss_weights=settings.weight,
            student_loss_weight=1.0 - settings.weight,
        )
        taught.build((None, *self.data.input_shape))
        return taught

    def export(self):
        """Every precision, dense and pruned, written and executed."""
        self._catch_up()
        self.files, self.latency = export_files(self)

    def report(self):
        """Everything known about the run, as `report.json` and on the terminal."""
        stages = [self.folder.figures(stage.name) for stage in stages_of(self.config)]
        details = merged(stage["details"] for stage in stages)
        figures = {
            "name": self.config.name,
            "command": self.command,
            "config": self.config.model_dump(mode="json"),
            "environment": environment(),
            "data": {
                "name": self.data.name,
                "subtracted": self.data.subtracted,
                "divided_by": self.data.divided_by,
                **{f"num_{split}": len(getattr(self.data, split)[1]) for split in ("train", "validation", "test")},
            },
            "stages": [{name: value for name, value in stage.items() if name != "details"} for stage in stages],
            **pruned_figures(details),
            "rounds": details.get("rounds", []),
            "updates": details.get("updates", []),
            "norms": details["norms"],
            "curves": [
                {name: value for name, value in record.items() if name != "counts"}
                for record in read_curves(self.folder / CURVES)
            ],
            **{name: details.get(name) for name in ("shrunk", "quantized", "clustered")},
            "num_weights": stages[0]["num_weights"],
            "num_nonzero": stages[-1]["num_nonzero"],
            "model": model_report(self.model),
            "files": self.files,
            "latency": self.latency,
        }
        figures["summary"] = summary(figures)
        self.folder.tidy()
        self.folder.write_json("report.json", figures)
        self.folder.write_text("report.html", page.render(figures, self._pictured()))
        app_zip(self)
        for table in run_tables(figures):
            self.console.print(table)
        say(self.console, f"Everything is in {self.folder.path}: report.html to look at, report.json, app.zip for the app.")
        return figures

    def _pictured(self):
        """The model whose kernels the page shows: as pruned, before what was pruned is gone from the pictures."""
        names = [stage.name for stage in stages_of(self.config)]
        shrunk = next((position for position, name in enumerate(names) if name.startswith("shrunk")), None)
        return self.model if shrunk is None else self.folder.load(names[shrunk - 1])


def _in_range(data, given, model):
    """The data in the range of values that the configuration, or the model, asks for."""
    if given != value_range.AUTO:
        return data.in_range(given)
    if data.white is None:
        return data
    return data.in_range(value_range.made_for(model, data.white, data.input_shape))


def _check_fit(model, data):
    """Raises unless the model takes these inputs and has one output per class."""
    # A subclassed model does not know its inputs; the data show whether they fit.
    if any(len(getattr(model, ends, None) or [0]) != 1 for ends in ("inputs", "outputs")):
        raise ValueError(
            errors.message(
                "`compress` takes a classifier with one input and one output.", "Use the single functions.", model=model.name
            )
        )
    try:
        outputs = outputs_of(model, data.train[0][:2])
    except ValueError as error:
        raise ValueError(
            errors.message(
                f"The model must take the data's inputs: {str(error).splitlines()[0]}", "Choose data or model to match.",
                input_shape=data.input_shape,
            )
        ) from None  # fmt: skip
    if outputs.ndim != 2 or outputs.shape[1] != data.num_classes:
        raise ValueError(
            errors.message(
                f"The model must have one output per class, {data.num_classes} for {data.name}.",
                "Choose data or model to match.",
                output_shape=outputs.shape[1:],
            )
        )


def _check_stages(config, model, data):
    """Raises when a stage that comes after hours of training could not work with this model."""
    if config.regularize.coupled is not None:
        removable(model)
    else:
        for rule in config.regularize.rules:
            select(model, rule.structure, rule.layers)
    if any(section is not None for section in (config.shrink, config.cluster, config.quantize)):
        graph_of(model)
    if config.quantize is not None and isinstance(config.quantize.weight_bits, dict):
        Choice(model, simplify(model)[0]).check("weight_bits", list(config.quantize.weight_bits))
    if config.export.verify_arm:
        Emulator()
    wanted = config.export
    if wanted.mixed_bytes is not None or any(TABLE[precision].by_edge_quantizer for precision in wanted.precisions):
        check_installed()
    if config.distill is not None and _gives_probabilities(model, data):
        fix = "End it with a Dense layer without softmax, or leave `distill` out."
        raise ValueError(errors.message("Distillation needs a model that gives logits.", fix, model=model.name))


def _gives_probabilities(model, data):
    outputs = outputs_of(model, data.train[0][:8])
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(-1), 1.0, atol=1e-3))
