"""One run: its configuration, data, model and folder, and what all stages share."""

import contextlib
import copy
import pathlib
import time
import zlib

import keras

from tf_reweight import structures
from tf_reweight.batch_statistics import refreshed_for
from tf_reweight.coupling.pruning import removable
from tf_reweight.data import models
from tf_reweight.export.backend import check_backend
from tf_reweight.export.litert_quantizer import check_installed
from tf_reweight.export.precisions import TABLE
from tf_reweight.files import absolute, folder_path
from tf_reweight.graph.checking import check_model
from tf_reweight.graph.lora import check_merged
from tf_reweight.graph.optimizers import check_keeps_weights, check_trains_zeros
from tf_reweight.graph.own_parts import parts_by_name
from tf_reweight.graph.state import seed_draws
from tf_reweight.graph.tensorflow_draws import seed_generator
from tf_reweight.graph.ties import check_untied
from tf_reweight.graph.walking import comes_back, graph_of
from tf_reweight.kernels import measured
from tf_reweight.kernels.selection import select
from tf_reweight.quantization import simplify
from tf_reweight.penalties.attachment import attachments, lost_when_saved
from tf_reweight.quantization.choosing import Choice
from tf_reweight.quantization.simplification import check_shared
from tf_reweight.reports import page
from tf_reweight.reports.alarms import alarms_of, unmeasured
from tf_reweight.reports.curves import epochs_of, lost_epochs, read_curves
from tf_reweight.reports.metrics import text_of, value_of
from tf_reweight.reports.progress import changes, check_console, say
from tf_reweight.reports.choosing import best_file
from tf_reweight.reports.tables import model_report, pruned_figures, run_tables, summary
from tf_reweight.tflite.emulation import Emulator
from tf_reweight.workflow import (
    class_weights, fingerprints, guessing, loading, methods, own_stages, reach, scoring, search, strategies, trainers,
    user_callbacks,
)  # fmt: skip
from tf_reweight.workflow import task as tasks
from tf_reweight.workflow.carried import compile_for_file
from tf_reweight.workflow.chance import check_better_than_chance
from tf_reweight.workflow.config import load
from tf_reweight.workflow.context import Context
from tf_reweight.workflow.files import app_zip, check_convertible, export_files
from tf_reweight.workflow.folder import MEASURED, Folder, without_traces
from tf_reweight.workflow.lock import Lock
from tf_reweight.workflow.measures import environment, stage_figures
from tf_reweight.workflow.one_shot import one_shot
from tf_reweight.workflow.sections import GIVEN
from tf_reweight.workflow.stages import merged, stages_of
from tf_reweight.workflow.trainer import CURVES


