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
    backwards = [layer for layer in rolled if layer.go_backwards and layer.return_sequences and layer.zero_output_for_mask]
    for layer in rolled:
        layer.unroll = True
    for layer in backwards:
        layer.inner_loop = _zeroed_backwards(layer)
    try:
        yield
    finally:
        for layer in backwards:
            del layer.inner_loop
        for layer in rolled:
            layer.unroll = False


def _zeroed_backwards(layer):
    """`inner_loop` of a layer that reads sequences from their end and gives zeros where they are masked.

    Written out, Keras 3.15.1 sets those outputs to zero by the mask from the front, although they begin at the end; its loop
    does not. So the layer is asked for outputs that repeat the last one, as it does without `zero_output_for_mask`, and
    the zeros are set here.
    """
    loop = layer.inner_loop

    def inner_loop(sequences, initial_state, mask, training=False):
        layer.zero_output_for_mask = False
        try:
            last, outputs, states = loop(sequences, initial_state, mask, training)
        finally:
            layer.zero_output_for_mask = True
        if mask is None:
            return last, outputs, states
        # Nested inputs may bring a mask for each; Keras takes the first.
        mask = keras.tree.flatten(mask)[0]
        known = keras.ops.flip(mask, axis=1)

        def zeroed(values):
            shape = (*keras.ops.shape(known), *[1] * (len(values.shape) - 2))
            return values * keras.ops.reshape(keras.ops.cast(known, values.dtype), shape)

        outputs = keras.tree.map_structure(zeroed, outputs)
        return keras.tree.map_structure(lambda values: values[:, -1], outputs), outputs, states

    return inner_loop


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
