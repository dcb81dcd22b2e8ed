"""Layers that compute in training with the numbers of a file, and the model that the file is made of."""

import abc

from tf_reweight import errors
from tf_reweight.graph.access import all_layers
from tf_reweight.graph.rebuilding import Replacements, rebuild


class Emulation(abc.ABC):
    """The base of layers that round as a file does; a layer as well.

    `export` writes models without knowing how they were trained; it asks these layers.
    """

    # Whether it computes as if nothing was rounded, for a comparison.
    passing = False

    @abc.abstractmethod
    def as_stored(self):
        """What stands for the layer in the file: a function of its inputs, with the numbers that the file stores."""


def as_stored(model):
    """A copy of a model with every `Emulation` as its file stores it; outputs keep their names."""
    return rebuild(model, Replacements(lambda path, operation: operation.as_stored() if is_emulation(operation) else None))


def is_emulation(operation):
    """Whether an operation is an `Emulation`."""
    return isinstance(operation, Emulation)


def check_channels_are_open(model):
    """Raises ValueError for a model in which layers round as a file does: channels are not followed through these."""
    rounding = [layer.name for layer in all_layers(model) if is_emulation(layer)]
    if rounding:
        fix = "Remove channels before `quantize`, or take `strip_quantization(model)`, which has the learned weights."
        expected = "The model must not be quantized yet where channels are removed."
        raise ValueError(errors.message(expected, fix, layers=rounding[:5]))
