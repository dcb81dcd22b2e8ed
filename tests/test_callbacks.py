"""What happens between epochs: when weights are renewed, resumed runs, learning-rate restarts."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.callbacks import IterativePruning
from tf_reweight.learning_rate import BorrowedRate, CosineDecay
from tf_reweight.penalties.attachment import attachments
from tf_reweight.penalties.reweighting import Reweighting

L = keras.layers


def small_net(seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.random((64, 6)).astype("float32"), rng.integers(0, 3, 64)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"every": 2}, [0, 2, 4, 6]),
        ({"every": 3, "start": 1}, [1, 4, 7]),
        ({"every": 2, "rounds": 2}, [0, 2]),
        ({"every": 8}, [0]),
    ],
)
def test_schedule(arguments, expected, data):
    model = small_net()
    tfr.regularize(model, "unstructured", 1e-3)
    callback = Reweighting(**arguments)
    model.fit(*data, epochs=8, callbacks=[callback], verbose=0)
    assert [entry["epoch"] for entry in callback.history] == expected


def test_weights_are_one_over_norm_plus_epsilon_after_an_update(data):
    model = small_net()
    tfr.regularize(model, "filter", 1e-3, layers="dense*")

    checked = []

    class Check(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for item in attachments(self.model):
                checked.append(epoch)
                norms = np.sqrt(np.square(ops.convert_to_numpy(item.target.variable.value)).sum(0))
                weights = ops.convert_to_numpy(item.regularizer.penalty_weights)[0]
                np.testing.assert_allclose(weights, 1.0 / (norms + 0.5), rtol=1e-5)

    model.fit(*data, epochs=3, callbacks=[Reweighting(every=1, epsilon=0.5), Check()], verbose=0)
    assert sorted(set(checked)) == [0, 1, 2]


def test_lasso_is_never_reweighted(data):
    model = small_net()
    tfr.regularize(model, "unstructured", 1e-3, "lasso")
    model.fit(*data, epochs=2, callbacks=[Reweighting(every=1)], verbose=0)
    carried = attachments(model)
    assert carried and all((ops.convert_to_numpy(item.regularizer.penalty_weights) == 1).all() for item in carried)


def test_penalties_from_constructors_are_bound_and_act_in_the_first_epoch(data):
    """Keras traces the step before callbacks run: the callback must make it anew, or the penalty would be missing."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), L.Dense(3, activation="softmax", kernel_regularizer=tfr.regularizers.Reweighted(strength=10.0))]
    )
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    history = model.fit(*data, epochs=1, batch_size=64, callbacks=[Reweighting(every=1)], verbose=0)
    kernel = np.abs(ops.convert_to_numpy(model.layers[-1].kernel))
    plain = keras.losses.sparse_categorical_crossentropy(data[1], model.predict(data[0], verbose=0))
    expected = float(ops.mean(plain)) + 10.0 * (kernel / (kernel + 0.01)).sum()
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_the_penalty_opens_a_gap(data):
    """After a few rounds most weights lie far below epsilon, and the rest far above: that is the method."""
    model = small_net()
    tfr.regularize(model, "unstructured", 1e-2, {"name": "log_sum", "epsilon": 0.05})
    model.fit(*data, epochs=60, callbacks=[Reweighting(every=15, learning_rate=1e-2)], verbose=0)
    weights = np.concatenate([np.abs(ops.convert_to_numpy(t.target.variable.value)).ravel() for t in attachments(model)])
    freed, between = weights < 0.005, (weights >= 0.005) & (weights < 0.05)
    assert freed.mean() > 0.5 and between.mean() < 0.1 and not freed.all()


def test_resume_is_exact(data, tmp_path):
    """Interrupted after 3 of 6 epochs and continued by BackupAndRestore: the same weights as in one go."""

    def run(model, epochs, backup):
        callbacks = [Reweighting(every=2, rounds=3, learning_rate=1e-2)]
        if backup:
            callbacks.insert(0, keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False))
        model.fit(*data, epochs=epochs, shuffle=False, callbacks=callbacks, verbose=0)

    def fresh():
        model = small_net()
        tfr.regularize(model, "unstructured", 1e-3)
        return model

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    whole = fresh()
    run(whole, 6, backup=False)
    interrupted = fresh()
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(
            *data,
            epochs=6,
            shuffle=False,
            verbose=0,
            callbacks=[
                keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False),
                Reweighting(every=2, rounds=3, learning_rate=1e-2),
                Stop(),
            ],
        )
    resumed = fresh()
    run(resumed, 6, backup=True)
    for one, two in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


