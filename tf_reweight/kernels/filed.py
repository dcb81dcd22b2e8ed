"""Budgets of what only files tell: they are measured by the room that exports and runs files, above those that prune."""

import importlib

_METER = "tf_reweight.filecost"


def calibrated(model, budget, of, pairs=None):
    """A `Budget` with what was measured of files of the model, where it limits what only files tell; else as it is.

    Args:
        model: the model.
        budget: a `Budget` or None.
        of: `"of_channels"` or `"of_zeros"`: what is going to be removed.
        pairs: for zeros, list of `(target, structure)`.
    """
    if budget is None or budget.is_calibrated:
        return budget
    return _meter(of)(model, budget, pairs)


def calibrated_again(model, budget, pairs):
    """A `Budget` of zeros measured anew where what training does to weights changes its files: zipped bytes; else as it is.

    Args:
        model: the model as it is now.
        budget: a calibrated `Budget`.
        pairs: list of `(target, structure)`.
    """
    return budget if budget.zipped_bytes is None else _meter("of_zeros_again")(model, budget, pairs)


def tightened(model, budget, pairs):
    """Calibrated budgets to prune a model to again, as long as its own file is over a `Budget`; none where it limits no file.

    Args:
        model: the model, pruned to the budget.
        budget: a calibrated `Budget` or None.
        pairs: list of `(target, structure)`.
    """
    return () if budget is None or not budget.of_files else _meter("tightened")(model, budget, pairs)


def check_can_measure(model, budget):
    """Raises where a `Budget` limits what cannot be measured here; nothing is measured."""
    _meter("check_can_measure")(model, budget)


def _meter(function):
    # By its name, since it stands above this one: it prunes copies of the model.
    return getattr(importlib.import_module(_METER), function)
