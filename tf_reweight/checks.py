"""Checks of arguments, one for each kind of value: each raises, names the argument and says how to fix it."""

import numpy as np

from tf_reweight import errors
from tf_reweight.records import plain

EPOCHS = "It counts epochs."
ROUNDS = "It counts epochs or rounds."
STEPS = "It counts optimizer steps."
REMOVED = "weights removed"
# Whatever is given, float32 is what is computed with.
LARGEST = float(np.finfo("float32").max)


def is_sequence(value):
    """Whether a value is a list or tuple: several things, and not one."""
    return isinstance(value, (list, tuple))


def listed(value):
    """A list of what was given as one thing or as several."""
    return list(value) if is_sequence(value) else [value]


def check_integer(name, value, minimum, maximum=None, fix=ROUNDS):
    """Raises ValueError unless `value` is an int (no bool) from `minimum` up, to `maximum` where there is one."""
    if not is_integer(value) or int(value) < minimum or (maximum is not None and value > maximum):
        wanted = f">= {minimum}" if maximum is None else f"in {minimum}..{maximum}"
        raise ValueError(errors.message(f"`{name}` must be an int {wanted}.", fix, **{name: value}))


def check_number(name, value, minimum=0.0, exclusive=False, fix="Typical: 1e-6 to 1e-2.", finite=True):
    """Raises ValueError unless `value` is a number (no bool, no NaN) at or above (`exclusive`: above) `minimum`.

    Args:
        name: of the argument.
        value: what was given.
        minimum: the lowest value.
        exclusive: whether the lowest value itself is too low.
        fix: what the error says in the end.
        finite: whether infinity is too high.
    """
    given, value = value, plain(value)  # in NumPy's smaller types the largest float32 is infinite
    good = is_number(given) and (value > minimum if exclusive else value >= minimum)
    # An int may be finite and yet larger than any float: then nothing can be computed with it.
    if not good or (value > LARGEST and (finite or is_integer(value))):
        kind, relation = "finite number" if finite else "number", ">" if exclusive else ">="
        ends = " that float32 holds" if good and value < float("inf") else ""
        expected = f"`{name}` must be a {kind} {relation} {minimum:g}{ends}."
        raise ValueError(errors.message(expected, fix, **{name: given}))


def check_fraction(name, value, of, exclusive=False):
    """Raises ValueError unless `value` is a number in [0, 1), where `exclusive` in (0, 1); `of` says what it is a part of."""
    if not is_number(value) or not 0 <= value < 1 or (exclusive and value == 0):
        hint = f"Did you mean {value / 100:g}? " if is_number(value) and 1 < value < 100 else ""
        if isinstance(value, str) and "=" in value:
            hint = f"Did you mean budget={value!r}? "
        interval = "(0, 1)" if exclusive else "[0, 1)"
        fix = f"{hint}It is the fraction of the {of}."
        raise ValueError(errors.message(f"`{name}` must be in {interval}.", fix, **{name: value}))


def check_sparsity(sparsity):
    """Raises ValueError unless `sparsity` is a number in [0, 1)."""
    check_fraction("sparsity", sparsity, REMOVED)


def check_threshold(threshold):
    """Raises ValueError unless `threshold` is a number >= 0; an infinite one is above every norm."""
    check_number("threshold", threshold, fix="It is a group norm.", finite=False)


def check_name(kind, name, options):
    """Raises ValueError unless `name` is one of `options`; what is no text is none of them, arrays and lists included."""
    if not isinstance(name, str) or name not in options:
        raise ValueError(errors.unknown(kind, name, options))


def check_text(name, value, optional=True):
    """Raises TypeError unless `value` is text, or, where it is optional, None."""
    if (value is not None or not optional) and not isinstance(value, str):
        raise TypeError(errors.message(f"`{name}` must be text.", "Pass a str.", **{name: value}))


def check_flag(name, value, fix="Pass True or False."):
    """Raises TypeError unless `value` is a bool, Python's or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(errors.message(f"`{name}` must be a bool.", fix, **{name: value}))


def check_flags(**flags):
    """Raises TypeError unless every argument is a bool; public functions begin with it, before they look at anything else."""
    for name, value in flags.items():
        check_flag(name, value)


def check_classes(y, shape):
    """Raises ValueError unless `y` holds class numbers in this shape: of others, NumPy would compare all with all."""
    y = np.asarray(y)
    if y.shape != tuple(shape) or y.dtype.kind not in "biuf":
        fix = "One-hot labels: pass `y.argmax(-1)`; labels of shape (num, 1): `y.reshape(-1)`."
        received = {"shape": y.shape, "dtype": str(y.dtype)}
        raise ValueError(errors.message(f"`y` must be class numbers of the shape {tuple(shape)}.", fix, **received))


def check_holds(dtype, array, argument, of):
    """Raises ValueError unless a type of numbers holds all whole numbers of an array: NumPy makes others of them in silence.

    Args:
        dtype: name of the type, or the type.
        array: numbers of any type; only whole ones are looked at, since floats that are too large become infinite.
        argument: what holds the array, for errors.
        of: what has that type, for errors.
    """
    name = getattr(dtype, "__name__", dtype)
    # All other floats reach beyond the largest whole number that NumPy has.
    if array.dtype.kind not in "iu" or not array.size or "int" not in name and name != "float16":
        return
    limits = np.finfo(name) if name == "float16" else np.iinfo(name)
    low, high = int(limits.min), int(limits.max)
    beyond = [value for value in (int(array.min()), int(array.max())) if not low <= value <= high]
    if beyond:
        expected = f"`{argument}` must hold numbers that fit {name}, the type of {of}: {low} to {high}."
        fix = "Look at what made them, and at the dtype of the input."
        raise ValueError(errors.message(expected, fix, value=beyond[0], dtype=str(array.dtype)))


def check_unmasked(array, argument):
    """Raises ValueError for an array of `numpy.ma` that hides entries: nothing looks at its mask, and they would be values."""
    if np.ma.isMaskedArray(array) and np.ma.is_masked(array):
        fix = "Fill them in, as with .filled(0), or remove those examples; sample weights can leave examples out."
        raise ValueError(errors.message(f"`{argument}` must hold arrays without a mask.", fix, masked=int(array.mask.sum())))


def is_integer(value):
    """Whether a value is an int, Python's or NumPy's, and not a bool, which Python counts among the ints."""
    # NumPy counts spans of time among them.
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))


def is_number(value):
    """Whether a value is an int or a float, Python's or NumPy's, and not a bool, which Python counts among the ints."""
    return is_integer(value) or isinstance(value, (float, np.floating))
