"""Which outputs of a model choose one of several classes, so that it matters which entry is the largest."""

import numpy as np

from tf_reweight.graph.losses import BINARY, ONE_HOT, QUANTITIES, SPARSE, is_chosen_by_shape, loss_name, losses_of
from tf_reweight.graph.walking import output_keys
from tf_reweight.tflite.comparing import unlike_channels

# Sums of probabilities differ from one by rounding.
_ROUNDING = 1e-2


def classes_of_model(model, arrays):
    """For each output of a model whether it chooses one of several classes: by its compiled loss, else as `classes_by`.

    Args:
        model: the Keras model.
        arrays: its outputs, a list of `(num, ...)` in the order of its structure.
    """
    names = list(getattr(model, "output_names", None) or [])
    names = names if len(names) == len(arrays) else [None] * len(arrays)
    names = [key or name for key, name in zip(output_keys(model, len(arrays)), names)]
    return classes_by(losses_of(getattr(model, "loss", None), names), arrays)


def classes_by(losses, arrays):
    """For each output whether it chooses one of several classes.

    The usual losses of Keras say it. Beside an output that is known to choose, one whose loss does not say it counts if its
    entries are probabilities; if none is known, by what `is_classes` sees in its values.

    Args:
        losses: one per output, None where there is none.
        arrays: the outputs, `(num, ...)` each.
    """
    known = [_says(loss, array) for loss, array in zip(losses, arrays)]
    seen = are_distributions if any(known) else is_classes
    return [bool(seen(array)) if says is None else says for says, array in zip(known, arrays)]


def _says(loss, array):
    """What a loss says of its output; None where it says nothing."""
    if is_chosen_by_shape(loss):
        return array.ndim > 1 and array.shape[-1] > 1
    name = loss_name(loss)
    if name in SPARSE + ONE_HOT:
        return array.ndim > 1 and array.shape[-1] > 1
    return False if name in BINARY + QUANTITIES else None


def is_classes(array):
    """Whether an output looks as if it chose among classes: `(num, classes)` of like scale, or probabilities at any rank."""
    if array.ndim < 2 or array.shape[-1] < 2 or array.dtype.kind != "f" or unlike_channels(array) is not None:
        return False
    return array.ndim == 2 or are_distributions(array)


def are_distributions(array):
    """Whether the last axis holds probabilities, two or more, that add up to one."""
    if array.ndim < 2 or array.shape[-1] < 2 or array.dtype.kind != "f":
        return False
    return bool(array.min() >= 0 and np.abs(array.sum(-1) - 1).max() < _ROUNDING)
