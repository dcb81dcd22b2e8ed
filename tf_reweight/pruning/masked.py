"""The wrapper layer: a mask in the forward pass, saved with the model, taken off by `strip`."""


import keras
import numpy as np
from keras import ops

from tf_reweight import errors, structures
from tf_reweight.checks import check_sparsity, check_threshold
from tf_reweight.graph import random_inputs
from tf_reweight.graph.access import all_layers, has_lora
from tf_reweight.graph.checking import check_eager, check_finite, check_model
from tf_reweight.graph.comparing import compare, tolerance_of
from tf_reweight.graph.copying import Copied, assign_like, own_weights
from tf_reweight.graph.lora import MergedLora
from tf_reweight.graph.parameters import HoldsState
from tf_reweight.graph.rebuilding import Replacements, rebuild
from tf_reweight.graph.ties import check_untied
from tf_reweight.graph.walking import graph_of, graphs_of, is_graph
from tf_reweight.graph.wrapping import KernelWrapper
from tf_reweight.kernels import allocation
from tf_reweight.kernels.table import walk


@keras.saving.register_keras_serializable(package="tf_reweight")
class Masked(HoldsState, KernelWrapper):
    """Wraps a layer so that it computes with masked kernels, whatever the optimizer does to the stored ones.

    Use it where the mask has to travel with the model or change during training; `prune` needs no wrapper and costs less.
    The forward pass computes `layer(x)` with `kernel * mask`; gradients of masked weights are zero. Masks start at one (the
    same inference before training), are weights of this layer (saved with it) and change by `update` or `set_mask`.

    Args:
        layer: a layer with kernels in the table of `kernels.table`, for example Dense or Conv2D.
        structure: name, config or `Structure` that `update` removes groups by.

    Raises:
        TypeError: for what is no layer.
        ValueError: when the layer has no kernel that can have the structure (checked when it is built).

    Example:
        >>> layer = Masked(keras.layers.Dense(8), structure="filter")
        >>> layer.build((None, 4))
        >>> layer.update(sparsity=0.5)
    """

    def __init__(self, layer: keras.layers.Layer, structure: structures.StructureLike = "unstructured", **kwargs):
        self.structure = structures.get(structure)
        super().__init__(layer, **kwargs)
        self.masks: list[keras.Variable] = []

    def build(self, input_shape=None):
        super().build(input_shape)
        self.masks = [
            self.add_weight(
                name=f"mask_{i}",
                shape=target.layout.shape,
                initializer="ones",
                trainable=False,
                autocast=False,
                dtype="float32",
            )
            for i, target in enumerate(self._targets())
        ]

    def state_variables(self):
        """The masks, which kernels have as zeros where the model is stripped."""
        return list(self.masks)

    def update(self, sparsity=None, threshold=None):
        """Chooses the masks anew from the kernels as they are now; both arguments as in `prune`."""
        if (sparsity is None) == (threshold is None):
            raise ValueError(
                errors.message(
                    "Pass exactly one of `sparsity` and `threshold`.",
                    "For example sparsity=0.5, the fraction of the weights removed.",
                    sparsity=sparsity,
                    threshold=threshold,
                )
            )
        if threshold is not None:
            check_threshold(threshold)
        else:
            check_sparsity(sparsity)
        check_finite(self)
        for target, mask in zip(self._targets(), self.masks):
            structure = self.structure.fit(target.layout)
            groups = target.groups(structure)
            keep = groups.decided()
            if keep is None:
                if sparsity is not None:
                    (keep,) = allocation.by_sparsity([groups.scores], [groups.members], sparsity)
                else:
                    (keep,) = allocation.by_threshold([groups.norms], threshold)
                keep, _ = allocation.keep_at_least(keep, groups.norms, groups.members)
            mask.assign(target.own_mask(keep, structure).astype("float32"))

    def set_mask(self, mask, index=0):
        """Sets the mask of one kernel: array of the kernel's own shape, 0 or 1."""
        mask, shape = np.asarray(mask), tuple(self.masks[index].shape)
        if mask.shape != shape:
            fix = "Pass an array of the kernel's own shape."
            raise ValueError(errors.message(f"`mask` must have the shape {shape}.", fix, shape=mask.shape))
        others = np.unique(mask[~np.isin(mask, (0, 1))])
        if len(others):
            fix = "Pass bools, or 1 for what is kept and 0 for what is removed."
            raise ValueError(errors.message("`mask` must hold only 0 and 1.", fix, values=others[:5].tolist()))
        self.masks[index].assign(mask.astype("float32"))

    def changed_kernels(self):
        """The masked kernels: mapping of the stored variable's id to its masked value."""
        return {id(target.variable): _masked(target.variable, mask) for target, mask in zip(self._targets(), self.masks)}

    def masked_variables(self):
        """The stored kernels, in the order of the masks."""
        return [target.variable for target in self._targets()]

    def _targets(self):
        """The wrapped layer's kernels that can have the structure."""
        found, _ = walk(self)
        fitting = [t for t in found if self.structure.fit(t.layout).misfit(t.standard_shape) is None]
        if not fitting:
            raise ValueError(
                errors.message(
                    f"The wrapped layer must have a kernel that can have the structure {self.structure.name!r}.",
                    "Wrap a Dense or convolution.",
                    layer=self.layer.name,
                )
            )
        return fitting

    def get_config(self):
        return {**super().get_config(), "structure": self.structure.serialize()}


