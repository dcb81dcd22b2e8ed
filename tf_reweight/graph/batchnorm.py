"""BatchNormalization layers, and how closely their moving statistics follow the weights."""

import keras

from tf_reweight.graph.access import all_layers

# Keras' default of 0.99 has forgotten two thirds of what was before only after 100 steps: too slow after a cut, and while a
# penalty moves the weights.
FOLLOWING = 0.9


def following(model):
    """The layers of a model whose moving statistics follow the examples: BatchNormalization, unless it is frozen."""
    found = {id(layer): layer for layer in all_layers(model) if isinstance(layer, keras.layers.BatchNormalization)}
    return [layer for layer in found.values() if layer.trainable]


def follow_closely(model):
    """Lowers the momentum of BatchNormalization to `FOLLOWING`, in place, so that its statistics keep up with the weights.

    Compiled steps have to be dropped: the momentum is a constant in them.

    Returns:
        List of `(layer, momentum before)`, for `follow_again`.
    """
    slow = [(layer, layer.momentum) for layer in following(model) if layer.momentum > FOLLOWING]
    for layer, _ in slow:
        layer.momentum = FOLLOWING
    return slow


def follow_again(slow):
    """Gives layers back the momentum they had."""
    for layer, momentum in slow:
        layer.momentum = momentum
