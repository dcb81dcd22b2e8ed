"""Small nets as .tflite bytes, with zeros of every structure."""

import functools

import keras
import numpy as np

from tf_reweight.export import samples
from tf_reweight.export.conversion import convert
from tf_reweight.graph import random_inputs
from tf_reweight.packing import pack
from tf_reweight.tflite import constants, flatbuffer
from tf_reweight.tflite.file_graph import Graph

L = keras.layers


def sequential(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


NETS = {
    "conv 1x1": lambda: sequential((6, 6, 24), L.Conv2D(32, 1, activation="relu"), L.Conv2D(48, 1)),
    "conv 3x3": lambda: sequential((6, 6, 8), L.Conv2D(32, 3, strides=2, padding="same"), L.Conv2D(16, 3, use_bias=False)),
    "depthwise": lambda: sequential(
        (6, 6, 128), L.DepthwiseConv2D(3, activation="relu6"), L.DepthwiseConv2D(3, padding="same")
    ),
    "transpose": lambda: sequential((4, 4, 24), L.Conv2DTranspose(32, 3, strides=2, padding="same")),
    "dense": lambda: sequential((48,), L.Dense(64, activation="relu"), L.Dense(64, use_bias=False)),
    "dense on sequences": lambda: sequential((5, 48), L.Dense(64, activation="relu"), L.Dense(40)),
}
STRUCTURES = ("random", "filter", "channel", "block")


def content_of(model, precision):
    specs = samples.input_specs(model, None)
    return convert(model, precision, specs, random_inputs.inputs(model, specs, num=8) if precision == "int8" else None)


@functools.cache
def converted(kind, precision):
    """The bytes of one of NETS; each is converted once."""
    keras.utils.set_random_seed(0)
    model = NETS[kind]()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return content_of(model, precision)


def kernels(content):
    """Dense values of the constants of two or more axes, by name."""
    model = flatbuffer.parse(content)
    tensors = [tensor for tensor in model.subgraphs[0].tensors if pack._is_kernel(model, tensor)]
    return {tensor.name: constants.values(model, tensor) for tensor in tensors}


def mask_of(shape, structure, fraction, rng):
    first, last = (0 if shape[0] > 1 else len(shape) - 1), len(shape) - 1
    if structure == "random":
        return rng.random(shape) >= fraction
    if structure == "block":
        blocks = [4 if axis in (first, last) and size % 4 == 0 else 1 for axis, size in enumerate(shape)]
        kept = rng.random([size // block for size, block in zip(shape, blocks)]) >= fraction
        return np.kron(kept, np.ones(blocks)).astype(bool)
    axis = first if structure == "filter" else last
    kept = rng.permutation(shape[axis]) >= round(fraction * shape[axis])
    return np.broadcast_to(np.expand_dims(kept, [i for i in range(len(shape)) if i != axis]), shape)


def zeroed(content, structure="random", fraction=0.75, seed=0):
    """The same file with zeros in its kernels."""
    model, rng = flatbuffer.parse(content), np.random.default_rng(seed)
    for tensor in model.subgraphs[0].tensors:
        if pack._is_kernel(model, tensor):
            values = constants.values(model, tensor)
            # The converter may have left a one: "0 * anything" keeps the type.
            made = np.where(mask_of(values.shape, structure, fraction, rng), values, values.dtype.type(0))
            model.buffers[tensor.buffer].data = np.ascontiguousarray(made).view("uint8").reshape(-1)
    return flatbuffer.write(model)


def ops_of(content):
    return Graph(flatbuffer.parse(content)).names


class Written:
    """A file written operation by operation, for what no net of Keras becomes; tensors are told by their indices."""

    def __init__(self):
        self.schema = flatbuffer.schema()
        self.model, self.part = self.schema.ModelT(), self.schema.SubGraphT()
        self.model.version, self.model.operatorCodes, self.model.subgraphs = 3, [], [self.part]
        self.model.buffers = [self.schema.BufferT()]
        self.part.tensors, self.part.operators, self.part.inputs, self.part.outputs = [], [], [], []

    def tensor(self, shape, dtype="FLOAT32", values=None, scale=None, zero_points=(0,)):
        made = self.schema.TensorT()
        made.name, made.type = b"t%d" % len(self.part.tensors), getattr(self.schema.TensorType, dtype)
        made.shape, made.buffer = np.asarray(shape, "int32"), 0
        if values is not None:
            made.buffer = len(self.model.buffers)
            self.model.buffers.append(self.schema.BufferT())
            self.model.buffers[-1].data = np.ascontiguousarray(values).reshape(-1).view("uint8")
        if scale is not None:
            made.quantization = self.schema.QuantizationParametersT()
            made.quantization.scale = np.full(len(zero_points), scale, "float32")
            made.quantization.zeroPoint = np.asarray(zero_points, "int64")
        self.part.tensors.append(made)
        return len(self.part.tensors) - 1

    def weights(self, shape, dtype="FLOAT32", zeros=0.9, **options):
        """A constant with zeros, the same for one shape and type."""
        rng = np.random.default_rng(0)
        values = np.where(rng.random(shape) < zeros, 0, rng.integers(1, 100, shape))
        return self.tensor(shape, dtype, values.astype(dtype.lower()), **options)

    def numbers(self, values, dtype="INT32"):
        return self.tensor(np.shape(values), dtype, np.asarray(values, dtype.lower()))

    def input(self, shape, dtype="FLOAT32", **options):
        self.part.inputs.append(self.tensor(shape, dtype, **options))
        return self.part.inputs[-1]

    def op(self, name, inputs, shape=None, dtype=None, kind=None, made=None, **options):
        """An operation; the index of the tensor that it makes, like its first input where nothing else is said."""
        like = self.part.tensors[inputs[0]]
        if made is None:
            made = self.tensor(like.shape if shape is None else shape, "FLOAT32" if dtype is None else dtype)
            self.part.tensors[made].type = like.type if dtype is None else self.part.tensors[made].type
        code, operator = self.schema.OperatorCodeT(), self.schema.OperatorT()
        code.builtinCode, code.version = getattr(self.schema.BuiltinOperator, name), 1
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        self.model.operatorCodes.append(code)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = np.asarray(inputs, "int32"), np.asarray([made], "int32")
        if kind is not None:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(self.schema, f"{kind}T")()
            for option, value in options.items():
                assert hasattr(operator.builtinOptions, option), option
                setattr(operator.builtinOptions, option, value)
        self.part.operators.append(operator)
        return made

    def graph(self, *outputs):
        self.part.outputs = list(outputs)
        return Graph(self.model)

    def content(self, *outputs):
        self.part.outputs = list(outputs)
        return flatbuffer.write(self.model)
