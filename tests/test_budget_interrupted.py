"""Training towards a budget that goes another way: broken off, resumed, overflowing, with weights put back."""

import keras
import numpy as np
import pytest
from keras import ops
from rich.console import Console

import tf_reweight as tfr
from tests import nets
from tests.test_budget import nonzeros
from tf_reweight.coupling import CoupledProximal
from tf_reweight.coupling.attachment import regularize_coupled
from tf_reweight.deadline.solver import BudgetProximal
from tf_reweight.graph.counting import count_macs
from tf_reweight.penalties.attachment import attachments, detach, regularize
from tf_reweight.penalties.proximal import Proximal
from tf_reweight.pruning.prune import prune
from tf_reweight.shrinking import shrink
from tf_reweight.workflow.checkpoint import Checkpoint

L = keras.layers


class _Broken(keras.callbacks.Callback):
    """Ends a training in the middle, as a user does or an error."""

    def __init__(self, error, at=8):
        super().__init__()
        self.error, self.at = error, at

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.at:
            raise self.error


def small():
    layers = [L.Dense(8), L.BatchNormalization(), L.ReLU(), L.Dense(6, activation="relu"), L.Dense(1)]
    return keras.Sequential([keras.Input((4,)), *layers])


def small_task():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    return x, x[:, :1] * x[:, 1:2]


def fitted(model, *callbacks, **how):
    x, y = small_task()
    model.fit(x, y, batch_size=4, verbose=0, callbacks=list(callbacks), **{"epochs": 4, **how})
    return model


def interrupted(single, error=KeyboardInterrupt):
    """A model whose training towards a budget was broken off while groups were pressed."""
    model = small()
    if single:
        regularize(model, "unstructured", budget="sparsity=0.5")
    else:
        regularize_coupled(model, budget="macs=0.6")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    solver = BudgetProximal(until=0.9, criterion="lamp", every=2)
    with pytest.raises(error):
        fitted(model, solver, _Broken(error))
    return model, solver


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("end", [prune, tfr.prune_groups, detach], ids=["prune", "prune_groups", "detach"])
def test_nothing_presses_on_after_an_interrupted_fit_was_pruned_or_freed(single, end):
    model, _ = interrupted(single)
    if end is detach:
        detach(model)
    elif (end is prune) == single:
        with pytest.warns(UserWarning, match="do not meet"):
            end(model)
    else:
        return
    before = [ops.convert_to_numpy(w).copy() for w in model.trainable_weights]
    fitted(model)  # the learning rate is zero
    assert all(np.array_equal(a, ops.convert_to_numpy(b)) for a, b in zip(before, model.trainable_weights))


@pytest.mark.parametrize("single", [True, False])
def test_a_plain_fit_after_an_interrupted_one_presses_no_more(single):
    model, _ = interrupted(single)
    normalization = model.layers[1]
    assert normalization.momentum == 0.9 and normalization.get_config()["momentum"] == 0.99  # what is saved meanwhile
    before = [ops.convert_to_numpy(w).copy() for w in model.trainable_weights]
    fitted(model)  # the learning rate is zero
    assert all(np.array_equal(a, ops.convert_to_numpy(b)) for a, b in zip(before, model.trainable_weights))
    assert normalization.momentum == normalization.get_config()["momentum"] == 0.99
    assert not {"apply"} & set(vars(model.optimizer)) and "make_train_function" not in vars(model)


@pytest.mark.parametrize("single, same", [(True, True), (False, False)])
def test_a_fit_after_an_interrupted_one_begins_anew(single, same):
    model, solver = interrupted(single, KeyboardInterrupt if same else MemoryError)
    solver = solver if same else BudgetProximal(until=0.5, criterion="lamp", every=3)
    fitted(model, solver)
    assert solver.met_at is not None and model.layers[1].momentum == 0.99
    assert "apply" not in vars(model.optimizer)
    before = [ops.convert_to_numpy(w).copy() for w in model.trainable_weights]
    fitted(model)
    assert all(np.array_equal(a, ops.convert_to_numpy(b)) for a, b in zip(before, model.trainable_weights))


@pytest.mark.parametrize("single", [True, False])
def test_two_solvers_on_one_model_are_refused(single):
    model = small()
    if single:
        regularize(model, "unstructured", budget="sparsity=0.5")
    model.compile("sgd", "mse")
    budget = None if single else "macs=0.6"
    with pytest.raises(ValueError, match="one BudgetProximal"):
        fitted(model, BudgetProximal(budget, until=0.9, every=2), BudgetProximal(budget, until=0.9, every=2))


