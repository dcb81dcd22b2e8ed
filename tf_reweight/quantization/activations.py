"""The activation of a layer as layers of its own, behind the layer."""

import keras
from keras import ops

from tf_reweight.graph.access import is_layer
from tf_reweight.graph.copying import Copied
from tf_reweight.quantization import rules

L = keras.layers


class Chain:
    """Layers one behind the other; only the first takes further arguments."""

    def __init__(self, layers):
        self.layers = layers

    def __call__(self, tensor, *args, **kwargs):
        for layer in self.layers:
            tensor = layer(tensor, *args, **kwargs)
            args, kwargs = (), {}
        return tensor


class Silu:
    """`x * sigmoid(x)`, which integer files have no operation for."""

    def __init__(self, name, names):
        self.sigmoid = L.Activation("sigmoid", name=names(f"{name}_sigmoid"))
        self.multiply = L.Multiply(name=names(f"{name}_silu"))

    def __call__(self, tensor, **_):
        return self.multiply([tensor, self.sigmoid(tensor)])


class HardSigmoid:
    """`relu6(x + 3) / 6`."""

    def __init__(self, name, names):
        self.relu6 = L.ReLU(6, name=names(f"{name}_relu6"))

    def __call__(self, tensor, **_):
        return ops.multiply(self.relu6(ops.add(tensor, 3.0)), 1 / 6)


EXPANSIONS = {"silu": Silu, "hard_sigmoid": HardSigmoid}


class Activations:
    """Makes the layers of activations for one model: a layer object that several layers have stays one.

    Args:
        names: `graph.naming.Names` of the model that the new layers become part of.
    """

    def __init__(self, names):
        self._names, self._copies = names, {}

    def behind(self, name, function):
        """List of the layers that compute an activation, behind the layer `name`: none, or one.

        A function that is not Keras' own stays the very object, and a layer object becomes a layer with its weights.
        """
        known = rules.function_name(function)
        if known == "linear":
            return []
        if known in EXPANSIONS:
            return [EXPANSIONS[known](name, self._names)]
        unique = self._names(f"{name}_activation")
        return [self._copy(function, unique) if is_layer(function) else L.Activation(function, name=unique)]

    def _copy(self, layer, name):
        if type(layer) is L.Activation:
            return Chain(self.behind(name, layer.activation))
        if id(layer) not in self._copies:
            self._copies[id(layer)] = Copied(layer, name)
        return self._copies[id(layer)]
