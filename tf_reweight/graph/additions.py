"""What this package puts on a model's layers for a time, and a copy of the model leaves behind."""

import keras


class Addition:
    """The base of layers that are no part of a model: penalties on its kernels.

    `graph` builds copies of models without knowing what was put on them; it asks this class.
    """

    @classmethod
    def remainder(cls, config):
        """What a copy keeps of the serialized object with the inner `config`: None, or what was there before it."""
        return None

    def remains(self):
        """The same of the object itself, so that what was there before it is the very object: a user's own has no name."""
        return None


def is_addition(value):
    """Whether an argument of a layer is an `Addition`."""
    return isinstance(value, Addition)


def remains_of(value):
    """What a copy keeps of an argument of a layer, as an object: itself, unless it is an `Addition`."""
    return value.remains() if is_addition(value) else value


def additions_of(layer):
    """All additions inside a layer, those that other additions hold included."""
    return [item for item in layer._flatten_layers(include_self=False) if isinstance(item, Addition)]


def addition_class(config):
    """The class of `Addition` that a serialized object is of, or None."""
    registered = keras.saving.get_registered_object(config.get("registered_name"))
    return registered if isinstance(registered, type) and issubclass(registered, Addition) else None


def own_weights(layer):
    """The weights of a layer without those of penalties put on it."""
    foreign = {id(variable) for addition in additions_of(layer) for variable in addition.variables}
    return [variable for variable in layer.weights if id(variable) not in foreign]
