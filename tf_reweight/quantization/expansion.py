"""Attention, recurrent layers and their like, written out in layers that have integer arithmetic."""

import keras
import numpy as np
from keras import ops

from tf_reweight.quantization import rules
from tf_reweight.quantization.expandable import MERGES, RECURRENT, why_not

L = keras.layers


def expand(operation, name, names):
    """A function that computes what the layer does with layers of `rules`, or None where that cannot be.

    Args:
        operation: a layer of a functional model.
        name: of the layer that stands for it, and prefix of the other layers' names.
        names: `graph.naming.Names` of the model that the new layers become part of.
    """
    kind = type(operation)
    if kind not in rules.REASONS or why_not(operation):
        return None
    return _EXPANSIONS[kind](operation.layer if kind is L.TimeDistributed else operation, name, names)


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

    def __call__(self, query, value, key=None, *_, training=None, **__):
        given = {"query": query, "key": value if key is None else key, "value": value}
        query, key, value = (self._split(part, given[part]) for part in ("query", "key", "value"))
        weights = self.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))))
        if self.dropout is not None:
            weights = self.dropout(weights, training=training)
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

    def __call__(self, x, initial_state=None, *_, in_order=False, **__):
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
        self.merge = MERGES[layer.merge_mode](name=names(f"{name}_merge"))

    def __call__(self, x, initial_state=None, *_, **__):
        states = [] if initial_state is None else list(initial_state)
        half = len(states) // 2
        halves = zip(self.directions, (states[:half], states[half:]))
        return self.merge([direction(x, states, in_order=True) for direction, states in halves])


def _flat(variable, num_in):
    """A kernel `(in, out)` or bias `(out,)` of one whose inputs are the first `num_in` axes."""
    values = np.asarray(ops.convert_to_numpy(variable))
    return values.reshape(int(np.prod(values.shape[:num_in])), -1) if num_in else values.reshape(-1)


_EXPANSIONS = {
    **dict.fromkeys(RECURRENT, _Recurrent),
    L.Bidirectional: _Bidirectional,
    L.MultiHeadAttention: _Attention,
    L.TimeDistributed: _Projection,
    L.EinsumDense: _Projection,
}
