"""Training images moved about a little, so that a small net learns more than their places."""

import keras
import numpy as np


class Shuffled(keras.utils.PyDataset):
    """Batches in a new order each epoch.

    What an epoch holds depends on `seed` and the epoch alone, so that an interrupted run goes on with the same batches: give
    `epochs_in_order()` to `fit` as a callback.

    Args:
        x: array, or structure of arrays, `(num, ...)`.
        y: labels, the same; or None. None for one output of several is zeros here, which nothing reads: Keras takes a None in
            arrays for an output without loss and metrics, and none in batches.
        batch_size: examples per batch.
        seed: of the order.
        weight: sample weights, the same; or None. None for one output of several is ones.
    """

    def __init__(self, x, y, batch_size, seed=0, weight=None):
        super().__init__()
        self.num = len(keras.tree.flatten(x)[0])
        parts = ((x, 0.0), (y, 0.0), (weight, 1.0))
        self.parts = tuple(self._filled(part, value) for part, value in parts if part is not None)
        self.batch_size, self.seed = batch_size, seed
        self.start(0)

    def start(self, epoch):
        """Sets the order, and what else changes, to that of an epoch."""
        self.epoch = epoch
        self._order = np.random.default_rng((self.seed, epoch)).permutation(self.num)

    def epochs_in_order(self):
        """A callback that tells which epoch it is, also where a resumed `fit` begins with a later one."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.start(epoch))

    def _filled(self, part, value):
        filler = np.full((self.num,), value, "float32")
        return keras.tree.map_structure(lambda array: filler if array is None else array, part)

    def __len__(self):
        return -(-self.num // self.batch_size)

    def __getitem__(self, index):
        picked = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        return tuple(keras.tree.map_structure(lambda array: array[picked], part) for part in self.parts)


class Shifted(Shuffled):
    """The same with every image moved by up to `shift` pixels; the gap is filled with black.

    Args:
        x: float32 `(num, height, width, channels)`.
        y: labels `(num,)`.
        batch_size: examples per batch.
        shift: largest move in pixels, in each direction; 0 only shuffles.
        seed: of the order and the moves.
        black: what fills the gap, such as -1 for images in [-1, 1].
    """

    def __init__(self, x, y, batch_size, shift, seed=0, black=0.0):
        super().__init__(x, y, batch_size, seed)
        self.shift, self.black = shift, black

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        if not self.shift:
            return x, y
        rng = np.random.default_rng((self.seed, self.epoch, index))
        offsets = rng.integers(-self.shift, self.shift + 1, (len(x), 2))
        return moved(x, offsets, self.black), y


def moved(images, offsets, black=0.0):
    """Images `(batch, height, width, channels)` moved by `offsets` `(batch, 2)` pixels down and right, black filled in."""
    reach = int(np.abs(offsets).max(initial=0))
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), constant_values=black)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    picked = windows[np.arange(len(images)), reach - offsets[:, 0], reach - offsets[:, 1]]
    return np.moveaxis(picked, 1, -1)
