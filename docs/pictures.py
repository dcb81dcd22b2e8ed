"""Draws the picture of the concepts page: what a penalty weighs, and the gap that opens in a trained network.

    tf-reweight compress --config configs/quickstart.yaml
    python docs/pictures.py runs/quickstart
"""

import pathlib
import sys

import keras
import numpy as np
from matplotlib.figure import Figure

import tf_reweight as tfr

_PENALTIES = {
    "log_sum, epsilon 0.01": {"name": "log_sum", "epsilon": 0.01},
    "log_sum, epsilon 0.1": {"name": "log_sum", "epsilon": 0.1},
    "lasso": "lasso",
}


def magnitudes(path):
    """The magnitudes of all kernel weights of a saved model."""
    model = keras.saving.load_model(path)
    return np.concatenate([np.abs(target.variable.numpy()).ravel() for target in tfr.kernels.table.find(model)[0]])


def draw(folder):
    """The two plots beside each other."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    norms = np.geomspace(1e-3, 1, 100).astype("float32")
    for name, config in _PENALTIES.items():
        left.loglog(norms, np.asarray(tfr.penalties.get(config).weight(norms)), label=name)
    left.set(xlabel="norm of a group", ylabel="its penalty weight", title="What is small is pressed harder")
    left.legend(loc="lower left", bbox_to_anchor=(0, 0.12))
    bins = np.geomspace(1e-6, 1, 40)
    for name, label in (("dense", "dense"), ("regularized", "after the penalty")):
        right.hist(np.maximum(magnitudes(folder / f"{name}.keras"), 1e-6), bins, alpha=0.6, label=label)
    right.set(xscale="log", xlabel="magnitude of a weight", ylabel="weights", title="A gap opens (configs/quickstart.yaml)")
    right.legend()
    return figure


if __name__ == "__main__":
    draw(pathlib.Path(sys.argv[1])).savefig(pathlib.Path(__file__).parent / "gap.png", dpi=110)
