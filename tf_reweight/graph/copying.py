"""Copies of operations, for models that are built anew."""


import keras

from tf_reweight.graph.additions import addition_class, additions_of
from tf_reweight.graph.keras_classes import is_keras_own


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


def own_weights(layer):
    """The weights of a layer without those of penalties put on it."""
    foreign = {id(variable) for addition in additions_of(layer) for variable in addition.variables}
    return [variable for variable in layer.weights if id(variable) not in foreign]


def is_kept_as_it_is(operation):
    """Whether a copy of a model takes the very object: a Lambda or custom layer without weights."""
    if not isinstance(operation, keras.layers.Layer) or operation.variables:
        return False
    return isinstance(operation, keras.layers.Lambda) or not is_keras_own(type(operation))


def without_penalties(config):
    """A layer's config without our penalties, which are bound to kernels of the old size; other regularizers stay."""
    if isinstance(config, (list, tuple)):
        return type(config)(without_penalties(item) for item in config)
    if not isinstance(config, dict):
        return config
    addition = addition_class(config)
    if addition is not None:
        return addition.remainder(config["config"])
    return {key: without_penalties(value) for key, value in config.items()}


def input_shaped(tensor, shape_of):
    layer = tensor._keras_history.operation
    return keras.Input(batch_shape=tuple(shape_of.shape), dtype=tensor.dtype, name=layer.name, sparse=tensor.sparse or None)
