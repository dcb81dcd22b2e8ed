"""Attention, recurrent layers and their like, written out in layers that have integer arithmetic."""


import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.graph.copying import config_of
from tf_reweight.quantization import rules
from tf_reweight.quantization.activations import Chain
from tf_reweight.quantization.carrying import Weight, regularizer_like
from tf_reweight.quantization.expandable import MERGES, RECURRENT, why_not

L = keras.layers


def expand(operation, name, names):
    """A function that computes what the layer does with layers of `rules`, or None where that cannot be.

    Regularizers and constraints of its weights come along; a warning names those that cannot, see `carrying`.

    Args:
        operation: a layer of a functional model.
        name: of the layer that stands for it, and prefix of the other layers' names.
        names: `graph.naming.Names` of the model that the new layers become part of.
    """
    kind = type(operation)
    if kind not in rules.REASONS or why_not(operation):
        return None
    lost = []
    made = _EXPANSIONS[kind](operation, name, names, lost)
    if lost:
        errors.warn(
            f"The quantized model leaves out {', '.join(dict.fromkeys(lost))} of {operation.name}: in the layers in which that "
            "is written out, not all of their weights lie as before, and it would act otherwise there.",
        )
    return made


def regularized(made, layer, name, names):
    """What stands for a layer, with the penalty on the layer's outputs behind it."""
    return made if layer.activity_regularizer is None else Chain([made, _penalised(layer, name, names)])


def _penalised(layer, name, names):
    """A layer that changes nothing and has the penalty on another layer's outputs."""
    behind = L.Identity(name=names(f"{name}_activity"), dtype=layer.compute_dtype)
    # Keras cannot save an Identity that was given objects as arguments.
    behind.activity_regularizer = layer.activity_regularizer
    return behind


def dense(name, kernel, bias, like, lost):
    """A Dense layer with these `Weight`s: `kernel` of shape `(in, out)`, `bias` of shape `(out,)` or None.

    Args:
        like: the layer whose types and flags it has.
        lost: list that takes up the names of regularizers and constraints that could not come along.
    """
    own = {"name": name, "dtype": like.dtype_policy, "trainable": like.trainable}
    weights = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
    for slot, weight in weights.items():
        own |= {f"{slot}_regularizer": weight.regularizer, f"{slot}_constraint": weight.constraint}
        lost += weight.lost
    layer = L.Dense(kernel.values.shape[-1], use_bias=bias is not None, **own)
    layer.build((None, kernel.values.shape[0]))
    layer.set_weights([weight.values for weight in weights.values()])
    return layer


def _bias(layer, view=None, scale=1.0):
    """The bias of a layer, or None."""
    return None if layer.bias is None else Weight(layer, "bias", view, scale)


def _of_time(layer, name, names, lost):
    """A layer around a Dense one, whose penalty on its outputs Keras does not add up there."""
    return _Projection(layer.layer, name, names, lost)


class _Projection:
    """A Dense layer on the last axis, its activation behind."""

    def __init__(self, layer, name, names, lost):
        self.dense = dense(name, Weight(layer, "kernel"), _bias(layer), layer, lost)
        plain = rules.activation_name(layer) == "linear"
        self.activation = None if plain else L.Activation(layer.activation, name=names(f"{name}_activation"))

    def __call__(self, x, *_, **__):
        x = self.dense(x)
        return x if self.activation is None else self.activation(x)


