"""Whether examples tell one thing from another: ranges that are measured on some that do not vary are those of no other."""

import numpy as np

# Integers of 8 bits have so many steps: what varies by less than one of them is a constant in a file.
_STEPS = 256
# So many examples are enough to see whether outputs vary.
MOST = 64
# So many values of each tell it: a whole picture for each example would fill the memory.
_VALUES = 4096
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


def _share(output):
    """How much an output varies over its examples, as a part of its root mean square; 0.0 where it is zero."""
    output = output.astype("float64")
    scale = np.sqrt(np.mean(np.square(output)))
    return float(np.sqrt(np.mean(np.square(output - output.mean(axis=0)))) / scale) if scale > 0 else 0.0
