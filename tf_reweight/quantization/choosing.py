"""Which kernels are rounded, and to how many bits: by name, by type, or by a function of the user's."""

import fnmatch

import keras

from tf_reweight import errors
from tf_reweight.quantization.grid import check_bits

_DEFAULT_BITS = 8


def check_selectors(argument, selectors, model):
    """Raises unless each selector is a name or glob that matches an operation of the model, a layer type, or a function.

    Args:
        argument: the argument's name, for errors.
        selectors: a list of them.
        model: a functional model.

    Raises:
        TypeError: for another kind of selector, or none at all.
        ValueError: for a name or glob that matches nothing.
    """
    names = [operation.name for operation in model.operations]
    if not selectors or not all(isinstance(item, str) or callable(item) for item in selectors):
        fix = 'For example "block1*" or keras.layers.Dense.'
        expected = f"`{argument}` must hold names, globs, layer types or functions `layer -> bool`."
        raise TypeError(errors.message(expected, fix, **{argument: selectors}))
    for item in selectors:
        if isinstance(item, str) and not fnmatch.filter(names, item):
            raise ValueError(errors.unknown(argument, item, names))


def matches(selector, layer):
    """Whether a selector means this layer."""
    if isinstance(selector, str):
        return fnmatch.fnmatchcase(layer.name, selector)
    if isinstance(selector, type) and issubclass(selector, keras.layers.Layer):
        return isinstance(layer, selector)
    return bool(selector(layer))


def chooser(layers, model):
    """A function `layer -> bool` for `quantize`'s argument `layers`."""
    if layers is None:
        return lambda layer: True
    selectors = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    check_selectors("layers", selectors, model)
    return lambda layer: any(matches(selector, layer) for selector in selectors)


def bits_of(weight_bits, model):
    """A function `layer -> bits` for `quantize`'s argument `weight_bits`; the first selector that matches decides, else 8.

    Raises:
        ValueError: for bits out of 2..16, and as `check_selectors`.
    """
    if not isinstance(weight_bits, dict):
        check_bits("weight_bits", weight_bits)
        return lambda layer: weight_bits
    check_selectors("weight_bits", list(weight_bits), model)
    for bits in weight_bits.values():
        check_bits("weight_bits", bits)
    return lambda layer: next((bits for selector, bits in weight_bits.items() if matches(selector, layer)), _DEFAULT_BITS)
