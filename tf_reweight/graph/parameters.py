"""The weights that a file of a model holds, as against those that only its training needs."""

import abc

import keras

from tf_reweight.graph.additions import own_weights
from tf_reweight.graph.state import parts_of

# Weights of Keras' own layers that no inference reads: the vector that finds a kernel's norm in training, a number of examples.
_IN_TRAINING = {keras.layers.SpectralNormalization: "vector_u", keras.layers.Normalization: "count"}


class HoldsState(abc.ABC):
    """The base of layers with weights that no file holds, since it holds what they say of others: ranges and masks.

    A copy of a model has them, its parameters are without.
    """

    @abc.abstractmethod
    def state_variables(self):
        """Those weights, a list of variables."""


def parameters_of(model):
    """The weights of a model or layer without those of penalties put on it, of ranges and of masks."""
    aside = {id(variable) for part in parts_of(model) for variable in _state_of(part)}
    return [variable for variable in own_weights(model) if id(variable) not in aside]


def _state_of(layer):
    if isinstance(layer, HoldsState):
        return layer.state_variables() if layer.built else []
    names = [name for kind, name in _IN_TRAINING.items() if isinstance(layer, kind)]
    return [vars(layer)[name] for name in names if name in vars(layer)]
