"""Objects beside layers that Keras saves and loads with a model."""

import keras

# The base of layers, optimizers, metrics and losses that Keras' files walk. It has no public name.
_Saveable = next(base for base in keras.layers.Layer.__mro__ if base.__name__ == "KerasSaveable")


class Saveable(_Saveable):
    """Base of an object that a layer holds and whose state goes into `.keras` and weights files, without being a layer.

    Heirs define `save_own_variables(store)` and `load_own_variables(store)`, where `store` maps names to arrays. An attribute
    of an heir is not saved by itself.
    """

    def _obj_type(self):
        # Keras knows a fixed set of kinds; that of losses tells it nothing but which attributes to pass over.
        return "Loss"
