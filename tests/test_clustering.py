"""Few values per kernel, number by number: which values, who has which, what is held afterwards, and the bounds."""

import types

import keras
import numpy as np
import pytest
from nets import randomize

from tf_reweight import quantization
from tf_reweight.kernels import constraints
from tf_reweight.kernels.layout import Layout
from tf_reweight.kernels.table import find
from tf_reweight.pruning.prune import prune
from tf_reweight.quantization import clustering
from tf_reweight.quantization.clustering import Shared, centroids
from tf_reweight.workflow import config, stages

L = keras.layers


def net(**options):
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, name="a", **options), L.Dense(5, name="b")])
    return randomize(model)


def kernels(model):
    return [np.asarray(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]


def trained(model, epochs=1):
    x = np.random.default_rng(1).normal(size=(16, *model.input_shape[1:])).astype("float32")
    if not model.compiled:
        model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(x, np.ones((16, *model.output_shape[1:])), epochs=epochs, verbose=0)
    return model


def lloyd(weights, num):
    """k-means by a plain loop, started evenly over the range; what has no weights is where it was."""
    values = np.linspace(weights.min(), weights.max(), num)
    for _ in range(300):
        nearest = np.abs(weights[:, None] - values).argmin(-1)
        values = np.array([weights[nearest == i].mean() if (nearest == i).any() else values[i] for i in range(num)])
    return values


@pytest.mark.parametrize("num", [1, 2, 3, 8])
def test_centroids_of_kernels_against_a_plain_loop(num):
    weights = np.random.default_rng(0).normal(size=300).astype("float32") + np.float32(0.3)
    found = centroids(weights, num)
    assert found.dtype == "float32" and found.shape == (num,) and (np.diff(found) > 0).all()
    np.testing.assert_allclose(found, lloyd(weights, num), atol=2e-2)


def test_few_distinct_weights_are_their_own_values():
    weights = np.array([[3, -1, 2], [2, 3, -1]], "float32")
    for num in (3, 4, 256):
        np.testing.assert_array_equal(centroids(weights, num), [-1, 2, 3])
    assert len(centroids(weights, 2)) == 2


def test_no_value_is_zero():
    """It would make zeros of weights that were not pruned."""
    weights = np.array([-1, 1, -1, 1, 8, 9], "float32")
    found = centroids(weights, 2)
    np.testing.assert_allclose(found, [8.5], atol=1e-6)


def test_large_kernels_are_sampled_with_both_ends():
    weights = np.random.default_rng(0).normal(size=60_000).astype("float32")
    # Two that are not among those that are looked at.
    looked_at = np.random.default_rng(0).choice(np.arange(60_000), 50_000, replace=False)
    left = np.setdiff1d(np.arange(60_000), looked_at)
    weights[left[0]], weights[left[1]], weights[left[2]] = -40.0, 50.0, 45.0
    found = centroids(weights, 4)
    assert found[0] == pytest.approx(-40.0) and found[-1] == pytest.approx(50.0)
    np.testing.assert_array_equal(found, centroids(weights, 4))
    assert not np.array_equal(found[1:3], centroids(weights, 4, seed=1)[1:3])
    assert clustering._SAMPLE == 50_000
    # As many as are looked at are all looked at.
    exact = centroids(weights[:50_000], 4)
    np.testing.assert_array_equal(exact, centroids(weights[:50_000], 4, seed=1))


def test_a_sample_takes_no_weight_twice(monkeypatch):
    """All weights but one are looked at: the means of two heaps apart move by one weight of them, and no more."""
    rng = np.random.default_rng(0)
    heaps = [rng.uniform(centre - 1, centre + 1, 500).astype("float32") for centre in (-5, 5)]
    monkeypatch.setattr(clustering, "_SAMPLE", 999)
    found = centroids(np.concatenate(heaps), 2)
    # One weight is missing, and the end of each heap counts twice; none is much further than 1 from its heap's mean.
    np.testing.assert_allclose(found, [heap.mean() for heap in heaps], atol=2 * 1.1 / 499)


@pytest.mark.parametrize("num", [2, 3, 16, 256])
@pytest.mark.parametrize("zeros", [False, True])
def test_reports_of_clustered_kernels(num, zeros):
    """Zero is one of the values; the error is that of moving there."""
    model = net()
    if zeros:
        prune(model, sparsity=0.5, structure="unstructured")
    before = kernels(model)
    report = quantization.cluster(model, num)
    assert report.left_out == () and [kernel.num_weights for kernel in report.kernels] == [48, 40]
    for old, new, kernel in zip(before, kernels(model), report.kernels, strict=True):
        nonzero = old[old != 0]
        values = centroids(nonzero, num - zeros)
        expected = np.zeros_like(old)
        expected[old != 0] = values[np.abs(nonzero[:, None] - values).argmin(-1)]
        np.testing.assert_allclose(new, expected, atol=1e-6)
        assert kernel.num_values == len(np.unique(new)) == min(num, len(np.unique(old)))
        assert kernel.error == pytest.approx(np.sqrt(np.sum((new - old) ** 2) / np.sum(old**2)), abs=1e-6)
        assert (kernel.error > 1e-3) == (num < 20)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("exponent", [-90, 60, 100])
def test_very_small_and_very_large_weights_are_clustered_as_others(exponent, per_channel):
    """Their squares are no float32: small kernels had one value, and of large ones the error was NaN."""
    model, scaled = net(), net()
    for layer, other in zip(model.layers, scaled.layers):
        other.kernel.assign(np.ldexp(np.asarray(layer.kernel), exponent))
    report, found = [quantization.cluster(each, 4, per_channel=per_channel) for each in (model, scaled)]
    assert [kernel.error for kernel in found.kernels] == pytest.approx([kernel.error for kernel in report.kernels], rel=1e-4)
    for kernel, other in zip(kernels(model), kernels(scaled)):
        np.testing.assert_allclose(np.ldexp(other, -exponent), kernel, rtol=1e-5)


def test_channels_that_share_nothing():
    """One of zeros, one with a single value, and others with more than there are clusters."""
    model = net()
    kernel = kernels(model)[0].copy()
    kernel[:, 2], kernel[:, 4] = 0, 0.25
    kernel[1:3, 5] = 0
    model.layers[0].kernel.assign(kernel)
    report = quantization.cluster(model, 3, layers="a", per_channel=True)
    made = kernels(model)[0]
    assert [item.name for item in report.kernels] == [report.kernels[0].name] and report.kernels[0].num_values == 3
    for number, (old, new) in enumerate(zip(kernel.T, made.T)):
        np.testing.assert_array_equal(new == 0, old == 0)
        values = centroids(old[old != 0], 3 - bool((old == 0).any()))
        assert set(np.unique(new[new != 0])) <= set(np.float32(values)) and len(np.unique(new)) == {2: 1, 4: 1}.get(number, 3)
    trained(model)
    after = kernels(model)[0]
    np.testing.assert_array_equal(after == 0, kernel == 0)
    assert np.isfinite(after).all() and max(len(np.unique(after[:, i])) for i in (0, 1, 3, 6, 7)) == 3


def test_a_kernel_of_zeros_stays_one():
    for per_channel in (False, True):
        model = net()
        model.layers[0].kernel.assign(np.zeros((6, 8)))
        report = quantization.cluster(model, 4, layers="a", per_channel=per_channel)
        assert report.kernels[0].num_values == 1 and report.kernels[0].error == 0.0
        assert not kernels(model)[0].any() and kernels(model)[1].all()


def test_values_are_held_in_training_that_was_compiled_before():
    for keep in (False, True):
        model = trained(net())
        if keep:
            for layer in model.layers:
                layer.kernel.assign(np.round(np.asarray(layer.kernel)))
            values = [len(np.unique(kernel)) for kernel in kernels(model)]
            assert quantization.keep_clusters(model) == 2
        else:
            values = [kernel.num_values for kernel in quantization.cluster(model, 4).kernels]
        before = kernels(model)
        trained(model)
        for old, new, num in zip(before, kernels(model), values):
            assert len(np.unique(new)) <= num and not np.array_equal(old, new)


TAKEN = [
    (20, 256, True), (21, 256, False), (4, 4, True), (5, 4, False), (1, 1, True), (2, 1, False), (20, 20, True)
]  # fmt: skip


def test_which_kernels_are_taken_for_clustered_ones():
    """At most half as many values as weights, and no more than are told."""
    for num_values, max_values, held in TAKEN:
        model = keras.Sequential([keras.Input((5,)), L.Dense(8)])
        kernel = np.resize(np.arange(1, num_values + 1), 40).reshape(5, 8).astype("float32")
        model.layers[0].kernel.assign(kernel)
        options = {} if max_values == 256 else {"max_values": max_values}
        assert quantization.keep_clusters(model, **options) == held
        assert isinstance(model.layers[0].kernel.constraint, Shared) == held
        np.testing.assert_array_equal(kernels(model)[0], kernel)


def test_values_of_channels_are_counted_for_each():
    model = keras.Sequential([keras.Input((6,)), L.Dense(8)])
    kernel = np.arange(1, 9)[None] * np.array([1, 1, 1, 2, 2, 3])[:, None]
    for row, held in ((0, True), (1, False)):
        kernel[0, 3] += 100 * row
        model.layers[0].kernel.assign(kernel)
        assert quantization.keep_clusters(model, per_channel=True) == held and quantization.keep_clusters(model, 4) == 0


def test_the_stage_of_quantization_holds_kernels_with_few_weights_in_each_channel():
    """A first convolution of colors has 27 weights a channel, less than two for each of 16 values."""
    model = randomize(keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.Conv2D(4, 3)]))
    quantization.cluster(model, 16, per_channel=True)
    assert quantization.keep_clusters(model, 16, per_channel=True) == 1
    steps = ["train", "regularize", "prune", "retrain", "cluster", "quantize"]
    given = config.load({"stages": steps, "prune": {"sparsity": 0.5}, "cluster": {"clusters": 16, "per_channel": True}})
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    data = types.SimpleNamespace(inputs=lambda model, split, num: x)
    held = []

    def fit(model, *arguments):
        held.extend(isinstance(target.variable.constraint, Shared) for target in find(model)[0])

    stages._quantize(model, types.SimpleNamespace(config=given, data=data, fit=fit))
    assert held == [True, True]
    with pytest.raises(TypeError, match="`small_kernels` must be a bool"):
        quantization.keep_clusters(model, 16, small_kernels=1)


