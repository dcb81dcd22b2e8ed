"""Iterative magnitude pruning with learning-rate rewinding: its cuts, its learning rate, and what it cannot do."""

import keras
import numpy as np
import pytest
from keras import ops
from rich.console import Console

import tf_reweight as tfr
from tf_reweight.callbacks import IterativePruning
from tf_reweight.coupling.attachment import regularize_coupled
from tf_reweight.graph.counting import count_macs
from tf_reweight.learning_rate import CosineDecay
from tf_reweight.penalties.attachment import attachments, regularize
from tf_reweight.shrinking import shrink
from tf_reweight.workflow.checkpoint import Checkpoint

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 12)).astype("float32")
Y = X[:, :2] * X[:, 2:4]


def net():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12,)), L.Dense(24, activation="relu"), L.Dense(24, activation="relu"), L.Dense(2)])
    # Each cut traces a compiled step anew; that one ends the same is seen where trainings are cut off (test_survival).
    model.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=True)
    return model


def fit(model, callbacks, epochs=6, **options):
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, **options)


def kernels(model):
    return [ops.convert_to_numpy(w) for w in model.trainable_weights if len(w.shape) > 1]


class Breaks(keras.callbacks.Callback):
    """Interrupts `fit` at the beginning of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


class Seen(keras.callbacks.Callback):
    """Learning rates by step, and which weights are not zero after each epoch."""

    def __init__(self):
        super().__init__()
        self.rates, self.living = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        self.living.append(np.concatenate([kernel.ravel() != 0 for kernel in kernels(self.model)]))


@pytest.mark.parametrize("structure", ["unstructured", {"name": "block", "shape": [2, 2]}])
def test_each_cut_leaves_the_same_part_and_what_is_gone_stays_gone(structure):
    model, seen, solver = net(), Seen(), IterativePruning(rounds=3)
    regularize(model, structure, budget="weights=0.2")
    fit(model, [solver, seen])
    left = [living.mean() for living in seen.living]
    assert left == pytest.approx(np.repeat(0.2 ** np.array([1 / 3, 2 / 3, 1]), 2), rel=0.02)
    assert all((after <= before).all() for before, after in zip(seen.living, seen.living[1:]))
    assert [entry["step"] for entry in solver.history] == [0, 4, 8]
    assert solver.history[-1]["freed"] == pytest.approx(1.0, abs=0.01) and solver.history[-1]["planned"] == 1.0
    tfr.prune(model)
    assert not attachments(model) and np.mean(np.concatenate([k.ravel() for k in kernels(model)]) != 0) == left[-1]
    fit(model, [], epochs=1)
    assert np.mean(np.concatenate([k.ravel() for k in kernels(model)]) != 0) == left[-1]


@pytest.mark.parametrize("epochs, begins", [(7, [0, 3, 5]), (3, [0, 1, 2])])
def test_the_learning_rate_begins_anew_with_each_round(epochs, begins):
    model, seen = net(), Seen()
    regularize(model, "unstructured", budget="weights=0.5")
    fit(model, [IterativePruning(rounds=3, learning_rate=0.04), seen], epochs)
    assert len(begins) == 3 and len(seen.rates) == epochs * 2
    for begin, end in zip(begins, [*begins[1:], epochs]):
        progress = np.arange((end - begin) * 2) / ((end - begin) * 2)
        assert np.allclose(seen.rates[begin * 2 : end * 2], 0.02 * (1 + np.cos(np.pi * progress)), atol=1e-7)


def test_one_round_is_pruning_at_once_and_retraining():
    ours, other = net(), net()
    regularize(ours, "unstructured", budget="weights=0.3")
    fit(ours, [IterativePruning(rounds=1)])
    tfr.prune(other, "unstructured", budget="weights=0.3")
    fit(other, [CosineDecay(1e-2)])
    for one, two in zip(kernels(ours), kernels(other), strict=True):
        assert np.array_equal(one == 0, two == 0) and np.allclose(one, two, rtol=1e-4)


@pytest.mark.parametrize("multiple_of", [1, 4])
def test_channels_go_in_rounds_as_well(multiple_of):
    model = net()
    dense, solver = count_macs(model), IterativePruning("macs=0.4", rounds=3, multiple_of=multiple_of)
    fit(model, [solver])
    freed = [entry["freed"] for entry in solver.history]
    assert 0 < freed[0] < freed[1] < freed[2] and all(entry["planned"] <= entry["freed"] + 1e-9 for entry in solver.history)
    report = tfr.prune_groups(model)
    assert {item.kept_groups % multiple_of for item in report.sets} == {0} and not attachments(model)
    assert count_macs(shrink(model)) <= 0.4 * dense and freed[-1] < 1.05 + 0.2 * (multiple_of > 1)


def test_rounds_are_counted_from_the_first_epoch_of_the_fit():
    model, solver = net(), IterativePruning("macs=0.5", rounds=2)
    fit(model, [solver], epochs=9, initial_epoch=5)
    assert [entry["step"] for entry in solver.history] == [0, 4]


def test_more_rounds_than_epochs_from_the_first_one_are_refused_before_anything_is_cut():
    model = net()
    before = kernels(model)
    with pytest.raises(ValueError, match="Each round needs an epoch.*Received: epochs=2, rounds=3"):
        fit(model, [IterativePruning("macs=0.5", rounds=3)], epochs=9, initial_epoch=7)
    assert not attachments(model) and all(map(np.array_equal, before, kernels(model)))
    fit(model, [IterativePruning("macs=0.5", rounds=3)], epochs=9, initial_epoch=6)


def test_a_training_that_goes_on_near_its_end_is_not_refused(tmp_path):
    """Two of three epochs are over: the one that is left has the round that is left."""
    ends = []
    for cut_off in (False, True):
        model, solver = net(), IterativePruning(rounds=3)
        regularize(model, "unstructured", budget="weights=0.3")
        checkpoint = Checkpoint(tmp_path / f"{cut_off}.checkpoint", "regularize", [solver], Console(quiet=True))
        if cut_off:
            with pytest.raises(KeyboardInterrupt):
                fit(model, [solver, checkpoint, Breaks(2)], epochs=3)
            model, solver = net(), IterativePruning(rounds=3)
            regularize(model, "unstructured", budget="weights=0.3")
            checkpoint = Checkpoint(tmp_path / "True.checkpoint", "regularize", [solver], Console(quiet=True))
        fit(model, [solver, checkpoint], epochs=3)
        ends.append((solver.history, [kernel != 0 for kernel in kernels(model)]))
    assert [entry["step"] for entry in ends[0][0]] == [0, 2, 4] and ends[0][0] == ends[1][0]
    assert all(map(np.array_equal, ends[0][1], ends[1][1]))


class Stops(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # `pytest.warns` raises what the libraries deprecate
def test_a_training_that_ends_before_the_last_round_says_so():
    with pytest.warns(UserWarning, match="after 1 of 3 rounds"):
        fit(net(), [IterativePruning("macs=0.5", rounds=3), Stops()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # `pytest.warns` raises what the libraries deprecate
def test_what_is_gone_stays_gone_where_a_callback_brings_back_earlier_weights():
    model = net()
    regularize(model, "unstructured", budget="weights=0.3")
    before = model.get_weights()
    bringing_back = keras.callbacks.LambdaCallback(on_train_end=lambda logs: model.set_weights(before))
    with pytest.warns(UserWarning, match="zero again"):
        fit(model, [bringing_back, IterativePruning(rounds=2)])
    assert np.mean(np.concatenate([k.ravel() for k in kernels(model)]) != 0) == pytest.approx(0.3, abs=0.01)


def scheduled():
    model = net()
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)), "mse")
    return model


def strong():
    model = net()
    regularize_coupled(model, strength=1e-3)
    return model


@pytest.mark.parametrize(
    "build, how, words",
    [
        (net, {"budget": "macs=0.5", "rounds": 9}, "Each round needs an epoch"),
        (net, {"budget": "macs=0.0001"}, "must leave at least"),
        (net, {"budget": "macs=0.5", "criterion": "taylor"}, "known criterion"),
        (net, {}, "IterativePruning needs penalties with one budget"),
        (strong, {"budget": "macs=0.5"}, "IterativePruning needs penalties with one budget"),
        (scheduled, {"budget": "macs=0.5"}, "must be a number"),
        (net, {"rounds": 0}, "`rounds` must be"), (net, {"learning_rate": 0}, "`learning_rate` must be"),
        (net, {"budget": "macs=0"}, "`macs` must be"), (net, {"multiple_of": 0}, "`multiple_of` must be"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_any_training(build, how, words):
    model = build()
    before = kernels(model)
    with pytest.raises(ValueError, match=words) as raised:
        fit(model, [IterativePruning(**how)])
    assert "Received: " in str(raised.value) and all(map(np.array_equal, before, kernels(model)))


def test_a_fit_after_an_interrupted_one_begins_anew():
    model = net()
    with pytest.raises(KeyboardInterrupt):
        fit(model, [IterativePruning("macs=0.5", rounds=2), Breaks(1)])
    solver = IterativePruning(rounds=2)
    fit(model, [solver], epochs=2)
    assert [entry["step"] for entry in solver.history] == [0, 2] and solver.history[-1]["freed"] >= 1.0


def test_groups_that_began_anew_keep_what_they_learned_where_a_training_goes_on(tmp_path):
    """They were zero before the first cut: what begins anew a second time has lost what it had learned."""
    ends = []
    for cut_off in (False, True):
        path = tmp_path / f"{cut_off}.checkpoint"
        for attempt in (False, True) if cut_off else (True,):
            model, solver = net(), IterativePruning("macs=0.8", rounds=2)
            first, second, _ = model.layers
            for weights in (first.kernel, first.bias):
                weights.assign(ops.convert_to_numpy(weights) * (np.arange(24) >= 12))
            second.kernel.assign(ops.convert_to_numpy(second.kernel) * (np.arange(24) >= 12)[:, None])
            regularize_coupled(model, budget="macs=0.8")
            checkpoint = Checkpoint(path, "regularize", [solver], Console(quiet=True))
            if attempt:
                fit(model, [solver, checkpoint])
                continue
            with pytest.raises(KeyboardInterrupt):
                fit(model, [solver, checkpoint, Breaks(4)])
        # Some of the groups that were zero came back, and have learned.
        assert (kernels(model)[0][:, :12] != 0).any() and (kernels(model)[1][:12] != 0).any()
        ends.append(model.get_weights())
    assert all(map(np.array_equal, *ends))
