"""A `.tflite` file, without Keras: reading, executing, looking at and timing it."""

from tf_reweight.lazy import submodules

__getattr__ = submodules(__name__)