def test_overflow_of_half_precision_stays_out_of_what_is_known_of_the_groups():
    """Loss scaling begins so high that the first gradients overflow; they are left out, and the rest has its own scale."""
    scales = []
    for scaling in (False, True):
        model = small()
        keras.utils.set_random_seed(0)
        nets.randomize(model)
        regularize_coupled(model, budget="macs=0.6")
        optimizer = keras.optimizers.SGD(0.0)
        model.compile(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**127) if scaling else optimizer, "mse")
        fitted(model, BudgetProximal(until=0.9, every=2), epochs=8, shuffle=False)
        scales.append(np.concatenate([ops.convert_to_numpy(item.regularizer.saliency) for item in attachments(model)]))
        assert "apply" not in vars(getattr(model.optimizer, "inner_optimizer", model.optimizer))
    assert np.isfinite(scales[1]).all() and scales[0].max() > 0
    assert 0.2 < scales[1].max() / scales[0].max() < 5


def test_a_batch_that_is_not_finite_is_left_out():
    model = small()
    regularize_coupled(model, budget="macs=0.6")
    # It leaves out such steps, so that the weights stay numbers.
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0)), "mse")
    x, y = small_task()
    y[7] = np.nan
    solver = BudgetProximal(until=0.9, every=2)
    model.fit(x, y, batch_size=4, epochs=4, verbose=0, shuffle=False, callbacks=[solver])
    carried = attachments(model)
    assert carried
    for item in carried:
        assert np.isfinite(item.regularizer.saliency).all() and 0 < float(item.regularizer.batches) < 64


def test_a_deadline_at_the_end_of_the_training_is_met():
    model = small()
    model.compile("sgd", "mse")
    solver = BudgetProximal("macs=0.6", until=0.995, every=2)
    fitted(model, solver)
    assert solver.met_at == 64 and tfr.prune_groups(model).kept_groups < 14


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_outputs_without_a_loss_hold_nothing_up():
    """Groups that no loss depends on see no gradient; the others are known well enough all the same."""
    x = keras.Input((4,))
    h = L.Dense(8, activation="relu")(x)
    heads = {name: L.Dense(1, name=name)(L.Dense(6, activation="relu")(h)) for name in ("used", "unused")}
    model = keras.Model(x, heads)
    model.compile("sgd", {"used": "mse"})
    solver = BudgetProximal("macs=0.6", until=0.9, every=2)
    inputs, targets = small_task()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(inputs, {"used": targets}, batch_size=4, epochs=3, verbose=0, callbacks=[solver])
    assert len(solver.history) > 5 and solver.history[0]["step"] == 43 // 3, "a third of the deadline"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_another_callback_brings_back_is_zeroed_again_and_not_cut_twice():
    """The best weights may be those of before the deadline."""
    model = small()
    dense = count_macs(model)
    model.compile("sgd", "mse")
    best = [ops.convert_to_numpy(w).copy() for w in model.trainable_weights]

    def bring_back(logs=None):
        for weight, value in zip(model.trainable_weights, best):
            weight.assign(value)

    with pytest.warns(UserWarning, match="zero again"):
        fitted(model, keras.callbacks.LambdaCallback(on_train_end=bring_back), BudgetProximal("macs=0.6", until=0.5, every=2))
    at_end = nonzeros(model)
    bring_back()
    with pytest.warns(UserWarning, match="zero again"):
        tfr.prune_groups(model)
    assert nonzeros(model) == at_end
    assert 0.5 < count_macs(shrink(model)) / dense <= 0.6


@pytest.mark.parametrize("kind", [BudgetProximal, tfr.callbacks.IterativePruning])
@pytest.mark.parametrize("refused", [{"budget": "macs=0.01"}, {"budget": "macs=0.2", "multiple_of": 8}])
def test_a_refused_budget_leaves_no_penalties_and_another_can_be_tried(kind, refused):
    """Penalties that were on the model before stay, also where their budget is refused."""
    model = small()
    model.compile("sgd", "mse")
    other = {"until": 0.9} if kind is BudgetProximal else {"rounds": 2}
    with pytest.raises(ValueError, match="macs|multiple"):
        fitted(model, kind(**refused, **other))
    assert not attachments(model) and not model.losses
    fitted(model, kind("macs=0.6", **other))
    assert tfr.prune_groups(model).sparsity > 0
    model = small()
    regularize_coupled(model, budget="macs=0.6")
    model.compile("sgd", "mse")
    before = len(attachments(model))
    with pytest.raises(ValueError, match="another budget"):
        fitted(model, kind(**refused, **other))
    assert len(attachments(model)) == before


