"""Reweighted pruning for Keras 3: train with a regularizer, remove what it freed, ship a checked int8 .tflite."""

import importlib

from tf_reweight._version import __version__

# Everything is loaded on first use: `import tf_reweight` costs nothing and pulls in no plotting, data sets or tfmot.
_MODULES = (
    "allocation", "attachment", "callbacks", "config", "constraints", "coupling", "data", "export", "legacy", "masking",
    "models", "penalties", "proximal", "quantization", "regularizers", "report", "rivals", "selection", "sensitivity",
    "shrinking", "structures", "summaries", "targets", "workflow", "wrappers",
)  # fmt: skip
_HOME = {
    "Masked": "wrappers",
    "attach": "attachment",
    "compress": "workflow",
    "detach": "attachment",
    "export_tflite": "export",
    "groups": "coupling",
    "hold_groups": "coupling",
    "inspect_tflite": "export",
    "keep_zeros": "masking",
    "pack_tflite": "export",
    "prune": "masking",
    "prune_groups": "coupling",
    "quantize": "quantization",
    "regularize": "attachment",
    "regularize_coupled": "coupling",
    "release": "masking",
    "shrink": "shrinking",
    "sparsity": "masking",
    "strip": "wrappers",
    "strip_quantization": "quantization",
}

__all__ = ["__version__", *sorted(_MODULES), *sorted(_HOME)]


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
