"""Copies of operations, for models that are built anew."""

import types

import keras

from tf_reweight.graph.additions import Addition, addition_class, additions_of
from tf_reweight.graph.keras_classes import is_keras_own, is_named


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
        self.copy = fresh(operation, {"name": name or operation.name, **changes})

    def __call__(self, *args, **kwargs):
        outputs = self.copy(*args, **kwargs)
        if not self.filled and self.copy is not self.operation and isinstance(self.copy, keras.layers.Layer):
            self.fill()
        self.filled = True
        return outputs

    def fill(self):
        """Gives the copy, which is built now, the weights."""
        for variable, old in zip(self.copy.weights, own_weights(self.operation)):
            variable.assign(old.value)
        settle(self.copy)


def fresh(operation, changes):
    """A new operation from the config of another, with other entries where `changes`, a dict, say so.

    What a config cannot hold is taken from the operation itself: functions (activations above all), regularizers,
    constraints and initializers are the very objects. A name would not do, since a user's `relu` need not be Keras'.
    """
    if not isinstance(operation, keras.layers.Layer):
        given = operation.get_config()
        return type(operation).from_config({**given, **{name: changes[name] for name in changes.keys() & given.keys()}})
    if is_kept_as_it_is(operation) and changes.keys() <= {"name"}:
        return operation
    given = without_penalties(operation.get_config())
    config = {**given, **changes}
    same = {name for name, value in given.items() if config[name] == value}
    if is_keras_own(type(operation).from_config):
        config |= _live(operation, same)
    with keras.saving.custom_object_scope(_functions_inside(operation)):
        copy = type(operation).from_config(config)
    for old, new in zip(_layers_of(operation), _layers_of(copy)):
        for name in same & _functions(old).keys() & vars(new).keys():
            setattr(new, name, vars(old)[name])
    return copy


def settle(layer):
    """Ends the copying of a layer's weights: what it derives from them, as Normalization its mean and variance, is renewed."""
    for inner in _layers_of(layer):
        if isinstance(inner, keras.layers.Normalization) and inner.built:
            inner.finalize_state()


def _layers_of(layer):
    """The layer and those inside, without our penalties, in Keras' order."""
    additions = {id(part) for addition in additions_of(layer) for part in addition._flatten_layers()}
    return [part for part in layer._flatten_layers() if id(part) not in additions]


def _functions(layer):
    """The plain functions among the arguments of a layer, by name."""
    named = {name: vars(layer).get(name) for name in layer.get_config()}
    return {name: value for name, value in named.items() if isinstance(value, types.FunctionType)}


def _functions_inside(layer):
    """The user's own functions in a layer and those inside it, by the names that their configs have."""
    own = {}
    for part in _layers_of(layer)[1:]:
        for function in _functions(part).values():
            if not is_keras_own(function):
                own |= {function.__name__: function, keras.saving.get_registered_name(function): function}
    return own


_OBJECTS = (keras.regularizers.Regularizer, keras.constraints.Constraint, keras.initializers.Initializer, types.FunctionType)


def _live(layer, names):
    """The functions, regularizers and the like among the arguments of a layer; what is of this package goes by its config."""
    found = {name: getattr(layer, name, None) for name in names}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, _OBJECTS) and not _is_ours(value)
    }


def _is_ours(value):
    # A user's own penalty is an addition too, wherever its class stands.
    return isinstance(value, Addition) or type(value).__module__.startswith("tf_reweight.")


def input_like(tensor, dtype=None):
    """A new input of the same name and shape, and of the same type unless another one is given."""
    name = tensor._keras_history.operation.name
    return keras.Input(batch_shape=tuple(tensor.shape), dtype=dtype or tensor.dtype, name=name, sparse=tensor.sparse or None)


def own_weights(layer):
    """The weights of a layer without those of penalties put on it."""
    foreign = {id(variable) for addition in additions_of(layer) for variable in addition.variables}
    return [variable for variable in layer.weights if id(variable) not in foreign]


def is_kept_as_it_is(operation):
    """Whether a copy of a model takes the very object: a Lambda or custom layer without weights, or an adapted vocabulary."""
    if not isinstance(operation, keras.layers.Layer) or operation.variables:
        return False
    has_vocabulary = is_named(operation, "StringLookup", "IntegerLookup", "TextVectorization", "Discretization")
    return has_vocabulary or isinstance(operation, keras.layers.Lambda) or not is_keras_own(type(operation))


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
    """A new input of the same name and type, in the shape of another tensor.

    Sizes that were left open stay so: a model may be called on several.
    """
    shape = [None if old is None else new for old, new in zip(tensor.shape, shape_of.shape)]
    layer = tensor._keras_history.operation
    return keras.Input(batch_shape=tuple(shape), dtype=tensor.dtype, name=layer.name, sparse=tensor.sparse or None)
