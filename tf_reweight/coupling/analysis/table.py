"""The one table: which rule says what a layer or operation does with channels."""

import keras

from tf_reweight import errors
from tf_reweight.coupling.analysis import rules_channelwise, rules_kernels, rules_sequences, rules_shapes
from tf_reweight.graph.access import is_layer
from tf_reweight.graph.keras_classes import is_named, layers_named

_L = keras.layers
_RULES = {
    # Make and read channels.
    _L.Dense: rules_kernels.dense,
    _L.EinsumDense: rules_kernels.einsum_dense,
    _L.Conv1D: rules_kernels.convolution,
    _L.Conv2D: rules_kernels.convolution,
    _L.Conv3D: rules_kernels.convolution,
    _L.Conv1DTranspose: rules_kernels.transposed_convolution,
    _L.Conv2DTranspose: rules_kernels.transposed_convolution,
    _L.Conv3DTranspose: rules_kernels.transposed_convolution,
    _L.DepthwiseConv1D: rules_kernels.depthwise_convolution,
    _L.DepthwiseConv2D: rules_kernels.depthwise_convolution,
    _L.SeparableConv1D: rules_kernels.separable_convolution,
    _L.SeparableConv2D: rules_kernels.separable_convolution,
    _L.Embedding: rules_kernels.embedding,
    _L.TimeDistributed: rules_kernels.time_distributed,
    _L.SimpleRNN: rules_sequences.recurrent,
    _L.LSTM: rules_sequences.recurrent,
    _L.GRU: rules_sequences.recurrent,
    _L.Bidirectional: rules_sequences.bidirectional,
    _L.MultiHeadAttention: rules_sequences.multi_head_attention,
    _L.GroupQueryAttention: rules_sequences.group_query_attention,
    # Act on each channel alone.
    _L.BatchNormalization: rules_channelwise.batch_normalization,
    _L.LayerNormalization: rules_channelwise.layer_normalization,
    _L.RMSNormalization: rules_channelwise.layer_normalization,
    _L.UnitNormalization: rules_channelwise.layer_normalization,
    _L.GroupNormalization: rules_channelwise.group_normalization,
    _L.Activation: rules_channelwise.activation,
    _L.Softmax: rules_channelwise.softmax,
    _L.PReLU: rules_channelwise.prelu,
    _L.Rescaling: rules_channelwise.rescaling,
    # Merge.
    _L.Add: rules_channelwise.merge,
    _L.Subtract: rules_channelwise.merge,
    _L.Average: rules_channelwise.merge,
    _L.Maximum: rules_channelwise.merge,
    _L.Minimum: rules_channelwise.merge,
    _L.Multiply: rules_channelwise.product,
    _L.Concatenate: rules_channelwise.concatenate,
    # Move.
    _L.Flatten: rules_shapes.flatten,
    _L.Reshape: rules_shapes.reshape,
    _L.Permute: rules_shapes.permute,
    _L.RepeatVector: rules_shapes.repeat_vector,
}
_RULES |= dict.fromkeys(
    layers_named("ActivityRegularization", "ELU", "Identity", "LeakyReLU", "ReLU"), rules_channelwise.passing
)  # fmt: skip
_RULES |= dict.fromkeys(layers_named("Dropout", "GaussianDropout", "SpatialDropout{}D"), rules_channelwise.dropout)
_RULES |= dict.fromkeys(layers_named("AlphaDropout", "GaussianNoise"), rules_channelwise.noise)
_RULES |= dict.fromkeys(
    layers_named(
        "AdaptiveAveragePooling{}D", "AdaptiveMaxPooling{}D", "AveragePooling{}D", "Cropping{}D", "MaxPooling{}D",
        "UpSampling{}D", "ZeroPadding{}D",
    ),
    rules_channelwise.spatial,
)  # fmt: skip
_RULES |= dict.fromkeys(layers_named("CenterCrop", "Resizing"), rules_channelwise.images)
_RULES |= dict.fromkeys(layers_named("GlobalAveragePooling{}D", "GlobalMaxPooling{}D"), rules_channelwise.global_pooling)

