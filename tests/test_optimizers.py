"""Which optimizers cannot train what is pruned, or forget the model that they are given: it is known of each, and told."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tf_reweight as tfr
from tf_reweight.graph.optimizers import check_trains_zeros, divides_by_zero, forgets_weights
from tf_reweight.reports.progress import QUIET

WRAPPERS = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap")
NAMES = [name for name, kind in vars(keras.optimizers).items() if isinstance(kind, type) and name not in WRAPPERS]
MENDED = {"epsilon_1": 1e-16}


@pytest.mark.parametrize("name, options", [*((name, {}) for name in NAMES), ("Adafactor", MENDED)])
def test_whether_zeros_without_gradient_are_trained_is_known(name, options):
    optimizer = getattr(keras.optimizers, name)(1e-2, **options)
    gradient = np.full((8, 6), 0.1, "float32")
    gradient[4:] = gradient[:, 3:] = 0.0
    kernel = keras.Variable(gradient)
    for _ in range(3):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [kernel])
    assert np.isfinite(keras.ops.convert_to_numpy(kernel)).all() != divides_by_zero(optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_whether_a_new_one_forgets_the_weights_is_known(name):
    optimizer, kernel = getattr(keras.optimizers, name)(1e-2), keras.Variable(np.ones((4, 4), "float32"))
    optimizer.apply([keras.ops.full((4, 4), 1e-3)], [kernel])
    assert (keras.ops.convert_to_numpy(kernel).min() < 0.9) == forgets_weights(optimizer)


def test_an_optimizer_that_forgets_the_model_is_refused_before_any_training(tmp_path):
    """A trained net was at chance after the first stage."""
    model = net()
    model.compile(keras.optimizers.Ftrl(0.1), "mse")
    with pytest.raises(ValueError, match="from the weights that a model has.*Received: optimizer=<.*Ftrl.*such as Adam"):
        tfr.compress(model, (X, X[:, :1]), out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def net(**options):
    model = keras.Sequential([keras.Input((4,)), L.Dense(8, activation="relu"), L.Dense(8, activation="relu"), L.Dense(1)])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adafactor(1e-2, **options)), "mse")
    return model


X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")


def test_an_optimizer_that_makes_nan_of_zeros_is_refused_before_any_training(tmp_path):
    """It had ended in the middle of the retraining, with advice about learning rates."""
    with pytest.raises(ValueError, match="one makes NaN.*Received: optimizer=<.*Adafactor.*epsilon_1=1e-16"):
        tfr.compress(net(), (X, X[:, :1]), out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="makes NaN"):
        net().fit(X, X[:, :1], verbose=0, callbacks=[tfr.callbacks.BudgetProximal("macs=0.5")])
    with pytest.warns(UserWarning, match="Adafactor makes NaN of kernels.*epsilon_1=1e-16"):
        tfr.prune(net(), "unstructured", sparsity=0.5)


def test_what_the_message_says_trains_on():
    model = net(**MENDED)
    check_trains_zeros(model.optimizer)
    tfr.prune_groups(model, budget="macs=0.5")
    assert np.isfinite(model.fit(X, X[:, :1], epochs=2, verbose=0).history["loss"]).all()


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has none")
def test_several_optimizers_in_one_prune_and_are_told_where_a_rate_is_set(tmp_path):
    """Keras' own error had come, from within."""
    model = net()
    parts = keras.optimizers.OptimizerMap(keras.optimizers.Adam(1e-2), {"dense/.*": keras.optimizers.SGD(1e-2)})
    model.compile(keras.optimizers.MultiOptimizer(parts), "mse")
    words = "must have one learning rate.*Received: optimizer=<.*MultiOptimizer.*single optimizer"
    with pytest.raises(ValueError, match=words):
        tfr.compress(model, (X, X[:, :1]), out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=words):
        model.fit(X, X[:, :1], verbose=0, callbacks=[tfr.callbacks.IterativePruning("macs=0.5", rounds=1)])
    model.fit(X, X[:, :1], epochs=60, batch_size=16, verbose=0, callbacks=[tfr.callbacks.BudgetProximal("macs=0.5")])
    assert tfr.prune_groups(model).kept_groups < 16
