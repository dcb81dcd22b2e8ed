"""What a run measures of a model and of the machine it runs on."""

import datetime
import importlib
import os
import platform
import sys
from importlib import metadata

import keras
import numpy as np

from tf_reweight._version import __version__
from tf_reweight.checks import check_classes
from tf_reweight.data.labelled import read
from tf_reweight.graph.checking import check_model
from tf_reweight.graph.counting import count_macs, count_parameters
from tf_reweight.pruning.prune import sparsity
from tf_reweight.workflow.scoring import outputs_of

# Examples that go through a model together.
_BATCH = 512


def accuracy(model, x, y):
    """Top-1 accuracy of a classifier on arrays, as a float in [0, 1].

    Args:
        model: a built Keras model with one output, whose last axis has an entry for each class.
        x: its inputs.
        y: class numbers, an array `(num,)`, or of the shape of the outputs without their last axis.

    Raises:
        TypeError, ValueError: for what is no model, holds no examples, or does not fit together.
    """
    check_model(model)
    labelled = read(model, x, y)
    batches = (slice(start, start + _BATCH) for start in range(0, labelled.num, _BATCH))
    chosen = np.concatenate([np.argmax(outputs_of(model, labelled.batch(model, rows)[0]), axis=-1) for rows in batches])
    check_classes(y, chosen.shape)
    return float(np.mean(chosen == np.asarray(y)))


def stage_figures(model, data, scorer):
    """Every metric on validation and test examples; weights, zeros, parameters and MACs of a model as it is."""
    counts = sparsity(model).values()
    validation = scorer.of_model(model, data.validation)
    test = scorer.of_model(model, data.test) if data.has_test else validation
    return {
        **split_figures("validation", validation),
        **split_figures("test", test),
        "num_weights": sum(size for _, size in counts),
        "num_nonzero": sum(size - zeros for zeros, size in counts),
        "num_parameters": count_parameters(model),
        "num_macs": count_macs(model),
    }


def split_figures(split, figures):
    """All metrics under the name of their split, and the accuracy of a classifier under a name of its own as well."""
    return {split: figures, **({f"{split}_accuracy": figures["accuracy"]} if "accuracy" in figures else {})}


def _version_of(package):
    """A package's version; where another distribution brought its module, as tensorflow-cpu does, the module's own."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return getattr(importlib.import_module(package.replace("-", "_")), "__version__", "unknown")


def environment():
    """Versions and machine, for the record of a run."""
    packages = ("tensorflow", "keras", "numpy", "ai-edge-litert")
    return {
        "tf_reweight": __version__,
        "python": platform.python_version(),
        **{package: _version_of(package) for package in packages},
        "backend": keras.backend.backend(),
        "platform": platform.platform(),
        "processor_count": os.cpu_count(),
        "argv": sys.argv[1:],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
