"""In which range images go into a model: as they are stored, or stretched to an interval."""

import math

from tf_reweight import errors
from tf_reweight.checks import is_sequence
from tf_reweight.graph import pixels

AUTO, RAW = "auto", "raw"
UNIT = (0.0, 1.0)
# The largest value of 8-bit images, which models are made for also where the data have 16 bits.
_EIGHT_BITS = 255.0


def check(value_range, automatic=True):
    """`"auto"`, `"raw"` or `(low, high)` of floats; raises for anything else."""
    words = (AUTO, RAW) if automatic else (RAW,)
    if isinstance(value_range, str) and value_range in words:
        return value_range
    is_pair = is_sequence(value_range) and len(value_range) == 2
    if is_pair and all(isinstance(end, (int, float)) and math.isfinite(end) for end in value_range):
        low, high = map(float, value_range)
        if low < high:
            return low, high
    raise ValueError(
        errors.message(
            f"`value_range` must be one of {', '.join(map(repr, words))}, or [low, high] with low < high.",
            '"raw" leaves pixels as they are stored (0 to 255); [0, 1] and [-1, 1] stretch them.',
            value_range=value_range,
        )
    )


def made_for(model, white, shape=None):
    """The range of images that a model was made for.

    Args:
        model: a built Keras model.
        white: the largest raw value of the images.
        shape: of one image; see `graph.pixels.input_scale`.

    Returns:
        `"raw"` or `(0.0, high)`: `(0.0, 1.0)` where the model does not rescale what it reads.
    """
    if pixels.takes_integers(model):
        return RAW
    scale = pixels.input_scale(model, shape)
    if scale is None:
        return UNIT
    # Half a range is the typical centre or spread for it.
    high = min((1.0, min(_EIGHT_BITS, white), white), key=lambda top: abs(math.log(2 * scale / top)))
    return RAW if high == white else (0.0, high)


def normalization(value_range, white):
    """`(subtracted, divided_by)`: a value `x` of the range is `(raw - subtracted) / divided_by`."""
    if value_range == RAW:
        return 0.0, 1.0
    low, high = value_range
    divided_by = white / (high - low)
    return -low * divided_by, divided_by
