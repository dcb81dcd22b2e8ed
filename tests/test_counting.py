"""What a model stores and computes, counted as its graph says."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import nets
from tf_reweight.coupling import Cost, groups
from tf_reweight.graph.counting import count_macs, count_parameters
from tf_reweight.pruning.masked import Masked
from tf_reweight.pruning.prune import prune
from tf_reweight.quantization.layers import QuantizedKernel
from tf_reweight.shrinking import shrink

L = keras.layers


def stack():
    return keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.ReLU(), L.Flatten(), L.Dense(5)])


STACK_MACS = 36 * 27 * 4 + 144 * 5


def test_kernels_count_once_for_each_position_and_call():
    shared = L.Dense(7)
    x = keras.Input((5, 3))
    model = keras.Model(x, shared(L.Dense(7)(shared(x))[..., :3]))
    assert count_macs(model) == 5 * 21 + 5 * 49 + 5 * 21
    assert count_macs(stack()) == STACK_MACS


def test_calls_outside_of_the_model_do_not_count():
    """A Sequential model that was made from layers of another, a layer that was tried out, a nested model."""
    model = stack()
    other = keras.Sequential([keras.Input((8, 8, 3)), *model.layers])
    model.layers[0](keras.Input((32, 32, 3)))
    assert count_macs(model) == count_macs(other) == STACK_MACS
    x = keras.Input((8, 8, 3))
    assert count_macs(keras.Model(x, L.Add()([model(x), model(x)]))) == 2 * STACK_MACS


@pytest.mark.parametrize("build", [stack, *nets.NETS])
def test_a_copy_that_lost_nothing_counts_the_same(build):
    model = build()
    same = shrink(model)
    assert (count_macs(same), count_parameters(same)) == (count_macs(model), count_parameters(model))


@pytest.mark.parametrize("layer", [lambda: L.MultiHeadAttention(2, 4), lambda: L.GroupQueryAttention(4, 4, 2)])
def test_attention_makes_keys_and_values_at_their_own_lengths(layer):
    query, value, key = keras.Input((5, 8)), keras.Input((7, 8)), keras.Input((7, 8))
    sizes = {"query": 5, "value": 7, "key": 7, "attention_output": 5}
    model = keras.Model([query, value, key], layer()(query, value, key=key))
    kernels = [weight for weight in model.weights if "kernel" in weight.name]
    assert len(kernels) == 4
    assert count_macs(model) == sum(sizes[kernel.path.split("/")[-2]] * int(np.prod(kernel.shape)) for kernel in kernels)
    itself = layer()
    alike = keras.Model(query, itself(query, query))
    assert count_macs(alike) == sum(5 * int(np.prod(weight.shape)) for weight in itself.weights if "kernel" in weight.name)


def test_tables_that_are_looked_up_multiply_nothing():
    layers = [L.Embedding(50, 8), L.GlobalAveragePooling1D(), L.Dense(16), L.Dense(2)]
    model = keras.Sequential([keras.Input((6,), dtype="int32"), *layers])
    report = prune(model, "unstructured", budget="macs=0.5")
    left = {kernel.name.split("/")[0]: kernel.kept_weights for kernel in report.kernels}
    assert left.pop(next(name for name in left if "embedding" in name)) == 400
    assert sum(left.values()) == (128 + 32) // 2


def alone(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def frames():
    """A model applied to each of five frames, and inside it another one to each of its eight rows."""
    rows = alone((8, 3), L.Conv1D(4, 3), L.Flatten(), L.Dense(2))
    return alone((5, 8, 8, 3), L.TimeDistributed(alone((8, 8, 3), L.Conv2D(3, 3, padding="same"), L.TimeDistributed(rows))))


UNLIKE = {
    "recurrent, last step": (lambda: alone((20, 4), L.LSTM(8)), 20 * (4 * 32 + 8 * 32)),
    "recurrent, all steps": (lambda: alone((20, 4), L.LSTM(8, return_sequences=True)), 20 * (4 * 32 + 8 * 32)),
    "recurrent cell": (lambda: alone((20, 4), L.RNN(L.SimpleRNNCell(8))), 20 * (4 * 8 + 8 * 8)),
    "both directions": (lambda: alone((20, 4), L.Bidirectional(L.GRU(8))), 2 * 20 * (4 * 24 + 8 * 24)),
    "convolution in time": (lambda: alone((5, 8, 8, 3), L.ConvLSTM2D(4, 3, padding="same")), 5 * 64 * (27 * 16 + 36 * 16)),
    "transposed": (lambda: alone((8, 8, 4), L.Conv2DTranspose(6, 3, strides=2)), 64 * 9 * 4 * 6),
    "transposed in time": (lambda: alone((5, 8, 4), L.TimeDistributed(L.Conv1DTranspose(6, 3, strides=2))), 40 * 3 * 4 * 6),
    "a model in time": (frames, 5 * (64 * 27 * 3 + 8 * (6 * 9 * 4 + 24 * 2))),
    "recurrent in time": (lambda: alone((5, 20, 4), L.TimeDistributed(L.LSTM(8))), 5 * 20 * (4 * 32 + 8 * 32)),
    "channels first": (lambda: alone((4, 8, 8), L.Conv2D(6, 3, data_format="channels_first")), 36 * 9 * 4 * 6),
    "channels first, depthwise": (lambda: alone((4, 8, 8), L.DepthwiseConv2D(3, data_format="channels_first")), 36 * 9 * 4),
    "heads": (lambda: alone((10, 6), L.EinsumDense("abc,cde->abde", output_shape=(10, 3, 5))), 10 * 6 * 3 * 5),
    "heads joined": (lambda: alone((10, 3, 5), L.EinsumDense("abcd,cde->abe", output_shape=(10, 7))), 10 * 3 * 5 * 7),
}


class Block(L.Layer):
    """A user's own, with layers, a model and a kernel of its own inside, and one of them called twice."""

    def build(self, shape):
        self.net = keras.Sequential([L.Conv2D(8, 3, padding="same"), L.GlobalAveragePooling2D(), L.Dense(5)])
        self.twice = L.Dense(5)
        self.kernel = self.add_weight(shape=(5, 3), name="kernel")

    def call(self, x):
        return ops.matmul(self.twice(self.twice(self.net(x))), self.kernel)


