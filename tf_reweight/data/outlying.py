"""The labels of a source that lie furthest out, gathered while its batches are read: one wrong label is in any of them."""

import keras
import numpy as np


class Outlying:
    """For each array of labels the example with the least value and that with the largest."""

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

    def beside(self, y):
        """Labels in the same structure, each array with those two examples behind its own."""
        arrays = [self._longer(place, array) for place, array in enumerate(keras.tree.flatten(y))]
        return keras.tree.pack_sequence_as(y, arrays)

    def _longer(self, place, array):
        rows = [self._found[key][0] for key in ((place, np.less), (place, np.greater)) if key in self._found]
        fitting = [row for row in rows if array is not None and row.shape[1:] == array.shape[1:]]
        return np.concatenate([array, *fitting]).astype(array.dtype) if fitting else array


def _at(array, index):
    """`(the example, with a first axis of one, the value)` at a flat index; a copy, which holds no whole batch in memory."""
    row = index // (array.size // len(array))
    return array[row : row + 1].copy(), array.reshape(-1)[index]
