"""The regularizers to give to a layer's constructor, under the name Keras users look for them."""

from tf_reweight.penalties.reweighted import Combined, Reweighted

__all__ = ["Combined", "Reweighted"]
