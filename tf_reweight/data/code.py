"""Data and models that are code: a function in a Python file, named as `FILE.py:FUNCTION`."""

import hashlib
import importlib.util
import os
import sys

from tf_reweight import errors
from tf_reweight.checks import is_sequence, listed
from tf_reweight.files import as_path, check_is_file

# The bytes of which each module was made, by its name.
_SOURCES: dict[str, bytes] = {}


def is_code(name):
    """Whether a name is that of a function in a file."""
    return ".py:" in str(name)


def function(name, what):
    """The function that `FILE.py:FUNCTION` names; only that file is imported, from the path itself.

    Args:
        name: `"my_data.py:load"`.
        what: what it is for, in errors.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be imported, or has no such function.
    """
    path, _, attribute = name.rpartition(":")
    module = imported(path)
    found = vars(module).get(attribute)
    if not callable(found):
        names = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ValueError(
            errors.message(f"{what} must name a function of {path}.", f"It has: {', '.join(names) or 'none'}.", name=name)
        )
    return found


def called(name, what):
    """What the function that `FILE.py:FUNCTION` names returns, called without arguments.

    Args:
        name: `"my_data.py:load"`.
        what: `"data"` or `"model"`: what it is to give.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when there is no such function, or it raises or ends the program.
    """
    found = function(name, f"{what}.name (--{what})")
    try:
        return found()
    except (Exception, SystemExit) as error:  # whatever the user's code raises, and the end of the program
        expected = f"{name} must load the {what}; it says: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(errors.message(expected.rstrip(": .") + ".", "Correct it.", **{what: name})) from error


def imported(path):
    """The module of a Python file, as it is now: a file that was changed since it was imported is imported anew.

    Objects that the earlier module made keep its classes.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no Python file, or its code raises.
    """
    path = as_path("file", path).resolve()
    if path.suffix != ".py":
        raise ValueError(errors.message("Code must be in a .py file.", "For example my_layers.py.", file=str(path)))
    check_is_file(path, "The Python file", file=str(path))
    # The same in every process: what is saved may name the module.
    name = f"tf_reweight_code_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    source, before = path.read_bytes(), sys.modules.get(name)
    if before is not None and _SOURCES.get(name) == source:
        return before
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # Registered first, as Python does: what the file defines may look for its own module.
    sys.modules[name] = module
    try:
        # Not by the loader: it takes compiled code for that of a file which was changed within a second.
        exec(spec.loader.source_to_code(source, path), vars(module))
    except (Exception, SystemExit) as error:  # whatever the user's code raises, and the end of the program
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        fix = "Correct the file; it is run from its path, with the folder of the call as working folder."
        expected = f"The Python file must run; it says: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(errors.message(expected.rstrip(": .") + ".", fix, file=str(path))) from error
    _SOURCES[name] = source
    return module


def parts_of(module):
    """Classes and functions that a module defines itself, by name, as `keras.saving.load_model` takes them."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    }


def splits(name):
    """`(train, validation, test)` of a function that loads data; what it does not give is None.

    The function takes no arguments and returns the three in this order, fewer, or a dict of them. Each is what `fit` takes:
    `(x, y)`, `(x, y, sample_weight)`, a `tf.data.Dataset`, a PyDataset, a function that makes a generator.

    Raises:
        ValueError: when it raises or returns something else.
    """
    given = called(name, "data")
    fix = 'Return train, validation, test, each as `fit` takes it, or {"train": (x, y), "validation": ...}.'
    if isinstance(given, dict) and set(given) <= {"train", "validation", "test"} and given.get("train") is not None:
        return tuple(given.get(split) for split in ("train", "validation", "test"))
    if not is_sequence(given) or not 1 <= len(given) <= 3 or any(hasattr(part, "__array__") for part in given):
        shown = [type(part).__name__ for part in listed(given)]
        raise ValueError(errors.message(f"{name} must return the splits.", fix, returned=shown))
    return (*given, None, None)[:3]
