"""How a user's own layer calls the layers inside it, which Keras' graph does not tell."""

import dataclasses
import types
import typing

import keras

from tf_reweight.graph.access import is_layer, sublayers, tensors_in
from tf_reweight.graph.keras_classes import is_keras_own


@dataclasses.dataclass(frozen=True, eq=False)
class InnerCall:
    """One call of a layer inside another, with what a node of Keras' graph says of one.

    Attributes:
        operation: the layer that is called.
        input_tensors: symbolic tensors that go in, at least one.
        outputs: symbolic tensors that come out.
        arguments: `args` and `kwargs`, with symbolic tensors in them.
    """

    operation: keras.layers.Layer
    input_tensors: list
    outputs: list
    arguments: typing.Any


def is_own(operation):
    """Whether an operation is a layer of the user's own class that has layers inside."""
    return is_layer(operation) and not is_keras_own(type(operation)) and bool(sublayers(operation))


def inner_calls(node):
    """The calls of layers inside a user's own layer at one call of it, innermost first; none where it cannot be traced.

    The layer is run on symbolic tensors of the sizes of this call, in the backend, while each layer of Keras' own inside it
    notes what goes in and out. Nothing of the model changes.

    Args:
        node: the call of the layer in Keras' graph, or an `InnerCall`.
    """
    found: list[InnerCall] = []
    watched = _callees(node.operation)
    for layer in watched:
        layer.call = _noting(layer, layer.call, found)
    try:
        # Past a `compute_output_shape` of the layer's own, which calls nothing.
        keras.Operation.compute_output_spec(node.operation, *node.arguments.args, **node.arguments.kwargs)
    except Exception:  # whatever the user's code raises on tensors without values; then it is one call as Keras sees it
        return []
    finally:
        for layer in watched:
            del layer.call
    return found


def _callees(layer):
    """The layers inside a layer that are of Keras' own and no models, each once, those inside own layers and models too."""
    found, waiting = {}, list(sublayers(layer))
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, keras.Model) or is_own(inner):
            waiting += sublayers(inner)
        else:
            found[id(inner)] = inner
    return list(found.values())


def _noting(layer, call, found):
    def noted(*args, **kwargs):
        outputs = call(*args, **kwargs)
        (args, kwargs), made = (keras.tree.map_structure(_symbol, part) for part in ((args, kwargs), outputs))
        read, made = tensors_in((args, kwargs)), tensors_in(made)
        if read and made:
            found.append(InnerCall(layer, read, made, types.SimpleNamespace(args=args, kwargs=kwargs)))
        return outputs

    return noted


def _symbol(item):
    """A symbolic tensor like one of the backend's; anything else as it is."""
    if item is None or not keras.ops.is_tensor(item):
        return item
    return keras.KerasTensor(tuple(item.shape), keras.backend.standardize_dtype(item.dtype))
