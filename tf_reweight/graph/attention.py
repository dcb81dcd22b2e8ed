"""Where Keras' attention layers keep the one regularizer of all their projections."""

import keras

# The attribute that is saved with the layer; those of its projections are not.
_SHARED = ((keras.layers.MultiHeadAttention, "_kernel_regularizer"), (keras.layers.GroupQueryAttention, "kernel_regularizer"))


def shared_regularizer(layer):
    """Name of the attribute that holds the regularizer of all kernels of an attention layer; None for other layers."""
    return next((attribute for kind, attribute in _SHARED if isinstance(layer, kind)), None)
