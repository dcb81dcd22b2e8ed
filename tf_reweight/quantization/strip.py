"""Back to a plain float model."""

import keras

from tf_reweight.graph.copying import Copied, input_like
from tf_reweight.graph.walking import functional, graph_of, walk
from tf_reweight.quantization.layers import QuantizedActivation, QuantizedKernel


def strip_quantization(model: keras.Model) -> keras.Model:
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
    inner = {layer.layer.name for layer in _wrappers(model)}

    def left(operation):
        if isinstance(operation, QuantizedKernel):
            return Copied(operation.layer)
        # An Identity gave an output the name that its layer has again now.
        named_output = isinstance(operation, keras.layers.Identity) and operation.name in inner
        return _first if named_output or isinstance(operation, QuantizedActivation) else Copied(operation)

    return _rewritten(model, left)


def rounded(model):
    """As `strip_quantization`, with the kernels rounded as in training; outputs keep their names."""

    def left(operation):
        if isinstance(operation, QuantizedKernel):
            return Copied(operation.layer, name=operation.name)
        if isinstance(operation, QuantizedActivation):
            identity = keras.layers.Identity(name=operation.name)
            return lambda inputs, **_: identity(inputs)
        return Copied(operation)

    made = _rewritten(model, left)
    for wrapper in _wrappers(model):
        values = wrapper.rounded_kernels()
        for variable, old in zip(made.get_layer(wrapper.name).weights, wrapper.layer.weights):
            variable.assign(values.get(id(old), old.value))
    return made


def _wrappers(model):
    return [operation for operation in graph_of(model).operations if isinstance(operation, QuantizedKernel)]


def _first(inputs, *args, **kwargs):
    return inputs


def _rewritten(model, left):
    """A copy in which what `left(operation)` gives is called in place of each operation."""
    made = {}

    def visit(path, node, args, kwargs):
        operation = node.operation
        if id(operation) not in made:
            made[id(operation)] = left(operation)
        return made[id(operation)](*args, **kwargs)

    inputs = [input_like(tensor) for tensor in keras.tree.flatten(graph_of(model).inputs)]
    return functional(model, inputs, walk(model, inputs, visit))
