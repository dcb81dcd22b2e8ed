"""Kernels fitted anew after a cut, from unlabelled examples."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.coupling import reconstruction
from tf_reweight.data import labelled
from tf_reweight.kernels.held import hold_all

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


# Each part against a plain loop.


def solved_by_hand(start, x, wanted, ridge):
    """The minimum of `|wanted - x w|^2 + weight |w - start|^2`, as least squares over stacked rows."""
    weight = ridge * np.square(x).sum() / x.shape[1]
    rows = np.vstack([x, np.sqrt(weight) * np.eye(x.shape[1])])
    return np.linalg.lstsq(rows, np.vstack([wanted, np.sqrt(weight) * start]), rcond=None)[0]


@pytest.mark.parametrize("ridge", [1e-5, 1e-2, 1.0, 10.0])
def test_a_ridge_holds_the_weights_to_what_they_were(ridge):
    rng = np.random.default_rng(0)
    start, x, wanted = rng.normal(size=(5, 3)), 3.0 * rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    found = reconstruction._solved(start, x, wanted, ridge)
    np.testing.assert_allclose(found, solved_by_hand(start, x, wanted, ridge), rtol=1e-6)
    np.testing.assert_allclose(reconstruction._solved(start, x, x @ start, ridge), start, rtol=1e-9)
    np.testing.assert_array_equal(reconstruction._solved(start, 0.0 * x, wanted, ridge), start)


def test_the_ridge_that_is_best_on_the_choosing_examples_is_fitted_to_all():
    rng = np.random.default_rng(1)
    chosen = set()
    for noise in (0.01, 1.0, 6.0, 20.0):
        start, true = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
        true = start + 0.5 * true
        sides = []
        for num in (9, 7):
            x = rng.normal(size=(num, 6))
            sides.append((x, x @ true + noise * rng.normal(size=(num, 2))))
        errors = {}
        for ridge in (1e-5, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
            weights = solved_by_hand(start, *sides[0], ridge)
            errors[ridge] = sum(float(e) ** 2 for e in (sides[1][1] - sides[1][0] @ weights).ravel()) / 14
        best = min(errors, key=errors.get)
        before = float(np.mean((sides[1][1] - sides[1][0] @ start) ** 2))
        both = [np.concatenate(several) for several in zip(*sides)]
        wanted = solved_by_hand(start, *both, best) if errors[best] < before else start
        chosen.add(best if errors[best] < before else None)
        np.testing.assert_allclose(reconstruction._fitted(start, *map(tuple, sides)), wanted, rtol=1e-5, atol=1e-8)
    assert len(chosen) > 1
    # Where none is better than what is there, that stays as it is.
    x = rng.normal(size=(8, 6))
    assert reconstruction._fitted(start, (x, x @ start), (x, x @ start)) is start


@pytest.mark.parametrize("kind, length, reach, stride, wanted", [
    ("causal", 9, 5, 1, (4, 0)), ("same", 9, 3, 1, (1, 1)), ("same", 9, 4, 1, (1, 2)), ("same", 9, 3, 2, (1, 1)),
    ("same", 8, 3, 2, (0, 1)), ("same", 7, 5, 3, (2, 2)), ("same", 8, 1, 3, (0, 0)), ("same", 6, 2, 3, (0, 0)),
    ("same", 10, 7, 3, (3, 3)),
])  # fmt: skip
def test_what_keras_pads_an_axis_with(kind, length, reach, stride, wanted):
    assert reconstruction._padding(kind, length, reach, stride) == wanted


def test_of_many_places_some_are_taken_and_of_each_every_example():
    layer = L.Conv2D(2, 1, use_bias=False)
    x = np.arange(3 * 10 * 12 * 2, dtype="float64").reshape(3, 10, 12, 2)
    layer.build(x.shape)
    found = reconstruction._patches(layer, x)
    assert found.shape == (3 * 64, 2)
    rows = {tuple(row) for row in x.reshape(-1, 2)}
    assert len({tuple(row) for row in found}) == 192 and {tuple(row) for row in found} <= rows
    # The same places of every example, so that both models are asked at the same.
    assert {(row[0] // 240) for row in found} == {0.0, 1.0, 2.0}
    np.testing.assert_array_equal(np.sort(found[:, 0] % 240)[::3], np.sort(found[:, 0] % 240)[1::3])


def test_errors_of_a_report_are_mean_squares_before_and_after():
    """One Dense layer behind a cut: what it gives is compared with the dense model's, before its activation."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((6,)), L.Dense(8, activation="relu", name="hidden"), L.Dense(3, activation="tanh", name="top"),
    ])  # fmt: skip
    x = np.random.default_rng(0).normal(size=(400, 6)).astype("float32")
    hidden, top = (layer.get_weights() for layer in model.layers)
    report = tfr.prune_groups(model, sparsity=0.5, data=x, reconstruct=True)
    (entry,) = report.reconstructed
    alive = (model.layers[1].get_weights()[0] != 0).any(1)
    assert alive.sum() == 4 and entry["name"] == "top" and (model.layers[1].get_weights()[0][~alive] == 0).all()
    rows = x[np.random.default_rng(0).permutation(400)[:256]].astype("float64")
    given = np.maximum(rows @ hidden[0] + hidden[1], 0)
    wanted = given @ top[0] + top[1]
    before = given[:, alive] @ top[0][alive] + top[1]
    kernel, bias = model.layers[1].get_weights()
    after = given @ kernel + bias
    assert entry["before"] == pytest.approx(np.mean((wanted - before) ** 2), rel=1e-4)
    assert entry["after"] == pytest.approx(np.mean((wanted - after) ** 2), rel=1e-3)
    # The ridge that is best: the plain least squares are not far, and nothing else is better by more than that.
    columns = np.column_stack([given[:, alive], np.ones(256)])
    least = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    floor = np.mean((wanted - columns @ least) ** 2)
    assert floor <= entry["after"] * (1 + 1e-6) and entry["after"] < 1.05 * floor


