"""What holds for every callback that sets weights itself: frozen layers, accumulated gradients, saved zeros, one fit each."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.baselines import ADMM, Clip, Clipping, ConstantSparsity, GradualMagnitude, PolynomialDecay
from tf_reweight.callbacks import BudgetProximal, IterativePruning, MultiGradient, Proximal, Reweighting
from tf_reweight.coupling import CoupledProximal
from tf_reweight.penalties.attachment import attachments

L = keras.layers
ON_TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the rule needs gradients in the step")


def net(optimizer=None, **arguments):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, activation="relu", name="a"), L.Dense(8, activation="relu", name="b"), L.Dense(3, name="c")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(optimizer or keras.optimizers.Adam(1e-2), "mse", **arguments)
    return model


RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 6)).astype("float32"), RNG.normal(size=(64, 3)).astype("float32")


def fit(model, *callbacks, epochs=2, batch_size=8):
    model.fit(X, Y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=list(callbacks))


def kernel(model, name="a"):
    return ops.convert_to_numpy(model.get_layer(name).kernel)


def single(model):
    tfr.regularize(model, "filter", budget="weights=0.5")


# How the model is regularized, and the solver.
REFUSING = {
    "BudgetProximal single": (single, lambda: BudgetProximal()),
    "BudgetProximal coupled": (lambda model: tfr.regularize_coupled(model, budget="macs=0.5"), lambda: BudgetProximal()),
    "IterativePruning": (single, lambda: IterativePruning(rounds=2)),
    "CoupledProximal": (lambda model: tfr.regularize_coupled(model, 1.0), lambda: CoupledProximal(step=0.05)),
    "MultiGradient": (
        lambda model: tfr.regularize(model, "unstructured", 1.0, "lasso"), lambda: MultiGradient(clip=0.2),
    ),
}  # fmt: skip
LEAVING_ALONE = {
    "Proximal": (lambda model: tfr.regularize(model, "unstructured", 1.0, "lasso"), lambda: Proximal(step=0.05)),
    "GradualMagnitude": (lambda model: None, lambda: GradualMagnitude(ConstantSparsity(0.5, 0, frequency=2))),
    "ADMM": (lambda model: None, lambda: ADMM("unstructured", 0.5)),
    "Clipping": (lambda model: None, lambda: Clipping(0.2)),
}


# What ranks groups; the others leave what is no number as it is.
RANKING = ("BudgetProximal single", "BudgetProximal coupled", "IterativePruning", "GradualMagnitude", "ADMM")


@ON_TENSORFLOW
@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")
@pytest.mark.parametrize("name", [*REFUSING, *LEAVING_ALONE, "Reweighting"])
def test_a_training_that_broke_is_named_before_what_is_no_number_is_zeroed(name):
    """A whole layer was zero then, and `fit` ended without a word."""
    renewed = {"Reweighting": (lambda model: tfr.regularize(model, "filter", 1e-3), lambda: Reweighting(every=1))}
    put, solver = (REFUSING | LEAVING_ALONE | renewed)[name]
    model = net()
    put(model)
    # Only the first kernel breaks: a relu of what is no number may be 0.
    nowhere = np.concatenate([X, np.full_like(X, np.nan)])
    words = r"Every weight must be finite .* Received: weights=\[.*Training diverged, or"
    with pytest.raises(ValueError, match=words) if name in RANKING else contextlib.nullcontext():
        model.fit(nowhere, np.concatenate([Y, Y]), shuffle=False, epochs=4, verbose=0, callbacks=[solver()])
    assert np.isnan(kernel(model)).any()


class Breaks(keras.callbacks.Callback):
    """What diverges at the last batch of an epoch, before anything has seen it."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.params["steps"] - 1:
            self.model.layers[0].kernel.assign(np.nan * kernel(self.model))


@ON_TENSORFLOW
@pytest.mark.parametrize("name", ["Proximal", "Clipping", "MultiGradient"])
def test_who_ends_a_broken_training_is_not_overruled(name):
    put, solver = (REFUSING | LEAVING_ALONE)[name]
    model = net()
    put(model)
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[solver(), Breaks(), keras.callbacks.TerminateOnNaN()])
    assert np.isnan(kernel(model)).any()


