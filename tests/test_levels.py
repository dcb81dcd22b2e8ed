"""The penalty towards quantization levels: against a plain loop, in training, through save and load, and what it refuses."""

import keras
import nets
import numpy as np
import pytest
from keras import ops

from tf_reweight import data, quantization
from tf_reweight.data import models
from tf_reweight.kernels.table import find
from tf_reweight.penalties import attachment
from tf_reweight.penalties.reweighting import Reweighting
from tf_reweight.pruning.prune import prune
from tf_reweight.quantization import ToLevels, grid

L = keras.layers


def test_distances_against_a_plain_loop():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype("float32")
    found = np.asarray(grid.distances(ops.convert_to_tensor(kernel), 3, 1)).reshape(kernel.shape)
    for index in np.ndindex(kernel.shape):
        step = np.abs(kernel[..., index[-1]]).max() / 3
        nearest = min((level * step for level in range(-3, 4)), key=lambda value: abs(value - kernel[index]))
        assert found[index] == pytest.approx(abs(kernel[index] - nearest) / step, abs=1e-4)


def test_the_gradient_leads_to_the_level_and_is_finite_on_it():
    tf = pytest.importorskip("tensorflow")
    kernel = tf.Variable([[1.0, 0.6, 0.4, 0.0]])
    with tf.GradientTape() as tape:
        total = ops.sum(grid.distances(kernel, 2))
    np.testing.assert_allclose(np.asarray(tape.gradient(total, kernel))[0, 1:], [-1, 1, 0], atol=1e-4)


