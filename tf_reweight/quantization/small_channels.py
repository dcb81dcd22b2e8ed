"""Channels of an output that rounding wipes out beside larger ones, which no error of the whole output tells."""

import contextlib

import keras
import numpy as np
from keras import ops

from tf_reweight.data import varying
from tf_reweight.graph.access import all_layers
from tf_reweight.graph.emulation import is_emulation
from tf_reweight.graph.randomness import fixed_draws
from tf_reweight.graph.walking import fixed_batch, input_structure
from tf_reweight.tflite.comparing import unlike_channels

# A channel is lost that is off by more than this part of what it varies by, while the largest is off by less than the other.
_LOST, _KEPT = 0.5, 0.25
# One that varies by less than this part of its size says nothing.
_STILL = 0.01


def of_outputs(model, arrays):
    """A sentence that names the channels of a quantized model's outputs that are lost beside larger ones, or None.

    The outputs are compared with those of the same layers where nothing is rounded, each channel by what it varies by.

    Args:
        model: a quantized model with its ranges.
        arrays: list of examples `(num, ...)`, one for each input, of which some are looked at.
    """
    arrays = varying.some(arrays)
    if fixed_batch(model):
        arrays = [array[np.resize(np.arange(len(array)), fixed_batch(model))] for array in arrays]
    with _passing(model):
        exact = _outputs(model, arrays)
    if all(unlike_channels(output) is None for output in exact):
        return None
    names = [
        f"{name}, channel {channel} of the last axis"
        for name, first, second in zip(model.output_names, exact, _outputs(model, arrays))
        for channel in _lost(first, second)
    ]
    if not names:
        return None
    return (
        f"In the quantized model small channels are lost beside large ones, whose range they share: {'; '.join(names[:5])}. "
        "Make them by a layer of their own and join them with Concatenate, which then stays float, or scale them alike."
    )


def _lost(exact, rounded):
    """The channels of one output that rounding wipes out."""
    scales = unlike_channels(exact)
    if scales is None:
        return []
    axes = tuple(range(exact.ndim - 1))
    spread = exact.std(axes)
    off = np.sqrt(np.square(rounded - exact).mean(axes)) / np.maximum(spread, 1e-30)
    if off[np.argmax(scales)] > _KEPT:
        return []
    return np.flatnonzero((off > _LOST) & (spread > _STILL * scales)).tolist()


def _outputs(model, arrays):
    with fixed_draws(model):
        outputs = model(keras.tree.pack_sequence_as(input_structure(model), arrays), training=False)
    return [np.asarray(ops.convert_to_numpy(output), "float64") for output in keras.tree.flatten(outputs)]


@contextlib.contextmanager
def _passing(model):
    """Within it, no layer of a quantized model rounds."""
    layers = [layer for layer in all_layers(model) if is_emulation(layer)]
    for layer in layers:
        layer.passing = True
    try:
        yield
    finally:
        for layer in layers:
            layer.passing = False
