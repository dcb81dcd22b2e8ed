"""Models saved with this package load after a plain `import tf_reweight`, which itself imports nothing but this.

Keras finds a saved class by the name it was registered under, so registration must come before loading, and the classes
live in modules that import Keras. So names are registered with stand-ins, which import the real class when Keras first asks
them to build one. Where Keras is not imported yet, that waits until it has been.
"""

import importlib
import importlib.abc
import importlib.util
import sys

_PACKAGE = "tf_reweight"
# Where each registered class is.
HOMES = {
    "Budgeted": "penalties.budgeted",
    "AdmmPenalty": "baselines.admm",
    "Combined": "penalties.reweighted",
    "Coupled": "coupling.penalty",
    "CoupledBudgeted": "coupling.budgeted",
    "KeptZeros": "kernels.constraints",
    "Masked": "pruning.masked",
    "PerProjection": "penalties.projections",
    "QuantizedActivation": "quantization.layers",
    "QuantizedKernel": "quantization.layers",
    "PruneLowMagnitude": "tfmot.wrapper",
    "Reweighted": "penalties.reweighted",
    "ToLevels": "quantization.levels",
    "Unscaled": "quantization.carrying",
}


def register_names():
    """Lets Keras find every class of `HOMES`: at once where Keras is imported, else as soon as it is."""
    keras = sys.modules.get("keras")
    if hasattr(keras, "saving"):
        _add_stand_ins(keras)
    elif not any(isinstance(finder, _AfterKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKeras())


def _add_stand_ins(keras):
    known = keras.saving.get_custom_objects()
    for name, module in HOMES.items():
        # The real class takes this place when its module is imported.
        known.setdefault(f"{_PACKAGE}>{name}", _stand_in(name, module))


def _stand_in(name, module):
    def from_config(cls, config):
        return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name).from_config(config)

    return type(name, (), {"__doc__": f"Stands for {_PACKAGE}.{module}.{name}.", "from_config": classmethod(from_config)})


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Registers the names right after Keras has been imported for the first time; imports nothing itself."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)  # the others are asked
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(importlib.abc.Loader):
    """Runs a module by its own loader, and registers the names when that has gone well."""

    def __init__(self, loader, finder):
        self.loader, self.finder = loader, finder

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        # What asks a module for its loader, for its source or data, gets the real one.
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        _add_stand_ins(module)
