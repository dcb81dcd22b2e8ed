"""Back to a plain float model."""

import keras

from tf_reweight.graph.checking import check_eager
from tf_reweight.graph.emulation import is_emulation
from tf_reweight.graph.rebuilding import Replacements, rebuild
from tf_reweight.graph.walking import graph_of
from tf_reweight.quantization.layers import QuantizedKernel, unchanged


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
    check_eager()
    inner = {layer.layer.name for layer in graph_of(model).operations if isinstance(layer, QuantizedKernel)}

    def left(path, operation):
        if is_emulation(operation):
            return operation.as_float()
        # An Identity gave an output the name that its layer has again now.
        return unchanged if isinstance(operation, keras.layers.Identity) and operation.name in inner else None

    return rebuild(model, Replacements(left))
