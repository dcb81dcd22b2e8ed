"""Copies of layers without weights: what such a layer computes may not be in its config, but it is in its attributes."""

import types

import keras

from tf_reweight.graph.access import is_layer

# What Keras reads off the signature of `call`, and a user may add to. Other collections of a new layer are about its calls.
_ABOUT_CALL = ("call_signature_parameters", "_call_context_args", "_call_has_context_arg")
# Of a new layer, by the lower-case names of their classes.
_COLLECTIONS = (
    "list", "dict", "set", "ordereddict",
    "trackedlist", "trackeddict", "trackedset", "trackedordereddict", "tracker", "function"
)  # fmt: skip


def twin(layer, name=None):
    """A layer with the same attributes, and so the same function, that no model has called.

    The functions, tables and arrays are the very objects. Layers inside it are twins too, as far as its attributes, or lists,
    tuples and dicts in them, hold them. The layer itself comes back where its class cannot be made in this way, as one with
    arguments in `__new__`.

    Args:
        layer: a layer without weights.
        name: of the twin; default its own.
    """
    try:
        return _twin(layer, name or layer.name, {})
    except Exception:  # Code of the user's own may raise anything.
        return layer


def _twin(layer, name, known):
    copy = known[id(layer)] = type(layer).__new__(type(layer))
    keras.layers.Layer.__init__(copy, name=name, dtype=layer.dtype_policy, trainable=layer.trainable)
    new = dict(vars(copy))
    for key, value in {**vars(layer), **_inside(layer)}.items():
        if key not in new or key in _ABOUT_CALL or _is_setting(new[key]):
            _set(copy, key, value if key == "_auto_config" else _part(value, known))
    vars(copy)["name"] = name
    if layer._tracker.locked:
        copy._lock_state()
    return copy


def _inside(layer):
    """The layers that PyTorch keeps apart from the other attributes of a layer."""
    modules = vars(layer).get("_modules", {})
    return {key: value for key, value in modules.items() if is_layer(value)}


def _is_setting(value):
    """Whether an attribute of a new layer is a setting, and not a collection or function of its own."""
    return type(value).__name__.lower() not in _COLLECTIONS


def _set(copy, key, value):
    """Sets an attribute: past a property or `__setattr__` of the user's, but not past Keras', which tracks layers."""
    if isinstance(getattr(type(copy), key, None), property):
        vars(copy)[key] = value
    else:
        keras.layers.Layer.__setattr__(copy, key, value)


def _part(value, known):
    """What stands for the value of an attribute: twins for layers, and a twin's own method for that of its layer."""
    if id(value) in known:
        return known[id(value)]
    if is_layer(value):
        return value if isinstance(value, keras.Model) else _twin(value, value.name, known)
    if type(value) is types.MethodType and id(value.__self__) in known:
        return types.MethodType(value.__func__, known[id(value.__self__)])
    # Of Python's own class, or of the one by which Keras tracks what is in it.
    kind = type(value).__name__.lower().removeprefix("tracked")
    if kind == "dict":
        return {key: _part(item, known) for key, item in value.items()}
    if kind in ("list", "tuple"):
        return (tuple if kind == "tuple" else list)(_part(item, known) for item in value)
    return value
