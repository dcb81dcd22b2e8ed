"""Where tfmot has its functions: `tfmot.quantization.keras`."""

from tf_reweight.tfmot.quantization import keras

__all__ = ["keras"]
