"""Proximal steps, gathered: one for two training steps, and the same as two."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.callbacks import BudgetProximal, Proximal, Reweighting
from tf_reweight.coupling import CoupledProximal
from tf_reweight.coupling.gathered import Gathered
from tf_reweight.graph.optimizers import average_of
from tf_reweight.penalties.attachment import attachments
from tf_reweight.penalties.soft_threshold import SoftThreshold

L = keras.layers


def net(*widths):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), *(L.Dense(width, activation="relu") for width in widths), L.Dense(3)])
    tfr.regularize_coupled(model, strength=0.5)
    return model


def task(num_steps):
    rng = np.random.default_rng(0)
    return rng.normal(size=(4 * num_steps, 6)).astype("float32"), rng.normal(size=(4 * num_steps, 3)).astype("float32")


def test_steps_are_gathered_until_there_are_enough_or_weights_are_looked_at():
    applied = []
    gathered = Gathered(lambda amount: applied.append(float(amount)), every=3)
    for steps, amount, now in [(1, 1.0, False), (1, 0.5, False), (1, 0.25, False), (1, 1.0, True), (5, 4.0, False)]:
        gathered.add(steps, amount, now)
    assert applied == [1.75, 1.0, 4.0]
    gathered.flush()  # nothing is left
    gathered.add(1, 0.0, True)  # a learning rate of zero
    assert applied == [1.75, 1.0, 4.0]
    gathered.add(1, 2.0)
    gathered.flush()
    assert applied[3:] == [2.0]


# Of two sets that share a kernel, each shrinks what the other sees: a difference of the second order.
@pytest.mark.parametrize("widths, tolerance", [((8,), 1e-5), ((8, 7), 1e-3)])
@pytest.mark.parametrize("num_steps", [4, 5])
def test_gathered_steps_come_to_what_single_ones_do(num_steps, widths, tolerance):
    """Where the optimizer stands still they are equal, and no epoch ends with steps that are not applied."""
    model, expected = net(*widths), net(*widths)
    model.compile(keras.optimizers.SGD(1e-30), "mse")
    solver, seen = CoupledProximal(step=0.02), []
    at_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    model.fit(*task(num_steps), batch_size=4, epochs=2, verbose=0, callbacks=[solver, at_end])
    for weights in seen:
        for _ in range(num_steps):
            for penalty in [item.regularizer for item in attachments(expected)]:
                penalty.soft_threshold(0.02 * penalty.strength * penalty.penalty_weights)
        for found, single in zip(weights, expected.get_weights(), strict=True):
            np.testing.assert_allclose(found, single, rtol=tolerance, atol=1e-6)


def test_validation_sees_no_open_step():
    model = net(8, 7)
    model.compile("sgd", "mse")
    solver, applied, at_validation = CoupledProximal(step=0.02), [], []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            shrink = solver._apply._apply
            solver._apply._apply = lambda amount: (applied.append(float(amount)), shrink(amount))

        def on_test_begin(self, logs=None):
            at_validation.append(sum(applied))

    x, y = task(5)
    callbacks = [Reweighting(every=1), solver, Watch()]
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, validation_data=(x, y), callbacks=callbacks)
    assert at_validation == [5.0, 10.0] and max(applied) == 2.0


def test_the_way_to_a_budget_is_gathered_as_well():
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(7, activation="relu"), L.Dense(3)])
    model.compile("adam", "mse")
    solver, calls = BudgetProximal("macs=0.5", until=0.9, criterion="lamp", every=4), []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            pressed = solver._groups._apply._apply
            solver._groups._apply._apply = lambda steps: (calls.append(float(ops.convert_to_numpy(steps))), pressed(steps))

    model.fit(*task(21), batch_size=4, epochs=2, verbose=0, callbacks=[solver, Watch()])
    report = tfr.prune_groups(model)
    # Until the deadline, each step once; an epoch of 21 steps ends with one alone.
    assert sum(calls) == solver.met_at and max(calls) == 2.0 and len(calls) < 0.7 * sum(calls)
    assert report.kept_groups < report.num_groups


def test_what_is_held_after_the_budget_is_zero_after_every_training_step():
    """Gathered, it came back in every second one: Adam's momentum moves weights whose gradients are zero."""
    model, alive = net(8, 7), []
    model.compile("adam", "mse")
    solver = CoupledProximal(step=0.1, macs=0.3)

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if solver.met_at is not None:
                kernels = [ops.convert_to_numpy(layer.kernel) for layer in model.layers[:2]]
                alive.append([int(kernel.any(axis=0).sum()) for kernel in kernels])

    model.fit(*task(40), batch_size=4, epochs=2, verbose=0, callbacks=[solver, Watch()])
    assert len(alive) > 10 and alive == [alive[0]] * len(alive) and alive[0] != [8, 7]


