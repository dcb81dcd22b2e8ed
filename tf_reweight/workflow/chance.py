"""Whether a model that counts as trained tells classes apart on the data it is given, before hours are spent on it."""

import dataclasses

import numpy as np

from tf_reweight import errors
from tf_reweight.data import splits, value_range
from tf_reweight.workflow.measures import outputs_of

_NUM_EXAMPLES = 512
_BATCH = 64
# Standard errors above chance: guessing gets there once in 40 times.
_MARGIN = 2.0


def check_better_than_chance(model, data):
    """Raises where a model is no better than guessing on training and validation examples.

    The measure is the mean of the recalls of the classes, which is 1 / num_classes for guessing however often each class is.

    Args:
        model: a classifier that is said to be trained.
        data: the `Dataset`.

    Raises:
        ValueError: with what to check, and with the range of values that would do better where there is one.
    """
    sample = _sample(data)
    recall, bound = _mean_recall(model, sample), _bound(sample.train[1])
    if recall > bound:
        return
    better = _better_range(model, sample, bound)
    fix = f"With data.value_range={better!r} they are told apart: set it. " if better is not None else ""
    raise ValueError(
        errors.message(
            f"A model with `train.epochs: 0` must be trained: of {data.name!r} it gets {recall:.1%} right, as guessing would.",
            f"{fix}Check the range of the pixels (`data.value_range`: raw is 0 to 255), what the model does to its input (such "
            "as Rescaling), the order of the classes and that its weights are trained; else set `train.epochs`.",
            lowest_input=float(sample.train[0].min()),
            highest_input=float(sample.train[0].max()),
            class_names=data.class_names[:10],
        )
    )


def _sample(data):
    """The data set with a few examples, every class in proportion, as each of its splits."""
    pairs = []
    for x, y in (data.validation, data.train):
        order = splits.stratified_order(y, seed=0)[: _NUM_EXAMPLES // 2]
        pairs.append((x[order], y[order]))
    few = tuple(np.concatenate(parts) for parts in zip(*pairs))
    return dataclasses.replace(data, train=few, validation=few, test=few)


def _mean_recall(model, data):
    x, y = data.train
    outputs = np.concatenate([outputs_of(model, x[i : i + _BATCH]) for i in range(0, len(x), _BATCH)])
    hits = np.argmax(outputs, axis=-1) == y
    return float(np.mean([hits[y == label].mean() for label in np.unique(y)]))


def _bound(labels):
    """The mean recall that guessing reaches with its luck: chance and some standard errors."""
    counts = np.unique(labels, return_counts=True)[1]
    chance = 1.0 / len(counts)
    return chance + _MARGIN * np.sqrt(np.sum(chance * (1.0 - chance) / counts)) / len(counts)


def _better_range(model, data, bound):
    """The range in which the model does best, where that is better than guessing; None without one."""
    if data.white is None:
        return None
    recalls = {given: _mean_recall(model, data.in_range(given)) for given in (value_range.RAW, value_range.UNIT, (-1.0, 1.0))}
    best = max(recalls, key=recalls.get)
    return best if recalls[best] > bound else None
