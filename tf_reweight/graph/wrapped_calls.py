"""The calls of the layers inside a wrapper, which Keras' graph does not tell."""

import types

import keras

from tf_reweight.graph.call_arguments import inputs_of
from tf_reweight.graph.inner_calls import InnerCall
from tf_reweight.graph.keras_classes import is_ours

_L = keras.layers


def wrapped_calls(call):
    """The calls of the layers inside a wrapper at one call of it, as a list of `(call, times)`; none for what is no wrapper.

    Wrappers of Keras and of this package are known. One of the user's own may compute anything, and is none.

    Args:
        call: a node of Keras' graph, or an `InnerCall`.
    """
    computes = type(call.operation).call
    if isinstance(call.operation, _L.Wrapper) and is_ours(computes):
        return held(call)
    return _CALLS[computes](call) if computes in _CALLS else []


def held(call):
    """The call of the layer that a wrapper holds, where it is given what the wrapper is given, as a list of `(call, times)`."""
    return [(InnerCall(call.operation.layer, call.input_tensors, call.outputs, call.arguments), 1)]


def _at_each_step(call):
    given = inputs_of(call)[0]
    return [(_on(call.operation.layer, _one_step(given), [_one_step(each) for each in call.outputs]), given.shape[1] or 1)]


def _in_both_directions(call):
    wrapper, (*sizes, last) = call.operation, call.outputs[0].shape
    # Both are joined along the last axis, whatever the channels are on.
    last = last // 2 if wrapper.merge_mode == "concat" and last else last
    made = keras.KerasTensor((*sizes, last), call.outputs[0].dtype)
    return [(_on(layer, inputs_of(call)[0], [made]), 1) for layer in (wrapper.forward_layer, wrapper.backward_layer)]


def _on(layer, given, outputs):
    return InnerCall(layer, [given], outputs, types.SimpleNamespace(args=(given,), kwargs={}))


def _one_step(tensor):
    return keras.KerasTensor((tensor.shape[0], *tensor.shape[2:]), tensor.dtype)


# By what they compute: a class of the user's own with another `call` is seen as the layer that it is.
_CALLS = {
    _L.Bidirectional.call: _in_both_directions,
    _L.SpectralNormalization.call: held,
    _L.TimeDistributed.call: _at_each_step,
}