keras_counts_too = pytest.mark.filterwarnings("ignore:Your input ran out of data")


def unknown(*sizes):
    """tf.data that does not say how many batches it has: so many in each epoch, of the last from then on."""
    import tensorflow as tf

    x, y = small_task()
    begun = []

    def batches():
        begun.append(sizes[min(len(begun), len(sizes) - 1)])
        for place in range(begun[-1]):
            part = slice(4 * (place % 16), 4 * (place % 16) + 4)
            yield x[part], y[part]

    return tf.data.Dataset.from_generator(batches, output_signature=(tf.TensorSpec((4, 4)), tf.TensorSpec((4, 1))))


def with_budget(single):
    keras.utils.set_random_seed(0)
    model = small()
    if single:
        regularize(model, "unstructured", budget="sparsity=0.5")
    else:
        regularize_coupled(model, budget="macs=0.6")
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    return model


@keras_counts_too
@pytest.mark.parametrize("single", [False, True])
def test_steps_that_nobody_knows_are_counted_in_the_first_epoch(single):
    model, solver, kernels = with_budget(single), BudgetProximal(until=0.5, every=4), []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: kernels.append(nonzeros(model)))
    model.fit(unknown(16), shuffle=False, epochs=5, verbose=0, callbacks=[solver, look])
    assert solver.met_at == 16 + 32 and solver.history[-1]["freed"] >= 1.0
    steps = [entry["step"] for entry in solver.history]
    assert 16 <= steps[0] < 20 and steps[-1] == 48 and steps == sorted(steps)
    assert kernels[0] == nonzeros(small()) > kernels[-1]
    # Where the number is known, or given, all is as it was.
    given = BudgetProximal(until=0.5, every=4, steps=16)
    with_budget(single).fit(unknown(16), shuffle=False, epochs=5, verbose=0, callbacks=[given])
    assert given.met_at == 40


@keras_counts_too
@pytest.mark.parametrize("sizes", [(16, 7), (16, 25), (16, 16, 3, 20, 5)])
@pytest.mark.parametrize("until, single", [(0.5, True), (0.99, False)])
def test_a_budget_is_met_where_epochs_differ_in_their_steps(until, sizes, single):
    model, solver = with_budget(single), BudgetProximal(until=until, every=4)
    model.fit(unknown(*sizes), shuffle=False, epochs=5, verbose=0, callbacks=[solver])
    assert solver.met_at is not None and solver.history[-1]["freed"] >= 1.0


@keras_counts_too
@pytest.mark.parametrize("at, single", [(0, True), (1, False), (3, True)])
def test_a_training_of_unknown_steps_goes_on_where_it_was_cut_off(at, single, tmp_path):
    def trained(*others):
        model, solver = with_budget(single), BudgetProximal(until=0.6, every=4)
        state = Checkpoint(tmp_path / "state.zip", "train", [solver], Console(quiet=True))
        model.fit(unknown(16), shuffle=False, epochs=5, verbose=0, callbacks=[solver, *others, *([state] if keeps else [])])
        return solver.met_at, solver.history, [ops.convert_to_numpy(weight) for weight in model.weights]

    def cut(epoch, logs=None):
        if epoch == at + 1:
            raise KeyboardInterrupt

    keeps = False
    met_at, history, weights = trained()
    keeps = True
    with pytest.raises(KeyboardInterrupt):
        trained(keras.callbacks.LambdaCallback(on_epoch_begin=cut))
    again = trained()
    assert (again[0], again[1]) == (met_at, history)
    for one, other in zip(weights, again[2]):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_group_that_comes_back_at_the_very_end_reads_none_that_is_gone():
    """A warning spoke of weights of before the pruning."""
    model, solver = with_budget(False), BudgetProximal(until=0.995, every=4)
    fitted(model, solver, epochs=5, shuffle=False)
    before = nonzeros(model)
    tfr.prune_groups(model)
    assert solver.met_at == 80 and nonzeros(model) == before


@keras_counts_too
@pytest.mark.parametrize("epochs", [{"epochs": 1}, {"epochs": 3, "initial_epoch": 2}])
def test_one_epoch_of_unknown_steps_is_refused(epochs):
    model = small()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must know the steps of an epoch.*Received: "):
        model.fit(unknown(4), shuffle=False, verbose=0, callbacks=[BudgetProximal("macs=0.6")], **epochs)
    assert not attachments(model) and model.layers[1].momentum == 0.99
    model.fit(unknown(4), shuffle=False, verbose=0)


