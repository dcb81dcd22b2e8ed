"""The values of constant tensors of a file."""

import math

from tf_reweight.tflite import sparse_layout
from tf_reweight.tflite.flatbuffer import raw


def values(model, tensor):
    """The values of a constant in its shape; None for what is computed at run time."""
    stored = raw(model, tensor)
    if stored is None:
        return None
    if tensor.sparsity is not None:
        return sparse_layout.decode(stored, tensor.sparsity, tuple(int(size) for size in tensor.shape))
    # A single number has no shape in the file.
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    return stored[: math.prod(shape)].reshape(shape)
