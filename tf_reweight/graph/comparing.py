"""Comparing two models on the same inputs."""

import dataclasses

import keras
import numpy as np
from keras import ops

from tf_reweight.graph.access import operation_of
from tf_reweight.graph.checking import check_layer
from tf_reweight.graph.randomness import fixed_draws
from tf_reweight.graph.recasting import is_half
from tf_reweight.graph.walking import graph_of

# Largest relative differences that are noise. Float64 outputs are compared after rounding to float32.
HALF_NOISE, FLOAT32_NOISE, FLOAT64_NOISE = 2e-2, 1e-4, 1e-6
# How a model comes to finite outputs.
BOUND = "Mask with -1e9 rather than -inf, bound logarithms and divisions, as log(maximum(x, 1e-6)), and lower huge weights"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far two models are apart on the same inputs, in the output in which they differ most for its scale.

    Attributes:
        difference: the largest difference between the two models' values of that output.
        scale: the largest absolute value of that output.
        in_float64: whether both models were compared in float64.
    """

    difference: float
    scale: float
    in_float64: bool = False

    @property
    def relative(self):
        """The difference in units of the outputs' scale."""
        return self.difference / self.scale if 0 < self.scale < float("inf") else self.difference


def compare(model, other, inputs):
    """Runs both models on the same inputs, with the same random draws where a layer makes some, and compares each output.

    Each output is measured in its own scale, so that scores between 0 and 1 are not lost beside boxes in pixels.

    Args:
        inputs: list of arrays, one per input tensor.

    Returns:
        The `Comparison` of the output that differs most for its scale.
    """
    outputs = []
    for each in (model, other):
        check_layer(each)
        with fixed_draws(each):
            made = each(keras.tree.pack_sequence_as(graph_of(each).input, inputs), training=False)
        outputs.append(keras.tree.flatten(made))
    return max((_of_output(*pair) for pair in zip(*outputs, strict=True)), key=lambda each: each.relative)


def endless_outputs(model, inputs):
    """Names of a model's outputs that are infinite or no numbers on these inputs: no other model can be compared with them.

    Args:
        inputs: as of `compare`.
    """
    graph = graph_of(model)
    with fixed_draws(model):
        made = keras.tree.flatten(model(keras.tree.pack_sequence_as(graph.input, inputs), training=False))
    names = [operation_of(tensor).name for tensor in keras.tree.flatten(graph.outputs)]
    return [name for name, output in zip(names, made) if not bool(ops.all(ops.isfinite(ops.cast(output, "float32"))))]


def _of_output(first, second):
    """The comparison of one output; infinite where shapes differ or something is not finite."""
    first, second = (np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")), "float64") for x in (first, second))
    scale = float(np.abs(first).max(initial=0.0))
    if first.shape != second.shape:
        return Comparison(float("inf"), scale)
    with np.errstate(invalid="ignore"):  # of two infinities
        difference = float(np.abs(first - second).max(initial=0.0))
    return Comparison(difference if np.isfinite(difference + scale) else float("inf"), scale)


def tolerance_of(model):
    """Largest relative difference that is float noise at the model's precision."""
    return HALF_NOISE if is_half(model) else FLOAT32_NOISE
