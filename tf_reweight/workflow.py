"""The main job in one call: train, regularize, prune, retrain, export, report, into one run folder."""

import datetime
import json
import os
import pathlib
import platform
import sys
import time
from importlib import metadata

import keras
import numpy as np
from rich.console import Console

from tf_reweight import config as configs
from tf_reweight import data as datasets
from tf_reweight import errors, models, report, targets
from tf_reweight._version import __version__
from tf_reweight.attachment import regularize
from tf_reweight.callbacks import CosineDecay, Reweighting
from tf_reweight.masking import keep_zeros, prune, sparsity
from tf_reweight.progress import EpochLines
from tf_reweight.selection import select


def compress(config, model=None, data=None, out=None, overrides=(), console=None, command=None):
    """Compresses a classifier: from a config to a pruned, quantized, executed-and-checked `.tflite` with a report.

    Stages: train (dense), regularize (reweighted), prune, retrain (zeros fixed), export, report. Each finished stage is
    kept in the run folder; the same call continues an interrupted run, inside a stage from its last whole epoch.

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
    run = _Run(config, model, data, out, overrides, console or Console(), command)
    run.open_folder()
    run.train()
    run.regularize()
    run.prune()
    run.retrain()
    run.export()
    return run.report()


def plan(config, model=None, data=None, overrides=()):
    """What `compress` would do, without doing it: the kernels of each rule, what is left out and why, and the epochs.

    Returns:
        Dict with `config`, `kernels` (name, structure, strength, groups, weights), `left_out`, `epochs` per stage.
    """
    run = _Run(config, model, data, None, overrides, Console(quiet=True), None)
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
    chosen = {kernel["name"] for kernel in kernels}
    epochs = {
        "train": run.config.train.epochs, "regularize": run.config.regularize.epochs, "retrain": run.config.retrain.epochs
    }  # fmt: skip
    return {
        "config": run.config.model_dump(mode="json"),
        "kernels": kernels,
        "left_out": [{"name": name, "reason": reason} for name, reason in left_out.items() if name not in chosen],
        "epochs": epochs,
    }


class _Run:
    """One run: everything that can be wrong is found when it is made, before any work."""

    def __init__(self, config, model, data, out, overrides, console, command):
        self.config = configs.load(config, overrides)
        self.out = pathlib.Path(out) if out is not None else pathlib.Path("runs") / self.config.name
        self.console, self.command = console, command
        keras.utils.set_random_seed(self.config.seed)
        given = self.config.data
        self.data = data or datasets.load(given.name, given.data_dir, given.validation, self.config.seed, given.limit)
        self.model = model or models.load(self.config.model.name, self.data.input_shape, self.data.num_classes)
        targets.check_model(self.model)
        _check_fit(self.model, self.data)
        for rule in self.config.regularize.rules:
            select(self.model, rule.structure, rule.layers)
        self.state = {"stages": {}}

    # The folder -------------------------------------------------------------------------------------------------------

    def open_folder(self):
        """Makes the run folder, or finds the same run in it and reads how far it came."""
        resolved = self.out / "config.yaml"
        if self.out.exists() and any(self.out.iterdir()) if self.out.is_dir() else self.out.exists():
            if not resolved.is_file() or resolved.read_text() != self.config.to_yaml():
                raise ValueError(
                    errors.message(
                        "The run folder must be new, empty, or hold this very run.",
                        "Choose another with --out (out=), or delete it.",
                        out=str(self.out),
                    )
                )
        self.out.mkdir(parents=True, exist_ok=True)
        _write(resolved, self.config.to_yaml())
        _write_json(self.out / "environment.json", environment())
        if (self.out / "state.json").is_file():
            self.state = json.loads((self.out / "state.json").read_text())

    def _done(self, stage):
        return stage in self.state["stages"]

    def _finish(self, stage, seconds, **figures):
        """Measures the model as it is, saves it under the stage's name, and records both."""
        counts = sparsity(self.model).values()
        figures.update(
            name=stage,
            seconds=round(seconds, 1),
            validation_accuracy=accuracy(self.model, *self.data.validation),
            test_accuracy=accuracy(self.model, *self.data.test),
            num_weights=sum(size for _, size in counts),
            num_nonzero=sum(size - zeros for zeros, size in counts),
        )
        temporary = self.out / f".{stage}.keras"
        self.model.save(temporary)
        os.replace(temporary, self.out / f"{stage}.keras")
        self.state["stages"][stage] = figures
        _write_json(self.out / "state.json", self.state)
        self.console.print(
            f"[bold]{stage}[/bold]: validation {figures['validation_accuracy']:.2%}, {figures['seconds']:.0f} s",
            highlight=False,
        )

    def _reload(self, stage):
        self.console.print(f"[bold]{stage}[/bold]: done before, continuing from {self.out / stage}.keras", highlight=False)
        self.model = keras.saving.load_model(self.out / f"{stage}.keras")

    def _fit(self, stage, epochs, learning_rate, callbacks):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not _gives_probabilities(self.model, self.data))
        self.model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
        backup = keras.callbacks.BackupAndRestore(self.out / ".backup" / stage, delete_checkpoint=True)
        x, y = self.data.train
        self.model.fit(
            x, y,
            batch_size=self.config.train.batch_size,
            epochs=epochs,
            validation_data=self.data.validation,
            validation_batch_size=512,
            callbacks=[backup, *callbacks, EpochLines(stage, self.console)],
            verbose=0,
        )  # fmt: skip

    # The stages -------------------------------------------------------------------------------------------------------

    def train(self):
        """The dense model."""
        if self._done("dense"):
            return self._reload("dense")
        started, settings = time.monotonic(), self.config.train
        if settings.epochs:
            self._fit("train", settings.epochs, settings.learning_rate, [CosineDecay(settings.learning_rate)])
        self._finish("dense", time.monotonic() - started)

    def regularize(self):
        """Training with the reweighted penalty."""
        if self._done("regularized"):
            return self._reload("regularized")
        started, settings = time.monotonic(), self.config.regularize
        left_out = {}
        for rule in settings.rules:
            attached = regularize(self.model, rule.structure, rule.strength, settings.penalty, rule.layers, rule.price)
            left_out.update({item.name: item.reason for item in attached.left_out})
        reweighting = Reweighting(
            settings.every, settings.rounds, learning_rate=settings.learning_rate if settings.restart else None
        )
        self._fit("regularize", settings.epochs, settings.learning_rate, [reweighting])
        self._finish("regularized", time.monotonic() - started, rounds=reweighting.history, left_out=left_out)

    def prune(self):
        """What the penalty freed becomes exactly zero."""
        if self._done("retrained"):
            return
        started, settings = time.monotonic(), self.config.prune
        pruned = prune(self.model, sparsity=settings.sparsity, threshold=settings.threshold, scope=settings.scope)
        self._finish("pruned", time.monotonic() - started, kernels=pruned.to_dict()["kernels"])

    def retrain(self):
        """Training of what is left, zeros fixed."""
        if self._done("retrained"):
            return self._reload("retrained")
        started, settings = time.monotonic(), self.config.retrain
        keep_zeros(self.model)
        if settings.epochs:
            self._fit("retrain", settings.epochs, settings.learning_rate, [CosineDecay(settings.learning_rate)])
        self._finish("retrained", time.monotonic() - started)

    def export(self):
        """Every precision, dense and pruned, written and executed."""
        from tf_reweight import export

        dense = keras.saving.load_model(self.out / "dense.keras")
        representative = self.data.representative(self.config.export.representative)
        held_out = self.data.validation[0][: self.config.export.verify]
        precisions = self.config.export.precisions
        wanted = [("dense", dense, p) for p in dict.fromkeys(("float32", *precisions))]
        wanted += [("pruned", self.model, p) for p in precisions]
        files = []
        for kind, model, precision in wanted:
            path = self.out / f"{kind}_{precision}.tflite"
            record = export.export_tflite(
                model, path, precision, representative_data=representative, verify_data=held_out
            ).to_dict()
            record |= {"name": path.name, "test_accuracy": export.evaluate_tflite(path, *self.data.test)}
            files.append(record)
            self.console.print(f"[bold]export[/bold]: {path.name}, {record['num_bytes']:,} bytes, verified", highlight=False)
        timed = export.benchmark([self.out / f["name"] for f in files], num_runs=self.config.export.latency_runs)
        for record, row in zip(files, timed.to_dict()["rows"]):
            record["latency_ms"] = row["median_ms"]
        self.files = files

    def report(self):
        """Everything known about the run, as `report.json` and on the terminal."""
        stages = self.state["stages"]
        kernels = stages["pruned"]["kernels"]
        last = {kernel["name"]: kernel for kernel in kernels}.values()
        figures = {
            "name": self.config.name,
            "command": self.command,
            "config": self.config.model_dump(mode="json"),
            "environment": environment(),
            "data": {
                "name": self.data.name,
                "num_train": len(self.data.train[1]),
                "num_validation": len(self.data.validation[1]),
                "num_test": len(self.data.test[1]),
            },
            "stages": [
                {k: v for k, v in stages[s].items() if k not in ("rounds", "kernels", "left_out")}
                for s in ("dense", "regularized", "pruned", "retrained")
            ],
            "rounds": stages["regularized"]["rounds"],
            "kernels": kernels,
            "left_out": [{"name": k, "reason": v} for k, v in stages["regularized"]["left_out"].items() if k not in {
                kernel["name"] for kernel in kernels
            }],
            "num_weights": sum(kernel["num_weights"] for kernel in last),
            "num_nonzero": sum(kernel["kept_weights"] for kernel in last),
            "model": report.model_report(self.model),
            "files": self.files,
        }  # fmt: skip
        _write_json(self.out / "report.json", figures)
        for table in report.run_tables(figures):
            self.console.print(table)
        self.console.print(f"Everything is in {self.out}/, every figure in {self.out / 'report.json'}.", highlight=False)
        return figures


