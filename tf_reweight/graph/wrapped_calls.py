"""The call of the layer inside a wrapper, which Keras' graph does not tell."""

import types

import keras

from tf_reweight.graph.inner_calls import InnerCall

_L = keras.layers


def wrapped_calls(call):
    """The calls of the layer inside a wrapper at one call of it, as a list of `(call, times)`; none for what is no wrapper.

    Args:
        call: a node of Keras' graph, or an `InnerCall`.
    """
    calls = _CALLS.get(type(call.operation).call)
    return calls(call) if calls else []


def _at_each_step(call):
    given, *_ = inputs = [_one_step(tensor) for tensor in call.input_tensors[:1]]
    outputs = [_one_step(tensor) for tensor in call.outputs]
    arguments = types.SimpleNamespace(args=(given,), kwargs={})
    return [(InnerCall(call.operation.layer, inputs, outputs, arguments), call.input_tensors[0].shape[1] or 1)]


def _one_step(tensor):
    return keras.KerasTensor((tensor.shape[0], *tensor.shape[2:]), tensor.dtype)


# By what they compute: a class of the user's own with another `call` is seen as the layer that it is.
_CALLS = {_L.TimeDistributed.call: _at_each_step}
