"""Edits of a TFLite graph that packing needs: sparse storage with one DENSIFY, and fully connected as a convolution."""

import copy
import math

import numpy as np

from tf_reweight.tflite import flatbuffer, sparse_layout

# Columns of a FULLY_CONNECTED that becomes a convolution: how many at most, and how long. Positions on 256 inputs take a byte.
_MAX_COLUMNS = 64
_COLUMN_SIZES = range(64, 257)


class Rewriter:
    """Collects edits of a file's only graph; `finish` puts the operations in order.

    New tensors and buffers go to the end, so that every index that signatures or metadata hold stays valid.

    Args:
        model: a `ModelT` with one subgraph; it is changed in place.
    """

    def __init__(self, model):
        self.model = model
        self.graph = model.subgraphs[0]
        self._before = {}
        self._replaced = {}

    def pack(self, index, array, layout, consumers):
        """Stores a constant sparsely and lets its consumers read a dense tensor that one DENSIFY makes at load time.

        Args:
            index: of the tensor.
            array: its values, in the shape that the consumers need.
            layout: a `sparse_layout.Layout`.
            consumers: indices of the operations that read it.
        """
        tensor = self.graph.tensors[index]
        dense = _dense_twin(tensor, index, array.shape)
        stored, tensor.sparsity = sparse_layout.encode(array, layout)
        tensor.shape = np.asarray(array.shape, "int32")
        tensor.shapeSignature = None
        # The dense tensor has the scales, which nobody asks of the stored one.
        tensor.quantization = None
        self.model.buffers[tensor.buffer].data = stored.view("uint8")
        made = self.add_tensor(dense)
        densify = self._operator("DENSIFY", 1, [index], [made])
        self._before.setdefault(min(consumers), []).append(densify)
        for position in consumers:
            for operator in self._replaced.get(position, [self.graph.operators[position]]):
                operator.inputs = np.where(np.asarray(operator.inputs) == index, made, operator.inputs).astype("int32")

    def fully_connected_as_convolution(self, position, shape):
        """Replaces a FULLY_CONNECTED by RESHAPE, CONV_2D and RESHAPE, which compute the same; not its weights yet.

        Args:
            position: index of the operation.
            shape: one of `convolution_shapes`, for its weights.
        """
        operator = self.graph.operators[position]
        x, weights, y = (self.graph.tensors[i] for i in (operator.inputs[0], operator.inputs[1], operator.outputs[0]))
        num_outputs, *image = shape
        rows = math.prod(int(size) for size in y.shape) // num_outputs
        pixels = self.add_tensor(_activation(x, (rows, *image), position, b"in"))
        made = self.add_tensor(_activation(y, (rows, 1, 1, num_outputs), position, b"out"))
        # -1 keeps a file resizable whose first axis is the batch.
        before = self._reshape(operator.inputs[0], pixels, (-1, *image))
        after = self._reshape(made, operator.outputs[0], (-1, *(int(size) for size in y.shape[1:])))
        schema = flatbuffer.schema()
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
        given = operator.builtinOptions or schema.FullyConnectedOptionsT()  # files may leave out a table of defaults
        options.fusedActivationFunction = given.fusedActivationFunction
        options.quantizedBiasType = given.quantizedBiasType
        # Version 3 is the first with int8, 5 the first with one scale per filter.
        bias = operator.inputs[2] if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else self._zero_bias(x, weights)
        convolution = self._operator("CONV_2D", 5, [pixels, operator.inputs[1], bias], [made], "Conv2DOptions", options)
        self._replaced[position] = [before, convolution, after]

    def finish(self):
        """The `ModelT`, with all edits done."""
        operators = []
        for position, operator in enumerate(self.graph.operators):
            operators += self._before.get(position, []) + self._replaced.get(position, [operator])
        self.graph.operators = operators
        return self.model

    def add_tensor(self, tensor):
        """Appends a tensor; returns its index."""
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _zero_bias(self, x, weights):
        """A bias for an int8 convolution, which must have one."""
        schema = flatbuffer.schema()
        bias, scales = schema.TensorT(), schema.QuantizationParametersT()
        scales.scale = np.asarray(weights.quantization.scale * x.quantization.scale[0], "float32")
        scales.zeroPoint = np.zeros(len(scales.scale), "int64")
        values = np.zeros(int(weights.shape[0]), "int32")
        bias.name, bias.type, bias.quantization = b"bias", schema.TensorType.INT32, scales
        bias.shape, bias.buffer = np.asarray(values.shape, "int32"), self._add_buffer(values)
        return self.add_tensor(bias)

    def _add_buffer(self, values):
        buffer = flatbuffer.schema().BufferT()
        buffer.data = values.view("uint8")
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def _reshape(self, source, target, shape):
        schema = flatbuffer.schema()
        constant = schema.TensorT()
        constant.name, constant.type = b"shape", schema.TensorType.INT32
        constant.buffer = self._add_buffer(np.asarray(shape, "int32"))
        constant.shape = np.asarray([len(shape)], "int32")
        options = schema.ReshapeOptionsT()
        options.newShape = np.asarray(shape, "int32")
        return self._operator("RESHAPE", 1, [source, self.add_tensor(constant)], [target], "ReshapeOptions", options)

    def _operator(self, name, version, inputs, outputs, options_type="NONE", options=None):
        schema = flatbuffer.schema()
        operator = schema.OperatorT()
        operator.opcodeIndex = self._opcode(getattr(schema.BuiltinOperator, name), version)
        operator.inputs, operator.outputs = np.asarray(inputs, "int32"), np.asarray(outputs, "int32")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options_type)
        operator.builtinOptions = options
        return operator

    def _opcode(self, number, version):
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number and code.version >= version:
                return index
        code = flatbuffer.schema().OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


