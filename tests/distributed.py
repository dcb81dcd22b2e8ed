"""What one device and two replicas give with the same batches; run by test_distribution.py in a process of its own.

TensorFlow splits a processor into logical devices only before it has used it: that is too late in the suite's process.
"""

import contextlib
import json
import pathlib
import sys
import tempfile

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402

import tf_reweight as tfr  # noqa: E402
from tf_reweight import baselines, callbacks, quantization  # noqa: E402
from tf_reweight.workflow import strategies  # noqa: E402

L = keras.layers
# The one that runs have: collectives of two strategies on the same devices get in each other's way in TensorFlow.
with strategies.Mirrored().scope():
    STRATEGY = tf.distribute.get_strategy()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 4))).argmax(1)


def net(optimizer=None, regularizer=None, wrap=lambda layer: layer):
    """Two hidden layers with statistics over all replicas, as Keras has them on request, trained by SGD.

    Adam would divide differences of rounding by gradients that are zero but for rounding.
    """
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = wrap(L.Dense(8, name="a", kernel_regularizer=regularizer))(inputs)
    x = L.ReLU()(L.BatchNormalization(synchronized=True, name="bn")(x))
    x = L.Dense(8, activation="relu", name="b")(x)
    return compiled(keras.Model(inputs, L.Dense(4, name="c")(x)), optimizer)


def flat_net(regularizer=None):
    """Two kernels and nothing else, where what is done is done to each kernel alone: steps of replicas take long to trace."""
    keras.utils.set_random_seed(1)
    layers = [L.Dense(8, activation="relu", name="a", kernel_regularizer=regularizer), L.Dense(4, name="c")]
    return compiled(keras.Sequential([keras.Input((6,)), *layers]))


def compiled(model, optimizer=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(5e-2, momentum=0.9), loss)
    return model


def fit(model, epochs, *given):
    return model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=list(given)).history["loss"]


def reloaded(model):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        return keras.saving.load_model(path)


def penalties_to_integers(model):
    """Two penalties on each kernel, zeros that stay, a smaller model, ranges learned in training."""
    tfr.regularize(model, "filter", 1e-1)
    tfr.regularize(model, "unstructured", 1e-2)
    losses = fit(model, 2, callbacks.Reweighting(every=1, rounds=2, epsilon=(1e-1, 1e-2)))
    tfr.prune(model, sparsity=0.5)
    small = tfr.shrink(model)
    quantized = tfr.quantize(small)
    losses += fit(quantized, 2, quantization.FreezeRanges(1))
    return quantized, losses + [tfr.strip_quantization(quantized).predict(X, verbose=0)]


def constructor_and_proximal(model):
    losses = fit(model, 2, callbacks.Reweighting(every=1), callbacks.Proximal(step=1e-2))
    tfr.prune(model, sparsity=0.3)
    return model, losses


def coupled_and_clusters(model):
    """A coupled penalty that comes back from a file, in steps of its own; channels removed, zeros that come back from a file.

    Then ranges of examples, and few values for each kernel.
    """
    tfr.regularize_coupled(model, strength=3.0, relative=True)
    model = reloaded(model)
    solver = tfr.coupling.CoupledProximal(step=1e-1, macs=0.3)
    losses = fit(model, 3, callbacks.Reweighting(every=1), solver)
    tfr.prune_groups(model, macs=0.3)
    report = tfr.refresh_statistics(model, X, Y, batch_size=4)
    small = tfr.shrink(model)
    tfr.prune(small, "unstructured", sparsity=0.5)
    small = tfr.quantize(reloaded(small))
    quantization.calibrate(small, X, batch_size=8)
    quantization.cluster(small, 6)
    return small, losses + [solver.met_at, report.refreshed, *report.losses.values()] + fit(small, 2)


def coupled_budget(model):
    """Groups are ranked by gradients, of which each replica sees a part."""
    solver = callbacks.BudgetProximal("macs=0.5", until=0.95, every=2)
    losses = fit(model, 8, solver)
    tfr.prune_groups(model)
    return model, [*losses, solver.met_at, *(look["marginal"] for look in solver.history)]


def single_budget(model):
    tfr.regularize(model, "unstructured", budget="sparsity=0.5")
    solver = callbacks.BudgetProximal(until=0.95, every=4)
    losses = fit(model, 8, solver)
    tfr.prune(model)
    return model, [*losses, solver.met_at]


def wrapped_admm_and_gradual(model):
    """Masks in three places: in a wrapper, as constraints, and in averages of the weights."""
    model.layers[1].update(sparsity=0.5)
    solver = baselines.ADMM("unstructured", 0.5, rho=(1e-3, 1e-1))
    schedule = baselines.PolynomialDecay(0.0, 0.5, 0, 6, frequency=2)
    losses = fit(model, 2, solver, baselines.GradualMagnitude(schedule), callbacks.KeepZeros())
    return model, [*losses, *(look["distance"] for look in solver.history), tfr.strip(model).predict(X, verbose=0)]


