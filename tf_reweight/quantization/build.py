"""From a float model to one that trains with the numbers of its integer file."""

import typing

import keras

from tf_reweight import batch_statistics, errors
from tf_reweight.checks import check_flags
from tf_reweight.data.examples import packed
from tf_reweight.graph.access import (
    all_layers, calls_of, forget_calls, is_tensor, operation_of, quantization_of, tensors_in,
)  # fmt: skip
from tf_reweight.graph.checking import check_eager, check_finite
from tf_reweight.graph.compiling import compile_like
from tf_reweight.graph.copying import input_like
from tf_reweight.graph.lora import check_merged
from tf_reweight.graph.naming import Names
from tf_reweight.graph.rebuilding import rebuild
from tf_reweight.graph.tables import check_tables
from tf_reweight.graph.walking import graph_of
from tf_reweight.kernels.constraints import mask_of
from tf_reweight.kernels.selectors import Layers
from tf_reweight.kernels.table import LeftOut, find
from tf_reweight.pruning.masked import Masked
from tf_reweight.pruning.prune import keep_zeros
from tf_reweight.quantization import rules
from tf_reweight.quantization.choosing import Bits, Choice, bits_of, chooser
from tf_reweight.quantization.expandable import why_not
from tf_reweight.quantization.grid import check_bits
from tf_reweight.quantization.layers import QuantizedActivation, QuantizedKernel
from tf_reweight.quantization.plan import Plan, is_float
from tf_reweight.quantization.ranges import calibrate, is_quantized
from tf_reweight.quantization.report import QuantizationReport, QuantizedLayer
from tf_reweight.quantization.simplification import check_shared, simplify


@typing.overload
def quantize(
    model: keras.Model, weight_bits: Bits = 8, activation_bits: int = 8, *, layers: Layers = None,
    return_report: typing.Literal[False] = False, data: typing.Any = None,
) -> keras.Model: ...  # fmt: skip


@typing.overload
def quantize(
    model: keras.Model, weight_bits: Bits = 8, activation_bits: int = 8, *, layers: Layers = None,
    return_report: typing.Literal[True], data: typing.Any = None,
) -> tuple[keras.Model, QuantizationReport]: ...  # fmt: skip


def quantize(
    model: keras.Model,
    weight_bits: Bits = 8,
    activation_bits: int = 8,
    *,
    layers: Layers = None,
    return_report: bool = False,
    data: typing.Any = None,
) -> keras.Model | tuple[keras.Model, QuantizationReport]:
    """A model for quantization-aware training: it computes with the rounded numbers its int8 `.tflite` will have.

    Fine-tune it for some epochs with a small learning rate and export it: the file then loses little or no accuracy, and
    `export_tflite(qat, path, "int8")` needs no `representative_data`, since the ranges were learned. Kernels are rounded
    symmetrically, per output channel for two-dimensional convolutions and with one step elsewhere, so that zeros stay
    exactly zero; activations in ranges that training learns (or `calibrate`, from a few batches).

    The model is first rewritten without changing its outputs: BatchNormalization is folded into the convolution before it, and
    activations become layers (see `simplify`). The statistics are constants from then on, so pass `data`, or train
    until they have settled before. An operation without integer arithmetic stays float and is named in the report.

    Args:
        model: a built Sequential or functional model, nested and shared layers included; it is unchanged. Zeros that `prune` or
            `keep_zeros` hold in it are held in the new model too.
        weight_bits: 2..16, or a mapping of selectors to bits: `{"head*": 8, keras.layers.Conv2D: 4}`; the first that matches a
            layer decides, and 8 where none does. Files hold 2 to 4 bits in int4, 5 to 8 in int8, and those of
            transposed convolutions in int8 always; more is for studies.
        activation_bits: 2..16; files hold 8, or 16 (exported as `"int16"`, with weights of 8 bits).
        layers: None for all; a name or glob of layer paths, a layer, a layer type, a predicate, or a list of these; see
            `kernels.selectors`. Kernels that do not match stay float. Selectors look at the layers of `model`; the names of
            its copies in `simplify` (`block_conv` for `block/conv`) are known too.
        return_report: whether to return `(model, QuantizationReport)`.
        data: examples of any kind, alone or as `(x, y)`: statistics of BatchNormalization that lag behind are refreshed for
            the new model before they are folded (see `refresh_statistics`), and ranges are set (see `calibrate`). None leaves
            both.

    Returns:
        A functional `keras.Model`, compiled like `model` (with a fresh optimizer).

    Raises:
        TypeError: for a subclassed model, which has no graph.
        ValueError: for a model that is not built, is already quantized, has LoRA weights, `Masked` wrappers or layers with a
            weight in common (a Dense inside `TimeDistributed` and outside stays one); for a value out of range; or when no
            kernel is left to quantize; for layers that look up or hash and inputs of text, which no file can hold.

    Example:
        >>> qat = quantize(model)
        >>> qat.fit(x, y, epochs=5, callbacks=[FreezeRanges(epoch=4)])
        >>> export_tflite(qat, "model.tflite", "int8")
    """
    check_flags(return_report=return_report)
    check_eager()
    check_bits("activation_bits", activation_bits)
    graph_of(model)
    _check_layers(model)
    check_tables(model)
    check_shared(model, "quantize")
    check_finite(model)
    examples = batch_statistics.given(model, data)
    held = any(mask_of(target.variable) is not None for target in find(model)[0])
    with batch_statistics.refreshed_for(model, examples):
        simple, rewritten = simplify(model)
    choice = Choice(model, simple)
    work = _Quantizer(simple, bits_of(weight_bits, choice), activation_bits, chooser(layers, choice), model)
    made = work.model
    if not work.kernels:
        fix = "; ".join(f"{name}: {reason}" for name, reason in list(work.left_out.items())[:6])
        raise ValueError(errors.message("At least one kernel must be quantizable.", f"{fix}.", model=model.name))
    compile_like(made, model)
    if held:
        keep_zeros(made)
    if examples is not None:
        calibrate(made, packed(model, examples.arrays))
    left_out = tuple(LeftOut(name, reason) for name, reason in work.left_out.items())
    report = QuantizationReport(tuple(work.kernels), work.num_ranges, left_out, rewritten)
    return (made, report) if return_report else made


