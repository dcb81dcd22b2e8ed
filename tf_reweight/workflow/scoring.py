"""Every metric of every output, alike for Keras models and for files: of their outputs, by the user's own objects."""

import contextlib
import dataclasses

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import is_sequence
from tf_reweight.data import labelled
from tf_reweight.data.examples import arrays_of, in_structure
from tf_reweight.export.classes import kinds, of_classes
from tf_reweight.graph import better, compiled, steps
from tf_reweight.graph.losses import losses_of, metrics_of
from tf_reweight.workflow import outputs as by_output

_LOSS = "loss"
# How Keras' `compute_loss` says that labels are missing.
_UNLABELLED = ("can't be found in either the model's output", "y_true and y_pred have different structures")


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of a run.

    Attributes:
        name: as Keras calls it.
        mode: `"max"` or `"min"`; None where nobody said which way is better.
        proportion: whether it is a share of examples, so that it has a confidence interval.
        is_loss: whether it is the loss, the whole one or that of an output; it heads a run that has no metric.
    """

    name: str
    mode: str | None
    proportion: bool
    is_loss: bool = False

    def to_dict(self):
        """What a report holds of it."""
        return {"name": self.name, "mode": self.mode, "proportion": self.proportion}


class Scorer:
    """Measures outputs against labels with the losses and metrics of a task.

    A model of nothing but identities, with the output names of the user's, is compiled as the user's is: fed with outputs
    instead of inputs it gives the figures of `evaluate`, without any penalties on weights.

    Args:
        task: the `Task`.
        model: the user's model, whose outputs the task is for.
        x: inputs of a batch.
    """

    def __init__(self, task, model, x):
        self._task, self._model = task, model
        self.outputs = outputs_of(model, x)
        self.names = names_of(model, self.outputs)
        self.by_class = compiled.measures_by_itself(model) or task.by_class is not None
        self.has_own_steps = self.by_class or compiled.trains_by_itself(model)
        if not self.by_class:
            by_output.check(task, model, self.outputs, self.names)
        self._probe, self.metrics, self.kinds = None, (), []

    def begin(self, batch):
        """Measures a first batch, from which Keras knows what metrics there are, and finds what each output says.

        `kinds` are those of `export.classes`: where loss and metrics say nothing, the labels of this batch count.
        """
        self.kinds = self._kinds_of(batch[1])
        if batch[1] is not None and self._task.by_class is None and self._task.loss is not None:
            self._probe = _identities(self.outputs, self.names)
            with self._explained(batch[2]):
                self._task.compile(self._probe, self._task.learning_rate)
                self.metrics = () if self.by_class else self._known((self.outputs, *batch[1:]))
        if self.by_class:
            with self._told_of_missing(batch[1]):
                self.metrics = self._known(batch)

    @contextlib.contextmanager
    def _told_of_missing(self, y):
        """Within it Keras' error on labels for some outputs alone, which a user's class may take, names those without any."""
        try:
            yield
        except (KeyError, ValueError) as error:
            missing = labelled.unlabelled(y, self.names)
            if not missing or not any(said in str(error) for said in _UNLABELLED):
                raise
            received = {"labels": [name for name in self.names if name not in missing]}
            owner = type(self._model).__name__
            expected = f"`train` must hold labels for each output that {owner} measures by the compiled loss."
            fix = f"Add {', '.join(map(repr, missing))}, or compile the model with None as their loss."
            raise ValueError(errors.message(expected, fix, **received)) from error

    @contextlib.contextmanager
    def _explained(self, weight=None):
        """Within it what Keras, or a loss or metric of the user's, says of the task is said in the form of our own errors.

        Args:
            weight: the sample weights that are measured with, which may be what does not fit.
        """
        try:
            yield
        except Exception as error:  # each backend has types of its own for what does not fit
            names = ("loss", "loss_weights", "metrics", "weighted_metrics")
            given = {name: vars(self._task)[name] for name in names if vars(self._task)[name] is not None}
            expected = "Loss and metrics must be able to measure the outputs of a batch by its labels; that ended with"
            fix = "Compile the model with losses and metrics that fit its outputs and labels, in the structure of the outputs."
            shapes = [np.shape(array) for array in keras.tree.flatten(weight) if np.ndim(array) > 1]
            if shapes:
                given["sample_weight"] = shapes[0]
                fix += " Sample weights are one number for each example, or for each value of the loss."
            said = f"{type(error).__name__}: {errors.said_by(error)}"
            raise ValueError(errors.message(f"{expected} {said}.", fix, **given, outputs=self.names)) from error

    def _kinds_of(self, y):
        task, names, arrays = self._task, self.names, [np.asarray(output) for output in keras.tree.flatten(self.outputs)]
        if y is None:
            labels = None
        elif self.by_class and not _is_for_each(y, names):
            # A class that trains by itself may have labels of its own form: what are classes of an output says that it chooses.
            labels = [of_classes(array, keras.tree.flatten(y)) for array in arrays]
        else:
            labels = labelled.in_order(y, names, "train")
        return kinds(losses_of(task.loss, names), arrays, metrics_of(task.metrics, names), labels)

    @property
    def measures_files(self):
        """Whether outputs alone can be measured: not where the model's class computes everything itself."""
        return self._probe is not None

    def of_batches(self, batches):
        """Mapping of metrics to figures.

        Args:
            batches: iterable of `(outputs, y, sample_weight)`, the outputs in the model's structure.
        """
        self._probe.reset_metrics()
        for batch in batches:
            self._step(batch)
        return {name: steps.figure_of(value) for name, value in self._probe.get_metrics_result().items()}

    def of_model(self, model, feed):
        """The figures of a Keras model on a `Feed`."""
        if self.by_class:
            return self._evaluated(model, feed.batches())
        return self.of_batches((outputs_of(model, x), y, weight) for x, y, weight in feed.batches())

    def of_outputs(self, run, feed):
        """The figures of what computes outputs from inputs, such as a file; empty where only the class can measure.

        Args:
            run: function from a list of arrays, one per input, to a list of arrays, one per output.
            feed: a `Feed`.
        """
        if not self.measures_files:
            return {}
        return self.of_batches((self.packed(run(self.arrays(x))), y, weight) for x, y, weight in feed.batches())

    def of_constant(self, outputs, feed):
        """The figures of one answer to everything.

        Args:
            outputs: one array `(...)` per output, without the batch axis.
            feed: a `Feed`.
        """
        def repeated(x):
            num = len(keras.tree.flatten(x)[0])
            return self.packed([np.repeat(output[None], num, axis=0) for output in outputs])

        return self.of_batches((repeated(x), y, weight) for x, y, weight in feed.batches())

    def arrays(self, x):
        """A batch of inputs as a list of arrays, one per input."""
        return arrays_of(self._model, x, "test")

    def packed(self, outputs):
        """A list of outputs in the model's structure."""
        return keras.tree.pack_sequence_as(self.outputs, outputs)

    def _evaluated(self, model, batches):
        if not model.compiled:
            self._task.compile(model, self._task.learning_rate)
        figures = {}
        model.reset_metrics()
        for batch in batches:
            figures = steps.test_step(model, tuple(part for part in batch if part is not None))
        return {name: steps.figure_of(value) for name, value in figures.items()}

    def _step(self, batch):
        outputs, y, weight = batch
        outputs = keras.tree.flatten(outputs)
        steps.test_step(self._probe, (outputs, y) if weight is None else (outputs, y, weight))

    def _known(self, batch):
        """One `Metric` for each figure."""
        names = self._evaluated(self._model, [batch]) if self.by_class else self.of_batches([batch])
        measured = {metric.name: metric for metric in compiled.measured_by(self._model if self.by_class else self._probe)}
        return tuple(
            Metric(name, measured[name].mode, measured[name].proportion)
            if name in measured
            else Metric(name, better.mode_of(name), False, is_loss=_LOSS in name.split("_"))
            for name in names
        )


