"""Which pixel values a model was made for: those that the layers before its first kernel bring to a common scale."""

import keras
import numpy as np

from tf_reweight.graph.access import sublayers, takes_training
from tf_reweight.graph.walking import is_graph, walk_on

_L = keras.layers
# Their weights are statistics of what they read, not something to read it with.
_RESCALERS = (_L.Rescaling, _L.Normalization, _L.BatchNormalization)
_WHITE = 255.0
# Size taken for an axis of unknown length.
_UNKNOWN_SIZE = 32
_READ = object()


def input_scale(model, shape=None):
    """How large the values are that a model expects, read from what it does to them before its first kernel.

    A black and a white image go through everything that comes before the first layer with weights of its own: `Rescaling`,
    `Normalization`, a first `BatchNormalization`, arithmetic and functions without weights, also inside nested models. If
    they leave as `(x - centre) / spread`, the answer is the larger of `|centre|` and `spread`: about 1 for a model that
    expects values of about 1, about 64 to 255 for one that takes 8-bit pixels as they are.

    Args:
        model: a built Keras model with one input.
        shape: shape of one example; needed for a model that does not know its input (a subclassed one).

    Returns:
        A float, or None where the first kernel reads the input as it is.
    """
    if is_graph(model):
        return _scale_of(_first_read(model), _WHITE)
    if shape is None:
        return None
    return _scale_of([_rescaled_inside(model, _black_and_white(shape, "float32"))], _WHITE)


def takes_integers(model):
    """Whether a model declares an input of integers, as a camera gives them."""
    inputs = keras.tree.flatten(model.inputs) if is_graph(model) else []
    return any("int" in keras.backend.standardize_dtype(tensor.dtype) for tensor in inputs)


def _black_and_white(shape, dtype):
    """A batch of a black and a white image."""
    sizes = [_UNKNOWN_SIZE if size is None else size for size in shape]
    images = np.stack([np.zeros(sizes), np.full(sizes, _WHITE)])
    return keras.ops.convert_to_tensor(images.astype("float32"), dtype)


def _first_read(model):
    """The black and white images as the first layers with weights of their own read them."""
    found = []

    def visit(path, node, args, kwargs):
        operation = node.operation
        values = keras.tree.flatten((args, kwargs))
        if any(value is _READ for value in values):
            return [_READ] * len(node.outputs)
        if is_graph(operation):
            return walk_on(operation, keras.tree.flatten(args[0]), visit)
        if _has_own_weights(operation):
            images = [value for value in values if keras.ops.is_tensor(value)]
            found.extend(_rescaled_inside(operation, value) for value in images)
            return [_READ] * len(node.outputs)
        return operation(*args, **kwargs)

    inputs = keras.tree.flatten(model.inputs)
    outputs = walk_on(model, [_black_and_white(tensor.shape[1:], tensor.dtype) for tensor in inputs], visit)
    return found + [value for value in outputs if value is not _READ]


def _rescaled_inside(layer, images):
    """Images after the rescaling layers with which a layer (or subclassed model) of layers begins, in their order."""
    for inner in sublayers(layer):
        if isinstance(inner, _RESCALERS):
            try:
                images = _called(inner, images)
            except ValueError:  # it reads something of another shape than the layer's input
                return images
        elif sublayers(inner):
            return _rescaled_inside(inner, images)
        elif inner.weights:
            return images
    return images


def _called(layer, images):
    """The outputs at inference: augmentation is off."""
    return layer(images, training=False) if takes_training(layer) else layer(images)


def _has_own_weights(operation):
    return bool(getattr(operation, "weights", None)) and not isinstance(operation, _RESCALERS)


def _scale_of(read, white):
    """The larger of centre and spread over all tensors and channels; None where none is rescaled."""
    scales = []
    for value in read:
        black, full = (np.ravel(keras.ops.convert_to_numpy(keras.ops.cast(value[i], "float32"))) for i in (0, 1))
        slope = (full - black) / white
        moved = np.isfinite(slope) & (slope != 0)
        spread, centre = 1 / np.abs(slope[moved]), np.abs(black[moved] / slope[moved])
        if spread.size and not (np.allclose(spread, 1) and np.allclose(centre, 0)):
            scales.append(max(spread.max(), centre.max()))
    return float(max(scales)) if scales else None
