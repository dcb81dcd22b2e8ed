"""Copies of operations, for models that are built anew."""

import keras

from tf_reweight.shrinking.rebuild import is_kept_as_it_is, own_weights, without_penalties


class Copied:
    """A fresh operation that takes over the weights at its first call, which builds it.

    A Lambda or custom layer without weights is used as it is: what it computes may not be in its config.

    Args:
        operation: the layer or operation.
        name: of the copy; default its own.
        changes: entries of the config that differ.
    """

    def __init__(self, operation, name=None, **changes):
        self.operation, self.filled = operation, False
        self.copy = _fresh(operation, {"name": name or operation.name, **changes})

    def __call__(self, *args, **kwargs):
        outputs = self.copy(*args, **kwargs)
        if not self.filled and self.copy is not self.operation and isinstance(self.copy, keras.layers.Layer):
            for variable, old in zip(self.copy.weights, own_weights(self.operation)):
                variable.assign(old.value)
            if isinstance(self.copy, keras.layers.Normalization):
                self.copy.finalize_state()
        self.filled = True
        return outputs


def _fresh(operation, changes):
    if not isinstance(operation, keras.layers.Layer):
        return type(operation).from_config(operation.get_config())
    if is_kept_as_it_is(operation):
        return operation
    return type(operation).from_config({**without_penalties(operation.get_config()), **changes})


def input_like(tensor):
    """A new input of the same name, shape and type."""
    name = tensor._keras_history.operation.name
    return keras.Input(batch_shape=tuple(tensor.shape), dtype=tensor.dtype, name=name, sparse=tensor.sparse or None)