def test_number_of_clusters():
    for num, fits in [(1, False), (2, True), (256, True), (257, False), (2.0, False), (True, False)]:
        if fits:
            assert len(quantization.cluster(net(), num).kernels) == 2
        else:
            with pytest.raises((TypeError, ValueError), match="`num_clusters` must be"):
                quantization.cluster(net(), num)


def test_what_else_is_refused():
    for call in (lambda: quantization.keep_clusters(net(), 0), lambda: quantization.keep_clusters(net(), 1.5)):
        with pytest.raises((TypeError, ValueError), match="`max_values` must be"):
            call()
    for call in (quantization.cluster, quantization.keep_clusters):
        with pytest.raises(TypeError, match="`per_channel` must be a bool"):
            call(net(), per_channel=1)
    broken = net()
    broken.layers[0].kernel.assign(np.full((6, 8), np.nan))
    with pytest.raises(ValueError, match="finite"):
        quantization.cluster(broken, 4)


def test_sixteen_values_are_the_default_and_one_set_for_all_channels():
    model = keras.Sequential([keras.Input((20,)), L.Dense(20)])
    assert quantization.cluster(randomize(model)).kernels[0].num_values == 16


def test_the_constraint_of_the_user_is_applied_first_and_those_of_others_are_replaced():
    model = net(kernel_constraint=keras.constraints.NonNeg())
    variable = model.layers[0].kernel
    variable.assign(np.abs(variable.numpy()))
    own = variable.constraint
    prune(model, sparsity=0.5, structure="unstructured")
    zeros = variable.numpy() == 0
    for num in (6, 4):
        quantization.cluster(model, num)
        assert isinstance(variable.constraint, Shared) and variable.constraint.inner is own
    constraints.hold(variable, ~zeros)
    assert quantization.keep_clusters(model) == 2 and variable.constraint.inner is own
    variable.assign(variable.constraint(variable.value - 100.0))
    assert variable.numpy().min() >= 0
    np.testing.assert_array_equal(variable.numpy() == 0, np.ones_like(zeros) if variable.numpy().max() == 0 else zeros)


