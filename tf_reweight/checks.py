"""Checks of arguments, one for each kind of value."""

import math

from tf_reweight import errors


def check_sparsity(sparsity):
    """Raises unless `sparsity` is a number in [0, 1)."""
    check_fraction("sparsity", sparsity, "weights")


def check_fraction(name, value, of):
    """Raises unless the argument `name` is a number in [0, 1), the fraction of something that is removed."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        hint = f"Did you mean {value / 100:g}? " if isinstance(value, (int, float)) and 1 < value < 100 else ""
        fix = f"{hint}It is the fraction of the {of} removed."
        raise ValueError(errors.message(f"`{name}` must be in [0, 1).", fix, **{name: value}))


def check_count(name, value, minimum):
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(
            errors.message(f"`{name}` must be an integer >= {minimum}.", "It counts epochs or rounds.", **{name: value})
        )


def check_positive(**values):
    for name, value in values.items():
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
        if not good:
            raise ValueError(errors.message(f"`{name}` must be a finite number > 0.", "Try 1e-2.", **{name: value}))


def check_epsilon(epsilon):
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not epsilon > 0:
        raise ValueError(
            errors.message(
                "`epsilon` must be a number > 0.", "A little below the norm of a group worth keeping.", epsilon=epsilon
            )
        )


def check_number(name, value, minimum, exclusive=False, fix="Typical: 1e-6 to 1e-2."):
    """Raises unless `value` is a finite number at or above (`exclusive`: above) `minimum`."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and value != float("inf")
    if not good or value < minimum or (exclusive and value == minimum):
        relation = ">" if exclusive else ">="
        raise ValueError(errors.message(f"`{name}` must be a finite number {relation} {minimum:g}.", fix, **{name: value}))


def check_step(name, value, minimum):
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(
            errors.message(f"`{name}` must be an integer >= {minimum}.", "It counts optimizer steps.", **{name: value})
        )
