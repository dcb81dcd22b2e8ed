"""The calls of layers inside a model, with the sizes that tensors have there."""

import math
import types
from fractions import Fraction

import keras

from tf_reweight.graph.access import is_layer, is_tensor, tensors_in
from tf_reweight.graph.analyses import analysed
from tf_reweight.graph.call_arguments import arguments_of
from tf_reweight.graph.inner_calls import InnerCall, inner_calls, is_own, with_batch
from tf_reweight.graph.keras_classes import is_keras_own, is_named, is_ours
from tf_reweight.graph.walking import calls_in_order, graph_of, is_graph, walk
from tf_reweight.graph.wrapped_calls import held, wrapped_calls


def calls_of(model):
    """The calls of layers and operations inside a model in the order in which they run, as a list of `(call, times)`.

    A nested model stands for the calls of its layers, with the sizes that it is called with: its own graph does not know them
    where its inputs are open, and a model that is called at two sizes has both. So does a wrapper for the layer inside it. A
    layer of the user's own comes behind the layers inside it, for kernels that none of them has.

    Where Keras' graph leaves a size open that follows from those of the inputs, sizes are inferred anew for one example, and
    nothing is computed. They are inferred once, and all is kept while the model stays the same.

    Args:
        model: a Sequential or functional model.

    Returns:
        List of `(call, times)`, where `times` is for one example, a fraction where the call is one of several examples.
    """
    return analysed(model, _found, type)


def _found(model):
    inputs = keras.tree.flatten(graph_of(model).inputs)
    # Inputs of unlike numbers of examples, one of them open perhaps, are of one example each.
    inputs = inputs if _is_of_one_batch(inputs) else [with_batch(tensor, 1) if tensor.shape else tensor for tensor in inputs]
    return per_example(_inside(model, inputs)[0], inputs)


def per_example(calls, inputs):
    """Such a list for one example, where the calls are of as many as these inputs have along the first axis."""
    return _times(calls, Fraction(1, _examples(inputs)))


