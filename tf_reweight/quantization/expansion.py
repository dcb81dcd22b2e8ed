"""Attention, recurrent layers and their like, written out in layers that have integer arithmetic."""

import re

import keras
import numpy as np
from keras import ops

from tf_reweight.graph.access import calls_of, masks_of, tensors_in
from tf_reweight.quantization import rules

L = keras.layers

_MERGES = {"concat": L.Concatenate, "sum": L.Add, "mul": L.Multiply}
_NUM_GATES = {L.LSTM: 4, L.GRU: 3, L.SimpleRNN: 1}


def expand(operation, name, names):
    """A function that computes what the layer does with layers of `rules`, or None where that cannot be.

    Args:
        operation: a layer of a functional model.
        name: of the layer that stands for it, and prefix of the other layers' names.
        names: `graph.naming.Names` of the model that the new layers become part of.
    """
    kind = type(operation)
    expandable = kind in rules.REASONS and all(_plain(node.arguments, kind) for node in calls_of(operation))
    if not expandable:
        return None
    if kind is L.MultiHeadAttention and operation.get_config()["attention_axes"] in (None, (1,), [1]):
        return _Attention(operation, name, names)
    if kind in _NUM_GATES and _is_known(operation):
        return _Recurrent(operation, name, names)
    if kind is L.Bidirectional and operation.merge_mode in _MERGES and not operation.return_state:
        both = (operation.forward_layer, operation.backward_layer)
        return _Bidirectional(operation, name, names) if all(map(_is_known, both)) else None
    if kind is L.TimeDistributed and type(operation.layer) is L.Dense and rules.activation_name(operation.layer):
        return _Projection(operation.layer, name, names)
    if kind is L.EinsumDense and re.fullmatch(r"([a-z.]+)([a-z]),\2([a-z])->\1\3", operation.equation.replace(" ", "")):
        return _Projection(operation, name, names) if rules.activation_name(operation) else None
    return None


def _plain(arguments, kind):
    """Whether a call has nothing but tensors of real numbers and known length, in the arguments that are written out."""
    known = {"inputs", "sequence", "query", "value", "key", "training"}
    known |= {"initial_state"} if kind in _NUM_GATES else set()
    if any(value is not None and value is not False and name not in known for name, value in arguments.kwargs.items()):
        return False
    tensors = tensors_in((arguments.args, arguments.kwargs))
    # An Embedding's mask_zero comes with the tensors, and attention looks at it without being told.
    if kind is L.MultiHeadAttention and any(mask is not None for mask in masks_of(tensors)):
        return False
    if kind in (L.EinsumDense, L.TimeDistributed):
        return True
    sequences = tensors if kind is L.MultiHeadAttention else tensors[:1]
    return all(None not in tensor.shape[1:] for tensor in tensors) and all(len(tensor.shape) == 3 for tensor in sequences)


def _is_known(layer):
    """Whether a recurrent layer is one that can be written out."""
    if type(layer) not in _NUM_GATES or layer.stateful or layer.dropout or layer.recurrent_dropout:
        return False
    functions = [rules.activation_name(layer)]
    if type(layer) is not L.SimpleRNN:
        functions.append(rules.function_name(layer.recurrent_activation))
    known = all(name in rules.ACTIVATIONS for name in functions)
    return known and (type(layer) is not L.GRU or _is_plain_gru(layer))


def _is_plain_gru(layer):
    """Whether the first step, from a state of zeros, needs no recurrent bias: the converter breaks down on constant zeros."""
    calls = calls_of(layer)  # none inside a Bidirectional, which begins from zeros
    return layer.reset_after and (not layer.use_bias or bool(calls) and all(_has_state(node.arguments) for node in calls))


def _has_state(arguments):
    return len(arguments.args) > 1 or arguments.kwargs.get("initial_state") is not None


def dense(name, kernel, bias, like):
    """A Dense layer with these weights: `kernel` reshaped to `(in, out)`, `bias` to `(out,)` or None."""
    kernel = np.asarray(ops.convert_to_numpy(kernel))
    own = {"name": name, "dtype": like.dtype_policy, "trainable": like.trainable}
    layer = L.Dense(kernel.shape[-1], use_bias=bias is not None, **own)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel] if bias is None else [kernel, np.asarray(ops.convert_to_numpy(bias)).reshape(-1)])
    return layer


class _Projection:
    """A Dense layer on the last axis, its activation behind."""

    def __init__(self, layer, name, names):
        self.dense = dense(name, layer.kernel, layer.bias, layer)
        plain = rules.activation_name(layer) == "linear"
        self.activation = None if plain else L.Activation(layer.activation, name=names(f"{name}_activation"))

    def __call__(self, x, *_, **__):
        x = self.dense(x)
        return x if self.activation is None else self.activation(x)