def levels_lasso_and_clipping(model):
    tfr.regularize(model, "filter", 1e-2, penalty="lasso")
    quantization.regularize_levels(model, 4, 1e-2)
    losses = fit(model, 2, callbacks.Reweighting(every=1), baselines.Clipping(5e-2))
    quantization.snap(model)
    return model, losses


def two_objectives(model):
    tfr.regularize(model, "unstructured", 1.0, "lasso")
    rule = callbacks.MultiGradient(clip=1e-2)
    losses = fit(model, 2, rule)
    tfr.prune(model, threshold=0.0)
    return model, [*losses, *(entry["weight"] for entry in rule.history)]


def iterative(model):
    tfr.regularize(model, "unstructured", budget="sparsity=0.5")
    losses = fit(model, 4, callbacks.IterativePruning(rounds=2))
    tfr.prune(model)
    return model, losses


def compressed(distribute):
    """A whole run of one model, made outside of any scope."""
    with tempfile.TemporaryDirectory() as folder:
        result = tfr.compress(net(), (X, Y), (X, Y), (X, Y), config={**RUN, "distribute": distribute}, out=f"{folder}/run")
        losses = [stage["validation"]["loss"] for stage in result.report["stages"]]
        return result.model, [*losses, *(file["test"]["loss"] for file in result.report["files"])]


def whole_run():
    alone = numbers(*compressed(None))
    model, figures = compressed("mirrored")
    difference = largest_difference(alone, numbers(model, figures))
    return {"where": "run", "difference": difference, "apart": apart_of(model.variables)}


def refused():
    """What is said of batches that do not divide by the devices."""
    try:
        tfr.compress(net(), (X, Y), config={**RUN, "distribute": "mirrored", "train": {"batch_size": 7}})
    except ValueError as error:
        return str(error)


RUN = {
    "train": {"epochs": 1, "batch_size": 8},
    "regularize": {"coupled": {}, "rounds": 1, "every": 1},
    "prune": {"macs": 0.3},
    "retrain": {"epochs": 1, "learning_rate": 0.05},
    "distill": {"weight": 0.5, "temperature": 2.0},
    "shrink": {},
    "export": {"precisions": ["float32"], "latency_runs": 1, "pack": False},
}
# What is done, how its model is made, and whether it is done inside the scope of the strategy or after it was left.
CASES = {
    penalties_to_integers: (net, "outside"),
    constructor_and_proximal: (lambda: flat_net(tfr.regularizers.Reweighted("filter", 1e-1)), "inside"),
    coupled_and_clusters: (net, "inside"),
    coupled_budget: (net, "inside"),
    single_budget: (flat_net, "outside"),
    wrapped_admm_and_gradual: (
        lambda: net(keras.optimizers.SGD(5e-2, use_ema=True, ema_momentum=0.5), wrap=lambda layer: tfr.Masked(layer, "filter")),
        "outside",
    ),
    levels_lasso_and_clipping: (flat_net, "outside"),
    two_objectives: (flat_net, "inside"),
    iterative: (flat_net, "outside"),
}


def numbers(model, figures):
    return [np.asarray(value, "float64") for value in [*figures, *(variable.numpy() for variable in model.weights)]]


def largest_difference(ours, theirs):
    """Of all figures and weights, relative to one where they are larger; infinite where their shapes differ."""
    if [value.shape for value in ours] != [value.shape for value in theirs]:
        return float("inf")
    pairs = [(mine, other) for mine, other in zip(ours, theirs) if mine.size]
    return max(float(np.max(np.abs(mine - other) / np.maximum(1.0, np.abs(mine)))) for mine, other in pairs)


def apart(model):
    """Paths of variables that are not mirrored, or whose copies differ."""
    return apart_of([*model.variables, *model.optimizer.variables])


def apart_of(variables):
    copies = {variable.path: [np.asarray(copy) for copy in getattr(variable.value, "values", ())] for variable in variables}
    return [path for path, values in copies.items() if len(values) != 2 or not np.array_equal(*values)]


def compared(do, build, where):
    alone = numbers(*do(build()))
    with STRATEGY.scope():
        model = build()
    with STRATEGY.scope() if where == "inside" else contextlib.nullcontext():
        model, figures = do(model)
        together = numbers(model, figures)
    return {"where": where, "difference": largest_difference(alone, together), "apart": apart(model)}


if __name__ == "__main__":
    found = {do.__name__: compared(do, *how) for do, how in CASES.items() if do.__name__ in sys.argv[1:]}
    with contextlib.redirect_stdout(sys.stderr):
        found |= {"whole_run": whole_run(), "refused": refused()}
    print(json.dumps(found))
