"""Packages that only some of the work needs: they are extras of the installation, and imported where they are used."""

import importlib
import importlib.util

from tf_reweight import errors

# Which extra brings a module.
EXTRAS = {"sklearn": "cluster", "tensorflow_datasets": "data"}


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


def is_installed(module):
    """Whether a module can be imported."""
    return importlib.util.find_spec(module) is not None
