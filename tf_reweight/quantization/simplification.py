"""A float model with the same outputs, in operations that integer files have: normalization folded, activations apart."""

import collections
import dataclasses
import typing

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.graph import random_inputs
from tf_reweight.graph.access import calls_of, has_channels_first, is_layer, node_of, nodes_in_order, operation_of
from tf_reweight.graph.additions import remains_of
from tf_reweight.graph.call_arguments import inputs_of, named_arguments
from tf_reweight.graph.checking import check_eager, check_finite, check_model
from tf_reweight.graph.comparing import BOUND, compare, endless_outputs, tolerance_of
from tf_reweight.graph.randomness import named, random_layers
from tf_reweight.graph.copying import Copied, assign_like, fresh
from tf_reweight.graph.keras_classes import is_keras_own, is_named
from tf_reweight.graph.naming import Names
from tf_reweight.graph.rebuilding import Inlined, rebuild
from tf_reweight.graph.recasting import is_double, is_stored_half, recast
from tf_reweight.graph.ties import check_untied, shared_inside
from tf_reweight.graph.walking import graph_of, graphs_of, is_graph
from tf_reweight.graph.whole import Whole
from tf_reweight.quantization import rules
from tf_reweight.quantization.activations import EXPANSIONS, Activations, Chain
from tf_reweight.quantization.expandable import is_written_once
from tf_reweight.quantization.expansion import expand, regularized

L = keras.layers

# Kernel layers a normalization behind them is folded into -> the kernel's axes that its channels are.
_FOLDS = {
    L.Conv1D: (-1,), L.Conv2D: (-1,), L.Conv3D: (-1,), L.Dense: (-1,), L.DepthwiseConv1D: (-2, -1), L.DepthwiseConv2D: (-2, -1),
    L.Conv1DTranspose: (-2,), L.Conv2DTranspose: (-2,), L.SeparableConv1D: (-1,), L.SeparableConv2D: (-1,),
}  # fmt: skip
_DEPTHWISE = {L.SeparableConv1D: (L.DepthwiseConv1D, L.Conv1D), L.SeparableConv2D: (L.DepthwiseConv2D, L.Conv2D)}
# Activations a kernel layer keeps: the converter computes them inside it.
_KEPT = ("relu", "relu6")


def simplify(model):
    """The same function in layers that can become integer arithmetic.

    - BatchNormalization behind a convolution or Dense becomes part of its kernel and bias, so that what is rounded in
      training is what the file stores. Zeros stay exactly zero. From here on the statistics are constants. One that is called
      with `training=True` stays as it is.
    - A sum of which one part is scaled (in InceptionResNetV2) is a plain one, with the scale in the convolution before.
    - BatchNormalization elsewhere, ConvNeXt's LayerScale, Rescaling and Normalization of images become a 1x1 depthwise
      convolution.
    - Activations other than relu and relu6 become layers behind; silu becomes `x * sigmoid(x)`, hard_sigmoid
      `relu6(x + 3) / 6`.
    - Nested models become part of the one model, so that each use of a shared one has ranges of its own.
    - Separable convolutions become two, a sum of many becomes sums of two.
    - Attention and recurrent layers are written out, where that can be (`rules.REASONS`): Dense layers, products, gates.
    - Layers that compute in float64, and those whose weights are of half precision, compute in float32, as all files do.

    Args:
        model: a built Sequential or functional model, unchanged.

    Returns:
        `(functional keras.Model, dict)`: the dict tells of each layer that was rewritten, by path, what became of it.

    Raises:
        ValueError: when the outputs differ by more than float noise, or layers have a weight in common (a Dense inside
            `TimeDistributed` and outside stays one).
    """
    check_eager()
    check_model(model)
    check_shared(model, "simplify")
    given = recast(model, "float32") if is_double(model) or is_stored_half(model) else model
    work = _Simplifier(Names(model), given)
    made = rebuild(given, Inlined(work.visit, work.whole), like=given)
    _check(model, made)
    return made, work.rewritten


def check_shared(model, what):
    """Raises where layers have a weight in common that they would not in the simplified model.

    Args:
        model: Sequential or functional.
        what: the function that simplifies it, for the message.
    """
    check_untied(model, what, is_written_once, _activation_weights)


def _activation_weights(operation):
    """The weights of an activation object, which stays one where several layers have it, see `Activations`."""
    activation = operation.activation if type(operation) in (*_FOLDS, L.Activation) else None
    return activation.weights if is_layer(activation) else ()


