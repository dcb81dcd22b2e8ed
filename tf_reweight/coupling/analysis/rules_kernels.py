"""Rules for layers with kernels: which channels they make, and which they read."""

import keras
import numpy as np

from tf_reweight.coupling.analysis.labels import Signal
from tf_reweight.graph.access import has_channels_first, has_lora, quantization_of
from tf_reweight.graph.copying import config_of
from tf_reweight.graph.walking import is_graph

# Activations that see one number at a time. Softmax, GLU and unknown functions mix channels.
_ELEMENTWISE = {
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "linear",
    "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus",
    "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink", "threshold",
}  # fmt: skip
_ELEMENTWISE_LAYERS = (keras.layers.ELU, keras.layers.LeakyReLU, keras.layers.ReLU)


def is_elementwise(activation):
    """Whether a layer's activation acts on each number alone, as far as is known."""
    if activation is None or type(activation) in _ELEMENTWISE_LAYERS:
        return True
    return any(activation is getattr(keras.activations, name, None) for name in _ELEMENTWISE)


def not_elementwise(activation, what="channels"):
    """Why an activation is not followed: it mixes channels, or nobody knows."""
    name = getattr(activation, "__name__", type(activation).__name__)
    if any(activation is own for own in vars(keras.activations).values()):
        return f"its activation {name} mixes {what}"
    return f"its activation {name} is not known to act on each number alone, as keras.ops behind a layer are"


def channel_axis(layer, rank):
    """Position of the channels among the axes without the batch."""
    return 0 if has_channels_first(layer) else rank - 1


def untouchable(layer):
    """Why the weights of a layer cannot be cut, or None."""
    if has_lora(layer):
        return "LoRA is enabled; `tfr.strip(model)` merges it into the kernel"
    if quantization_of(layer) is not None:
        return f"already quantized ({quantization_of(layer)})"
    return None


def dense(t, layer, x):
    """Reads the last axis, makes units."""
    if untouchable(layer):
        return t.opaque(f"{t.step.path}: {untouchable(layer)}")
    t.read(layer.kernel, 0, t.vector(x, -1), x, foldable=True, layer=layer)
    units = t.out(layer.kernel, 1)
    return _made(t, layer, units, "units", layer.bias, -1)


def convolution(t, layer, x):
    """Any plain convolution; a grouped one acts on each of its groups alone."""
    if untouchable(layer):
        return t.opaque(f"{t.step.path}: {untouchable(layer)}")
    axis = channel_axis(layer, len(x.shape))
    source = t.vector(x, axis)
    if layer.groups == 1:
        foldable = layer.padding == "valid" or all(size == 1 for size in layer.kernel_size)
        t.read(layer.kernel, -2, source, x, foldable=foldable, layer=layer)
        filters = t.out(layer.kernel, -1)
    else:
        # Whole groups: the inputs and the filters of one group live and die together.
        filters = t.scale(layer.kernel, -1, None, makes=True).labels
        for part in (source.reshape(layer.groups, -1), filters.reshape(layer.groups, -1)):
            t.labels.tie(part, filters.reshape(layer.groups, -1)[:, :1])
        t.count(layer, "groups", filters.reshape(layer.groups, -1)[:, 0])
    return _made(t, layer, filters, "filters", layer.bias, axis)


def transposed_convolution(t, layer, x):
    """A transposed convolution's kernel is `(*spatial, out, in)`."""
    if untouchable(layer):
        return t.opaque(f"{t.step.path}: {untouchable(layer)}")
    axis = channel_axis(layer, len(x.shape))
    t.read(layer.kernel, -1, t.vector(x, axis), x, layer=layer)
    return _made(t, layer, t.out(layer.kernel, -2), "filters", layer.bias, axis)


def depthwise_convolution(t, layer, x):
    """Acts on each channel alone; with a multiplier each channel becomes several, which stay together."""
    if untouchable(layer):
        return t.opaque(f"{t.step.path}: {untouchable(layer)}")
    axis = channel_axis(layer, len(x.shape))
    source = t.vector(x, axis)
    t.scale(layer.kernel, -2, source, makes=True)
    channels = np.repeat(source, layer.depth_multiplier)
    t.scale(layer.bias, 0, channels)
    _check_activation(t, layer, channels)
    return t.along(channels, axis, t.shapes[0])


def separable_convolution(t, layer, x):
    """A depthwise kernel followed by a pointwise one."""
    if untouchable(layer):
        return t.opaque(f"{t.step.path}: {untouchable(layer)}")
    axis = channel_axis(layer, len(x.shape))
    source = t.vector(x, axis)
    t.scale(layer.depthwise_kernel, -2, source)
    t.read(layer.pointwise_kernel, -2, np.repeat(source, layer.depth_multiplier), x, layer=layer)
    return _made(t, layer, t.out(layer.pointwise_kernel, -1), "filters", layer.bias, axis)


def einsum_dense(t, layer, x):
    """One letter contracted and one made, each last in its tensor: what Dense does; other equations are left alone."""
    if untouchable(layer):
        return t.opaque(f"{t.step.path}: {untouchable(layer)}")
    inputs, rest = layer.equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    simple = len(kernel) == 2 and inputs[-1] == kernel[0] and outputs[-1] == kernel[1] and inputs[:-1] == outputs[:-1]
    if not simple or len(getattr(layer, "bias_axes", None) or "x") != 1:
        return t.opaque(f"{t.step.path}: the equation {layer.equation} is more than a matrix over the last axis")
    t.read(layer.kernel, 0, t.vector(x, -1), x, foldable=layer.bias is not None, layer=layer)
    units = t.out(layer.kernel, 1)
    sizes = config_of(layer)["output_shape"]
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    t.rewrite(layer, "output_shape", units, lambda alive: [*sizes[:-1], int(alive.sum())])
    return _made(t, layer, units, None, layer.bias, -1)


def embedding(t, layer, x):
    """Makes channels from integers."""
    if untouchable(layer):
        return t.opaque(f"{t.step.path}: {untouchable(layer)}")
    channels = t.out(layer.embeddings, 1)
    t.count(layer, "output_dim", channels)
    return t.along(channels, -1, t.shapes[0])


def time_distributed(t, layer, x, *_, **__):
    """The rule of the layer inside, on a signal without the time axis."""
    rule, reason = t.rule_of(layer.layer)
    if is_graph(layer.layer):
        reason = "a model in TimeDistributed is not followed"
    if rule is None or len(t.shapes) != 1:
        return t.opaque(f"{t.step.path}: {reason or 'what it does inside is unknown'}")
    if x.varying_axis == 0:
        t.freeze(x, f"{t.step.path} works along another axis than the channels'")
        x = t.signal(x.labels[:1], x.shape)
    full, outer = t.shapes, x
    t.shapes = [shape[1:] for shape in full]
    inner = Signal(x.labels[0], x.shape[1:])
    made = rule(t, layer.layer, inner)
    t.shapes = full
    for read in t.step.reads:
        read.source = outer if read.source is inner else read.source
    made = keras.tree.flatten(made)[0]
    return t.signal(made.labels[None], full[0])


def _made(t, layer, labels, field, bias, axis):
    if field is not None:
        t.count(layer, field, labels)
    t.scale(bias, 0, labels)
    _check_activation(t, layer, labels)
    return t.along(labels, axis, t.shapes[0])


def _check_activation(t, layer, labels):
    activation = getattr(layer, "activation", None)
    if not is_elementwise(activation):
        t.freeze(labels, f"{t.step.path}: {not_elementwise(activation)}")
