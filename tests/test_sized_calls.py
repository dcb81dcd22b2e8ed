"""Sizes inside nested models are those they are called with, whatever their own graph leaves open."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tests.multiplied import macs_of_a_run
from tf_reweight.coupling import Cost, groups
from tf_reweight.graph import sized_calls
from tf_reweight.graph.counting import count_macs, kernel_uses

L = keras.layers


class Own(L.Layer):
    """A layer of the user's own, with others inside."""

    def build(self, shape):
        self.first, self.second = L.Conv2D(6, 3, padding="same"), L.Dense(shape[-1])

    def call(self, x):
        return x + self.second(ops.relu(self.first(x)))


def backbone(sizes, name=None):
    """Strides, borders, a depth multiplier, a branch, sums, and operations that are no layers."""
    x = inputs = keras.Input((*sizes, 3))
    x = L.Conv2D(8, 3, strides=2, use_bias=False)(x)
    x = L.ReLU()(L.BatchNormalization()(x))
    y = L.Conv2D(8, 1)(L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(L.ZeroPadding2D()(x)))
    x = L.Concatenate()([L.ZeroPadding2D()(x), ops.relu(y) * 2.0])
    x = L.Conv2DTranspose(6, 3, strides=2)(L.MaxPooling2D()(x))
    return keras.Model(inputs, L.Dense(5)(x), name=name)


def head(x):
    return L.Dense(2)(L.Dense(7)(L.GlobalAveragePooling2D()(x)))


def one(sizes):
    x = keras.Input((24, 20, 3))
    return keras.Model(x, head(backbone(sizes)(x)))


def nested_twice(sizes):
    x = inputs = keras.Input((*sizes, 3))
    middle = keras.Model(inputs, L.Conv2D(4, 1)(backbone(sizes)(L.Conv2D(3, 3, padding="same")(x))))
    x = keras.Input((24, 20, 3))
    return keras.Model(x, head(middle(x)))


def sequential(sizes):
    return keras.Sequential([keras.Input((24, 20, 3)), backbone(sizes), L.GlobalMaxPooling2D(), L.Dense(2)])


def behind_another(sizes):
    """The sizes of the second model are those that the first one gives."""
    x = keras.Input((24, 20, 3))
    first = backbone(sizes)
    sizes = sizes if sizes[0] is None else first.output_shape[1:3]
    y = keras.Input((*sizes, 5))
    return keras.Model(x, keras.Model(y, L.Conv2D(4, 3)(y))(first(x)))


def own_inside(sizes):
    inner = keras.Sequential([keras.Input((*sizes, 3)), L.Conv2D(4, 3, strides=2), Own(), Own()])
    x = keras.Input((24, 20, 3))
    return keras.Model(x, head(inner(x)))


def sequence(sizes):
    length = sizes[0]
    inner = keras.Sequential([keras.Input((length, 4)), L.Conv1D(6, 3, strides=2), L.Conv1DTranspose(3, 2), L.Dense(4)])
    x = keras.Input((24, 4))
    return keras.Model(x, L.Dense(2)(inner(x)))


def in_time(sizes):
    x = keras.Input((3, 24, 20, 3))
    return keras.Model(x, L.Dense(2)(L.TimeDistributed(backbone(sizes))(x)))


def in_time_twice(sizes):
    """A model at each step of a model that has all steps."""
    inner = keras.Sequential([keras.Input((sizes[0] and 3, *sizes, 3)), L.TimeDistributed(backbone(sizes)), L.Dense(4)])
    x = keras.Input((3, 24, 20, 3))
    return keras.Model(x, inner(x))


NETS = (one, nested_twice, sequential, behind_another, own_inside, sequence, in_time, in_time_twice)


@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)
def test_open_sizes_count_like_fixed_ones_and_like_a_run(build):
    model, fixed = build((None, None)), build((24, 20))
    assert count_macs(model) == count_macs(fixed) == macs_of_a_run(model) == Cost(groups(model)).macs()
    assert [positions for _, positions, _ in kernel_uses(model)] == [positions for _, positions, _ in kernel_uses(fixed)]


def test_a_model_that_is_called_at_two_sizes_has_both():
    shared = backbone((None, None))
    x = keras.Input((24, 20, 3))
    model = keras.Model(x, L.Dense(2)(L.Add()([L.GlobalMaxPooling2D()(shared(y)) for y in (x, L.AveragePooling2D(2)(x))])))
    assert count_macs(model) == macs_of_a_run(model) == Cost(groups(model)).macs()
    assert count_macs(keras.Model(x, shared(x))) < count_macs(model)