class Outer(L.Layer):
    """Own layers inside own layers, some of Keras' that have layers inside, and sizes that it says itself."""

    def build(self, shape):
        self.block, self.mix, self.time = Block(), L.MultiHeadAttention(2, 3), L.LSTM(4)

    def compute_output_shape(self, shape):
        return (shape[0], 7)

    def call(self, x):
        places = ops.reshape(x, (-1, 64, 1))
        return ops.concatenate([self.block(x), self.time(self.mix(places, places))], -1)


BLOCK_MACS = 64 * 9 * 8 + 8 * 5 + 2 * 25 + 15
OUTER_MACS = BLOCK_MACS + 4 * 64 * 6 + 64 * (16 + 64)
UNLIKE["own layer"] = (lambda: alone((8, 8, 1), Block()), BLOCK_MACS)
UNLIKE["own layers in own layers"] = (lambda: alone((8, 8, 1), Outer()), OUTER_MACS)
UNLIKE["own layer in time"] = (lambda: alone((3, 8, 8, 1), L.TimeDistributed(alone((8, 8, 1), Outer()))), 3 * OUTER_MACS)


class Plain(L.Wrapper):
    """A wrapper of the user's own."""

    def compute_output_shape(self, shape):
        return (shape[0], 17, 17, 6)

    def call(self, x):
        return ops.relu(self.layer(x))


class Secret(Plain):
    """One whose call cannot be traced without values."""

    def call(self, x):
        return self.layer(ops.convert_to_tensor(np.maximum(ops.convert_to_numpy(x), 0)))


class Steps(L.TimeDistributed):
    """A user's own class that says nothing of its own."""


class Halves(L.TimeDistributed):
    """One that computes something else."""

    def compute_output_shape(self, shape):
        return (*shape[:-1], 2)

    def call(self, x):
        return self.layer(x[:, 0]) + self.layer(x[:, 1])


def transposed():
    return L.Conv2DTranspose(6, 3, strides=2)


WRAPPERS = {
    "spectral": lambda: L.SpectralNormalization(transposed()),
    "masked": lambda: Masked(transposed()),
    "quantized": lambda: QuantizedKernel(transposed(), num_channel_axes=1),
    "own": lambda: Plain(transposed()),
    "own, not traced": lambda: Secret(transposed()),
    "several": lambda: Plain(Secret(Masked(transposed()))),
    "own around a model": lambda: Plain(alone((None, None, 4), transposed())),
    "own around a model, not traced": lambda: Secret(alone((None, None, 4), transposed())),
}
IN_TIME = ("spectral", "own", "own, not traced", "several", "own around a model", "own around a model, not traced")
UNLIKE |= {name: (lambda wrap=wrap: alone((8, 8, 4), wrap()), 64 * 9 * 4 * 6) for name, wrap in WRAPPERS.items()}
UNLIKE |= {
    f"{name}, in {kind.__name__}": (lambda k=kind, w=WRAPPERS[name]: alone((5, 8, 8, 4), k(w())), 5 * 64 * 9 * 4 * 6)
    for name in IN_TIME
    for kind in (L.TimeDistributed, Steps)
}
UNLIKE["own class of distribution"] = (lambda: alone((5, 8, 4), Halves(L.Dense(2))), 2 * 8 * 8)


def directions():
    """Both directions as two outputs, of a convolution over frames too, with channels first."""
    rows, frames = keras.Input((20, 4)), keras.Input((5, 4, 8, 6))
    film = L.ConvLSTM2D(2, 3, padding="same", data_format="channels_first")
    return keras.Model([rows, frames], [*L.Bidirectional(L.LSTM(8), merge_mode=None)(rows), L.Bidirectional(film)(frames)])


UNLIKE["both directions apart"] = (directions, 2 * 20 * (4 * 32 + 8 * 32) + 2 * 5 * 48 * (36 * 8 + 18 * 8))


@pytest.mark.parametrize("name", UNLIKE)
def test_kernels_count_as_often_as_they_are_used(name):
    build, macs = UNLIKE[name]
    model = build()
    assert count_macs(model) == Cost(groups(model)).macs() == macs
    assert not [layer.name for layer in model._flatten_layers() if "call" in vars(layer)]  # as it was


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = L.Conv2D(4, 3), L.Dense(2)

    def call(self, inputs):
        return self.head(self.hidden(inputs))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_budget_of_macs_is_refused_where_calls_are_not_known():
    model = Own()
    model(np.zeros((1, 8, 8, 3), "float32"))
    assert count_macs(model) is None
    with pytest.raises(ValueError, match="whose calls are known"):
        prune(model, "filter", budget="macs=0.5")
    with pytest.warns(UserWarning, match="after the model was saved"):
        assert prune(model, "filter", budget="weights=0.5").sparsity >= 0.5
