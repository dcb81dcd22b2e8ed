"""The user's callbacks in every form that `fit` and `compress` take, and nothing else."""

import keras
import pytest

import tf_reweight as tfr
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow.user_callbacks import maker

ONE, TWO = keras.callbacks.Callback(), keras.callbacks.EarlyStopping()


@pytest.mark.parametrize(
    "given, expected",
    [
        (None, []), ([], []), (ONE, [ONE]), ([ONE, TWO], [ONE, TWO]), ((ONE,), [ONE]), (lambda stage: None, []),
        (lambda stage: ONE, [ONE]), (lambda stage, more=1: (ONE, TWO), [ONE, TWO]),
    ],
)  # fmt: skip
def test_forms_that_are_taken(given, expected):
    assert maker(given)("dense") == expected


@pytest.mark.parametrize(
    "given", [[5], "abc", [None], {"a": ONE}, 5, keras.callbacks.EarlyStopping, [keras.callbacks.Callback], lambda: []]
)
def test_anything_else_is_refused_before_any_work(given, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="relu"), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    data = ([[0.0] * 4] * 8, [0.0] * 8)
    with pytest.raises(TypeError, match="`callbacks` must be callbacks.*Received: callbacks="):
        tfr.compress(model, data, budget="macs=0.7", callbacks=given, out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_what_a_function_returns_is_looked_at():
    with pytest.raises(TypeError, match=r"must return callbacks for 'dense'. Received: callbacks=5"):
        maker(lambda stage: 5)("dense")
