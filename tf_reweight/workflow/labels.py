"""Whether labels are what the loss of each output expects, looked at before any training."""

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import is_sequence
from tf_reweight.data.labelled import in_order, unlabelled
from tf_reweight.graph.losses import BINARY, ONE_HOT, OVERLAP, QUANTITIES, SPARSE, loss_name, losses_of, metrics_of


# What a model trains and is measured by without labels; a train_step alone measures nothing.
_OWN = "a compute_loss of its own, or a test_step beside its train_step"


def are_probabilities(outputs):
    """Whether outputs `(batch, classes)` add up to one."""
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(-1), 1.0, atol=1e-3))


def check_labels(task, scorer, feed, argument):
    """Raises where the labels of a `Feed` cannot be those of a task.

    Raises:
        ValueError: for a task without a loss, missing labels or outputs, classes as integers where one-hot is expected and the
            other way round, classes beyond the outputs, shapes that do not fit.
    """
    if scorer.has_own_steps:
        _check_for_own_steps(feed.labels(), argument)
    if task.by_class is not None or scorer.by_class:
        return
    if all(loss is None for loss in keras.tree.flatten(task.loss)):
        expected = "The model must be compiled with a loss on an output: stages are compared by it, and what layers add with "
        fix = f"Compile it with a loss, as \"mse\" with (x, x) for an autoencoder, or give its class {_OWN}."
        raise ValueError(errors.message(f"{expected}`add_loss` is of no output.", fix, loss=task.loss))
    y = feed.labels()
    if y is None:
        fix = f"Pass (x, y), for an autoencoder (x, x), or give the model's class {_OWN}, which needs none."
        raise ValueError(errors.message(f"`{argument}` must hold labels: the loss compares with them.", fix, labels=None))
    labels = in_order(y, scorer.names, argument)
    # Several losses of a single output add up.
    single = len(scorer.names) == 1 and is_sequence(task.loss)
    losses = [task.loss] if single else losses_of(task.loss, scorer.names)
    _check_present(task, losses, y, scorer, argument)
    for name, loss, label, output in zip(scorer.names, losses, labels, keras.tree.flatten(scorer.outputs)):
        if loss is not None:
            _check_numbers(label, f"output {name!r}", argument)
            for each in keras.tree.flatten(loss):
                cleaned = _without(np.asarray(label), getattr(each, "ignore_class", None))
                _check(loss_name(each), cleaned, output, f"output {name!r}", argument)


def _check_for_own_steps(y, argument):
    """Raises where a class with steps of its own would get other labels than it was given: batches hold no None."""
    labels = keras.tree.flatten(y)
    if any(label is None for label in labels) and len(labels) > 1:
        expected = f"`{argument}` must hold no None among its labels: the model's class trains or measures by itself."
        fix = "In a dict leave out what has no labels, or pass an array that the class passes over."
        shapes = [label if label is None else np.shape(label) for label in labels]
        raise ValueError(errors.message(expected, fix, labels=shapes))


def _check_present(task, losses, y, scorer, argument):
    """Raises where labels are missing of an output that is measured by them."""
    names = scorer.names
    missing = unlabelled(y, names)
    metrics = [metrics_of(given, names) for given in (task.metrics, task.weighted_metrics) if given]
    measuring = [[item for item in keras.tree.flatten(each) if item is not None] for each in zip(losses, *metrics)]
    needed = [name for name, measures in zip(names, measuring) if measures and name in missing]
    received = {"labels": [name for name in names if name not in missing]}
    if needed:
        expected = f"`{argument}` must hold labels for each output that has a loss or metrics."
        raise ValueError(errors.message(expected, f"Add {', '.join(map(repr, needed))}.", **received))
    if metrics and missing and isinstance(y, dict) and not set(missing) <= set(y):
        # Keras looks up each output in them as soon as any has a metric.
        expected = f"The labels of `{argument}` must name each output, where the model is compiled with metrics."
        added = "an array that the class passes over" if scorer.has_own_steps else "None"
        fix = f"Add {added} for {', '.join(repr(name) for name in missing if name not in y)}."
        raise ValueError(errors.message(expected, fix, **received))


def _check_numbers(label, output, argument):
    kind = np.asarray(label).dtype.kind
    if kind not in "biuf":
        fix = "Number classes that are words, as np.unique(words, return_inverse=True) does."
        expected = f"The labels of `{argument}` for {output} must be numbers."
        raise TypeError(errors.message(expected, fix, type=str(np.asarray(label).dtype), first=np.asarray(label).ravel()[0]))


def _without(label, ignored):
    """Labels in which those that the loss ignores are class 0."""
    return label if ignored is None else np.where(label == ignored, 0, label)


def _check(loss, label, output, what, argument):
    shape, wanted = label.shape[1:], output.shape[1:]
    received = {"loss": loss, "labels": label.shape, "dtype": str(label.dtype), "output": ("batch", *wanted)}
    if loss in SPARSE:
        if shape == wanted and wanted[-1:] != (1,):
            fix = "Pass `y.argmax(-1)`, or compile with categorical_crossentropy."
            expected = f"Labels of {what} in `{argument}` must be integers, not one-hot."
            raise ValueError(errors.message(expected, fix, **received))
        _check_shape(shape, (wanted[:-1], (*wanted[:-1], 1)), received, what, argument)
        _check_classes(label, wanted[-1], received, what, argument)
    if loss in ONE_HOT:
        if shape in (wanted[:-1], (*wanted[:-1], 1)) and wanted[-1:] != (1,):
            fix = "Pass `keras.utils.to_categorical(y, num_classes)`, or compile with sparse_categorical_crossentropy."
            expected = f"Labels of {what} in `{argument}` must be one-hot, not integers."
            raise ValueError(errors.message(expected, fix, **received))
        _check_shape(shape, (wanted,), received, what, argument)
    if loss in BINARY + QUANTITIES + OVERLAP:
        allowed = (wanted, wanted[:-1]) if wanted[-1:] == (1,) else (wanted,)
        allowed = (*allowed, (1,)) if wanted == () else allowed
        _check_shape(shape, allowed, received, what, argument)
    if loss in BINARY and not (label.min() >= 0 and label.max() <= 1):
        fix = "Pass 0 and 1; for several classes use sparse_categorical_crossentropy."
        raise ValueError(errors.message(f"Labels of {what} in `{argument}` must be in 0..1.", fix, **received))


def _check_shape(shape, allowed, received, what, argument):
    if shape not in allowed:
        shapes = " or ".join(str(("batch", *item)) for item in dict.fromkeys(allowed))
        raise ValueError(
            errors.message(f"Labels of {what} in `{argument}` must have the shape {shapes}.", "Check them.", **received)
        )


def _check_classes(label, num, received, what, argument):
    if label.dtype.kind == "f" and (label != np.round(label)).any():
        fix = "Pass class numbers, or compile with another loss, such as mean_squared_error for quantities."
        raise ValueError(errors.message(f"Labels of {what} in `{argument}` must be whole numbers.", fix, **received))
    if label.min() < 0 or label.max() >= num:
        fix = "Number the classes from 0, or give the model an output for each."
        raise ValueError(
            errors.message(
                f"Labels of {what} in `{argument}` must be in 0..{num - 1}, the model's outputs.", fix,
                lowest=float(label.min()), highest=float(label.max()), **received,
            )
        )  # fmt: skip
