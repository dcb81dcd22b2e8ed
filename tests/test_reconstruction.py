"""Kernels fitted anew after a cut, from unlabelled examples."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.coupling import reconstruction

L = keras.layers
CONVOLUTIONS = [
    lambda: (L.Conv1D(5, 3, padding="causal", dilation_rate=2), (9, 4)),
    lambda: (L.Conv1D(5, 3, strides=2, padding="same"), (9, 4)),
    lambda: (L.Conv2D(5, (3, 2), strides=2, padding="same"), (8, 7, 4)),
    lambda: (L.Conv2D(5, (3, 2), padding="valid", dilation_rate=(2, 1), use_bias=False), (8, 7, 4)),
    lambda: (L.Conv2D(5, 3, padding="same"), (6, 5, 4)),
    lambda: (L.Conv3D(5, 2, padding="same"), (3, 4, 3, 4)),
    lambda: (L.Dense(5), (6, 4)),
]


@pytest.mark.parametrize("make", CONVOLUTIONS)
def test_patches_times_the_kernel_are_what_the_layer_gives(make, monkeypatch):
    layer, shape = make()
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    wanted = ops.convert_to_numpy(layer(x)).reshape(-1, 5)
    monkeypatch.setattr(reconstruction, "_PLACES", 10**6)
    found = reconstruction._patches(layer, x.astype("float64")) @ reconstruction._flat(reconstruction._values(layer.kernel))
    found = found + reconstruction._bias(layer)
    order = lambda rows: rows[np.lexsort(rows.round(3).T)]  # noqa: E731: places come in an order of their own
    assert np.allclose(order(found), order(wanted), atol=1e-4)


def nets():
    x = keras.Input((10, 10, 3))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(12, 3, padding="same", use_bias=False)(x)))
    z = L.BatchNormalization()(L.Conv2D(12, 3, padding="same")(L.DepthwiseConv2D(3, padding="same")(y)))
    pooled = L.GlobalAveragePooling2D()(L.ReLU()(L.Add()([y, z])))
    yield keras.Model(x, L.Dense(4)(L.Dense(16, activation="relu")(pooled)))
    x = keras.Input((10, 10, 3))
    shared = L.Dense(12, activation="relu")
    hidden = L.Dense(12, activation="relu")(L.Flatten()(L.Conv2D(8, 3, strides=2, activation="relu")(x)))
    yield keras.Model(x, L.Dense(4)(L.Add()([shared(hidden), shared(shared(hidden))])))


def images(num=200):
    rng = np.random.default_rng(1)
    return (rng.normal(size=(num, 1, 1, 3)) + 0.5 * rng.normal(size=(num, 10, 10, 3))).astype("float32")


@pytest.mark.parametrize("number", [0, 1])
def test_no_layers_squared_error_rises_zeros_stay_and_outputs_come_closer(number):
    errors = {}
    for rebuilt in (False, True):
        keras.utils.set_random_seed(0)
        model, (x, unseen) = list(nets())[number], np.split(images(400), 2)
        tfr.refresh_statistics(model, x)
        dense = ops.convert_to_numpy(model(unseen))
        report = tfr.prune_groups(model, budget="macs=0.5", data=x, reconstruct=rebuilt)
        errors[rebuilt] = float(np.mean(np.square(ops.convert_to_numpy(model(unseen)) - dense)))
        zeros = sum(int((ops.convert_to_numpy(weight) == 0).sum()) for weight in model.weights if len(weight.shape) > 1)
        errors[f"zeros {rebuilt}"] = zeros
    assert report.reconstructed and all(layer["after"] <= layer["before"] + 1e-12 for layer in report.reconstructed)
    before, after = (sum(layer[when] for layer in report.reconstructed) for when in ("before", "after"))
    assert after < 0.9 * before
    assert errors["zeros True"] == errors["zeros False"] and errors[True] < 0.8 * errors[False]
    assert np.allclose(ops.convert_to_numpy(tfr.shrink(model)(x)), ops.convert_to_numpy(model(x)), atol=1e-4)


def test_without_examples_nothing_can_be_fitted():
    model = next(nets())
    with pytest.raises(ValueError, match="`reconstruct` needs examples"):
        tfr.prune_groups(model, budget="macs=0.5", reconstruct=True)


def one_hidden():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])


@pytest.mark.parametrize("scale", [1e-30, 1e18, 1e25, 1e37])
def test_examples_of_absurd_size_leave_finite_kernels_and_no_larger_error(scale):
    model, x = one_hidden(), np.random.default_rng(0).random((64, 6)).astype("float32") * np.float32(scale)
    report = tfr.prune_groups(model, sparsity=0.5, data=x, reconstruct=True)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert all(np.isfinite(entry["after"]) and entry["after"] <= entry["before"] for entry in report.reconstructed)


@pytest.mark.parametrize("reconstruct", [np.ones((4, 6)), [], {}, 1, None])
def test_examples_in_place_of_the_flag_are_an_error_that_says_where_they_belong(reconstruct):
    model = one_hidden()
    with pytest.raises(TypeError, match="(?s)`reconstruct` must be a bool.*the examples as `data`"):
        tfr.prune_groups(model, sparsity=0.5, reconstruct=reconstruct)


@pytest.mark.parametrize("words", [{"scope": np.ones(2)}, {"scope": []}, {"criterion": {}}, {"criterion": np.ones(2)}])
def test_names_that_are_no_text_are_unknown_ones(words):
    for more in ({}, {"structure": "neuron"}):
        with pytest.raises(ValueError, match="Expected a known (scope|criterion). Received: "):
            (tfr.prune if more else tfr.prune_groups)(one_hidden(), sparsity=0.5, **words, **more)


@pytest.mark.parametrize("num, size", [(256, 64), (20, 5), (1, 1), (3, 1)])
def test_some_examples_are_always_left_to_choose_by(num, size):
    model = next(nets())
    assert reconstruction._batch_size(model, num) == size and (num == 1 or -(-num // size) > 1)


def test_large_activations_are_sent_through_in_small_batches():
    x = keras.Input((512, 512, 3))
    model = keras.Model(x, L.Conv2D(32, 1)(x))
    assert reconstruction._batch_size(model, 256) == 16


def test_grouped_convolutions_stay_and_biases_are_fitted_too():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 4))
    y = L.Conv2D(8, 3, groups=2, activation="relu", name="grouped")(L.Conv2D(8, 1, activation="relu")(x))
    model = keras.Model(x, L.Dense(3, name="last")(L.Flatten()(L.Conv2D(6, 3, activation="relu", name="plain")(y))))
    examples = np.random.default_rng(0).normal(1.0, 1.0, (64, 8, 8, 4)).astype("float32")
    kept = {name: [weight.copy() for weight in model.get_layer(name).get_weights()] for name in ("grouped", "plain")}
    report = tfr.prune_groups(model, sparsity=0.5, data=examples, reconstruct=True)
    assert {entry["name"] for entry in report.reconstructed} == {"plain", "last"}
    kernel, bias = model.get_layer("grouped").get_weights()
    assert np.array_equal(kernel, kept["grouped"][0] * (kernel != 0))
    bias = model.get_layer("plain").get_weights()[1]
    alive = bias != 0
    assert alive.any() and not np.allclose(bias[alive], kept["plain"][1][alive], atol=1e-4)
