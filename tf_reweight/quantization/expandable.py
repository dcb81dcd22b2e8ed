"""Which attention, recurrent layers and their like can be written out in integers, and why the others stay float."""

import re

import keras

from tf_reweight.graph.access import calls_of, masks_of
from tf_reweight.graph.call_arguments import inputs_of, named_arguments
from tf_reweight.graph.copying import config_of
from tf_reweight.quantization import rules

L = keras.layers

# Arguments of calls that are written out.
_WRITTEN = ("inputs", "sequences", "initial_state", "query", "value", "key", "training")
RECURRENT = (L.LSTM, L.GRU, L.SimpleRNN)
MERGES = {"concat": L.Concatenate, "sum": L.Add, "mul": L.Multiply}


def why_not(operation):
    """Why a layer of a functional model is not written out; None where it is, or has no need to be."""
    kind = type(operation)
    if kind not in rules.REASONS:
        return None
    called = (_of_call(node, kind) for node in calls_of(operation))
    return next(filter(None, called), None) or _OF_LAYER[kind](operation)


def is_written_once(wrapper, layer):
    """Whether a `TimeDistributed` and a layer inside it that is called elsewhere as well become one layer."""
    return type(layer) is L.Dense and why_not(wrapper) is None


def _of_call(call, kind):
    """Why a call has something else than tensors of real numbers and known length, in the arguments that are written out."""
    arguments = named_arguments(call)
    given = [name for name, value in arguments.items() if value is not None and value is not False and name not in _WRITTEN]
    if given:
        return f"{_words(kind)} called with `{given[0]}` is not written out in integers"
    tensors = inputs_of(call)
    # An Embedding's mask_zero comes with the tensors, and attention looks at it without being told.
    if kind is L.MultiHeadAttention and any(mask is not None for mask in masks_of(tensors)):
        return "attention to what a mask leaves is not written out in integers"
    if kind in (L.EinsumDense, L.TimeDistributed):
        return None
    # Keras hands it on to what is called on the sequences alone, and notes that only where they are given by position.
    if arguments.get("initial_state") is None and kind is not L.MultiHeadAttention and masks_of(tensors[:1]) != [None]:
        return f"{_words(kind)} of sequences with a mask is not written out in integers"
    sequences = tensors if kind is L.MultiHeadAttention else tensors[:1]
    if any(len(tensor.shape) != 3 for tensor in sequences):
        return f"{_words(kind)} on other tensors than (batch, time, channels) is not written out in integers"
    if any(None in tensor.shape[1:] for tensor in tensors):
        return f"{_words(kind)} becomes integers only on sequences of one length"
    return None


def _words(kind):
    return {L.MultiHeadAttention: "attention", L.LSTM: "an LSTM"}.get(kind, f"a {kind.__name__}")


def _of_recurrent(layer):
    """Why a recurrent layer cannot be written out, whatever it is called on."""
    words = _words(type(layer))
    if type(layer) not in RECURRENT:
        return f"{words} inside of it is not written out in integers"
    if layer.stateful:
        return f"{words} whose state lasts from batch to batch is not written out in integers"
    if layer.dropout or layer.recurrent_dropout:
        return f"{words} with dropout is not written out in integers"
    functions = [layer.activation] if type(layer) is L.SimpleRNN else [layer.activation, layer.recurrent_activation]
    return next(filter(None, map(_of_activation, functions)), None)


def _of_bidirectional(layer):
    if layer.merge_mode not in MERGES:
        return f"a Bidirectional with merge_mode={layer.merge_mode!r} is not written out in integers"
    if layer.return_state:
        return "a Bidirectional that returns its states is not written out in integers"
    return _of_recurrent(layer.forward_layer) or _of_recurrent(layer.backward_layer)


def _of_attention(layer):
    if config_of(layer)["attention_axes"] in (None, (1,), [1]):
        return None
    return "attention over other axes than time is not written out in integers"


def _of_time_distributed(layer):
    return _of_projection(layer.layer) if type(layer.layer) is L.Dense else rules.REASONS[L.TimeDistributed]


def _of_einsum(layer):
    if re.fullmatch(r"([a-z.]+)([a-z]),\2([a-z])->\1\3", layer.equation.replace(" ", "")):
        return _of_projection(layer)
    return rules.REASONS[L.EinsumDense]


def _of_projection(layer):
    """Why a layer cannot be a Dense one and its activation, which may stay float behind it unless it is the user's own."""
    return None if rules.activation_name(layer) else rules.no_kernel_for(layer.activation)


def _of_activation(function):
    """Why an activation keeps the layer with it from being written out."""
    return None if rules.function_name(function) in rules.ACTIVATIONS else rules.no_kernel_for(function)


_OF_LAYER = {
    **dict.fromkeys(RECURRENT, _of_recurrent),
    L.Bidirectional: _of_bidirectional,
    L.MultiHeadAttention: _of_attention,
    L.TimeDistributed: _of_time_distributed,
    L.EinsumDense: _of_einsum,
}