class _Quantizer:
    """Rebuilds a simplified model, which is one graph, around its own layers, and rounds in between.

    Args:
        like: the model that the user gave, whose outputs' names and class the new one has.

    Attributes:
        grids: mapping of a new tensor's id to the layer that rounded it and the place there, for tensors on a grid; None where
            a relu behind is.
    """

    def __init__(self, model, weight_bits, activation_bits, chosen, like):
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.kernels, self.left_out, self.num_ranges = [], {}, 0
        self.grids = {}
        self._made, self._names = {}, Names(model)
        self._given = {id(layer) for layer in all_layers(like)}
        self._rounded, self._rounders, self._kept = {}, {}, []
        self.plan, self._wanted = Plan(graph_of(model), chosen, activation_bits > 8), set()
        self.model = rebuild(model, self._visit, new_input=self._input, like=like)

    def _input(self, tensor):
        new = input_like(tensor)
        if is_float(tensor) and self.plan.feeds_kernel(tensor):
            self._wanted.add(id(new))
        return new

    def _visit(self, path, node, args, kwargs):
        operation = node.operation
        inputs = tensors_in((args, kwargs))
        rule, reason = self.plan.rules[id(node)]
        if rule == rules.KERNEL:
            operation = self._wrapped(operation)
        elif rule is not None and not any(id(x) in self.grids or id(x) in self._wanted for x in inputs):
            rule, reason = None, "what it reads is float"
        if rule is None:
            if path not in self.left_out:
                self.left_out[path] = why_not(operation) or reason
            self._take_over(operation)
            return operation(*args, **kwargs)
        self._take_over(node.operation)
        entered = self._entered(node, inputs)
        args, kwargs = keras.tree.map_structure(
            lambda x: entered[id(x)] if id(x) in entered else self._on_grid(x), (args, kwargs)
        )
        if rule == rules.JOINED:
            args, kwargs = keras.tree.map_structure(lambda x: self._joining(node, x), (args, kwargs))
        output = operation(*args, **kwargs)
        if rule in rules.MOVES:
            return self._moved(rule, output, keras.tree.flatten((args, kwargs)))
        site = self.plan.sites.get(id(node.outputs[0]))
        return self._mark(output, None) if site is None else self._at_site(output, site)

    def _moved(self, rule, output, given):
        """The output of an operation that stays on the grid of its input."""
        grid = self.grids[id(tensors_in(given)[0])]
        if rule == rules.AVERAGE and grid is not None:
            rounder, place = grid
            output = rounder(output, place=place, observe=False)
        for tensor in keras.tree.flatten(output):
            self._mark(tensor, grid)
        return output

    def _on_grid(self, item):
        """The value itself when it is no tensor of real numbers or is on a grid, else rounded; once for all who read it."""
        if not is_tensor(item) or not is_float(item) or id(item) in self.grids:
            return item
        if id(item) not in self._rounded:
            rounder = self._rounder(operation_of(item).name)
            self._rounded[id(item)] = self._mark(rounder(item), (rounder, 0))
            self._kept.append(item)
        return self._rounded[id(item)]

    def _entered(self, node, inputs):
        """Mapping of an input's id to the input in the range that the operation wants all of them in."""
        if self.plan.rules[id(node)][0] != rules.JOINED:
            return {}
        made = {}
        for old, new in zip(node.input_tensors, inputs):
            site = self.plan.entries.get((id(node), id(old)))
            if site is None and id(new) not in self.grids:
                # What makes it was planned to round, and then computes in float for want of rounded inputs.
                site = self.plan.source(old)
            if site is not None:
                made[id(new)] = self._at_site(new, site)
        return made

    def _joining(self, node, item):
        """What a join reads, passed on by the layer that knows whether the join stays float."""
        site = self.plan.sites[id(node.outputs[0])]
        rounder = self._rounders.get(id(site.group))
        if rounder is None or not rounder.joins or not is_tensor(item):
            return item
        outputs = [join.output for join in self.plan.joins_of(site.group)]
        return rounder(item, join=outputs.index(site))

    def _at_site(self, output, site):
        if id(site.group) not in self._rounders:
            self._rounders[id(site.group)] = self._rounder(site.name, site.fixed_range, site.group)
        rounder, place = self._rounders[id(site.group)], site.group.index(site)
        return self._mark(rounder(output, place=place), (rounder, place))

    def _mark(self, tensor, grid):
        self.grids[id(tensor)] = grid
        self._kept.append(tensor)  # ids are only good as long as the tensor lives
        return tensor

    def _rounder(self, name, fixed_range=None, group=(None,)):
        """A new layer that rounds what the operation `name` makes, or what is made at all sites of a group."""
        self.num_ranges += fixed_range is None
        if fixed_range is not None and self.activation_bits > 8:
            fixed_range = rules.FIXED_WIDE
        unique = self._names(f"{name}_range")
        # With more bits one range is fine enough for all of them.
        joins = [join.places() for join in self.plan.joins_of(group)] if self.activation_bits <= 8 else []
        own = {"fixed_range": fixed_range, "places": len(group), "joins": joins}
        return QuantizedActivation(self.activation_bits, **own, name=unique)

    def _take_over(self, operation):
        """Lets an operation of the simplified model, which is given up, begin anew; one of the user's own stays as it is."""
        if id(operation) not in self._given:
            self._given.add(id(operation))
            forget_calls(calls_of(operation))

    def _wrapped(self, layer):
        """The layer with rounded kernels."""
        if id(layer) not in self._made:
            axes, bits = rules.channel_axes(layer, self.activation_bits), self.weight_bits(layer)
            self.kernels.append(QuantizedLayer(layer.name, type(layer).__name__, bits, axes > 0))
            name = self._names(f"quantized_{layer.name}")
            self._made[id(layer)] = QuantizedKernel(layer, bits, axes, name=name)
        return self._made[id(layer)]


def _check_layers(model):
    if is_quantized(model):
        fix = "Train it, or take `strip_quantization(model)` first."
        raise ValueError(errors.message("The model must not be quantized yet.", fix, model=model.name))
    layers = all_layers(model)
    masked = [layer.name for layer in layers if isinstance(layer, Masked)]
    if masked:
        fix = "Take `strip(model)` first: zeros are held without wrappers, see `keep_zeros`."
        raise ValueError(errors.message("The model must have no Masked wrappers.", fix, layers=masked[:5]))
    check_merged(model)
    found = [layer.name for layer in layers if quantization_of(layer)]
    if found:
        fix = "Use the model from before `model.quantize`."
        raise ValueError(errors.message("No layer may be quantized by Keras.", fix, layers=found[:5]))
