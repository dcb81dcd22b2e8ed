"""A Keras model as a list of operations in order, whatever way it was built."""

import itertools
import sys

import keras

from tf_reweight import errors
from tf_reweight.graph import recorded
from tf_reweight.graph.access import functional_of, is_layer, is_tensor, node_of, takes_training
from tf_reweight.graph.call_arguments import arguments_of
from tf_reweight.graph.checking import check_model
from tf_reweight.graph.compiling import class_like
from tf_reweight.graph.keras_classes import is_keras_own

# Keras follows a new model's graph by recursion, one call per operation behind another. Rounding in between makes
# EfficientNetV2L deeper than Python's usual limit.
_RECURSION_LIMIT = 20_000


def graph_of(model):
    """The functional graph behind a Sequential or functional model.

    Raises:
        TypeError: for a subclassed model, which has no graph, and for what is no Keras 3 model.
        ValueError: for a model that is not built.
    """
    check_model(model)
    if not is_graph(model):
        raise TypeError(
            errors.message(
                "The model must have a graph: Sequential or functional.",
                "A subclassed model hides its graph in `call`: rebuild it with keras.Model(inputs, outputs).",
                model=f"{type(model).__name__} {model.name!r}",
            )
        )
    return functional_of(model)


def functional(model, inputs, outputs):
    """A functional model from the flat inputs and outputs of a rebuilt graph, however deep it is.

    Name, structures of inputs and outputs, names of outputs and class are those of `model`: a user's own class with its
    `train_step` stays, where Keras' constructor makes it, and losses given by output name find their outputs.
    """
    graph = graph_of(model)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _RECURSION_LIMIT))
    try:
        _name_apart(graph, outputs)
        outputs = _named_like(graph, inputs, outputs)
        structures = keras.tree.pack_sequence_as(graph.input, inputs), keras.tree.pack_sequence_as(graph.output, outputs)
        return class_like(model)(*structures, name=model.name)
    finally:
        sys.setrecursionlimit(limit)


def _name_apart(graph, outputs):
    """Gives new operations of `keras.ops` other names where a layer, or an operation that was there before, has theirs.

    Keras numbers names within one process: beside the layers of a loaded model the next `add` is the first again.
    """
    found, waiting, seen = {}, list(outputs), set()
    while waiting:
        node = node_of(waiting.pop())
        if id(node) not in seen:
            seen.add(id(node))
            found[id(node.operation)] = node.operation
            waiting += node.input_tensors
    old = {id(operation) for operation in graph.operations}
    new = {key: operation for key, operation in found.items() if key not in old and not is_layer(operation)}
    taken = {operation.name for key, operation in found.items() if key not in new}
    for operation in new.values():
        if operation.name in taken:
            others = (f"{operation.name}_{number}" for number in itertools.count(1))
            operation.name = next(other for other in others if other not in taken)
        taken.add(operation.name)


def _named_like(graph, inputs, outputs):
    """The outputs, each behind an Identity with the name of the old one where an operation of another name makes it now.

    An operation of the new graph that has the name and makes something else, such as a sum before it is rounded, gets another.
    """
    old = [tensor._keras_history.operation.name for tensor in keras.tree.flatten(graph.outputs)]
    new = [tensor._keras_history.operation.name for tensor in outputs]
    if old == new:
        return outputs
    taken = {operation.name: operation for operation in keras.Function(inputs, outputs).operations}
    free = [old.count(name) == 1 and name not in new for name in old]
    for name, is_free in zip(old, free):
        if is_free and name in taken:
            others = (f"{name}_inner{number or ''}" for number in itertools.count())
            taken[name].name = next(other for other in others if other not in taken)
    return [
        keras.layers.Identity(name=before, dtype=tensor.dtype)(tensor) if before != after and is_free else tensor
        for before, after, is_free, tensor in zip(old, new, free, outputs)
    ]


def is_graph(operation):
    """Whether an operation is a model whose inside can be walked: its `call` is Keras' own."""
    if isinstance(operation, keras.Sequential):
        return is_keras_own(type(operation).call) and operation._functional is not None
    return isinstance(operation, keras.Function) and is_keras_own(type(operation).call)


def comes_back(layer):
    """Whether what is put on the layers inside a layer is there again after it was saved and loaded.

    Graphs, wrappers, cells and attention come back with all that is in them. A class of the user's own makes its layers in its
    `__init__`, as they were.
    """
    return is_graph(layer) or isinstance(layer, keras.layers.Wrapper) or is_keras_own(type(layer))