class _Simplifier:
    def __init__(self, names, model):
        self.names, self.activations = names, Activations(names)
        self.made = {}
        self.rewritten = {}
        self.whole = Whole()
        graphs = graphs_of(model)
        # Layers that are called at each step and elsewhere are one layer here as well.
        shared = shared_inside(model)
        nodes = [node for graph in graphs for node in nodes_in_order(graph)]
        self.shared = {
            id(node.operation): shared[id(node.operation)] for node in nodes
            if id(node.operation) in shared and is_written_once(node.operation, shared[id(node.operation)])
        }  # fmt: skip
        uses = collections.Counter(id(self.shared.get(id(node.operation), node.operation)) for node in nodes)
        training = _in_training(graphs)
        for graph in graphs:
            if id(graph) not in training:
                self.made |= _find_folds(graph, uses)

    def visit(self, path, node, args, kwargs):
        """What stands for a call in the new model."""
        operation = self.shared.get(id(node.operation), node.operation)
        if operation is not node.operation:
            args, kwargs = args[:1], {}  # a Dense layer takes no mask
        made = self.made.get(id(operation))
        if made is None or isinstance(made, _Fold):
            # Layers of nested models come to stand beside those outside, which may have the same names.
            name = self.names(path.replace("/", "_")) if "/" in path else path
            made = self._expanded(path, name, node.operation) or self._rewrite(path, name, operation, args, kwargs, made)
            made = self.made[id(operation)] = self._regularized(made, operation, name)
        return made(*args, **kwargs)

    def _regularized(self, made, operation, name):
        """What stands for an operation with a layer's penalty on its outputs; a copy has its own."""
        return regularized(made, operation, name, self.names) if is_layer(operation) and not isinstance(made, Copied) else made

    def _expanded(self, path, name, operation):
        made = expand(operation, name, self.names)
        if made is not None:
            self.rewritten[path] = "written out in layers that have integer arithmetic"
        return made

    def _rewrite(self, path, name, operation, args, kwargs, fold):
        """A function that stands for the operation, on the new model's tensors."""
        kind = type(operation)
        if kind in _FOLDS:
            layers = _kernel_layers(operation, name, self.names)
            if fold is not None:
                _scale_outputs(layers[-1], fold, _FOLDS[kind][-1:] if kind in _DEPTHWISE else _FOLDS[kind])
                self.rewritten[path] = f"{fold.path} folded into it"
            left = [] if _keeps_activation(operation) else self.activations.behind(name, operation.activation)
            return Chain([*layers, *left])
        if kind is L.BatchNormalization and fold is not None:
            self.rewritten[path] = "folded into the layer before"
            return _first
        if _is_scaled_sum(operation) and fold is not None:
            self.rewritten[path] = "became a plain sum, its scale folded into the layer before"
            return L.Add(name=name)
        affine = None if kwargs.get("training") is True or _trains(operation) else _affine(operation, args, name)
        if affine is not None:
            self.rewritten[path] = "became a 1x1 depthwise convolution"
            # Without a mask and the like; integers such as the pixels of a camera become real numbers first.
            return lambda tensor, *_, **__: affine(self._as_floats(tensor) if tensor in self.whole else tensor)
        written = self._activation(operation, name)
        if written is not None:
            return written
        if kind is L.Add and len(args[0]) > 2:
            return _SumOfTwo(name, self.names)
        return Copied(operation, name)

    def _as_floats(self, tensor):
        """A tensor of integers as floats, cast before layers that pad or pool it: files have no such operation on uint8."""
        node, layer = node_of(tensor), operation_of(tensor)
        if node.is_input or not is_layer(layer) or not is_keras_own(type(layer)) or rules.rule_of(layer)[0] != rules.SAME:
            return ops.cast(tensor, "float32")
        return Copied(layer, self.names(layer.name))(self._as_floats(node.input_tensors[0]))

    def _activation(self, operation, name):
        """What stands for a layer or operation that is an activation and has no counterpart in integer files, or None."""
        if is_named(operation, "Silu", "HardSigmoid"):
            return EXPANSIONS[{"Silu": "silu", "HardSigmoid": "hard_sigmoid"}[type(operation).__name__]](name, self.names)
        if type(operation) is not L.Activation:
            return None
        if is_layer(operation.activation) or rules.activation_name(operation) in EXPANSIONS:
            return Chain(self.activations.behind(name, operation.activation))
        return None


@dataclasses.dataclass(frozen=True)
class _Fold:
    """What becomes part of the layer before: `y * scale + offset` on its channels; `path` names the layer that did it."""

    path: str
    scale: np.ndarray
    offset: typing.Any


