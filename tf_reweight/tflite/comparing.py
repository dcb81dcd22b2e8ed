"""Comparing the outputs of a file with those of a model."""

import numpy as np


class VerificationError(RuntimeError):
    """A file was made that does not compute what its model does; it was not kept."""


def compare(expected, given):
    """`(max_abs_error, relative_error)` over all outputs; infinite where shapes differ or a number is not finite."""
    squares = scale = largest = 0.0
    count = 0
    for first, second in zip(floats(expected), floats(given)):
        if first.shape != second.shape or not np.isfinite(second).all():
            return float("inf"), float("inf")
        error = first - second
        largest = max(largest, float(np.abs(error).max(initial=0.0)))
        squares, scale, count = squares + float((error**2).sum()), scale + float((first**2).sum()), count + error.size
    if not np.isfinite(scale) or not count:
        return float("inf"), float("inf")
    return largest, float(np.sqrt(squares / scale)) if scale > 0 else float(np.sqrt(squares / count))


def floats(arrays):
    return [np.asarray(array, "float64") for array in arrays]
