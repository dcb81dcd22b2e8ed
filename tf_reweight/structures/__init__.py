"""Which weights live and die together: one class each, found by name through `get`."""

import typing

from tf_reweight import registry
from tf_reweight.lazy import submodules
from tf_reweight.structures.axes import Channel, Column, Filter, Head, Kernel, Neuron
from tf_reweight.structures.base import Structure, safe_sqrt
from tf_reweight.structures.block import Block, BlockColumn, BlockRow
from tf_reweight.structures.elementwise import NOfM, Unstructured
from tf_reweight.structures.pattern import Pattern

__all__ = [
    "Block", "BlockColumn", "BlockRow", "Channel", "Column", "Filter", "Head", "Kernel", "NOfM", "Neuron", "Pattern",
    "Structure", "StructureLike", "Unstructured", "get", "names", "register", "safe_sqrt",
]  # fmt: skip
__getattr__ = submodules(__name__)

# What every `structure=` takes: a name, a configuration with a name, or the object.
StructureLike: typing.TypeAlias = str | dict | Structure

_BY_NAME = {
    cls.name: cls
    for cls in (Unstructured, Filter, Neuron, Channel, Column, Kernel, Block, BlockRow, BlockColumn, NOfM, Pattern, Head)
}


def names():
    """The names that `get` and every config accept, in the order of the documentation."""
    return tuple(_BY_NAME)


def get(identifier):
    """A structure from a name, a config `{"name": ..., **fields}`, or a structure itself.

    Example:
        >>> get({"name": "block", "shape": [4, 4]})
        Block(shape=(4, 4))

    Raises:
        ValueError: for a name or field that does not exist; the nearest valid one is named.
        TypeError: for anything else.
    """
    return registry.build("structure", Structure, _BY_NAME, identifier)


def register(cls):
    """Teaches the table a structure of yours, so that `get`, configurations and saved models know it by its name.

    Args:
        cls: a frozen dataclass derived from `Structure`, with a `name`; see docs/extending.md.

    Returns:
        The class, so that this can decorate it.

    Example:
        >>> register(MyStructure)
        >>> regularize(model, "my_structure", strength=1e-3)
    """
    return registry.add("structure", Structure, _BY_NAME, cls)
