"""The best constant answer to a task: what a model must beat to have learned anything."""

import keras
import numpy as np

from tf_reweight.data.labelled import in_order
from tf_reweight.graph.losses import BINARY, ONE_HOT, SPARSE, loss_name, losses_of

_LEAST = 1e-7


def constant_outputs(task, scorer, feed):
    """One array per output that is the same for every example: the mean of the labels, as its loss wants it.

    For classes it is their frequency, as probability or logit; for quantities their mean.

    Args:
        task, scorer: of the run.
        feed: the training examples.

    Returns:
        List of arrays in the shapes of the outputs without the batch axis; None where a loss of the user's own, labels of
        another shape, or a class that measures by itself leave it unknown.
    """
    if not scorer.measures_files or scorer.by_class:
        return None
    sums, num = None, 0
    outputs = keras.tree.flatten(scorer.outputs)
    losses = losses_of(task.loss, scorer.names)
    for _, y, _ in feed.batches():
        given = in_order(y, scorer.names, "train")
        parts = [_summed(loss, label, output) for loss, label, output in zip(losses, given, outputs)]
        if any(part is None for part in parts):
            return None
        sums = parts if sums is None else [one + other for one, other in zip(sums, parts)]
        num += next(len(label) for label in given if label is not None)
    return [_answer(loss, total / num, output) for loss, total, output in zip(losses, sums, outputs)]


def _summed(loss, label, output):
    """The sum of labels in the form of an output; None where that is not known."""
    shape = output.shape[1:]
    if loss is None or label is None:
        return np.zeros(shape)
    name = loss_name(loss)
    label = np.asarray(label)
    if name in SPARSE:
        whole = np.where((label >= 0) & (label < shape[-1]), label, 0).astype("int64").reshape(len(label), *shape[:-1])
        return np.eye(shape[-1])[whole].sum(0)
    if name is None or label.size != len(label) * int(np.prod(shape)):
        return None
    return label.reshape(len(label), *shape).astype("float64").sum(0)


def _answer(loss, mean, output):
    """The mean of labels as what the model gives: a probability, a logit or a quantity."""
    name = loss_name(loss)
    if getattr(loss, "from_logits", False) or (name in SPARSE + ONE_HOT + BINARY and output.min() < 0):
        mean = np.clip(mean, _LEAST, 1.0 - _LEAST)
        mean = np.log(mean) - np.log1p(-mean) if name in BINARY else np.log(mean)
    return mean.astype("float32")
