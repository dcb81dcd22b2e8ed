"""Plain values, numbers, text and arrays in lists and dicts, as JSON with the arrays apart."""

import numpy as np

_ARRAY, _TUPLE, _PAIRS = "__array__", "__tuple__", "__pairs__"
_ATOMS = (type(None), bool, int, float, str)


class NotPlain(TypeError):
    """A value that is none of these."""


def packed(value, arrays):
    """A value as JSON holds it; its arrays are added to the dict `arrays`.

    Raises:
        NotPlain: where something in it is neither a number, text, None, an array, a list, a tuple nor a dict.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biuf":
        name = f"plain_{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {_ARRAY: name, "number": isinstance(value, np.generic)}
    if kind is list:
        return [packed(item, arrays) for item in value]
    if kind is tuple:
        return {_TUPLE: [packed(item, arrays) for item in value]}
    if kind is dict:
        return {_PAIRS: [[packed(key, arrays), packed(item, arrays)] for key, item in value.items()]}
    raise NotPlain(kind.__name__)


def unpacked(value, arrays):
    """The value again."""
    if type(value) is list:
        return [unpacked(item, arrays) for item in value]
    if type(value) is not dict:
        return value
    if _ARRAY in value:
        array = np.array(arrays[value[_ARRAY]])
        return array[()] if value["number"] else array
    if _TUPLE in value:
        return tuple(unpacked(item, arrays) for item in value[_TUPLE])
    return {unpacked(key, arrays): unpacked(item, arrays) for key, item in value[_PAIRS]}


def arrays_in(value):
    """The ids of the arrays in a value."""
    if isinstance(value, np.ndarray):
        return {id(value)}
    if isinstance(value, (list, tuple)):
        return {item for part in value for item in arrays_in(part)}
    if isinstance(value, dict):
        return {item for part in value.values() for item in arrays_in(part)}
    return set()