def accuracy(model, x, y):
    """Top-1 accuracy of a classifier on arrays, as a float in [0, 1]."""
    hits = [np.argmax(model.predict_on_batch(x[i : i + 512]), axis=-1) == y[i : i + 512] for i in range(0, len(x), 512)]
    return float(np.mean(np.concatenate(hits)))


def environment():
    """Versions and machine, for the record of a run."""
    packages = ("tensorflow", "keras", "numpy", "ai-edge-litert")
    return {
        "tf_reweight": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        "backend": keras.backend.backend(),
        "platform": platform.platform(),
        "processor_count": os.cpu_count(),
        "argv": sys.argv[1:],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _check_fit(model, data):
    """Raises unless the model takes these inputs and has one output per class."""
    if len(model.inputs or [0]) != 1 or len(model.outputs or [0]) != 1:
        raise ValueError(
            errors.message(
                "`compress` takes a classifier with one input and one output.", "Use the single functions.", model=model.name
            )
        )
    try:
        outputs = model.predict_on_batch(data.train[0][:2])
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
                f"The model must have one output per class, {data.num_classes} for {data.name}.", "Choose data or model to match.",
                output_shape=outputs.shape[1:],
            )
        )  # fmt: skip


def _gives_probabilities(model, data):
    outputs = model.predict_on_batch(data.train[0][:8])
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(-1), 1.0, atol=1e-3))


def _write(path, text):
    """Writes a whole file or nothing."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    os.replace(temporary, path)


def _write_json(path, value):
    _write(path, json.dumps(value, indent=1, default=_plain) + "\n")


def _plain(value):
    """NumPy scalars and paths as JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)
