"""The one table: which rule says what a layer or operation does with channels."""

import keras

from tf_reweight import errors
from tf_reweight.coupling import channelwise, kernels, sequences, shapes
from tf_reweight.keras_own import is_named

_L = keras.layers
_RULES = {
    # Make and read channels.
    _L.Dense: kernels.dense,
    _L.EinsumDense: kernels.einsum_dense,
    _L.Conv1D: kernels.convolution,
    _L.Conv2D: kernels.convolution,
    _L.Conv3D: kernels.convolution,
    _L.Conv1DTranspose: kernels.transposed_convolution,
    _L.Conv2DTranspose: kernels.transposed_convolution,
    _L.Conv3DTranspose: kernels.transposed_convolution,
    _L.DepthwiseConv1D: kernels.depthwise_convolution,
    _L.DepthwiseConv2D: kernels.depthwise_convolution,
    _L.SeparableConv1D: kernels.separable_convolution,
    _L.SeparableConv2D: kernels.separable_convolution,
    _L.Embedding: kernels.embedding,
    _L.TimeDistributed: kernels.time_distributed,
    _L.SimpleRNN: sequences.recurrent,
    _L.LSTM: sequences.recurrent,
    _L.GRU: sequences.recurrent,
    _L.Bidirectional: sequences.bidirectional,
    _L.MultiHeadAttention: sequences.multi_head_attention,
    _L.GroupQueryAttention: sequences.group_query_attention,
    # Act on each channel alone.
    _L.BatchNormalization: channelwise.batch_normalization,
    _L.LayerNormalization: channelwise.layer_normalization,
    _L.RMSNormalization: channelwise.layer_normalization,
    _L.UnitNormalization: channelwise.layer_normalization,
    _L.GroupNormalization: channelwise.group_normalization,
    _L.Activation: channelwise.activation,
    _L.Softmax: channelwise.softmax,
    _L.PReLU: channelwise.prelu,
    _L.Rescaling: channelwise.rescaling,
    # Merge.
    _L.Add: channelwise.merge,
    _L.Subtract: channelwise.merge,
    _L.Average: channelwise.merge,
    _L.Maximum: channelwise.merge,
    _L.Minimum: channelwise.merge,
    _L.Multiply: channelwise.product,
    _L.Concatenate: channelwise.concatenate,
    # Move.
    _L.Flatten: shapes.flatten,
    _L.Reshape: shapes.reshape,
    _L.Permute: shapes.permute,
    _L.RepeatVector: shapes.repeat_vector,
}
_RULES |= {
    getattr(_L, name): channelwise.passing
    for name in (
        "ActivityRegularization", "AlphaDropout", "Dropout", "ELU", "GaussianDropout", "GaussianNoise", "Identity",
        "LeakyReLU", "ReLU", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    )
}  # fmt: skip
_RULES |= {
    getattr(_L, f"{name}{rank}D"): channelwise.spatial
    for rank in (1, 2, 3)
    for name in (
        "AdaptiveAveragePooling", "AdaptiveMaxPooling", "AveragePooling", "Cropping", "MaxPooling", "UpSampling", "ZeroPadding",
    )
}  # fmt: skip
_RULES |= {
    getattr(_L, f"{name}{rank}D"): channelwise.global_pooling
    for rank in (1, 2, 3)
    for name in ("GlobalAveragePooling", "GlobalMaxPooling")
}

# Operations of keras.ops have no public class: they go by name.
_OPERATIONS = {
    "Concatenate": shapes.concatenate_op,
    "ExpandDims": shapes.expand_dims,
    "GetItem": shapes.get_item,
    "Multiply": channelwise.times,
    "Reshape": shapes.reshape_op,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Transpose": shapes.transpose_op,
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), shapes.reduction),
    **dict.fromkeys(("Add", "Divide", "Maximum", "Minimum", "Power", "Subtract", "TrueDivide"), channelwise.elementwise),
    **dict.fromkeys(
        ("Abs", "Absolute", "Cast", "Clip", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSilu", "LeakyRelu", "Negative", "Relu",
         "Relu6", "Selu", "Sigmoid", "Silu", "Softplus", "Sqrt", "Square", "Tanh"),
        channelwise.passing,
    ),
}  # fmt: skip


def register(layer_type, rule):
    """Teaches the table a layer of yours, so that channels can be followed through it.

    Args:
        layer_type: the layer class; exactly this type, since a subclass may compute something else.
        rule: function `(trace, layer, *args, **kwargs) -> outputs` over `labels.Signal`s; the rules of Keras' own layers
            can be used, for example `channelwise.passing` for a layer that acts on each element alone.

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
    if not isinstance(operation, keras.layers.Layer) and is_named(operation, *_OPERATIONS):
        return _OPERATIONS[kind.__name__], None
    return None, f"what {kind.__name__} does to channels is unknown"