def test_a_layer_counts_alone_and_at_each_step():
    shared = L.Dense(3)
    x = keras.Input((6, 4))
    model = keras.Model(x, [L.TimeDistributed(shared)(x), shared(x[:, 0])])
    assert count_macs(model) == 7 * 12


def test_what_is_open_outside_counts_as_one():
    model = backbone((None, None))
    x = keras.Input((None, None, 3))
    weights = sum(int(np.prod(kernel.shape)) for kernel, *_ in kernel_uses(model))
    assert count_macs(keras.Model(x, model(x))) == count_macs(model) == weights
    x = keras.Input((24, None, 3))
    rows = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 3)])
    assert count_macs(keras.Model(x, rows(x))) == 22 * 27 * 4


class Once(L.Layer):
    """It tells its sizes while the model is made and called, and fails later, as a user's code may."""

    told = 2

    def compute_output_shape(self, shape):
        self.told -= 1
        if self.told < 0:
            raise RuntimeError("not again")
        return shape

    def call(self, x):
        return x


def test_behind_a_layer_that_does_not_tell_its_sizes_they_are_as_keras_knows_them():
    inner = keras.Sequential([keras.Input((None, 4)), L.Conv1D(4, 3), Once(), L.Dense(2)])
    x = keras.Input((24, 4))
    assert count_macs(keras.Model(x, inner(x))) == 22 * 12 * 4 + 8


@pytest.mark.parametrize("build", [one, nested_twice], ids=lambda build: build.__name__)
def test_a_budget_of_channels_holds_inside_a_model_of_open_sizes(build):
    model = build((None, None))
    dense = macs_of_a_run(model)
    tfr.prune_groups(model, budget="macs=0.7")
    assert 0.5 * dense < macs_of_a_run(tfr.shrink(model)) <= 0.7 * dense


@pytest.mark.parametrize("build", [one, in_time], ids=lambda build: build.__name__)
def test_a_budget_of_single_kernels_holds_inside_a_model_of_open_sizes(build):
    model = build((None, None))
    places = [positions for _, positions, _ in kernel_uses(build((24, 20)))]
    tfr.prune(model, "unstructured", budget="macs=0.5")
    kernels = [ops.convert_to_numpy(kernel) for kernel, *_ in kernel_uses(model)]
    kept = sum(count * np.count_nonzero(kernel) for count, kernel in zip(places, kernels))
    assert 0.49 < kept / macs_of_a_run(model) <= 0.5


def test_prices_of_coupled_channels_are_those_of_fixed_sizes():
    found = [groups(nested_twice(sizes)) for sizes in ((None, None), (24, 20))]
    prices = [tfr.coupling.savings.of_sets("macs", coupled) for coupled in found]
    assert prices[0] == prices[1] and len(set(prices[0])) > 2


def einsum(length=None):
    x = keras.Input((16, 8))
    h = L.Conv1D(8, 3, padding="same")(L.Conv1D(6, 3, padding="same")(x))
    h = L.EinsumDense("abc,cd->abd", (length, 10))(h)
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(h)))


def einsum_inside():
    x = keras.Input((16, 8))
    return keras.Model(x, L.Dense(3)(einsum()(L.Dense(8)(x))))


def einsum_at_each_step():
    x = keras.Input((5, 6, 4))
    return keras.Model(x, L.Dense(2)(L.TimeDistributed(L.EinsumDense("abc,cd->abd", (None, 3)))(x)))


def einsum_beside_an_open_length():
    x, y = keras.Input((16, 8)), keras.Input((None, 8))
    return keras.Model([x, y], [L.EinsumDense("abc,cd->abd", (None, 3))(x), L.Dense(2)(ops.mean(y, 1))])


def frames(batch=None, sizes=(8, 8)):
    """A model on each frame of a video: frames are examples for it."""
    x, each = keras.Input((5, 8, 8, 3), batch_size=batch), keras.Input((*sizes, 3))
    inner = keras.Model(each, L.Dense(7)(L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(each))))
    h = ops.reshape(inner(ops.reshape(x, (-1, 8, 8, 3))), (-1, 5, 7))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(h)))


def open_frames():
    return frames(sizes=(None, None))


def frames_of_one():
    return frames(1)


class Windows(L.Layer):
    """A layer of the user's own without weights that makes more examples."""

    def call(self, x):
        return ops.reshape(x, (-1, 16, 4))