def _fold_of(layer, tensor):
    """The fold of a layer into what makes its tensor (of a sum, the part that is scaled), or None."""
    if _is_scaled_sum(layer):
        return _Fold(layer.name, np.full(tensor.shape[-1], layer.scale), 0.0)
    if type(layer) is L.BatchNormalization and _last_axis(layer, tensor):
        return _Fold(layer.name, *_scale_and_offset(layer))
    return None


def _trains(layer):
    """Whether a call of a layer fixes `training=True`: a normalization then has no constants to be written out with."""
    return any(map(_is_training, calls_of(layer)))


def _is_training(call):
    return named_arguments(call).get("training") is True


def _in_training(graphs):
    """The ids of those graphs that a call of their model, or of one around it, lets run with `training=True`.

    Args:
        graphs: from `walking.graphs_of`, the outer first.
    """
    found = set()
    for graph in graphs:
        inner = [node for node in nodes_in_order(graph) if is_graph(node.operation)]
        found |= {id(graph_of(node.operation)) for node in inner if id(graph) in found or _is_training(node)}
    return found


def _is_scaled_sum(layer):
    """Whether a layer is the `a + b * scale` of InceptionResNetV2."""
    return is_named(layer, "CustomScaleLayer")


def _find_folds(graph, uses):
    """`id -> _Fold` of normalizations, scaled sums and what they are folded into: each used once, one behind the other.

    Args:
        graph: the model's or that of a model nested in it.
        uses: `id -> how often` an operation is called in all of these. Calls in other models do not count, nor those that a
            Sequential model leaves behind when it is loaded.
    """
    readers, found = {}, {}
    nodes = nodes_in_order(graph)
    for node in nodes:
        for tensor in node.input_tensors:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    for tensor in keras.tree.flatten(graph.outputs):
        readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    for node in nodes:
        layer, given = node.operation, inputs_of(node)
        # What is scaled of a sum is its last part; a normalization may be given a mask behind what it works on.
        tensor = given[-1] if _is_scaled_sum(layer) else given[0]
        fold = None if _trains(layer) else _fold_of(layer, tensor)
        if fold is None:
            continue
        source = operation_of(tensor)
        alone = uses[id(layer)] == uses[id(source)] == readers[id(tensor)] == 1
        # A penalty on the outputs sees them as they are before the normalization.
        alone = alone and getattr(source, "activity_regularizer", None) is None
        fits = type(source) in _FOLDS and rules.activation_name(source) == "linear"
        if alone and fits and not has_channels_first(source):
            found[id(layer)] = found[id(source)] = fold
    return found


def _scale_and_offset(layer):
    """BatchNormalization outside training as `y * scale + offset`, float64."""
    mean, variance = (np.asarray(ops.convert_to_numpy(v), "float64") for v in (layer.moving_mean, layer.moving_variance))
    gamma = np.asarray(ops.convert_to_numpy(layer.gamma), "float64") if layer.scale else 1.0
    beta = np.asarray(ops.convert_to_numpy(layer.beta), "float64") if layer.center else 0.0
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale


def _last_axis(layer, tensor):
    return layer.axis in (-1, len(tensor.shape) - 1)


def _kernel_layers(layer, name, names):
    """Fresh copies of a kernel layer, with its weights, with room for a bias, and with the activation it may keep."""
    activation = layer.activation if _keeps_activation(layer) else keras.activations.linear
    if type(layer) not in _DEPTHWISE:
        # A penalty on the outputs stands behind the activation, see `_regularized`.
        copy = fresh(layer, {"activation": activation, "use_bias": True, "name": name, "activity_regularizer": None})
        return [_filled(copy, layer, layer.kernel, layer.bias)]
    first, second = _DEPTHWISE[type(layer)]
    shared = {"trainable": layer.trainable, "dtype": layer.dtype_policy, "data_format": layer.data_format}
    depthwise = first(
        layer.kernel_size, layer.strides, layer.padding, layer.depth_multiplier, dilation_rate=layer.dilation_rate,
        use_bias=False, name=names(f"{name}_depthwise"), **_acting(layer, depthwise="depthwise"), **shared,
    )  # fmt: skip
    acting = _acting(layer, pointwise="kernel", bias="bias")
    pointwise = second(layer.filters, 1, activation=activation, name=name, **acting, **shared)
    made = _filled(depthwise, layer, layer.depthwise_kernel, None)
    hidden = layer.pointwise_kernel.shape[-2]
    pointwise.build((*(None,) * (layer.rank + 1), hidden))
    return [made, _given(pointwise, layer.pointwise_kernel, layer.bias)]


def _acting(layer, **slots):
    """The regularizers and constraints on weights of a layer, as arguments of another that has them under other names."""
    kinds = ("regularizer", "constraint")
    return {f"{new}_{kind}": remains_of(getattr(layer, f"{old}_{kind}")) for old, new in slots.items() for kind in kinds}


