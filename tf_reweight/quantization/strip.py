"""Back to a plain float model."""

import keras

from tf_reweight.coupling.graph import graph_of, walk
from tf_reweight.quantization.copying import Copied, input_like
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
    graph, made = graph_of(model), {}

    def visit(path, node, args, kwargs):
        operation = node.operation
        if isinstance(operation, QuantizedActivation):
            return args[0]
        if id(operation) not in made:
            made[id(operation)] = Copied(operation.layer if isinstance(operation, QuantizedKernel) else operation)
        return made[id(operation)](*args, **kwargs)

    inputs = [input_like(tensor) for tensor in keras.tree.flatten(graph.inputs)]
    outputs = walk(model, inputs, visit)
    structures = keras.tree.pack_sequence_as(graph.input, inputs), keras.tree.pack_sequence_as(graph.output, outputs)
    return keras.Model(*structures, name=model.name)
