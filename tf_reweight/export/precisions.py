"""The one table of what a file can be stored and computed in."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Precision:
    """One way to store and compute.

    Attributes:
        weight_bits: of a kernel's weights, where the operation has them so.
        activation_bits: 32 for floating point.
        tolerance: largest accepted error of a file, as root mean square relative to that of the model's outputs. Float files
            differ by rounding alone; for integers the bound tells a quantized model from a broken one, accuracy how good it is.
        by_quantizer: whether litert-quantizer makes it from the float file; else the converter does. Where both can, the
            converter made the better one (`benchmarks/quantizers.py`): litert-quantizer averages the ranges of examples, so
            that values are clipped (int8 and int16), and with ranges of ours depthwise kernels lose more; in dynamic_int8 it
            rounds small kernels too, which saves 4 to 7 % of the bytes and was slower; in float16 both are alike, and the
            converter needs no further package.
        computes_in_integers: whether integer kernels run it: with `activation_bits` 32 activations are rounded on the way.
    """

    weight_bits: int
    activation_bits: int
    tolerance: float
    by_quantizer: bool = False
    computes_in_integers: bool = False

    @property
    def made_by(self):
        """Whose rounding it is."""
        return "litert-quantizer" if self.by_quantizer else "TensorFlow's converter"

    @property
    def needs_data(self):
        """Whether ranges of activations must be known, from data or from training."""
        return self.activation_bits < 32

    @property
    def least_error(self):
        """A relative error that rounding of a model's floats to this stays above, by far: a sixteenth of half a step.

        Of one digit, so that messages name the very limit.
        """
        bits = {32: 24, 16: 16}.get(self.weight_bits, self.weight_bits + 5)
        return float(f"{2.0**-bits:.1g}")


TABLE = {
    "float32": Precision(32, 32, 1e-4),
    "float16": Precision(16, 32, 1e-2),
    "dynamic_int8": Precision(8, 32, 1e-1, computes_in_integers=True),
    "int8": Precision(8, 8, 2.5e-1, computes_in_integers=True),
    "int16": Precision(8, 16, 1e-1, computes_in_integers=True),
    "weight_int8": Precision(8, 32, 1e-1, by_quantizer=True),
    "weight_int4": Precision(4, 32, 5e-1, by_quantizer=True),
    "dynamic_int4": Precision(4, 32, 5e-1, by_quantizer=True, computes_in_integers=True),
}
PRECISIONS = tuple(TABLE)
