"""Copies of operations, for models that are built anew."""

import contextlib
import types

import keras
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import is_sequence
from tf_reweight.graph.access import is_layer, operation_of
from tf_reweight.graph.additions import addition_class, is_addition, own_weights, remains_of
from tf_reweight.graph.keras_classes import is_keras_own, is_named, is_ours
from tf_reweight.graph.state import carry_state, parts_of
from tf_reweight.graph.twins import twin


class Copied:
    """A fresh operation that takes over the weights at its first call, which builds it.

    Of a Lambda or custom layer without weights it is a twin: what it computes may not be in its config. What a layer knows
    besides its weights comes along, see `state.carry_state`.

    Args:
        operation: the layer or operation.
        name: of the copy; default its own.
        made: a copy that has the weights already; default a fresh one.
        changes: entries of the config that differ.
    """

    def __init__(self, operation, name=None, made=None, **changes):
        self.operation, self.filled = operation, made is not None
        with made_again(operation, operation.name):
            self.copy = fresh(operation, {"name": name or operation.name, **changes}) if made is None else made

    def __call__(self, *args, **kwargs):
        outputs = self.copy(*args, **kwargs)
        if not self.filled and self.copy is not self.operation and is_layer(self.copy):
            self.fill()
        self.filled = True
        return outputs

    def fill(self):
        """Gives the copy, which is built now, the weights."""
        for variable, old in zip(self.copy.weights, own_weights(self.operation)):
            assign_like(variable, old, old.value)
        carry_state(self.copy, self.operation)


def fresh(operation, changes):
    """A new operation from the config of another, with other entries where `changes`, a dict, say so.

    What a config cannot hold is taken from the operation itself: functions (activations above all), regularizers,
    constraints and initializers are the very objects. A name would not do, since a user's `relu` need not be Keras'.
    """
    if not is_layer(operation):
        given = operation.get_config()
        return type(operation).from_config({**given, **{name: changes[name] for name in changes.keys() & given.keys()}})
    if has_twin(operation) and changes.keys() <= {"name"}:
        return twin(operation, changes.get("name"))
    given = without_penalties(config_of(operation))
    config = {**given, **changes}
    same = {name for name, value in given.items() if config[name] == value}
    if is_keras_own(type(operation).from_config):
        config |= {name: value for name, value in _live(operation).items() if name in same}
    with keras.saving.custom_object_scope(_own_inside(operation)):
        copy = type(operation).from_config(config)
    changed = given.keys() - same
    for old, new in zip(parts_of(operation), parts_of(copy)):
        for name, value in _live(old).items() if type(old) is type(new) else ():
            if name in vars(new).keys() - changed:
                setattr(new, name, value)
    return copy


@contextlib.contextmanager
def made_again(operation, path):
    """Within it, what the config of a user's own layer raises is told with the path of the layer and what to do.

    Raises:
        TypeError: where the layer cannot be made again.
    """
    try:
        yield
    except Exception as error:  # Code of the user's own may raise anything.
        if is_keras_own(type(operation)):
            raise
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise TypeError(
            errors.message(
                f"The layer {path} must be made again from its own config, which failed: {said}.",
                "Give its class a get_config with all arguments of __init__.",
                layer=type(operation).__name__,
            )
        ) from error


def config_of(layer):
    """The config of a layer or operation, from which `fresh` makes it again with the very functions and objects that it has.

    Something stands in for each of these, those of the layers inside it included: a config holds no lambda, no
    `functools.partial` and no object without a config, and it holds names, which closures and classes may have in common.
    """
    if not is_layer(layer):
        return layer.get_config()
    try:
        return _written(layer, _held(layer))
    except Exception:
        # A `get_config` of the user's may look closer at what it writes down: then it sees the things themselves.
        return _written(layer, [])


def _written(layer, held):
    """The config of a layer while something stands for what is held, see `_held`."""
    try:
        for part, name, value in held:
            vars(part)[name] = None if remains_of(value) is None else _StandIn(value)
        return _without_stand_ins(layer.get_config())
    finally:
        for part, name, value in held:
            vars(part)[name] = value


class _StandIn:
    """Stands for a function or object while a config is written, and is in it by the identity of what it stands for."""

    def __init__(self, value):
        self.value, self.__name__ = value, getattr(value, "__name__", type(value).__name__)
        self.__wrapped__ = value  # where Python looks for the source of a function

    def __getattr__(self, name):
        return getattr(self.value, name)  # what a `get_config` of the user's reads off it

    def __call__(self, *args, **kwargs):
        return self.value(*args, **kwargs)

    def get_config(self):
        return {"id": id(self.value)}


def _without_stand_ins(config):
    """A config with the objects themselves where a layer of the user's own does not write them down, as Keras' layers do."""
    if isinstance(config, _StandIn):
        return config.value
    if isinstance(config, dict):
        return {name: _without_stand_ins(value) for name, value in config.items()}
    return type(config)(map(_without_stand_ins, config)) if type(config) in (list, tuple) else config


