"""Zeros that solvers make are there after training by an optimizer that averages the weights (EMA)."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import quantization, tfmot
from tf_reweight.baselines import Clipping
from tf_reweight.callbacks import BudgetProximal, IterativePruning, MultiGradient, Proximal
from tf_reweight.coupling import CoupledProximal
from tf_reweight.graph.optimizers import average_of, restart_averages, zero_averages

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 6)).astype("float32"), RNG.normal(size=(64, 3)).astype("float32")


def net(**arguments):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, activation="relu", name="a"), L.Dense(8, activation="relu", name="b"), L.Dense(3, name="c")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True, **arguments), "mse")
    return model


class Zeros(keras.callbacks.Callback):
    """The zeros of the kernels at the end of the last epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.last = zeros_of(self.model)


def zeros_of(model):
    return [ops.convert_to_numpy(layer.kernel) == 0 for layer in model.layers]


def lasso(model):
    tfr.regularize(model, "unstructured", 1.0, "lasso")


# How the model is regularized, and the solver.
SOLVERS = {
    "Proximal": (lasso, lambda: Proximal(step=0.01)),
    "Clipping": (lambda model: None, lambda: Clipping(0.1)),
    "MultiGradient": (lasso, lambda: MultiGradient(clip=0.1)),
    "CoupledProximal": (lambda model: tfr.regularize_coupled(model, 1.0), lambda: CoupledProximal(step=0.05)),
    "CoupledProximal macs": (lambda model: tfr.regularize_coupled(model, 1.0), lambda: CoupledProximal(step=0.05, macs=0.3)),
    "BudgetProximal": (lambda model: None, lambda: BudgetProximal("macs=0.5", until=0.5)),
    "BudgetProximal single": (
        lambda model: tfr.regularize(model, "filter", budget="weights=0.5"), lambda: BudgetProximal(until=0.5),
    ),
    "IterativePruning": (lambda model: None, lambda: IterativePruning("macs=0.5", rounds=2)),
}  # fmt: skip
# Whether there is a callback that swaps weights and averages, and if so whether at epochs as well as for tests.
SWAPPED = [("Proximal", False), ("CoupledProximal", True)]  # by a constraint, and by a callback
CASES = [(name, None) for name in SOLVERS] + SWAPPED


@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")
@pytest.mark.parametrize("name, swap", CASES)
def test_the_zeros_of_the_last_epoch_are_there_after_fit(name, swap):
    put, make = SOLVERS[name]
    if keras.backend.backend() != "tensorflow" and name == "MultiGradient":
        pytest.skip("the rule needs gradients in the step")
    model, solver, seen = net(ema_momentum=0.9), make(), Zeros()
    put(model)
    swaps = [] if swap is None else [keras.callbacks.SwapEMAWeights(swap_on_epoch=swap)]
    data = (X, Y) if swap is False else None
    model.fit(X, Y, batch_size=8, epochs=4, verbose=0, validation_data=data, callbacks=[solver, seen, *swaps])
    after = zeros_of(model)
    assert sum(zeros.sum() for zeros in seen.last) > 0
    for at_end, now in zip(seen.last, after, strict=True):
        assert now[at_end].all()
    if name == "MultiGradient":
        assert solver.history[-1]["zeros"] == sum(zeros.sum() for zeros in after) / sum(zeros.size for zeros in after)
    else:
        assert sum(zeros.sum() for zeros in after) == sum(zeros.sum() for zeros in seen.last)
    assert all(np.isfinite(value).all() for value in model.get_weights())


def test_averages_follow_weights_that_become_zero_and_that_begin_anew():
    model = net()
    model.fit(X, Y, verbose=0)
    kernel = model.layers[0].kernel
    average = average_of(model.optimizer, kernel)
    before, mask = ops.convert_to_numpy(average), RNG.uniform(size=kernel.shape) < 0.5
    kernel.assign(np.where(mask, ops.convert_to_numpy(kernel), 0.0))
    zero_averages(model.optimizer, model.trainable_variables)
    np.testing.assert_array_equal(ops.convert_to_numpy(average), np.where(mask, before, 0.0))
    kernel.assign(np.where(mask, ops.convert_to_numpy(kernel), 0.5))
    restart_averages(model.optimizer, model.trainable_variables)
    np.testing.assert_array_equal(ops.convert_to_numpy(average), np.where(mask, before, 0.5))


# What is clustered, and how the weights are averaged.
CLUSTERED = {
    "one row": {}, "per channel": {"per_channel": True}, "compiled before": {"before": True},
}  # fmt: skip
AVERAGED = {
    "average": {}, "overwritten": {"ema_overwrite_frequency": 3}, "gathered": {"gradient_accumulation_steps": 3},
    "swapped for tests": {"swap": False}, "swapped at epochs": {"swap": True},
}  # fmt: skip


def check_clusters(model, before, per_channel):
    for layer, old in zip(model.layers, before, strict=True):
        kernel = ops.convert_to_numpy(layer.kernel)
        np.testing.assert_array_equal(kernel == 0, old == 0)
        rows = zip(kernel.T, old.T) if per_channel else [(kernel, old)]
        assert all(len(np.unique(new)) <= len(np.unique(row)) for new, row in rows)
        assert not np.array_equal(kernel, old)


@pytest.mark.parametrize(
    "clustered, averaged",
    [*(("one row", name) for name in AVERAGED), ("per channel", "average"), ("compiled before", "average")],
)
def test_clusters_and_zeros_are_there_after_fit(clustered, averaged):
    arguments, options = dict(AVERAGED[averaged]), dict(CLUSTERED[clustered])
    swap, begun = arguments.pop("swap", None), options.pop("before", False)
    model = net(ema_momentum=0.9, **arguments)
    if begun:
        model.fit(X, Y, verbose=0)
    tfr.prune(model, "unstructured", sparsity=0.5)
    quantization.cluster(model, 4, **options)
    before = [ops.convert_to_numpy(layer.kernel) for layer in model.layers]
    swaps = [] if swap is None else [keras.callbacks.SwapEMAWeights(swap_on_epoch=swap)]
    data = (X, Y) if swap is False else None
    for _ in range(2):
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, validation_data=data, callbacks=swaps)
        check_clusters(model, before, options.get("per_channel", False))


def test_averages_of_clusters_are_the_means_of_the_averages_of_their_weights():
    model = net(ema_momentum=0.5)
    quantization.cluster(model, 3)
    layer = model.layers[0]
    model.fit(X, Y, batch_size=64, epochs=1, verbose=0)
    average = average_of(model.optimizer, layer.kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(average), layer.kernel.constraint.numpy(), atol=1e-6)
    held = layer.kernel.constraint.numpy()
    model.fit(X, Y, batch_size=64, epochs=1, verbose=0)
    now = layer.kernel.constraint.numpy()
    # Half the way of each value, where no weight went to another one.
    np.testing.assert_allclose(ops.convert_to_numpy(average), (held + now) / 2, atol=1e-5)


def test_what_a_schedule_removed_stays_removed_in_the_averages():
    keras.utils.set_random_seed(0)
    plain = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(3)])
    model = tfmot.sparsity.keras.prune_low_magnitude(plain, tfmot.sparsity.keras.ConstantSparsity(0.5, 4))
    model.compile(keras.optimizers.SGD(1e-2, use_ema=True), "mse")
    model.fit(X, Y, batch_size=8, verbose=0, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    for layer in tfmot.pruning.wrappers(model):
        (kernel,), (mask,) = layer.masked_variables(), layer.masks
        np.testing.assert_array_equal(ops.convert_to_numpy(kernel) == 0, ops.convert_to_numpy(mask) == 0)
