"""Comparing two models on inputs of the real shape."""

import dataclasses

import keras

from tf_reweight import errors
from tf_reweight.graph.access import all_layers, has_channels_first
from tf_reweight.graph.checking import check_finite
from tf_reweight.graph.comparing import BOUND, FLOAT64_NOISE, compare, endless_outputs, tolerance_of
from tf_reweight.graph.randomness import named, random_layers
from tf_reweight.graph.recasting import RecastError, is_half, recast
from tf_reweight.shrinking.rebuild import ShrinkError


def check_device(model):
    """Raises where this machine computes the model wrongly: Keras on a processor, for convolutions with channels first.

    There TensorFlow gives other numbers eagerly than compiled as soon as a bias is added, so nothing can be compared.
    """
    if keras.backend.backend() != "tensorflow" or keras.distribution.list_devices("gpu"):
        return
    named = [
        layer.name for layer in all_layers(model)
        if has_channels_first(layer) and layer.weights
    ]  # fmt: skip
    if named:
        raise ValueError(
            errors.message(
                "A processor must get convolutions with channels last: TensorFlow's results for channels first differ there.",
                "Shrink it on a GPU, or rebuild it with data_format='channels_last'; the kernels fit as they are.",
                layers=named[:5],
            )
        )


def check(model, other, inputs):
    """`compare`, raising `ShrinkError` with both figures when the models differ by more than float noise.

    A deep model can amplify the rounding of its first layers until its outputs are noise. Where float32 models differ, float64
    decides: what remains there is no rounding.
    """
    result, limit = compare(model, other, inputs), tolerance_of(model)
    if result.relative <= limit:
        return result
    received = {"difference": result.difference, "scale": result.scale}
    drawn = random_layers(model, inputs)
    if drawn:
        expected = "The model must give the same outputs each time, to be compared with the smaller one."
        raise ShrinkError(errors.message(expected, named(drawn), random=drawn, **received))
    try:
        check_finite(model)
    except ValueError as error:
        raise ShrinkError(str(error)) from None
    endless = endless_outputs(model, inputs)
    if endless:
        expected = "The model's own outputs must be finite on the inputs, to be compared with the smaller one."
        raise ShrinkError(errors.message(expected, f"{BOUND}, or pass `inputs` of its real range.", not_finite=endless))
    if not is_half(model):
        try:
            exact = compare(recast(model, "float64"), recast(other, "float64"), inputs)
        except RecastError as error:
            received["in_float64"] = f"not known: {error}"
        else:
            if exact.relative <= FLOAT64_NOISE:
                return dataclasses.replace(exact, in_float64=True)
            received["in_float64"] = exact.difference
    raise ShrinkError(
        errors.message(
            f"Both models must give the same outputs within {limit:g} of the outputs' scale.",
            "The model is refused; the large one is unchanged.",
            **received,
        )
    )
