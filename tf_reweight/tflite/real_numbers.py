"""What the stored numbers of a tensor mean, and how real numbers are stored."""

import numpy as np


def steps(tensor):
    """`(scales, zero points)` of a quantized tensor, arrays of one entry, or one per channel; None for any other."""
    known = tensor.quantization
    if known is None or known.scale is None or not len(known.scale):
        return None
    scales = np.asarray(known.scale, "float64")
    zeros = np.zeros(len(scales)) if known.zeroPoint is None else np.asarray(known.zeroPoint, "float64")
    return scales, zeros


def real(tensor, stored):
    """The real numbers `stored` stand for, float64; what is not quantized is what it is.

    Args:
        tensor: a `TensorT`.
        stored: array in its shape.
    """
    found = steps(tensor)
    if found is None or stored.dtype.kind not in "iu":
        return stored.astype("float64") if stored.dtype.kind == "f" else stored
    shape = [1] * stored.ndim
    if len(found[0]) > 1:
        shape[tensor.quantization.quantizedDimension] = -1
    scales, zeros = (part.reshape(shape if len(part) > 1 else ()) for part in found)
    return (stored.astype("float64") - zeros) * scales


def rounded(tensor, numbers, dtype):
    """Real numbers as a tensor of one scale stores them.

    Args:
        tensor: a `TensorT`.
        numbers: array of real numbers.
        dtype: NumPy dtype of what is stored.
    """
    found, dtype = steps(tensor), np.dtype(dtype)
    if found is None or dtype.kind not in "iu":
        return np.asarray(numbers).astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(numbers / found[0][0]) + found[1][0], limits.min, limits.max).astype(dtype)


def outside(tensor, numbers, dtype):
    """Share of real numbers that lie more than half a step outside of what a tensor can store; 0 where it is not quantized."""
    found, dtype = steps(tensor), np.dtype(dtype)
    if found is None or dtype.kind not in "iu":
        return 0.0
    limits, wanted = np.iinfo(dtype), numbers / found[0][0] + found[1][0]
    return float(np.mean((wanted < limits.min - 0.5) | (wanted > limits.max + 0.5)))
