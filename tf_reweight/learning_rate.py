"""Learning rates over the epochs of a `fit`."""

import math

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_number
from tf_reweight.graph import one_fit
from tf_reweight.graph.access import schedule_of
from tf_reweight.graph.compiled import rate_of


class BorrowedRate:
    """The learning rate of an optimizer, which a callback sets while `fit` runs and gives back afterwards.

    Args:
        optimizer: of Keras, with a number as its learning rate.

    Attributes:
        before: the rate it had.
    """

    def __init__(self, optimizer):
        self._optimizer, self.before, self._last = optimizer, rate_of(optimizer), None

    def set(self, rate):
        """Sets another rate for now."""
        self._optimizer.learning_rate = self._last = rate

    def give_back(self):
        """Sets the rate of before."""
        self._optimizer.learning_rate = self.before

    def give_back_if_unchanged(self):
        """Sets the rate of before, unless somebody else has set another one meanwhile."""
        # The optimizer may hold what was set with fewer digits.
        if self._last is not None and np.isclose(rate_of(self._optimizer), self._last, rtol=1e-2, atol=0.0):
            self.give_back()


class CosineDecay(keras.callbacks.Callback):
    """Lowers the learning rate along half a cosine over the whole `fit`, decided from the epoch and batch alone.

    Afterwards the optimizer has its rate of before again; where `fit` is interrupted, from the next one on.

    The first step after the warm-up has all of it, and the last one still moves: so does the only step of a `fit`.

    Args:
        learning_rate: where it starts, > 0.
        warmup: epochs of linear rise from zero, >= 0.

    Raises:
        ValueError: for a value out of range; at the start of `fit`, for an optimizer whose rate is a schedule or a function.
    """

    def __init__(self, learning_rate, warmup=0):
        super().__init__()
        check_number("learning_rate", learning_rate, exclusive=True, fix="Try 1e-3.")
        check_number("warmup", warmup, fix="It counts epochs.")
        self.learning_rate, self.warmup = learning_rate, warmup
        self._epoch, self._rate = 0, None

    def on_train_begin(self, logs=None):
        if self.warmup > self.params["epochs"]:
            fix = "Train for longer, or lower `warmup`: the rate would never be what it was given as."
            expected = f"`warmup` must be no longer than the training, {self.params['epochs']} epochs."
            raise ValueError(errors.message(expected, fix, warmup=self.warmup))
        schedule = schedule_of(self.model.optimizer)
        if schedule is not None:
            fix = "Compile with a number as learning_rate, or leave CosineDecay out."
            expected = "CosineDecay sets the learning rate, and the optimizer's must be a number."
            raise ValueError(errors.message(expected, fix, learning_rate=schedule))
        self._rate = BorrowedRate(self.model.optimizer)
        one_fit.begin(self.model, self, self._rate.give_back_if_unchanged)

    def on_train_end(self, logs=None):
        self._rate.give_back()
        one_fit.end(self.model, self)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        steps, epochs = self.params.get("steps"), self.params["epochs"]
        inside = self._epoch + (batch / steps if steps else 0.0)
        rising = min(1.0, (inside + 1.0 / (steps or 1)) / self.warmup) if self.warmup else 1.0
        progress = max(0.0, inside - self.warmup) / max(1e-9, epochs - self.warmup)
        self._rate.set(self.learning_rate * rising * half_cosine(progress))


def half_cosine(progress):
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
