"""The one table: which layer holds which kernels, and how each kernel reads as `(*spatial, in, out)`."""

import dataclasses

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.graph.access import (
    all_layers, functional_of, has_lora, is_layer, node_of, quantization_of, sublayers, unshared_variables,
)  # fmt: skip
from tf_reweight.graph.checking import check_model
from tf_reweight.kernels.constraints import mask_of
from tf_reweight.kernels.grouping import Groups
from tf_reweight.kernels.layout import Layout
from tf_reweight.kernels.own_calls import overrides_computing


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """One prunable kernel of one layer.

    Attributes:
        name: `path/of/layer/kernel`, stable across save and load as long as layer names are.
        layer: the layer that owns the variable (for an RNN its cell).
        attribute: name of the kernel on the layer, for example `"kernel"`.
        regularizer_attribute: name of the matching regularizer on the layer.
        layout: the kernel's `Layout`.
        parents: layers that hold the layer (nested models, recurrent and attention layers), from the outside in.
        own_call: whether the layer's class overrides how the table's layer computes; see `own_calls`.
    """

    name: str
    path: str
    layer: keras.layers.Layer
    attribute: str
    regularizer_attribute: str
    layout: Layout
    parents: tuple = ()
    own_call: bool = False

    @property
    def variable(self):
        """The `keras.Variable`; Dense and convolutions keep it behind the property `kernel`."""
        private = getattr(self.layer, "_" + self.attribute, None)
        return private if isinstance(private, keras.Variable) else getattr(self.layer, self.attribute)

    @property
    def holders(self):
        """The layers around the layer, from the outside in."""
        return tuple(parent for parent in self.parents if parent is not self.layer)

    @property
    def regularizer(self):
        """The regularizer now in force on the variable, or None."""
        return self.variable.regularizer

    @property
    def standard_shape(self):
        return self.layout.standard_shape

    def standard_kernel(self):
        """The kernel as float32 `(*spatial, in, out)`."""
        return self.layout.to_standard(ops.cast(self.variable.value, "float32"))

    def groups(self, structure, mask=None):
        """The `Groups` of the kernel, or of what a bool mask in standard order leaves of it."""
        return Groups.of(structure, self.standard_kernel(), mask)

    def held_mask(self):
        """Bool mask in standard order: False where a weight is held at zero, from pruning of before."""
        held = mask_of(self.variable)
        if held is None:
            return np.ones(self.standard_shape, bool)
        return np.array(ops.convert_to_numpy(self.layout.to_standard(ops.convert_to_tensor(held.as_numpy()))))

    def scores(self, structure):
        """Root mean square of each group's weights, float64 `(scopes, groups)`: what a `sparsity` ranks by."""
        return self.groups(structure).scores

    def standard_mask(self, keep, structure):
        """Bool mask in standard order from keep flags `(scopes, groups)` of a structure."""
        return ops.convert_to_numpy(structure.mask(ops.convert_to_tensor(keep), self.standard_shape)) != 0

    def own_mask(self, keep, structure):
        """Bool mask of the kernel's own shape from keep flags `(scopes, groups)` of a structure."""
        return self.in_own_order(self.standard_mask(keep, structure))

    def in_own_order(self, mask):
        """A mask in standard order as one of the kernel's own shape."""
        return ops.convert_to_numpy(self.layout.from_standard(ops.convert_to_tensor(mask)))


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A layer or kernel that is not touched, and why."""

    name: str
    reason: str


# The table -----------------------------------------------------------------------------------------------------------


def _standard(layer, shape):
    return Layout.standard(shape)


def _transposed(layer, shape):
    return Layout(("spatial",) * (len(shape) - 2) + ("out", "in"), shape)


def _depthwise(layer, shape):
    return Layout(("spatial",) * (len(shape) - 2) + ("out", "out"), shape)


def _einsum(layer, shape):
    """Letters of the kernel: in the input only -> in, in the output only -> out, in both -> one matrix each (spatial)."""
    inputs, rest = layer.equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    axes = tuple(
        "spatial" if letter in inputs and letter in outputs else "in" if letter in inputs else "out" for letter in kernel
    )
    return Layout(axes, shape)


def _cell(layer):
    return layer.cell


def _self(layer):
    return layer


@dataclasses.dataclass(frozen=True)
class _Row:
    layer_type: type
    attribute: str
    regularizer_attribute: str
    layout: object = _standard
    owner: object = _self


_L = keras.layers
_TABLE = [
    _Row(_L.Dense, "kernel", "kernel_regularizer"),
    _Row(_L.EinsumDense, "kernel", "kernel_regularizer", _einsum),
    _Row(_L.Conv1D, "kernel", "kernel_regularizer"),
    _Row(_L.Conv2D, "kernel", "kernel_regularizer"),
    _Row(_L.Conv3D, "kernel", "kernel_regularizer"),
    _Row(_L.Conv1DTranspose, "kernel", "kernel_regularizer", _transposed),
    _Row(_L.Conv2DTranspose, "kernel", "kernel_regularizer", _transposed),
    _Row(_L.Conv3DTranspose, "kernel", "kernel_regularizer", _transposed),
    _Row(_L.DepthwiseConv1D, "kernel", "depthwise_regularizer", _depthwise),
    _Row(_L.DepthwiseConv2D, "kernel", "depthwise_regularizer", _depthwise),
    _Row(_L.SeparableConv1D, "depthwise_kernel", "depthwise_regularizer", _depthwise),
    _Row(_L.SeparableConv1D, "pointwise_kernel", "pointwise_regularizer"),
    _Row(_L.SeparableConv2D, "depthwise_kernel", "depthwise_regularizer", _depthwise),
    _Row(_L.SeparableConv2D, "pointwise_kernel", "pointwise_regularizer"),
    _Row(_L.Embedding, "embeddings", "embeddings_regularizer"),
    _Row(_L.SimpleRNNCell, "kernel", "kernel_regularizer"),
    _Row(_L.SimpleRNNCell, "recurrent_kernel", "recurrent_regularizer"),
    _Row(_L.LSTMCell, "kernel", "kernel_regularizer"),
    _Row(_L.LSTMCell, "recurrent_kernel", "recurrent_regularizer"),
    _Row(_L.GRUCell, "kernel", "kernel_regularizer"),
    _Row(_L.GRUCell, "recurrent_kernel", "recurrent_regularizer"),
    _Row(_L.ConvLSTM1D, "kernel", "kernel_regularizer", owner=_cell),
    _Row(_L.ConvLSTM1D, "recurrent_kernel", "recurrent_regularizer", owner=_cell),
    _Row(_L.ConvLSTM2D, "kernel", "kernel_regularizer", owner=_cell),
    _Row(_L.ConvLSTM2D, "recurrent_kernel", "recurrent_regularizer", owner=_cell),
    _Row(_L.ConvLSTM3D, "kernel", "kernel_regularizer", owner=_cell),
    _Row(_L.ConvLSTM3D, "recurrent_kernel", "recurrent_regularizer", owner=_cell),
]


def register(layer_type, attribute="kernel", regularizer_attribute="kernel_regularizer", axes=None):
    """Teaches the table a layer of yours, so that its kernel can be regularized, pruned and reported.

    Args:
        layer_type: the `keras.layers.Layer` subclass.
        attribute: the attribute that holds the kernel variable.
        regularizer_attribute: the attribute under which the layer would hold a regularizer.
        axes: one of `"spatial"`, `"in"`, `"out"` per kernel axis; default `(*spatial, in, out)`.

    Example:
        >>> class MyLinear(keras.layers.Layer): ...
        >>> register(MyLinear, "weight", axes=("out", "in"))
    """
    roles = ("spatial", "in", "out")
    if axes is not None and any(axis not in roles for axis in axes):
        raise ValueError(errors.message(f"`axes` may hold only {roles}.", "Name the role of each kernel axis.", axes=axes))
    layout = _standard if axes is None else lambda layer, shape: Layout(tuple(axes), shape)
    _TABLE.insert(0, _Row(layer_type, attribute, regularizer_attribute, layout))


# Walking a model -----------------------------------------------------------------------------------------------------


def find(model):
    """Every kernel of a built model, and every layer with weights that has none, with the reason.

    Wrappers, nested models, cells of recurrent layers and attention's inner projections are walked; a shared layer
    appears once.

    Returns:
        `(list of Target, list of LeftOut)` in the model's own order.

    Raises:
        TypeError: when `model` is not a Keras 3 model or layer.
        ValueError: when it is not built.
    """
    check_model(model)
    return walk(model)


def walk(layer):
    """`find` for any layer, without asking whether it is built: what a wrapper sees of its own inside."""
    found, left_out = [], []
    _walk(layer, "", {}, found, left_out, set())
    return found, left_out


def output_paths(model):
    """Paths of the layers that make the model's outputs: what filter pruning must never shorten.

    From each output back through layers without kernels (activations, reshapes) to the first layer with one; of a layer with
    several kernels inside, it is the last, and that of both directions of a `Bidirectional`. A subclassed model has no graph:
    there the last kernel in creation order is taken.
    """
    found, _ = find(model)
    if not isinstance(model, keras.Model) or not found:
        return set()
    model = functional_of(model)
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        return _last_paths(found)
    with_kernel = {}
    for target in found:
        with_kernel.setdefault(target.path.split("/")[0], []).append(target)
    # Calls that lead to these outputs: a layer may be called in other models too, such as the one that was quantized.
    paths, pending, seen = set(), [node_of(t) for t in keras.tree.flatten(model.outputs)], set()
    while pending:
        node = pending.pop()
        operation = node.operation
        if id(node) in seen:
            continue
        seen.add(id(node))
        if operation.name in with_kernel:
            inner = sublayers(operation) if isinstance(operation, keras.Model) else []
            paths |= (
                {f"{operation.name}/{path}" for path in output_paths(operation)}
                if inner
                else _last_paths(with_kernel[operation.name])
            )
        elif not _has_kernels(operation):
            pending += [node_of(t) for t in node.input_tensors]
    return paths


def _has_kernels(operation):
    """Whether a layer, or one inside it, has kernels of the table, also those that are left out, as quantized ones are."""
    return is_layer(operation) and any(_rows_of(layer) for layer in (operation, *all_layers(operation)))


def _last_paths(targets):
    """Paths of the last of some kernels, and of the last of each direction where that is in a `Bidirectional`."""
    last = targets[-1]
    paths = {last.path}
    for wrapper in last.parents:
        if isinstance(wrapper, _L.Bidirectional):
            forward = [target for target in targets if any(parent is wrapper.forward_layer for parent in target.parents)]
            paths |= {forward[-1].path} if forward else set()
    return paths


def _walk(layer, path, context, found, left_out, seen):
    for child in sublayers(layer):
        if id(child) in seen or isinstance(child, keras.regularizers.Regularizer):
            continue
        seen.add(id(child))
        name = f"{path}/{child.name}" if path else child.name
        below = {**context, **_context_of(child), "parents": (*context.get("parents", ()), child)}
        rows = _rows_of(child)
        for row in rows:
            _add(row, child, name, below, found, left_out)
        if rows and rows[0].owner is not _self:
            seen.add(id(rows[0].owner(child)))
            continue
        if not rows and "reason" not in below and any(len(v.shape) >= 2 for v in unshared_variables(child)):
            left_out.append(
                LeftOut(name, f"{type(child).__name__} has no row in the table of kernels; see kernels.table.register")
            )
        _walk(child, name, below, found, left_out, seen)


def _rows_of(layer):
    """The table's rows for a layer; rows of the most derived type win, so a user's subclass can have its own."""
    rows = [row for row in _TABLE if isinstance(layer, row.layer_type)]
    if not rows:
        return []
    nearest = min((row.layer_type for row in rows), key=type(layer).__mro__.index)
    return [row for row in rows if row.layer_type is nearest]


def _context_of(layer):
    """What a wrapper tells about the layers inside it: `{"reason": ...}` or `{"num_heads": {layer id: n}}`."""
    if isinstance(layer, _L.SpectralNormalization):
        return {"reason": "SpectralNormalization rewrites its kernel at every step"}
    if isinstance(layer, (_L.MultiHeadAttention, _L.GroupQueryAttention)):
        return {"attention": layer}
    return {}


def _heads(attention, layer, shape, axes):
    """Number of heads of one projection inside an attention layer: the size of the head axis of its kernel."""
    if attention is None or len(shape) != 3:
        return None
    # Query, key and value kernels are (in, heads, dim), the output's is (heads, dim, out).
    return shape[1] if axes.count("out") == 2 else shape[0] if axes.count("in") == 2 else None


def _add(row, child, path, context, found, left_out):
    layer = row.owner(child)
    attribute = row.attribute
    target_name = f"{path}/{attribute}"
    if not layer.built:
        left_out.append(LeftOut(target_name, "the layer is not built"))
        return
    policy = quantization_of(layer)
    if policy is not None:
        left_out.append(LeftOut(target_name, f"already quantized ({policy}): its kernel holds integers"))
        return
    if has_lora(layer):
        reason = "LoRA is enabled: the kernel is frozen and a product is added to it; `tfr.strip(model)` merges them"
        left_out.append(LeftOut(target_name, reason))
        return
    if "reason" in context:
        left_out.append(LeftOut(target_name, context["reason"]))
        return
    variable = getattr(layer, attribute)
    shape = tuple(variable.shape)
    if 0 in shape:
        left_out.append(LeftOut(target_name, f"a kernel {shape} has no weights"))
        return
    layout = row.layout(layer, shape)
    layout = dataclasses.replace(layout, num_heads=_heads(context.get("attention"), layer, shape, layout.axes))
    parents = tuple(parent for parent in context["parents"] if parent is not layer)
    own_call = overrides_computing(type(child), row.layer_type)
    found.append(Target(target_name, path, layer, attribute, row.regularizer_attribute, layout, parents, own_call))
