"""Recurrent layers on their way into a file: their loops are written out while the graph is traced."""

import contextlib

import keras

from tf_reweight import errors
from tf_reweight.graph.access import all_layers


def recurrent_layers(model):
    """Every recurrent layer of a model, those inside other layers and those with a cell of the user's own included."""
    return [layer for layer in (model, *all_layers(model)) if isinstance(layer, keras.layers.RNN)]


@contextlib.contextmanager
def unrolled(model):
    """Within it, recurrent layers compute step by step instead of in a loop; their outputs are the same.

    A loop becomes TensorFlow's own list operations, which LiteRT does not have. Keras asks `unroll` at each call, so that the
    very layers of the user are traced and no copy is needed; afterwards they are as before.
    """
    rolled = [layer for layer in recurrent_layers(model) if not layer.unroll]
    for layer in rolled:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in rolled:
            layer.unroll = False


def check_recurrent(model):
    """Raises ValueError for recurrent layers that no file can hold."""
    stateful = [layer.name for layer in recurrent_layers(model) if layer.stateful]
    if stateful:
        raise ValueError(
            errors.message(
                "A file keeps nothing between calls: no recurrent layer may be stateful.",
                "Rebuild the model with the state outside: stateful=False, return_state=True and `initial_state` from an Input "
                "of its own, with the new state as an output that the app passes in again; the weights fit as they are.",
                layers=stateful[:5],
            )
        )