def calls_at(call):
    """The calls that one call stands for, as a list of `(call, times)`, for as many examples as the call has.

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
    """`(calls, outputs)` of a model at inputs of these sizes; an open number of examples is one."""
    declared = keras.tree.flatten(graph_of(model).inputs)
    inputs = [_sized(tensor, other) for tensor, other in zip(declared, given)]
    is_known = all(tensor is other for tensor, other in zip(inputs, declared)) and not _loses_sizes(model)
    is_known = is_known and _is_of_one_batch(declared)
    examples = _examples(tensors_in(given))
    if not is_known:
        inputs = [_of_batch(tensor, other, examples) for tensor, other in zip(inputs, given)]
    calls = []

    def visit(path, node, args, kwargs):
        if is_graph(node.operation):
            # Only the inputs: Keras may have added a mask, which the model's own layers compute again.
            found, outputs = _inside(node.operation, keras.tree.flatten(args[0]))
        else:
            call = node if is_known else _called(node, args, kwargs, examples)
            found, outputs = calls_at(call), call.outputs
        calls.extend(found)
        return node.outputs if is_known else outputs

    outputs = walk(model, inputs, visit)
    # The graph's own tensors are of as many examples as it declares, and not of those that it is given.
    ratio = Fraction(examples, _examples(declared) if is_known else examples)
    return _times(calls, ratio), [with_batch(tensor, math.ceil(ratio * _examples([tensor]))) for tensor in outputs]


def _examples(tensors):
    """How many examples tensors have along the first axis; one where any of them leaves it open."""
    numbers = [tensor.shape[0] for tensor in tensors if tensor.shape]
    return numbers[0] if numbers and all(numbers) else 1


def _is_of_one_batch(tensors):
    """Whether tensors have the same number of examples, or all leave it open."""
    return len({tensor.shape[0] for tensor in tensors if tensor.shape}) <= 1


def _times(calls, factor):
    """The calls so many times as often."""
    return calls if factor == 1 else [(call, times * factor) for call, times in calls]


def _sized(declared, given):
    """The input of a model as it was declared, where the tensor that is given tells no more of its sizes; else with these."""
    if not is_tensor(given) or len(given.shape) != len(declared.shape):
        return declared
    batch, *open_sizes = declared.shape
    sizes = [size or other for size, other in zip(given.shape[1:], open_sizes)]
    return declared if sizes == open_sizes else keras.KerasTensor((batch, *sizes), declared.dtype)


def _of_batch(tensor, given, examples):
    """The input of a model with as many examples as it is given."""
    return with_batch(tensor, is_tensor(given) and given.shape and given.shape[0] or examples)


def _loses_sizes(model):
    """Whether a graph, or one inside it, does not tell sizes that follow from those before them."""
    return any(_is_lost_at(node) for node in calls_in_order(model))


def _is_lost_at(node):
    if any(map(_is_open, node.outputs)) and not any(map(_is_open, node.input_tensors)):
        return True
    return _loses_sizes(node.operation) if is_graph(node.operation) else _may_mix(node) and _mixes(node)


def _is_open(tensor):
    """Whether a size is unknown that is not the number of examples."""
    return None in tensor.shape[1:]


def _may_mix(node):
    """Whether a call may put other sizes on the axis of the examples, which is open before and after it in Keras' graph.

    Layers of Keras' own leave it alone, and those of the user's own that have weights are taken to.
    """
    operation = node.operation
    along = is_named(operation, "Tile") or is_named(operation, "Concatenate", "Repeat") and operation.axis == 0
    if not along and is_layer(operation) and not isinstance(operation, keras.layers.Lambda):
        kind = type(operation)
        if is_keras_own(kind) or is_ours(kind) or operation.weights:
            return False
    tensors = [*node.input_tensors, *node.outputs]
    if any(not tensor.shape or _is_open(tensor) for tensor in tensors) or all(tensor.shape[0] for tensor in tensors):
        return False
    before = [math.prod(tensor.shape[1:]) for tensor in node.input_tensors]
    return along or any(math.prod(tensor.shape[1:]) not in (*before, sum(before)) for tensor in node.outputs)


def _mixes(node):
    """Whether a call makes more or less than one example of one."""
    args, kwargs = keras.tree.map_structure(lambda item: with_batch(item, 1) if is_tensor(item) else item, arguments_of(node))
    return any(tensor.shape and tensor.shape[0] != 1 for tensor in _called(node, args, kwargs, 1).outputs)


def _called(node, args, kwargs, examples):
    """A call of a model's graph on tensors of other sizes than those it was made with."""
    try:
        outputs = keras.tree.flatten(_told(node.operation, args, kwargs))
    except Exception:  # whatever a user's code raises on tensors without values; then sizes are as Keras knows them
        outputs = node.outputs
    outputs = [tensor if not tensor.shape or tensor.shape[0] else with_batch(tensor, examples) for tensor in outputs]
    return InnerCall(node.operation, tensors_in((args, kwargs)), outputs, types.SimpleNamespace(args=args, kwargs=kwargs))


def _told(operation, args, kwargs):
    """What an operation makes of symbolic tensors, with as many known sizes as it or the backend can tell."""
    if is_named(operation, "Reshape") and not is_layer(operation):
        return keras.ops.reshape(args[0], _filled(operation.newshape, args[0].shape))
    if isinstance(operation, keras.layers.Lambda):
        return keras.Operation.compute_output_spec(operation, *args, **kwargs)  # its `output_shape` cannot tell of examples
    told = operation.compute_output_spec(*args, **kwargs)
    if not _has_open(told) or _has_open((args, kwargs)):
        return told
    try:
        # Past a `compute_output_shape` that goes by what a layer was made with: EinsumDense leaves open what its user did.
        return keras.Operation.compute_output_spec(operation, *args, **kwargs)
    except Exception:  # as above
        return told


def _has_open(structure):
    return any(None in tensor.shape for tensor in tensors_in(structure))


def _filled(newshape, shape):
    """A new shape with the number of examples where it was open when the graph was made: `ops.shape(x)[0]` is None there."""
    if not isinstance(newshape, (list, tuple)) or newshape[:1] not in ((None,), [None]):
        return newshape
    return (shape[0], *newshape[1:])
