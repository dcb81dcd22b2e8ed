"""Warnings name the line of the user's that they are about, however many lines of Keras and of the package lie between."""

import inspect
import pathlib
import re

import keras
import numpy as np
import pytest

import tf_reweight as tfr

X, Y = np.zeros((8, 6), "float32"), np.zeros((8, 2), "float32")


def _net():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def _fit_until_a_budget():
    model = _net()
    tfr.regularize(model, "unstructured", budget={"sparsity": 0.5})
    model.fit(X, Y, epochs=4, verbose=0, callbacks=[tfr.callbacks.BudgetProximal()])


def _fit_without_an_update():
    model = _net()
    tfr.regularize(model, "unstructured", strength=0.01)
    model.fit(X, Y, epochs=2, initial_epoch=1, verbose=0, callbacks=[tfr.callbacks.Reweighting(every=7)])


def _fit_without_reweighting():
    penalty = tfr.regularizers.Reweighted("unstructured", 0.01)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, kernel_regularizer=penalty)])
    model.compile("sgd", "mse")
    model.fit(X, Y, epochs=1, verbose=0)


def _prune_a_frozen_layer():
    model = _net()
    model.layers[0].trainable = False
    tfr.prune(model, "unstructured", sparsity=0.5)


def _prune_for_less_than_before():
    model = _net()
    tfr.prune(model, "unstructured", sparsity=0.5)
    tfr.prune(model, "unstructured", sparsity=0.2)


@pytest.mark.parametrize(
    "run, call",
    [
        (_fit_until_a_budget, "model.fit("),
        (_fit_without_an_update, "model.fit("),
        (_fit_without_reweighting, "model.fit("),
        (_prune_a_frozen_layer, "tfr.prune("),
        (_prune_for_less_than_before, "sparsity=0.2"),
    ],
)
def test_a_warning_names_the_users_line(run, call):
    with pytest.warns(UserWarning) as given:
        run()
    lines = inspect.getsource(inspect.getmodule(run)).splitlines()
    for warning in given:
        assert warning.filename == __file__ and call in lines[warning.lineno - 1], (warning.filename, warning.lineno)


def test_no_warning_counts_the_lines_between_by_hand():
    """A number was right for one way to a warning and named a line of Keras, or of the package, on the others."""
    package = pathlib.Path(tfr.__file__).parent
    by_hand = [path for path in package.rglob("*.py") if re.search(r"stacklevel=[3-9]", path.read_text("utf-8"))]
    assert not by_hand
