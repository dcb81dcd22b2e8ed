"""Activations that are a user's own functions or layer objects, in every stage that copies a layer: they stay what they are."""

import functools
import inspect

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr

L = keras.layers


def own_swish(x):
    return x * ops.relu6(x + 3) / 6


def relu(x):
    """A user's function that is called as one of Keras' own, and is another."""
    return ops.tanh(x) + 0.1 * x


def silu(x):
    return ops.tanh(x) * x


class Scaled:
    """A callable object: it has neither a name nor a config."""

    def __call__(self, x):
        return 2 * ops.tanh(x)


class OwnPenalty(keras.regularizers.Regularizer):
    """One that is not registered, and is not made again from its config."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return self.value + 0 * ops.sum(x)

    def get_config(self):
        return {}


FUNCTIONS = [own_swish, relu, silu]
NAMELESS = [functools.partial(ops.leaky_relu, negative_slope=0.3), Scaled()]
OBJECTS = [
    lambda: L.LeakyReLU(0.1), lambda: L.ReLU(6), lambda: L.ReLU(), lambda: L.ReLU(negative_slope=0.2), lambda: L.ELU(0.5),
    lambda: L.PReLU(alpha_initializer=keras.initializers.RandomUniform(0.1, 0.3)), lambda: L.Activation("silu"),
]  # fmt: skip
IDS = ["LeakyReLU", "ReLU6", "ReLU", "ReLU with slope", "ELU", "PReLU", "Activation"]


def net(activation):
    """Each kind of place that an activation has: kernel layers, a layer of its own, a nested model."""
    inside = keras.Sequential([keras.Input((4, 4, 6)), L.Conv2D(6, 3, padding="same", activation=activation())], name="inside")
    x = keras.Input((6, 6, 3))
    h = L.Conv2D(6, 3, activation=activation())(x)
    h = inside(L.Activation(activation())(h))
    h = L.SeparableConv2D(6, 3, activation=activation())(h)
    return keras.Model(x, L.Dense(3)(L.Dense(8, activation=activation())(L.Flatten()(h))))


def examples(num=16):
    return np.random.default_rng(0).normal(size=(num, 6, 6, 3)).astype("float32")


def same(model, copy, tolerance=1e-3):
    x = examples()
    np.testing.assert_allclose(copy(x, training=False), model(x, training=False), atol=tolerance, rtol=tolerance)


STAGES = {
    "quantize": lambda model: tfr.quantize(model, weight_bits=16),  # fine steps, for nothing is rounded but kernels so far
    "strip_quantization": lambda model: tfr.quantization.strip_quantization(tfr.quantize(model)),
    "strip": tfr.strip,
    "shrink": tfr.shrink,
}


def assert_stays_in_every_copy(model):
    """No stage changes the model that it copies: all have one."""
    broken = {}
    for stage, copied in STAGES.items():
        try:
            same(model, copied(model))
        except Exception as error:
            broken[stage] = error
    assert not broken, broken


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_users_function_stays_in_every_copy(function):
    keras.utils.set_random_seed(0)
    assert_stays_in_every_copy(net(lambda: function))


@pytest.mark.parametrize("function", NAMELESS, ids=["partial", "object"])
def test_a_callable_that_no_config_holds_stays_in_every_copy(function):
    keras.utils.set_random_seed(0)
    assert_stays_in_every_copy(net(lambda: function))
    x = keras.Input((4, 3))
    inside = L.TimeDistributed(L.Dense(3, activation=function))(L.LSTM(4, activation=function, return_sequences=True)(x))
    model, given = keras.Model(x, L.Dense(2)(inside)), np.random.default_rng(0).normal(size=(8, 4, 3)).astype("float32")
    for copied in STAGES.values():
        np.testing.assert_allclose(copied(model)(given, training=False), model(given, training=False), atol=1e-3)


PENALTIES = {
    "nothing": lambda model: None,
    "regularize": lambda model: tfr.regularize(model, "unstructured", 1e-3),
    "twice": lambda model: (tfr.regularize(model, "filter", 1e-3), tfr.regularize(model, "unstructured", 1e-3)),
    "regularize_coupled": lambda model: tfr.regularize_coupled(model, 1e-3),
    "regularize_levels": lambda model: tfr.quantization.regularize_levels(model, 4),
}


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_users_regularizer_beside_a_penalty_is_the_very_object_in_every_copy(penalty):
    own = OwnPenalty(5.0)
    x = keras.Input((6, 6, 3))
    h = L.Conv2D(4, 3, kernel_regularizer=own)(L.Conv2D(4, 3)(x))
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(h)))
    PENALTIES[penalty](model)
    for copied in STAGES.values():
        assert float(sum(copied(model).losses)) == 5.0


def test_a_users_regularizer_inside_of_other_layers_is_the_very_object():
    own = OwnPenalty(5.0)
    x = keras.Input((4, 3))
    inside = L.TimeDistributed(L.Dense(3, kernel_regularizer=own))(L.Bidirectional(L.GRU(2, return_sequences=True))(x))
    model = keras.Model(x, L.Dense(2)(L.MultiHeadAttention(1, 2, kernel_regularizer=own)(inside, inside)))
    tfr.regularize(model, "unstructured", 1e-3)
    for stage in ("strip", "shrink"):
        assert float(sum(STAGES[stage](model).losses)) == 25.0


class OwnSquares(keras.regularizers.Regularizer):
    """One that is not registered, and has all it needs in its config."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * ops.sum(ops.square(x))

    def get_config(self):
        return {"factor": self.factor}