def test_what_training_does_not_move_need_not_be_finite():
    """A mask of -inf that a layer keeps is no sign of a training that broke."""
    model = net()
    layer = model.get_layer("b")
    layer.trainable = False
    layer.bias.assign(np.full(8, -np.inf))
    assert tfr.regularize(model, "unstructured", 1e-3) and attachments(model)


@pytest.mark.parametrize("put", [tfr.regularize, tfr.regularize_coupled])
def test_weights_that_are_no_numbers_are_refused_before_a_penalty_is_put_on_them(put):
    model = net()
    model.get_layer("b").bias.assign(np.full(8, np.inf))
    with pytest.raises(ValueError, match="Every weight must be finite.*b/bias"):
        put(model)
    assert not attachments(model)


@ON_TENSORFLOW
@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")
@pytest.mark.parametrize("name", REFUSING)
def test_layers_that_were_frozen_after_their_penalty_are_refused_and_unchanged(name):
    put, solver = REFUSING[name]
    model = net()
    put(model)
    model.get_layer("b").trainable = False
    model.compile("adam", "mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match="must be trainable. Received: frozen=.*'b.*detach"):
        fit(model, solver())
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    tfr.detach(model)
    if "oupled" not in name:  # both sets of channels of this net end at the frozen layer
        frozen = kernel(model, "b")
        put(model)  # leaves it out
        fit(model, solver())
        np.testing.assert_array_equal(kernel(model, "b"), frozen)


@pytest.mark.parametrize("name", LEAVING_ALONE)
def test_frozen_layers_keep_their_weights(name):
    put, solver = LEAVING_ALONE[name]
    model = net()
    model.get_layer("b").trainable = False
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    before = kernel(model, "b")
    put(model)
    fit(model, solver())
    np.testing.assert_array_equal(kernel(model, "b"), before)


def test_a_model_that_is_frozen_whole_is_refused():
    for solver in (GradualMagnitude(ConstantSparsity(0.5, 0)), ADMM("unstructured", 0.5)):
        model = net()
        model.trainable = False
        model.compile("adam", "mse")
        with pytest.raises(ValueError, match="must be trainable. Received: frozen="):
            fit(model, solver)


def test_zeros_of_gradual_pruning_are_held_after_saving_and_loading(tmp_path):
    model = net()
    fit(model, GradualMagnitude(ConstantSparsity(0.75, 0, frequency=2)))
    model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    zeros = kernel(loaded) == 0
    assert zeros.mean() == 0.75
    fit(loaded)
    np.testing.assert_array_equal(kernel(loaded) == 0, zeros)


@pytest.mark.parametrize("steps", [{"steps_per_execution": 8}, {}])
def test_a_schedule_that_ends_inside_the_last_execution_ends(steps):
    model = net(jit_compile=False, **steps)
    gradual = GradualMagnitude(PolynomialDecay(0.0, 0.75, 0, 14, frequency=1))
    fit(model, gradual)  # two epochs of eight steps
    assert gradual.history[-1]["step"] == 14 and (kernel(model) == 0).mean() == 0.75


def test_schedules_count_the_steps_that_move_weights():
    """With gradient accumulation Keras computes them, and they are no variable."""
    model = net(keras.optimizers.Adam(1e-2, gradient_accumulation_steps=4))
    gradual = GradualMagnitude(PolynomialDecay(0.0, 0.75, 0, 3, frequency=1))
    fit(model, gradual)  # 16 batches, 4 steps
    assert [entry["step"] for entry in gradual.history] == [0, 1, 2, 3] and (kernel(model) == 0).mean() == 0.75


STILL = 1e-30


@pytest.mark.parametrize(
    "inside", [lambda inner: inner, pytest.param(keras.optimizers.LossScaleOptimizer, id="loss scaling")]
)
@pytest.mark.parametrize("coupled", [False, True])
def test_a_proximal_step_belongs_to_a_step_of_the_optimizer(coupled, inside):
    """Where weights stand still but for it, norms lose as much in a quarter of the steps as these come to."""

    def lost(accumulate):
        model = net(inside(keras.optimizers.SGD(STILL, gradient_accumulation_steps=accumulate)))
        if coupled:
            tfr.regularize_coupled(model, 1.0, "lasso")
        else:
            tfr.regularize(model, "filter", 1.0, "lasso", layers=["a", "b"])
        penalties = [item.regularizer for item in attachments(model)]

        def norms():
            values = [item.target.variable.value for item in attachments(model)]
            return np.concatenate([np.ravel(ops.convert_to_numpy(p.norms(v))) for p, v in zip(penalties, values)])

        before = norms()
        fit(model, (CoupledProximal if coupled else Proximal)(step=1e-3))
        return (before - norms()).mean()

    # Sets that share a kernel shrink what the other sees: a difference of the second order.
    assert lost(4) == pytest.approx(lost(None) / 4, rel=3e-2 if coupled else 1e-3)


@pytest.mark.parametrize(
    "penalty, budget, words", [("log_squared", None, "squared norms"), (None, "macs=0.5", "from a budget")]
)
def test_the_coupled_solver_refuses_what_it_cannot_solve(penalty, budget, words):
    model = net()
    tfr.regularize_coupled(model, *([] if penalty is None else [1.0, penalty]), budget=budget)
    with pytest.raises(ValueError, match=f"sums of norms: .*{words}.*Received: kernel="):
        fit(model, CoupledProximal())


def test_clipping_that_was_interrupted_ends_with_the_next_fit():
    """Of the solvers that work for penalties test_budget_interrupted.py has the same law."""

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = net()
    with pytest.raises(KeyboardInterrupt):
        fit(model, Clipping(0.2), Interrupt())
    fit(model)
    assert (kernel(model) != 0).all() and model.get_layer("a").kernel.constraint is None


def test_each_inserted_constraint_is_taken_out_wherever_it_stands():
    """Two solvers that each insert one: whichever ends first, what the weight had itself is left."""
    model = net()
    own = keras.constraints.MaxNorm(100.0)
    model.get_layer("a").kernel.constraint = own
    tfr.regularize(model, "unstructured", 1e-6, "lasso")
    for order in (1, -1):
        fit(model, *[Clipping(1e-3), Proximal()][::order], epochs=1)
        assert model.get_layer("a").kernel.constraint is own and not isinstance(model.get_layer("b").kernel.constraint, Clip)


@pytest.mark.parametrize("solver", [CoupledProximal, lambda: IterativePruning(rounds=1)])
def test_two_of_a_solver_in_one_fit_are_refused(solver):
    model = net()
    if solver is CoupledProximal:
        tfr.regularize_coupled(model, 1.0)
    else:
        tfr.regularize_coupled(model, budget="macs=0.5")
    one = solver()
    for other in (solver(), one):
        with pytest.raises(ValueError, match="must hold one (CoupledProximal|IterativePruning)"):
            fit(model, one, other)


@ON_TENSORFLOW
def test_taking_penalties_off_ends_the_rule_that_works_for_them():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise KeyboardInterrupt

    model, plain = net(keras.optimizers.SGD(0.1)), net(keras.optimizers.SGD(0.1))
    tfr.regularize(model, "unstructured", 1.0, "lasso")
    with pytest.raises(KeyboardInterrupt):
        fit(model, MultiGradient(scale=50.0), Interrupt())
    tfr.detach(model)
    for each in (model, plain):
        each.train_on_batch(X, Y)
    np.testing.assert_allclose(kernel(model), kernel(plain), rtol=1e-6)


def test_admm_goes_on_with_its_own_structure_alone():
    model = net()
    ADMM({"name": "block", "shape": [2, 2]}, 0.5).attach(model)
    ADMM({"name": "block", "shape": [2, 2]}, 0.5).attach(model)
    with pytest.raises(ValueError, match="'shape': .2, 4.*detach"):
        ADMM({"name": "block", "shape": [2, 4]}, 0.5).attach(model)


def test_natural_patterns_go_by_their_name():
    """What is counted on trained kernels is another set of patterns later."""
    model = keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(4, 3, name="conv"), L.Flatten(), L.Dense(2)])
    admm = ADMM({"name": "pattern", "positions": "natural", "entries": 4, "num_patterns": 2}, None)
    (first,) = admm.attach(model)
    model.get_layer("conv").kernel.assign(np.random.default_rng(1).normal(size=(3, 3, 2, 4)))
    (again,) = admm.attach(model)
    assert again.regularizer is first.regularizer


def test_kernels_of_zeros_are_no_distance_away():
    model = net()
    for layer in model.layers:
        layer.kernel.assign(ops.zeros_like(layer.kernel))
    admm = ADMM("unstructured", 0.5)
    fit(model, admm)
    assert admm.history[0]["distance"] == 0.0
    assert len(admm.history) == 2
    fit(model, admm)
    assert len(admm.history) == 2
