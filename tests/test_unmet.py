"""Where pruning removes nothing, or less than asked for, that is said with the number to try next; and that number works."""

import re
import warnings

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import coupling
from tf_reweight.kernels import unmet

L = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def built():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(8, 3, activation="relu", name="first")(x)
    h = L.Conv2D(8, 3, activation="relu", name="second")(h)
    return keras.Model(x, L.Dense(2, name="head")(L.GlobalAveragePooling2D()(h)))


def told(change, *expected):
    """The report of a change, and the only note in it, which was also warned of."""
    with pytest.warns(UserWarning, match="Nothing was removed") as caught:
        report = change()
    (note,) = report.notes
    assert [str(item.message) for item in caught if item.category is UserWarning] == [note]
    assert report.to_dict()["notes"] == [note]
    for text in expected:
        assert text in note, note
    return report, note


def number(note, name):
    return float(re.findall(rf"{name}=([0-9.e-]+[0-9])", note)[-1])


def silently(change):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = change()
    assert report.notes == ()
    return report


@pytest.mark.parametrize("structure", ["filter", "unstructured"])
def test_a_threshold_below_all_norms(structure):
    model = built()
    report, note = told(lambda: tfr.prune(model, structure, threshold=1e-7), "threshold=1e-07")
    assert report.sparsity == 0
    report = silently(lambda: tfr.prune(model, structure, threshold=number(note, "threshold")))
    assert 0 < report.sparsity < 0.3


@pytest.mark.parametrize("num", [1, 2, 10, 11, 30, 57])
def test_the_number_as_it_is_printed_removes_a_tenth_of_the_groups_and_at_least_one(num):
    """Norms are 3% apart, so that rounding to three digits takes no other group along."""
    norms = np.random.default_rng(num).permutation(0.01231 * 1.03 ** np.arange(num))
    wanted = -(-num // 10)
    assert (norms <= number(unmet.above_threshold(norms, 1e-3), "threshold")).sum() == wanted
    note = unmet.not_freed(norms, np.full(num, 1e-3), 1e-4, lambda norm: f"threshold={norm:.3g}")
    assert (norms <= number(note, "threshold")).sum() == wanted


@pytest.mark.parametrize("scope", ["model", "layer"])
def test_a_sparsity_below_one_group(scope):
    model = built()
    _, note = told(lambda: tfr.prune(model, "filter", sparsity=0.001, scope=scope), "less than one group")
    report = tfr.prune(model, "filter", sparsity=number(note, "sparsity"), scope=scope)
    assert report.sparsity > 0
    silently(lambda: tfr.prune(built(), "filter", sparsity=0.0))


def test_a_sparsity_that_whole_groups_do_not_reach():
    """One kernel is emptied but for its best group; where each kernel only rounds down nothing is said."""
    model = built()
    model.get_layer("first").kernel.assign(1e-3 * model.get_layer("first").kernel)
    with pytest.warns(UserWarning, match="the largest one was kept"):
        report = tfr.prune(model, "unstructured", sparsity=0.99, criterion="magnitude")
    assert report.notes == ()
    silently(lambda: tfr.prune(built(), "filter", sparsity=0.24, scope="layer"))
    assert "10.0% less: so" in unmet.falls_short(0.5, 0.4, 0.05, "so")


@pytest.mark.parametrize("structure", ["filter", "unstructured"])
def test_a_penalty_that_freed_nothing(structure):
    model = built()
    for layer in model.layers:
        for kernel in layer.trainable_weights[:1]:
            # No weight is small enough to be freed.
            kernel.assign(np.copysign(0.1 + np.abs(kernel.numpy()), kernel.numpy()))
    tfr.regularize(model, structure, strength=1e-9)
    _, note = told(lambda: tfr.prune(model), "the penalty freed none of", "strength=1e-08 instead of 1e-09", "epsilon")
    report = silently(lambda: tfr.prune(model, structure, threshold=number(note, "threshold")))
    assert report.sparsity > 0


def test_a_penalty_of_no_strength():
    model = built()
    tfr.regularize(model, "filter", strength=0.0)
    told(lambda: tfr.prune(model), "a strength above 0")


def test_coupled_penalties_that_freed_nothing():
    model = built()
    coupling.regularize_coupled(model, 1e-9)
    _, note = told(lambda: coupling.prune_groups(model), "the penalty freed none of 16 groups", "strength=1e-08")
    assert silently(lambda: coupling.prune_groups(model, number(note, "sparsity"))).kept_groups < 16


def test_coupled_groups_below_one():
    model = built()
    report, note = told(lambda: coupling.prune_groups(model, 0.01), "less than one group")
    assert str(report).splitlines()[1] == note
    assert silently(lambda: coupling.prune_groups(model, number(note, "sparsity"))).kept_groups == 15


def test_coupled_groups_kept_for_a_multiple():
    with pytest.warns(UserWarning, match="Nothing was removed where sparsity=0.5 was asked for"):
        report = coupling.prune_groups(built(), 0.5, multiple_of=8)
    (note,) = report.notes
    assert report.kept_groups == 16 and "`multiple_of`" in note and note in str(report)


def test_an_unknown_scope_is_refused_where_no_scope_is_needed_as_well():
    with pytest.raises(ValueError, match="scope.*Valid: layer, model, scope"):
        tfr.prune(built(), "filter", threshold=0.1, scope="kernel")


def test_what_was_met_is_not_spoken_of():
    silently(lambda: tfr.prune(built(), "unstructured", sparsity=0.5))
    silently(lambda: coupling.prune_groups(built(), 0.5))
    silently(lambda: tfr.prune(built(), {"name": "n_of_m", "n": 2, "m": 4}, layers="second"))
    assert unmet.falls_short(0.5, 0.4, 0.1, "") is None and unmet.said([None]) == ()
    assert np.isfinite(number(unmet.not_freed(np.ones(3), np.zeros(3), 1.0, lambda norm: f"threshold={norm:.3g}"), "strength"))
