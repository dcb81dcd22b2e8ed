"""One form for every error: what was expected, what was received, how to fix it."""

import difflib


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


def _short(value, limit=200):
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