class Run:
    """Everything that can be wrong is found when it is made, before any work.

    Args:
        config: path, mapping or `Config`.
        model: a built model to use instead of the config's, or None.
        data: a `Dataset`, or a tuple of train, validation and test as `fit` takes them, instead of the config's; or None.
        overrides: `"section.key=value"` strings.
        console: a rich console.
        command: what the user typed, or None.
        callbacks: the user's: callbacks that every stage's `fit` is given, the same objects each time, or a function
            `name of the stage -> callbacks` that makes them.
        runs: the folder in which a run that is given none has its own; None for `runs` in the working folder of now. Code of
            the user's, which runs later, may go to another one.
        named: whether model and data are those that the configuration names, loaded already.
    """

    def __init__(self, config, model, data, overrides, console, command, callbacks=(), runs=None, named=False):
        self._runs = runs or absolute(pathlib.Path("runs"))
        self.config = load(config, overrides)
        if data is None:
            loading.check_data_is_named(self.config, config, overrides, model)
        # By the defaults that stand there it would be taken for the run of another model or data.
        for section, held in (("model", model), ("data", data)) if not named else ():
            if held is not None:
                getattr(self.config, section).name = GIVEN
        check_console(console)
        self.console, self.command = console, command
        self.scope = strategies.scope_of(self.config, model)
        self._callbacks = user_callbacks.maker(callbacks)
        with self.scope():
            self._begin(model, data, config, overrides)
        self.folder = self.reached = self.stage = self._figures = None
        self.files, self.shipped, self.latency, self.refused, self.searched = [], None, None, [], None

    def _begin(self, model, data, source, overrides):
        keras.utils.set_random_seed(self.config.seed)
        data_is_named = data is None
        data = loading.data_of(self.config, source, overrides) if data_is_named else data
        self._is_trained = model is not None or self.config.model.name not in models.names()
        self.given = loading.model_of(self.config, data) if model is None else model
        check_model(self.given)
        check_merged(self.given)
        self.data, self.task = loading.fitted(self.given, data, self.config)
        self._is_own, self._data_is_named = model is not None, data_is_named
        # What the user holds stays as it is.
        self.model = models.copied(model) if self._is_own else self.given
        self.scorer = loading.scorer(self.model, self.data, self.task)
        if any(self.config.epochs.values()):
            check_trains_zeros(self.task.optimizer)
            check_keeps_weights(self.task.optimizer)
            tasks.check_has_gradient(self.model, self.scorer.outputs, self.scorer.names)
        tasks.say_outputs_without_loss(self.task, self.scorer.names)
        class_weights.check(self.config.train.class_weight, self.task, self.data.train, self.scorer.outputs)
        self.metrics = scoring.in_order(self.scorer.metrics, self.config.task.monitor, self.config.task.mode)
        # A model that is built by its name begins with random weights: with no epochs it is regularized from there on.
        if not self.config.train.epochs and self._is_trained and self.num_classes is not None:
            check_better_than_chance(self.model, self.data.dataset)
        _check_stages(self.config, self.model)
        if "accuracy_drop" in (self.config.prune.budget or {}):
            search.check(self)
        reach.check(self.config, self.model)
        trainers.of(self.config).check(self.model, self.task, self.scorer)

    @property
    def metric(self):
        """The metric that decides and heads the report, as a dict."""
        return self.metrics[0]

    @property
    def num_classes(self):
        """Of a classifier of a data set by name, of which it is known what guessing gets; else None."""
        named = self.data.dataset is not None and loading.is_classifier(self.task)
        return self.data.dataset.num_classes if named else None

    @contextlib.contextmanager
    def open(self, out, branches=()):
        """Makes the run folder, or finds the same run in it; within it no other process may work there.

        Args:
            out: the folder, or None for `runs/<name>`, see `_default_folder`.
            branches: the `Config`s of what will be run from it, where that is not its own.
        """
        check_backend("`compress`")
        given = self.given if self._is_trained else None
        mark = fingerprints.fingerprint(given, self.task, self.data, _working_parts(self.config))
        path = folder_path("out", out) if out is not None else self._default_folder(mark, bool(branches))
        Folder.check(path, self.config.to_yaml(), mark, bool(branches))
        with measured.kept(path / MEASURED, lambda text: say(self.console, f"[bold]files[/bold]: {text}")):
            if not Folder.has_stages(path):  # a run that goes on was measured when it began
                with self.scope(), without_traces(path):
                    for config in branches or [self.config]:
                        reach.check_files(config, self.model)
                    check_convertible(self)
            yield from self._opened(path, mark, bool(branches))

    def _opened(self, path, mark, of_sweep):
        with Lock(path):
            self.folder = Folder(path, self.config.to_yaml(), mark, parts_by_name(self.given), of_sweep)
            self.folder.write_json("environment.json", environment())
            if not self.scorer.measures_files:  # said before hours of training, and in the alarms at their end
                say(self.console, f"[bold]files[/bold]: {' '.join(unmeasured(self.metric))}")
            yield self

    def _default_folder(self, mark, of_sweep):
        """`runs/<name>`; for a model with a number of Keras', the folder of this very run, whatever the number was then."""
        runs, name = self._runs, self.config.name
        if name != fingerprints.name_of(self.given) or name == self.given.name:
            return runs / name
        asked = (self.config.to_yaml(), mark, of_sweep)
        before = [path for path in sorted(runs.glob(f"{name}*")) if Folder.holds(path, *asked)]
        return before[0] if before else runs / self.given.name

    def branch(self, config, model, path):
        """A run with the same data and task that begins with another model, in a folder of its own.

        Args:
            config: its `Config`.
            model: the Keras model, which it may change.
            path: the folder.
        """
        keras.utils.set_random_seed(config.seed)
        other = copy.copy(self)
        other.config, other.model = config, model
        # A folder of its name from another run is not taken for this one; those of before have no mark.
        mark = None if Folder.is_unmarked(path) else fingerprints.of_start(model)
        other.folder = Folder(path, config.to_yaml(), mark, parts_by_name(self.given))
        other.reached = other.stage = other._figures = None
        other.files, other.shipped, other.latency, other.refused, other.searched = [], None, None, [], None
        return other

    def finish(self):
        """All stages, the files and the report; returns the report."""
        for stage in stages_of(self.config):
            self.do(stage)
        self.export()
        return self.report()

    def do(self, stage):
        """Runs a stage, or finds it done; measures the model after it and keeps both."""
        if self._is_done(stage):
            self._figures = self.folder.figures(stage.name)
            say(self.console, f"[bold]{stage.name}[/bold]: done before, in {self.folder / stage.name}.keras")
            self.reached = stage.name
            return
        if stage.name == self.folder.gone:
            text = f"{stage.name}.keras {self.folder.loss}; this stage and those after it are done again"
            say(self.console, f"[bold]{stage.name}[/bold]: {text}")
        self.stage = stage
        self._begin_stage(stage)
        started = time.monotonic()
        self.model, details = stage(self.model, self.context(stage))
        figures = {"name": stage.name, "seconds": round(time.monotonic() - started, 1), **self._measured()}
        if stage.step == "train" and not self.config.train.epochs:  # else it has just been given those of its weights
            figures |= self._with_other_statistics()
        figures |= {"epochs": max(epochs_of(self.folder / CURVES, stage.name), default=0)}
        self.keep(stage.name, self.model, {**figures, "keeps_zeros": stage.keeps_zeros, "details": details})
        # The next stage begins with what the file holds, as it does when this process is killed now.
        # Where layers are not made again from their configs, not all is in the file: the model goes on as it is.
        penalised = [item.target for item in attachments(self.model)]
        self.reached = stage.name if comes_back(self.model) and not lost_when_saved(self.model, penalised) else None
        validation = text_of(self.metric, figures["validation"].get(self.metric["name"]))
        changed, self._figures = changes(self._figures, figures), figures
        say(self.console, f"[bold]{stage.name}[/bold]: validation {validation}{changed}, {figures['seconds']:.0f} s")

    def keep(self, name, model, figures):
        """Keeps the model and the figures of a stage, by its name; the file says how the user's model was compiled."""
        self.folder.finish(name, model, figures, has_zeros=compile_for_file(model, self.task))

    def _is_done(self, stage):
        if self.folder.figures(stage.name) is None:
            return False
        # Penalties on layers that are not made again from their configs are lost in the file, and `prune` needs them.
        done = [other.name for other in stages_of(self.config) if self.folder.figures(other.name) is not None]
        return stage.step != "regularize" or stage.name != done[-1] or not lost_when_saved(self.model)

    def _begin_stage(self, stage):
        """Loads the model, and lets all that is random begin where the seed and the stage say, whatever was drawn before."""
        seed = zlib.crc32(f"{self.config.seed}/{stage.name}".encode())
        keras.utils.set_random_seed(seed)
        self.catch_up()
        seed_draws(self.model, seed)
        seed_generator(seed)

    def _say_lost_curves(self, stages):
        """Says which stages trained for more epochs than their curves are there for."""
        trained = {stage["name"]: stage.get("epochs", 0) for stage in stages}
        lost = ", ".join(f"{number} of {name}" for name, number in lost_epochs(self.folder / CURVES, trained).items())
        if lost:
            text = f"{CURVES} was damaged or deleted; the report is without the curves of these epochs: {lost}"
            say(self.console, f"[bold]report[/bold]: {text}")

    def _measured(self):
        return stage_figures(self.model, self.data, self.scorer)

    def _with_other_statistics(self):
        """Figures of the dense model with statistics of training examples; nothing where its own belong to its weights."""
        with refreshed_for(self.model, self.data.examples(self.model)) as report:
            if not report.refreshed:
                return {}
            return {"refreshed_validation": self.scorer.of_model(self.model, self.data.validation)}

    def catch_up(self):
        """Loads the model of the last stage that was found done."""
        if self.reached is not None:
            self.model = None  # not two models at once
            self.model = self.folder.load(self.reached)
            self.reached = None

    def context(self, stage):
        """What a stage has to work with besides the model."""
        return Context(self.config, self.data, self.task, self.folder, self.console, self._callbacks, stage)

    def export(self):
        """Every precision, dense and pruned, written and executed."""
        self.catch_up()
        self.files, self.latency = export_files(self)
        wish, num = (self.config.export.best_by, self.config.export.max_drop), self.data.validation.num_examples
        dense = value_of(self.folder.figures("dense"), "validation", self.metric)
        self.shipped = best_file(self.files, self.metric, *wish, num, self.config.prune.budget, dense)

    def report(self):
        """Everything known about the run, as `report.json` and on the terminal."""
        stages = [self.folder.figures(stage.name) for stage in stages_of(self.config)]
        details = merged(stages, self.data.train.num_batches)
        self._say_lost_curves(stages)
        figures = {
            "name": self.config.name,
            "command": self.command,
            "config": self._config_as_used(),
            "environment": environment(),
            "data": self.data.facts(),
            "metrics": self.metrics,
            "stages": [{name: value for name, value in stage.items() if name not in ("details", "epochs")} for stage in stages],
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
            "shipped": self.shipped,
            "latency": self.latency,
            "refused": self.refused,
        }
        figures["search"] = self.searched
        figures["guess"] = self._guess()
        figures["one_shot"] = one_shot(self, stages)
        figures["summary"] = summary(figures)
        figures["alarms"] = alarms_of(figures)
        self.folder.tidy()
        self.folder.write_json("report.json", figures)
        self.folder.write_text("report.html", page.render(figures, self._pictured()))
        app_zip(self)
        for table in run_tables(figures):
            self.console.print(table)
        say(self.console, f"Everything is in {self.folder.path}:")
        say(self.console, "report.html to look at, report.json, app.zip for the app.")
        return figures

    def _config_as_used(self):
        """The configuration with the names of what was given, which load nothing: `config.yaml` says that it was given."""
        config = self.config.model_dump(mode="json")
        if self._is_own:
            config["model"]["name"] = fingerprints.name_of(self.given)
        if not self._data_is_named:
            config["data"]["name"] = self.data.name
        return config

    def _guess(self):
        """What one constant answer would get on the test examples: no model may be worse."""
        constant = guessing.constant_outputs(self.task, self.scorer, self.data.train)
        return None if constant is None else self.scorer.of_constant(constant, self.data.test)

    def last_model(self):
        """The model after the last stage."""
        with self.scope():
            return self.model if self.reached is None else self.folder.load(self.reached)

    def _pictured(self):
        """The model whose kernels the page shows: as pruned, before what was pruned is gone from the pictures."""
        names = [stage.name for stage in stages_of(self.config)]
        shrunk = next((position for position, name in enumerate(names) if name.startswith("shrunk")), None)
        return self.model if shrunk is None else self.folder.load(names[shrunk - 1])


