"""The analysis of a model is made once, and again when the model has changed."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import ops

import nets
import tf_reweight as tfr
from tf_reweight.coupling.analysis import rules_channelwise, table
from tf_reweight.coupling.analysis.trace import Trace
from tf_reweight.graph.access import unlocked

L = keras.layers


@pytest.fixture
def runs(monkeypatch):
    """One entry per analysis of a whole model."""
    made, run = [], Trace.run
    monkeypatch.setattr(Trace, "run", lambda self, model, rule_of: made.append(model.name) or run(self, model, rule_of))
    return made


def chain(num_layers):
    layers = [L.Dense(4, activation="relu", name=f"dense_{i}") for i in range(num_layers)]
    return keras.Sequential([keras.Input((4,)), *layers, L.Dense(2, name="head")])


@pytest.mark.parametrize("num_sets", [2, 9])
def test_all_sets_of_a_loaded_model_are_found_again_by_one_analysis(num_sets, runs, tmp_path):
    model = chain(num_sets)
    assert len(tfr.regularize_coupled(model, 1e-3).penalties) == num_sets
    value = float(sum(model.losses))
    model.save(tmp_path / "model.keras")
    runs.clear()
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    tfr.attach(loaded)
    assert float(sum(loaded.losses)) == pytest.approx(value, rel=1e-5)
    assert len(runs) == 1


@pytest.mark.parametrize("make", [nets.plain, nets.nested_shared, nets.gru, nets.attention], ids=lambda make: make.__name__)
def test_values_and_runs_of_a_model_change_nothing(make, runs):
    model = make()
    first = tfr.coupling.groups(model)
    nets.randomize(model)
    given = tfr.graph.random_inputs.inputs(model, model.inputs)
    model(given if len(given) > 1 else given[0])
    again = tfr.coupling.groups(model)
    assert len(runs) == 1 and again is first


def test_penalties_and_masks_change_nothing(runs):
    model = chain(3)
    tfr.regularize_coupled(model, 1e-3)
    tfr.attach(model)
    tfr.prune_groups(model, sparsity=0.5)
    tfr.coupling.groups(model)
    assert len(runs) == 1


class Halved(L.Layer):
    def call(self, inputs):
        return inputs / 2


def with_own_layer():
    x = keras.Input((4,))
    return keras.Model(x, L.Dense(2)(Halved(name="halved")(L.Dense(6, name="first")(x))))


def other_activation(model):
    model.get_layer("first").activation = keras.activations.softmax


def other_kernel(model):
    layer = model.get_layer("first")
    with unlocked(layer):
        layer._kernel = keras.Variable(layer.kernel.value, name="kernel")


def other_rule(model):
    table.register(Halved, rules_channelwise.passing)


@pytest.mark.parametrize("change", [other_activation, other_kernel, other_rule])
def test_a_changed_model_is_analysed_again(change, runs, monkeypatch):
    monkeypatch.setattr(table, "_RULES", dict(table._RULES))
    model = with_own_layer()
    assert len(tfr.coupling.groups(model).sets) == 0 and len(runs) == 1
    change(model)
    assert len(tfr.coupling.groups(model).sets) == (change is other_rule) and len(runs) == 2


def test_a_layer_more_is_seen(runs):
    model = chain(2)
    assert tfr.coupling.groups(model).num_groups == 8
    model.add(L.Dense(3, name="last"))
    assert tfr.coupling.groups(model).num_groups == 10


def test_what_is_kept_goes_with_the_model_and_is_not_saved(tmp_path):
    model = chain(2)
    tfr.coupling.groups(model)
    model.save(tmp_path / "model.keras")
    other = keras.models.clone_model(model)
    np.testing.assert_array_equal(ops.shape(other.layers[0].kernel), (4, 4))
    gone = weakref.ref(model)
    del model, other
    gc.collect()
    assert gone() is None