def outputs_of(model, x):
    """Outputs of one batch as arrays in the model's structure; called plainly, since `predict` is compiled at every stage."""
    return keras.tree.map_structure(_single, model(in_structure(model, x), training=False))


def _single(output):
    """An output as an array; floats of any precision as float32, which a file gives."""
    output = keras.ops.convert_to_numpy(output)
    return output if output.dtype.kind in "biu" else output.astype("float32")


def names_of(model, outputs):
    """The names of the outputs, in the order of Keras' flattening."""
    num = len(keras.tree.flatten(outputs))
    names = list(getattr(model, "output_names", None) or [])
    if keras.tree.is_nested(outputs) and not is_sequence(outputs):
        return sorted(outputs)
    return names if len(set(names)) == num else [f"output_{position}" for position in range(num)]


def _is_for_each(y, names):
    """Whether labels are in the form of the outputs."""
    if keras.tree.is_nested(y) and not is_sequence(y):
        return set(y) <= set(names)
    return len(keras.tree.flatten(y)) == len(names)


def _identities(outputs, names):
    """A model that gives what it is given."""
    flat = keras.tree.flatten(outputs)
    inputs = [keras.Input(array.shape[1:], dtype=str(array.dtype), name=f"given_{i}") for i, array in enumerate(flat)]
    made = [keras.layers.Identity(name=name, dtype=tensor.dtype)(tensor) for name, tensor in zip(names, inputs)]
    return keras.Model(inputs, keras.tree.pack_sequence_as(outputs, made))


