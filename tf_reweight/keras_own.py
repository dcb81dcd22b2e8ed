"""What belongs to Keras itself, as against a user's own layers: many of its classes have no public name to compare with."""

import keras


def is_keras_own(thing):
    """Whether a class or function is defined inside Keras."""
    return thing.__module__.startswith("keras.")


def is_named(operation, *names):
    """Whether an operation is of a class of Keras' own with one of these names, public or not."""
    return type(operation).__name__ in names and is_keras_own(type(operation))


def is_kept_as_it_is(operation):
    """Whether a copy of a model takes the very object: a Lambda or custom layer without weights."""
    if not isinstance(operation, keras.layers.Layer) or operation.variables:
        return False
    return isinstance(operation, keras.layers.Lambda) or not is_keras_own(type(operation))