def _working_parts(config):
    """What works on the model of a run and may be the user's: trainer, method, structures and stages."""
    rules = (structures.get(rule.structure) for rule in config.regularize.rules)
    own = (stage.apply for stage in stages_of(config) if stage.step in own_stages.OWN)
    return (trainers.of(config), methods.get(config.regularize.method), *rules, *own)


def _check_stages(config, model):
    """Raises when a stage that comes after hours of training could not work with this model."""
    if config.regularize.coupled is not None:
        removable(model)
    else:
        for rule in config.regularize.rules:
            select(model, rule.structure, rule.layers)
    methods.get(config.regularize.method).check_model(config.regularize, model)
    if any(section is not None for section in (config.shrink, config.cluster, config.quantize)):
        graph_of(model)
    if config.shrink is not None:
        check_untied(model, "shrink")
    if config.cluster is not None or config.quantize is not None:
        check_shared(model, "quantize")
    if config.quantize is not None and isinstance(config.quantize.weight_bits, dict):
        Choice(model, simplify(model)[0]).check("weight_bits", list(config.quantize.weight_bits))
    if config.export.verify_arm:
        Emulator()
    wanted = config.export
    if wanted.mixed_bytes is not None or any(TABLE[precision].by_quantizer for precision in wanted.precisions):
        check_installed()
