"""Who makes and who reads each tensor of a TFLite graph."""

import functools
import math

import numpy as np

from tf_reweight.tflite import constants, flatbuffer

# Of constants alone they make other numbers each time.
_RANDOM = {"MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM"}


class Graph:
    """A view of one subgraph that answers questions by index.

    Args:
        model: a `ModelT`.
        number: which of its subgraphs.
    """

    def __init__(self, model, number=0):
        self.model = model
        self.tensors = model.subgraphs[number].tensors
        self.operators = model.subgraphs[number].operators
        self.inputs = _indices(model.subgraphs[number].inputs)
        self.outputs = _indices(model.subgraphs[number].outputs)
        self.names = [flatbuffer.op_name(model, operator) for operator in self.operators]
        self.readers, self.makers = {}, {}
        for position, operator in enumerate(self.operators):
            for slot, index in enumerate(_indices(operator.inputs)):
                self.readers.setdefault(index, []).append((position, slot))
            for index in _indices(operator.outputs):
                self.makers[index] = position

    def input(self, position, slot):
        """Index of the tensor that an operation reads there; -1 where it reads none."""
        indices = _indices(self.operators[position].inputs)
        return indices[slot] if slot < len(indices) else -1

    def output(self, position):
        """Index of the first tensor that an operation makes; -1 where it makes none."""
        return next(iter(_indices(self.operators[position].outputs)), -1)

    def ends(self, position):
        """Indices of the tensors that an operation reads and makes."""
        return [*self.read(position), *self.made(position)]

    def read(self, position):
        """Indices of the tensors that an operation reads."""
        return [index for index in _indices(self.operators[position].inputs) if index >= 0]

    def made(self, position):
        """Indices of the tensors that an operation makes."""
        return [index for index in _indices(self.operators[position].outputs) if index >= 0]

    def is_quantized(self, index):
        """Whether a tensor has 8-bit integers that stand for real numbers."""
        quantization = self.tensors[index].quantization
        return self.dtype(index) in ("INT8", "UINT8") and quantization is not None and _length(quantization.scale) > 0

    def scale(self, index):
        """The scale of a tensor that has one for all its 8-bit integers; None for others."""
        if not self.is_quantized(index) or _length(self.tensors[index].quantization.scale) != 1:
            return None
        return float(self.tensors[index].quantization.scale[0])

    def has_open_size(self, index):
        """Whether the file leaves a size of a tensor open."""
        signature = self.tensors[index].shapeSignature
        return signature is not None and -1 in [int(size) for size in signature]

    def slots(self, position):
        """Indices of the tensors that an operation reads, slot by slot; -1 where it reads none."""
        return _indices(self.operators[position].inputs)

    @functools.cached_property
    def unpacked(self):
        """Dict from tensors made of constants alone, as by DEQUANTIZE and DENSIFY, to the operations that make them."""
        found = {}
        for position in range(len(self.operators)):
            inputs = self.read(position)
            if inputs and self.names[position] not in _RANDOM and all(i in found or self.is_stored(i) for i in inputs):
                found |= dict.fromkeys(self.made(position), position)
        return found

    def is_stored(self, index):
        """Whether the file has the numbers of a tensor."""
        data = self.model.buffers[self.tensors[index].buffer].data
        return data is not None and len(data) > 0

    def run_time_inputs(self, position):
        """Dict from slots of an operation to the tensors there, without constants, unpacked ones and states."""
        return {
            slot: index for slot, index in enumerate(self.slots(position))
            if index >= 0 and index not in self.unpacked and not self.is_stored(index) and not self.tensors[index].isVariable
        }  # fmt: skip

    def maker(self, index):
        """Name of the operation that makes a tensor; "" for inputs and constants."""
        return self.names[self.makers[index]] if index in self.makers else ""

    def dtype(self, index):
        """`"INT8"` and the like; "" for no tensor."""
        return flatbuffer.dtype_name(self.tensors[index]) if index >= 0 else ""

    def shape(self, index):
        """Shape as a tuple; `()` where there is none."""
        shape = self.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def constant(self, index):
        """Values of a small constant; None for what is computed."""
        return constants.values(self.model, self.tensors[index]) if index >= 0 else None

    def width(self, index):
        """The largest absolute value of a float tensor, as calibrated, or of a constant; None where it is not known."""
        if self.dtype(index) != "FLOAT32":
            return None
        values = self.constant(index)
        if values is None:
            known = self.tensors[index].quantization
            if known is None or known.min is None or known.max is None:
                return None
            values = np.concatenate([known.min, known.max])
        width = float(np.abs(values).max(initial=0.0))
        return width if math.isfinite(width) else None

    def options(self, position, name, default=0):
        """One option of an operation."""
        return getattr(self.operators[position].builtinOptions, name, default)

    def pads(self, position):
        """What a PAD adds, as a list of `(before, after)`; None where that is computed or the operation is no PAD."""
        if self.names[position] != "PAD":
            return None
        values = self.constant(self.input(position, 1))
        return None if values is None else [tuple(int(n) for n in row) for row in np.asarray(values).reshape(-1, 2)]


def _indices(vector):
    return [] if vector is None else [int(index) for index in vector]


def _length(vector):
    return 0 if vector is None else len(vector)
