"""A `fit` that a callback runs inside another one ends nothing that the outer one's callbacks do to the model."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.baselines import Clipping
from tf_reweight.callbacks import BudgetProximal, CosineDecay, IterativePruning, MultiGradient, Proximal, Reweighting
from tf_reweight.coupling import CoupledProximal
from tf_reweight.graph import one_fit

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 6)).astype("float32"), RNG.normal(size=(64, 3)).astype("float32")
ON_TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras on JAX has one state for a model")
pytestmark = [ON_TENSORFLOW, pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")]


def net():
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, activation="relu", name="a"), L.Dense(8, activation="relu", name="b"), L.Dense(3, name="c")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    return model


class Inner(keras.callbacks.Callback):
    """Fits a model after the third batch and after the first epoch."""

    def __init__(self, other=None, **arguments):
        super().__init__()
        self.other, self.arguments, self.runs = other, arguments, 0

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2 and not self.runs:
            self.run()

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.run()

    def run(self):
        self.runs += 1
        (self.other or self.model).fit(X[:8], Y[:8], verbose=0, **self.arguments)


def fit(model, *callbacks, epochs=4):
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks))


def lasso(model):
    tfr.regularize(model, "unstructured", 1.0, "lasso")


# How the model is regularized, the callback, and what of it says that it worked to the end.
SOLVERS = {
    "BudgetProximal": (lambda model: None, lambda: BudgetProximal("macs=0.5", until=0.9), lambda one: one.met_at),
    "BudgetProximal single": (
        lambda model: tfr.regularize(model, "filter", budget="weights=0.5"), lambda: BudgetProximal(until=0.9),
        lambda one: one.met_at,
    ),
    "CoupledProximal": (
        lambda model: tfr.regularize_coupled(model, 1.0), lambda: CoupledProximal(step=0.05), lambda one: one._steps == 32
    ),
    "MultiGradient": (lasso, lambda: MultiGradient(clip=0.1), lambda one: len(one.history) == 4),
    "Proximal": (lasso, lambda: Proximal(step=0.01), lambda one: True),
    "Clipping": (lambda model: None, lambda: Clipping(0.1), lambda one: True),
    "IterativePruning": (
        lambda model: None, lambda: IterativePruning("macs=0.5", rounds=2), lambda one: len(one.history) == 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_work_to_the_end_around_fits_of_the_same_model(name):
    put, make, worked = SOLVERS[name]
    model, solver, inner = net(), make(), Inner()
    put(model)
    fit(model, solver, inner)
    assert inner.runs == 2 and worked(solver)
    assert any((ops.convert_to_numpy(layer.kernel) == 0).any() for layer in model.layers)
    assert not one_fit.callbacks_at_work(model, keras.callbacks.Callback)


@pytest.mark.parametrize("name", ["BudgetProximal", "MultiGradient"])
def test_a_fit_of_another_model_changes_nothing(name):
    put, make, _ = SOLVERS[name]
    trained = []
    for other in (None, net()):
        model = net()
        put(model)
        keras.utils.set_random_seed(1)
        # Else the other model would draw from the same generator.
        inner = [] if other is None else [Inner(other, shuffle=False)]
        model.fit(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=[make(), *inner])
        trained.append(model.get_weights())
    for one, two in zip(*trained, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_rate_falls_on_after_the_inner_fit():
    rates = []
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(float(ops.convert_to_numpy(model.optimizer.learning_rate)))
    )
    model = net()
    fit(model, CosineDecay(0.5), Inner(), seen)
    assert len(rates) == 32 and all(np.diff(rates) < 0)
    np.testing.assert_allclose(float(ops.convert_to_numpy(model.optimizer.learning_rate)), 1e-2, rtol=1e-6)


@pytest.mark.parametrize("name", ["BudgetProximal", "CoupledProximal", "MultiGradient", "Proximal", "IterativePruning"])
def test_a_solver_inside_one_of_its_class_is_refused_at_once(name):
    put, make, _ = SOLVERS[name]
    model, solver = net(), make()
    put(model)
    with pytest.raises(ValueError, match=f"inside another one of the same model must have no {name}.*the inner `fit`"):
        fit(model, solver, Inner(callbacks=[make()], epochs=2))


def test_the_next_fit_gives_back_what_an_interrupted_inner_one_left():
    class Stopped(Exception):
        pass

    class Stopping(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise Stopped

    class Catching(Inner):
        def run(self):
            for arguments in ({"callbacks": [Reweighting(every=1, learning_rate=0.3), Stopping()]}, {}):
                try:
                    self.model.fit(X[:8], Y[:8], verbose=0, **arguments)
                except Stopped:
                    left.append(self._at_work())
            left.append(self._at_work())
            self.runs += 1

        def _at_work(self):
            return len(one_fit.callbacks_at_work(self.model, keras.callbacks.Callback))

    left, model, catching = [], net(), Catching()
    lasso(model)
    solver = Proximal(step=0.01)
    fit(model, solver, catching)
    assert catching.runs == 2 and left == [2, 1, 2, 1]
    np.testing.assert_allclose(float(ops.convert_to_numpy(model.optimizer.learning_rate)), 1e-2, rtol=1e-6)
