"""Reweighted pruning for Keras 3: train with a regularizer, remove what it freed, ship a checked int8 .tflite."""

import importlib
import warnings

from tf_reweight._version import __version__

# Everything is loaded on first use: `import tf_reweight` costs nothing and pulls in no plotting, data sets or tfmot.
_MODULES = (
    "baselines", "callbacks", "coupling", "data", "export", "graph", "kernels", "packing", "penalties", "pruning",
    "quantization", "regularizers", "reports", "shrinking", "structures", "tflite", "workflow",
)  # fmt: skip
_HOME = {
    "Masked": "pruning",
    "attach": "penalties.attachment",
    "compress": "workflow",
    "detach": "penalties.attachment",
    "export_tflite": "export",
    "groups": "coupling",
    "hold_groups": "coupling",
    "inspect_tflite": "export",
    "keep_zeros": "pruning",
    "pack_tflite": "packing",
    "prune": "pruning",
    "prune_groups": "coupling",
    "quantize": "quantization",
    "regularize": "penalties.attachment",
    "regularize_coupled": "coupling",
    "release": "pruning",
    "shrink": "shrinking",
    "sparsity": "pruning",
    "strip": "pruning",
    "strip_quantization": "quantization",
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

__all__ = ["__version__", *sorted(_MODULES), *sorted(_HOME)]


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
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
