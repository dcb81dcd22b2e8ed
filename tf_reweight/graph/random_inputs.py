"""Random inputs for checks that were given no data."""

import keras
import numpy as np
from keras import ops

from tf_reweight import errors

# Size taken for an axis of unknown length.
_UNKNOWN_SIZE = 32
# Spots per side of a random picture; smaller images are noise.
_SPOTS = 5


def inputs(model, tensors, num=2, seed=0):
    """One random batch per input of a model.

    Images are smooth, and pixels (0 to 255) where the model rescales them itself. Noise would not do: convolutions average it
    away, and a deep network then normalizes, and amplifies, what rounding has left of it. Integers are such that every
    embedding knows them; everything else is standard normal.

    Args:
        model: a Keras model.
        tensors: what has the `shape` (examples first) and `dtype` of each input.
        num: examples.
        seed: of the random numbers.

    Returns:
        List of arrays `(num, ...)` of those dtypes.

    Raises:
        ValueError: for inputs that cannot be made up, such as strings.
    """
    rng = np.random.default_rng(seed)
    layers = list(model._flatten_layers())
    tables = [layer.input_dim for layer in layers if isinstance(layer, keras.layers.Embedding)]
    pixels = any(isinstance(layer, keras.layers.Rescaling) for layer in layers)
    shapes = [(num, *[_UNKNOWN_SIZE if size is None else size for size in tensor.shape[1:]]) for tensor in tensors]
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors]
    return [_values(shape, dtype, min(tables, default=2), pixels, rng) for shape, dtype in zip(shapes, dtypes)]


def _values(shape, dtype, num_integers, pixels, rng):
    if "int" in dtype:
        return rng.integers(0, num_integers, shape).astype(dtype)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if "float" in dtype:
        values = _pictures(shape, pixels, rng) if len(shape) == 4 else rng.normal(size=shape)
        return ops.convert_to_numpy(ops.cast(values, dtype))
    fix = "Pass a real batch of inputs."
    raise ValueError(errors.message("Inputs of numbers can be made up, others not.", fix, dtype=dtype))


def _pictures(shape, pixels, rng):
    """Random images of a few soft spots, float32: 0 to 255, or about standard normal."""
    axes = (1, 2) if keras.config.image_data_format() == "channels_last" else (2, 3)
    size = tuple(shape[axis] for axis in axes)
    coarse = rng.normal(size=[min(_SPOTS, length) if axis in axes else length for axis, length in enumerate(shape)])
    images = ops.convert_to_numpy(ops.image.resize(coarse.astype("float32"), size, interpolation="bicubic"))
    return np.clip(127.5 + 60 * images, 0, 255) if pixels else images