class WindowBlock(L.Layer):
    def build(self, shape):
        self.first, self.second = L.Dense(5), L.Dense(shape[-1])

    def call(self, x):
        return ops.reshape(self.second(self.first(ops.reshape(x, (-1, 16, 4)))), (-1, 8, 8, 4))


def windows():
    x = keras.Input((8, 8, 4))
    return keras.Model(x, L.Dense(3)(Windows()(WindowBlock()(L.Dense(4)(x)))))


def pairs():
    """Both of a pair go through one layer at once."""
    x = keras.Input((6, 4))
    first, second = ops.split(L.Dense(3)(ops.concatenate([x, x * 2], axis=0)), 2, axis=0)
    return keras.Model(x, L.Dense(1)(first + second))


def examples_behind():
    x = keras.Input((6, 4))
    return keras.Model(x, ops.transpose(L.Dense(3)(ops.transpose(x, (1, 0, 2))), (1, 0, 2)))


LOST = (
    einsum, einsum_inside, einsum_at_each_step, einsum_beside_an_open_length, frames, open_frames, frames_of_one, windows,
    pairs, examples_behind,
)  # fmt: skip


@pytest.mark.parametrize("build", LOST, ids=lambda build: build.__name__)
def test_sizes_that_the_graph_loses_count_like_a_run(build):
    model = build()
    (given,) = {count_macs(model), Cost(groups(model)).macs()}
    assert given == macs_of_a_run(model)


def test_sizes_of_a_reshape_follow_from_those_of_the_inputs():
    x = keras.Input((8, 8, 4))
    h = ops.reshape(x, (ops.shape(x)[0], -1, 4))
    assert h.shape == (None, None, 4)
    assert count_macs(keras.Model(x, L.Dense(2)(ops.mean(L.Dense(8)(h), 1)))) == 64 * 32 + 16
    assert count_macs(keras.Model(x, L.GRU(3)(h))) == 64 * (36 + 27)


def test_a_batch_of_fixed_size_counts_for_one_example():
    assert count_macs(frames(3)) == count_macs(frames()) == count_macs(frames(3, (None, None)))


def test_what_stays_open_counts_as_one():
    x = keras.Input((None, 8))
    assert count_macs(keras.Model(x, L.EinsumDense("abc,cd->abd", (None, 3))(x))) == 24
    assert count_macs(keras.Model(x, ops.reshape(L.Dense(3)(x), (-1, 3)))) == 24


def test_a_budget_holds_where_the_graph_loses_sizes():
    model = einsum()
    tfr.prune_groups(model, budget="macs=0.5")
    assert 0.35 < count_macs(tfr.shrink(model)) / count_macs(einsum(16)) <= 0.5


def test_nothing_is_inferred_where_all_sizes_are_known(monkeypatch):
    monkeypatch.setattr(sized_calls, "_told", lambda *given: pytest.fail("inferred"))
    assert count_macs(einsum(16)) and count_macs(nested_twice((24, 20)))


def test_sizes_are_inferred_once_for_each_call_of_a_model(monkeypatch):
    model, inferred = nested_twice((None, None)), []
    called = sized_calls._called
    monkeypatch.setattr(sized_calls, "_called", lambda node, *rest: inferred.append(node) or called(node, *rest))
    first = count_macs(model)
    assert len(inferred) == len({id(node) for node in inferred}) > 10
    assert count_macs(model) == first == Cost(groups(model)).macs()
    assert len(inferred) == len({id(node) for node in inferred})
    tfr.prune_groups(model, budget="macs=0.9")
    assert len(inferred) == len({id(node) for node in inferred})


def test_nothing_of_a_model_changes():
    model = nested_twice((None, None))
    before = [(layer, len(layer._inbound_nodes), set(vars(layer))) for layer in model._flatten_layers(include_self=False)]
    count_macs(model)
    after = [(layer, len(layer._inbound_nodes), set(vars(layer))) for layer in model._flatten_layers(include_self=False)]
    assert before == after


@pytest.mark.parametrize("numbers", [(4, None), (None, 4), (3, 1), (1, 3)])
def test_inputs_of_unlike_numbers_of_examples_count_as_one_each(numbers):
    def net(numbers):
        inputs = [keras.Input(batch_shape=(number, size)) for number, size in zip(numbers, (8, 6))]
        a, b = L.Dense(4)(inputs[0]), L.Dense(4)(inputs[1])
        return keras.Model(inputs, L.Dense(3)(a + b))

    assert count_macs(net(numbers)) == count_macs(net((None, None))) == 8 * 4 + 6 * 4 + 4 * 3
