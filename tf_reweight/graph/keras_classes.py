"""What belongs to Keras itself, as against a user's own layers: many of its classes have no public name to compare with."""

import keras


def is_keras_own(thing):
    """Whether a class or function is defined inside Keras."""
    return thing.__module__.startswith("keras.")


def is_ours(thing):
    """Whether a class or function is defined inside this package."""
    return thing.__module__.startswith("tf_reweight.")


def layers_named(*names):
    """The classes of Keras' layers with these names; `{}` in a name stands for the dimensions 1, 2 and 3."""
    return [getattr(keras.layers, name.format(rank)) for name in names for rank in ((1, 2, 3) if "{}" in name else ("",))]


def is_named(operation, *names):
    """Whether an operation is of a class of Keras' own with one of these names, public or not."""
    return type(operation).__name__ in names and is_keras_own(type(operation))