def test_pruning_after_an_interrupted_fit_warns_of_no_function_of_the_user():
    model = net(8, 7)
    model.compile("adam", "mse")

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(*task(5), batch_size=4, verbose=0, callbacks=[CoupledProximal(), Stop()])
    tfr.prune_groups(model, budget="macs=0.5")


def test_a_callback_that_trains_at_the_end_ends_the_solver():
    model = net(8)
    model.compile("sgd", "mse")
    solver = CoupledProximal()
    again = keras.callbacks.LambdaCallback(on_train_end=lambda logs: model.fit(*task(2), verbose=0))
    model.fit(*task(5), batch_size=4, verbose=0, callbacks=[again, solver])
    assert solver._apply is None


# Single kernels: a count inside the training step, which only TensorFlow's can keep.


def one_kernel(structure="filter", optimizer=None, **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(3)])
    tfr.regularize(model, structure, 0.5, "lasso")
    model.compile(optimizer or keras.optimizers.SGD(0.0), "mse", **arguments)
    return model


def shrunk(structure, kernel, steps):
    """A kernel `(rows, columns)` after so many steps of 0.01 off each group's norm."""
    norms = np.abs(kernel) if structure == "unstructured" else np.linalg.norm(kernel, axis=0, keepdims=True)
    return kernel * np.maximum(0.0, 1.0 - 0.01 * steps / norms)


@pytest.mark.parametrize("per_execution", [1, 2, 4])
@pytest.mark.parametrize("num_steps", [1, 4, 5])
@pytest.mark.parametrize("structure", ["unstructured", "filter"])
def test_steps_on_single_kernels_come_to_what_their_sum_is(structure, num_steps, per_execution):
    """The optimizer stands still; neither validation nor an epoch's end sees a step that is owed."""
    model, seen, tested = one_kernel(structure, steps_per_execution=per_execution), [], []
    kernel = ops.convert_to_numpy(model.layers[0].kernel)

    class Watch(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            tested.append(ops.convert_to_numpy(self.model.layers[0].kernel))

        def on_epoch_end(self, epoch, logs=None):
            seen.append(ops.convert_to_numpy(self.model.layers[0].kernel))

    x, y = task(num_steps)
    watched = {"validation_data": (x, y), "callbacks": [Watch(), Proximal(step=0.02)]}
    model.fit(x, y, batch_size=4, epochs=3, verbose=0, **watched)
    for epoch, (at_end, at_test) in enumerate(zip(seen, tested, strict=True), 1):
        np.testing.assert_allclose(at_end, shrunk(structure, kernel, epoch * num_steps), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(at_end, at_test)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere each step has its own")
def test_one_shrinking_of_a_single_kernel_stands_for_two_steps():
    model, seen = one_kernel("unstructured"), []
    kernel = ops.convert_to_numpy(model.layers[0].kernel)

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(ops.convert_to_numpy(self.model.layers[0].kernel))

    model.fit(*task(5), batch_size=4, verbose=0, callbacks=[Proximal(step=0.02), Watch()])
    for steps, found in zip([0, 2, 2, 4, 5], seen, strict=True):
        np.testing.assert_allclose(found, shrunk("unstructured", kernel, steps), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_where_the_steps_of_an_epoch_are_unknown_each_has_its_own():
    model, every = one_kernel(), []
    x, y = task(3)

    def batches():
        for start in range(0, len(x), 4):
            yield x[start : start + 4], y[start : start + 4]

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            every.append(self.model.layers[0].kernel.constraint.every)

    model.fit(batches(), shuffle=False, verbose=0, callbacks=[Proximal(step=0.02), Watch()])
    assert every == [1, 1, 1]


def test_an_epoch_that_is_stopped_inside_owes_nothing():
    model = one_kernel("unstructured")
    kernel = ops.convert_to_numpy(model.layers[0].kernel)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    model.fit(*task(5), batch_size=4, verbose=0, epochs=2, callbacks=[Stop(), Proximal(step=0.02)])
    found = ops.convert_to_numpy(model.layers[0].kernel)
    steps = round(float(np.max(np.abs(kernel - found)) / 0.01))
    assert steps in (3, 5)  # Keras stops after the batch or after the epoch
    np.testing.assert_allclose(found, shrunk("unstructured", kernel, steps), rtol=1e-4, atol=1e-6)


def test_averages_follow_what_is_flushed():
    model = one_kernel("unstructured", keras.optimizers.SGD(0.0, use_ema=True, ema_overwrite_frequency=None))
    kernel, zeros = model.layers[0].kernel, []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            average = ops.convert_to_numpy(average_of(self.model.optimizer, kernel))
            zeros.append((ops.convert_to_numpy(kernel) == 0, average == 0))

    model.fit(*task(1), batch_size=4, epochs=3, verbose=0, callbacks=[Proximal(step=0.2), Watch()])
    for weight, average in zeros:
        assert average[weight].all()
    assert zeros[-1][0].any()
    assert not isinstance(kernel.constraint, SoftThreshold)
