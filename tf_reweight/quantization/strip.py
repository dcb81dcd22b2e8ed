"""Back to a plain float model."""

import keras

from tf_reweight.graph.copying import Copied, input_like
from tf_reweight.graph.walking import functional, graph_of, walk
from tf_reweight.quantization.layers import QuantizedActivation, QuantizedKernel


def strip_quantization(model):
    """The float model inside a quantized one: the same layers and trained weights, nothing rounded.

    Layers that `quantize` folded or split stay so: a convolution holds its BatchNormalization, a silu is two layers,
    nested models are part of the one.

    Args:
        model: from `quantize`; it is unchanged.

    Returns:
        A functional `keras.Model`, not compiled.

    Example:
        >>> strip_quantization(quantize(model))
    """
    return _without_rounding(model, lambda activation: lambda inputs, **_: inputs)


def rounded(model):
    """As `strip_quantization`, with the kernels rounded as in training; outputs keep their names."""
    made = _without_rounding(model, lambda activation: keras.layers.Identity(name=activation.name))
    layers = [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, QuantizedKernel)]
    for wrapper in layers:
        values = wrapper.rounded_kernels()
        for variable, old in zip(made.get_layer(wrapper.layer.name).weights, wrapper.layer.weights):
            variable.assign(values.get(id(old), old.value))
    return made


def _without_rounding(model, stands_for):
    """A copy in which `stands_for(layer)` is called instead of each layer that rounds activations."""
    graph, made = graph_of(model), {}

    def visit(path, node, args, kwargs):
        operation = node.operation
        rounds = isinstance(operation, QuantizedActivation)
        if id(operation) not in made:
            inner = operation.layer if isinstance(operation, QuantizedKernel) else operation
            made[id(operation)] = stands_for(operation) if rounds else Copied(inner)
        return made[id(operation)](args[0]) if rounds else made[id(operation)](*args, **kwargs)

    inputs = [input_like(tensor) for tensor in keras.tree.flatten(graph.inputs)]
    outputs = walk(model, inputs, visit)
    return functional(graph, inputs, outputs, model.name)
