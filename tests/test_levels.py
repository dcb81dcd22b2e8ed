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
