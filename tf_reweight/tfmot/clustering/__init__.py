"""Where tfmot has its functions: `tfmot.clustering.keras`."""

from tf_reweight.tfmot.clustering import keras

__all__ = ["keras"]
