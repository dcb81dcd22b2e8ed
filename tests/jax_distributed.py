"""What one device and two give on JAX; `test_backends.py` runs it with two processors that XLA makes of one.

By hand: `KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=2 python tests/jax_distributed.py`.
"""

import contextlib
import json

import jax
import keras
import numpy as np

import tf_reweight as tfr
from tf_reweight import callbacks

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 4))).argmax(1)


def net():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = L.ReLU()(L.BatchNormalization(name="bn")(L.Dense(8, name="a")(inputs)))
    x = L.Dense(8, activation="relu", name="b")(x)
    model = keras.Model(inputs, L.Dense(4, name="c")(x))
    model.compile(keras.optimizers.SGD(5e-2, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, epochs, *given):
    return model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=list(given)).history["loss"]


def proximal_then_zeros_stay():
    model = net()
    tfr.regularize(model, "filter", 1e-1)
    losses = fit(model, 2, callbacks.Reweighting(every=1), callbacks.Proximal(step=1e-2))
    tfr.prune(model, sparsity=0.5)
    return model, losses + fit(model, 1)


def zeros_of_a_file_stay():
    model = net()
    tfr.prune(model, "unstructured", sparsity=0.5)
    model.save("pruned.keras")
    model = keras.saving.load_model("pruned.keras")
    return model, fit(model, 1)


def coupled_then_smaller():
    model = net()
    tfr.regularize_coupled(model, strength=3.0, relative=True)
    solver = tfr.coupling.CoupledProximal(step=1e-1, macs=0.3)
    losses = fit(model, 3, callbacks.Reweighting(every=1), solver)
    tfr.prune_groups(model, macs=0.3)
    small = tfr.shrink(model, multiple_of=2)  # so that a mesh of two devices divides the channels
    return small, losses + [solver.met_at] + fit(small, 1)


def coupled_budget():
    model = net()
    solver = callbacks.BudgetProximal("macs=0.5", until=0.95, every=2)
    losses = fit(model, 8, solver)
    tfr.prune_groups(model)
    return model, [*losses, solver.met_at]


def clusters_and_ranges():
    """Kernels of 4 values that train on, and a model trained for integers, with its ranges."""
    model = net()
    tfr.quantization.cluster(model, 4)
    losses = fit(model, 1)
    values = [len(np.unique(keras.ops.convert_to_numpy(model.get_layer(name).kernel))) for name in "ab"]
    learning = tfr.quantize(net())
    learning.compile(keras.optimizers.SGD(5e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return learning, [*losses, *values, *fit(learning, 2)]


def whole_model_on_each():
    return keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"])


def channels_apart():
    """Output channels of the first kernel and input channels of the second on two devices."""
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], ["cpu:0", "cpu:1"])
    layout = keras.distribution.LayoutMap(mesh)
    layout[r"a/kernel"] = (None, "model")
    layout[r"b/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


@contextlib.contextmanager
def over(distribution):
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)


def numbers(model, figures):
    return [np.asarray(value, "float64") for value in [*figures, *(keras.ops.convert_to_numpy(v) for v in model.weights)]]


def largest_difference(ours, theirs):
    if [value.shape for value in ours] != [value.shape for value in theirs]:
        return float("inf")
    return max(float(np.max(np.abs(mine - other) / np.maximum(1.0, np.abs(mine)))) for mine, other in zip(ours, theirs))


def compared(do, distribution, alone):
    """The largest difference, on how many devices each weight is, which of them are split, and how many zeros each has."""
    with over(distribution()):
        model, together = do()
        devices = [len(variable.value.sharding.device_set) for variable in model.trainable_variables]
        split = [variable.path for variable in model.weights if not variable.value.sharding.is_fully_replicated]
        found = numbers(model, together)
    zeros = [int((weight == 0).sum()) for weight in found[len(together) :]]
    return {"difference": largest_difference(alone, found), "devices": devices, "split": split, "zeros": zeros}


CASES = (proximal_then_zeros_stay, zeros_of_a_file_stay, coupled_then_smaller, coupled_budget, clusters_and_ranges)
WAYS = (whole_model_on_each, channels_apart)

if __name__ == "__main__":
    assert len(jax.devices()) == 2, "set XLA_FLAGS=--xla_force_host_platform_device_count=2"
    alone = {do: numbers(*do()) for do in CASES}
    print(json.dumps({f"{do.__name__}, {way.__name__}": compared(do, way, alone[do]) for way in WAYS for do in CASES}))
