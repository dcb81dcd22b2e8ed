"""Quantization levels reached by the reweighted penalty: it pulls each weight to the nearest value a file can store."""

import keras
from keras import ops

from tf_reweight import errors, structures
from tf_reweight.checks import check_flags
from tf_reweight.graph.distribution import beside
from tf_reweight.kernels.selection import frozen_among, select
from tf_reweight.kernels.table import LeftOut
from tf_reweight.penalties import attachment
from tf_reweight.penalties.renewed import RenewedOnKernel
from tf_reweight.quantization import rules
from tf_reweight.quantization.grid import check_bits, distances, round_kernel


@keras.saving.register_keras_serializable(package="tf_reweight")
class ToLevels(RenewedOnKernel):
    """Penalises each weight by its distance to the nearest of `2^bits - 1` levels, with a weight that follows the distance.

    Adds `strength * sum_i P_i * d_i`, `d_i` in steps of the grid (0 to 0.5), with `P_i = penalty.weight(d_i)` renewed by
    `callbacks.Reweighting`: weights near a level are pressed onto it, those half-way are left to decide. Zero is a level.

    Args:
        bits: 2..16.
        num_channel_axes: see `grid.round_kernel`.
        strength, penalty, price, layout: as of `penalties.reweighted.Reweighted`.

    Example:
        >>> layer = keras.layers.Conv2D(8, 3, kernel_regularizer=ToLevels(4, num_channel_axes=1))
    """

    def __init__(self, bits=4, num_channel_axes=0, strength=1e-5, penalty=None, price=1.0, layout=None):
        check_bits("bits", bits)
        penalty = {"name": "log_sum", "epsilon": 0.1} if penalty is None else penalty
        super().__init__(structures.get("unstructured"), strength, penalty, price, layout)
        self.bits, self.num_channel_axes = int(bits), num_channel_axes

    no_proximal_step = "this penalty pulls weights to levels, and a soft threshold pulls them to zero"

    @property
    def negligible(self):
        """No weight is pruned for being near a level."""
        return 0.0

    def bind(self, layout):
        """A fresh copy for a kernel of this `Layout`, with all penalty weights at their price."""
        return ToLevels(**{**self.get_config(), "layout": layout.get_config()})

    def norms(self, kernel):
        """Distances `(1, num weights)`, float32, of the kernel in the layer's own order."""
        return distances(kernel, self.bits, self.num_channel_axes)

    def get_config(self):
        return {"bits": self.bits, "num_channel_axes": self.num_channel_axes, **super().get_config()}


def regularize_levels(model, bits=4, strength=1e-5, penalty=None, *, layers=None, include_frozen=False):
    """Puts the penalty towards quantization levels on a model's kernels, in place.

    The grid is that of `quantize` with so many weight bits. It moves with the largest weights and, since it is per channel
    where BatchNormalization may follow, is the same before and after folding. Train with `callbacks.Reweighting`, then `snap`.

    Args:
        model: a built Keras model.
        bits: 2..16.
        strength: the coefficient; about the price of one weight half-way between levels.
        penalty: name, config or `Penalty` of the distance in steps; default log_sum with epsilon 0.1.
        layers: which layers; see `kernels.selectors`.
        include_frozen: whether kernels of layers with `trainable=False` carry the penalty too, for `snap` to move: Keras does
            not train them with it. By default they are left out, and a warning names them.

    Returns:
        `attachment.Attached`.

    Raises:
        ValueError: for bits or a strength out of range, or when no kernel can have it or only frozen ones can.
        TypeError: when `include_frozen` is not a bool.

    Example:
        >>> regularize_levels(model, bits=4, strength=1e-4)
        >>> model.fit(x, y, epochs=20, callbacks=[Reweighting(every=5)])
        >>> snap(model)
    """
    check_flags(include_frozen=include_frozen)
    selected, left_out = select(model, "unstructured", layers)
    without = [item.target for item in selected if not rules.has_kernel(item.target.layer)]
    left_out += [LeftOut(target.name, f"{type(target.layer).__name__} has no rule for integers") for target in without]
    fitting = [item for item in selected if rules.has_kernel(item.target.layer)]
    frozen = frozen_among([item.target for item in fitting], include_frozen, "regularize")
    names, added = {item.name for item in frozen}, []
    for item in fitting:
        if item.target.name in names:
            continue
        layer = item.target.layer
        with beside(item.target.variable):
            regularizer = ToLevels(bits, rules.channel_axes(layer), strength, penalty).bind(item.target.layout)
        added.append(attachment.Attachment(item.target, regularizer))
    if not added:
        fix = "Choose other layers."
        raise ValueError(errors.message("At least one kernel must be quantizable.", fix, model=model.name))
    attachment.add_all(model, [(item.target, item.regularizer) for item in added])
    return attachment.Attached(tuple(added), tuple(left_out + frozen))


def snap(model, *, include_frozen=False):
    """Moves all weights under the penalty to their levels and takes the penalty off, in place; zeros stay zeros.

    Args:
        model: a Keras model after `regularize_levels`.
        include_frozen: whether kernels of layers that have `trainable=False` by now are moved too. By default they stay as
            they are, and a warning names them.

    Returns:
        dict from kernel names to the mean distance the weights were moved, in steps.

    Raises:
        ValueError: when no kernel has the penalty, or only frozen ones have.
        TypeError: when `include_frozen` is not a bool.
    """
    check_flags(include_frozen=include_frozen)
    found = [item for item in attachment.attachments(model) if isinstance(item.regularizer, ToLevels)]
    if not found:
        fix = "Call `tf_reweight.quantization.regularize_levels(model)` and train first."
        raise ValueError(errors.message("The model must have the penalty towards levels.", fix, model=model.name))
    frozen = {item.name for item in frozen_among([item.target for item in found], include_frozen, "snap")}
    moved = {}
    for item in found:
        if item.target.name in frozen:
            continue
        variable, penalty = item.target.variable, item.regularizer
        moved[item.target.name] = float(ops.convert_to_numpy(ops.mean(penalty.norms(variable.value))))
        variable.assign(round_kernel(variable.value, penalty.bits, penalty.num_channel_axes))
    attachment.detach(model)
    return moved
