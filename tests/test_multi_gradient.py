"""The two-objective rule: the shortest vector between two gradients, and what a step along it does to both."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import tf_reweight as tfr
from tf_reweight.penalties.multi_gradient import loss_weight, take_off

L = keras.layers
PENALTY, LOSS = 1, 0


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.random((64, 6)).astype("float32"), rng.integers(0, 3, 64)


def small_net(optimizer=None, structure="unstructured", strength=1.0, **compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu", name="hidden"), L.Dense(3, name="top")])
    tfr.regularize(model, structure, strength, "lasso", layers="hidden")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(1e-3), loss, **compiled)
    return model


def kernel_of(model):
    return ops.convert_to_numpy(model.get_layer("hidden").kernel)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(1e-3, 1e3), st.floats(-1, 1))
def test_the_combination_is_the_shortest(seed, scale, alike):
    """No other weight gives a shorter vector, and both gradients have at least its square along it: neither rises."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=12)
    second = scale * (alike * first + rng.normal(size=12))
    parts = [[v[:5].astype("float32"), v[5:].reshape(7, 1).astype("float32")] for v in (first, second)]
    weight = float(loss_weight(*parts))
    found = weight * first + (1 - weight) * second
    others = np.linspace(0, 1, 201)[:, None]
    lengths = np.linalg.norm(others * first + (1 - others) * second, axis=1)
    assert 0 <= weight <= 1 and np.linalg.norm(found) <= lengths.min() * (1 + 1e-4)
    room = 1e-3 * np.linalg.norm(found) * np.linalg.norm(second)
    assert min(found @ first, found @ second) >= found @ found - room


def test_equal_and_opposite_gradients():
    one = [np.array([1.0, 2.0], "float32")]
    assert float(loss_weight(one, one)) == 1.0
    assert float(loss_weight(one, [-one[0]])) == pytest.approx(0.5)
    assert float(loss_weight(one, [np.zeros(2, "float32")])) == 0.0


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3])
def test_the_weight_does_not_depend_on_the_unit_of_both_gradients(factor):
    first, second = np.random.default_rng(0).normal(size=(2, 12)).astype("float32")
    difference = second - first
    expected = float(difference @ second / (difference @ difference))
    assert 0.1 < expected < 0.9
    scaled = [[(factor * gradient).astype("float32")] for gradient in (first, second)]
    assert float(loss_weight(*scaled)) == pytest.approx(expected, rel=1e-4)


def test_a_whole_batch_step_lowers_both(data):
    """The step is the combination computed by hand, and neither the loss nor the penalty rises."""
    model = small_net(keras.optimizers.SGD(1e-3), run_eagerly=True)
    layer = model.get_layer("hidden")

    def objectives():
        logits = model(data[0])
        return float(model.loss(data[1], logits)), float(np.abs(kernel_of(model)).sum())

    before, kernel = objectives(), kernel_of(model)
    plain = small_net(run_eagerly=True)
    tfr.penalties.attachment.detach(plain)
    plain.fit(*data, batch_size=64, verbose=0)
    gradients = [
        (ops.convert_to_numpy(old.value) - ops.convert_to_numpy(new.value)) / 1e-3
        for old, new in zip(model.trainable_variables, plain.trainable_variables)
    ]
    penalty = [np.zeros(variable.shape, "float32") for variable in model.trainable_variables]
    place = [variable is layer.kernel for variable in model.trainable_variables].index(True)
    penalty[place] = np.sign(kernel) / np.float32(np.sqrt(kernel.size))
    weight = float(loss_weight(gradients, penalty))
    solver = tfr.callbacks.MultiGradient(clip=0.0)
    model.fit(*data, batch_size=64, verbose=0, callbacks=[solver])
    expected = kernel - 1e-3 * (weight * gradients[place] + (1 - weight) * penalty[place])
    np.testing.assert_allclose(kernel_of(model), expected, atol=1e-6)
    assert solver.history == [{"epoch": 1, "weight": pytest.approx(weight, abs=1e-3), "zeros": 0.0}] and 0 < weight < 1
    after = objectives()
    assert after[LOSS] < before[LOSS] and after[PENALTY] < before[PENALTY]


