"""Plain values, numbers, text and arrays in Python's collections, as JSON with the arrays apart."""

import collections
import hashlib
import json
import pathlib
import typing

import numpy as np

_ARRAY, _KIND = "__array__", "__kind__"
_ATOMS = (type(None), bool, int, float, str)
# What a `defaultdict` makes of a missing key: functions of the user's own are not in a file.
_FACTORIES = (None, bool, int, float, str, list, tuple, dict, set, collections.Counter)


class NotPlain(TypeError):
    """A value that is none of these."""


class Fingerprint(typing.NamedTuple):
    """Of the content of a value: two of the same digest hold the same.

    Attributes:
        digest: as text.
        num_bytes: how much it is.
    """

    digest: str
    num_bytes: int


class _Collection(typing.NamedTuple):
    """How a kind of collection is taken apart into a list, and made again."""

    parts: typing.Callable
    made: typing.Callable


def _items(value):
    return [list(item) for item in value.items()]


def _default_parts(value):
    if value.default_factory not in _FACTORIES:
        raise NotPlain("defaultdict of another function")
    return [_FACTORIES.index(value.default_factory), _items(value)]


_COLLECTIONS = {
    list: _Collection(list, list),
    tuple: _Collection(list, tuple),
    set: _Collection(list, set),
    frozenset: _Collection(list, frozenset),
    dict: _Collection(_items, dict),
    collections.OrderedDict: _Collection(_items, collections.OrderedDict),
    collections.Counter: _Collection(_items, lambda parts: collections.Counter(dict(parts))),
    collections.defaultdict: _Collection(
        _default_parts, lambda parts: collections.defaultdict(_FACTORIES[parts[0]], parts[1])
    ),
    collections.deque: _Collection(lambda value: [value.maxlen, *value], lambda parts: collections.deque(parts[1:], parts[0])),
    complex: _Collection(lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    bytes: _Collection(lambda value: [value.hex()], lambda parts: bytes.fromhex(parts[0])),
    bytearray: _Collection(lambda value: [value.hex()], lambda parts: bytearray.fromhex(parts[0])),
    type(pathlib.Path()): _Collection(lambda value: [str(value)], lambda parts: pathlib.Path(*parts)),
}
_UNORDERED = (set, frozenset)
_BY_NAME = {kind.__name__: kind for kind in _COLLECTIONS}


def packed(value, arrays):
    """A value as JSON holds it; its arrays are added to the dict `arrays`.

    Raises:
        NotPlain: where something in it is neither a number, text, None, an array, a path, nor one of Python's collections.
    """
    try:
        return _packed(value, arrays)
    except RecursionError:
        raise NotPlain(f"{type(value).__name__} in itself") from None


def _packed(value, arrays):
    kind = type(value)
    if kind in _ATOMS:
        return value
    if (kind is np.ndarray or isinstance(value, np.generic)) and value.dtype.kind in "biufc":
        name = f"plain_{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {_ARRAY: name, "number": kind is not np.ndarray}
    if kind not in _COLLECTIONS:
        raise NotPlain(kind.__name__)
    parts = [_packed(part, arrays) for part in _COLLECTIONS[kind].parts(value)]
    if kind is list:
        return parts
    # The order of a set differs from process to process.
    return {_KIND: kind.__name__, "parts": sorted(parts, key=json.dumps) if kind in _UNORDERED else parts}


def unpacked(value, arrays):
    """The value again."""
    if type(value) is list:
        return [unpacked(item, arrays) for item in value]
    if type(value) is not dict:
        return value
    if _ARRAY in value:
        array = np.array(arrays[value[_ARRAY]])
        return array[()] if value["number"] else array
    return _COLLECTIONS[_BY_NAME[value[_KIND]]].made([unpacked(part, arrays) for part in value["parts"]])


def fingerprint(value):
    """The `Fingerprint` of a value.

    Raises:
        NotPlain: as `packed`.
    """
    arrays = {}
    text = json.dumps(packed(value, arrays)).encode()
    found, num_bytes = hashlib.blake2b(text, digest_size=16), len(text)
    for array in arrays.values():
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array))
        num_bytes += array.nbytes
    return Fingerprint(found.hexdigest(), num_bytes)
