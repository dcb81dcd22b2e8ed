"""Core laws on the backend that KERAS_BACKEND names, without TensorFlow; `test_backends.py` runs it where one is installed.

By hand, in an environment with JAX or torch: `KERAS_BACKEND=jax python tests/backends.py`.
"""

import contextlib
import tempfile
import warnings

import keras
import numpy as np

import tf_reweight as tfr
from tf_reweight import baselines, callbacks, quantization, workflow

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = np.arange(64) % 4


def net(regularizer=None, wrap=lambda layer: layer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = wrap(L.Dense(8, kernel_regularizer=regularizer, name="a"))(inputs)
    x = L.ReLU()(L.BatchNormalization()(x))
    x = L.Dense(8, activation="relu", name="b")(x)
    model = keras.Model(inputs, L.Dense(4, name="c")(x))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, *given, epochs=2):
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(given))


def kernel(model, name="a"):
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel)


def zeros(model, name="a"):
    return float(np.mean(kernel(model, name) == 0))


def same_outputs(model, other):
    return np.allclose(model.predict(X, verbose=0), other.predict(X, verbose=0), atol=1e-5)


def penalty_beside_l2_then_zeros_stay():
    model = net("l2")
    tfr.regularize(model, "unstructured", 1e-2)
    fit(model, callbacks.Reweighting(every=1))
    tfr.prune(model, sparsity=0.5)
    before = zeros(model)
    fit(model)
    assert zeros(model) == before > 0.2


def coupled_then_smaller():
    model = net()
    tfr.regularize_coupled(model, 1e-1)
    fit(model, callbacks.Reweighting(every=1))
    tfr.prune_groups(model, sparsity=0.4)
    small = tfr.shrink(model)
    assert same_outputs(model, small) and small.count_params() < model.count_params()


def proximal():
    model = net()
    tfr.regularize(model, "filter", 1.0)
    fit(model, callbacks.Reweighting(every=1), callbacks.Proximal(step=2e-2), epochs=4)
    assert (np.linalg.norm(kernel(model), axis=0) == 0).any()


def coupled_proximal_to_a_budget():
    model = net()
    tfr.regularize_coupled(model, 3.0)
    solver = tfr.coupling.CoupledProximal(step=1e-1, macs=0.2)
    fit(model, callbacks.Reweighting(every=1), solver, epochs=4)
    assert solver.met_at is not None


def budgets():
    model = net()
    tfr.regularize(model, "unstructured", budget="sparsity=0.5")
    fit(model, callbacks.BudgetProximal(), epochs=9)
    assert np.mean([zeros(model, name) for name in "abc"]) > 0.3
    model = net()
    solver = callbacks.BudgetProximal("macs=0.5")
    fit(model, solver, epochs=16)
    tfr.prune_groups(model)
    assert solver.met_at is not None and same_outputs(model, tfr.shrink(model))


def baselines_of_the_penalty():
    model = net()
    solver = baselines.ADMM("filter", 0.5)
    fit(model, solver)
    assert len(solver.history) == 2
    model = net()
    fit(model, baselines.GradualMagnitude(baselines.ConstantSparsity(0.5, 0)))
    assert zeros(model) == 0.5


def wrapper():
    model = net(wrap=lambda layer: tfr.Masked(layer, "filter"))
    model.layers[1].update(sparsity=0.5)
    fit(model)
    assert same_outputs(model, tfr.strip(model))


def integers():
    model = tfr.quantize(net())
    quantization.calibrate(model, X)
    fit(model, quantization.FreezeRanges(1))
    assert np.isfinite(tfr.strip_quantization(model).predict(X, verbose=0)).all()


def saved_and_loaded(path="pruned.keras"):
    model = net()
    tfr.regularize(model, "filter", 1e-2)
    fit(model, callbacks.Reweighting(every=1))
    model.save(path)
    assert same_outputs(model, keras.saving.load_model(path))


def zeros_and_clusters_of_a_file_stay(path="clusters.keras"):
    model = net()
    tfr.prune(model, "unstructured", sparsity=0.5)
    quantization.cluster(model, 6)
    fit(model)
    assert len(np.unique(kernel(model))) <= 6
    model.save(path)
    model = keras.saving.load_model(path, compile=False)
    before = zeros(model)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model)
    assert zeros(model) == before > 0.2


def levels_and_zeros_by_rank():
    model = net()
    quantization.regularize_levels(model)
    assert set(quantization.snap(model)) == {"a/kernel", "b/kernel", "c/kernel"}
    tfr.prune_groups(model, sparsity=0.5)
    assert same_outputs(model, tfr.shrink(model))


def plan_of_a_run():
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Dense(10)(L.Flatten()(L.Conv2D(4, 3, name="conv")(inputs))))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    planned = workflow.plan({"data": {"name": "digits"}, "regularize": {"coupled": {}}}, model)
    assert [item["num_groups"] for item in planned["kernels"]] == [4]


LAWS = (
    penalty_beside_l2_then_zeros_stay, coupled_then_smaller, proximal, coupled_proximal_to_a_budget, budgets,
    baselines_of_the_penalty, wrapper, integers, saved_and_loaded,
    zeros_and_clusters_of_a_file_stay, levels_and_zeros_by_rank, plan_of_a_run,
)  # fmt: skip

if __name__ == "__main__":
    # As in all tests. Torch warns once in a process of weights that are read as numbers while they can have gradients.
    warnings.simplefilter("error", UserWarning)
    # Some laws write files, which belong in no checkout.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for law in LAWS:
            law()
            print(f"{keras.backend.backend()}: {law.__name__}")
