"""One form for every error: what was expected, what was received, how to fix it. Warnings name the user's line."""

import difflib
import itertools
import re
import sys
import warnings

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Packages whose lines no user can mend: this one, and those that call its callbacks, layers and regularizers back.
_NOT_THE_USERS = ("tf_reweight", "keras", "tensorflow", "jax", "torch", "contextlib", "functools")


def message(expected, fix, /, **received):
    """Three sentences for a user: what was expected, `Received: ...`, how to fix it.

    Example:
        >>> message("`sparsity` must be in [0, 1).", "Pass the fraction removed.", sparsity=80)
        '`sparsity` must be in [0, 1). Received: sparsity=80. Pass the fraction removed.'
    """
    shown = ", ".join(f"{name}={_short(value)}" for name, value in received.items())
    return f"{expected} Received: {shown}. {fix}"


def unknown(kind, name, options):
    """The error text for a name that is not in `options`; names the nearest valid one.

    Example:
        >>> unknown("structure", "filtr", ["filter", "kernel"])
        "Expected a known structure. Received: structure='filtr'. Did you mean 'filter'? Valid: filter, kernel."
    """
    options = sorted(str(option) for option in options)
    near = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    argument = kind.split(" of ")[0].replace(" ", "_")
    return message(f"Expected a known {kind}.", f"{hint}Valid: {', '.join(options)}.", **{argument: name})


def said_by(error):
    """What an error of Keras says is wrong, in a line: without the call it was found in and the colours of a terminal."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines()]
    said = [line for line in lines if not line.startswith("Exception encountered when calling")]
    paragraphs = [" ".join(group) for text, group in itertools.groupby(said, bool) if text]
    # Keras breaks its sentences over lines; what comes after the first is of how to mend it, or of where it was.
    first = re.split(r"(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)(?<!cf\.)(?<=\.) (?=[A-Z])", (paragraphs or [type(error).__name__])[0])[0]
    return first.rstrip(".:")


def warn(text, category=UserWarning):
    """Warns, and names as the place the nearest caller's line that is the user's own.

    A warning of a callback names the user's `fit`, however many lines of Keras lie between.
    """
    level, frame = 2, sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _NOT_THE_USERS:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def _short(value, limit=200):
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        text = "a number of too many digits to show"
    return text if len(text) <= limit else text[: limit - 3] + "..."
