"""Reweighted pruning for Keras 3: train with a regularizer, remove what it freed, ship a checked int8 .tflite."""

import importlib
import typing
import warnings

from tf_reweight._version import __version__
from tf_reweight.registration import register_names

if typing.TYPE_CHECKING:  # what editors and type checkers read; at run time everything is loaded on first use
    from tf_reweight import (
        baselines, callbacks, coupling, data, export, graph, kernels, packing, penalties, pruning, quantization,
        regularizers, reports, shrinking, structures, tflite, tfmot, workflow,
    )  # fmt: skip
    from tf_reweight.batch_statistics import refresh_statistics
    from tf_reweight.budget import Budget
    from tf_reweight.coupling import groups, hold_groups, prune_groups, regularize_coupled
    from tf_reweight.export import export_tflite, inspect_tflite
    from tf_reweight.packing import pack_tflite
    from tf_reweight.penalties.attachment import attach, detach, regularize
    from tf_reweight.pruning.masked import Masked, strip
    from tf_reweight.pruning.prune import keep_zeros, prune, release, sparsity
    from tf_reweight.quantization import quantize, strip_quantization
    from tf_reweight.shrinking import shrink
    from tf_reweight.workflow import compress, sweep

__all__ = [
    "__version__", "baselines", "callbacks", "coupling", "data", "export", "graph", "kernels", "packing", "penalties",
    "pruning", "quantization", "regularizers", "reports", "shrinking", "structures", "tflite", "tfmot", "workflow", "Budget",
    "Masked", "attach", "compress", "detach", "export_tflite", "groups", "hold_groups", "inspect_tflite", "keep_zeros",
    "pack_tflite", "prune", "prune_groups", "quantize", "refresh_statistics", "regularize", "regularize_coupled", "release",
    "shrink", "sparsity", "strip", "strip_quantization", "sweep",
]  # fmt: skip

# `import tf_reweight` costs nothing and pulls in no plotting, data sets or tfmot, not even Keras.
_HOME = {
    "Budget": "budget",
    "Masked": "pruning.masked",
    "attach": "penalties.attachment",
    "compress": "workflow",
    "detach": "penalties.attachment",
    "export_tflite": "export",
    "groups": "coupling",
    "hold_groups": "coupling",
    "inspect_tflite": "export",
    "keep_zeros": "pruning.prune",
    "pack_tflite": "packing",
    "prune": "pruning.prune",
    "prune_groups": "coupling",
    "quantize": "quantization",
    "refresh_statistics": "batch_statistics",
    "regularize": "penalties.attachment",
    "regularize_coupled": "coupling",
    "release": "pruning.prune",
    "shrink": "shrinking",
    "sparsity": "pruning.prune",
    "strip": "pruning.masked",
    "strip_quantization": "quantization",
    "sweep": "workflow",
}
# Where modules are that stood at the top level until version 0.1; they go after the next one.
_MOVED = {
    "allocation": "kernels.allocation",
    "attachment": "penalties.attachment",
    "config": "workflow.config",
    "constraints": "kernels.constraints",
    "legacy": "baselines.tf_keras",
    "masking": "pruning",
    "models": "data.models",
    "proximal": "penalties.proximal",
    "report": "reports.tables",
    "rivals": "baselines",
    "selection": "kernels.selection",
    "sensitivity": "reports.sensitivity",
    "summaries": "reports.curves",
    "targets": "kernels.table",
    "wrappers": "pruning",
}

register_names()


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MOVED:
        warnings.warn(
            f"tf_reweight.{name} is tf_reweight.{_MOVED[name]} now; the old name goes after version 0.2.",
            FutureWarning,
            stacklevel=2,
        )
        return importlib.import_module(f"{__name__}.{_MOVED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
