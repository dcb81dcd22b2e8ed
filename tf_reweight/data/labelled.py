"""Examples with the labels that belong to them, read once and checked before anything is done with them."""

import dataclasses
import typing

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import is_sequence
from tf_reweight.data.examples import checked, input_specs, packed, pair, take_labelled
from tf_reweight.data.fitting import check_indices
from tf_reweight.graph.walking import input_structure, output_structure


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """Examples in memory.

    Attributes:
        arrays: one array `(num, ...)` per input of the model.
        labels: a structure of arrays `(num, ...)`, or None.
    """

    arrays: list
    labels: typing.Any

    @property
    def num(self):
        """How many."""
        return len(self.arrays[0])

    def batch(self, model, rows):
        """`(inputs, labels)` of some rows, inputs in the structure in which a model takes them; labels may be None."""
        x = packed(model, [array[rows] for array in self.arrays])
        if self.labels is None:
            return x, None
        return x, keras.tree.map_structure(lambda array: None if array is None else np.asarray(array)[rows], self.labels)


def read(model, x, y=None, argument="x"):
    """The `Labelled` of examples of any kind that `examples.take` knows.

    Args:
        model: a built Keras model.
        x: examples; a source of batches may have labels.
        y: labels of `x` where it is arrays, as `model.evaluate` takes them, or None.
        argument: the argument's name, for errors.

    Raises:
        TypeError, ValueError: for what holds no examples, or some that do not fit the model or their labels.
    """
    arrays, found = take_labelled(model, x, argument)
    arrays, labels = checked(arrays, input_specs(model, arrays), argument), found if y is None else y
    check_indices(model, arrays, argument)
    present = [array for array in keras.tree.flatten(labels) if array is not None]
    shapes = [np.shape(array) for array in present] if labels is not None else [arrays[0].shape]
    if not shapes or any(shape[:1] != arrays[0].shape[:1] for shape in shapes):
        fix = "Pass an array with as many labels as examples."
        received = {"labels": shapes[:5], "examples": len(arrays[0])}
        raise ValueError(errors.message("`y` must have a label for each example.", fix, **received))
    return Labelled(arrays, labels)


def parted(model, data):
    """`(x, y)` of `data` that may be examples or `(examples, labels)`; y is None where it is examples alone.

    What is one and what the other, `examples.take` says. Of a subclassed model a tuple of two is examples and labels here.
    """
    if input_structure(model) is not None:
        return pair(model, data) or (data, None)
    return data if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], tuple) else (data, None)


def given(model, data):
    """The `Labelled` of what a function was given as `data`, see `parted`; None for None."""
    return None if data is None else read(model, *parted(model, data), argument="data")


def in_order(y, names, argument):
    """The labels of each output."""
    if keras.tree.is_nested(y) and not is_sequence(y):
        missing = [name for name in y if name not in names]
        if missing:
            raise ValueError(errors.unknown(f"output of the labels in `{argument}`", missing[0], names))
        return [y.get(name) for name in names]
    labels = keras.tree.flatten(y)
    if len(labels) != len(names):
        fix = f"In this order: {names}, None for an output without loss and metrics."
        expected = f"`{argument}` must hold labels for each output, {len(names)}."
        raise ValueError(errors.message(expected, fix, labels=[np.shape(label) for label in labels]))
    return labels


def unlabelled(y, names):
    """The names of the outputs that labels, in any form in which `fit` takes them, say nothing of."""
    if keras.tree.is_nested(y) and not is_sequence(y):
        return [name for name in names if y.get(name) is None]
    labels = keras.tree.flatten(y)
    return [name for position, name in enumerate(names) if position >= len(labels) or labels[position] is None]


def of_one_output(model, y):
    """The labels of a model's only output, which may be in a dict of it; None where there are those of several."""
    if isinstance(y, dict):
        labels = keras.tree.flatten(y)
        return labels[0] if len(labels) == 1 else None
    several = is_sequence(y) and len(keras.tree.flatten(output_structure(model))) > 1
    return None if several else y
