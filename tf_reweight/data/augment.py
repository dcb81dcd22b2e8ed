"""Training images moved about a little, so that a small net learns more than their places."""

import keras
import numpy as np


class Shifted(keras.utils.PyDataset):
    """Batches in a new order each epoch, every image moved by up to `shift` pixels; the gap is filled with black.

    What an epoch holds depends on `seed` and the epoch alone, so that an interrupted run goes on with the same batches: give
    `epochs_in_order()` to `fit` as a callback.

    Args:
        x: float32 `(num, height, width, channels)`.
        y: labels `(num,)`.
        batch_size: examples per batch.
        shift: largest move in pixels, in each direction; 0 only shuffles.
        seed: of the order and the moves.
        black: what fills the gap, such as -1 for images in [-1, 1].
    """

    def __init__(self, x, y, batch_size, shift, seed=0, black=0.0):
        super().__init__()
        self.black = black
        self.x, self.y = x, y
        self.batch_size, self.shift, self.seed = batch_size, shift, seed
        self.start(0)

    def start(self, epoch):
        """Sets the order and the moves to those of an epoch."""
        self.epoch = epoch
        self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.x))

    def epochs_in_order(self):
        """A callback that tells which epoch it is, also where a resumed `fit` begins with a later one."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.start(epoch))

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index):
        picked = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        if not self.shift:
            return self.x[picked], self.y[picked]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        offsets = rng.integers(-self.shift, self.shift + 1, (len(picked), 2))
        return moved(self.x[picked], offsets, self.black), self.y[picked]


def moved(images, offsets, black=0.0):
    """Images `(batch, height, width, channels)` moved by `offsets` `(batch, 2)` pixels down and right, black filled in."""
    reach = int(np.abs(offsets).max(initial=0))
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), constant_values=black)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    picked = windows[np.arange(len(images)), reach - offsets[:, 0], reach - offsets[:, 1]]
    return np.moveaxis(picked, 1, -1)
