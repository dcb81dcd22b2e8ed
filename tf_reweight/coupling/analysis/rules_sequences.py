"""Rules for recurrent layers and attention: units and heads, which never show in a tensor's shape alone."""

import keras
import numpy as np

from tf_reweight.coupling.analysis.labels import Signal
from tf_reweight.coupling.analysis.rules_kernels import is_elementwise, not_elementwise, untouchable
from tf_reweight.graph.access import sublayers
from tf_reweight.graph.copying import config_of

# With these a unit whose weights are all zero stays at zero from step to step.
_ZERO_AT_ZERO = ("tanh", "relu", "linear", "silu", "gelu", "softsign", "elu", "selu", "relu6", "leaky_relu")


def recurrent(t, layer, x, initial_state=None, *_, **__):
    """LSTM, GRU, SimpleRNN: all gates of a unit go together, with its row of the recurrent kernel."""
    reason = _why_not(layer)
    if reason:
        return t.opaque(f"{t.step.path}: {reason}")
    units = _units(t, layer, x)
    _start_from(t, initial_state, units)
    return [t.along(units, -1, shape) for shape in t.shapes]


def bidirectional(t, layer, x, initial_state=None, *_, **__):
    """Unit i of both directions together, and of the states of both: Keras takes both to have the same number."""
    directions = (layer.forward_layer, layer.backward_layer)
    reasons = [t.rule_of(inner)[1] or _why_not(inner) for inner in directions]
    if any(reasons) or any(t.rule_of(inner)[0] is not recurrent for inner in directions):
        return t.opaque(f"{t.step.path}: {next(filter(None, reasons), 'holds layers that are not known')}")
    if directions[0].return_state:
        return t.opaque(f"{t.step.path}: returns its states")
    forward, backward = (_units(t, inner, x) for inner in directions)
    t.labels.tie(forward, backward)
    _start_from(t, initial_state, forward)
    if layer.merge_mode == "concat":
        return t.along(np.concatenate([forward, backward]), -1, t.shapes[0])
    if layer.merge_mode is None:
        return [t.along(units, -1, shape) for units, shape in zip((forward, backward), t.shapes)]
    return t.along(forward, -1, t.shapes[0])


def _start_from(t, states, units):
    """Channel i of each state is that of unit i."""
    for state in keras.tree.flatten(states):
        if isinstance(state, Signal):
            t.labels.tie(t.vector(state, -1), units)
            t.step.states.append(state)


def _why_not(layer):
    if layer.stateful:
        return "it keeps its state between batches"
    for activation in (layer.activation, getattr(layer, "recurrent_activation", None)):
        if not is_elementwise(activation):
            return not_elementwise(activation, "units")
    return untouchable(layer)


def _units(t, layer, x):
    cell = layer.cell
    t.read(cell.kernel, 0, t.vector(x, -1), x)
    gates = t.out(cell.kernel, 1).reshape(-1, layer.units)
    t.labels.tie(gates, gates[:1])
    units = gates[0]
    labels = np.tile(units, len(gates))
    t.out(cell.recurrent_kernel, 1, labels)
    bias = t.scale(cell.bias, -1, labels)
    made_by = [t.axes[id(cell.kernel), 1], t.axes[id(cell.recurrent_kernel), 1]] + ([] if bias is None else [bias])
    name = getattr(layer.activation, "__name__", "")
    t.read(cell.recurrent_kernel, 0, units, zero_if=tuple(made_by) if name in _ZERO_AT_ZERO else ())
    t.count(layer, "units", units)
    return units


def multi_head_attention(t, layer, query, value, key=None, *_, **options):
    """Heads: slices of query, key and value made together, and read by the output projection."""
    return _attention(t, layer, query, value, key, options, "num_heads", "num_heads", config_of(layer)["output_shape"])


def group_query_attention(t, layer, query, value, key=None, *_, **options):
    """A key/value head and all the query heads that share it."""
    # Keras refuses a query and a value of different widths, of this attention alone, and the key may have any: two Dense layers
    # that make them lose the same channels.
    t.labels.tie(t.vector(query, -1), t.vector(value, -1))
    return _attention(t, layer, query, value, key, options, "num_query_heads", "num_key_value_heads", None)


def _attention(t, layer, query, value, key, options, query_field, value_field, output_shape):
    inner = {child.name: child for child in sublayers(layer)}
    key = key if isinstance(key, Signal) else options.get("key")
    key = value if key is None else key
    masks = [s for s in t.step.inputs if not any(s is known for known in (query, value, key))]
    if len(t.shapes) != 1 or config_of(layer).get("use_gate") or any(untouchable(child) for child in inner.values()):
        return t.opaque(f"{t.step.path}: gated, quantized, or it returns its scores")
    for mask in masks:
        t.freeze(mask, f"{t.step.path}: used as a mask")
    for name, source in (("query", query), ("key", key), ("value", value)):
        t.read(inner[name].kernel, 0, t.vector(source, -1), source)
    heads = t.out(inner["value"].kernel, 1, width=inner["value"].kernel.shape[2])
    t.out(inner["key"].kernel, 1, heads)
    query_heads = np.repeat(heads, inner["query"].kernel.shape[1] // len(heads))
    t.out(inner["query"].kernel, 1, query_heads)
    for name, labels in (("query", query_heads), ("key", heads), ("value", heads)):
        t.scale(inner[name].bias, 0, labels)
    zero_if = [t.axes[id(variable), axis] for variable, axis in (
        (inner["value"].kernel, 1), (inner["value"].bias, 0)) if variable is not None]  # fmt: skip
    output = inner["attention_output"]
    t.read(output.kernel, 0, query_heads, zero_if=tuple(zero_if))
    t.count(layer, query_field, query_heads)
    if value_field != query_field:
        t.count(layer, value_field, heads)
    if output_shape is not None:
        # (heads, dim, *output): a shape of its own, whose size the config names.
        if len(output.kernel.shape) != 3:
            return t.opaque(f"{t.step.path}: an output of several axes")
        channels = t.out(output.kernel, 2)
        t.rewrite(layer, "output_shape", channels, lambda alive: [int(alive.sum())])
    else:
        # The layer takes the number of outputs from the query: they stay as many, so they go together.
        channels = t.out(output.kernel, 2, t.vector(query, -1))
    t.scale(output.bias, 0, channels)
    return t.along(channels, -1, t.shapes[0])