def nodes_of(model):
    """All calls inside a model, those of nested models included."""
    for level in graph_of(model)._nodes_by_depth.values():
        for node in level:
            if not node.is_input:
                yield from nodes_of(node.operation) if is_graph(node.operation) else (node,)


def calls_in_order(model):
    """The calls of a model in an order in which they can run; a nested model is one call."""
    levels = graph_of(model)._nodes_by_depth
    return [node for depth in sorted(levels, reverse=True) for node in levels[depth] if not node.is_input]


def graphs_of(model):
    """The graphs of a model and of the models nested in it, the outer first, each once."""
    found, waiting = {}, [graph_of(model)]
    while waiting:
        graph = waiting.pop(0)
        if id(graph) not in found:
            found[id(graph)] = graph
            waiting += [graph_of(operation) for operation in graph.operations if is_graph(operation)]
    return list(found.values())


def walk(model, inputs, visit, path=""):
    """Runs a model on values of any kind, operation by operation in the model's order.

    Args:
        model: a model `graph_of` accepts.
        inputs: one value per input tensor.
        visit: function `(path, node, args, kwargs) -> outputs`, where each tensor of the call is replaced by its value and the
            outputs are in the structure of the node's. The arguments are those of `call_arguments.arguments_of`: the first
            is at `args[0]`, however the call was written. Nested models are nodes like any other.
        path: prefix of the paths.

    Returns:
        One value per output tensor.
    """
    graph = graph_of(model)
    values = {id(tensor): value for tensor, value in zip(keras.tree.flatten(graph.inputs), inputs)}

    def fill(item):
        return values[id(item)] if is_tensor(item) else item

    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or all(id(tensor) in values for tensor in node.outputs):
                continue
            args, kwargs = keras.tree.map_structure(fill, arguments_of(node))
            name = f"{path}{node.operation.name}"
            outputs = keras.tree.flatten(visit(name, node, args, kwargs))
            values.update({id(tensor): value for tensor, value in zip(node.outputs, outputs)})
    return [values[id(tensor)] for tensor in keras.tree.flatten(graph.outputs)]


def walk_on(model, inputs, visit, path=""):
    """`walk` on arrays and tensors, which are brought to the types and ranks of the model's inputs as Keras' own call does.

    Pixels are mostly integers, and models mostly declare floats; a convolution refuses what Keras has not cast. Calls are those
    of inference: as in `predict`, what the model is called with goes before a `training` that one of its calls fixes.
    """
    graph = graph_of(model)
    if isinstance(graph, keras.Model):  # a bare `keras.Function` takes what it is given
        inputs = graph._adjust_input_rank(graph._convert_inputs_to_tensors(list(inputs)))

    def at_inference(path, node, args, kwargs):
        return visit(path, node, args, {**kwargs, "training": False} if takes_training(node.operation) else kwargs)

    return walk(model, inputs, at_inference, path)


def keys_of(structure):
    """For each tensor of a structure the keys it is found by, joined by underscores; None for those in no dict."""
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    return ["_".join(map(str, path)) if any(isinstance(part, str) for part in path) else None for path in paths]


def declares_inputs(model):
    """Whether a model says of which sizes and types its inputs are; a subclassed one knows its first call at most."""
    return isinstance(functional_of(model), keras.Function)


def called_with(model):
    """The symbolic inputs of a model in the structure in which it takes them, or took them at its first call, or None."""
    return functional_of(model).input if declares_inputs(model) else recorded.taken(functional_of(model))


def input_structure(model):
    """The symbolic inputs of a model in the structure in which it takes them; None where a subclassed model does not say.

    Subclassed models say it of dicts, lists and tuples. One that was first called with one array may take several as well.
    """
    structure = called_with(model)
    return structure if declares_inputs(model) or keras.tree.is_nested(structure) else None


def output_structure(model):
    """The symbolic outputs of a model in the structure in which it gives them; None where a subclassed model does not say."""
    return functional_of(model).output if declares_inputs(model) else recorded.given(functional_of(model))


def output_keys(model, num):
    """For each of so many outputs of a model the keys it is found by in a dict; None for those in no dict."""
    structure = output_structure(model)
    keys = [] if structure is None else keys_of(structure)
    return keys if len(keys) == num else [None] * num


def fixed_batch(model):
    """The number of examples that a model takes at once, of `Input(batch_shape=...)`; None where it takes any."""
    if not is_graph(model):
        return None
    return next((tensor.shape[0] for tensor in graph_of(model).inputs if tensor.shape and tensor.shape[0]), None)