def _masked(variable, mask):
    # Not a product: that makes negative zeros, which are nonzero bytes in a file.
    return ops.where(ops.cast(mask.value, "bool"), variable.value, ops.zeros((), dtype=variable.dtype))


def strip(model: keras.Model) -> keras.Model:
    """A plain Keras model without wrappers, penalties, masks and LoRA, and with the same outputs.

    Masked kernels are written with their zeros into the plain layers, and what LoRA adds to a kernel becomes part of it.
    Wrapper-free models come back as a copy. The outputs of both are compared on two random examples; where that cannot be, a
    warning says so.

    Args:
        model: a built Sequential or functional model.

    Returns:
        A new `keras.Model`; the given one is unchanged.

    Raises:
        TypeError, ValueError: for what is no built Sequential or functional model, layers that have a weight in common (a layer
            inside `TimeDistributed` and outside stays one), or outputs that differ.
    """
    check_eager()
    check_model(model)
    if not is_graph(model):
        raise ValueError(
            errors.message(
                "`strip` rebuilds Sequential and functional models.",
                "For a subclassed model call `detach` and `release`, and take its Masked layers out by hand.",
                model=type(model).__name__,
            )
        )
    check_untied(model, "strip")
    inner = {layer.layer.name for layer in all_layers(model) if isinstance(layer, Masked)}
    _check_mergeable(model)

    def plain(path, operation):
        if isinstance(operation, Masked):
            return _Unmasked(operation)
        if has_lora(operation):
            return MergedLora(operation)
        # An Identity kept the name of an output, which the layer inside the wrapper has again now.
        return _unchanged if isinstance(operation, keras.layers.Identity) and operation.name in inner else None

    made = rebuild(model, Replacements(plain))
    _check_same(model, made)
    return made


def _check_mergeable(model):
    """Raises for LoRA inside a layer that is no model: only what the graph itself calls is made anew."""
    called = {id(operation) for graph in graphs_of(model) for operation in graph.operations}
    inside = [layer.name for layer in all_layers(model) if has_lora(layer) and id(layer) not in called]
    if inside:
        expected = "LoRA of layers inside wrappers, attention and layers of your own cannot be merged."
        fix = "Add `lora_kernel_a @ lora_kernel_b` to their kernels in a model without LoRA."
        raise ValueError(errors.message(expected, fix, layers=inside[:5]))


def _check_same(model, made):
    """Raises unless both models give the same outputs; warns where it takes no random inputs or its outputs tell nothing."""
    try:
        inputs = random_inputs.inputs(model, keras.tree.flatten(graph_of(model).inputs))
        result, limit = compare(model, made, inputs), tolerance_of(model)
        # A model that is random, or gives infinities, is not equal to itself either.
        telling = result.relative <= limit or compare(model, model, inputs).relative <= limit
        reason = "" if telling else "its outputs are random or not finite on random inputs"
    except Exception as error:  # of any backend, in a layer of anyone's: not every model takes random numbers
        reason = str(error).splitlines()[0] if str(error) else repr(error)
    if reason:
        errors.warn(f"The stripped model was not compared with the given one: {reason}")
    elif result.relative > limit:
        fix = "Please report the model; `keep_zeros` and `prune` need no wrappers."
        expected = f"The stripped model must give the same outputs, within {limit:g} of their scale."
        raise ValueError(errors.message(expected, fix, difference=result.difference, scale=result.scale))


def _unchanged(tensor):
    return tensor


class _Unmasked(Copied):
    """The layer inside a wrapper, with the kernels it computes with."""

    def __init__(self, wrapper):
        super().__init__(wrapper.layer)
        self.wrapper = wrapper

    def fill(self):
        super().fill()
        masked = self.wrapper.changed_kernels()
        for variable, old in zip(self.copy.weights, own_weights(self.operation)):
            assign_like(variable, old, masked.get(id(old), old.value))
