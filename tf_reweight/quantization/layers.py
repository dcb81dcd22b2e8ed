"""The two layers of a quantized model: one rounds what flows through it, the other the kernels of the layer it wraps."""

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import check_fraction
from tf_reweight.graph.copying import Copied, assign_like
from tf_reweight.graph.distribution import of_all_replicas
from tf_reweight.graph.emulation import Emulation
from tf_reweight.graph.parameters import HoldsState
from tf_reweight.graph.wrapping import KernelWrapper
from tf_reweight.kernels.table import walk
from tf_reweight.quantization import rules
from tf_reweight.quantization.grid import check_bits, round_activation, round_kernel
from tf_reweight.quantization.links import Links

# A tensor that was never seen outside so narrow a range is all zero, and has a range of width 1: in the scale of its own range
# a bias behind it would not fit into the 32 bits that a file has for it.
_SMALLEST_RANGE = 1e-6


@keras.saving.register_keras_serializable(package="tf_reweight")
class QuantizedActivation(Emulation, HoldsState, keras.layers.Layer):
    """Rounds its input to the `2^bits` values an integer tensor can have, in a range learned from data.

    In training the range grows at once to hold what it meets, and gives way slowly where nothing is as large any more: what it
    holds does not depend on the size of the batches, and values of early steps do not stay for ever. A mean over batches would
    cut off the largest values of most examples, and the more the smaller the batches. While it is calibrated it grows alone.
    Outside training, and once the range is frozen, it stays. Before anything was observed, inference passes its input on
    unchanged. Zero is always in the range, and exact.

    Called on several tensors, it rounds all of them on one grid, as wide as the widest of the `places` needs.

    Args:
        bits: 2..16.
        momentum: part of the range that stays at a step whose values do not fill it, in [0, 1).
        fixed_range: `(minimum, maximum)`, for tensors whose range is known, such as probabilities; nothing is learned then.
        places: number of tensors whose ranges are learned and joined; a call says by `place` in `0..places - 1` which one it
            is, and by `observe=False` that it only uses the range. A call with `join`, a position in `joins`, passes on what
            that join reads.
        joins: why they are joined: `[inputs, output, compared, limit]` for each operation that wants its inputs and its output
            in one range, all by place. Where the widest is `limit` times as wide as one of those compared or more, the
            operation stays float: its inputs keep ranges of their own, and its output is not rounded. One that compares
            nothing shares no range with its inputs, and stays float where one of them is of a join that does. Without any
            joins, all places share one range.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> QuantizedActivation(8)(keras.layers.ReLU()(x))
    """

    def __init__(self, bits=8, momentum=0.999, fixed_range=None, places=1, joins=(), **kwargs):
        super().__init__(**kwargs)
        check_bits("bits", bits)
        check_fraction("momentum", momentum, "range before that stays, for example 0.999")
        if fixed_range is not None and (len(fixed_range) != 2 or not fixed_range[0] <= 0 <= fixed_range[1] != fixed_range[0]):
            fix = "For example (0.0, 6.0); zero must be in it."
            raise ValueError(errors.message("`fixed_range` must be (minimum, maximum).", fix, fixed_range=fixed_range))
        self.bits, self.momentum, self.places = int(bits), float(momentum), places
        self.fixed_range = None if fixed_range is None else tuple(map(float, fixed_range))
        self.joins = [list(item) for item in joins]
        self._links = Links(self.joins, self.places) if self.joins else None
        self.supports_masking = True
        self.calibrating = False
        self.exporting_float = ()

    def build(self, input_shape=None):
        if self.fixed_range is None:
            made = {"initializer": "zeros", "trainable": False, "autocast": False, "dtype": "float32"}
            for name in ("minimum", "maximum", "observed"):
                setattr(self, name, self.add_weight(name=name, shape=(self.places,), **made))
            self.frozen = self.add_weight(name="frozen", shape=(), **made)

    def state_variables(self):
        return [] if self.fixed_range is not None else [self.minimum, self.maximum, self.observed, self.frozen]

    def call(self, inputs, training=None, place=0, observe=True, join=None):
        if self.passing:
            return inputs
        if join is not None:
            return self._entering(inputs, join)
        if self.fixed_range is not None:
            return inputs if self.calibrating else round_activation(inputs, *self.fixed_range, self.bits)
        # Models that were saved before places had joins say None where nothing is to be observed.
        if observe and place is not None and (training or self.calibrating):
            self._observe(inputs, place)
        if self.calibrating:
            return inputs
        minimum, maximum, is_float = self._range(place or 0)
        maximum = ops.where(maximum - minimum > _SMALLEST_RANGE, maximum, minimum + 1.0)
        rounded = round_activation(inputs, minimum, maximum, self.bits)
        return ops.where(ops.logical_and(ops.max(self.observed) > 0, ops.logical_not(is_float)), rounded, inputs)

    def _range(self, place):
        """`(minimum, maximum, whether it is not rounded at all)` of one place, scalars."""
        if self._links is None:
            return ops.min(self.minimum), ops.max(self.maximum), False
        together, is_float = self._links(self.minimum, self.maximum)
        # Zero is in every range, so that places apart may count as zero.
        return ops.min(together[place] * self.minimum), ops.max(together[place] * self.maximum), is_float[place]

    def _entering(self, inputs, join):
        """What a join reads, unchanged: with its first entry in reverse order, in the file of a join that stays float.

        The converter would give the join the range of one input, unless it reads from an operation that has no integers. See
        `export.joins`, which takes these operations away again.
        """
        if join not in self.exporting_float:
            return inputs
        import tensorflow as tf

        sequences = inputs if len(inputs.shape) > 1 else inputs[:, None]
        marked = tf.reverse_sequence(sequences, np.ones(1, "int32"), seq_axis=1, batch_axis=0)
        return marked if len(inputs.shape) > 1 else marked[:, 0]

    def float_joins(self):
        """Positions of the joins that stay float, with the ranges that are learned now."""
        if self._links is None:
            return ()
        minimum, maximum = (ops.convert_to_numpy(value) for value in (self.minimum, self.maximum))
        return tuple(np.flatnonzero(self._links.apart(minimum, maximum)).tolist())

    def _observe(self, inputs, place):
        values = ops.cast(ops.stop_gradient(inputs), "float32")
        here = ops.one_hot(place, self.places, dtype="float32")
        narrowing = 0.0 if self.calibrating else 1.0 - self.momentum
        # Of the whole batch, of which each replica has a part.
        minimum, maximum = ops.unstack(of_all_replicas(ops.stack([ops.min(values), ops.max(values)])), axis=1)
        low, high = ops.minimum(ops.min(minimum), 0.0), ops.maximum(ops.max(maximum), 0.0)
        # A batch that is not finite says nothing, and would stay in the range for ever: its optimizer's step may be skipped.
        is_known = ops.logical_and(ops.isfinite(low), ops.isfinite(high))
        moves = ops.logical_and(here > 0, ops.logical_and(ops.equal(self.frozen, 0.0), is_known))
        smallest, largest = ops.convert_to_tensor(self.minimum), ops.convert_to_tensor(self.maximum)
        wider = ops.minimum(low, smallest + narrowing * (low - smallest))
        self.minimum.assign(ops.where(moves, wider, smallest))
        wider = ops.maximum(high, largest + narrowing * (high - largest))
        self.maximum.assign(ops.where(moves, wider, largest))
        self.observed.assign(self.observed + ops.cast(moves, "float32"))

    def as_float(self):
        """What stands for it in the float model: its input."""
        return unchanged

    def as_stored(self):
        identity = keras.layers.Identity(name=self.name)
        return lambda inputs, **_: identity(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {name: getattr(self, name) for name in ("bits", "momentum", "fixed_range", "places", "joins")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tf_reweight")
class QuantizedKernel(Emulation, KernelWrapper):
    """Computes a layer with its kernels rounded to the values an integer file can store.

    The stored kernels stay as they are and are what the optimizer moves. Zeros are exactly zero after rounding.

    Args:
        layer: a layer with kernels in the table of `kernels.table`, for example Dense or Conv2D.
        bits: 2..16.
        num_channel_axes: see `grid.round_kernel`; 0 rounds with one step for the whole kernel.

    Raises:
        TypeError: for what is no layer.

    Example:
        >>> QuantizedKernel(keras.layers.Conv2D(8, 3), num_channel_axes=1)
    """

    def __init__(self, layer, bits=8, num_channel_axes=0, **kwargs):
        check_bits("bits", bits)
        super().__init__(layer, **kwargs)
        self.bits, self.num_channel_axes = int(bits), num_channel_axes

    def changed_kernels(self):
        """The rounded kernels: mapping of the stored variable's id to its rounded value."""
        found, stored = [] if self.passing else walk(self)[0], rules.stored_bits(self.layer, self.bits)
        return {id(t.variable): round_kernel(t.variable.value, self.bits, self.num_channel_axes, stored) for t in found}

    def as_float(self):
        """What stands for it in the float model: the layer that it wraps."""
        return Copied(self.layer)

    def as_stored(self):
        return _Rounded(self)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits, "num_channel_axes": self.num_channel_axes}


class _Rounded(Copied):
    """The layer inside a wrapper, under the wrapper's name and with its kernels as they are rounded."""

    def __init__(self, wrapper):
        super().__init__(wrapper.layer, name=wrapper.name)
        self.wrapper = wrapper

    def fill(self):
        super().fill()
        values = self.wrapper.changed_kernels()
        for variable, old in zip(self.copy.weights, self.operation.weights):
            assign_like(variable, old, values.get(id(old), old.value))


def unchanged(inputs, *args, **kwargs):
    """Stands for a layer that is left out."""
    return inputs
