"""Random inputs for checks that were given no data."""

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.graph.walking import calls_in_order, fixed_batch, graph_of, is_graph

# Size taken for an axis of unknown length.
_UNKNOWN_SIZE = 32
# Spots per side of a random picture; smaller images are noise.
_SPOTS = 5


def inputs(model, tensors, num=2, seed=0):
    """One random batch per input of a model.

    Images are smooth, and pixels (0 to 255) where the model rescales them itself. Noise would not do: convolutions average it
    away, and a deep network then normalizes, and amplifies, what rounding has left of it. Integers are such that every
    embedding knows them; everything else is standard normal, or spread as the `Normalization` that reads it was adapted to.
    Where the outputs are not finite, as of a logarithm, all numbers are positive.

    Args:
        model: a Keras model.
        tensors: what has the `shape` (examples first) and `dtype` of each input.
        num: examples, where the model takes any number of them.
        seed: of the random numbers.

    Returns:
        List of arrays `(num, ...)` of those dtypes; of a model that takes batches of one size, of that size.

    Raises:
        ValueError: for inputs that cannot be made up, such as strings.
    """
    rng = np.random.default_rng(seed)
    layers = list(model._flatten_layers())
    tables = [layer.input_dim for layer in layers if isinstance(layer, keras.layers.Embedding)]
    pixels = any(isinstance(layer, keras.layers.Rescaling) for layer in layers)
    num = fixed_batch(model) or num
    shapes = [(num, *[_UNKNOWN_SIZE if size is None else size for size in tensor.shape[1:]]) for tensor in tensors]
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors]
    made = [_values(shape, dtype, min(tables, default=2), pixels, rng) for shape, dtype in zip(shapes, dtypes)]
    if not is_graph(model) or len(made) != len(graph_of(model).inputs):
        return made
    made = _spread(model, made)
    return made if _is_finite(model, made) else [np.abs(each) if "float" in each.dtype.name else each for each in made]


def _spread(model, made):
    """The inputs that a `Normalization` reads, with its mean and variance: others would all look the same behind it."""
    numbers = {id(tensor): number for number, tensor in enumerate(graph_of(model).inputs)}
    for node in calls_in_order(model):
        layer, number = node.operation, numbers.get(id(node.input_tensors[0]))
        if number is None or type(layer) is not keras.layers.Normalization or layer.invert or layer.mean is None:
            continue
        if "float" in made[number].dtype.name:
            mean, variance = (ops.convert_to_numpy(x) for x in (layer.mean, layer.variance))
            made[number] = (made[number] * np.sqrt(variance) + mean).astype(made[number].dtype)
            del numbers[id(node.input_tensors[0])]  # the first that reads it says how
    return made


def _is_finite(model, made):
    """Whether all outputs are; so they are called, too, where the model cannot be run here."""
    try:
        outputs = model(keras.tree.pack_sequence_as(graph_of(model).input, made), training=False)
        return all(np.isfinite(ops.convert_to_numpy(ops.cast(x, "float32"))).all() for x in keras.tree.flatten(outputs))
    except Exception:  # of any backend, in a layer of anyone's: who asked for the inputs meets it, and tells it
        return True


def _values(shape, dtype, num_integers, pixels, rng):
    if "int" in dtype:
        return rng.integers(0, num_integers, shape).astype(dtype)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if "float" in dtype:
        values = _pictures(shape, pixels, rng) if len(shape) == 4 else rng.normal(size=shape)
        return ops.convert_to_numpy(ops.cast(values, dtype))
    fix = "Pass a real batch of inputs: shrink(model, inputs=...), quantize(model, data=...)."
    raise ValueError(errors.message("Inputs of numbers can be made up, others not.", fix, dtype=dtype))


def _pictures(shape, pixels, rng):
    """Random images of a few soft spots, float32: 0 to 255, or about standard normal."""
    axes = (1, 2) if keras.config.image_data_format() == "channels_last" else (2, 3)
    size = tuple(shape[axis] for axis in axes)
    coarse = rng.normal(size=[min(_SPOTS, length) if axis in axes else length for axis, length in enumerate(shape)])
    images = ops.convert_to_numpy(ops.image.resize(coarse.astype("float32"), size, interpolation="bicubic"))
    return np.clip(127.5 + 60 * images, 0, 255) if pixels else images
