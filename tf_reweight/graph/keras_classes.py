"""What belongs to Keras itself, as against a user's own layers: many of its classes have no public name to compare with."""


def is_keras_own(thing):
    """Whether a class or function is defined inside Keras."""
    return thing.__module__.startswith("keras.")


def is_named(operation, *names):
    """Whether an operation is of a class of Keras' own with one of these names, public or not."""
    return type(operation).__name__ in names and is_keras_own(type(operation))