def test_inside_of_the_constraint():
    """Its variables are no part of the model, and keep their types."""
    start = np.array([[1.0, 0.0], [2.0, 2.5]], "float16")
    held = Shared(start, [[1, 2]], Layout(("in", "out"), (2, 2)))
    inside = (held.kept, held.hidden, held.values, held.shared)
    assert [variable.dtype for variable in inside] == ["bool", "float32", "float32", "float32"]
    assert not any(variable.trainable for variable in inside) and not any(variable._autocast for variable in inside)
    assert (held.channels, held.num) == (1, 2)
    np.testing.assert_array_equal(held.numpy(), [[1, 0], [2, 2]])
    made = held(keras.ops.convert_to_tensor(start))
    assert keras.backend.standardize_dtype(made.dtype) == "float16"
    held.drop(np.array([[True, True], [False, True]]))
    assert held.kept.numpy().tolist() == [[True, False, False, True]]
    # The mean of 2.0, and of 2.5 that moved by another half from the 2.0 that it had been put to.
    np.testing.assert_allclose(held.numpy(), [[1, 0], [0, 2.5]], atol=1e-6)


def test_values_far_from_all_weights_stay_where_they_are():
    """No weight goes there, and no mean is taken of none; weights beyond both ends have the value at the end."""
    held = Shared([[1.0, 2.0], [-50.0, 70.0]], [[-9.0, 1.0, 2.0, 3.0, 9.0]], Layout(("in", "out"), (2, 2)))
    np.testing.assert_array_equal(held.numpy(), [[1, 2], [-9, 9]])
    np.testing.assert_allclose(np.asarray(held(held.numpy())), [[1, 2], [-50, 70]])
    np.testing.assert_allclose(held.values.numpy(), [[-50, 1, 2, 3, 70]])


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_of_other_layouts_stay_in_their_places(channels):
    """Of a transposed convolution, whose outputs are not on the last axis."""
    x = keras.Input((4, 4, 2))
    model = randomize(keras.Model(x, L.Conv2DTranspose(3, 2)(x)))
    (target,), _ = find(model)
    kernel = target.variable.numpy()
    values = np.sort(np.unique(kernel))[None].repeat(channels, 0)
    held = Shared(kernel, values, target.layout)
    np.testing.assert_array_equal(held.numpy(), kernel)
    np.testing.assert_allclose(np.asarray(held(kernel)), kernel, atol=1e-6)
    mask = np.arange(24).reshape(kernel.shape) % 3 > 0
    held.drop(mask)
    np.testing.assert_allclose(held.numpy(), np.where(mask, kernel, 0), atol=1e-6)
    report = quantization.cluster(model, 3, per_channel=channels > 1)
    parts = np.moveaxis(target.variable.numpy(), 2, 0).reshape(3, -1) if channels > 1 else [target.variable.numpy()]
    assert [len(np.unique(part)) for part in parts] == [3] * channels and report.kernels[0].num_values == 3
