"""Counting what a model stores and computes."""

import keras
import numpy as np

from tf_reweight.graph.access import is_layer
from tf_reweight.graph.additions import own_weights
from tf_reweight.graph.positions import kernels_of, positions_of
from tf_reweight.graph.walking import is_graph, nodes_of


def count_parameters(model):
    """Weights of a model, int, without the state of our penalties."""
    return int(sum(np.prod(weight.shape, dtype="int64") for weight in own_weights(model)))


def count_macs(model):
    """Multiply-accumulates of dense and convolution kernels for one example, int; unknown sizes count as 1.

    Activations and normalisations are left out, and zeros count: a kernel full of zeros takes as long.
    """
    uses = kernel_uses(model)
    return sum(positions * int(np.prod(kernel.shape)) for kernel, positions in uses)


def kernel_uses(model):
    """How often each entry of a dense or convolution kernel is used for one example.

    Returns:
        List of `(variable, positions)`, one per kernel and call of its layer.
    """
    calls = [(node.operation, node) for node in nodes_of(model)] if is_graph(model) else _calls_of_layers(model)
    found, counted = [], set()
    for layer, group in _by_layer(calls):
        kernels = [kernel for kernel in kernels_of(layer) if id(kernel) not in counted]
        counted.update(map(id, kernels))
        for node in group:
            found += [(kernel, positions_of(node, kernel)) for kernel in kernels]
    return found


def _by_layer(calls):
    """`(layer, its calls)` in order; operations that are no layers have no weights."""
    layers, groups = {}, {}
    for layer, node in calls:
        if is_layer(layer):
            layers[id(layer)] = layer
            groups.setdefault(id(layer), []).append(node)
    return [(layers[key], group) for key, group in groups.items()]


def _calls_of_layers(model):
    """Every call of a layer inside a subclassed model; a wrapper comes before the layer inside it."""
    inner = [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
    return [(layer, node) for layer in inner for node in layer._inbound_nodes]
