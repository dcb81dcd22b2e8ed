"""Building the smaller model: the same layers with smaller configs, and the weights that stay."""

import functools

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.graph.access import is_layer, tensors_in
from tf_reweight.graph.additions import own_weights
from tf_reweight.graph.call_arguments import inputs_of
from tf_reweight.graph.copying import (
    assign_like, config_of, fresh, has_twin, input_like, made_again, without_penalties,
)  # fmt: skip
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.rebuilding import rebuild
from tf_reweight.graph.state import carry_state
from tf_reweight.graph.ties import around
from tf_reweight.graph.twins import twin
from tf_reweight.graph.walking import graph_of, is_graph, nodes_of
from tf_reweight.shrinking.branches import NO_CUTS
from tf_reweight.shrinking.compact import compact


class Rebuilder:
    """Makes a copy of a model without some of its channels.

    Args:
        trace: the analysis, `coupling.groups(model).trace`.
        dead: roots of the labels that go.
        folds: see `dead.Verdict`.
        branches: the `CutPlan`.
        find_groups: whether block-diagonal kernels become grouped convolutions.
        include_frozen: whether kernels of layers with `trainable=False` lose zero rows as well.
        shared: of `ties.shared_inside`: layers inside `TimeDistributed` of which other calls have the same copy.

    Attributes:
        compacted: mapping of a layer's path to what became smaller in its kernel.
    """

    def __init__(self, trace, dead, folds, branches=NO_CUTS, find_groups=False, include_frozen=True, shared=None):
        self.trace = trace
        self.dead = np.asarray(sorted(dead), "int64")
        self.folds = {}
        for (layer, _), delta in folds.items():
            self.folds[layer] = self.folds.get(layer, 0.0) + delta
        self.branches = branches
        self.find_groups, self.include_frozen = find_groups, include_frozen
        self.shared = {} if shared is None else shared
        self.compacted = {}
        self._compact = {}
        self._calls = {}
        self._shapes = {}
        for step in trace.steps:
            if is_layer(step.operation):
                self._shapes.setdefault(id(step.operation), []).append(_input_shape(step.node))
        self.made = {}

    def alive(self, labels):
        """True where a label stays."""
        roots = self.trace.labels.roots(labels)
        if not len(self.dead):
            return np.ones(roots.shape, bool)
        # Those that go are sorted: a search takes no longer in a deep model, where there are many.
        places = np.minimum(np.searchsorted(self.dead, roots), len(self.dead) - 1)
        return self.dead[places] != roots

    def model(self, model, tensors=None, path=""):
        """A copy of a model; `tensors` gives the shapes of a nested one's inputs, which may have become smaller."""
        given = iter(tensors or keras.tree.flatten(graph_of(model).inputs))
        return rebuild(model, self._visit, new_input=lambda tensor: _smaller_input(tensor, next(given)), path=path)

    def _visit(self, path, node, args, kwargs):
        operation = node.operation
        if self._is_dropped(node):
            return [None for _ in node.outputs]
        if id(node) in self.branches.cuts:
            return self._without_constants(self.branches.cuts[id(node)], operation, args, kwargs)
        if is_graph(operation):
            if id(operation) not in self.made:
                tensors = keras.tree.flatten(args[0])
                self.made[id(operation)] = self.model(operation, tensors, path + "/")
            return self.made[id(operation)](*args, **kwargs)
        is_new = id(operation) not in self.made
        if is_new:
            self.made[id(operation)] = self._copy(path, operation)
        copy = self.made[id(operation)]
        if id(operation) in self._compact:
            args, kwargs = keras.tree.map_structure(self._padding(node), (args, kwargs))
        outputs = copy(*args, **kwargs)
        if is_new and is_layer(operation) and copy is not operation and not is_graph(self.shared.get(id(operation))):
            self._fill(path, operation, copy)
        return outputs

    def _padding(self, node):
        """A function that pads and crops the input of a smaller kernel; each call of a layer does it for its own input."""
        layer = node.operation
        self._calls[id(layer)] = call = self._calls.get(id(layer), 0) + 1
        name = f"{layer.name}_rows" if call == 1 else f"{layer.name}_rows_{call}"
        before = self._compact[id(layer)].layers_before(name, _input_shape(node))
        return lambda tensor: functools.reduce(lambda x, each: each(x), before, tensor)

    def _is_dropped(self, node):
        if is_graph(node.operation):
            return all(id(inner) in self.branches.dropped for inner in nodes_of(node.operation))
        return id(node) in self.branches.dropped

    def _without_constants(self, cut, operation, args, kwargs):
        """What is left of an addition: its inputs that depend on the model's input, and one number per channel."""
        rest = tensors_in((args, kwargs))
        total = rest[0] if len(rest) == 1 else keras.layers.Add(name=operation.name)(rest)
        if cut.offset is None:
            return total
        offset = np.compress(self.alive(cut.labels), cut.offset)
        return keras.layers.Rescaling(1.0, offset.tolist(), name=f"{operation.name}_offset", dtype=total.dtype)(total)

    def _copy(self, path, operation):
        """A fresh operation with the sizes of what stays; of a Lambda or custom layer without weights a twin."""
        if has_twin(operation):
            return twin(operation)
        if id(operation) in self.shared:
            return around(operation, self._shared(path, self.shared[id(operation)]))
        with made_again(operation, path):
            return fresh(operation, self._smaller_config(path, operation))

    def _smaller_config(self, path, operation):
        """The config of a layer or operation with the sizes of what stays."""
        config = self._config(operation)
        kernel = getattr(operation, "kernel", None)
        # The kernel of a layer that is also called at each step keeps its rows: nothing would pad the steps.
        alone = all(layer is not operation for layer in self.shared.values())
        if alone and isinstance(kernel, keras.Variable) and (kernel.trainable or self.include_frozen):
            smaller = compact(operation, self._cut(kernel), self._shapes[id(operation)], self.find_groups)
            if smaller is not None:
                config |= smaller.config()
                self._compact[id(operation)] = smaller
                self.compacted[path] = smaller.words(operation)
        return config

    def _shared(self, path, layer):
        """The one copy of a layer inside a `TimeDistributed` and elsewhere."""
        if id(layer) not in self.made:
            self.made[id(layer)] = self.model(layer, path=f"{path}/") if is_graph(layer) else self._copy(path, layer)
        return self.made[id(layer)]

    def _config(self, operation):
        config = without_penalties(config_of(operation))
        for field, (labels, value) in self.trace.rewrites.get(id(operation), {}).items():
            config[field] = value(self.alive(labels))
        if id(operation) in self.folds:
            config["use_bias" if "use_bias" in config else "bias_axes"] = config.get("bias_axes") or True
        for field, inner in _inner_layers(operation).items():
            # Without the build config, which names the old input shape.
            config[field] = {k: v for k, v in config[field].items() if k != "build_config"}
            config[field]["config"] = self._config(inner)
        return config

    def _cut(self, variable):
        """The values of a variable that stay, as an array."""
        values = as_numpy(variable)
        for axis in range(len(variable.shape)):
            entry = self.trace.axes.get((id(variable), axis))
            if entry is not None:
                values = np.compress(self.alive(entry.labels), values, axis=axis)
        return values

    def _fill(self, path, layer, copy):
        """Copies the weights that stay, and adds the folded constants to the bias."""
        for variable, target in zip(own_weights(layer), copy.weights):
            values = self._cut(variable)
            if id(layer) in self._compact and variable is layer.kernel:
                values = self._compact[id(layer)].kernel(values)
            if tuple(values.shape) != tuple(target.shape):
                raise ShrinkError(
                    errors.message(
                        f"The copy of {path} must have the weights that stay.",
                        "Please report the layer: its config and its weights disagree.",
                        weights=values.shape,
                        copy=tuple(target.shape),
                    )
                )
            assign_like(target, variable, values)
        for holder in (layer, *_inner_layers(layer).values()):
            if id(holder) in self.folds:
                self._fold(layer, copy, holder)
        carry_state(copy, layer)

    def _fold(self, layer, copy, holder):
        made = copy if holder is layer else copy.layer
        outputs = self.trace.axes[id(holder.kernel), len(holder.kernel.shape) - 1].labels
        delta = np.compress(self.alive(outputs), self.folds[id(holder)])
        made.bias.assign(as_numpy(made.bias) + delta.astype("float32"))


class ShrinkError(ValueError):
    """The smaller model would not compute what the large one does."""


def _smaller_input(tensor, given):
    """An input of the given sizes; those that were left open stay so, since a model may be called on several sizes."""
    shape = [None if old is None else new for old, new in zip(tensor.shape, given.shape)]
    return input_like(tensor, tuple(shape))


def _input_shape(node):
    return tuple(inputs_of(node)[0].shape[1:])


def _inner_layers(operation):
    if isinstance(operation, keras.layers.Bidirectional):
        return {"layer": operation.forward_layer, "backward_layer": operation.backward_layer}
    if isinstance(operation, keras.layers.TimeDistributed):
        return {"layer": operation.layer}
    return {}
