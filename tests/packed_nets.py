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
