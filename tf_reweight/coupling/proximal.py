"""The proximal solver for coupled penalties: a soft threshold on groups that span many variables."""

import keras
from keras import ops

from tf_reweight import errors, regularizers
from tf_reweight.attachment import attach, attachments, drop_compiled_steps
from tf_reweight.proximal import silenced


class CoupledProximal(keras.callbacks.Callback):
    """Solves for the coupled penalties on the model by proximal steps instead of gradients.

    After each training step on the loss alone every group is shrunk over all its variables at once,
    `r_g <- max(0, r_g - step * strength * P_g * rate)`, with the penalty weights P that `callbacks.Reweighting` renews. `rate`
    is the learning rate relative to the largest so far, so that shrinking ends with the optimizer's steps when a schedule
    lowers them.

    Why not by gradient: an optimizer such as Adam moves each weight by about the learning rate and no more, however strong
    the penalty. A BatchNorm's gamma starts at 1, so a group needs many hundred steps before it can be gone; a soft threshold
    scales all of a group's weights alike, the large ones with the small.

    L2 and other regularizers stay in the loss. During `fit`, `loss` and `val_loss` are without the penalty.

    Args:
        step: factor on `strength`, > 0; `step * strength` is what one training step takes off a group of weight 1.

    Example:
        >>> regularize_coupled(model, strength=1.0)
        >>> model.fit(x, y, epochs=8, callbacks=[Reweighting(every=2, learning_rate=2e-3), CoupledProximal(step=5e-3)])
        >>> prune_groups(model)
    """

    def __init__(self, step=5e-3):
        super().__init__()
        regularizers.check_number("step", step, minimum=0.0, exclusive=True)
        self.step = float(step)
        self._items, self._peak, self._apply = [], 0.0, None

    def on_train_begin(self, logs=None):
        attach(self.model)
        items = attachments(self.model)
        others = [item.target.name for item in items if item.regularizer.structure is not None]
        if others or not items:
            raise ValueError(
                errors.message(
                    "CoupledProximal needs coupled penalties on the model, and no others.",
                    "Call regularize_coupled(model, ...); for penalties on single kernels there is `Proximal`.",
                    others=others[:5],
                )
            )
        self._items, self._peak = items, 0.0
        for item in items:
            item.target.variable.regularizer = silenced(item.target.regularizer)
        self._apply = self._shrink
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self._apply = tf.function(self._shrink)
        self._renew_step()

    def on_train_batch_end(self, batch, logs=None):
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._peak = max(self._peak, rate)
        if rate > 0:
            self._apply(ops.convert_to_tensor(rate / self._peak, "float32"))

    def on_train_end(self, logs=None):
        for item in self._items:
            # The layer's attribute was never touched, so that a model saved meanwhile is the usual one.
            item.target.variable.regularizer = getattr(item.target.layer, item.target.regularizer_attribute)
        self._items, self._apply = [], None
        drop_compiled_steps(self.model)

    def _shrink(self, fraction):
        for penalty in (item.regularizer for item in self._items):
            penalty.soft_threshold(self.step * penalty.strength * fraction * penalty.penalty_weights)

    def _renew_step(self):
        drop_compiled_steps(self.model)
        self.model.make_train_function(force=True)