def _keeps_activation(layer):
    """Whether the file computes the layer's activation inside the layer."""
    return rules.activation_name(layer) in _KEPT and rules.computes_clamp(layer)


def _filled(copy, layer, kernel, bias):
    """Builds the copy for the layer's inputs and gives it the weights; a bias it lacks is zero."""
    copy.build(inputs_of(calls_of(layer)[0])[0].shape)
    return _given(copy, kernel, bias)


def _given(copy, kernel, bias):
    """Gives a built layer the kernel and the bias of another; where that has none, and the layer one, it is zero."""
    for variable in copy.weights[1:]:
        variable.assign(ops.zeros(variable.shape, variable.dtype))
    for variable, old in zip(copy.weights, [kernel] if bias is None else [kernel, bias]):
        assign_like(variable, old, old.value)
    return copy


def _scale_outputs(layer, fold, axes):
    """Multiplies kernel and bias of a layer by the scale of each output, and adds the offset to the bias."""
    kernel = np.asarray(ops.convert_to_numpy(layer.kernel), "float64")
    bias = np.asarray(ops.convert_to_numpy(layer.bias), "float64")
    shape = [size if axis - kernel.ndim in axes else 1 for axis, size in enumerate(kernel.shape)]
    # Zero is added since a zero times a negative scale is a negative zero, which is a nonzero byte in a file.
    layer.set_weights([kernel * np.reshape(fold.scale, shape) + 0.0, bias * fold.scale + fold.offset])


def _affine(operation, args, name):
    """A 1x1 depthwise convolution for a layer that is `x * scale + offset` on the channels of an image; else None."""
    per_channel = _per_channel(operation, args)
    shape = () if per_channel is None else args[0].shape
    if len(shape) != 4 or shape[-1] is None:
        return None
    layer = L.DepthwiseConv2D(1, name=name, dtype=operation.dtype_policy, data_format="channels_last")
    layer.build(shape)
    channels = shape[-1]
    weights = [np.broadcast_to(np.asarray(value, "float32"), (channels,)) for value in per_channel]
    layer.set_weights([weights[0].reshape(1, 1, channels, 1), weights[1]])
    layer.trainable = operation.trainable and type(operation) not in (L.Rescaling, L.Normalization)
    return layer


def _per_channel(operation, args):
    """`(scale, offset)` of a layer that is `x * scale + offset` on the channels of an image, or None."""
    kind = type(operation)
    if kind is L.BatchNormalization:
        return _scale_and_offset(operation) if _last_axis(operation, args[0]) else None
    if is_named(operation, "LayerScale"):
        # Not folded into the Dense before, whose one step for all channels would drown those with small scales.
        return ops.convert_to_numpy(operation.gamma), 0.0
    if kind is L.Rescaling:
        return operation.scale, operation.offset
    if kind is not L.Normalization or operation.invert or tuple(operation.axis) not in ((), (3,), (-1,)):
        return None
    mean, variance = (ops.convert_to_numpy(v).reshape(-1) for v in (operation.mean, operation.variance))
    scale = 1.0 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return scale, -mean * scale


class _SumOfTwo:
    def __init__(self, name, names):
        self.name, self.names, self.layers = name, names, []

    def __call__(self, tensors, **_):
        if not self.layers:
            self.layers = [L.Add(name=self.names(self.name) if i else self.name) for i in range(len(tensors) - 1)]
        total = tensors[0]
        for layer, tensor in zip(self.layers, tensors[1:]):
            total = layer([total, tensor])
        return total


def _first(tensor, *args, **kwargs):
    return tensor


def _check(model, made):
    inputs = random_inputs.inputs(model, keras.tree.flatten(graph_of(model).inputs))
    result, limit = compare(model, made, inputs), 10 * tolerance_of(model)
    if not result.relative <= limit:
        drawn = random_layers(model, inputs)
        if drawn:
            expected = "The model must give the same outputs each time, to be compared with the one rewritten for integers."
            raise ValueError(errors.message(expected, named(drawn), random=drawn, difference=result.difference))
        check_finite(model)
        endless = endless_outputs(model, inputs)
        if endless:
            expected = "The model's own outputs must be finite on random inputs, to be compared with the rewritten one."
            raise ValueError(errors.message(expected, f"{BOUND}.", not_finite=endless))
        raise ValueError(
            errors.message(
                f"The model rewritten for integers must give the same outputs within {limit:g} of their scale.",
                "Please report the model; as a way out, quantize without the layer that differs (`layers`).",
                difference=result.difference,
                scale=result.scale,
            )
        )
