"""Where tfmot has its functions: `tfmot.sparsity.keras`."""

from tf_reweight.tfmot.sparsity import keras

__all__ = ["keras"]
