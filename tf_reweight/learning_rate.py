"""Learning rates over the epochs of a `fit`."""

import math

import keras

from tf_reweight.checks import check_number


class CosineDecay(keras.callbacks.Callback):
    """Lowers the learning rate along half a cosine over the whole `fit`, decided from the epoch and batch alone.

    Afterwards the optimizer has its rate of before again.

    The first step after the warm-up has all of it, and the last one still moves: so does the only step of a `fit`.

    Args:
        learning_rate: where it starts, > 0.
        warmup: epochs of linear rise from zero, >= 0.
    """

    def __init__(self, learning_rate, warmup=0):
        super().__init__()
        check_number("learning_rate", learning_rate, exclusive=True, fix="Try 1e-3.")
        check_number("warmup", warmup, fix="It counts epochs.")
        self.learning_rate, self.warmup = learning_rate, warmup
        self._epoch, self._before = 0, None

    def on_train_begin(self, logs=None):
        self._before = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_end(self, logs=None):
        self.model.optimizer.learning_rate = self._before

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        steps, epochs = self.params.get("steps"), self.params["epochs"]
        inside = self._epoch + (batch / steps if steps else 0.0)
        rising = min(1.0, (inside + 1.0 / (steps or 1)) / self.warmup) if self.warmup else 1.0
        progress = max(0.0, inside - self.warmup) / max(1e-9, epochs - self.warmup)
        self.model.optimizer.learning_rate = self.learning_rate * rising * half_cosine(progress)


def half_cosine(progress):
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
