"""The numbers an integer file can store: rounding to them in the forward pass, straight through in the gradient."""

import math

import keras
from keras import ops

from tf_reweight.checks import check_integer

# Channels whose largest weight is smaller than this fraction of the kernel's share this range instead: their own would make
# the bias, which is stored in units of input step times weight step, too large for 32 bits. Pruned filters are the case.
_SMALLEST_CHANNEL = 1e-3
# A hair, so that rounding of the range never clips the largest weight, whose gradient would then be zero for ever.
_MARGIN = 1e-6
# The range of a tensor that is all zero is as good as any; it must only not be empty.
_EMPTY = 1e-6


def check_bits(name, value):
    """Raises unless `value` is an int in 2..16."""
    check_integer(name, value, 2, 16, fix="8 is what phones compute in.")


def round_kernel(kernel, bits, num_channel_axes=0, stored_bits=None):
    """A kernel rounded to `2^bits - 1` values, symmetric around an exact zero.

    The values are `k * step`, `k` an integer in `-(2^(bits-1) - 1) .. 2^(bits-1) - 1`, `step = max|kernel| / (2^(bits-1) - 1)`,
    one per channel or one for all. Zeros stay exactly zero. The gradient is that of the identity.

    Args:
        kernel: float tensor.
        bits: 2..16.
        num_channel_axes: how many of the last axes tell channels apart: 0 gives one step for all, 1 fits a convolution
            `(..., in, out)`, 2 a depthwise kernel `(..., in, multiplier)`.
        stored_bits: how wide the numbers `k` are in a file, `bits` or more: the values are the same, in a wider range; default
            `bits`.

    Returns:
        A tensor of the kernel's shape and dtype.

    Example:
        >>> round_kernel(layer.kernel, 8, num_channel_axes=1)
    """
    values, limit = _values_and_limit(kernel, num_channel_axes)
    axis = len(values.shape) - 1 if num_channel_axes else None
    if stored_bits not in (None, bits):
        # Not two roundings one behind the other, of which the converter would take the first for that of the file.
        step = limit / _largest(bits)
        nearest = ops.floor(values / step + 0.5) * step
        values, limit, bits = values + ops.stop_gradient(nearest - values), step * _largest(stored_bits), stored_bits
    rounded = keras.quantizers.fake_quant_with_min_max_vars(values, -limit, limit, bits, narrow_range=True, axis=axis)
    return ops.cast(ops.reshape(rounded, tuple(kernel.shape)), kernel.dtype)


def distances(kernel, bits, num_channel_axes=0):
    """How far each weight is from the value `round_kernel` gives it, in steps: float32 `(1, num weights)` in 0 .. 0.5.

    The gradient is that towards the value, which counts as a constant.
    """
    values, limit = _values_and_limit(kernel, num_channel_axes)
    nearest = ops.stop_gradient(ops.reshape(ops.cast(round_kernel(kernel, bits, num_channel_axes), "float32"), values.shape))
    return ops.reshape(ops.abs(values - nearest) * _largest(bits) / limit, (1, -1))


def _largest(bits):
    """The largest whole number of so many bits, as a float."""
    return 2.0 ** (bits - 1) - 1


def _values_and_limit(kernel, num_channel_axes):
    """The kernel in float32 with one axis of channels at the end, and the end of the range: per channel, or one for all."""
    shape = tuple(kernel.shape)
    split = len(shape) - num_channel_axes
    # Reshaping also reads TensorFlow's variables, which are no tensors.
    values = ops.reshape(kernel, (*shape[:split], math.prod(shape[split:])) if num_channel_axes else shape)
    values = ops.cast(values, "float32")
    sizes = ops.abs(ops.stop_gradient(values))
    largest = ops.max(sizes)
    if num_channel_axes:
        largest = ops.maximum(ops.max(sizes, axis=tuple(range(split))), _SMALLEST_CHANNEL * largest)
    return values, ops.maximum(largest * (1 + _MARGIN), _EMPTY)


def round_activation(inputs, minimum, maximum, bits):
    """A tensor rounded to `2^bits` values between `minimum <= 0` and `maximum >= 0`, of which zero is exactly one.

    Values outside are clipped; there the gradient is zero, inside it is that of the identity. With more than 8 bits the range
    is symmetric, as integer files have it: `-maximum * 2^(bits-1) / (2^(bits-1) - 1) .. maximum` of the wider side.
    """
    if bits > 8:
        half = 2.0 ** (bits - 1)
        maximum = ops.maximum(maximum, -ops.convert_to_tensor(minimum, "float32") * (half - 1) / half)
        minimum = -maximum * half / (half - 1)
    rounded = keras.quantizers.fake_quant_with_min_max_vars(ops.cast(inputs, "float32"), minimum, maximum, bits)
    return ops.cast(rounded, inputs.dtype)
