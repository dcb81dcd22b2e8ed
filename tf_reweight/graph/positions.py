"""How often a layer uses its kernels at one call."""

import math

import keras

from tf_reweight.graph.access import has_channels_first
from tf_reweight.graph.call_arguments import inputs_of, named_arguments

_L = keras.layers
_TRANSPOSED = (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
_ATTENTION = (_L.MultiHeadAttention, _L.GroupQueryAttention)


def kernels_of(layer):
    """The weights of a layer that multiply-accumulates are counted of: its kernels, not its biases."""
    return [weight for weight in layer.weights if len(weight.shape) > 1 and "kernel" in weight.name]


def positions_of(call, kernel):
    """How often each entry of a kernel of a layer is used at one call, int, over all examples; unknown sizes count as 1.

    Dense layers and convolutions use them once for each place of their output, transposed convolutions for each place of their
    input, recurrent layers at each time step, whether they return it or not, attention's keys and values at each place of what
    they are made of.

    Args:
        call: a node of Keras' graph, or an `InnerCall`; see `sized_calls` for those of nested models and wrappers.
        kernel: one of `kernels_of(call.operation)`.
    """
    layer, inputs, outputs = call.operation, inputs_of(call)[0].shape, call.outputs[0].shape
    if isinstance(layer, _ATTENTION):
        read = _read_by(call, kernel.path.split("/")[-2]).shape
        return _places(read, len(read) - 1)
    if isinstance(layer, _TRANSPOSED):
        return _places(inputs, _channels(layer, inputs))
    if isinstance(layer, _L.RNN):
        hidden = 1 if layer.return_sequences else inputs[1] or 1
        return hidden * _places(outputs, _channels(layer, outputs))
    if isinstance(layer, _L.EinsumDense):
        return _size(outputs) // _made(layer)
    return _places(outputs, _channels(layer, outputs))


def _read_by(call, projection):
    """The input of an attention layer that one of its projections reads; the last reads what the queries are as many of."""
    given = named_arguments(call)
    if projection == "key" and given.get("key") is not None:
        return given["key"]
    return given["value" if projection in ("key", "value") else "query"]


def _channels(layer, shape):
    """The axis of the channels."""
    return len(shape) - 1 - len(layer.kernel_size) if has_channels_first(layer) else len(shape) - 1


def _places(shape, axis):
    """Product of the sizes of a shape without that of one axis."""
    return _size(shape[:axis]) * _size(shape[axis + 1 :])


def _made(layer):
    """How many outputs of an EinsumDense layer each place has: the sizes of its kernel's axes that are in the output."""
    kernel, outputs = layer.equation.replace(" ", "").split(",")[1].split("->")
    return _size(size for letter, size in zip(kernel, layer.kernel.shape) if letter in outputs)


def _size(sizes):
    return math.prod(size or 1 for size in sizes)