# Layers with kernels through which channels are not followed, and why.
_OPAQUE = dict.fromkeys(
    (_L.ConvLSTM1D, _L.ConvLSTM2D, _L.ConvLSTM3D),
    "the channels of a convolutional recurrent layer are tied to those of its gates and its state",
)

# Operations of keras.ops have no public class: they go by name.
_OPERATIONS = {
    "Concatenate": rules_shapes.concatenate_op,
    "ExpandDims": rules_shapes.expand_dims,
    "Flip": rules_shapes.flip,
    "GetItem": rules_shapes.get_item,
    "Moveaxis": rules_shapes.move_axis,
    "Multiply": rules_channelwise.times,
    "Pad": rules_shapes.pad,
    "Repeat": rules_shapes.repeat,
    "Reshape": rules_shapes.reshape_op,
    "Resize": rules_channelwise.images,
    "Roll": rules_shapes.roll,
    "Split": rules_shapes.split,
    "Squeeze": rules_shapes.squeeze,
    "Stack": rules_shapes.stack,
    "Swapaxes": rules_shapes.swap_axes,
    "Tile": rules_shapes.tile,
    "Transpose": rules_shapes.transpose_op,
    "Where": rules_channelwise.where,
    **dict.fromkeys(("AveragePool", "MaxPool"), rules_channelwise.spatial),
    **dict.fromkeys(
        ("Amax", "Amin", "Logsumexp", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var"), rules_shapes.reduction
    ),
    **dict.fromkeys(
        ("Add", "Divide", "Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr", "Maximum",
         "Minimum", "NotEqual", "Power", "Subtract", "TrueDivide"),
        rules_channelwise.elementwise,
    ),
    **dict.fromkeys(
        ("Abs", "Absolute", "Cast", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Expm1", "Floor", "Gelu", "HardSigmoid",
         "HardSilu", "LeakyRelu", "Log", "Log1p", "LogSigmoid", "LogicalNot", "Negative", "Reciprocal", "Relu", "Relu6",
         "Round", "Rsqrt", "Selu", "Sigmoid", "Sign", "Silu", "Sin", "Softplus", "Softsign", "Sqrt", "Square", "StopGradient",
         "Tanh"),
        rules_channelwise.passing,
    ),
}  # fmt: skip


def register(layer_type, rule):
    """Teaches the table a layer of yours, so that channels can be followed through it.

    Args:
        layer_type: the layer class; exactly this type, since a subclass may compute something else.
        rule: function `(trace, layer, *args, **kwargs) -> outputs` over `labels.Signal`s; the rules of Keras' own layers
            can be used, for example `channelwise.passing` for a layer that acts on each element alone. The first argument
            of `call` and those without a default come by position, however the layer was called; flags such as `training`
            only where the rule takes them.

    Example:
        >>> class Scale(keras.layers.Layer): ...
        >>> register(Scale, channelwise.passing)
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, keras.layers.Layer)):
        raise TypeError(errors.message("`layer_type` must be a Layer class.", "Pass the class itself.", layer_type=layer_type))
    if not callable(rule):
        raise TypeError(errors.message("`rule` must be a function.", "For example channelwise.passing.", rule=rule))
    _RULES[layer_type] = rule


def rule_of(operation):
    """`(rule, None)`, or `(None, reason)` for what is not known; subclasses are not taken for their parents."""
    kind = type(operation)
    if kind in _RULES:
        return _RULES[kind], None
    if not is_layer(operation) and is_named(operation, *_OPERATIONS):
        return _OPERATIONS[kind.__name__], None
    return None, _OPAQUE.get(kind, f"what {kind.__name__} does to channels is unknown")


def has_verdict(layer_type):
    """Whether the table says something of a layer type: a rule, or why channels are not followed through it."""
    return layer_type in _RULES or layer_type in _OPAQUE