def test_two_regularizers_of_a_users_class_inside_of_a_layer_stay_two():
    """One name stands for both in the config of the layer around."""
    kernel, bias = OwnSquares(0.1), OwnSquares(5.0)
    own = {"kernel_regularizer": kernel, "bias_regularizer": bias, "bias_initializer": "ones"}
    for layer in (L.TimeDistributed(L.Dense(3, **own)), L.RNN([L.LSTMCell(3, **own), L.GRUCell(3, kernel_regularizer=bias)])):
        model = keras.Sequential([keras.Input((4, 3)), layer, L.Dense(2)])
        wanted = float(sum(model.losses))
        for copied in STAGES.values():
            np.testing.assert_allclose(float(sum(copied(model).losses)), wanted, rtol=1e-5)


def times(factor):
    """Functions of one name that do unlike things."""

    def scaled(x):
        return factor * ops.tanh(x)

    return scaled


def drawn(shape, dtype=None, value=0.1):
    return value * keras.random.normal(shape, dtype=dtype, seed=3)


class WithoutConfig(keras.regularizers.Regularizer):
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * ops.sum(ops.square(x))


class Halved(keras.constraints.Constraint):
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x / self.by


@keras.saving.register_keras_serializable("tests")
class Around(L.Layer):
    """Has a config of its own, with a layer inside."""

    def __init__(self, inner, fn=None, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner if isinstance(inner, L.Layer) else keras.saving.deserialize_keras_object(inner)
        self.fn = keras.activations.get(fn)

    def build(self, shape):
        if not self.inner.built:
            self.inner.build(shape)

    def call(self, x):
        return self.fn(self.inner(x))

    def get_config(self):
        own = {"inner": keras.saving.serialize_keras_object(self.inner), "fn": keras.activations.serialize(self.fn)}
        return {**super().get_config(), **own}


class Unregistered(L.Dense):
    """A layer whose class Keras does not know by name."""


ACTING = {
    "kernel_initializer": functools.partial(drawn, value=0.2), "bias_initializer": lambda *args, **own: drawn(*args, **own),
    "kernel_regularizer": WithoutConfig(0.3), "bias_regularizer": lambda x: ops.sum(x**2),
    "activity_regularizer": functools.partial(WithoutConfig.__call__, WithoutConfig(0.1)),
    "kernel_constraint": Halved(1.1), "bias_constraint": lambda x: 0.9 * x,
}  # fmt: skip
# Keras itself refuses such initializers in attention.
OF_ATTENTION = {name: value for name, value in ACTING.items() if "initializer" not in name}
HOLDERS = {
    "Dense": lambda x: L.Dense(3, activation=times(2.0), **ACTING)(x),
    "EinsumDense": lambda x: L.EinsumDense("abc,cd->abd", (4, 3), lambda y: 2 * y, "d", **ACTING)(x),
    "MultiHeadAttention": lambda x: L.MultiHeadAttention(1, 2, **OF_ATTENTION)(x, x),
    "GroupQueryAttention": lambda x: L.GroupQueryAttention(2, 2, 1, **OF_ATTENTION)(x, x),
    "TimeDistributed": lambda x: L.TimeDistributed(L.Dense(3, activation=lambda y: ops.tanh(2 * y), **ACTING))(x),
    "cells": lambda x: L.RNN([L.GRUCell(3, times(2.0), times(0.5), **ACTING), L.SimpleRNNCell(2, times(-1.0))])(x),
    "a model at steps": lambda x: L.TimeDistributed(
        keras.Sequential([keras.Input((3,)), L.Dense(3, times(2.0), **ACTING), L.Dense(2, times(3.0))])
    )(x),
    "a user's layer at steps": lambda x: L.TimeDistributed(Unregistered(3, activation=times(2.0), **ACTING))(x),
    "a user's layer": lambda x: Around(Around(L.Dense(3, times(2.0), **ACTING), times(3.0)), times(-1.0))(x),
}  # fmt: skip


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_no_config_holds_and_functions_of_one_name_stay_in_every_copy(holder):
    x = keras.Input((4, 3))
    model = keras.Model(x, L.Dense(2)(HOLDERS[holder](x)))
    given = np.random.default_rng(0).normal(size=(8, 4, 3)).astype("float32")
    outputs, loss, kept = model(given), float(sum(model.losses)), sum(w.constraint is not None for w in model.weights)
    for stage in ("strip", "shrink", "quantize"):
        copy = STAGES[stage](model)
        np.testing.assert_allclose(copy(given), outputs, atol=0.02 if stage == "quantize" else 1e-5)
        assert float(sum(copy.losses)) == pytest.approx(loss, rel=1e-2)
        assert sum(weight.constraint is not None for weight in copy.weights) == kept


@pytest.mark.parametrize("build", OBJECTS, ids=IDS)
def test_a_layer_as_activation_stays_in_every_copy_with_its_weights(build):
    keras.utils.set_random_seed(0)
    model = net(build)
    model(examples())  # Keras makes the weights of a PReLU inside a layer at the first examples
    assert_stays_in_every_copy(model)


@pytest.mark.parametrize("function", [relu, silu], ids=lambda function: function.__name__)
def test_recurrent_layers_with_a_users_function_stay_float_and_its_own(function):
    x = keras.Input((4, 3))
    model = keras.Model(x, L.Dense(2)(L.LSTM(4, activation=function, recurrent_activation=function)(x)))
    qat, report = tfr.quantize(model, weight_bits=16, return_report=True)
    given = np.random.default_rng(0).normal(size=(8, 4, 3)).astype("float32")
    np.testing.assert_allclose(qat(given, training=False), model(given, training=False), atol=1e-4)
    assert "lstm" in str([item.name for item in report.left_out])


def test_a_users_function_is_named_where_it_stays_float():
    _, report = tfr.quantize(net(lambda: relu), return_report=True)
    assert any("'relu'" in item.reason for item in report.left_out)
    kept = {item.name for item in report.left_out}
    assert any(name.endswith("_activation") for name in kept)


@pytest.mark.parametrize("build", [OBJECTS[0], OBJECTS[1]], ids=IDS[:2])  # the others are these with another slope or limit
def test_files_compute_layer_objects_in_integers(build, tmp_path):
    keras.utils.set_random_seed(0)
    model = net(build)
    qat, report = tfr.quantize(model, return_report=True)
    tfr.quantization.calibrate(qat, examples())
    record = tfr.export_tflite(qat, tmp_path / "q.tflite", "int8", verify_data=examples(), accelerated=False)
    assert not report.left_out and not record.float_ops


@pytest.mark.parametrize("build", [lambda: L.LeakyReLU(0.1), L.ReLU], ids=["LeakyReLU", "ReLU"])
def test_channels_behind_layer_objects_can_be_pruned(build):
    keras.utils.set_random_seed(0)
    model = net(build)
    tfr.prune_groups(model, sparsity=0.4)
    small = tfr.shrink(model)
    assert small.count_params() < model.count_params()
    same(model, small)


@pytest.mark.parametrize("function", [own_swish, NAMELESS[0], "softmax"], ids=["function", "partial", "softmax"])
@pytest.mark.parametrize("build", [L.Conv2D, L.Activation], ids=["inside", "behind"])
def test_channels_behind_a_users_function_stay_and_the_reason_is_true(function, build):
    """Keras' softmax mixes channels; of a function of the user's own nobody knows."""
    x = keras.Input((6, 6, 3))
    h = L.Conv2D(4, 3, activation=function)(x) if build is L.Conv2D else L.Activation(function)(L.Conv2D(4, 3)(x))
    model = keras.Model(x, L.Conv2D(2, 1)(L.Conv2D(4, 1)(h)))
    reason = "mixes channels" if function == "softmax" else "is not known to act on each number alone"
    assert any(reason in text for item in tfr.groups(model).frozen for text in item.reasons)


class Pull(keras.regularizers.Regularizer):
    """Keras wants no `get_config` here, as long as the model is not saved."""

    def __init__(self, strength):
        self.strength = strength

    def __call__(self, x):
        return self.strength * ops.sum(ops.square(x))


TABLE = {"twice": lambda x: 2 * x, "half": lambda x: x / 2}
# What a user's layer writes down of what it holds, and how it is made again.
WRITTEN = {
    "a number of a regularizer": (lambda: Pull(0.5), lambda held: held.strength, Pull),
    "a default of a function": (lambda: lambda x, slope=0.1: slope * x, lambda held: held.__defaults__[0], None),
    "the source of a function": (lambda: TABLE["half"], lambda held: len(inspect.getsource(held)), None),
    "a name in a table": (
        lambda: TABLE["half"], lambda held: next(name for name, value in TABLE.items() if value is held), TABLE.get,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRITTEN)
def test_a_get_config_of_the_users_reads_what_its_layer_holds(case):
    make, write, again = WRITTEN[case]

    class Own(L.Layer):
        def __init__(self, said=None, **options):
            super().__init__(**options)
            self.held = make() if said is None or again is None else again(said)

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 4))

        def call(self, x):
            return ops.matmul(x, self.kernel)

        def get_config(self):
            return {**super().get_config(), "said": write(self.held)}

    model = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(5), Own(), L.Dense(2)])
    tfr.prune_groups(model, sparsity=0.3)
    small = tfr.shrink(model)
    assert small.count_params() < model.count_params()
    for other in (small, tfr.quantize(model)):
        own = next(layer for layer in other.layers if type(layer) is Own)
        assert write(own.held) == write(model.layers[2].held)
