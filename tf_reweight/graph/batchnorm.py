"""BatchNormalization layers, and how closely their moving statistics follow the weights."""

import functools

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

    It stays so, also where an interrupted `fit` has lowered it for a while. Compiled steps have to be dropped: the momentum is
    a constant in them.
    """
    for layer in following(model):
        vars(layer).pop("get_config", None)
    _lower(model)


def follow_closely_for_now(model):
    """`follow_closely` until `follow_again`; a model that is saved or copied meanwhile has the momentum it had before.

    Returns:
        List of `(layer, momentum before)`, for `follow_again`.
    """
    slow = _lower(model)
    for layer, momentum in slow:
        object.__setattr__(layer, "get_config", functools.partial(_config_before, layer, momentum))
    return slow


def follow_again(slow):
    """Gives layers back the momentum they had, unless it was set to another one meanwhile, or to stay as it is."""
    for layer, momentum in slow:
        for_now = vars(layer).pop("get_config", None) is not None
        layer.momentum = momentum if for_now and layer.momentum == FOLLOWING else layer.momentum


def _lower(model):
    """Sets what is higher to `FOLLOWING`; returns `(layer, momentum before)` of each such layer."""
    slow = [(layer, layer.momentum) for layer in following(model) if layer.momentum > FOLLOWING]
    for layer, _ in slow:
        layer.momentum = FOLLOWING
    return slow


def _config_before(layer, momentum):
    return {**type(layer).get_config(layer), "momentum": momentum}
