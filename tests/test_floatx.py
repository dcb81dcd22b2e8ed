"""Models of another floating-point type by Keras' global setting: penalties add up with their losses, zeros are zeros."""

import subprocess
import sys

import pytest

# In a process of its own, since the setting outlives a test.
WORK = """
import sys
import keras
import numpy as np
import tf_reweight as tfr
from tf_reweight import callbacks
keras.config.set_floatx(sys.argv[1])
L, rng = keras.layers, np.random.default_rng(0)
x, y = rng.normal(size=(128, 6)).astype("float32"), rng.integers(0, 3, 128)
def net():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.BatchNormalization(), L.Dense(8), L.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    return model
def fitted(model, *given):
    model.fit(x, y, epochs=4, verbose=0, callbacks=list(given))
    return model
model = net()
tfr.regularize(model, "filter", 1e-2)
plain = float(net().evaluate(x, y, verbose=0))
assert model.evaluate(x, y, verbose=0) > plain
fitted(model, callbacks.Reweighting())
model = net()
tfr.regularize_coupled(model, 1e-2)
fitted(model, callbacks.Reweighting())
model = net()
tfr.regularize(model, "unstructured", 1e-2)
fitted(model, callbacks.Reweighting(), callbacks.Proximal(1e-1))
fitted(net(), tfr.baselines.ADMM("unstructured", 0.5))
for criterion in ("taylor", "lamp"):
    model = fitted(net(), callbacks.BudgetProximal("macs=0.5", criterion=criterion))
    tfr.prune_groups(model)
    assert tfr.shrink(model).count_params() < model.count_params()
print("done", keras.config.floatx(), model.weights[0].dtype)
"""


@pytest.mark.parametrize("floatx", ["float64", pytest.param("float16", marks=pytest.mark.slow)])
def test_penalties_follow_the_global_type(floatx):
    """Losses of two types were added up, and TensorFlow refused in the middle of `fit`."""
    done = subprocess.run([sys.executable, "-c", WORK, floatx], capture_output=True, text=True)
    assert done.stdout.split()[-3:] == ["done", floatx, floatx], done.stderr[-2000:]
