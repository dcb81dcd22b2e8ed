"""Budgets: what they mean, that they are met and not by much more, and that no strength is needed."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tf_reweight as tfr
from tests import nets
from tf_reweight import budget as budgets
from tf_reweight.coupling import Cost, groups
from tf_reweight.coupling.attachment import regularize_coupled
from tf_reweight.coupling.gates import reactions
from tf_reweight.coupling.scores import CRITERIA
from tf_reweight.data import labelled
from tf_reweight.deadline import IterativePruning
from tf_reweight.deadline.pace import pace
from tf_reweight.deadline.found import groups_of
from tf_reweight.deadline.revival import revive
from tf_reweight.deadline.solver import BudgetProximal
from tf_reweight.graph.counting import count_macs, count_parameters
from tf_reweight.graph.gradients import ENOUGH_BATCHES
from tf_reweight.kernels.budgeted import Demand, choose, lamp
from tf_reweight.kernels.quantities import Linear
from tf_reweight.penalties.attachment import attachments, regularize
from tf_reweight.pruning.prune import prune
from tf_reweight.shrinking import shrink

L = keras.layers


def net(width=16):
    layers = [L.Conv2D(width, 3, padding="same", use_bias=False), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D()]
    layers += [L.Conv2D(2 * width, 3, padding="same"), L.ReLU(), L.GlobalAveragePooling2D()]
    layers += [L.Dense(width), L.ReLU(), L.Dense(3)]
    return keras.Sequential([keras.Input((8, 8, 2)), *layers])


def task(scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(96, 8, 8, 2)).astype("float32")
    return x, (scale * np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), x.max((1, 2, 3))], -1)).astype("float32")


def nonzeros(model):
    return sum(int((ops.convert_to_numpy(w) != 0).sum()) for w in model.trainable_weights if len(w.shape) > 1)


@pytest.mark.parametrize("text", ["macs=0.5", "sparsity=0.9", "weights=20000", "macs=0.5, parameters=0.25"])
def test_texts_mappings_and_budgets_are_the_same(text):
    budget = budgets.get(text)
    assert budgets.get(budget.to_dict()) == budgets.get(budget) == eval(repr(budget), {"Budget": budgets.Budget}) == budget


@pytest.mark.parametrize(
    "given, words",
    [
        ({}, "an amount"),
        ({"macs": 0.0}, "`macs` must be"), ({"macs": -1}, "`macs` must be"), ({"macs": float("nan")}, "`macs` must be"),
        ({"macs": float("inf")}, "`macs` must be"), ({"macs": True}, "`macs` must be"), ({"macs": "half"}, "`macs` must be"),
        ({"macs": 10**400}, "`macs` must be a finite"), ({"accuracy_drop": 0}, "half a point"),
        ({"macs": 0.5, "precision": "int8"}, "the file whose size"), ("bytes=0.5,precision=", "must be a name"),
        ({"macs": 1.5}, "whole number"), ({"sparsity": 1.0}, r"\(0, 1\)"), ({"sparsity": 90}, "Did you mean 0.9"),
        ({"sparsity": 0.5, "weights": 0.5}, "the same"), ({"mac": 0.5}, "Did you mean 'macs'"),
        ("macs", "by name"), ("macs=0.5,macs=0.3", "once"), ("macs=half", "by name"),
    ],
)  # fmt: skip
def test_bad_budgets_are_explained(given, words):
    with pytest.raises(ValueError, match=words):
        budgets.get(given)


def test_amounts_are_plain_numbers_and_shown_whole():
    budget = budgets.Budget(macs=np.float32(0.5), weights=np.int64(1_234_567))
    assert {type(amount) for amount in budget.amounts.values()} == {int, float}
    assert type(budgets.Budget(sparsity=np.float32(0.5)).sparsity) is float
    assert "weights=1234567," in repr(budget) and eval(repr(budget), {"Budget": budgets.Budget}) == budget


_CALIBRATION = [
    [], {"macs": {"points": [[1.0], [2.0]]}}, {"bytes": {}}, {"bytes": {"points": []}}, {"bytes": {"points": None}},
    {"bytes": {"points": [[1.0, 2.0], [1.0]]}}, {"bytes": {"points": [["a"], [1.0]]}}, {"bytes": {"points": [[2, 1], [1, 2]]}},
    {"bytes": {"points": [[1.0], [2.0]], "operations": [[]]}}, {"bytes": {"points": [[1.0], [2.0]], "operations": 3}},
    {"bytes": {"points": [[1.0], [2.0]], "more": 1}},
]  # fmt: skip


@pytest.mark.parametrize("calibration", _CALIBRATION)
def test_measurements_that_are_none_are_refused(calibration):
    with pytest.raises(TypeError, match="`calibration` must be .* Received: calibration=.* Leave it out"):
        budgets.Budget(bytes=0.5, calibration=calibration)


def test_measurements_of_another_model_or_of_channels_are_refused():
    known = budgets.Budget(latency_ms=0.5, calibration={"latency_ms": {"points": [[0, 1], [0, 1]], "operations": [[[1], [1]]]}})
    with pytest.raises(ValueError, match="time of each kernel's operation. Received: operations=1, kernels=4"):
        tfr.prune_groups(net(), budget=known)
    with pytest.raises(ValueError, match="make no file faster"):
        prune(net(), "filter", budget=known)


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="must be a Budget"):
        budgets.get(0.5)


def test_limits_are_fractions_of_the_dense_model_or_absolute():
    limits = budgets.Budget(sparsity=0.75, parameters=300, macs=0.5).limits({"weights": 80, "parameters": 1000, "macs": 10})
    assert limits == {"weights": 20.0, "parameters": 300.0, "macs": 5.0}
    with pytest.raises(ValueError, match="Here can be limited: weights"):
        budgets.Budget(macs=0.5).limits({"weights": 80})
    with pytest.warns(UserWarning, match="nothing has to go"):
        budgets.Budget(weights=100).limits({"weights": 80})


def test_lamp_is_a_square_over_those_as_large_or_larger():
    norms = np.array([[3.0, -1.0], [2.0, 0.0]])
    assert np.allclose(lamp(norms), [[1.0, 1 / 14], [4 / 13, 0.0]])
    assert not lamp(np.zeros(3)).any()


def test_the_lowest_go_and_what_fits_comes_back():
    """Ranked 1, 2, 3: the first two have to go for the room, and then the first fits again."""
    costs, scores = np.array([1.0, 10.0, 5.0, 5.0]), np.array([0.1, 0.2, 0.3, 0.4])
    chosen = choose(scores, [Demand("weights", Linear(costs), 11.0)], np.zeros(4, bool))
    assert chosen.keep.tolist() == [True, False, True, True] and chosen.marginal == 0.2
    spared = choose(scores, [Demand("weights", Linear(costs), 16.0)], np.array([0, 1, 0, 0], bool))
    assert spared.keep.tolist() == [True, True, False, True] and spared.marginal == 0.3
    with pytest.raises(ValueError, match="at least 10 of the dense model's 21 weights.*Pass weights=0.477 or more"):
        choose(scores, [Demand("weights", Linear(costs), 9.0)], np.array([0, 1, 0, 0], bool))


def test_groups_change_places_to_come_closer_where_that_is_asked():
    costs, scores = np.array([6.0, 4.0, 5.0, 1.0]), np.array([0.1, 0.2, 0.3, 0.4])
    demands = [Demand("weights", Linear(costs), 12.0)]
    near = choose(scores, demands, np.zeros(4, bool))
    exact = choose(scores, demands, np.zeros(4, bool), exact=True)
    assert (costs @ near.keep, costs @ exact.keep) == (10.0, 12.0)


def test_the_marginal_group_is_gone_at_the_deadline_and_lower_ones_before():
    norms, scores, keep = np.array([1.0, 2.0, 4.0, 0.0]), np.array([1.0, 4.0, 16.0, 0.0]), np.array([0, 0, 1, 0], bool)
    amounts = pace(norms, scores, keep, 4.0, 10, 1.0, 0.5)
    assert np.allclose(amounts, [1.0 * 4 / 10, 2.0 / 10, 4.0 * 0.25 * 0.5 / 10, 0.0])
    assert np.allclose(pace(norms, scores, keep, 4.0, 10, 2.0, 0.0)[:3], [16 / 10, 2 / 10, 0.0])
    assert np.isfinite(pace(norms, scores * 1e-300, keep, 1e300, 10, 3.0, 1.0)).all()
    assert not pace(norms, scores, keep, 0.0, 10, 1.0, 1.0).any()


@pytest.mark.parametrize("build", nets.NETS)
def test_costs_of_coupled_groups_are_those_of_the_shrunk_model(build):
    model = build()
    nets.randomize(model)
    coupled = groups(model)
    quantities = Cost(coupled).quantities
    everything = np.ones(coupled.num_groups, bool)
    assert quantities["macs"].at(everything) == count_macs(model)
    assert quantities["parameters"].at(everything) == count_parameters(model)
    report = tfr.prune_groups(model, budget="weights=0.6")
    keep = np.concatenate([np.arange(item.num_groups) < pruned.kept_groups for item, pruned in zip(coupled.sets, report.sets)])
    small = shrink(model)
    assert quantities["macs"].at(keep) == count_macs(small)
    assert quantities["parameters"].at(keep) >= count_parameters(small)  # a branch that is dead goes whole
    # What one group changes is the difference of two amounts.
    for quantity in quantities.values():
        changes = quantity.changes(keep)
        for group in np.linspace(0, len(keep) - 1, 5).astype(int):
            other = keep.copy()
            other[group] = not other[group]
            assert np.isclose(changes[group], abs(quantity.at(other) - quantity.at(keep)))


@pytest.mark.parametrize("budget", ["macs=0.5", "parameters=0.3", "sparsity=0.6", "macs=0.5,parameters=0.5"])
def test_coupled_budgets_are_met_and_hardly_more(budget):
    model = net(32)
    dense = {"macs": count_macs(model), "parameters": count_parameters(model), "weights": nonzeros(model)}
    tfr.prune_groups(model, budget=budget)
    small = shrink(model)
    left = {"macs": count_macs(small), "parameters": count_parameters(small), "weights": nonzeros(small)}
    shares = [left[name] / limit for name, limit in budgets.get(budget).limits(dense).items()]
    assert 0.99 < max(shares) <= 1.0


@pytest.mark.parametrize("structure", ["unstructured", "filter", "channel", "column", "kernel", "block"])
@pytest.mark.parametrize("budget", ["sparsity=0.7", "macs=0.4", "parameters=0.5", "weights=2000"])
def test_budgets_of_zeros_are_met_and_hardly_more(structure, budget):
    model = net(32)
    report = prune(model, structure, budget=budget)
    left = sum(kernel.kept_weights for kernel in report.kernels)
    total = sum(kernel.num_weights for kernel in report.kernels)
    share = {
        "sparsity=0.7": left / total / 0.3,
        "weights=2000": left / 2000,
        "parameters=0.5": (count_parameters(model) - total + left) / count_parameters(model) / 0.5,
    }.get(budget)
    if share is not None:
        assert 0.98 < share <= 1.0 + 1e-9
    assert report.sparsity > 0.3 and all(kernel.kept_groups for kernel in report.kernels)


def test_no_layer_is_emptied_while_another_is_whole():
    keras.utils.set_random_seed(0)
    for structure in ("filter", "channel", "column"):
        for criterion, most in (("relative", 0.95), (None, 1.01)):
            report = prune(net(), structure, sparsity=0.5, criterion=criterion)
            kept = [kernel.kept_groups / kernel.num_groups for kernel in report.kernels]
            # By LAMP small kernels may stay whole, since each of their few groups is a large part of them.
            assert min(kept) > 0.15 and max(kept) < most, (structure, criterion, kept)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: prune(model, "filter", budget="macs=0.001"),
        lambda model: prune(model, "filter", budget="macs=0.5", sparsity=0.5),
        lambda model: prune(model, "filter", budget="macs=0.5", scope="layer"),
        lambda model: prune(model, {"name": "n_of_m"}, budget="macs=0.5"),
        lambda model: prune(model, "filter", budget="macs=0.5", criterion="lampp"),
        lambda model: prune(model, "filter"),
        lambda model: tfr.prune_groups(model, budget="macs=0.001"),
        lambda model: tfr.prune_groups(model, 0.5, budget="macs=0.5"),
        lambda model: tfr.prune_groups(model, budget="macs=0.5", macs=0.5),
        lambda model: regularize(model, "filter", 1e-3, budget="macs=0.5"),
        lambda model: regularize(model, {"name": "n_of_m"}, budget="macs=0.5"),
        lambda model: regularize_coupled(model, 1e-3, budget="macs=0.5"),
        lambda model: regularize_coupled(model, budget={"mac": 0.5}),
        lambda model: regularize_coupled(model, budget={"macs": 0.001}),
        lambda model: regularize(model, "filter", budget={"macs": 0.001}),
    ],
)
def test_bad_calls_are_refused_and_the_model_stays(call):
    model = net()
    before = [ops.convert_to_numpy(w).copy() for w in model.weights]
    with pytest.raises(ValueError, match="Received: "):
        call(model)
    assert not attachments(model)
    assert all(np.array_equal(a, ops.convert_to_numpy(b)) for a, b in zip(before, model.weights))


@pytest.mark.parametrize("optimizer, scale", [("adam", 1e-2), ("sgd", 1.0), ("adam", 1e2)])
def test_the_budget_is_met_by_the_deadline_whatever_the_loss(scale, optimizer):
    model, (x, y) = net(32), task(scale)
    model.compile(keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 1e-3 / max(1.0, scale)}}), "mse")
    dense = count_macs(model)
    solver = BudgetProximal("macs=0.4", until=0.5)
    model.fit(x, y, batch_size=8, epochs=10, verbose=0, callbacks=[solver])
    assert solver.met_at == 60 and 0.0 <= solver.history[0]["freed"] < 0.5
    report = tfr.prune_groups(model)
    small = shrink(model)
    assert 0.985 < count_macs(small) / dense / 0.4 <= 1.0 and report.kept_groups < report.num_groups
    assert not attachments(model)


@pytest.mark.parametrize(
    "structure, budget", [("unstructured", "sparsity=0.8"), ("filter", "weights=0.5"), ("block", "macs=0.5")]
)
def test_zeros_of_single_kernels_meet_it_as_well_and_stay(structure, budget):
    model, (x, y) = net(), task()
    regularize(model, structure, budget=budget)
    model.compile("adam", "mse")
    solver = BudgetProximal(until=0.6, every=5)
    model.fit(x, y, batch_size=8, epochs=6, verbose=0, callbacks=[solver])
    at_deadline = nonzeros(model)
    report = prune(model)
    assert solver.met_at == 43 and solver.history[-1]["freed"] == pytest.approx(1.0, abs=0.02)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    assert nonzeros(model) <= at_deadline and report.sparsity > 0.4
    assert not attachments(model)


@pytest.mark.filterwarnings("ignore:Only 11 training steps")
def test_groups_that_are_to_go_shrink_and_those_that_stay_are_left_alone():
    """With a loss that never changes anything, what moves is moved by the solver."""
    model, (x, y) = net(), task()
    regularize_coupled(model, budget="macs=0.5")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    before = [item.regularizer.norms(item.target.variable.value) for item in attachments(model)]
    solver = BudgetProximal(until=0.9, criterion="lamp", every=2)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[_Stopped(solver)])
    after = [item.regularizer.norms(item.target.variable.value) for item in attachments(model)]
    ratios = np.concatenate([ops.convert_to_numpy(b / a) for a, b in zip(before, after)])
    assert (ratios < 0.9).any() and (ratios > 0.9).any()


class _Stopped(keras.callbacks.Callback):
    """Runs a solver, and stops the training before its deadline."""

    def __init__(self, solver):
        super().__init__()
        self.solver = solver

    def set_model(self, model):
        super().set_model(model)
        self.solver.set_model(model)

    def on_train_begin(self, logs=None):
        self.solver.set_params(self.params)
        self.solver.on_train_begin()

    def on_epoch_begin(self, epoch, logs=None):
        self.solver.on_epoch_begin(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if batch < 6:
            self.solver.on_train_batch_begin(batch)

    def on_train_batch_end(self, batch, logs=None):
        if batch < 6:
            self.solver.on_train_batch_end(batch)

    def on_train_end(self, logs=None):
        with pytest.warns(UserWarning, match="before the deadline"):
            self.solver.on_train_end()


def test_steps_are_counted_from_the_first_epoch_of_the_fit():
    """With an initial epoch behind the deadline of the whole, groups would be cut before a batch was seen."""
    found = []
    for first in (0, 10):
        keras.utils.set_random_seed(0)
        model, (x, y) = net(), task()
        model.compile("adam", "mse")
        solver = BudgetProximal("macs=0.5", until=0.5)
        model.fit(x, y, batch_size=8, epochs=first + 10, initial_epoch=first, shuffle=False, verbose=0, callbacks=[solver])
        found.append((solver.met_at, [ops.convert_to_numpy(w) for w in model.weights]))
    assert found[0][0] == found[1][0] == 60
    assert all(np.array_equal(*pair) for pair in zip(found[0][1], found[1][1]))


@pytest.mark.parametrize("single", [True, False])
def test_the_optimizer_is_given_back_and_listened_to_until_then(single):
    model, (x, y) = net(), task()
    if single:
        regularize(model, "unstructured", budget="sparsity=0.5")
    model.compile("adam", "mse")
    own = type(model.optimizer).apply
    solver = BudgetProximal(None if single else "macs=0.5", until=0.5, every=5)
    heard = []

    def note(epoch, logs):
        heard.append("apply" in vars(model.optimizer))

    noting = keras.callbacks.LambdaCallback(on_epoch_begin=note)
    model.fit(x, y, batch_size=8, epochs=8, verbose=0, callbacks=[solver, noting])
    assert model.optimizer.apply.__func__ is own
    assert heard[0] and not heard[-1]
    assert solver.history[0]["step"] == min(20, int(-(-len(x) // 8) * 8 * 0.5) // 3)


def test_a_step_of_the_model_s_own_is_pressed_by_norms_and_says_so_where_the_loss_was_to_rank():
    """Its gradients go past the optimizer that was compiled: nothing was pressed then, and all cut at the deadline."""

    class Own(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            variables = self.trainable_variables
            self.own.apply(tape.gradient(loss, [v.value for v in variables]), variables)
            return {"loss": loss}

    x, y = np.random.default_rng(0).normal(size=(64, 8)).astype("float32"), np.zeros((64, 1))
    for criterion, given in (None, {"loss": "mse"}), ("taylor", {"loss": "mse"}), (None, {"optimizer": None}):
        inputs = keras.Input((8,))
        model = Own(inputs, L.Dense(1)(L.Dense(32, activation="relu")(inputs)))
        model.own = keras.optimizers.SGD(1e-2)
        regularize(model, "unstructured", budget="sparsity=0.8")
        model.compile(**given)
        solver = BudgetProximal(criterion=criterion, until=0.5)
        if criterion is None:
            model.fit(x, y, batch_size=8, epochs=20, verbose=0, callbacks=[solver])
        else:
            with pytest.warns(UserWarning, match="none did: groups are ranked by norms"):
                model.fit(x, y, batch_size=8, epochs=20, verbose=0, callbacks=[solver])
        assert len(solver.history) > 3 and solver.met_at is not None
        # Twice the batches that tell groups apart: an optimizer that is only late would have been heard by then.
        assert solver.history[0]["step"] == (2 * ENOUGH_BATCHES if "loss" in given else 0)
    with pytest.raises(ValueError, match="Valid: lamp, magnitude, relative"):
        model.fit(x, y, verbose=0, callbacks=[BudgetProximal(criterion="taylor")])


def test_among_what_the_loss_does_not_feel_norms_decide():
    """All inputs but one are zero: the groups went in the order of their places, and all at once."""
    model = keras.Sequential([keras.Input((8,)), L.Dense(6, activation="relu"), L.Dense(2)])
    nets.randomize(model)
    kernel = model.layers[0].kernel
    before = np.abs(ops.convert_to_numpy(kernel))[1:]
    x = np.zeros((64, 8), "float32")
    x[:, 0] = np.linspace(-1, 1, 64)
    regularize(model, "unstructured", budget="sparsity=0.5", layers=model.layers[0].name)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    solver = BudgetProximal()
    model.fit(x, np.zeros((64, 2)), batch_size=8, epochs=20, verbose=0, callbacks=[solver])
    left = ops.convert_to_numpy(kernel)[1:] != 0
    assert 0 < left.sum() < left.size and before[left].min() > before[~left].max()
    freed = [entry["freed"] for entry in solver.history]
    assert sum(0.1 < value < 0.9 for value in freed) > 1, "they go one after the other"


def test_the_loss_s_reaction_to_a_group_is_weight_times_gradient_squared():
    """Against a NumPy loop over one batch, for a group that one kernel reads."""
    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(1, name="head")(L.Dense(6, activation="relu", name="hidden")(x)))
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(32, 4)).astype("float32"), rng.normal(size=(32, 1)).astype("float32")
    regularize_coupled(model, budget="macs=0.5")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    hidden = ops.convert_to_numpy(keras.Model(x, model.get_layer("hidden").output)(inputs))
    head = ops.convert_to_numpy(model.get_layer("head").kernel)
    errors = ops.convert_to_numpy(model(inputs)) - targets
    slopes = np.array([np.mean(2 * errors[:, 0] * hidden[:, unit] * head[unit, 0]) for unit in range(6)])
    model.fit(inputs, targets, batch_size=32, epochs=40, verbose=0, callbacks=[_Ended(BudgetProximal(until=0.9, every=5))])
    (item,) = attachments(model)
    assert np.allclose(item.regularizer.saliency, slopes**2, rtol=1e-3)


@pytest.mark.parametrize("structure", ["unstructured", "filter", "channel", "block"])
def test_the_loss_s_reaction_to_single_kernels_is_squared_weights_times_squared_gradients(structure):
    """Against a NumPy loop over two batches, of a kernel and of one that lies the other way round in its layer."""
    x = keras.Input((5, 5, 2))
    made = L.Conv2DTranspose(3, 2, name="up")(L.Conv2D(4, 3, name="conv")(x))
    model = keras.Model(x, made)
    nets.randomize(model)
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(32, 5, 5, 2)).astype("float32"), rng.normal(size=(32, 4, 4, 3)).astype("float32")
    regularize(model, structure, budget="sparsity=0.5")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    squares = {}
    for rows in (slice(0, 16), slice(16, 32)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(inputs[rows]) - targets[rows]))
        kernels = [item.target.variable.value for item in attachments(model)]
        for item, gradient in zip(attachments(model), tape.gradient(loss, kernels)):
            parts = ops.convert_to_numpy(item.regularizer.structure.partition(item.target.layout.to_standard(gradient)))
            members = item.regularizer.structure.num_members(item.target.standard_shape)
            squares.setdefault(item.target.name, []).append(np.square(parts).sum(axis=-1) / members)
    found, solver = [], BudgetProximal(until=0.9, every=5)

    def look(epoch, logs):
        found[:] = [solver._groups.scores(solver._groups.norms())]

    looking = keras.callbacks.LambdaCallback(on_epoch_end=look)
    model.fit(inputs, targets, batch_size=16, epochs=10, verbose=0, shuffle=False, callbacks=[_Ended(solver), looking])
    expected = [np.mean(squares[item.target.name], axis=0) for item in attachments(model)]
    norms = [ops.convert_to_numpy(item.regularizer.norms(item.target.variable)) for item in attachments(model)]
    scores = np.concatenate([np.ravel(square * norm**2) for square, norm in zip(expected, norms)])
    np.testing.assert_allclose(found[0], scores, rtol=1e-3)


def test_once_enough_is_known_half_of_the_batches_are_taken_in_and_no_alternation_is_missed():
    """Even batches react ten times as much as odd ones; every second batch would tell of one kind only."""
    model = keras.Sequential([keras.Input((3,)), L.Dense(4, use_bias=False)])
    regularize(model, "unstructured", budget="sparsity=0.5")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(2, 4, 3)).astype("float32") * np.array([10.0, 1.0], "float32").reshape(2, 1, 1)
    inputs, targets = np.tile(kinds.reshape(8, 3), (60, 1)), np.zeros((480, 4), "float32")
    squares = []
    for rows in (slice(0, 4), slice(4, 8)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(inputs[rows]) - targets[rows]))
        squares.append(np.square(tape.gradient(loss, model.layers[0].kernel.value)))
    found, solver = [], BudgetProximal(until=0.99)

    def look(epoch, logs):
        reactions = solver._groups._reactions
        found[:] = [reactions.batches, reactions.squares()[0]]

    looking = keras.callbacks.LambdaCallback(on_epoch_end=look)
    model.fit(inputs, targets, batch_size=4, epochs=2, verbose=0, shuffle=False, callbacks=[_Ended(solver), looking])
    batches, mean = found
    assert abs(batches - (ENOUGH_BATCHES + (240 - ENOUGH_BATCHES) / 2)) < 5
    np.testing.assert_allclose(mean.reshape(3, 4), np.mean(squares, axis=0), rtol=0.3)


@pytest.mark.parametrize("structure", ["unstructured", "filter", "column"])
def test_the_reaction_to_a_table_of_rows_adds_up_what_was_looked_up_several_times(structure):
    """Its gradient has each row as often as it was looked up: groups of whole axes ended in a TypeError."""
    model = keras.Sequential([keras.Input((5,)), L.Embedding(7, 4, name="table"), L.Flatten(), L.Dense(1, name="head")])
    nets.randomize(model)
    x = np.random.default_rng(0).integers(0, 3, (16, 5))
    y = np.ones((16, 1), "float32")
    regularize(model, structure, budget="sparsity=0.5", layers="table")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    gradient = ops.convert_to_numpy(tf.convert_to_tensor(tape.gradient(loss, model.get_layer("table").embeddings.value)))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    found, solver = [], BudgetProximal(until=0.9, every=5)

    def look(epoch, logs):
        found[:] = solver._groups._reactions.squares()

    looking = keras.callbacks.LambdaCallback(on_epoch_end=look)
    model.fit(x, y, batch_size=16, epochs=20, verbose=0, callbacks=[_Ended(solver), looking])
    (item,) = attachments(model)
    parts = np.square(ops.convert_to_numpy(item.regularizer.structure.partition(item.target.layout.to_standard(gradient))))
    expected = parts.sum(axis=-1) / item.regularizer.structure.num_members(item.target.standard_shape)
    np.testing.assert_allclose(found[0], np.maximum(expected, 1e-6 * expected.mean()), rtol=1e-3)


def test_weights_that_the_loss_does_not_feel_go_first_however_large():
    """Half of the inputs are always zero, and what reads them is largest; by norms it would stay."""
    left = {}
    for criterion in (None, "lamp"):
        model = keras.Sequential([keras.Input((8,)), L.Dense(16, activation="relu"), L.Dense(1)])
        nets.randomize(model)
        kernel = model.layers[0].kernel
        kernel.assign(kernel.value * np.where(np.arange(8) < 4, 5.0, 1.0)[:, None])
        x = np.random.default_rng(0).normal(size=(128, 8)).astype("float32")
        x[:, :4] = 0.0
        regularize(model, "unstructured", budget="sparsity=0.5")
        model.compile(keras.optimizers.SGD(1e-3), "mse")
        y = np.sum(x, axis=1, keepdims=True)
        model.fit(x, y, batch_size=16, epochs=12, verbose=0, callbacks=[BudgetProximal(criterion=criterion)])
        left[criterion] = np.count_nonzero(ops.convert_to_numpy(kernel)[:4])
    assert left[None] == 0 < left["lamp"]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_kernel_that_no_gradient_reaches_is_ranked_as_if_it_were_like_the_others():
    """A head that the loss knows nothing of: without a reaction it would be the first to go, whole."""
    x = keras.Input((6,))
    trunk = L.Dense(8, activation="relu")(x)
    model = keras.Model(x, [L.Dense(4, name="known")(trunk), L.Dense(4, name="unknown")(trunk)])
    nets.randomize(model)
    regularize(model, "unstructured", budget="sparsity=0.5")
    model.compile(keras.optimizers.SGD(1e-3), ["mse", None])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)).astype("float32"), rng.normal(size=(64, 4)).astype("float32")
    model.fit(x, [y, y], batch_size=8, epochs=10, verbose=0, callbacks=[BudgetProximal()])
    shares = [np.mean(ops.convert_to_numpy(model.get_layer(name).kernel) != 0) for name in ("known", "unknown")]
    assert all(0.2 < share < 1.0 for share in shares), shares


class _Ended(_Stopped):
    """Only listens."""

    def on_epoch_begin(self, epoch, logs=None):
        pass

    def on_train_batch_begin(self, batch, logs=None):
        pass

    def on_train_batch_end(self, batch, logs=None):
        pass


def test_a_budget_is_saved_with_the_model_and_found_again(tmp_path):
    for put in (
        lambda model: regularize_coupled(model, budget="macs=0.5"),
        lambda model: regularize(model, "filter", budget="macs=0.5"),
    ):
        model, (x, y) = net(), task()
        put(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        loaded.compile("adam", "mse")
        assert {item.regularizer.budget for item in attachments(loaded)} == {budgets.Budget(macs=0.5)}
        assert {type(item.regularizer).__name__ for item in attachments(loaded)} <= {"Budgeted", "CoupledBudgeted"}
        solver = BudgetProximal(until=0.5, every=5)
        loaded.fit(x, y, batch_size=8, epochs=5, verbose=0, callbacks=[solver])
        assert solver.met_at == 30


def test_several_steps_in_one_execution_end_the_same():
    model, (x, y) = net(), task()
    model.compile("adam", "mse", steps_per_execution=4)
    solver = BudgetProximal("macs=0.5", until=0.5, every=4)
    dense = count_macs(model)
    model.fit(x, y, batch_size=8, epochs=6, verbose=0, callbacks=[solver])
    tfr.prune_groups(model)
    assert solver.met_at is not None and count_macs(shrink(model)) <= 0.5 * dense


def test_looks_are_as_close_however_many_steps_are_executed_at_once():
    model, (x, y) = net(), task()
    model.compile("adam", "mse", steps_per_execution=5)
    solver = BudgetProximal("macs=0.5", until=0.5, criterion="lamp")
    model.fit(x, y, batch_size=8, epochs=6, verbose=0, callbacks=[solver])
    # A look is due every 3 steps; an execution begins at the steps 0, 5 and 10 of the 12 of an epoch.
    assert [entry["step"] for entry in solver.history] == [0, 5, 10, 12, 17, 22, 24, 29, 34, 36]


@pytest.mark.parametrize("solver", [BudgetProximal(until=0.5, criterion="lamp"), IterativePruning(rounds=3)])
def test_a_history_counts_what_has_to_go_and_not_what_the_dense_model_meets(solver):
    model, (x, y) = net(), task()
    model.compile("adam", "mse")
    regularize_coupled(model, budget="parameters=100000,macs=0.5")
    model.fit(x, y, batch_size=8, epochs=6, verbose=0, callbacks=[solver])
    assert all(0 <= entry["planned"] <= 1 and 0 <= entry["freed"] < 1.2 for entry in solver.history)
    assert solver.history[-1]["planned"] == 1 and solver.history[-1]["freed"] >= 1


def test_channels_are_weighed_by_what_has_to_go():
    """Their price in a quantity that the dense model meets would say nothing."""
    kept = []
    for budget in ("macs=0.5", "parameters=100000,macs=0.5"):
        keras.utils.set_random_seed(0)
        model = net()
        kept.append([item.kept_groups for item in tfr.prune_groups(model, budget=budget).sets])
    assert kept[0] == kept[1]


def test_penalties_of_several_budgets_do_not_say_what_goes():
    """The budget of the first kernel ruled over all others, or none where the first had a strength."""
    for others in ({"strength": 1e-3}, {"budget": "sparsity=0.9"}):
        model = net()
        regularize(model, "unstructured", budget="sparsity=0.5", layers=L.Dense)
        regularize(model, "unstructured", layers=L.Conv2D, **others)
        before = nonzeros(model)
        with pytest.raises(ValueError, match="one budget.*Received: budgets="):
            prune(model)
        assert nonzeros(model) == before
        prune(model, sparsity=0.5)
    model = net()
    regularize_coupled(model, strength=1e-3)
    regularize_coupled(model, budget="macs=0.5")
    with pytest.raises(ValueError, match="one budget.*Received: budgets="):
        tfr.prune_groups(model)
    assert tfr.prune_groups(model, sparsity=0.5).kept_groups


def test_what_cannot_be_solved_for_is_refused_before_training():
    x, y = task()

    def fit(model, solver):
        model.compile("adam", "mse")
        before = [ops.convert_to_numpy(w).copy() for w in model.weights]
        with pytest.raises(ValueError, match="Received: "):
            model.fit(x, y, batch_size=8, epochs=10, verbose=0, callbacks=[solver])
        assert all(np.array_equal(a, ops.convert_to_numpy(b)) for a, b in zip(before, model.weights))

    fit(net(), BudgetProximal(until=0.5))
    fit(net(), BudgetProximal("macs=0.001", until=0.5))
    fit(net(), BudgetProximal("macs=0.5", criterion="magnitude", until=0.5))
    model = net()
    regularize_coupled(model, 1e-3)
    fit(model, BudgetProximal(until=0.5))
    model = net()
    regularize_coupled(model, budget="macs=0.5")
    fit(model, BudgetProximal("macs=0.4", until=0.5))
    for solver in (BudgetProximal(multiple_of=8), IterativePruning(rounds=2, multiple_of=8)):
        model = net()
        regularize(model, "filter", budget="weights=0.5")
        fit(model, solver)
    for how in ({"until": 1.0}, {"power": 0.0}, {"survivors": 2}, {"every": 0}, {"horizon": 0}, {"horizon": 1.5}):
        with pytest.raises(ValueError, match="Received: "):
            BudgetProximal("macs=0.5", **how)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_too_few_steps_and_a_training_that_ends_early_are_said():
    model, (x, y) = net(), task()
    model.compile("adam", "mse")
    with pytest.warns(UserWarning, match="at least 60 steps"):
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[BudgetProximal("macs=0.5", until=0.5)])
    report = tfr.prune_groups(model)
    assert report.kept_groups < report.num_groups


def test_pruning_before_the_budget_is_met_says_so():
    for put, cut in (
        (lambda model: regularize_coupled(model, budget="macs=0.5"), tfr.prune_groups),
        (lambda model: regularize(model, "filter", budget="macs=0.5"), prune),
    ):
        model = net()
        put(model)
        with pytest.warns(UserWarning, match="BudgetProximal"):
            cut(model)
        assert nonzeros(model) < nonzeros(net()) and not attachments(model)


def test_labelled_data_let_the_loss_rank():
    model, (x, y) = net(32), task()
    model.compile("adam", "mse")
    model.fit(x, y, epochs=3, verbose=0)
    coupled, cost = groups(model), count_macs(model)
    squares = reactions(model, coupled.sets, labelled.read(model, x, y), batch_size=96)
    # Of one group: the slope of the loss by a factor on the weights that read it, by a difference quotient.
    (item,) = [item for item in coupled.sets if item.name == "dense"] or [coupled.sets[-1]]
    reader = next(part for part in item.slices if part.role == "read")
    before, losses = ops.convert_to_numpy(reader.variable.value), []
    for factor in (0.999, 1.001):
        scaled = before.copy()
        rows = np.moveaxis(scaled, reader.axis, 0)
        rows[np.flatnonzero(reader.group_of == 3)] *= factor
        reader.variable.assign(scaled)
        losses.append(float(np.mean((model.predict(x, verbose=0) - y) ** 2, dtype="float64")))
    reader.variable.assign(before)
    number = [other is item for other in coupled.sets].index(True)
    assert np.isclose(squares[number][3], ((losses[1] - losses[0]) / 0.002) ** 2, rtol=0.1)
    report = tfr.prune_groups(model, budget="macs=0.5", data=(x, y))
    assert report.kept_groups < report.num_groups and count_macs(shrink(model)) <= 0.5 * cost


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"budget": "macs=0.5", "criterion": "taylor"}, "labelled"),
        ({"criterion": "taylor", "data": task()}, "an amount"),
        ({"budget": "macs=0.5", "criterion": "taylor", "data": task()[0]}, "labelled"),
    ],
)
def test_ranking_by_the_loss_needs_labels_and_an_amount(arguments, words):
    model = net()
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=words):
        tfr.prune_groups(model, **arguments)
    with pytest.raises(ValueError, match="gradients of a loss"):
        tfr.prune_groups(net(), budget="macs=0.5", criterion="taylor", data=task())


def test_channels_that_stay_are_a_multiple():
    model, (x, y) = net(32), task()
    dense = count_macs(model)
    model.compile("adam", "mse")
    model.fit(x, y, batch_size=8, epochs=6, verbose=0, callbacks=[BudgetProximal("macs=0.4", until=0.6, multiple_of=8)])
    report = tfr.prune_groups(model)
    assert {item.kept_groups % 8 for item in report.sets} == {0} and count_macs(shrink(model)) <= 0.4 * dense


def test_pressing_makes_the_step_anew_where_thresholds_are_constants_in_it(monkeypatch):
    """As on JAX: it would go on with the thresholds of zero that it was traced with."""
    model = net()
    regularize(model, "unstructured", budget="sparsity=0.5")
    model.compile("sgd", "mse")
    found = groups_of(model, "BudgetProximal", None, "lamp", 1)
    found.open()
    model.make_train_function()
    before = model.train_function
    found.press(np.zeros(len(found.norms())))
    assert model.train_function is before
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    found.press(np.zeros(len(found.norms())))
    assert model.train_function is not before
    found.close()


def test_the_best_of_each_set_is_spared():
    """Without it a set could be planned to go whole, whatever is said at the deadline."""
    model = net()
    model.compile("sgd", "mse")
    found = groups_of(model, "BudgetProximal", tfr.Budget(macs=0.5), "lamp", 1)
    sizes = [item.num_groups for item in groups(model).sets]
    scores = np.random.default_rng(0).permutation(sum(sizes)).astype("float64")
    of_sets = np.split(found.spared(scores), np.cumsum(sizes)[:-1])
    for spared, score in zip(of_sets, np.split(scores, np.cumsum(sizes)[:-1]), strict=True):
        np.testing.assert_array_equal(spared, score == score.max())


def test_kernels_of_groups_that_come_back_are_drawn_and_scales_are_as_large_as_those_that_stayed():
    """No two groups learn the same, and none begins with a scale near zero."""
    keras.utils.set_random_seed(0)
    layers = [L.Dense(6, name="made"), L.BatchNormalization(name="norm"), L.ReLU(), L.Dense(3)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    gamma = model.get_layer("norm").gamma
    gamma.assign([0.0, 0.0, 1.0, -2.0, 3.0, 0.5])
    made, reads = model.get_layer("made").kernel, model.layers[-1].kernel
    made.assign(ops.convert_to_numpy(made) * (np.arange(6) >= 2))
    reads.assign(ops.convert_to_numpy(reads) * (np.arange(6) >= 2)[:, None])
    (item,) = groups(model).sets
    revive(item, np.arange(6) < 2, np.arange(6) >= 2)
    kernel, scales = (ops.convert_to_numpy(variable) for variable in (model.get_layer("made").kernel, gamma))
    assert len(np.unique(kernel[:, :2])) == 10
    np.testing.assert_allclose(scales[:2], np.sqrt(np.mean(np.square(scales[2:]))), rtol=1e-6)


@pytest.mark.parametrize("zero", [{"made"}, {"norm"}, {"reads"}, {"made", "norm"}, {"norm", "reads"}, {"made", "reads"}])
def test_what_is_read_stays_as_it_is_and_what_is_not_read_begins_anew_only_where_it_is_zero(zero):
    """By the criteria "kernel" and "gamma" a part of a group may be zero alone: it has a gradient, and others are trained."""
    keras.utils.set_random_seed(0)
    layers = [L.Dense(6, name="made"), L.BatchNormalization(name="norm"), L.ReLU(), L.Dense(3, name="reads")]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.get_layer("norm").beta.assign(np.ones(6))
    variables = {"made": model.get_layer("made").kernel, "norm": model.get_layer("norm").gamma, "reads": layers[3].kernel}
    for name in zero:
        values, living = ops.convert_to_numpy(variables[name]), np.arange(6) >= 2
        variables[name].assign(values * (living[:, None] if name == "reads" else living))
    x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    before, outputs = {name: ops.convert_to_numpy(variable) for name, variable in variables.items()}, model(x)
    (item,) = groups(model).sets
    revive(item, np.arange(6) < 2, np.arange(6) >= 2)
    np.testing.assert_array_equal(model(x), outputs)
    changed = {name for name, values in before.items() if not np.array_equal(variables[name], values)}
    assert changed == (zero - {"reads"} if "reads" in zero else set())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_cut_on_the_way_changes_no_output_by_what_comes_back(criterion):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(16), L.BatchNormalization(), L.ReLU(), L.Dense(16, activation="relu"), L.Dense(3)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile("adam", "mse")
    for weight in model.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    regularize_coupled(model, budget="macs=0.5", criterion=criterion)
    solved = groups_of(model, "BudgetProximal", None, None, 1)
    first = attachments(model)[0].regularizer
    first.soft_threshold(np.where(np.arange(16) < 5, np.inf, 0.0))
    norms, x = solved.norms(), np.random.default_rng(1).normal(size=(8, 6)).astype("float32")
    before = model.predict(x, verbose=0)
    solved.finish(norms >= 0)
    assert (norms == 0).sum() == 5
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


def test_a_group_that_comes_back_from_zero_begins_anew():
    """Filter and gamma at zero have no gradient: it would stay dead, at its full price."""
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(6, 3, use_bias=False, name="made"), L.BatchNormalization(), L.ReLU(), L.DepthwiseConv2D(3)]
    model = keras.Sequential([keras.Input((8, 8, 2)), *layers, L.Conv2D(4, 1, name="reads"), L.Flatten(), L.Dense(3)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 2)).astype("float32")
    model.fit(x, x[:, :3, 0, 0], verbose=0)
    solved = groups_of(model, "BudgetProximal", tfr.Budget(macs=0.5), "lamp", 1)
    item, gone = groups(model).find("made")[0], np.arange(6) < 2
    for part in item.slices:
        values = np.moveaxis(ops.convert_to_numpy(part.variable).copy(), part.axis, 0)
        values[gone[part.group_of]] = 0.0
        part.variable.assign(np.moveaxis(values, 0, part.axis))
    before, norms = model.predict(x, verbose=0), solved.norms()
    assert (norms[: len(gone)] == 0).sum() == 2
    solved.finish(norms >= 0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    made, reads = (model.get_layer(name).kernel for name in ("made", "reads"))
    sizes = np.sqrt(np.mean(np.square(ops.convert_to_numpy(made)), axis=(0, 1, 2)))
    assert (0.3 < sizes[:2] / sizes[2:].mean()).all() and (sizes[:2] / sizes[2:].mean() < 3).all()
    model.fit(x, x[:, :3, 0, 0], verbose=0)
    assert (np.abs(ops.convert_to_numpy(reads))[0, 0, :2].max(axis=1) > 0).all()


@pytest.mark.parametrize("build", [net, lambda: net(32)])
def test_whole_multiples_come_back_until_none_fits(build):
    """Without, a small net ended far below its budget: half of a layer goes at once."""
    model = build()
    dense, coupled = count_macs(model), groups(model)
    report = tfr.prune_groups(model, budget="macs=0.5", multiple_of=8)
    kept = [item.kept_groups for item in report.sets]
    assert all(count % 8 == 0 for count in kept) and count_macs(shrink(model)) <= 0.5 * dense
    cost = Cost(coupled)
    for number, item in enumerate(coupled.sets):
        more = [count + 8 * (place == number) for place, count in enumerate(kept)]
        full = more[number] > item.num_groups
        assert full or cost.macs([np.arange(s.num_groups) < count for s, count in zip(coupled.sets, more)]) > 0.5 * dense


def test_a_multiple_that_no_budget_leaves_is_refused_before_training():
    model, (x, y) = net(32), task()
    before = [weight.numpy() for weight in model.trainable_weights]
    model.compile("adam", "mse")
    callback = BudgetProximal("sparsity=0.9", until=0.6, multiple_of=32)
    with pytest.raises(ValueError, match="where channels stay a multiple of 32"):
        model.fit(x, y, batch_size=8, epochs=6, verbose=0, callbacks=[callback])
    for was, now in zip(before, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize("function, option", [
    (regularize, {"penalty": "lasso"}), (regularize, {"price": 2.0}), (regularize_coupled, {"penalty": "lasso"}),
    (regularize_coupled, {"price": "macs"}), (regularize_coupled, {"relative": True}),
])  # fmt: skip
def test_what_a_budget_has_no_use_for_is_refused(function, option):
    model = net()
    with pytest.raises(ValueError, match=f"`{next(iter(option))}` must be left out beside a budget"):
        function(model, budget="weights=0.5" if function is regularize else "macs=0.5", **option)
    assert not attachments(model)


def test_a_sparsity_out_of_reach_is_told_as_one():
    with pytest.raises(ValueError, match=r"Pass weights=0\.\d+ or more \(sparsity=0\.\d+ or less\)"):
        prune(net(), "filter", budget="sparsity=0.9999")


@pytest.mark.parametrize("structure", ["filter", "unstructured"])
def test_each_kernel_keeps_its_best_group_however_small_the_budget(structure):
    """The kernel of the smallest weights would lose all of them, were the model's best alone what stays."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), L.Dense(12, activation="relu"), L.Dense(12, activation="relu"), L.Dense(3)])
    model.layers[1].kernel.assign(1e-3 * model.layers[1].kernel)
    model.compile("sgd", "mse")
    regularize(model, structure, budget="weights=0.3" if structure == "filter" else "weights=0.05")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model.fit(x, x[:, :3], epochs=16, batch_size=8, verbose=0, callbacks=[BudgetProximal(criterion="magnitude")])
    prune(model)
    assert all(np.count_nonzero(layer.get_weights()[0]) for layer in model.layers)


