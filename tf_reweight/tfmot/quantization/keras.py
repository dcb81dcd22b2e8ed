"""`tfmot.quantization.keras`: training with the numbers of an int8 file, under tfmot's names."""

import contextlib

from tf_reweight.quantization.build import quantize
from tf_reweight.tfmot.missing import instead

__all__ = ["quantize_model", "quantize_scope"]


def quantize_model(to_quantize):
    """A model that trains with the rounded numbers of its int8 file; see `tf_reweight.quantize`.

    Zeros that are held in the model stay zeros. Layers that have no integers are named in a report and stay float, where tfmot
    refuses the model. Export it with `tf_reweight.export_tflite(model, path, "int8")`, which executes and compares the file.

    Args:
        to_quantize: a built Sequential or functional model, which stays as it is.

    Returns:
        A new functional model, compiled like the given one.
    """
    return quantize(to_quantize)


def quantize_scope(*args):
    """tfmot's scope for loading saved models, which needs none here."""
    return contextlib.nullcontext()


_LAYERS = "tf_reweight.quantize(model, layers=...), with names, types or a predicate of layers"
__getattr__ = instead(
    __name__,
    {
        "quantize_annotate_layer": _LAYERS,
        "quantize_annotate_model": _LAYERS,
        "quantize_apply": _LAYERS,
        "QuantizeConfig": "tf_reweight.quantization.rules.register, which says what a layer of yours does to numbers",
    },
)
