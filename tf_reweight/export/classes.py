"""What each output of a model says, one of several classes, yes or no, or numbers, and how often two agree on it."""

import numpy as np

from tf_reweight.data.labelled import in_order
from tf_reweight.data.splits import numbered
from tf_reweight.graph.compiled import compiled_with
from tf_reweight.graph.losses import (
    BINARY, ONE_HOT, QUANTITIES, SPARSE, is_accuracy_by_shape, is_chosen_by_shape, loss_name, losses_of, metric_name,
    metrics_of,
)  # fmt: skip
from tf_reweight.graph.walking import output_keys
from tf_reweight.tflite.comparing import unlike_channels

CLASSES, DECISIONS, NUMBERS = "classes", "decisions", "numbers"
# Metrics of Keras that are about one kind of output only.
_OF_CLASSES = (
    *SPARSE, *ONE_HOT, "sparse_categorical_accuracy", "categorical_accuracy", "top_k_categorical_accuracy",
    "sparse_top_k_categorical_accuracy",
)  # fmt: skip
_OF_DECISIONS = (*BINARY, "binary_accuracy")
_OF_NUMBERS = (*QUANTITIES, "root_mean_squared_error", "r2_score")
# Sums of probabilities differ from one by rounding.
_ROUNDING = 1e-2


def names_of_outputs(model, num):
    """The names of so many outputs, by which losses, metrics and labels name them: keys of dicts, else those of Keras."""
    names = list(getattr(model, "output_names", None) or [])
    names = names if len(names) == num else [f"output_{position}" for position in range(num)]
    return [key or name for key, name in zip(output_keys(model, num), names)]


def kinds_of_model(model, arrays, labels=None):
    """The kind of each output of a model, by what it is compiled with; see `kinds`.

    Args:
        model: the Keras model.
        arrays: its outputs, a list of `(num, ...)` in the order of its structure.
        labels: as `fit` takes them, or None.
    """
    names = names_of_outputs(model, len(arrays))
    given = (compiled_with(model) if hasattr(model, "compiled") else None) or {}
    metrics = metrics_of(given.get("metrics"), names)
    labels = None if labels is None else in_order(labels, names, "data")
    losses = losses_of(getattr(model, "loss", None), names)
    # A model that was not compiled, or loaded without that, says nothing of itself: its class counts if it seems to have one.
    # What a class of the user's compiles in its own way is trained for something of its own.
    says_nothing = not getattr(model, "compiled", False) and all(loss is None for loss in losses)
    return kinds(losses, arrays, metrics, labels, by_shape=says_nothing)


def kinds(losses, arrays, metrics=None, labels=None, by_shape=False):
    """For each output whether it says one of several classes, yes or no, or numbers.

    The usual losses of Keras say it, then its metrics, then labels, then outputs that are probabilities. The shape of outputs
    alone says nothing of what is trained for a loss of one's own: where nobody does, they are numbers.

    Args:
        losses: one per output, None where there is none.
        arrays: the outputs, `(num, ...)` each.
        metrics: a list of them per output, or None.
        labels: an array or None per output, or None.
        by_shape: whether outputs `(num, n)` of like scale are classes where nobody says anything.
    """
    metrics = [[]] * len(arrays) if metrics is None else metrics
    labels = [None] * len(arrays) if labels is None else labels
    return [
        _loss_says(loss, array) or _metrics_say(own, array) or _labels_say(label, array) or _values_say(array, by_shape)
        for loss, own, label, array in zip(losses, metrics, labels, arrays)
    ]


def _loss_says(loss, array):
    """The kind that a loss says; None where it says nothing."""
    name = loss_name(loss)
    if is_chosen_by_shape(loss) or name in SPARSE + ONE_HOT:
        return CLASSES if _has_classes(array) else NUMBERS
    return DECISIONS if name in BINARY else NUMBERS if name in QUANTITIES else None


def _metrics_say(metrics, array):
    by_shape = any(is_accuracy_by_shape(metric) or is_chosen_by_shape(metric) for metric in metrics)
    names = {metric_name(metric) for metric in metrics}
    if by_shape or names & set(_OF_CLASSES):
        return CLASSES if _has_classes(array) else DECISIONS
    return DECISIONS if names & set(_OF_DECISIONS) else NUMBERS if names & set(_OF_NUMBERS) else None


def _labels_say(labels, array):
    if labels is None or np.asarray(labels).dtype.kind not in "biuf":
        return None
    labels = np.asarray(numbered(labels, array.shape))
    if _has_classes(array) and labels.shape == array.shape[:-1]:
        return CLASSES if np.isin(labels, range(array.shape[-1])).all() else None
    if labels.size != array.size:
        return None
    if are_distributions(labels.reshape(array.shape)):
        return CLASSES
    return DECISIONS if np.isin(labels, (0, 1)).all() else NUMBERS


def _values_say(array, by_shape):
    alike = by_shape and array.ndim == 2 and _has_classes(array) and array.dtype.kind == "f" and unlike_channels(array) is None
    return CLASSES if alike or are_distributions(array) else NUMBERS


def of_classes(array, labels):
    """The first of some labels that are classes of an output; None where none are."""
    return next((each for each in labels if _labels_say(each, array) == CLASSES), None)


def _has_classes(array):
    return array.ndim > 1 and array.shape[-1] > 1


def are_distributions(array):
    """Whether the last axis holds probabilities, two or more, that add up to one."""
    if not _has_classes(array) or array.dtype.kind != "f":
        return False
    return bool(array.min() >= 0 and np.abs(array.sum(-1) - 1).max() < _ROUNDING)


def chosen(kind, array, reference):
    """What an output chooses: class numbers `(num, ...)`, or bools for decisions.

    Args:
        kind: `CLASSES` or `DECISIONS`.
        array: the output.
        reference: the model's own output, which tells probabilities, cut in the middle, from logits, cut at zero.
    """
    if kind == CLASSES:
        return array.argmax(-1)
    return array > (0.5 if reference.min() >= 0 and reference.max() <= 1 else 0.0)


def agreement(kind, expected, given):
    """Share of equal classes or decisions in `[0, 1]`; None for numbers."""
    if kind == NUMBERS:
        return None
    if expected.shape != given.shape:
        return 0.0
    return float(np.mean(chosen(kind, expected, expected) == chosen(kind, given, expected)))