@pytest.mark.parametrize("horizon", [0.1, 1.0])
def test_the_marginal_weight_would_be_gone_within_the_horizon(horizon, monkeypatch):
    model, (x, y), seen = net(), task(), []
    regularize(model, "unstructured", budget="sparsity=0.6")
    model.compile(keras.optimizers.SGD(1e-3), "mse")

    def noted(norms, scores, keep, marginal, steps_left, power, survivors):
        seen.append(steps_left)
        return pace(norms, scores, keep, marginal, steps_left, power, survivors)

    monkeypatch.setattr("tf_reweight.deadline.solver.pace", noted)
    steps = -(-len(x) // 8)
    solver = BudgetProximal(until=0.5, criterion="magnitude", every=1, horizon=horizon)
    model.fit(x, y, batch_size=8, epochs=8, verbose=0, callbacks=[solver])
    deadline = solver.met_at
    assert deadline == 4 * steps
    assert seen == [min(deadline - now, max(1, round(horizon * deadline))) for now in range(deadline)]
    prune(model)
    assert nonzeros(model) == int((1 - 0.6) * nonzeros(net()))


def test_a_short_horizon_makes_weights_zero_early():
    freed = {}
    for horizon in (0.1, 1.0):
        model, (x, y) = net(), task()
        regularize(model, "unstructured", budget="sparsity=0.6")
        model.compile(keras.optimizers.SGD(1e-3), "mse")
        solver = BudgetProximal(until=0.5, criterion="magnitude", power=0.5, horizon=horizon)
        model.fit(x, y, batch_size=8, epochs=40, verbose=0, callbacks=[solver])
        freed[horizon] = [entry["freed"] for entry in solver.history if 0.3 < entry["planned"] < 0.6]
    assert min(freed[0.1]) > max(freed[1.0])


def test_channels_of_a_net_that_a_class_trains_itself_go_by_the_callback():
    """As of the generator of a GAN: the class has no graph, and what it trains has one."""

    class Trainer(keras.Model):
        def __init__(self, part):
            super().__init__()
            self.part = part

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = ops.mean(ops.square(self.part(x, training=True) - y))
            weights = self.part.trainable_weights
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
            return {"loss": loss}

    part, (x, y) = net(), task()
    dense = count_macs(part)
    trainer = Trainer(part)
    regularize_coupled(part, budget="macs=0.5")
    trainer.compile("adam")
    solver = BudgetProximal(until=0.5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*keep_zeros")  # the class is not made again from a config
        trainer.fit(x, y, batch_size=8, epochs=40, verbose=0, callbacks=[solver])
    assert solver.met_at
    tfr.prune_groups(part)
    assert 0.45 * dense < count_macs(shrink(part)) <= 0.5 * dense