def test_what_is_fitted_and_what_stays():
    """Layers called twice, those in nested models, those with channels first or groups, and what lost no input stay."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    h = L.Dense(8, activation="relu", name="first")(x)
    shared = L.Dense(8, activation="relu", name="shared")
    nested = keras.Sequential([keras.Input((8,)), L.Dense(8, activation="relu", name="inside")], name="nested")
    h = L.Dense(8, activation="relu", use_bias=False, name="free")(nested(shared(shared(h))))
    model = keras.Model(x, L.Dense(3, name="top")(h))
    examples = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    before = {layer.name: [w.copy() for w in layer.get_weights()] for layer in [*model.layers, nested.layers[0]]}
    report = tfr.prune_groups(model, sparsity=0.5, scope="set", data=examples, reconstruct=True)
    assert [entry["name"] for entry in report.reconstructed] == ["free", "top"]
    for layer in (model.get_layer("first"), shared, nested.layers[0]):
        kernel = layer.get_weights()[0]
        np.testing.assert_array_equal(kernel, before[layer.name][0] * (kernel != 0))
    assert not model.get_layer("free").use_bias and all(entry["after"] < entry["before"] for entry in report.reconstructed)
    first = L.Conv2D(2, 3, data_format="channels_first")
    for layer, fits in ((L.Dense(2), True), (L.Conv1D(2, 3), True), (L.Conv2D(2, 3, groups=2), False), (first, False),
                        (L.DepthwiseConv2D(3), False), (L.Conv2DTranspose(2, 3), False), (L.ReLU(), False)):  # fmt: skip
        assert bool(reconstruction._fits(layer)) == fits


def test_kernels_whose_zeros_are_no_whole_rows_stay():
    model = one_hidden()
    dense = keras.models.clone_model(model)
    dense.set_weights(model.get_weights())
    examples = labelled.given(model, np.random.default_rng(0).normal(size=(64, 6)).astype("float32"))
    mask = np.ones((8, 3), bool)
    mask[2] = False
    for gone, layers in (((5, 1), []), ((0, 0), []), (None, ["top"])):
        whole = mask.copy()
        if gone is not None:
            whole[gone] = False
        copy = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(3, name="top")])
        copy.set_weights(model.get_weights())
        hold_all(copy, [(copy.layers[-1].kernel, whole)])
        assert reconstruction._lost_inputs(copy.layers[-1]) and not reconstruction._lost_inputs(copy.layers[0])
        assert [entry["name"] for entry in reconstruction.reconstruct(copy, dense, examples).layers] == layers
    columns = np.tile(np.arange(8) > 0, (6, 1))
    hold_all(model, [(model.layers[-1].kernel, np.ones((8, 3), bool)), (model.layers[0].kernel, columns)])
    assert not any(reconstruction._lost_inputs(layer) for layer in model.layers)
    hold_all(model, [(model.layers[-1].kernel, np.zeros((8, 3), bool))])
    assert reconstruction.reconstruct(model, dense, examples).layers == ()


def test_batches_are_as_large_as_the_largest_activation_allows():
    """64 MB at once, between 16 and 64 examples; what is not known counts 64 long."""
    sizes = {(512, 512, 2): 32, (512, 512, 1): 64, (512, 512, 4): 16, (512, 512, 3): 21, (None, None, 128): 32}
    for shape, size in sizes.items():
        x = keras.Input(shape)
        model = keras.Model(x, L.Dense(1)(L.ReLU()(x)))
        assert reconstruction._batch_size(model, 256) == size
        assert reconstruction._batch_size(model, 12) == 3 and reconstruction._batch_size(model, 13) == 4
    x = keras.Input((4,))
    assert reconstruction._batch_size(keras.Model(x, L.Dense(1)(x)), 1000) == 64


@pytest.mark.parametrize("num, fitting, choosing", [(400, 192, 64), (256, 192, 64), (20, 15, 5), (6, 4, 2), (1, 1, 1)])
def test_a_quarter_of_the_examples_chooses(num, fitting, choosing, monkeypatch):
    seen = []

    def fitted(start, *sides):
        seen.append([len(x) for x, _ in sides])
        assert all(x.shape == (len(x), 5) and len(wanted) == len(x) and (x[:, -1] == 1).all() for x, wanted in sides)
        return start

    monkeypatch.setattr(reconstruction, "_fitted", fitted)
    model, x = one_hidden(), np.random.default_rng(0).normal(size=(num, 6)).astype("float32")
    before = [weight.copy() for weight in model.get_weights()]
    report = tfr.prune_groups(model, sparsity=0.5, data=x, reconstruct=True)
    assert seen == [[fitting, choosing]] and report.reconstructed[0]["before"] == report.reconstructed[0]["after"]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old * (new != 0), rtol=1e-6)
