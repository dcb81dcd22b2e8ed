"""The labels of a source that lie furthest out, gathered while its batches are read: a wrong one may be in any of them."""

import keras
import numpy as np


class Outlying:
    """For each array of labels the examples with the least value and the largest, and the first that is no whole number."""

    def __init__(self):
        self._found = {}

    def add(self, y):
        """Looks at the labels of a batch, in any structure; what is no array of numbers is passed over."""
        for place, array in enumerate(keras.tree.flatten(y)):
            if array is None or array.dtype.kind not in "biuf" or not array.size:
                continue
            for extreme, further in ((np.argmin, np.less), (np.argmax, np.greater)):
                row, value = _at(array, extreme(array))
                known = self._found.get((place, further))
                if known is None or further(value, known[1]):
                    self._found[place, further] = (row, value)
            if array.dtype.kind == "f" and (place, np.round) not in self._found and (array != np.round(array)).any():
                self._found[place, np.round] = _at(array, np.argmax(array != np.round(array)))

    def beside(self, y):
        """Labels in the same structure, each array with those examples behind its own."""
        arrays = [self._longer(place, array) for place, array in enumerate(keras.tree.flatten(y))]
        return keras.tree.pack_sequence_as(y, arrays)

    def _longer(self, place, array):
        kinds = [(place, kind) for kind in (np.less, np.greater, np.round)]
        rows = [self._found[kind][0] for kind in kinds if kind in self._found]
        fitting = [row for row in rows if array is not None and row.shape[1:] == array.shape[1:]]
        return np.concatenate([array, *fitting]) if fitting else array


def _at(array, index):
    """`(the example, with a first axis of one, the value)` at a flat index; a copy, which holds no whole batch in memory."""
    row = index // (array.size // len(array))
    return array[row : row + 1].copy(), array.reshape(-1)[index]