@pytest.mark.parametrize("structure, size", [("unstructured", 1), ("neuron", 6)])
def test_what_is_small_is_zero_after_clipping(data, structure, size):
    model = small_net(keras.optimizers.Adam(1e-2), structure)
    dense = kernel_of(model)
    model.fit(*data, epochs=2, verbose=0, callbacks=[solver := tfr.callbacks.MultiGradient(clip=0.3)])
    sizes = np.sqrt(np.square(kernel_of(model)).reshape(6 // size, size, 8).mean(axis=1))
    assert ((sizes == 0) | (sizes > 0.3)).all() and 0 < (sizes == 0).mean() < 1
    assert solver.history[-1]["zeros"] == (kernel_of(model) == 0).mean() and not np.array_equal(dense, kernel_of(model))
    report = tfr.prune(model, threshold=0.0)
    assert report.sparsity == pytest.approx(solver.history[-1]["zeros"])


def test_a_kernel_keeps_its_best_group(data):
    model = small_net()
    model.fit(*data, verbose=0, callbacks=[tfr.callbacks.MultiGradient(clip=100.0)])
    assert (kernel_of(model) != 0).sum() == 1


def test_strength_only_counts_between_kernels(data):
    kernels = []
    for strength in (1e-3, 10.0):
        model = small_net(strength=strength)
        model.fit(*data, epochs=2, verbose=0, shuffle=False, callbacks=[tfr.callbacks.MultiGradient()])
        kernels.append(kernel_of(model))
    np.testing.assert_allclose(*kernels, atol=1e-6)


class Interrupting(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def test_the_rule_lasts_as_long_as_a_fit(data):
    """Afterwards, and after an interrupted one with the next, the penalty is in the loss and the optimizer is its own."""
    model = small_net()
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, verbose=0, callbacks=[tfr.callbacks.MultiGradient(), Interrupting()])
    model.fit(*data, verbose=0)
    assert "apply" not in vars(model.optimizer) and "make_train_function" not in vars(model)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, verbose=0, callbacks=[tfr.callbacks.MultiGradient(), Interrupting()])
    assert "apply" in vars(model.optimizer)
    model.fit(*data, verbose=0, callbacks=[tfr.callbacks.MultiGradient()])
    assert "apply" not in vars(model.optimizer) and not take_off(model)
    expected = float(model.loss(data[1], model(data[0]))) + float(np.abs(kernel_of(model)).sum())
    assert model.evaluate(*data, verbose=0) == pytest.approx(expected, rel=1e-4)


def test_another_callback_can_have_the_step_made_anew_while_the_rule_is_at_work(data):
    model, made = small_net(), []

    def make(epoch, logs):
        before = model.train_function
        made.append(model.make_train_function(force=True) is not before and model.train_function is not before)

    making = keras.callbacks.LambdaCallback(on_epoch_begin=make)
    model.fit(*data, epochs=2, verbose=0, callbacks=[tfr.callbacks.MultiGradient(), making])
    assert made == [True, True]


@pytest.mark.parametrize("arguments", [{"clip": -1.0}, {"scale": 0.0}, {"clip": float("nan")}])
def test_values_out_of_range(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        tfr.callbacks.MultiGradient(**arguments)


def test_models_that_the_rule_cannot_follow(data):
    solver = tfr.callbacks.MultiGradient()
    with pytest.raises(ValueError, match="must hold one MultiGradient"):
        small_net().fit(*data, verbose=0, callbacks=[solver, tfr.callbacks.MultiGradient(clip=0.1)])
    solver = tfr.callbacks.MultiGradient()
    model = small_net(strength=0.0)
    with pytest.raises(ValueError, match="penalties with a gradient"):
        model.fit(*data, verbose=0, callbacks=[solver])
    tfr.penalties.attachment.detach(model)
    with pytest.raises(ValueError, match="at least one penalty"):
        model.fit(*data, verbose=0, callbacks=[solver])
    tfr.regularize(model, "unstructured", budget="sparsity=0.5")
    with pytest.raises(ValueError, match="without a budget"):
        model.fit(*data, verbose=0, callbacks=[solver])
