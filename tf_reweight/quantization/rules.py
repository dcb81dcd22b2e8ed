"""The one table: what becomes of a layer or operation in an integer model."""

import keras

from tf_reweight import errors
from tf_reweight.graph.access import is_layer
from tf_reweight.graph.keras_classes import is_named, layers_named

_L = keras.layers

# What a rule says.
KERNEL = "kernel"  # kernels and output are rounded
RANGED = "ranged"  # the output is rounded, in a range of its own
JOINED = "joined"  # as ranged, but integer files want the inputs in the same range
CLAMP = "clamp"  # relu and relu6: integer files compute them inside the operation before, which is then not rounded
SAME = "same"  # moves numbers around: the output is on the grid of the input
ABSENT = "absent"  # as same, and nothing in the file: noise and the like
AVERAGE = "average"  # makes new numbers in the input's range: they are rounded to the grid of the input
MOVES = (SAME, ABSENT, AVERAGE)
# How much wider than the narrowest the widest input of a join may be, to have one range of 8 bits with it. What reaches an
# output as it is should keep 5 bits. Inside a network, where float is slow and a kernel weighs the branches anyway, 3 do.
# Wider ones stay float from the join to the next kernel.
LIMIT_AT_OUTPUT, LIMIT_INSIDE = 8.0, 30.0
NO_LIMIT = 1e30
# A branch that is narrower than this part of the widest is rounding noise around zero.
NOISE = 1e-6
POOLS = (_L.MaxPooling1D, _L.MaxPooling2D)  # rounded again where several operations read them, see `Plan`
FIXED = {  # integer files prescribe the output's range
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
FIXED_WIDE = (-1.0, 32767 / 32768)  # of all of these, in 16 bits

# Layer -> number of the kernel's last axes that tell channels apart. Integer files know one step per channel for these
# convolutions; Dense and transposed kernels have one step in all, and one-dimensional ones too, since the converter cannot
# reshape kernels with several.
_CHANNEL_AXES = {
    _L.Conv2D: 1, _L.DepthwiseConv2D: 2, _L.Conv1D: 0, _L.DepthwiseConv1D: 0, _L.Dense: 0, _L.Conv2DTranspose: 0,
    _L.Conv1DTranspose: 0,
}  # fmt: skip

_DEPTHWISE = (_L.DepthwiseConv1D, _L.DepthwiseConv2D)
# Kernel layers that compute a relu behind them at no cost, and merges that do. The transposed convolution of files has no
# activation inside.
_TRANSPOSED = (_L.Conv1DTranspose, _L.Conv2DTranspose)
_TAKES_CLAMP = {*_CHANNEL_AXES, _L.Add, _L.Subtract, _L.Multiply}.difference(_TRANSPOSED)
_TAKES_CLAMP_OPERATIONS = {"Add", "Subtract", "Multiply"}

# Image layers that are random in training, and give what they are given in a file. `RandomCrop` is none: it changes the size.
AUGMENTATIONS = (
    "AugMix", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast",
    "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue",
    "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness",
    "RandomShear", "RandomTranslation", "RandomZoom",
)  # fmt: skip

_LAYERS = {
    **dict.fromkeys(_CHANNEL_AXES, KERNEL),
    **dict.fromkeys((_L.Add, _L.Subtract, _L.Multiply, _L.LeakyReLU, _L.PReLU), RANGED),
    **dict.fromkeys((_L.GlobalAveragePooling1D, _L.GlobalAveragePooling2D), RANGED),
    **dict.fromkeys((_L.AveragePooling1D, _L.AveragePooling2D), AVERAGE),
    **dict.fromkeys((_L.Concatenate, _L.Maximum, _L.Minimum), JOINED),
    **dict.fromkeys(
        layers_named(
            "Cropping1D", "Cropping2D", "Flatten", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "MaxPooling1D", "MaxPooling2D",
            "Permute", "RepeatVector", "Reshape", "UpSampling1D", "ZeroPadding1D", "ZeroPadding2D",
        ),
        SAME,
    ),
    **dict.fromkeys(
        layers_named(
            "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "Identity",
            "SpatialDropout1D", "SpatialDropout2D", *AUGMENTATIONS,
        ),
        ABSENT,
    ),
}  # fmt: skip

# Operations of keras.ops have no public class: they go by name.
_OPERATIONS = {
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Matmul", "Mean", "LeakyRelu"), RANGED),
    **dict.fromkeys(("ExpandDims", "GetItem", "Pad", "Repeat", "Reshape", "Split", "Squeeze", "Transpose"), SAME),
    **{name: FIXED[name.lower()] for name in ("Sigmoid", "Softmax", "Tanh")},
    **dict.fromkeys(("Concatenate", "Maximum", "Minimum", "Stack"), JOINED),
    "Gelu": RANGED,
    "HardSilu": RANGED,
    "Relu": CLAMP,
    "Relu6": CLAMP,
}
ACTIVATIONS = {"linear": ABSENT, "relu": CLAMP, "relu6": CLAMP, "hard_silu": RANGED, "gelu": RANGED, **FIXED}

# Layers that are written out in others before (`expansion`), and when; `expandable.why_not` says which of it does not hold.
REASONS = {
    _L.MultiHeadAttention: "attention becomes integers only on sequences of one length, without masks or scores as outputs",
    **dict.fromkeys(
        (_L.LSTM, _L.GRU, _L.SimpleRNN, _L.Bidirectional),
        "recurrent layers become integers only on sequences of one length, without masks, dropout and lasting state",
    ),
    _L.TimeDistributed: "becomes integers only around a Dense layer",
    _L.EinsumDense: "becomes integers only where it is a Dense layer",
}  # fmt: skip

# Layers with kernels that no integer file has an operation for, or that gain nothing from one.
_FLOAT = {
    _L.Conv3D: "three-dimensional convolutions have no integer operation in files",
    _L.Conv3DTranspose: "three-dimensional convolutions have no integer operation in files",
    _L.Embedding: "an embedding looks numbers up and computes none; they are rounded where a kernel reads them",
    _L.GroupQueryAttention: "only attention with as many keys as queries is written out in integers",
    **dict.fromkeys(
        (_L.ConvLSTM1D, _L.ConvLSTM2D, _L.ConvLSTM3D), "convolutional recurrent layers are not written out in integers"
    ),
}


def has_verdict(layer_type):
    """Whether the table says something of a layer type: a rule, or why it stays float."""
    return any(layer_type in table for table in (_LAYERS, REASONS, _FLOAT))


def keeps_channels(operation, rule):
    """Whether an operation with a rule of the table computes each channel from that channel alone, in a range of its own."""
    return rule in (RANGED, CLAMP) and not is_named(operation, "Matmul") or rule == KERNEL and isinstance(operation, _DEPTHWISE)


def chooses(operation):
    """Whether a join picks numbers from its inputs, so that its output may be narrower than all of them."""
    return is_named(operation, "Maximum", "Minimum")


def rule_of(operation):
    """`(rule, None)`, or `(None, reason)` for what stays float; subclasses are not taken for their parents."""
    kind = type(operation)
    if kind is _L.Activation:
        name = activation_name(operation)
        return (ACTIVATIONS[name], None) if name in ACTIVATIONS else (None, no_kernel_for(operation.activation))
    if is_named(operation, "ReLU"):  # the layer or the operation
        return (CLAMP if clamps(operation) else RANGED), None
    if kind is _L.Softmax:
        return FIXED["softmax"], None
    if is_named(operation, "StochasticDepth"):
        return ABSENT, None
    if kind is _L.UpSampling2D:
        return (SAME if operation.interpolation == "nearest" else AVERAGE), None
    if kind in _LAYERS:
        return _LAYERS[kind], None
    if not is_layer(operation) and is_named(operation, *_OPERATIONS):
        return _OPERATIONS[kind.__name__], None
    if is_named(operation, "Cast"):
        return None, "a change of type; its result is rounded where a kernel reads it"
    return None, {**_FLOAT, **REASONS}.get(kind, f"{kind.__name__} has no rule for integers")


def no_kernel_for(activation):
    """The reason that an activation keeps something in float, which names it."""
    called = function_name(activation) or getattr(activation, "__name__", type(activation).__name__)
    return f"no integer kernel for the activation {called!r}"


def register(layer_type, rule):
    """Teaches the table a layer of yours, so that it computes in integers.

    Args:
        layer_type: the layer class; exactly this type.
        rule: `rules.RANGED` for one that makes new numbers, `rules.SAME` for one that moves numbers around.

    Example:
        >>> register(MyShuffle, rules.SAME)
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, keras.layers.Layer)):
        raise TypeError(errors.message("`layer_type` must be a Layer class.", "Pass the class itself.", layer_type=layer_type))
    if rule not in (RANGED, SAME, AVERAGE, JOINED):
        raise ValueError(errors.unknown("rule", rule, (RANGED, SAME, AVERAGE, JOINED)))
    _LAYERS[layer_type] = rule


def channel_axes(layer, activation_bits=8):
    """`num_channel_axes` of the layer's kernel, see `grid.round_kernel`.

    With wider activations Dense has a step per channel, as in the files the converter makes of them.
    """
    return 1 if activation_bits > 8 and type(layer) is _L.Dense else _CHANNEL_AXES[type(layer)]


def stored_bits(layer, bits):
    """Bits in which a file stores a layer's kernel of so many: 4 or 8; transposed convolutions have no int4.

    Told of fewer bits, the converter would spread the kernel's values over all numbers of int4 or int8, and round them again.
    """
    if bits > 8:
        return bits
    return 4 if bits <= 4 and type(layer) not in _TRANSPOSED else 8


def has_kernel(layer):
    """Whether the layer's kernel is rounded."""
    return type(layer) in _CHANNEL_AXES


def takes_clamp(operation):
    """Whether integer files compute a relu behind this operation inside it."""
    known = type(operation) in _TAKES_CLAMP or type(operation).__name__ in _TAKES_CLAMP_OPERATIONS
    return known and activation_name(operation) == "linear"


def computes_clamp(layer):
    """Whether a kernel layer's own relu or relu6 is part of its operation in integer files."""
    return type(layer) not in _TRANSPOSED


def activation_name(layer):
    """Keras' name of a layer's activation; `"linear"` without one, and None for a function of the user's."""
    return function_name(getattr(layer, "activation", None))


def function_name(function):
    """Keras' name of an activation function; `"linear"` for None, and None for one that is not Keras' own.

    Functions are told by what they are: a user's own `relu` is not Keras'.
    """
    if function is None:
        return "linear"
    name = getattr(function, "__name__", "")
    known = (getattr(module, name, None) for module in (keras.activations, keras.ops))
    return name if any(function is own for own in known) else None


def clamps(relu):
    """Whether a ReLU layer is the plain one, or relu6."""
    return not relu.negative_slope and not relu.threshold and relu.max_value in (None, 6)
