"""Keras models as graphs, and copies of them: the only room that knows private names of Keras."""

from tf_reweight.lazy import submodules

__getattr__ = submodules(__name__)
