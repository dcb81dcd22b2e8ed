"""Zeros kept in averages of the weights as well."""

import keras
from keras import ops

from tf_reweight.pruning.prune import keep_zeros


class KeepZeros(keras.callbacks.Callback):
    """Holds a model's exact zeros from this `fit` on, whatever optimizer, EMA included.

    It calls `keep_zeros` when `fit` begins: the masks stay on the model afterwards and hold in later fits, as those of `prune`
    do, until `release(model)`. `prune` already holds zeros by constraints; this callback is for a pruned model whose weights
    were just loaded, and for optimizers with `use_ema=True`, which overwrite the weights with an average when training ends.
    All constraints, those of clusters too, are applied to that once more.
    """

    def on_train_begin(self, logs=None):
        keep_zeros(self.model)
        self.model.make_train_function(force=True)

    def on_train_end(self, logs=None):
        for variable in self.model.trainable_variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable.value))
            elif keras.backend.backend() == "jax":
                # Keras leaves donated buffers behind after `fit` with EMA; a fresh copy is safe to save.
                variable.assign(ops.copy(variable.value))