class Rates(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


def test_learning_rate_restarts_in_each_round(data):
    model, rates = small_net(), Rates()
    tfr.regularize(model, "unstructured", 1e-3)
    model.fit(*data, epochs=4, batch_size=16, verbose=0, callbacks=[Reweighting(every=2, learning_rate=0.5), rates])
    expected = [0.25 * (1 + np.cos(np.pi * step / 8)) for step in range(8)] * 2
    np.testing.assert_allclose(rates.rates, expected, rtol=1e-5)


def test_learning_rate_before_the_first_round_and_after_the_last(data):
    """Before `start` one descent, then one a round, and nothing is left when the rounds are over."""
    model, rates = small_net(), Rates()
    tfr.regularize(model, "unstructured", 1e-3)
    callback = Reweighting(every=2, rounds=2, start=4, learning_rate=0.5)
    model.fit(*data, epochs=10, batch_size=32, verbose=0, callbacks=[callback, rates])
    progress = [step / 8 for step in range(8)] + 2 * [step / 4 for step in range(4)] + 4 * [1.0]
    np.testing.assert_allclose(rates.rates, [0.25 * (1 + np.cos(np.pi * p)) for p in progress], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("epsilon", [None, 0.5, 3.0])
@pytest.mark.parametrize("penalty", ["log_sum", "arctan", "log_squared", "lasso"])
def test_history_counts_norms_above_negligible(penalty, epsilon, data):
    """As `prune` would take them away at that moment, with the epsilon of that update."""
    model = small_net()
    tfr.regularize(model, "filter", 1e-3, penalty, layers="dense*")
    for item in attachments(model):
        item.target.variable.assign(item.target.variable.value * np.geomspace(1e-4, 1.0, item.target.variable.shape[-1]))
    callback = Reweighting(every=1, epsilon=epsilon)
    callback.set_model(model)
    callback.update(7)
    (entry,) = callback.history
    living = {}
    for item in attachments(model):
        norms = np.linalg.norm(ops.convert_to_numpy(item.target.variable.value), axis=0)
        used = item.regularizer.penalty.epsilon if epsilon is None and penalty != "lasso" else epsilon
        limit = {"log_sum": lambda e: e / 10, "arctan": lambda e: e / 10, "log_squared": lambda e: e**0.5 / 10}
        negligible = item.regularizer.negligible if penalty == "lasso" else limit[penalty](used)
        living[item.target.name] = {"living_groups": int((norms > negligible).sum()), "num_groups": norms.size}
    assert entry == {"epoch": 7, "kernels": living}
    report = tfr.prune(model)
    assert {kernel.name: kernel.kept_groups for kernel in report.kernels} == {k: n["living_groups"] for k, n in living.items()}


def test_history_tells_of_every_penalty_on_a_kernel():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(2)])
    tfr.regularize(model, "filter", layers="a")
    tfr.regularize(model, "unstructured")
    callback = Reweighting(every=1)
    callback.set_model(model)
    callback.update(0)
    sizes = {name: groups["num_groups"] for name, groups in callback.history[0]["kernels"].items()}
    assert sorted(sizes.values()) == [8, 16, 48] and list(sizes)[:2] == ["a/kernel", "a/kernel (2)"]


def test_cosine_decay_rises_and_falls(data):
    model, rates = small_net(), Rates()
    model.fit(*data, epochs=4, batch_size=16, verbose=0, callbacks=[CosineDecay(0.5, warmup=1), rates])
    assert rates.rates[3] == pytest.approx(0.5) and rates.rates[-1] == pytest.approx(0.25 * (1 + np.cos(np.pi * 11 / 12)))
    assert rates.rates[:4] == sorted(rates.rates[:4]) and rates.rates[4:] == sorted(rates.rates[4:], reverse=True)


def test_the_only_step_of_a_fit_has_all_of_the_rate(data):
    model, rates = small_net(), Rates()
    model.fit(*data, epochs=1, batch_size=len(data[0]), verbose=0, callbacks=[CosineDecay(0.5), rates])
    assert rates.rates == [pytest.approx(0.5)]


def test_epsilon_is_annealed_and_remembered(data):
    model = small_net()
    tfr.regularize(model, "unstructured", 1e-3)
    model.fit(*data, epochs=3, verbose=0, callbacks=[Reweighting(every=1, rounds=3, epsilon=(1e-1, 1e-3))])
    carried = attachments(model)
    assert carried
    for item in carried:
        assert float(item.regularizer.epsilon) == pytest.approx(1e-3, rel=1e-4)
        assert item.regularizer.negligible == pytest.approx(1e-4, rel=1e-4)


def test_bad_input_is_explained(data):
    model = small_net()
    with pytest.raises(ValueError, match="at least one Reweighted penalty"):
        model.fit(*data, epochs=1, callbacks=[Reweighting()], verbose=0)
    tfr.regularize(model, "unstructured", 1e-3)
    with pytest.raises(ValueError, match="The first update must come before training ends"):
        model.fit(*data, epochs=3, callbacks=[Reweighting(start=3)], verbose=0)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10)), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="plain learning rate"):
        model.fit(*data, epochs=3, callbacks=[Reweighting(learning_rate=0.1)], verbose=0)
    for arguments in ({"every": 0}, {"rounds": 0}, {"start": -1}, {"every": 1.5}, {"epsilon": 0}, {"epsilon": (1, 0.1)}):
        with pytest.raises(ValueError, match="Received: "):
            Reweighting(**arguments)