SOLVERS = {
    "reweighting": (lambda model: regularize(model, "unstructured", 1.0), lambda: [tfr.callbacks.Reweighting()]),
    "proximal": (lambda model: regularize(model, "unstructured", 1.0), lambda: [Proximal()]),
    "two objectives": (lambda model: regularize(model, "unstructured", 1.0, "lasso"), lambda: [tfr.callbacks.MultiGradient()]),
    "coupled": (lambda model: regularize_coupled(model, 1.0), lambda: [tfr.callbacks.Reweighting(), CoupledProximal()]),
    "budget": (
        lambda model: regularize_coupled(model, budget="macs=0.6"), lambda: [BudgetProximal(until=0.9, criterion="lamp")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOLVERS)
def test_the_next_fit_ends_what_an_interrupted_one_left(name):
    """The penalty is in the loss again, BatchNormalization has its momentum, and no callback is at work any more."""
    put, make = SOLVERS[name]
    model = small()
    put(model)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    normalization = model.layers[1]

    def state():
        own = [sorted({"apply", "make_train_function"} & set(vars(item))) for item in (model, model.optimizer)]
        constraints = [variable.constraint for variable in model.trainable_weights]
        return float(sum(model.losses)) > 0, normalization.momentum, own, constraints

    before = state()
    with pytest.raises(KeyboardInterrupt):
        fitted(model, *make(), _Broken(KeyboardInterrupt))
    assert normalization.momentum == 0.9
    weights = [ops.convert_to_numpy(w).copy() for w in model.trainable_weights]
    fitted(model)  # the learning rate is zero
    assert state() == before
    assert all(np.array_equal(a, ops.convert_to_numpy(b)) for a, b in zip(weights, model.trainable_weights))


@pytest.mark.parametrize("name", ["reweighting", "two objectives", "budget", "iterative"])
def test_each_fit_has_a_history_of_its_own(name):
    model = small()
    if name == "iterative":
        callback = tfr.callbacks.IterativePruning("macs=0.6", rounds=2)
    else:
        put, make = SOLVERS[name]
        put(model)
        (callback,) = make()
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    histories = []
    for _ in range(2):
        fitted(model, callback)
        histories.append([entry.get("epoch", entry.get("step")) for entry in callback.history])
    assert histories[0] == histories[1] != []


def test_a_step_on_a_batch_inside_a_fit_is_no_next_fit():
    """As in a callback that trains on a batch of its own: what presses goes on, and ends with the `fit`."""
    kept = {}
    for takes_steps in (False, True):
        model = little()
        regularize(model, "unstructured", 1.0)
        model.compile("sgd", "mse")
        before = model.layers[0].kernel.regularizer

        class Step(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if takes_steps:
                    self.model.train_on_batch(*batch())

        model.fit(*batch(), epochs=4, verbose=0, callbacks=[Proximal(step=0.05), Step()])
        kept[takes_steps] = int((np.asarray(model.layers[0].kernel) == 0).sum())
        assert model.layers[0].kernel.regularizer is before and "train_on_batch" not in vars(model)
    assert kept[True] > 0 and kept[False] > 0


def test_a_momentum_that_was_set_after_an_interruption_stays():
    model = little(normalized=True)
    regularize(model, "unstructured", 1e-3)
    model.compile("sgd", "mse")
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(*batch(), epochs=4, verbose=0, callbacks=[tfr.callbacks.Reweighting(), Stop()])
    assert norm.momentum == 0.9
    norm.momentum = 0.8
    model.fit(*batch(), epochs=1, verbose=0)
    assert norm.momentum == 0.8


def test_pruning_after_an_interruption_lowers_the_momentum_for_good():
    """The next `fit`, and a file of the pruned model, had the momentum of before the training that was interrupted."""
    model = little(normalized=True)
    regularize(model, "unstructured", 1e-3)
    model.compile("sgd", "mse")

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(*batch(), epochs=4, verbose=0, callbacks=[tfr.callbacks.Reweighting(), Stop()])
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    assert norm.momentum == 0.9 and norm.get_config()["momentum"] == 0.99  # what is saved meanwhile
    tfr.prune(model, sparsity=0.5)
    assert norm.get_config()["momentum"] == 0.9
    model.fit(*batch(), epochs=1, verbose=0)
    assert norm.momentum == norm.get_config()["momentum"] == 0.9


def little(normalized=False):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8), *([keras.layers.BatchNormalization()] if normalized else []), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((4,)), *layers])


def batch():
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    return x, x[:, :1]
