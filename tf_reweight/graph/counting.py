"""Counting what a model stores and computes."""

import math

import keras
import numpy as np

from tf_reweight.graph.access import is_layer
from tf_reweight.graph.parameters import parameters_of
from tf_reweight.graph.positions import kernels_of, positions_of
from tf_reweight.graph.sized_calls import calls_at, calls_of, per_example
from tf_reweight.graph.walking import is_graph


def count_parameters(model):
    """Weights of a model that a file of it holds, int; see `parameters.parameters_of`."""
    return int(sum(np.prod(weight.shape, dtype="int64") for weight in parameters_of(model)))


def count_macs(model):
    """Multiply-accumulates of dense and convolution kernels for one example, int.

    Sizes that do not follow from those of the inputs count as 1, such as the length of `Input((None, 8))`. Activations and
    normalisations are left out, and zeros count: a kernel full of zeros takes as long. None for a model of the user's own class
    that does not say how often it calls its kernels.
    """
    uses = kernel_uses(model)
    if not is_graph(model) and not {id(kernel) for kernel in kernels_of(model)} <= {id(kernel) for kernel, *_ in uses}:
        return None
    return sum(positions * int(np.prod(kernel.shape)) for kernel, positions, _ in uses)


def kernel_uses(model):
    """How often each entry of a dense or convolution kernel is used for one example.

    A kernel in several layers, such as a wrapper and the layer inside it, is that of the first.

    Returns:
        List of `(variable, positions, call)`, one per kernel and call of its layer, in the order in which layers first run; the
        call is a node of Keras' graph or an `InnerCall`.
    """
    found, counted = [], set()
    for layer, group in _by_layer(calls_of(model) if is_graph(model) else _calls_of_layers(model)):
        kernels = [kernel for kernel in kernels_of(layer) if id(kernel) not in counted]
        counted.update(map(id, kernels))
        for call, times in group:
            found += [(kernel, math.ceil(times * positions_of(call, kernel)), call) for kernel in kernels]
    return found


def _by_layer(calls):
    """`(layer, its calls)` in order; operations that are no layers have no weights."""
    layers, groups = {}, {}
    for call, times in calls:
        layer = call.operation
        if is_layer(layer):
            layers[id(layer)] = layer
            groups.setdefault(id(layer), []).append((call, times))
    return [(layers[key], group) for key, group in groups.items()]


def _calls_of_layers(model):
    """Every call of a layer inside a subclassed model; a wrapper comes before the layer inside it."""
    inner = [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
    nodes = [node for layer in inner for node in layer._inbound_nodes]
    return [call for node in nodes for call in per_example(calls_at(node), node.input_tensors)]
