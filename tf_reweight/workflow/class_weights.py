"""Whether the examples can be weighed by their classes, looked at before any training."""

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.data.splits import numbered
from tf_reweight.graph.losses import BINARY, ONE_HOT, SPARSE, loss_name


def check(weights, task, feed, outputs=None):
    """Raises where Keras would end in the middle of the training, or weigh by numbers that are no classes.

    Args:
        weights: `train.class_weight`, or None.
        task: how the model is trained.
        feed: the `Feed` of the training.
        outputs: the model's, of a batch, by which classes are numbered where the loss says so; or None.

    Raises:
        ValueError: for examples without labels or with weights of their own, several outputs, a label for each pixel, several
            labels for one example, quantities, and classes that there are not.
    """
    if weights is None:
        return
    _, y, own = feed.first()
    if y is None:
        _refuse("needs labels, which say the classes", "Leave it out, or give labels: (x, y).", labels=None)
    if own is not None:
        fix = "Leave one of them out, or multiply each example's weight by that of its class."
        _refuse("cannot stand beside weights of the examples", fix, sample_weight=np.shape(keras.tree.flatten(own)[0]))
    labels, losses = keras.tree.flatten(y), [loss_name(loss) for loss in keras.tree.flatten(task.loss)] or [None]
    shapes = [np.shape(label) for label in labels]
    fix = "Leave it out, and give weights of the examples, the third of (x, y, sample_weight)."
    if len(labels) > 1:
        _refuse("is for models with one output", fix, labels=shapes)
    (label,) = map(np.asarray, labels)
    if label.ndim > 2 or losses[0] in SPARSE and label.shape[1:] not in ((), (1,)):
        _refuse("is for one label for each example", fix, labels=shapes)
    # Keras takes the largest of several as the class, and looks up whatever number there is.
    classes = label if label.ndim == 1 else numbered(label, label.shape)
    if classes.ndim > 1 or (classes != np.round(classes)).any():
        _refuse("is for examples of one class each", fix, loss=losses[0], labels=shapes)
    num = _num_classes(losses[0], label, () if outputs is None else keras.tree.flatten(outputs))
    strange = [number for number in weights if number < 0 or num is not None and number >= num]
    if strange:  # Keras passes them over
        which = "of classes, which are numbered from 0" if num is None else f"of the classes 0..{num - 1}"
        _refuse(f"must be {which}", "Number the classes as the labels do.", unknown=strange)


def _num_classes(loss, label, outputs):
    """How many classes there are; None where neither the labels nor the loss say it."""
    if label.ndim == 2 and label.shape[1] > 1:
        return label.shape[1]
    width = outputs[0].shape[-1] if len(outputs) == 1 and outputs[0].ndim > 1 else None
    if loss in BINARY:
        return 2
    return width if loss in SPARSE + ONE_HOT else None


def _refuse(what, fix, **received):
    raise ValueError(errors.message(f"`train.class_weight` {what}.", fix, **received))