def test_training_brings_weights_to_levels_and_keeps_zeros(tmp_path):
    digits = data.load("digits")
    model = models.build("small_cnn", digits.input_shape, digits.num_classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    model.fit(*digits.train, epochs=2, verbose=0)
    prune(model, sparsity=0.5, structure="unstructured")
    zeros = [np.asarray(target.variable) == 0 for target in find(model)[0]]
    quantization.regularize_levels(model, 3, strength=1e-3)
    before = [float(ops.mean(a.regularizer.norms(a.target.variable))) for a in attachment.attachments(model)]
    model.compile(keras.optimizers.Adam(2e-3), loss)
    model.fit(*digits.train, epochs=4, verbose=0, callbacks=[Reweighting(every=2)])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    weights = [np.asarray(a.regularizer.penalty_weights) for a in attachment.attachments(model)]
    for first, second in zip(weights, attachment.attachments(again), strict=True):
        np.testing.assert_array_equal(first, np.asarray(second.regularizer.penalty_weights))
    moved = quantization.snap(again)
    assert np.mean(list(moved.values())) < 0.5 * np.mean(before) and not attachment.attachments(again)
    for target, mask in zip(find(again)[0], zeros):
        kernel = np.asarray(target.variable)
        assert (kernel[mask] == 0).all()
        assert len(np.unique(np.round(np.abs(kernel).reshape(-1, kernel.shape[-1])[:, 0], 6))) <= 4


def test_config_round_trip_and_bad_input():
    layer = ToLevels(5, 1, 1e-3, {"name": "log_sum", "epsilon": 0.05})
    assert ToLevels(**layer.get_config()).get_config() == layer.get_config()
    assert keras.saving.get_registered_name(ToLevels) == "tf_reweight>ToLevels"
    embedding = keras.Sequential([keras.Input((3,), dtype="int32"), L.Embedding(5, 2)])
    for call in (
        lambda: ToLevels(1), lambda: quantization.regularize_levels(nets.plain(), 17), lambda: quantization.snap(nets.plain()),
        lambda: quantization.regularize_levels(nets.plain(), strength=-1), lambda: quantization.regularize_levels(embedding),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Received: "):
            call()


def test_the_penalty_and_its_defaults():
    """4 bits, one step for the kernel, and the reweighting that `regularize_levels` and the class have without being told."""
    layer = ToLevels()
    assert (layer.bits, layer.num_channel_axes, layer.strength, layer.negligible) == (4, 0, 1e-5, 0.0)
    known = layer.get_config()
    assert known["penalty"] == ToLevels(penalty={"name": "log_sum", "epsilon": 0.1}).get_config()["penalty"]
    assert known["price"] == 1.0 and known["layout"] is None
    model = nets.plain()
    attached = quantization.regularize_levels(model)
    for item in attached.attachments:
        regularizer = item.regularizer
        assert (regularizer.bits, regularizer.strength) == (4, 1e-5)
        assert regularizer.num_channel_axes == (1 if isinstance(item.target.layer, L.Conv2D) else 0)
        assert regularizer.get_config()["penalty"] == known["penalty"]
    assert len(attached.attachments) == 4 and attached.left_out == ()


def test_kernels_without_a_rule_are_left_out_and_the_others_have_the_penalty():
    model = keras.Sequential([keras.Input((3,), dtype="int32"), L.Embedding(5, 2), L.Flatten(), L.Dense(2, name="last")])
    attached = quantization.regularize_levels(model, 16, 1e-2, "lasso")
    assert [item.reason for item in attached.left_out] == ["Embedding has no rule for integers"]
    (item,) = attached.attachments
    assert item.target.layer is model.get_layer("last")
    assert (item.regularizer.bits, item.regularizer.strength) == (16, 1e-2)
    assert item.regularizer.get_config()["penalty"] == ToLevels(penalty="lasso").get_config()["penalty"]


def test_distances_of_every_kind_of_channel_against_a_plain_loop():
    """Of a depthwise kernel each pair of the last axes is a channel; small ones have a thousandth of the largest."""
    for axes in [0, 1, 2]:
        for bits in [2, 3, 8]:
            kernel = np.random.default_rng(1).normal(size=(3, 2, 4, 2)).astype("float32")
            kernel[:, :, 1] *= 1e-5
            found = np.asarray(grid.distances(ops.convert_to_tensor(kernel), bits, axes))
            rounded = np.asarray(grid.round_kernel(ops.convert_to_tensor(kernel), bits, axes))
            assert found.shape == (1, 48) and found.dtype == "float32" and found.max() <= 0.5 + 1e-4
            found = found.reshape(kernel.shape)
            for index in np.ndindex(kernel.shape):
                channel = kernel[..., *index[4 - axes :]] if axes else kernel
                limit = max(np.abs(channel).max(), 1e-3 * np.abs(kernel).max()) * (1 + 1e-6)
                step = limit / (2 ** (bits - 1) - 1)
                nearest = round(float(kernel[index] / step)) * step
                assert rounded[index] == pytest.approx(nearest, abs=2e-3 * float(step))
                assert found[index] == pytest.approx(abs(kernel[index] - nearest) / step, abs=2e-3)


def test_a_kernel_of_zeros_stays_one():
    for axes in (0, 1, 2):
        zeros = ops.zeros((3, 3, 2, 4))
        assert not np.asarray(grid.round_kernel(zeros, 4, axes)).any() and not np.asarray(grid.distances(zeros, 4, axes)).any()


def test_snapping_moves_weights_to_their_levels_and_tells_how_far():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="a"), L.Dense(2, name="b")])
    nets.randomize(model)
    quantization.regularize_levels(model, 3, layers="a")
    a, b = (np.asarray(layer.kernel) for layer in model.layers)
    step = np.abs(a).max() / 3
    moved = quantization.snap(model)
    assert list(moved) == [target.name for target in find(model)[0] if target.layer.name == "a"]
    np.testing.assert_allclose(np.asarray(model.layers[0].kernel), np.round(a / step) * step, atol=1e-5)
    assert list(moved.values())[0] == pytest.approx(np.mean(np.abs(a / step - np.round(a / step))), abs=1e-4)
    np.testing.assert_array_equal(np.asarray(model.layers[1].kernel), b)
    assert not attachment.attachments(model)
    with pytest.raises(ValueError, match="must have the penalty towards levels"):
        quantization.snap(model)


def test_only_penalties_towards_levels_are_snapped():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="a"), L.Dense(2, name="b")])
    nets.randomize(model)
    attachment.regularize(model, "unstructured", 1e-3, layers="b")
    quantization.regularize_levels(model, 3, layers="a")
    b = np.asarray(model.layers[1].kernel)
    assert len(quantization.snap(model)) == 1
    np.testing.assert_array_equal(np.asarray(model.layers[1].kernel), b)
