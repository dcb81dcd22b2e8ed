"""Back to a plain float model."""

import keras

from tf_reweight.graph.copying import Copied
from tf_reweight.graph.rebuilding import Replacements, rebuild
from tf_reweight.graph.walking import graph_of
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

    def left(path, operation):
        if isinstance(operation, QuantizedKernel):
            return Copied(operation.layer)
        # An Identity gave an output the name that its layer has again now.
        named_output = isinstance(operation, keras.layers.Identity) and operation.name in inner
        return _first if named_output or isinstance(operation, QuantizedActivation) else None

    return rebuild(model, Replacements(left))


def rounded(model):
    """As `strip_quantization`, with the kernels rounded as in training; outputs keep their names."""

    def left(path, operation):
        if isinstance(operation, QuantizedKernel):
            return Copied(operation.layer, name=operation.name)
        if isinstance(operation, QuantizedActivation):
            identity = keras.layers.Identity(name=operation.name)
            return lambda inputs, **_: identity(inputs)
        return None

    made = rebuild(model, Replacements(left))
    for wrapper in _wrappers(model):
        values = wrapper.rounded_kernels()
        for variable, old in zip(made.get_layer(wrapper.name).weights, wrapper.layer.weights):
            variable.assign(values.get(id(old), old.value))
    return made


def _wrappers(model):
    return [operation for operation in graph_of(model).operations if isinstance(operation, QuantizedKernel)]


def _first(inputs, *args, **kwargs):
    return inputs
