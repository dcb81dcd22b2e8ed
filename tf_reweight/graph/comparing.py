"""Comparing two models on the same inputs."""

import dataclasses

import keras
import numpy as np
from keras import ops

from tf_reweight.graph.randomness import fixed_draws
from tf_reweight.graph.recasting import is_half
from tf_reweight.graph.walking import graph_of

# Largest relative differences that are noise. Float64 outputs are compared after rounding to float32.
HALF_NOISE, FLOAT32_NOISE, FLOAT64_NOISE = 2e-2, 1e-4, 1e-6


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Largest difference of two models' outputs, and the largest output, on the same inputs; as they are, or in float64."""

    difference: float
    scale: float
    in_float64: bool = False

    @property
    def relative(self):
        """The difference in units of the outputs' scale."""
        return self.difference / self.scale if self.scale > 0 else self.difference


def compare(model, other, inputs):
    """Runs both models on the same inputs, with the same random draws where a layer makes some.

    Args:
        inputs: list of arrays, one per input tensor.
    """
    outputs = []
    for each in (model, other):
        with fixed_draws(each):
            made = each(keras.tree.pack_sequence_as(graph_of(each).input, inputs), training=False)
        outputs.append(keras.tree.flatten(made))
    difference = scale = 0.0
    for first, second in zip(*outputs):
        first, second = (np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")), "float64") for x in (first, second))
        if first.shape != second.shape:
            return Comparison(float("inf"), float(np.abs(first).max(initial=0.0)))
        # np.maximum, since Python's max drops a NaN.
        difference = float(np.maximum(difference, np.abs(first - second).max(initial=0.0)))
        scale = float(np.maximum(scale, np.abs(first).max(initial=0.0)))
    return Comparison(difference if np.isfinite(difference + scale) else float("inf"), scale)


def tolerance_of(model):
    """Largest relative difference that is float noise at the model's precision."""
    return HALF_NOISE if is_half(model) else FLOAT32_NOISE
