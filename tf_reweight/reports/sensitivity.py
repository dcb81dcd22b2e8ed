"""How much each kernel suffers when it alone is pruned: where a model has weights to spare."""

import collections.abc
import dataclasses

import keras
import numpy as np
from rich.table import Table

from tf_reweight import errors
from tf_reweight.checks import check_sparsity, is_sequence
from tf_reweight.data.examples import checked, input_specs, packed, take_labelled
from tf_reweight.data.labelled import of_one_output, parted
from tf_reweight.graph.checking import check_eager, check_model
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.steps import updated_metrics
from tf_reweight.kernels import allocation
from tf_reweight.kernels.selection import select
from tf_reweight.kernels.table import LeftOut
from tf_reweight.records import Report
from tf_reweight.structures import get as get_structure

_BATCH = 512
# Of a generator no more examples are read than this; it may have no end.
_MOST = 10_000
# What is measured where no metric is asked for.
_ACCURACY = "accuracy"


@dataclasses.dataclass(frozen=True)
class KernelSensitivity:
    """What pruning one kernel does to the model.

    Attributes:
        name: the kernel.
        num_weights: its weights.
        sparsities: what was really removed at each point; whole groups only, so at most what was asked for.
        accuracies: the model's accuracy, or the metric that was asked for, at each point, nothing retrained.
    """

    name: str
    num_weights: int
    sparsities: tuple[float, ...]
    accuracies: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class SensitivityReport(Report):
    """What `sensitivity` found: the metric as it was, one entry per kernel, and what was left out with its reason."""

    structure: str
    baseline: float
    sparsities: tuple[float, ...]
    kernels: tuple[KernelSensitivity, ...]
    left_out: tuple[LeftOut, ...]
    metric: str = _ACCURACY

    def to_tables(self):
        """One rich table: a row per kernel, a column per sparsity."""
        title = f"{self.metric} with one kernel pruned ({self.structure}); dense {self._shown(self.baseline)}"
        table = Table(title=title[0].upper() + title[1:])
        table.add_column("kernel")
        table.add_column("weights", justify="right")
        for sparsity in self.sparsities:
            table.add_column(f"{sparsity:.0%}", justify="right")
        for kernel in self.kernels:
            table.add_row(kernel.name, f"{kernel.num_weights:,}", *map(self._shown, kernel.accuracies))
        return [table]

    def _shown(self, value):
        return f"{value:.2%}" if self.metric == _ACCURACY else f"{value:.4g}"

    def plot(self, path):
        """Writes the curves to a picture; the suffix of `path` says which kind (`.svg`, `.png`, `.pdf`)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes, percent = figure.subplots(), 100 if self.metric == _ACCURACY else 1
        for kernel in self.kernels:
            shares = np.array([0.0, *kernel.sparsities]) * 100
            values = np.array([self.baseline, *kernel.accuracies]) * percent
            axes.plot(shares, values, marker="o", markersize=3, label=kernel.name)
        axes.set_xlabel(f"removed from this kernel alone ({self.structure}), %")
        axes.set_ylabel("top-1 accuracy, %" if self.metric == _ACCURACY else self.metric)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(path)


def sensitivity(model, data, structure="unstructured", sparsities=(0.5, 0.75, 0.9), *, layers=None, monitor=None):
    """Prunes one kernel at a time, measures the accuracy or a metric, and puts the weights back exactly.

    Nothing is retrained, so the figures are a lower bound and say which kernels to treat with care, not what accuracy a
    pruned model will have. Use held-out examples that are not the test set.

    Args:
        model: a built classifier with one output `(batch, classes)`; it need not be compiled. With `monitor` any compiled
            model.
        data: pair `(x, y)` with integer labels, where `x` is of any kind that `data.examples.take` knows; or batches of such
            pairs: a `tf.data.Dataset`, a generator or a PyDataset. With `monitor` what the model's `evaluate` takes again and
            again: a pair of inputs and targets, a `tf.data.Dataset` or a PyDataset.
        structure: name, config or `Structure`; not those that decide themselves how much is kept (n of m, patterns).
        sparsities: fractions of the kernel's weights removed, each in [0, 1).
        layers: which layers; see `kernels.selectors`.
        monitor: name of a metric of `model.evaluate`, such as `"mae"` or `"loss"`, instead of the top-1 accuracy.

    Returns:
        `SensitivityReport`.

    Raises:
        TypeError: for a generator where `monitor` is given, which could be read once only.
        ValueError: for sparsities out of range, labels that do not fit, a structure without a sparsity, a metric that the
            model does not have, or a model that is not compiled.

    Example:
        >>> report = sensitivity(model, data.validation, "filter")
        >>> rich.print(*report.to_tables())
    """
    structure = get_structure(structure)
    check_eager()
    sparsities = _checked_sparsities(structure, sparsities)
    measure = _accuracy_on(model, data) if monitor is None else _metric_on(model, data, monitor)
    selected, left_out = select(model, structure, layers)
    baseline = measure()
    kernels = tuple(_examine(measure, item, sparsities) for item in selected)
    return SensitivityReport(structure.name, baseline, sparsities, kernels, tuple(left_out), monitor or _ACCURACY)


def _accuracy_on(model, data):
    x, y = _checked_data(model, data)
    return lambda: _accuracy(model, x, y)


def _metric_on(model, data, monitor):
    """A function that evaluates the model and returns one of its metrics."""
    check_model(model)
    if not model.compiled:
        fix = "Call model.compile(loss=..., metrics=[...]) first, or leave `monitor` out for a classifier."
        raise ValueError(errors.message("`monitor` needs a compiled model.", fix, model=model.name, monitor=monitor))
    if isinstance(data, collections.abc.Iterator):
        fix = "Pass arrays, a tf.data.Dataset or a PyDataset."
        raise TypeError(errors.message("`data` must be read once per measurement.", fix, data=type(data).__name__))
    given = tuple(data) if is_sequence(data) and len(data) == 2 else (data,)

    def measure():
        with updated_metrics(model):
            found = model.evaluate(*given, verbose=0, return_dict=True)
        if monitor not in found:
            raise ValueError(errors.unknown("metric of the model", monitor, tuple(found)))
        return float(found[monitor])

    return measure


def _examine(measure, item, sparsities):
    """One kernel at every sparsity; its weights are the same bits afterwards, also after an error."""
    variable = item.target.variable
    dense = np.array(as_numpy(variable))
    groups = item.target.groups(item.structure)
    removed, accuracies = [], []
    try:
        for sparsity in sparsities:
            (keep,) = allocation.by_sparsity([groups.scores], [groups.members], sparsity, "layer")
            keep, _ = allocation.keep_at_least(keep, groups.norms, groups.members)
            mask = item.target.own_mask(keep, item.structure)
            variable.assign(np.where(mask, dense, np.zeros_like(dense)))
            removed.append(1.0 - float(mask.mean()))
            accuracies.append(measure())
    finally:
        variable.assign(dense)
    return KernelSensitivity(item.target.name, int(dense.size), tuple(removed), tuple(accuracies))


def _accuracy(model, x, y):
    batches = ([array[i : i + _BATCH] for array in x] for i in range(0, len(y), _BATCH))
    outputs = [np.asarray(model.predict_on_batch(packed(model, batch))) for batch in batches]
    outputs = np.concatenate(outputs)
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            errors.message(
                "The model must be a classifier with outputs (batch, classes), two classes or more.",
                "Sensitivity is measured by top-1 accuracy.",
                output_shape=outputs.shape,
            )
        )
    return float(np.mean(np.argmax(outputs, axis=-1) == y))


def _checked_sparsities(structure, sparsities):
    if not is_sequence(sparsities) or not sparsities:
        raise ValueError(
            errors.message("`sparsities` must be a non-empty list.", "For example [0.5, 0.9].", sparsities=sparsities)
        )
    for sparsity in sparsities:
        check_sparsity(sparsity)
    if structure.decides:
        raise ValueError(
            errors.message(
                f"The structure {structure.name!r} itself says how much is kept: there is no sparsity to vary.",
                "Choose another structure.",
                structure=structure.name,
            )
        )
    return tuple(float(sparsity) for sparsity in sparsities)


def _checked_data(model, data):
    """`(list of arrays, labels)`."""
    x, given = parted(model, tuple(data) if is_sequence(data) else data)
    if given is None and (isinstance(x, (tuple, list, dict)) or hasattr(x, "__array__")):
        raise ValueError(
            errors.message("`data` must be a pair (x, y).", "For example dataset.validation.", data=type(data).__name__)
        )
    arrays, found = take_labelled(model, x, "data", _MOST)
    given = found if given is None else given
    labels = of_one_output(model, given)
    if labels is None and given is not None:
        fix = 'Pass monitor="loss" or the name of a metric, which `evaluate` measures.'
        received = {"labels": [np.shape(label) for label in keras.tree.flatten(given)]}
        raise ValueError(errors.message("Without `monitor` the model must have one output with labels.", fix, **received))
    y = np.zeros(0) if labels is None else np.asarray(labels)
    if y.ndim != 1 or y.dtype.kind not in "iu" or any(len(array) != len(y) for array in arrays) or not len(y):
        raise ValueError(
            errors.message(
                "`data` must hold as many inputs as integer labels, at least one.",
                "One-hot labels: pass `y.argmax(-1)`.",
                inputs=[array.shape for array in arrays],
                labels=y.shape,
            )
        )
    return checked(arrays, input_specs(model, arrays), "data"), y
