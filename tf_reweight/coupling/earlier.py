"""Groups that earlier cuts removed: they stay removed, go first, and may be more than what a later cut asks for."""

import numpy as np

from tf_reweight.coupling.demands import demands_of, least_within, least_without_macs, ranked, split
from tf_reweight.coupling.floors import Floors
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.kernels.budgeted import give_back, met
from tf_reweight.kernels.constraints import mask_of


def removed(coupled):
    """The groups that are wholly zero, all that makes, scales and reads them: one bool array `(num_groups,)` per set.

    Of a set that has none else, those that are held at zero: others may grow, and one of them has to stay.
    """
    found = []
    for item in coupled.sets:
        weights = [part for part in item.slices if part.role != "state"]
        gone = ~_any_in(item, [(part, as_numpy(part.variable) != 0) for part in weights])
        if gone.all():
            gone = ~_any_in(item, [(part, _free(part.variable)) for part in weights])
        found.append(gone)
    return found


def _free(variable):
    """Bool array of a variable's shape: False where a mask holds it at zero."""
    mask = mask_of(variable)
    return np.ones(tuple(variable.shape), bool) if mask is None else mask.as_numpy()


def _any_in(item, flagged):
    """Whether any entry of each group is True, bool `(num_groups,)`, of pairs `(slice, bool array of its variable's shape)`."""
    found = np.zeros(item.num_groups, bool)
    for part, flags in flagged:
        along = flags.any(axis=tuple(axis for axis in range(flags.ndim) if axis != part.axis))
        found[part.group_of[along & (part.group_of >= 0)]] = True
    return found


def first_gone(scores, gone):
    """Scores per set by which the groups that are removed already go before all others."""
    return [np.where(flags, -1.0, score) for score, flags in zip(scores, gone)]


def is_beyond(floors, scores, scope, sparsity, macs, budget):
    """Whether so much was removed before that some of it could have stayed within what is asked for."""
    open_floors = Floors(floors.coupled, floors.minimum, floors.multiple_of)
    if sparsity is not None:
        asked = open_floors(ranked(scores, sparsity, scope), scores)[0]
    elif macs is not None:
        asked = least_without_macs(open_floors, scores, macs, scope)
    else:
        demands = demands_of(floors.coupled, budget)
        if floors.multiple_of == 1 and scope == "model" and floors.minimum > 0:
            left = ~np.concatenate(floors.gone)
            asked = left.copy()
            if met(demands, left):
                give_back(asked, np.concatenate(scores), demands)
            asked = split(floors.coupled.sets, asked)
        else:
            asked = least_within(open_floors, scores, demands, scope)
    return any((keep & flags).any() for keep, flags in zip(asked, floors.gone))
