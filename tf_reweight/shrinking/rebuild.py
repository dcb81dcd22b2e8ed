"""Building the smaller model: the same layers with smaller configs, and the weights that stay."""

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.coupling.graph import graph_of, is_graph, walk


class Rebuilder:
    """Makes a copy of a model without some of its channels.

    Args:
        trace: the analysis, `coupling.groups(model).trace`.
        dead: roots of the labels that go.
        folds: see `dead.Verdict`.
    """

    def __init__(self, trace, dead, folds):
        self.trace = trace
        self.dead = np.asarray(sorted(dead), "int64")
        self.folds = {}
        for (layer, _), delta in folds.items():
            self.folds[layer] = self.folds.get(layer, 0.0) + delta
        self.made = {}

    def alive(self, labels):
        """True where a label stays."""
        return ~np.isin(self.trace.labels.roots(labels), self.dead)

    def model(self, model, tensors=None, path=""):
        """A copy of a model; `tensors` gives the shapes of a nested one's inputs, which may have become smaller."""
        graph = graph_of(model)
        old = keras.tree.flatten(graph.inputs)
        inputs = [_input_like(tensor, given) for tensor, given in zip(old, tensors or old)]
        outputs = walk(model, inputs, self._visit, path)
        if isinstance(model, keras.Sequential):
            layers = [self.made[id(layer)] for layer in model.layers]
            copy = keras.Sequential([_input_like(old[0], inputs[0]), *layers], name=model.name)
        else:
            structures = keras.tree.pack_sequence_as(graph.input, inputs), keras.tree.pack_sequence_as(graph.output, outputs)
            copy = keras.Model(*structures, name=model.name)
        copy.trainable = model.trainable or any(layer.trainable for layer in model.layers)
        return copy

    def _visit(self, path, node, args, kwargs):
        operation = node.operation
        if id(operation) in self.made:
            return self.made[id(operation)](*args, **kwargs)
        if is_graph(operation):
            tensors = keras.tree.flatten(args[0] if args else kwargs["inputs"])
            copy = self.model(operation, tensors, path + "/")
            self.made[id(operation)] = copy
            return copy(*args, **kwargs)
        copy = self._copy(operation)
        self.made[id(operation)] = copy
        outputs = copy(*args, **kwargs)
        if isinstance(operation, keras.layers.Layer) and copy is not operation:
            self._fill(path, operation, copy)
        return outputs

    def _copy(self, operation):
        """A fresh operation with the sizes of what stays; a Lambda or custom layer without weights is used as it is."""
        known = type(operation).__module__.startswith("keras.") and not isinstance(operation, keras.layers.Lambda)
        if not known and isinstance(operation, keras.layers.Layer) and not operation.variables:
            return operation
        return type(operation).from_config(self._config(operation))

    def _config(self, operation):
        config = without_penalties(operation.get_config())
        for field, (labels, value) in self.trace.rewrites.get(id(operation), {}).items():
            config[field] = value(self.alive(labels))
        if id(operation) in self.folds:
            config["use_bias" if "use_bias" in config else "bias_axes"] = config.get("bias_axes") or True
        for field, inner in _inner_layers(operation).items():
            # Without the build config, which names the old input shape.
            config[field] = {k: v for k, v in config[field].items() if k != "build_config"}
            config[field]["config"] = self._config(inner)
        return config

    def _fill(self, path, layer, copy):
        """Copies the weights that stay, and adds the folded constants to the bias."""
        old = own_weights(layer)
        new = list(copy.weights)
        for variable, target in zip(old, new):
            values = ops.convert_to_numpy(variable.value) if variable.dtype != "bfloat16" else np.asarray(variable.value)
            for axis in range(len(variable.shape)):
                entry = self.trace.axes.get((id(variable), axis))
                if entry is not None:
                    values = np.compress(self.alive(entry.labels), values, axis=axis)
            if tuple(values.shape) != tuple(target.shape):
                raise ShrinkError(
                    errors.message(
                        f"The copy of {path} must have the weights that stay.",
                        "Please report the layer: its config and its weights disagree.",
                        weights=values.shape,
                        copy=tuple(target.shape),
                    )
                )
            target.assign(values)
        for holder in (layer, *_inner_layers(layer).values()):
            if id(holder) in self.folds:
                self._fold(layer, copy, holder)
        if isinstance(copy, keras.layers.Normalization):
            copy.finalize_state()

    def _fold(self, layer, copy, holder):
        made = copy if holder is layer else copy.layer
        outputs = self.trace.axes[id(holder.kernel), len(holder.kernel.shape) - 1].labels
        delta = np.compress(self.alive(outputs), self.folds[id(holder)])
        made.bias.assign(ops.convert_to_numpy(made.bias.value) + delta.astype("float32"))


class ShrinkError(ValueError):
    """The smaller model would not compute what the large one does."""


def own_weights(layer):
    """The weights of a layer without those of penalties put on it."""
    penalties = [
        item for item in layer._flatten_layers(include_self=False) if isinstance(item, keras.regularizers.Regularizer)
    ]
    foreign = {id(variable) for penalty in penalties for variable in penalty.variables}
    return [variable for variable in layer.weights if id(variable) not in foreign]


def without_penalties(config):
    """A layer's config without our penalties, which are bound to kernels of the old size; other regularizers stay."""
    if isinstance(config, (list, tuple)):
        return type(config)(without_penalties(item) for item in config)
    if not isinstance(config, dict):
        return config
    name = config.get("registered_name") or ""
    if name == "tf_reweight>Combined":
        rest = [item for item in map(without_penalties, config["config"]["regularizers"]) if item is not None]
        if len(rest) > 1:
            return {**config, "config": {"regularizers": rest}}
        return rest[0] if rest else None
    if name in ("tf_reweight>Reweighted", "tf_reweight>Coupled"):
        return None
    return {key: without_penalties(value) for key, value in config.items()}


def _inner_layers(operation):
    if isinstance(operation, keras.layers.Bidirectional):
        return {"layer": operation.forward_layer, "backward_layer": operation.backward_layer}
    if isinstance(operation, keras.layers.TimeDistributed):
        return {"layer": operation.layer}
    return {}


def _input_like(tensor, shape_of):
    layer = tensor._keras_history.operation
    return keras.Input(batch_shape=tuple(shape_of.shape), dtype=tensor.dtype, name=layer.name, sparse=tensor.sparse or None)