def _warn_of_direction(name, first):
    fix = f'To decide by it, pass monitor="{name}" and mode="max" or "min" (--set task.monitor={name} --set task.mode=max).'
    text = f"`{first}` decides and heads the report: whether {name!r} is better high or low is not known from its name. {fix}"
    errors.warn(text)


def _check_mode(mode, first, passed_over):
    """Raises where a `mode` would turn the metric that decides: a higher loss would head the report as the better one.

    Args:
        mode: `"max"` or `"min"`, or None.
        first: the `Metric` that decides.
        passed_over: the name of a metric of unknown direction that comes before it, which `mode` may be meant for; or None.
    """
    if mode is None or passed_over is None and first.mode in (None, mode):
        return
    fix = "Leave `mode` out; a metric of your own that is better the other way needs another name."
    if passed_over is not None:
        fix = f'Pass monitor="{passed_over}" (--set task.monitor={passed_over}) too, or leave `mode` out.'
    known = f"of {first.name!r}, which decides, it is known: {first.mode!r}"
    expected = f"`mode` must be for a monitored metric of which it is not known which way is better; {known}."
    raise ValueError(errors.message(expected, fix, mode=mode))


def in_order(metrics, monitor, mode):
    """The metrics of a run as dicts, the one that decides first.

    Args:
        metrics: a `Metric` each, in Keras' order.
        monitor: the name of the one that decides, with or without `val_`; None for the first compiled metric of which it is
            known which way is better, else the loss.
        mode: which way it is better, `"max"` or `"min"`; None where its name says so.

    Raises:
        ValueError: for a metric that there is not, one of which nobody knows which way is better, and a `mode` that would turn
            one of which that is known.
    """
    by_name = {metric.name: metric for metric in metrics}
    if monitor is None:
        compiled_ones = [metric for metric in metrics if not metric.is_loss]
        known = [metric for metric in compiled_ones if metric.mode is not None]
        first = (known or [by_name.get(_LOSS) or Metric(_LOSS, "min", False, is_loss=True)])[0]
        passed_over = compiled_ones[0].name if compiled_ones and compiled_ones[0].mode is None else None
        _check_mode(mode, first, passed_over)
        if passed_over is not None:
            _warn_of_direction(passed_over, first.name)
    else:
        name = monitor.removeprefix("val_")
        if name not in by_name:
            raise ValueError(errors.unknown("metric to monitor", name, by_name))
        first = by_name[name]
        _check_mode(mode, first, None)
    first = dataclasses.replace(first, mode=mode or first.mode)
    if first.mode is None:
        fix = 'Pass mode="max" or mode="min".'
        raise ValueError(errors.message("It must be known which way the monitored metric is better.", fix, monitor=monitor))
    rest = [metric for metric in metrics if metric.name != first.name]
    return [metric.to_dict() for metric in (first, *rest)]
