"""The gradients that a training computes, seen from the call that applies them, inside the compiled step."""

import keras
from keras import ops

from tf_reweight.graph.optimizers import innermost

# Batches after which it is known well enough how the loss reacts, where there is time for them.
ENOUGH_BATCHES = 20
# How much of a moving average a new batch replaces, once there are enough.
_NEW = 0.02


def dense(gradient):
    """A gradient as one float32 tensor: that of a table of rows has each row as often as it was looked up, to be added up."""
    import tensorflow as tf

    return ops.cast(tf.convert_to_tensor(gradient), "float32")


class Listener:
    """Lets a function see every gradient that a training applies.

    Args:
        see: takes a dict from the `id` of each trainable variable to its gradient, or None.
    """

    def __init__(self, see):
        self._see, self._optimizer = see, None

    def open(self, optimizer):
        """Listens to an optimizer from now on; the training step has to be traced anew."""
        # Inside loss scaling: what overflowed does not come this far, and the rest has its own scale.
        self._optimizer = optimizer = innermost(optimizer)
        apply = optimizer.apply

        def listening(gradients, trainable_variables=None):
            variables = optimizer.trainable_variables if trainable_variables is None else trainable_variables
            self._see({id(variable): gradient for variable, gradient in zip(variables, gradients)})
            return apply(gradients, trainable_variables)

        optimizer.apply = listening

    def close(self):
        """Listens no more."""
        if self._optimizer is not None:
            vars(self._optimizer).pop("apply", None)
            self._optimizer = None


def can_listen(model=None):
    """Whether gradients can be seen here: in TensorFlow's training step, which runs in variables, of a model's optimizer."""
    return keras.backend.backend() == "tensorflow" and (model is None or model.optimizer is not None)


def average(kept, batches, values):
    """Takes the values of a batch into a moving average; those that are not finite would stay in it for ever, and are left out.

    Args:
        kept: variable of the shape of `values`, the average.
        batches: variable, a scalar: how many batches it has seen.
        values: float32 tensor.
    """
    seen, finite = batches.value, ops.isfinite(ops.sum(values))
    fresh = ops.where(finite, ops.maximum(1.0 / (seen + 1.0), _NEW), 0.0)
    values = ops.where(finite, values, kept)
    kept.assign(kept + fresh * (values - kept))
    batches.assign(seen + ops.cast(finite, "float32"))
