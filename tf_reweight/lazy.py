"""Modules that are loaded when they are first asked for."""

import importlib
import importlib.util


def submodules(package):
    """A `__getattr__` for a package that imports its own modules on first use, so that `package.module` needs no import.

    Args:
        package: the package's `__name__`.

    Example:
        >>> __getattr__ = submodules(__name__)
    """

    def load(name):
        if name.startswith("__") or importlib.util.find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    return load
