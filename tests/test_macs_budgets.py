"""What a budget of multiply-accumulates leaves, counted in a run of the small model."""

import keras
import pytest

import tf_reweight as tfr
from tests.multiplied import macs_of_a_run
from tf_reweight.graph.counting import count_macs

L = keras.layers


def stack(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers, L.Dense(3)])


def shared():
    """A model of open sizes at two sizes, with a transposed convolution inside a wrapper that no rule follows."""
    up = L.SpectralNormalization(L.Conv2DTranspose(6, 3, strides=2))
    inner = stack((None, None, 3), L.Conv2D(8, 3, activation="relu"), L.Conv2D(8, 3, activation="relu"), up)
    x = keras.Input((12, 10, 3))
    both = [L.GlobalMaxPooling2D()(inner(y)) for y in (x, L.AveragePooling2D(2)(x))]
    return keras.Model(x, L.Dense(2)(L.Dense(8, activation="relu")(L.Concatenate()(both))))


def over_time():
    steps = [L.Conv2D(8, 3, activation="relu"), L.Conv2DTranspose(6, 3, strides=2, activation="relu"), L.GlobalMaxPooling2D()]
    return stack((4, 12, 12, 3), *map(L.TimeDistributed, steps), L.Dense(8, activation="relu"))


def depthwise():
    wide = [L.DepthwiseConv2D(3, depth_multiplier=3, strides=2), L.ReLU(), L.SeparableConv2D(12, 3, depth_multiplier=2)]
    narrow = [L.ReLU(), L.Conv2DTranspose(6, 3, strides=2), L.ReLU(), L.GlobalAveragePooling2D()]
    return stack((16, 16, 3), L.Conv2D(8, 3), *wide, *narrow)


def signal():
    convolutions = [L.Conv1D(8, 5, strides=2, activation="relu"), L.Conv1DTranspose(6, 3, strides=2, activation="relu")]
    return stack((32, 4), *convolutions, L.LSTM(10, return_sequences=True), L.GRU(7))


def directions():
    recurrent = [L.Bidirectional(L.LSTM(6, return_sequences=True)), L.TimeDistributed(L.Dense(8, activation="relu"))]
    return stack((16, 4), L.Dense(8, activation="relu"), *recurrent, L.Bidirectional(L.GRU(4)))


def attention():
    x = keras.Input((12, 8))
    y = L.Dense(16, activation="relu")(x)
    y = L.Add()([y, L.MultiHeadAttention(4, 4)(y, y)])
    y = L.Dense(16)(L.Dense(32, activation="relu")(y))
    y = L.GroupQueryAttention(4, 4, 2)(y, y)
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(y)))


NETS = (shared, over_time, depthwise, signal, directions, attention)


@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)
def test_a_budget_holds_in_a_run_of_the_small_model(build):
    keras.utils.set_random_seed(1)
    model = build()
    dense = macs_of_a_run(model)
    assert count_macs(model) == dense
    tfr.prune_groups(model, budget="macs=0.6")
    small = tfr.shrink(model)
    assert 0.55 * dense < macs_of_a_run(small) == count_macs(small) <= 0.6 * dense
