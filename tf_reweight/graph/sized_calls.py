"""The calls of layers inside a model, with the sizes that tensors have there."""

import types

import keras

from tf_reweight.graph.access import is_tensor, tensors_in
from tf_reweight.graph.analyses import analysed
from tf_reweight.graph.inner_calls import InnerCall, inner_calls, is_own
from tf_reweight.graph.walking import graph_of, is_graph, walk
from tf_reweight.graph.wrapped_calls import held, wrapped_calls


def calls_of(model):
    """The calls of layers and operations inside a model in the order in which they run, as a list of `(call, times)`.

    A nested model stands for the calls of its layers, with the sizes that it is called with: its own graph does not know them
    where its inputs are open, and a model that is called at two sizes has both. So does a wrapper for the layer inside it. A
    layer of the user's own comes behind the layers inside it, for kernels that none of them has.

    Sizes are inferred once for each call of a nested model with open sizes, and all is kept while the model stays the same.

    Args:
        model: a Sequential or functional model.
    """
    return analysed(model, _found, type)


def _found(model):
    return _inside(model, keras.tree.flatten(graph_of(model).inputs))[0]


def calls_at(call):
    """The calls that one call stands for, as a list of `(call, times)`.

    Args:
        call: a node of Keras' graph, or an `InnerCall`.
    """
    if is_graph(call.operation):
        return _inside(call.operation, call.input_tensors)[0]
    wrapped = wrapped_calls(call)
    if wrapped:
        return [(inner, steps * times) for held, steps in wrapped for inner, times in calls_at(held)]
    return [*(each for inner in _traced(call) for each in calls_at(inner)), (call, 1)]


def _traced(call):
    """The calls inside a layer of the user's own; that of the layer inside a wrapper, also where it cannot be traced."""
    if not is_own(call.operation):
        return []
    untold = [inner for inner, _ in held(call)] if isinstance(call.operation, keras.layers.Wrapper) else []
    return inner_calls(call) or untold


def _inside(model, given):
    """`(calls, outputs)` of a model at inputs of these sizes."""
    declared = keras.tree.flatten(graph_of(model).inputs)
    inputs = [_sized(tensor, other) for tensor, other in zip(declared, given)]
    is_known = all(tensor is other for tensor, other in zip(inputs, declared))
    calls = []

    def visit(path, node, args, kwargs):
        if is_graph(node.operation):
            # Only the inputs: Keras may have added a mask, which the model's own layers compute again.
            found, outputs = _inside(node.operation, keras.tree.flatten(args[0]))
        else:
            call = node if is_known else _called(node, args, kwargs)
            found, outputs = calls_at(call), call.outputs
        calls.extend(found)
        return node.outputs if is_known else outputs

    return calls, walk(model, inputs, visit)


def _sized(declared, given):
    """The input of a model as it was declared, where the tensor that is given tells no more of its sizes; else with these."""
    if not is_tensor(given) or len(given.shape) != len(declared.shape):
        return declared
    batch, *open_sizes = declared.shape
    sizes = [size or other for size, other in zip(given.shape[1:], open_sizes)]
    return declared if sizes == open_sizes else keras.KerasTensor((batch, *sizes), declared.dtype)


def _called(node, args, kwargs):
    """A call of a nested model's graph on tensors of other sizes than those it was made with."""
    try:
        outputs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
    except Exception:  # whatever a user's code raises on tensors without values; then sizes are as Keras knows them
        outputs = node.outputs
    return InnerCall(node.operation, tensors_in((args, kwargs)), outputs, types.SimpleNamespace(args=args, kwargs=kwargs))
