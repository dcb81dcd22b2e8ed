"""A training that breaks stops where it breaks, and says which layer broke first, or that nothing is left."""

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.kernels.compiled_step import compiled


class Finite(keras.callbacks.Callback):
    """Ends a `fit` in which the loss or a weight is no finite number, with an error that names the layer.

    Weights are looked at before each batch, so that the layer is known whose weights broke first: once the loss is NaN, one
    more step breaks all of them. A `fit` that leaves nothing but zeros in every kernel ends in an error as well: no later stage
    brings such a network back.

    Args:
        stage: for the error.
        feeds: the `data.feeds.Feed`s of training and validation. Before the training is blamed they are read once more: where
            it is they that are not finite, the error says so.
    """

    def __init__(self, stage, feeds=()):
        super().__init__()
        self.stage, self._feeds, self._epoch, self._sums = stage, feeds, 0, None

    def on_train_begin(self, logs=None):
        self._paths = [variable.path for variable in self.model.trainable_variables]
        self._sums = compiled(self._finite)
        self._began_at_zero = self._is_zero()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        self._check_weights()

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is not None and not np.isfinite(loss):
            self._check_weights()
            self._refuse("The loss", "no weight is broken yet: a loss or a metric of your own, or an activation, overflows")
        validation = (logs or {}).get("val_loss")
        if validation is not None and not np.isfinite(validation):
            self._refuse("The loss on validation examples", "the weights are finite: look at these examples")

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is not None and not np.isfinite(loss):
            self._check_weights()

    def on_train_end(self, logs=None):
        self._sums = None
        if self._is_zero() and not self._began_at_zero:  # here averages have been put in place of the weights, if there are any
            fix = "Lower the strength of penalties, and see which callback sets weights: it may swap them with others."
            raise ValueError(errors.message("Some kernel must keep a weight other than zero.", fix, stage=self.stage))

    def _is_zero(self):
        kernels = [variable for variable in self.model.trainable_variables if len(variable.shape) > 1]
        return bool(kernels) and not any(as_numpy(kernel).any() for kernel in kernels)

    def _finite(self):
        variables = [variable.value for variable in self.model.trainable_variables]
        return keras.ops.stack([keras.ops.all(keras.ops.isfinite(variable)) for variable in variables])

    def _check_weights(self):
        if not self._paths:
            return
        finite = keras.ops.convert_to_numpy(self._sums())
        if finite.all():
            return
        broken = [path for path, good in zip(self._paths, finite) if not good]
        where = f"first {broken[0]}" if len(broken) < len(finite) else f"all weights in one step, {broken[0]} among them"
        self._refuse("Every weight", where)

    def _refuse(self, what, where):
        for feed in self._feeds:
            for _ in () if feed.in_memory else feed.batches():  # arrays were looked at when they came
                pass
        fix = "Lower the learning rate (train.learning_rate and its like), clip gradients, or check the labels' scale."
        expected = f"{what} must stay finite (no NaN, no infinity)."
        raise ValueError(errors.message(expected, fix, stage=self.stage, epoch=self._epoch, broken=where))
