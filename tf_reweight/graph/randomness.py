"""Layers that draw random numbers outside training too: sampling layers, dropout that is always on."""

import contextlib

import keras
import numpy as np
from keras import ops

from tf_reweight.graph.access import all_layers, default_generator, masks_of, put_masks, seed_generators
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.walking import is_graph, walk_on


@contextlib.contextmanager
def fixed_draws(model):
    """Within it generators and lasting states of a model begin at zero, so that copies give the same; then all is as before."""
    layers = (model, *all_layers(model))
    generators = [generator for layer in layers for generator in seed_generators(layer)]
    generators += [generator for generator in (default_generator(),) if generator is not None]
    lasting = [getattr(layer, "states", None) for layer in layers if getattr(layer, "stateful", False)]
    variables = [generator.state for generator in generators]
    variables += [state for state in keras.tree.flatten(lasting) if isinstance(state, keras.Variable)]
    before = [as_numpy(variable).copy() for variable in variables]
    for variable, value in zip(variables, before):
        variable.assign(np.zeros_like(value))
    try:
        yield
    finally:
        for variable, value in zip(variables, before):
            variable.assign(value)


def random_layers(model, inputs):
    """Paths of the layers and operations that give other outputs each time, outside training, on the same inputs.

    Args:
        model: a built model.
        inputs: one array per input tensor.
    """
    if not is_graph(model):
        return _moved(model, inputs)
    found = []

    def visit(path, node, args, kwargs):
        operation = node.operation
        if is_graph(operation):
            return walk_on(operation, keras.tree.flatten(args[0]), visit, f"{path}/")
        tensors = [item for item in keras.tree.flatten((args, kwargs)) if ops.is_tensor(item)]
        masks = masks_of(tensors)
        outputs = operation(*args, **kwargs)
        put_masks(tensors, masks)
        again = keras.tree.flatten(operation(*args, **kwargs))
        if path not in found and not all(map(_equal, keras.tree.flatten(outputs), again)):
            found.append(path)
        return outputs

    walk_on(model, inputs, visit)
    return found


def named(layers):
    """What an error says of them: a sentence that tells why nothing can be compared, and what to do."""
    return (
        f"{', '.join(layers[:5])} gives other outputs each time, outside training too: nothing can be compared, and nothing is "
        "known to be wrong. Leave it out of the model that is shipped, let it draw in training only, or make its noise an "
        "input of the model."
    )


def _moved(model, inputs):
    """Names of the layers of a model without a graph whose generators a call has moved."""
    layers = [layer for layer in (model, *all_layers(model)) if seed_generators(layer)]
    before = [[as_numpy(g.state).copy() for g in seed_generators(layer)] for layer in layers]
    model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
    after = [[as_numpy(g.state) for g in seed_generators(layer)] for layer in layers]
    return [layer.name for layer, old, new in zip(layers, before, after) if not all(map(np.array_equal, old, new))]


def _equal(first, second):
    first, second = (ops.convert_to_numpy(array) for array in (first, second))
    return first.shape == second.shape and bool(((first == second) | (first != first) & (second != second)).all())
