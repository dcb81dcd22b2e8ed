"""How a user's own layer calls the layers inside it, which Keras' graph does not tell."""

import dataclasses
import types
import typing

import keras

from tf_reweight.graph.access import is_layer, is_tensor, sublayers, tensors_in
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
    notes what goes in and out. Nothing of the model changes. An open number of examples is one: then sizes are told that the
    layer makes of it, such as the number of windows that it cuts, and torch, which runs open sizes twice, notes each call once.

    Args:
        node: the call of the layer in Keras' graph, or an `InnerCall`.
    """
    given = node.arguments.args, node.arguments.kwargs
    single = keras.tree.map_structure(_of_one, given)
    found = _noted(node.operation, *single)
    return (_noted(node.operation, *given) or []) if found is None else found


def with_batch(tensor, num):
    """A symbolic tensor with so many examples along the first axis; one without axes as it is."""
    return keras.KerasTensor((num, *tensor.shape[1:]), tensor.dtype) if tensor.shape else tensor


def _of_one(item):
    return with_batch(item, 1) if is_tensor(item) and item.shape and item.shape[0] is None else item


def _noted(layer, args, kwargs):
    """The calls inside a layer that is run on these arguments, or None where it cannot be."""
    found: list[InnerCall] = []
    watched = _callees(layer)
    for inner in watched:
        inner.call = _noting(inner, inner.call, found)
    try:
        # Past a `compute_output_shape` of the layer's own, which calls nothing.
        keras.Operation.compute_output_spec(layer, *args, **kwargs)
    except Exception:  # whatever the user's code raises on tensors without values; then it is one call as Keras sees it
        return None
    finally:
        for inner in watched:
            del inner.call
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