class _Attention:
    """softmax(q k / sqrt(d)) v; the root is part of the query's projection."""

    def __init__(self, layer, name, names, lost):
        config = config_of(layer)
        self.heads = config["num_heads"]
        parts = {"query": layer.query_dense, "key": layer.key_dense, "value": layer.value_dense}
        scales = {"query": 1.0 / np.sqrt(config["key_dim"])}
        self.projections = {
            part: _projection(inner, names(f"{name}_{part}"), 1, scales.get(part, 1.0), layer, lost)
            for part, inner in parts.items()
        }
        self.output = _projection(layer.output_dense, names(f"{name}_output"), 2, 1.0, layer, lost)
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
    """A recurrent layer, step by step; one Dense layer for all inputs, one for the state, or two where a gate is between."""

    def __init__(self, layer, name, names, lost):
        cell, self.layer = layer.cell, layer
        self.step = {L.LSTM: self._lstm, L.GRU: self._gru, L.SimpleRNN: self._simple}[type(layer)]
        biases = (_bias(cell), None)
        if type(layer) is L.GRU and layer.reset_after:
            biases = (_bias(cell, lambda both: both[0]), _bias(cell, lambda both: both[1]))
        self.inputs = dense(name, Weight(cell, "kernel"), biases[0], layer, lost)
        gates, self.candidate, units = None, None, layer.units
        if type(layer) is L.GRU and not layer.reset_after:
            # What the new state is made of reads the state behind a gate: it has a part of the kernel to itself.
            gates, own = lambda kernel: kernel[:, : 2 * units], lambda kernel: kernel[:, 2 * units :]
            weight = Weight(cell, "recurrent_kernel", own)
            self.candidate = dense(names(f"{name}_candidate"), weight, None, layer, lost)
        weight = Weight(cell, "recurrent_kernel", gates)
        self.recurrent = dense(names(f"{name}_recurrent"), weight, biases[1], layer, lost)
        self.activation = L.Activation(layer.activation, name=names(f"{name}_activation"))
        self.gate = L.Activation(getattr(layer, "recurrent_activation", layer.activation), name=names(f"{name}_gate"))

    def __call__(self, x, initial_state=None, *_, in_order=False, **__):
        projected = self.inputs(x)
        steps = range(projected.shape[1])
        steps = list(reversed(steps)) if self.layer.go_backwards else list(steps)
        states = [state for state in keras.tree.flatten(initial_state) if state is not None]
        if not states and self.recurrent.use_bias:
            # The bias acts on a state of zeros too. The converter breaks down on constants: these come out of a padding.
            states = [ops.pad(projected[:, steps[0]], ((0, 0), (0, self.layer.units)))[:, projected.shape[-1] :]]
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
        update_h, reset_h, *new_h = ops.split(self.recurrent(states[0]), 3 - (self.candidate is not None), axis=-1)
        update, reset = self.gate(ops.add(update, update_h)), self.gate(ops.add(reset, reset_h))
        of_state = ops.multiply(reset, *new_h) if new_h else self.candidate(ops.multiply(reset, states[0]))
        new = self.activation(ops.add(new, of_state))
        return [ops.add(new, ops.multiply(update, ops.subtract(states[0], new)))]

    def _simple(self, x, states):
        return [self.activation(self._with_state(x, states))]

    def _with_state(self, x, states):
        """The inputs of the gates; without a state, which is then zero, those from `x` alone."""
        return ops.add(x, self.recurrent(states[0])) if states else x


class _Bidirectional:
    def __init__(self, layer, name, names, lost):
        ways = ((layer.forward_layer, name), (layer.backward_layer, names(f"{name}_backward")))
        self.directions = [regularized(_Recurrent(one, way, names, lost), one, way, names) for one, way in ways]
        self.merge = MERGES[layer.merge_mode](name=names(f"{name}_merge"))

    def __call__(self, x, initial_state=None, *_, **__):
        states = [] if initial_state is None else list(initial_state)
        half = len(states) // 2
        halves = zip(self.directions, (states[:half], states[half:]))
        return self.merge([direction(x, states, in_order=True) for direction, states in halves])


def _projection(inner, name, num_in, scale, like, lost):
    """A projection of an attention layer, whose inputs are the first `num_in` axes of its kernel, times a factor."""

    def flat(values, num_in=num_in):
        return scale * values.reshape(int(np.prod(values.shape[:num_in])), -1)

    bias = _bias(inner, lambda values: scale * values.reshape(-1), scale)
    made = dense(name, Weight(inner, "kernel", flat, scale), bias, like, lost)
    penalty, shape = inner.activity_regularizer, (2, 3, *inner.kernel.shape[num_in:])
    made.activity_regularizer = regularizer_like(penalty, shape, lambda x: scale * x.reshape(*x.shape[:2], -1), scale)
    if penalty is not None and made.activity_regularizer is None:
        lost.append("activity_regularizer")
    return made


_EXPANSIONS = {
    **dict.fromkeys(RECURRENT, _Recurrent),
    L.Bidirectional: _Bidirectional,
    L.MultiHeadAttention: _Attention,
    L.TimeDistributed: _of_time,
    L.EinsumDense: _Projection,
}
