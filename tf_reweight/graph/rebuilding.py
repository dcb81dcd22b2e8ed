"""A copy of a whole model, operation by operation."""

import keras

from tf_reweight.graph.copying import Copied, input_like
from tf_reweight.graph.walking import functional, graph_of, is_graph, walk


def rebuild(model, make=Copied, dtype=None):
    """A copy of a model in which `make(operation)` stands for each operation.

    Structure, names of inputs and outputs, the user's own class and Sequential models stay what they are; nested models are
    rebuilt in turn, and whatever is called several times is made once. The copy is not compiled.

    Args:
        model: a built Sequential or functional model; it is unchanged.
        make: function `operation -> Copied`, asked once for each operation that is no model.
        dtype: of the inputs that are floating-point; None leaves them as they are.

    Returns:
        The new model.
    """
    made = {}

    def visit(path, node, args, kwargs):
        operation = node.operation
        if id(operation) not in made:
            made[id(operation)] = rebuild(operation, make, dtype) if is_graph(operation) else make(operation)
        return made[id(operation)](*args, **kwargs)

    inputs = [input_like(tensor, _type(tensor.dtype, dtype)) for tensor in keras.tree.flatten(graph_of(model).inputs)]
    outputs = walk(model, inputs, visit)
    if not isinstance(model, keras.Sequential):
        return functional(model, inputs, outputs)
    layers = [made[id(layer)] for layer in model.layers]
    return keras.Sequential([inputs[0], *(getattr(item, "copy", item) for item in layers)], name=model.name)


def _type(given, dtype):
    return dtype if dtype is not None and "float" in given else None
