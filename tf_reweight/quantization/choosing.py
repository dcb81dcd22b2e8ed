"""Which kernels are rounded, and to how many bits, by the selectors that every function takes."""

import typing

from tf_reweight.graph.access import sublayers
from tf_reweight.kernels import selectors
from tf_reweight.kernels.table import find
from tf_reweight.quantization.grid import check_bits

_DEFAULT_BITS = 8
# What `weight_bits=` takes: a number, or one for each selector.
Bits: typing.TypeAlias = int | dict[selectors.Selector, int]


class Choice:
    """What selectors mean in a simplified model: they look at the user's layers, of which its layers are copies or parts.

    `block/conv` of the user's model is `block_conv` there, and what an LSTM is written out as begins with its name.

    Args:
        model: the user's model.
        simple: what `simplify` made of it.
    """

    def __init__(self, model, simple):
        self._layers = {path.replace("/", "_"): (path, chain) for path, chain in _paths(model)}
        self._targets = {id(target.layer): target for target in (*find(simple)[0], *find(model)[0])}
        self._candidates = {operation.name: self._candidate(operation) for operation in simple.operations}

    def check(self, argument, layers):
        """The selectors of an argument as a list; raises for what is none, and for a name that no operation has."""
        found = [self._named(selector) for selector in selectors.listed(layers, argument)]
        for selector in found:
            name = getattr(selector, "name", selector)  # of a layer
            if isinstance(name, str) and not any(selectors.matches(selector, item) for item in self._candidates.values()):
                raise ValueError(selectors.unmatched(argument, selector, list(self._candidates)))
        return found

    def matches(self, selector, layer):
        """Whether a selector means this layer of the simplified model."""
        return selectors.matches(self._named(selector), self._candidates[layer.name])

    def _named(self, selector):
        return selectors.named(selector, self._candidates.values())

    def _candidate(self, operation):
        """The user's layer behind an operation of the simplified model, which may be a part of it, or a layer of its own."""
        names = [name for name in self._layers if operation.name == name or operation.name.startswith(f"{name}_")]
        if not names:
            return selectors.Candidate((operation.name,), operation, (), self._targets.get(id(operation)))
        path, (*parents, layer) = self._layers[max(names, key=len)]
        target = self._targets.get(id(layer), self._targets.get(id(operation)))
        return selectors.Candidate((path, operation.name), layer, tuple(parents), target)


def _paths(layer, prefix="", chain=()):
    """`(path, layers from the outside in)` of each layer inside a layer."""
    for inner in sublayers(layer):
        within = (*chain, inner)
        yield f"{prefix}{inner.name}", within
        yield from _paths(inner, f"{prefix}{inner.name}/", within)


def chooser(layers, choice):
    """A function `layer -> bool` for `quantize`'s argument `layers`."""
    if layers is None:
        return lambda layer: True
    found = choice.check("layers", layers)
    return lambda layer: any(choice.matches(selector, layer) for selector in found)


def bits_of(weight_bits, choice):
    """A function `layer -> bits` for `quantize`'s argument `weight_bits`; the first selector that matches decides, else 8.

    Raises:
        ValueError: for bits out of 2..16, and as `Choice.check`.
    """
    if not isinstance(weight_bits, dict):
        check_bits("weight_bits", weight_bits)
        return lambda layer: weight_bits
    choice.check("weight_bits", list(weight_bits))
    for bits in weight_bits.values():
        check_bits("weight_bits", bits)
    return lambda layer: next((bits for item, bits in weight_bits.items() if choice.matches(item, layer)), _DEFAULT_BITS)
