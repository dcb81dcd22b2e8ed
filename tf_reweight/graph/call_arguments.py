"""What a call is given, in one form, whether it was written by position or by keyword."""

import inspect

import keras
import numpy as np

from tf_reweight.graph.access import is_layer, is_tensor, tensors_in


def arguments_of(call):
    """The `(args, kwargs)` of a call, with the first argument and those that have no default by position.

    Whoever follows a model finds them there: `Dense(2)(inputs=x)` is `Dense(2)(x)`, and attention called with `value` and
    `query` is called with both in order. Others stay as they were given; a None that is the default goes, and what is behind it
    is given by name.

    Args:
        call: a node of Keras' graph, or an `InnerCall`.
    """
    args, kwargs = list(call.arguments.args), dict(call.arguments.kwargs)
    parameters = _parameters(call.operation)
    for parameter in parameters[len(args) :]:
        leads = not args or parameter.default is parameter.empty
        if not leads or parameter.name not in kwargs or not _goes_by_position(call.operation, kwargs[parameter.name]):
            break
        args.append(kwargs.pop(parameter.name))
    if len(args) <= len(parameters):
        given = list(zip(parameters, args))
        left = next((place for place, pair in enumerate(given) if place and _is_default(*pair)), len(args))
        kwargs |= {parameter.name: value for parameter, value in given[left:] if not _is_default(parameter, value)}
        args = args[:left]
    return tuple(args), kwargs


def by_name(operation, args, kwargs):
    """What an operation is given, as a mapping from the names of its `call` to values of any kind."""
    return {**{parameter.name: value for parameter, value in zip(_parameters(operation), args)}, **kwargs}


def named_arguments(call):
    """What a call is given, as a mapping from the names of the operation's `call`."""
    return by_name(call.operation, *arguments_of(call))


def inputs_of(call):
    """The symbolic tensors that a call is given, in the order of `arguments_of`: the first is the one that it works on.

    `call.input_tensors` has those of keywords in the order of their names: an `initial_state` before the `sequences`.
    """
    return tensors_in(arguments_of(call))


def is_mask(name):
    """Whether an argument of this name says which parts of a tensor count."""
    return name == "mask" or name.endswith("_mask")


def _is_default(parameter, value):
    return value is None and parameter.default is None


def _parameters(operation):
    """The parameters of an operation's `call` that can be given by position, without `*args`."""
    found = inspect.signature(operation.call).parameters.values()
    return [parameter for parameter in found if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD]


def _goes_by_position(operation, value):
    """Whether an argument may be given by position: layers take tensors so, and no flags."""
    return not is_layer(operation) or all(
        item is None or is_tensor(item) or isinstance(item, np.ndarray) or keras.ops.is_tensor(item)
        for item in keras.tree.flatten(value)
    )