def _held(layer):
    """The functions and objects of a layer and of those inside it for which something stands in a config.

    Returns:
        A list of `(layer, attribute, value)`.
    """
    parts = [part for part in parts_of(layer) if not isinstance(part, keras.Model)]
    attributes = [(part, name, value) for part in parts for name, value in vars(part).items() if not hasattr(type(part), name)]
    # What a user's own `get_config` does with a function is not known: only what no config can hold is taken out of its way.
    return [item for item in attributes if (_is_live if is_keras_own(type(item[0]).get_config) else _is_nameless)(item[2])]


def _live(layer):
    """The functions, regularizers and the like among the arguments of a layer; what is of this package goes by its config."""
    # Attention layers have theirs under private names.
    found = {name: getattr(layer, name, getattr(layer, f"_{name}", None)) for name in config_of(layer)}
    # A method of the layer's own may have the name of an argument, as `TextVectorization.vocabulary_size`.
    found = {name: value for name, value in found.items() if getattr(value, "__self__", None) is not layer}
    # What stays of an addition is an object too: the user's own may have no name.
    return {name: remains_of(value) for name, value in found.items() if _is_live(value)}


# What is called and is no function or object of this kind.
_OTHERS = (type, types.BuiltinFunctionType, keras.Operation, keras.Variable)


def _is_live(value):
    """Whether something is a function, regularizer, initializer or the like, of which a copy has the very object."""
    if is_addition(value) or not callable(value):
        return is_addition(value)
    # A regularizer of this package that is no addition has one of the user's in it.
    return not isinstance(value, _OTHERS) and (not is_ours(type(value)) or isinstance(value, keras.regularizers.Regularizer))


def _is_nameless(value):
    """Whether no config can hold such a thing: a lambda, a closure, a `functools.partial`, an object without a config."""
    kind = type(value)
    if kind is types.FunctionType:
        return "<" in value.__qualname__
    return _is_live(value) and (not hasattr(kind, "get_config") or (is_keras_own(kind.get_config) and not is_keras_own(kind)))


def _own_inside(layer):
    """What gives the classes, functions and objects of a layer and of those inside it, by the names that configs have.

    Names are those of the user's own: Keras' Bidirectional writes the config of the layer inside it once more.
    """
    held = {id(value): value for _, _, value in _held(layer)}
    live = [value for part in parts_of(layer)[1:] for value in _live(part).values()]
    # The classes of layers too, which nobody need have registered.
    own = {keras.saving.get_registered_name(kind): kind for kind in map(type, parts_of(layer)) if not is_keras_own(kind)}
    own[_StandIn.__name__] = _giver(_StandIn.__name__, lambda config: remains_of(held[config["id"]]))
    for value in live:
        is_function = type(value) is types.FunctionType
        kind = value if is_function else type(value)
        if not is_keras_own(kind):
            given = value if is_function else _giving([other for other in live if type(other) is kind])
            own |= {kind.__name__: given, keras.saving.get_registered_name(kind): given}
    return own


def _giving(objects):
    """A class that gives that of some objects of one class which has a config: a user's own may not be made again from it."""

    def of_config(config):
        return next((value for value in objects if not _is_nameless(value) and value.get_config() == config), objects[-1])

    return _giver(type(objects[0]).__name__, of_config)


def _giver(name, of_config):
    """A class of which Keras asks a function for what it makes from a config."""
    return type(name, (), {"from_config": staticmethod(of_config)})


def input_like(tensor, shape=None, dtype=None):
    """A new input of the same name, and of the same shape (with the batch) and type where no other is given."""
    shape, dtype = tuple(tensor.shape) if shape is None else shape, dtype or tensor.dtype
    return keras.Input(batch_shape=shape, dtype=dtype, name=operation_of(tensor).name, sparse=tensor.sparse or None)


def assign_like(variable, old, value):
    """Gives a variable of a copy its value, and whether it is trained as `old` is: weights may be frozen one by one."""
    # On JAX two models would share an array, and each deletes those it is done with.
    variable.assign(ops.copy(value) if keras.backend.backend() == "jax" else value)
    if variable.trainable != old.trainable:
        variable.trainable = old.trainable


def has_twin(operation):
    """Whether a copy of a layer has its attributes: a Lambda or custom layer without weights, or an adapted vocabulary."""
    if not is_layer(operation) or operation.variables:
        return False
    has_vocabulary = is_named(operation, "StringLookup", "IntegerLookup", "TextVectorization", "Discretization")
    return has_vocabulary or isinstance(operation, keras.layers.Lambda) or not is_keras_own(type(operation))


def without_penalties(config):
    """A layer's config without our penalties, which are bound to kernels of the old size; other regularizers stay."""
    if is_sequence(config):
        return type(config)(without_penalties(item) for item in config)
    if not isinstance(config, dict):
        return config
    addition = addition_class(config)
    if addition is not None:
        return addition.remainder(config["config"])
    return {key: without_penalties(value) for key, value in config.items()}
