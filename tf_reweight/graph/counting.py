"""Counting what a model stores and computes."""

import keras
import numpy as np

from tf_reweight.graph.additions import additions_of


def count_parameters(model):
    """Weights of a model, int, without the state of our penalties."""
    state = {id(w) for part in additions_of(model) for w in part.weights}
    return int(sum(np.prod(w.shape, dtype="int64") for w in model.weights if id(w) not in state))


def count_macs(model):
    """Multiply-accumulates of dense and convolution kernels for one example, int; unknown sizes count as 1.

    Activations and normalisations are left out, and zeros count: a kernel full of zeros takes as long.
    """
    total, counted = 0, set()
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.Model):
            continue
        # A wrapper comes before the layer inside it, and both were called.
        kernels = [w for w in layer.weights if len(w.shape) > 1 and "kernel" in w.name and id(w) not in counted]
        if layer._inbound_nodes:
            counted.update(map(id, kernels))
        for node in layer._inbound_nodes:
            positions = np.prod([size or 1 for size in node.outputs[0].shape[1:-1]], dtype="int64")
            total += int(positions) * sum(int(np.prod(kernel.shape)) for kernel in kernels)
    return total
