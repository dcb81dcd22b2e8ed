"""What to say where pruning removed nothing, or less than asked for, with the number to try next."""

import math

import numpy as np

from tf_reweight import errors

# How much stronger a penalty should press that freed nothing: as much as the norms are too large, within reason.
_LEAST_FACTOR, _MOST_FACTOR = 3.0, 10.0
# Less than that is not worth a word.
GAP = 0.02
_NOTHING = "Nothing was removed"


def above_threshold(norms, threshold):
    """A sentence: no norm is small enough.

    Args:
        norms: float array of the groups' norms.
        threshold: norms up to this go.
    """
    return (
        f"{_NOTHING}: the smallest of {len(norms)} group norms is {norms.min():.3g}, above threshold={threshold:.3g}. "
        f"threshold={_tenth(norms):.3g} removes about a tenth of the groups."
    )


def not_freed(norms, negligible, strength, instead):
    """A sentence: a penalty made no norm negligible.

    Args:
        norms: float array of the groups' norms.
        negligible: float array of their shape, norms up to which go.
        strength: the largest coefficient of the penalties.
        instead: function `norm -> str`, the argument that removes a tenth of the groups whatever the penalty did.
    """
    nearest = int(np.argmin(norms / np.maximum(negligible, 1e-12)))
    ratio = float(norms[nearest] / max(negligible[nearest], 1e-12))
    factor = min(max(ratio, _LEAST_FACTOR), _MOST_FACTOR)
    more = f"strength={strength * factor:.2g} instead of {strength:.2g}" if strength > 0 else "a strength above 0"
    return (
        f"{_NOTHING}: the penalty freed none of {len(norms)} groups. The smallest norm is {norms[nearest]:.3g}, "
        f"{ratio:.3g} times what counts as freed ({negligible[nearest]:.3g}, by its epsilon). Train longer or with {more}; "
        f"{instead(_tenth(norms))} removes about a tenth of the groups now."
    )


def below_one_group(sparsity, smallest):
    """A sentence: the fraction asked for is less than the smallest group is of all."""
    return (
        f"{_NOTHING}: sparsity={sparsity:g} is less than one group, the smallest of which is {smallest:.3g} of all. "
        f"sparsity={np.ceil(smallest * 1000) / 1000:g} removes the first."
    )


def falls_short(asked, removed, spared, why):
    """A sentence where less went than asked for, by more than `spared`, the share of a group that did not fit; or None."""
    if asked - removed <= max(GAP, spared):
        return None
    if not removed:
        return f"{_NOTHING} where sparsity={asked:g} was asked for: {why}."
    return f"{removed:.1%} was removed where sparsity={asked:g} was asked for, {asked - removed:.1%} less: {why}."


def warn_of_budget(budget):
    """Warns that what is zero does not meet a budget yet, so that the rest is cut."""
    errors.warn(
        f"The groups that are zero do not meet {budget} yet: the rest was cut by its norms, and the network still used it. Fit "
        "with callbacks=[tf_reweight.callbacks.BudgetProximal()] to its deadline first, or train on to recover.",
    )


def warn_of_earlier(call, amounts, zeros):
    """Warns that earlier calls removed more than this one asks for.

    Args:
        call: name of the function.
        amounts: mapping of arguments to values; those that are None were not given.
        zeros: what is zero, in words.
    """
    given = ", ".join(f"{name}={value!r}" for name, value in amounts.items() if value is not None)
    errors.warn(
        f"`{call}({given})` asks for less than is removed already: {zeros} are held at zero by earlier cuts, and stay zero. "
        "To begin anew, call tf_reweight.release(model), put the weights of before back or train on, and prune then.",
    )


def said(sentences):
    """The sentences that are not None, as a tuple; where nothing was removed a warning is given."""
    notes = tuple(sentence for sentence in sentences if sentence is not None)
    for note in notes:
        if note.startswith(_NOTHING):
            errors.warn(note)
    return notes


def _tenth(norms):
    """The threshold that removes a tenth of the groups, and at least one: rounded up to the three digits it is printed with."""
    norm = float(np.sort(norms)[-(-len(norms) // 10) - 1])
    if norm == 0:
        return 0.0  # so many are zero already
    unit = 10.0 ** (math.floor(math.log10(norm)) - 2)
    return math.ceil(norm / unit) * unit
