"""Comparing two models on inputs of the real shape."""

import dataclasses

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.coupling.graph import graph_of
from tf_reweight.recasting import RecastError, is_half, recast
from tf_reweight.shrinking.rebuild import ShrinkError

# Largest relative differences that are noise. Float64 outputs are compared after rounding to float32.
_HALF_NOISE, _FLOAT32_NOISE, _FLOAT64_NOISE = 2e-2, 1e-4, 1e-6


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


def check_device(model):
    """Raises where this machine computes the model wrongly: Keras on a processor, for convolutions with channels first.

    There TensorFlow gives other numbers eagerly than compiled as soon as a bias is added, so nothing can be compared.
    """
    if keras.backend.backend() != "tensorflow" or keras.distribution.list_devices("gpu"):
        return
    named = [
        layer.name for layer in model._flatten_layers(include_self=False)
        if getattr(layer, "data_format", None) == "channels_first" and layer.weights
    ]  # fmt: skip
    if named:
        raise ValueError(
            errors.message(
                "A processor must get convolutions with channels last: TensorFlow's results for channels first differ there.",
                "Shrink it on a GPU, or rebuild it with data_format='channels_last'; the kernels fit as they are.",
                layers=named[:5],
            )
        )


def compare(model, other, inputs):
    """Runs both models on the same inputs.

    Args:
        inputs: list of arrays, one per input tensor.
    """
    outputs = [
        keras.tree.flatten(m(keras.tree.pack_sequence_as(graph_of(m).input, inputs), training=False)) for m in (model, other)
    ]
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
    return _HALF_NOISE if is_half(model) else _FLOAT32_NOISE


def check(model, other, inputs):
    """`compare`, raising `ShrinkError` with both figures when the models differ by more than float noise.

    A deep model can amplify the rounding of its first layers until its outputs are noise. Where float32 models differ, float64
    decides: what remains there is no rounding.
    """
    result, limit = compare(model, other, inputs), tolerance_of(model)
    if result.relative <= limit:
        return result
    received = {"difference": result.difference, "scale": result.scale}
    if not is_half(model):
        try:
            exact = compare(recast(model, "float64"), recast(other, "float64"), inputs)
        except RecastError as error:
            received["in_float64"] = f"not known: {error}"
        else:
            if exact.relative <= _FLOAT64_NOISE:
                return dataclasses.replace(exact, in_float64=True)
            received["in_float64"] = exact.difference
    raise ShrinkError(
        errors.message(
            f"Both models must give the same outputs within {limit:g} of the outputs' scale.",
            "The model is refused; the large one is unchanged.",
            **received,
        )
    )
