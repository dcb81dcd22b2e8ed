"""Which input or output of a file is which of a model's: files hold no order of them, only names.

A signature lists its inputs and outputs by the alphabet, `dense_10` before `dense_9`, and the converter orders the tensors of
the graph by that list or by none. So a position says nothing, unless it is written into a name, as in `output_0`.
"""

import collections
import dataclasses
import re

import numpy as np

from tf_reweight import errors

# Stems of the names that Keras gives to inputs without one: of their tensors, and of their layers, which a loaded model has.
_OF_INPUTS = ("keras_tensor", "input_layer")
# Names that TensorFlow gives by position, where a model or function has none.
_BY_POSITION = {"output", "Identity", "args", "args_0", "inputs"}
_ANOTHER = "Pass the model that the file was made of (shrunk, where that was)"


@dataclasses.dataclass(frozen=True)
class End:
    """An input or output of a model.

    Attributes:
        name: as a signature can carry it.
        shape: of one example or many, `(num, ...)`.
        dtype: of NumPy.
    """

    name: str
    shape: tuple
    dtype: object


def in_order(names):
    """Names sorted, with counted ones by their numbers: `dense`, `dense_9`, `dense_10`."""
    return sorted(names, key=_counted)


def matched(ends, details, what):
    """The file's own names for a model's inputs or outputs.

    They are told by names where these are the same. Else they are told by the layers' counters, since a model that is built
    again counts on, `dense_9` and `dense_10` for `dense` and `dense_1`; by positions that TensorFlow wrote into names; or by
    shapes and types, where these differ.

    Args:
        ends: of the model, a list of `End` in its order.
        details: of the file, a dict of LiteRT's details by name.
        what: `"inputs"` or `"outputs"`, for errors.

    Returns:
        List of names in the order of `ends`.

    Raises:
        ValueError: where the numbers of both differ, or nothing tells which is which.
    """
    names, own = [end.name for end in ends], {_plain(name): name for name in details}
    if len(names) != len(details):
        expected = f"The file must have the model's {what}, as many as it."
        raise ValueError(errors.message(expected, f"{_ANOTHER}.", file=list(details), model=names))
    if set(own) == set(names):
        return [own[name] for name in names]
    if len(names) == 1:
        return list(details)
    given = {name: details[full] for name, full in own.items()}
    counted = _by_counters(names, list(given))
    for found in (counted, _by_position(names, list(given)), _by_shapes(ends, given)):
        if found is not None and all(_fits(end, given[found[end.name]]) for end in ends):
            return [own[found[name]] for name in names]
    if counted is not None:  # another shape is told where outputs are compared
        return [own[counted[name]] for name in names]
    argument = "keras.Model(inputs, {name: output})" if what == "outputs" else "keras.Input(shape, name=name)"
    fix = f"{_ANOTHER}, or name its {what} as the file does: {argument}."
    expected = f"The file must have the model's {what}: names, their counters or unlike shapes must tell which is which."
    raise ValueError(errors.message(expected, fix, file=list(details), model=names))


def _plain(name):
    """A name as the model has it: without a signature a tensor's is `serving_default_<name>:0`."""
    found = re.fullmatch(r"serving_default_(.+):0", name)
    return found[1] if found else name


def _counted(name):
    """`(stem, number, again)` of a counted name; the first has no number, and one that was given before ends in `_`."""
    stem, number, again = re.fullmatch(r"(.*?)(?:_(\d+))?(_*)", name, re.DOTALL).groups()
    return _OF_INPUTS[-1] if stem in _OF_INPUTS else stem, -1 if number is None else int(number), again


def _by_counters(names, own):
    """A dict from a model's names to a file's, where both have as many of each stem; None where they have not."""
    sides = [collections.defaultdict(list), collections.defaultdict(list)]
    for side, listed in zip(sides, (names, own)):
        for name in in_order(listed):
            side[_counted(name)[0]].append(name)
    first, second = sides
    if {stem: len(found) for stem, found in first.items()} != {stem: len(found) for stem, found in second.items()}:
        return None
    return {name: other for stem, found in first.items() for name, other in zip(found, second[stem])}


def _by_position(names, own):
    """The same, where the file's names are positions; None where they are not."""
    for stem in _BY_POSITION:
        numbered = {0 if name == stem else int(name.removeprefix(f"{stem}_")): name for name in own if _is_of(stem, name)}
        if set(numbered) == set(range(len(names))):
            return {name: numbered[position] for position, name in enumerate(names)}
    return None


def _is_of(stem, name):
    return name == stem or bool(re.fullmatch(rf"{stem}_\d+", name))


def _by_shapes(ends, given):
    """The same, where shapes and types leave one choice, or leave some that counters tell; None where they do not."""
    found, left = {}, {end.name: {name for name in given if _fits(end, given[name])} for end in ends}
    while left:
        single = next((name for name, choices in left.items() if len(choices) == 1), None)
        if single is None:
            break
        found[single] = left.pop(single).pop()
        left = {name: choices - {found[single]} for name, choices in left.items()}
    for choices in {frozenset(choices) for choices in left.values()}:
        alike = _by_counters([name for name in left if left[name] == choices], list(choices))
        if alike is None:
            return None
        found |= alike
    return found if len(set(found.values())) == len(ends) else None


def _fits(end, detail):
    """Whether an input or output of a file may be one of a model."""
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    # Of some tensors a file says no shape, and of others no size: -1.
    known = not len(shape) or len(shape) == len(end.shape)
    sizes = all(size in (-1, wanted) for size, wanted in zip(list(shape)[1:], end.shape[1:]))
    return known and sizes and _kind(end.dtype) == ("f" if detail["quantization"][0] else _kind(detail["dtype"]))


def _kind(dtype):
    return {"u": "i", "V": "f"}.get(np.dtype(dtype).kind, np.dtype(dtype).kind)
