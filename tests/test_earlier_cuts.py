"""Laws of a second cut: what is zero is counted, an equal call changes nothing, and one that asks for less says so."""

import warnings

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight.kernels.grouping import CRITERIA, Groups
from tf_reweight.structures import get

L = keras.layers
EARLIER = "asks for less than is removed already"
# `prune` by structure and amount; then an amount that is less.
ZEROS = [
    ("unstructured", {"sparsity": 0.5}, {"sparsity": 0.3}),
    ("filter", {"sparsity": 0.5}, {"sparsity": 0.2}),
    ("filter", {"sparsity": 0.5, "scope": "layer"}, {"sparsity": 0.3, "scope": "layer"}),
    ("unstructured", {"budget": "macs=0.4"}, {"budget": "macs=0.6"}),
]
GROUPS = [
    ({"sparsity": 0.5}, {"sparsity": 0.25}),
    ({"sparsity": 0.5, "scope": "set"}, {"sparsity": 0.25, "scope": "set"}),
    ({"sparsity": 0.6, "multiple_of": 4}, {"sparsity": 0.3, "multiple_of": 2}),
    ({"budget": "macs=0.3"}, {"budget": "macs=0.7"}),
    ({"budget": "macs=0.3", "multiple_of": 2}, {"budget": "macs=0.8", "multiple_of": 2}),
    ({"budget": "macs=0.3", "scope": "set"}, {"budget": "macs=0.8", "scope": "set"}),
    ({"macs": 0.6}, {"macs": 0.3}),
]


def net():
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(8, 3, activation="relu", name="first"), L.BatchNormalization(), L.Conv2D(8, 3, name="second")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, L.GlobalAveragePooling2D(), L.Dense(4, name="top")])


def left(model):
    return {layer.name: np.count_nonzero(np.asarray(layer.kernel.value)) for layer in model.layers if hasattr(layer, "kernel")}


def silently(function):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function()


@pytest.mark.parametrize("structure, amount, less", ZEROS)
def test_a_second_prune_counts_what_is_zero(structure, amount, less):
    model = net()
    tfr.prune(model, structure, **amount)
    before = left(model)
    again = silently(lambda: tfr.prune(model, structure, **amount))
    with pytest.warns(UserWarning, match=EARLIER):
        report = tfr.prune(model, structure, **less)
    assert left(model) == before
    for found in (again, report):
        assert {item.name: item.kept_weights for item in found.kernels} == {
            item.name: before[item.name.split("/")[0]] for item in found.kernels
        }


def test_another_structure_counts_the_zeros_of_the_first():
    model = net()
    tfr.prune(model, "filter", sparsity=0.4)
    report = silently(lambda: tfr.prune(model, "unstructured", sparsity=0.6))
    weights = left(model)
    assert report.sparsity == pytest.approx(1 - sum(weights.values()) / 680)
    assert report.sparsity == pytest.approx(0.6, abs=0.01)


def test_released_zeros_count_no_more():
    model = net()
    dense = model.get_weights()
    tfr.prune(model, "unstructured", sparsity=0.5)
    tfr.release(model)
    model.set_weights(dense)
    report = silently(lambda: tfr.prune(model, "unstructured", sparsity=0.3))
    assert report.sparsity == pytest.approx(0.3) and sum(left(model).values()) == 476


@pytest.mark.parametrize("amount, less", GROUPS)
def test_a_second_prune_groups_reports_what_shrink_leaves(amount, less):
    model = net()
    tfr.prune_groups(model, **amount)
    before = left(model)
    again = silently(lambda: tfr.prune_groups(model, **amount))
    with pytest.warns(UserWarning, match=EARLIER):
        report = tfr.prune_groups(model, **less)
    assert left(model) == before
    small = tfr.shrink(model)
    for found in (again, report):
        assert {item.name: item.kept_groups for item in found.sets} == {
            name: small.get_layer(name).filters for name in ("first", "second")
        }
        assert not any(item.rescued for item in found.sets)


def test_more_of_the_same_takes_the_zeros_first():
    model, at_once = net(), net()
    for sparsity in (0.25, 0.5, 0.75):
        report = silently(lambda: tfr.prune_groups(model, sparsity))
    assert report.kept_groups == tfr.prune_groups(at_once, 0.75).kept_groups == 4


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e19, 1e22, 1e30])
@pytest.mark.parametrize("structure", ["filter", "channel", "kernel", {"name": "block", "shape": [2, 2]}, "unstructured"])
def test_norms_scale_with_their_kernel(structure, scale):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype("float32")
    one, other = (Groups.of(get(structure), part) for part in (kernel, kernel * np.float32(scale)))
    np.testing.assert_allclose(other.norms, one.norms * scale, rtol=1e-5)
    for criterion in CRITERIA:
        assert (np.argsort(one.by(criterion), axis=None) == np.argsort(other.by(criterion), axis=None)).all()


def test_norms_of_unlike_groups_in_one_kernel():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype("float32")
    scales = np.array([1e-28, 1e-20, 1e-12, 1.0, 1e5, 1e8], "float32")
    norms = np.sqrt(np.square((kernel * scales).astype("float64")).sum((0, 1, 2)))
    np.testing.assert_allclose(Groups.of(get("filter"), kernel * scales).norms[0], norms, rtol=1e-5)


@pytest.mark.parametrize("structure", [{"name": "n_of_m", "n": 2, "m": 4}, "pattern"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_structures_that_decide_do_so_at_any_scale(structure, scale):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype("float32")
    structure = get(structure).learn((3, 3), [kernel])
    keeps = [Groups.of(structure, part).decided() for part in (kernel, kernel * np.float32(scale))]
    assert (keeps[0] == keeps[1]).all()


@pytest.mark.parametrize("scale", [1e-30, 1e22, 1e30])
@pytest.mark.parametrize("penalty", ["log_sum", "arctan", "log_squared", "lasso"])
def test_penalties_are_finite_at_any_scale(penalty, scale):
    model = net()
    model.get_layer("second").kernel.assign(np.asarray(model.get_layer("second").kernel.value) * np.float32(scale))
    tfr.regularize_coupled(model, strength=1e-3, penalty=penalty)
    tfr.regularize(model, "kernel", strength=1e-3, penalty=penalty)
    tfr.callbacks.Reweighting(every=1).set_model(model)
    assert all(np.isfinite(np.asarray(loss)).all() for loss in model.losses)
