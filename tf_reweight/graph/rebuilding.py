"""Building a model again, call by call: what every copy and every rewritten model of this package is made by."""

import keras

from tf_reweight.graph.access import copy_trainable, forget_calls, is_layer, is_tensor, node_of, takes_training
from tf_reweight.graph.call_arguments import arguments_of
from tf_reweight.graph.compiling import sequential_like
from tf_reweight.graph.copying import Copied, input_like
from tf_reweight.graph.distribution import beside_all
from tf_reweight.graph.ties import around, inside
from tf_reweight.graph.walking import functional, graph_of, is_graph, walk
from tf_reweight.graph.whole import Whole


def rebuild(model, visit, *, new_input=input_like, prepare=list, path="", like=None):
    """A new model of what `visit` makes of each call; the given one is unchanged.

    Carried over are the name, the structures of inputs and outputs, the names of outputs, inputs that nobody reads or that are
    passed through, the class with its training (see `compiling.class_like`), the strategy (`tf.distribute`) and whether the
    model is trainable. A Sequential model stays one where its layers still follow one another. The new model is not compiled,
    see `compiling.compile_like`.

    Args:
        model: a built Sequential or functional model.
        visit: function `(path, node, args, kwargs) -> outputs`, see `walking.walk`; `Replacements` is one, `Inlined` wraps one.
        new_input: function `tensor -> keras.Input`, asked for the old model's inputs in order.
        prepare: function from the new model's inputs to what the calls read in their place; by default the inputs.
        path: prefix of the paths.
        like: the model whose class, name and outputs' names the new one has, which is then functional; default `model`.

    Returns:
        A `keras.Sequential` or functional model.

    Example:
        >>> rebuild(model, Replacements())
    """
    with beside_all(model):
        inputs = [new_input(tensor) for tensor in keras.tree.flatten(graph_of(model).inputs)]
        outputs = walk(model, prepare(inputs), visit, path)
        nodes = _in_sequence(inputs, outputs) if like is None and isinstance(model, keras.Sequential) else None
        if nodes is None:
            made = functional(like or model, inputs, outputs)
        else:
            forget_calls(nodes)  # a Sequential model calls its layers itself
            made = sequential_like(model, [inputs[0], *(node.operation for node in nodes)])
    copy_trainable(made, like or model)
    return made


class Replacements:
    """A `visit` of `rebuild` that calls one thing in place of each operation, the same at all its calls.

    Args:
        choose: function `(path, operation) -> callable`, asked once for each operation; None for a copy with the same weights.
            Nested models for which it gives None are rebuilt in turn. Default: all are copied, and a layer that is inside
            `TimeDistributed` and outside is copied once.
        new_input: see `rebuild`; of nested models as well.
    """

    def __init__(self, choose=lambda path, operation: None, new_input=input_like):
        self.choose, self.new_input, self._made, self._inside = choose, new_input, {}, {}

    def __call__(self, path, node, args, kwargs):
        operation = node.operation
        if id(operation) not in self._made:
            self._made[id(operation)] = self.choose(path, operation) or self._copied(path, operation)
        return self._made[id(operation)](*args, **kwargs)

    def _copied(self, path, operation):
        if id(operation) in self._inside:
            return self._inside[id(operation)]
        if is_graph(operation):
            return rebuild(operation, self, new_input=self.new_input, path=f"{path}/")
        inner = inside(operation)
        if inner is None:
            return Copied(operation)
        called = self._made.get(id(inner))
        known = self._inside.get(id(inner), called if is_graph(called) else getattr(called, "copy", None))
        made = Copied(operation, made=None if known is None else around(operation, known))
        self._inside[id(inner)] = made.copy.layer
        return made


class Inlined:
    """A `visit` of `rebuild` that walks through nested models, so that the new model is one graph.

    Args:
        visit: asked for all calls but those of nested models.
        whole: the `Whole` that follows which of the new tensors hold integers; a new one by default.
    """

    def __init__(self, visit, whole=None):
        self.visit, self.whole = visit, Whole() if whole is None else whole

    def __call__(self, path, node, args, kwargs):
        if not is_graph(node.operation):
            outputs = self.visit(path, node, args, kwargs)
            self.whole.follow(node.operation, args, kwargs, outputs)
            return outputs
        # Only the inputs: Keras may have added a mask, which the model's own layers compute again.
        inputs = keras.tree.flatten(args[0])
        training = kwargs.get("training")

        def inside(path, inner, args, kwargs):
            # As in Keras, what a nested model is called with goes before what its own calls fix.
            fixed = training is not None and takes_training(inner.operation)
            return self(path, inner, args, {**kwargs, "training": training} if fixed else kwargs)

        return walk(node.operation, self._cast(node, inputs), inside, f"{path}/")

    def _cast(self, node, values):
        """What a nested model is given, in the types of its inputs where its call casts integers, as pixels are, to floats."""
        declared = keras.tree.flatten(graph_of(node.operation).inputs)
        given = keras.tree.flatten(arguments_of(node)[0][0])
        casts = [
            is_tensor(before) and value in self.whole and keras.backend.is_float_dtype(inner.dtype)
            for before, inner, value in zip(given, declared, values)
        ]
        return [
            keras.ops.cast(value, inner.dtype) if cast else value for inner, value, cast in zip(declared, values, casts)
        ]


def _in_sequence(inputs, outputs):
    """The calls between one input and one output, each behind the other; None where that is not all there is."""
    nodes, tensor = [], outputs[0]
    while len(outputs) == 1 and tensor is not inputs[0]:
        node = node_of(tensor)
        if not _is_plain_call(node) or any(node.operation is other.operation for other in nodes):
            return None
        nodes.insert(0, node)
        tensor = node.arguments.args[0]
    return nodes


def _is_plain_call(node):
    """Whether a call is of a layer on one tensor with one output, as Sequential models make them."""
    args, others = node.arguments.args, node.arguments.kwargs.keys() - {"mask", "training"}  # Keras passes these on by itself
    one = len(args) == len(node.outputs) == 1 and not others
    return one and is_tensor(args[0]) and is_layer(node.operation)
