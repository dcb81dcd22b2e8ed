"""What commands of `tf-reweight` have in common: how figures are shown, one file as an argument, sizes of open inputs."""

import os
import pathlib

from absl import flags

from tf_reweight.strict_json import to_json

# What this package raises to explain itself. Anything else is a fault, here or in a library.
_EXPLAINED = (ValueError, TypeError, OSError, RuntimeError, ImportError)

# What Keras imports for each of its backends.
_NEEDED_BY = {"jax": ("jax", "jaxlib"), "numpy": ("jax", "jaxlib"), "openvino": ("openvino",), "torch": ("torch",)}


def told(error):
    """What an error says; what the system says of a file, and what nobody foresaw, in the form of our own errors."""
    from tf_reweight import errors

    if isinstance(error, MemoryError):
        fix = "Give it less at once: fewer examples, smaller batches or a smaller model."
        return errors.message("There must be memory enough.", fix, error=str(error) or "MemoryError")
    backend = os.environ.get("KERAS_BACKEND")
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else None
    if missing in _NEEDED_BY.get(backend, ()):
        expected = f"Keras' backend {backend!r} needs the package {missing}, which is not installed."
        fix = "Install it, or leave KERAS_BACKEND out for TensorFlow."
        if backend not in ("jax", "torch"):
            expected = f"Keras must have a backend that trains: {backend!r} does not, and Python says: {error}."
            fix = "Leave KERAS_BACKEND out for TensorFlow, or set it to jax or torch."
        return errors.message(expected, fix, KERAS_BACKEND=backend)
    if not isinstance(error, _EXPLAINED) or isinstance(error, RecursionError) or not str(error):
        fix = "Run the command again with --debug and report what it prints."
        return errors.message("Nobody foresaw this error.", fix, error=f"{type(error).__name__}: {error}")
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    expected = f"The file must be one that can be read and written; the system says: {error.strerror}."
    return errors.message(expected, "Check its path and its permissions.", file=str(error.filename or "not named"))


def show(values, figures, tables):
    if values.json:
        print(to_json(figures, indent=1, default=str))
        return
    from tf_reweight.reports.progress import terminal

    for table in tables:
        terminal().print(table)


def one(positional, what):
    from tf_reweight import errors

    if len(positional) != 1:
        raise ValueError(errors.message(f"Expected one {what}.", "See tf-reweight --help.", arguments=positional))
    return pathlib.Path(positional[0])


def check_needed(values, needs):
    """Raises ValueError for a flag that was given and has no effect without another, which was not.

    Args:
        values: the flags, as the command line set them.
        needs: mapping of names of flags to the name of the one that each of them needs.
    """
    from tf_reweight import errors

    for name, other in needs.items():
        if values[name].present and not values[other].present:
            expected = f"--{name} has no effect without --{other}."
            raise ValueError(errors.message(expected, "Pass both, or neither.", **{name: values[name].value}))


def define_shape(values):
    flags.DEFINE_multi_string(
        "shape", [], "SIZE,SIZE,...: of an input whose sizes the file leaves open, as 1,224,224,3; or INPUT=SIZE,SIZE,..., "
        "which may be repeated", flag_values=values,
    )  # fmt: skip


def shapes_of(words):
    """`1,224,224,3` as a tuple, `INPUT=1,224,224,3` as a dict of tuples, nothing as None."""
    return by_input("shape", words, _sizes, "whole numbers", "1,224,224,3")


def _sizes(text):
    return tuple(int(size) for size in text.split(","))


def by_input(flag, words, read, takes, example):
    """What a flag says of a file's inputs: that of `VALUE` alone, a dict of those of `INPUT=VALUE`; None where it is not given.

    Args:
        flag: its name.
        words: what was given, a list.
        read: function of the text of a value; raises ValueError for what is none.
        takes, example: a value, in words and as an example, for errors.
    """
    from tf_reweight import errors

    found = {}
    for word in words:
        name, _, text = word.rpartition("=")
        if len(words) > 1 and name in ("", *found):
            expected = f"Several values of `{flag}` need the names of inputs, each once."
            raise ValueError(errors.message(expected, f"As in image={example}.", **{flag: words}))
        try:
            found[name] = read(text)
        except ValueError:
            fix = f"For example {example}, or image={example} for a file of several inputs."
            raise ValueError(errors.message(f"`{flag}` takes {takes}.", fix, **{flag: word})) from None
    return found.get("", found or None)
