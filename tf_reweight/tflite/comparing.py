"""Comparing the outputs of a file with those of a model."""

import dataclasses

import numpy as np

# A tensor of 8 bits has 256 steps, of which a channel this much smaller than the largest has less than ten.
_UNLIKE_SCALES = 30.0
# Channels below this part of the largest are rounding noise around zero, and have no scale of their own.
_NOISE = 1e-6


class VerificationError(RuntimeError):
    """A file was made that does not compute what its model does; it was not kept."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one output of a file, or one channel of it, is from what was expected.

    Attributes:
        output: position of the output.
        max_abs_error: largest difference.
        relative_error: root mean square of the differences over that of what was expected; infinite where shapes differ or a
            number is not finite.
        channel: position on the last axis of the channel that `relative_error` is of; None where it is of the whole output.
    """

    output: int
    max_abs_error: float
    relative_error: float
    channel: int | None = None


def differences(expected, given, channels=False):
    """One `Difference` per output, never pooled: a large output would hide what is wrong with a small one.

    Args:
        expected: list of arrays `(num, ...)`.
        given: list of arrays of the same shapes.
        channels: whether each channel of an output whose channels differ in scale, such as boxes in pixels beside scores, must
            agree on its own; the worst counts then. Probabilities have one unit, and are compared as a whole.
    """
    return [
        _difference(number, first, second, channels)
        for number, (first, second) in enumerate(zip(floats(expected), floats(given), strict=True))
    ]


def compare(expected, given):
    """`(max_abs_error, relative_error)` of the worst output; infinite where shapes differ or a number is not finite."""
    found = differences(expected, given)
    if not found:
        return float("inf"), float("inf")
    return max(item.max_abs_error for item in found), max(item.relative_error for item in found)


def unlike_channels(array):
    """Root mean squares `(channels,)` of an output whose channels differ in scale; None where they are alike.

    Args:
        array: `(num, ..., channels)`.
    """
    if array.ndim < 2 or array.shape[-1] < 2 or not array.size:
        return None
    if 0.0 <= array.min() and array.max() <= 1.0:
        return None
    scales = np.sqrt(np.mean(np.square(array.reshape(-1, array.shape[-1])), axis=0))
    alive = scales[scales > _NOISE * scales.max()]
    return scales if len(alive) > 1 and alive.max() >= _UNLIKE_SCALES * alive.min() else None


def floats(arrays):
    return [np.asarray(array, "float64") for array in arrays]


def _difference(number, first, second, channels):
    if first.shape != second.shape or not first.size or not np.isfinite(first).all() or not np.isfinite(second).all():
        return Difference(number, float("inf"), float("inf"))
    error = first - second
    largest, whole = float(np.abs(error).max()), _relative(error, first)
    scales = unlike_channels(first) if channels else None
    if scales is None:
        return Difference(number, largest, whole)
    own = [_relative(error[..., i], first[..., i]) if scales[i] > _NOISE * scales.max() else 0.0 for i in range(len(scales))]
    worst = int(np.argmax(own))
    return Difference(number, largest, own[worst], worst) if own[worst] > whole else Difference(number, largest, whole)


def _relative(error, expected):
    size, scale = np.sqrt(np.mean(np.square(error))), np.sqrt(np.mean(np.square(expected)))
    return float(size / scale) if scale > 0 else float(size)
