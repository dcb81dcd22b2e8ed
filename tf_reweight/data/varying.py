"""Whether examples tell one thing from another: ranges that are measured on some that do not vary are those of no other."""

import numpy as np

# Integers of 8 bits have so many steps: what varies by less than one of them is a constant in a file.
_STEPS = 256
# So many examples are enough to see whether outputs vary.
MOST = 64
# So many values of each tell it: a whole picture for each example would fill the memory.
_VALUES = 4096
# An output that varies by less than this part of its scale has an offset, which its scale is mostly of; by less than the other
# part of it, it is a constant with the rounding of float32.
_OFFSET, _ROUNDING = 0.5, 1e-5
# Largest error that is no doubt, and least variation, as parts of what the model's output varies by.
_HALF, _STILL = 0.5, 0.1
# So many values tell it.
_MOST_VALUES = 2**24
_HELP = "Pass a hundred real ones, as the model gets them in use."


def are_alike(arrays):
    """Whether all examples, a list of arrays `(num, ...)`, are one and the same; one alone is."""
    return all((array == array[:1]).all() for array in arrays)


def some(arrays):
    """At most `MOST` of the examples, from all over them."""
    places = np.unique(np.linspace(0, len(arrays[0]) - 1, MOST).round().astype(int))
    return [array[places] for array in arrays]


def few(output, most):
    """At most so many examples of an output `(num, ...)`, as `(num, values)` with at most `_VALUES` from all over each."""
    flat = np.reshape(output, (len(output), -1))[:most]
    return flat[:, :: max(1, flat.shape[1] // _VALUES)]


def of_examples(name, arrays):
    """A sentence where all examples in the argument `name` are one and the same; else None."""
    if not are_alike(arrays):
        return None
    zero = ", and zero" if all(array.dtype.kind in "biuf" and not array.any() for array in arrays) else ""
    return f"All examples in {name} are one and the same{zero}: ranges of activations are those of no other. {_HELP}"


def of_outputs(name, outputs):
    """A sentence where the outputs, arrays `(num, ...)`, hardly differ from one example to the next; else None."""
    shares = [_share(output) for output in outputs if output.dtype.kind == "f" and len(output) > 1]
    if not shares or max(shares) * _STEPS >= 1:
        return None
    return (
        f"The outputs differ from one example in {name} to the next by {max(shares):.1g} of their scale, less than one of the "
        f"{_STEPS} steps of 8 bits: the examples may be zero, tiny or scaled otherwise than those in use. {_HELP}"
    )


def behind_offsets(names, expected, given, by_channel):
    """Sentences about outputs of a file whose error is small beside their offset, and large beside what they vary by.

    Args:
        names: of the outputs.
        expected, given: of the model and of the file, lists of arrays `(num, ...)`.
        by_channel: for each output whether each channel of its last axis has a meaning of its own.

    Returns:
        A tuple, empty where all is well.
    """
    found = (_behind_offset(*item) for item in zip(names, expected, given, by_channel))
    return tuple(said for said in found if said is not None)


def _behind_offset(name, expected, given, by_channel):
    if expected.dtype.kind != "f" or expected.shape != given.shape or not expected.size:
        return None
    axes = tuple(range(expected.ndim - 1)) if by_channel and expected.ndim > 1 else None
    step = -(-expected.size // _MOST_VALUES)
    expected, given = expected[::step].astype("float64"), given[::step]
    if len(expected) < 2 or not np.isfinite(expected).all() or not np.isfinite(given).all():
        return None
    scale, varied, error = (
        np.atleast_1d(np.sqrt(np.mean(np.square(array), axis=axes)))
        for array in (expected, expected - expected.mean(axis=0), given - expected)
    )
    offset = (varied < _OFFSET * scale) & (varied > _ROUNDING * scale.max())
    wrong = np.where(offset & (error > _HALF * varied), error / np.where(varied > 0, varied, 1.0), 0.0)
    worst = int(np.argmax(wrong))
    if not wrong[worst] > 0:
        return None
    where = f", channel {worst} of the last axis" if len(wrong) > 1 else ""
    said = "answers almost the same to every example, and is off" if _is_still(given, axes, varied, worst) else "is off"
    return (
        f"The file's output {name}{where} {said} by {wrong[worst]:.0%} of what the model's varies by from one example to the "
        f"next, which is {varied[worst] / scale[worst]:.1g} of its scale: a relative error hides that behind the offset. Let "
        "the model give what is left without the mean of its targets, and add that in the app."
    )


def _is_still(given, axes, varied, worst):
    """Whether the file's outputs hardly vary where the model's do."""
    own = np.atleast_1d(np.sqrt(np.mean(np.square(given - given.mean(axis=0, dtype="float64")), axis=axes)))
    return own[worst] < _STILL * varied[worst]


def _share(output):
    """How much an output varies over its examples, as a part of its root mean square; 0.0 where it is zero."""
    output = output.astype("float64")
    scale = np.sqrt(np.mean(np.square(output)))
    return float(np.sqrt(np.mean(np.square(output - output.mean(axis=0)))) / scale) if scale > 0 else 0.0