class _Attention:
    """softmax(q k / sqrt(d)) v; the root is part of the query's projection."""

    def __init__(self, layer, name, names):
        config = layer.get_config()
        self.heads = config["num_heads"]
        parts = {"query": layer.query_dense, "key": layer.key_dense, "value": layer.value_dense}
        scales = {"query": 1.0 / np.sqrt(config["key_dim"]), "key": 1.0, "value": 1.0}
        self.projections = {
            part: dense(
                names(f"{name}_{part}"),
                _flat(inner.kernel, 1) * scales[part],
                None if inner.bias is None else _flat(inner.bias, 0) * scales[part],
                layer,
            )
            for part, inner in parts.items()
        }
        back = layer.output_dense
        self.output = dense(names(f"{name}_output"), _flat(back.kernel, 2), back.bias, layer)
        self.softmax = L.Softmax(name=names(f"{name}_softmax"))
        self.dropout = L.Dropout(config["dropout"], name=names(f"{name}_dropout")) if config["dropout"] else None

    def __call__(self, query, value, key=None, **_):
        given = {"query": query, "key": value if key is None else key, "value": value}
        query, key, value = (self._split(part, given[part]) for part in ("query", "key", "value"))
        weights = self.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))))
        if self.dropout is not None:
            weights = self.dropout(weights)
        joined = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.output(ops.reshape(joined, (-1, joined.shape[1], joined.shape[2] * joined.shape[3])))

    def _split(self, part, x):
        """Its projection `(batch, heads, length, size)`."""
        made = self.projections[part](x)
        return ops.transpose(ops.reshape(made, (-1, made.shape[1], self.heads, made.shape[2] // self.heads)), (0, 2, 1, 3))


class _Recurrent:
    """A recurrent layer, step by step; one Dense layer for all inputs, one for the state."""

    def __init__(self, layer, name, names):
        cell, self.layer = layer.cell, layer
        self.step = {L.LSTM: self._lstm, L.GRU: self._gru, L.SimpleRNN: self._simple}[type(layer)]
        biases = (cell.bias, None)
        if type(layer) is L.GRU and cell.bias is not None:
            biases = tuple(ops.convert_to_numpy(cell.bias))
        self.inputs = dense(name, cell.kernel, biases[0], layer)
        self.recurrent = dense(names(f"{name}_recurrent"), cell.recurrent_kernel, biases[1], layer)
        self.activation = L.Activation(layer.activation, name=names(f"{name}_activation"))
        self.gate = L.Activation(getattr(layer, "recurrent_activation", layer.activation), name=names(f"{name}_gate"))

    def __call__(self, x, initial_state=None, in_order=False, **_):
        projected = self.inputs(x)
        steps = range(projected.shape[1])
        steps = list(reversed(steps)) if self.layer.go_backwards else list(steps)
        states = [state for state in keras.tree.flatten(initial_state) if state is not None]
        made = []
        for step in steps:
            states = self.step(projected[:, step], states)
            made.append(states[0])
        if in_order and self.layer.go_backwards:
            made.reverse()
        output = ops.stack(made, axis=1) if self.layer.return_sequences else states[0]
        return [output, *states] if self.layer.return_state else output

    def _lstm(self, x, states):
        i, f, new, o = ops.split(self._with_state(x, states), 4, axis=-1)
        carried = ops.multiply(self.gate(i), self.activation(new))
        if states:
            carried = ops.add(ops.multiply(self.gate(f), states[1]), carried)
        return [ops.multiply(self.gate(o), self.activation(carried)), carried]

    def _gru(self, x, states):
        update, reset, new = ops.split(x, 3, axis=-1)
        if not states:
            update, new = self.gate(update), self.activation(new)
            return [ops.subtract(new, ops.multiply(update, new))]
        update_h, reset_h, new_h = ops.split(self.recurrent(states[0]), 3, axis=-1)
        update, reset = self.gate(ops.add(update, update_h)), self.gate(ops.add(reset, reset_h))
        new = self.activation(ops.add(new, ops.multiply(reset, new_h)))
        return [ops.add(new, ops.multiply(update, ops.subtract(states[0], new)))]

    def _simple(self, x, states):
        return [self.activation(self._with_state(x, states))]

    def _with_state(self, x, states):
        """The inputs of the gates; without a state, which is then zero, those from `x` alone."""
        return ops.add(x, self.recurrent(states[0])) if states else x


class _Bidirectional:
    def __init__(self, layer, name, names):
        backward = names(f"{name}_backward")
        self.directions = (
            _Recurrent(layer.forward_layer, name, names), _Recurrent(layer.backward_layer, backward, names)
        )  # fmt: skip
        self.merge = _MERGES[layer.merge_mode](name=names(f"{name}_merge"))

    def __call__(self, x, *_, **__):
        return self.merge([direction(x, in_order=True) for direction in self.directions])


def _flat(variable, num_in):
    """A kernel `(in, out)` or bias `(out,)` of one whose inputs are the first `num_in` axes."""
    values = np.asarray(ops.convert_to_numpy(variable))
    return values.reshape(int(np.prod(values.shape[:num_in])), -1) if num_in else values.reshape(-1)
