"""Classes and functions of a user's own inside a model, and what a file of it would lose of them."""

import builtins
import dis
import types

import keras

from tf_reweight.graph.keras_classes import is_keras_own


def parts_by_name(model):
    """The classes and functions of the user's own inside a model, by name, as `keras.saving.load_model` takes them."""
    own = {}
    for layer in (model, *model._flatten_layers(include_self=False)):
        if not is_keras_own(type(layer)):
            own |= {type(layer).__name__: type(layer), keras.saving.get_registered_name(type(layer)): type(layer)}
        for value in vars(layer).values():
            if callable(value) and hasattr(value, "__name__") and not is_keras_own(value):
                own |= {value.__name__: value, keras.saving.get_registered_name(value): value}
    return own


def lost_names(model):
    """What the lambdas inside `Lambda` layers read of their modules, by layer: a file holds their code, and none of that."""
    found = {}
    for layer in model._flatten_layers(include_self=False):
        function = getattr(layer, "function", None) if isinstance(layer, keras.layers.Lambda) else None
        if getattr(function, "__name__", None) == "<lambda>":
            read = dict.fromkeys(_globals_read(function.__code__))
            found[layer.name] = [name for name in read if not hasattr(builtins, name)]
    return {name: names for name, names in found.items() if names}


def _globals_read(code):
    """The names that code, and the functions and comprehensions inside it, read of their module."""
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_GLOBAL":
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals_read(inner)
