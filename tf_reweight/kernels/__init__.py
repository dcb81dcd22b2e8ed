"""Which kernels a model has, in which order their weights stand, and how many groups each keeps."""

from tf_reweight.lazy import submodules

__getattr__ = submodules(__name__)
