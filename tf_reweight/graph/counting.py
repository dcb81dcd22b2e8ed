"""Counting what a model stores and computes."""

import keras
import numpy as np

from tf_reweight.graph.access import is_layer
from tf_reweight.graph.additions import own_weights
from tf_reweight.graph.inner_calls import inner_calls, is_own
from tf_reweight.graph.positions import kernels_of, positions_of
from tf_reweight.graph.walking import is_distributed_model, is_graph, nodes_of


def count_parameters(model):
    """Weights of a model, int, without the state of our penalties."""
    return int(sum(np.prod(weight.shape, dtype="int64") for weight in own_weights(model)))


def count_macs(model):
    """Multiply-accumulates of dense and convolution kernels for one example, int; unknown sizes count as 1.

    Activations and normalisations are left out, and zeros count: a kernel full of zeros takes as long. None for a model of the
    user's own class that does not say how often it calls its kernels.
    """
    uses = kernel_uses(model)
    if not is_graph(model) and not {id(kernel) for kernel in kernels_of(model)} <= {id(kernel) for kernel, _ in uses}:
        return None
    return sum(positions * int(np.prod(kernel.shape)) for kernel, positions in uses)


def kernel_uses(model):
    """How often each entry of a dense or convolution kernel is used for one example.

    Returns:
        List of `(variable, positions)`, one per kernel and call of its layer.
    """
    calls = [call for node in nodes_of(model) for call in calls_at(node)] if is_graph(model) else _calls_of_layers(model)
    return [(kernel, positions) for kernel, positions, _ in uses_at(calls)]


def uses_at(calls):
    """List of `(variable, positions, node)` for calls of `calls_at`; a kernel in several layers is the first one's."""
    found, counted = [], set()
    for layer, group in _by_layer(calls):
        kernels = [kernel for kernel in kernels_of(layer) if id(kernel) not in counted]
        counted.update(map(id, kernels))
        for node, times in group:
            found += [(kernel, times * positions_of(node, kernel), node) for kernel in kernels]
    return found


def calls_at(node):
    """The calls that a call stands for, as a list of `(node, times)`: those of a model that is distributed over time.

    A layer of the user's own comes behind the layers inside it, for kernels that none of them has.

    Args:
        node: a call in Keras' graph.
    """
    if is_distributed_model(node.operation):
        steps = node.input_tensors[0].shape[1] or 1
        return [(call, steps * times) for inner in nodes_of(node.operation.layer) for call, times in calls_at(inner)]
    inside = [call for inner in inner_calls(node) for call in calls_at(inner)] if is_own(node.operation) else []
    return [*inside, (node, 1)]


def _by_layer(calls):
    """`(layer, its calls)` in order; operations that are no layers have no weights."""
    layers, groups = {}, {}
    for node, times in calls:
        layer = node.operation
        if is_layer(layer):
            layers[id(layer)] = layer
            groups.setdefault(id(layer), []).append((node, times))
    return [(layers[key], group) for key, group in groups.items()]


def _calls_of_layers(model):
    """Every call of a layer inside a subclassed model; a wrapper comes before the layer inside it."""
    inner = [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
    return [(node, 1) for layer in inner for node in layer._inbound_nodes]