@pytest.mark.parametrize("kind", ["cosine", "reweighting", "iterative"])
def test_the_optimizer_has_its_rate_of_before_again(kind, data):
    """A second `fit` began with what half a cosine ends at, and trained nothing."""
    model = small_net()
    if kind != "cosine":
        tfr.regularize(model, "unstructured", **({"strength": 1e-4} if kind == "reweighting" else {"budget": "sparsity=0.5"}))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    callback = {
        "cosine": lambda: CosineDecay(1e-2),
        "reweighting": lambda: Reweighting(every=1, learning_rate=1e-2),
        "iterative": lambda: tfr.callbacks.IterativePruning(rounds=2),
    }[kind]()
    rates = []

    def note(epoch, logs):
        rates.append(float(ops.convert_to_numpy(model.optimizer.learning_rate)))

    noting = keras.callbacks.LambdaCallback(on_epoch_end=note)
    model.fit(*data, epochs=3, verbose=0, callbacks=[callback, noting])
    assert all(rate != pytest.approx(3e-3) for rate in rates)
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(3e-3)


@pytest.mark.parametrize("set_between", [None, 0.5])
@pytest.mark.parametrize("kinds", [["cosine"], ["reweighting"], ["iterative"], ["reweighting", "cosine"]], ids=" and ".join)
def test_a_fit_after_an_interrupted_one_has_the_rate_of_before(kinds, set_between, data):
    """Ctrl-C near the end of half a cosine left a rate of nearly zero; one that is set by hand between the fits holds."""
    model = small_net()
    tfr.regularize(model, "unstructured", **({"budget": "sparsity=0.5"} if kinds == ["iterative"] else {"strength": 1e-4}))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    make = {
        "cosine": lambda: CosineDecay(1e-2),
        "reweighting": lambda: Reweighting(every=3, learning_rate=1e-2),
        "iterative": lambda: tfr.callbacks.IterativePruning(rounds=1),
    }

    class Interrupting(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def rate():
        return float(ops.convert_to_numpy(model.optimizer.learning_rate))

    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, epochs=3, verbose=0, callbacks=[*(make[kind]() for kind in kinds), Interrupting()])
    assert rate() != pytest.approx(3e-3)
    if set_between is not None:
        model.optimizer.learning_rate = set_between
    seen = []
    model.fit(*data, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(rate()))])
    assert seen == [pytest.approx(3e-3 if set_between is None else set_between)] and rate() == seen[0]
    assert "make_train_function" not in vars(model)


def test_a_borrowed_rate_is_given_back_unless_another_was_set():
    optimizer = keras.optimizers.SGD(0.25)
    for inside, after in ((None, 0.25), (0.25, 0.25), (1e-9, 0.25), (0.5, 0.25)):
        borrowed = BorrowedRate(optimizer)
        if inside is not None:
            borrowed.set(inside)
        borrowed.give_back_if_unchanged()
        assert borrowed.before == float(optimizer.learning_rate) == after
    borrowed.set(1e-9)
    optimizer.learning_rate = 0.125
    borrowed.give_back_if_unchanged()
    assert float(optimizer.learning_rate) == 0.125
    borrowed.give_back()
    assert float(optimizer.learning_rate) == 0.25


def test_a_warmup_that_is_longer_than_the_training_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no longer than the training, 1 epochs. Received: warmup=100"):
        model.fit(np.zeros((4, 4)), np.zeros((4, 1)), epochs=1, verbose=0, callbacks=[CosineDecay(0.1, warmup=100)])


SCHEDULES = {
    "plain": lambda optimizer: optimizer,
    "inside loss scaling": keras.optimizers.LossScaleOptimizer,
}


def falling():
    return 0.1


@pytest.mark.parametrize("wrap", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(
    "rate", [keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9), falling], ids=["schedule", "function"]
)
@pytest.mark.parametrize(
    "callback", [CosineDecay(0.1), Reweighting(every=1, learning_rate=0.1), IterativePruning("macs=0.9", rounds=1)],
    ids=lambda one: type(one).__name__,
)
def test_callbacks_that_set_the_rate_refuse_a_schedule_before_any_work(callback, rate, wrap, data):
    model = small_net()
    tfr.regularize(model, "unstructured", 1e-3)
    model.compile(wrap(keras.optimizers.Adam(rate)), "sparse_categorical_crossentropy")
    before = model.get_weights()
    with pytest.raises(ValueError, match="learning rate.*Received: learning_rate=.*Compile with"):
        model.fit(*data, epochs=1, callbacks=[callback], verbose=0)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_fit_without_any_update_is_warned_of(data):
    model = small_net()
    tfr.regularize(model, "unstructured", 1e-3)
    how = {"initial_epoch": 1, "epochs": 3, "verbose": 0}
    with pytest.warns(UserWarning, match="No update of the penalty weights falls into the epochs 1 to 2 of this fit"):
        model.fit(*data, callbacks=[Reweighting(every=5)], **how)
    model.fit(*data, epochs=1, verbose=0, callbacks=[Reweighting(every=5)])
    model.fit(*data, callbacks=[Reweighting(every=5)], **how)  # goes on with what the first epoch set