def convolution_shapes(shape):
    """Shapes `(out, 1, columns, in / columns)` in which the weights `(out, in)` of a FULLY_CONNECTED suit a CONV_2D.

    One column makes it a 1x1 convolution. Where columns are shorter, positions in them take fewer bits, and not two bytes when
    both axes have more than 256 entries.
    """
    num_outputs, num_inputs = (int(size) for size in shape)
    columns = [n for n in range(2, _MAX_COLUMNS + 1) if num_inputs % n == 0 and num_inputs // n in _COLUMN_SIZES]
    return [(num_outputs, 1, n, num_inputs // n) for n in (1, *columns)]


def added_bytes(model, index, array, layout, position=None):
    """Bytes a kernel takes in a file once it is packed: values, positions, and what unfolding it adds.

    Args:
        model: a `ModelT` that stays as it is.
        index: of the tensor.
        array: its values, in the shape that the consumers need.
        layout: a `sparse_layout.Layout`.
        position: index of the FULLY_CONNECTED that becomes a convolution; None for others.

    Returns:
        int; a little more than in the end, since tables of one kind share their descriptions.
    """
    trial, graph = copy.copy(model), copy.copy(model.subgraphs[0])
    trial.subgraphs, trial.buffers, trial.operatorCodes = [graph], list(model.buffers), list(model.operatorCodes)
    graph.tensors, graph.operators = list(graph.tensors), list(graph.operators)
    rewriter = Rewriter(trial)
    if position is not None:
        rewriter.fully_connected_as_convolution(position, array.shape)
    values, sparsity = sparse_layout.encode(array, layout)
    dense = _dense_twin(graph.tensors[index], index, array.shape)
    # The scales move from the stored tensor to the dense one.
    dense.quantization = None
    densify = rewriter._operator("DENSIFY", 1, [0], [0])
    operators = [operator for made in rewriter._replaced.values() for operator in made]
    gone = num_bytes(graph.operators[position]) if position is not None else 0
    tables = [sparsity, dense, densify, *operators, *graph.tensors[len(model.subgraphs[0].tensors) :]]
    return values.nbytes - gone + num_bytes(*tables, *trial.buffers[len(model.buffers) :])


def _dense_twin(tensor, index, shape):
    """The tensor that a DENSIFY writes: like the stored one, without values."""
    dense = copy.copy(tensor)
    # Buffer 0 is the empty one, by TFLite's convention.
    dense.name, dense.buffer, dense.sparsity = b"dense/%d" % index, 0, None
    dense.shape, dense.shapeSignature = np.asarray(shape, "int32"), None
    return dense


def _activation(like, shape, position, suffix):
    made = copy.copy(like)
    made.name, made.buffer, made.isVariable = b"pixel/%d/%s" % (position, suffix), 0, False
    made.shape, made.shapeSignature = np.asarray(shape, "int32"), None
    return made


def num_bytes(*tables):
    """Bytes that `TensorT`, `OperatorT` and the like take in a file, without what they share with others."""
    import flatbuffers

    total = 0
    for table in tables:
        builder = flatbuffers.Builder(256)
        builder.Finish(table.Pack(builder))
        total += len(builder.Output())
    return total
