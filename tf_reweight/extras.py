"""Packages that only some of the work needs: they are extras of the installation, and imported where they are used."""

import importlib
import importlib.util

from tf_reweight import errors

# Which extra brings a module.
EXTRAS = {"sklearn": "cluster", "tensorflow_datasets": "data"}
# What `.tflite` files are made and run by, as pip calls it.
_FOR_FILES = {"tensorflow": "tensorflow", "ai_edge_litert": "ai-edge-litert"}


def load(module, what):
    """Imports a module of an extra, or one inside it.

    Args:
        module: its full name, such as `"sklearn.cluster"`.
        what: what needs it, for the error.

    Raises:
        ImportError: when it is not installed; says what to install.
    """
    check(module.partition(".")[0], what)
    return importlib.import_module(module)


def check(module, what):
    """Raises ImportError where a module is not installed, so that no work is done for nothing."""
    if not is_installed(module):
        fix = f'Run pip install "tf-reweight[{EXTRAS[module]}]".'
        raise ImportError(errors.message(f"{what} needs a package that is not installed.", fix, package=module))


def check_files(what):
    """Raises ImportError where what makes and runs `.tflite` files is missing, as beside JAX or torch alone.

    Args:
        what: what needs it, for the error.
    """
    missing = [package for module, package in _FOR_FILES.items() if not is_installed(module)]
    if missing:
        fix = f"Run pip install {' '.join(missing)}; a model saved as .keras can be exported in another process."
        raise ImportError(errors.message(f"{what} needs TensorFlow and LiteRT.", fix, missing=missing))


def is_installed(module):
    """Whether a module can be imported."""
    return importlib.util.find_spec(module) is not None
