"""What a run measures of a model and of the machine it runs on."""

import datetime
import os
import platform
import sys
from importlib import metadata

import keras
import numpy as np

from tf_reweight._version import __version__
from tf_reweight.graph.counting import count_macs, count_parameters
from tf_reweight.pruning.prune import sparsity


def accuracy(model, x, y):
    """Top-1 accuracy of a classifier on arrays, as a float in [0, 1]."""
    hits = [np.argmax(outputs_of(model, x[i : i + 512]), axis=-1) == y[i : i + 512] for i in range(0, len(x), 512)]
    return float(np.mean(np.concatenate(hits)))


def outputs_of(model, x):
    """Outputs of one batch as NumPy; called plainly, since a compiled predict function would be made anew at every stage."""
    return keras.ops.convert_to_numpy(model(x, training=False))


def stage_figures(model, data):
    """Accuracy, weights, zeros, parameters and MACs of a model as it is."""
    counts = sparsity(model).values()
    return {
        "validation_accuracy": accuracy(model, *data.validation),
        "test_accuracy": accuracy(model, *data.test),
        "num_weights": sum(size for _, size in counts),
        "num_nonzero": sum(size - zeros for zeros, size in counts),
        "num_parameters": count_parameters(model),
        "num_macs": count_macs(model),
    }


def environment():
    """Versions and machine, for the record of a run."""
    packages = ("tensorflow", "keras", "numpy", "ai-edge-litert")
    return {
        "tf_reweight": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        "backend": keras.backend.backend(),
        "platform": platform.platform(),
        "processor_count": os.cpu_count(),
        "argv": sys.argv[1:],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
