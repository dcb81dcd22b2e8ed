"""The user's callbacks in every form that `fit` and `compress` take, and nothing else."""

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight.graph.beforehand import build_training
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


def trained_in_two_stages(callbacks):
    keras.utils.set_random_seed(0)
    x, y = np.linspace(-1, 1, 32).reshape(8, 4).astype("float32"), np.arange(8.0).reshape(8, 1).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    for stage in ("dense", "regularized"):
        model.compile(keras.optimizers.Adam(0.1, use_ema=True), "mse")
        build_training(model, (x, y, None))
        model.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks(stage))
    return model.get_weights()


def test_one_callback_that_swaps_averages_trains_every_stage_as_new_ones_do():
    """It went on as if averages were in the model, and swapped the weights with those of an optimizer that had none: zeros."""
    one = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    weights = trained_in_two_stages(maker([one]))
    new = trained_in_two_stages(maker(lambda stage: keras.callbacks.SwapEMAWeights(swap_on_epoch=True)))
    assert all(np.array_equal(first, second) and first.any() for first, second in zip(weights, new))
