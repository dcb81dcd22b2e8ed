"""The tables every law runs over: one row per structure, penalty and kernel kind."""

import keras
import numpy as np

from tf_reweight import penalties, structures

L = keras.layers

# One row per structure: an instance and kernel shapes it fits, ragged ones included where it allows them.
STRUCTURES = {
    "unstructured": (structures.Unstructured(), [(5, 7), (3, 3, 4, 6), (3, 4, 6)]),
    "filter": (structures.Filter(), [(5, 7), (3, 3, 4, 6), (2, 3, 3, 4, 6)]),
    "neuron": (structures.Neuron(), [(5, 7)]),
    "channel": (structures.Channel(), [(5, 7), (3, 3, 4, 6), (3, 4, 6)]),
    "column": (structures.Column(), [(5, 7), (3, 3, 4, 6)]),
    "kernel": (structures.Kernel(), [(3, 3, 4, 6), (3, 4, 6), (2, 3, 3, 4, 6)]),
    "block": (structures.Block((2, 3)), [(4, 6), (5, 7), (3, 3, 4, 6), (1, 1, 5, 8)]),
    "block_row": (structures.BlockRow((2, 3)), [(4, 6), (5, 7), (3, 3, 4, 6)]),
    "block_column": (structures.BlockColumn((2, 3)), [(4, 6), (5, 7), (3, 3, 4, 6)]),
    "n_of_m": (structures.NOfM(2, 4), [(8, 3), (3, 3, 4, 6)]),
    "n_of_m out": (structures.NOfM(1, 2, "out"), [(5, 4), (3, 3, 4, 6)]),
    "n_of_m spatial": (structures.NOfM(1, 3, 0), [(3, 3, 4, 6), (3, 4, 6), (6, 2)]),
    "pattern": (structures.Pattern("four"), [(3, 3, 4, 6), (3, 3, 1, 5)]),
    "pattern circles": (structures.Pattern("circles", (5, 5)), [(5, 5, 2, 3)]),
    "pattern own": (structures.Pattern([[0, 1, 7], [2, 5]], (2, 4)), [(2, 4, 2, 3)]),
    "head out": (structures.Head(2, "out"), [(5, 8)]),
    "head in": (structures.Head(2, "in"), [(8, 5)]),
}

STRUCTURE_CASES = [
    (structure, shape) for structure, shapes in STRUCTURES.values() for shape in shapes
]  # fmt: skip
STRUCTURE_IDS = [f"{name}-{'x'.join(map(str, shape))}" for name, (_, shapes) in STRUCTURES.items() for shape in shapes]

PENALTIES = [
    penalties.LogSum(), penalties.LogSum(1e-3), penalties.Arctan(0.05), penalties.LogSquared(1e-2), penalties.Lasso()
]  # fmt: skip

# One row per kernel kind: a function that builds a model holding it, and the standard shapes of its kernels.
KERNEL_KINDS = {
    "dense": (lambda: _net((6,), L.Dense(4)), [(6, 4)]),
    "einsum_dense": (lambda: _net((5, 6), L.EinsumDense("abc,cd->abd", (None, 4))), [(6, 4)]),
    "conv1d": (lambda: _net((9, 3), L.Conv1D(4, 3)), [(3, 3, 4)]),
    "conv2d": (lambda: _net((9, 9, 3), L.Conv2D(4, 3)), [(3, 3, 3, 4)]),
    "conv2d groups": (lambda: _net((9, 9, 4), L.Conv2D(6, 3, groups=2)), [(3, 3, 2, 6)]),
    "conv2d channels_first": (lambda: _net((3, 9, 9), L.Conv2D(4, 3, data_format="channels_first")), [(3, 3, 3, 4)]),
    "conv3d": (lambda: _net((5, 5, 5, 2), L.Conv3D(3, 2)), [(2, 2, 2, 2, 3)]),
    "conv1d_transpose": (lambda: _net((5, 3), L.Conv1DTranspose(4, 3)), [(3, 3, 4)]),
    "conv2d_transpose": (lambda: _net((5, 5, 3), L.Conv2DTranspose(4, 3)), [(3, 3, 3, 4)]),
    "conv3d_transpose": (lambda: _net((3, 3, 3, 2), L.Conv3DTranspose(3, 2)), [(2, 2, 2, 2, 3)]),
    "depthwise1d": (lambda: _net((9, 3), L.DepthwiseConv1D(3, depth_multiplier=2)), [(3, 1, 6)]),
    "depthwise2d": (lambda: _net((9, 9, 3), L.DepthwiseConv2D(3, depth_multiplier=2)), [(3, 3, 1, 6)]),
    "separable1d": (lambda: _net((9, 3), L.SeparableConv1D(5, 3)), [(3, 1, 3), (1, 3, 5)]),
    "separable2d": (lambda: _net((9, 9, 3), L.SeparableConv2D(5, 3)), [(3, 3, 1, 3), (1, 1, 3, 5)]),
    "embedding": (lambda: _net((4,), L.Embedding(11, 5), dtype="int32"), [(11, 5)]),
    "simple_rnn": (lambda: _net((4, 3), L.SimpleRNN(5)), [(3, 5), (5, 5)]),
    "lstm": (lambda: _net((4, 3), L.LSTM(5)), [(3, 20), (5, 20)]),
    "gru": (lambda: _net((4, 3), L.GRU(5)), [(3, 15), (5, 15)]),
    "conv_lstm": (lambda: _net((3, 6, 6, 2), L.ConvLSTM2D(3, 3)), [(3, 3, 2, 12), (3, 3, 3, 12)]),
    "bidirectional": (lambda: _net((4, 3), L.Bidirectional(L.GRU(2))), [(3, 6), (2, 6), (3, 6), (2, 6)]),
    "time_distributed": (lambda: _net((4, 6), L.TimeDistributed(L.Dense(3))), [(6, 3)]),
    "attention": (lambda: _attention(L.MultiHeadAttention(2, 3)), [(6, 6), (6, 6), (6, 6), (6, 6)]),
    "grouped_attention": (lambda: _attention(L.GroupQueryAttention(3, 4, 2)), [(6, 12), (6, 6), (6, 6), (12, 6)]),
}


def _net(shape, layer, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs))


def _attention(layer):
    inputs = keras.Input((5, 6))
    return keras.Model(inputs, layer(inputs, inputs))


def random_kernel(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")
