"""What a budget demands of coupled sets, and which of their groups stay within it where whole multiples of channels have to."""

import numpy as np

from tf_reweight import errors
from tf_reweight.coupling.cost import Cost
from tf_reweight.kernels import allocation, filed
from tf_reweight.kernels.budgeted import Demand, first_to_meet, met, said

# What a group costs at least, of the whole: one that frees nothing must not be the cheapest to keep by far.
_LEAST_PRICE = 1e-6


def demands_of(coupled, budget):
    """The `Demand`s of a `Budget` on coupled sets, groups of all sets in one row."""
    budget = filed.calibrated(coupled.model, budget, "of_channels")
    cost = Cost(coupled)
    quantities = cost.quantities | cost.of_files(budget)
    everything = np.ones(coupled.num_groups, bool)
    limits = budget.limits({name: quantity.at(everything) for name, quantity in quantities.items()})
    return [Demand(name, quantities[name], limit) for name, limit in limits.items()]


def prices_of(sets, demands):
    """What each group frees alone, float64 `(num_groups,)` per set, more than nothing; see `first_to_meet`."""
    everything = np.ones(sum(item.num_groups for item in sets), bool)
    quantity = first_to_meet(demands, len(everything)).quantity
    return split(sets, np.maximum(quantity.changes(everything), _LEAST_PRICE * quantity.at(everything)))


def split(sets, row):
    """One array per set of an array over the groups of all."""
    return np.split(row, np.cumsum([item.num_groups for item in sets])[:-1])


def within(floors, scores, demands, scope="model"):
    """Keep flags per set that meet the demands and respect the floors, the smallest sparsity to a thousandth; what fits of the
    others comes back, where no set has a fraction of its own.

    Raises:
        ValueError: when they cannot be met so.
    """

    keeps = least_within(floors, scores, demands, scope)
    check_met(floors, keeps, demands)
    if scope != "model":
        return keeps
    return floors.fill(keeps, scores, lambda keeps: met(demands, np.concatenate(keeps)))


def least_within(floors, scores, demands, scope):
    """The same before what fits comes back, and without a refusal."""
    return _least_removed(floors, scores, scope, lambda keeps: met(demands, np.concatenate(keeps)))


def without_macs(floors, scores, macs, scope):
    """Keep flags of the smallest sparsity, to a thousandth, that removes the fraction `macs` of the computing.

    Raises:
        ValueError: when that much cannot be removed.
    """
    cost = Cost(floors.coupled)
    keeps = least_without_macs(floors, scores, macs, scope)
    check_without(cost, keeps, macs)
    return keeps


def least_without_macs(floors, scores, macs, scope):
    """The same without a refusal."""
    cost = Cost(floors.coupled)
    return _least_removed(floors, scores, scope, lambda keeps: _is_without(cost, keeps, macs))


def check_without(cost, keeps, macs):
    """Raises where keep flags, the fewest that the floors allow, do not remove the fraction `macs` of the computing."""
    if not _is_without(cost, keeps, macs):
        most = 1.0 - cost.macs(keeps) / cost.macs()
        expected = f"`macs` must be at most {most:.3f}, all that channels of this model can give."
        raise ValueError(errors.message(expected, "Frozen channels stay.", macs=macs))


def _is_without(cost, keeps, macs):
    return cost.macs(keeps) <= cost.macs() - macs * cost.macs()  # (1 - 0.9) * 2,000 would be less than 200


def check_met(floors, keeps, demands):
    """Raises where keep flags, the fewest that the floors allow, do not meet the demands."""
    if not met(demands, np.concatenate(keeps)):
        flat, everything = np.concatenate(keeps), np.ones(floors.coupled.num_groups, bool)
        least = [f"{said(item.attainable(flat))} of {said(item.quantity.at(everything))} {item.name}" for item in demands]
        expected = f"The budget must leave at least {', '.join(least)}, where channels stay a multiple of {floors.multiple_of}."
        fix = "Raise the budget, or lower `multiple_of` (in a configuration, of regularize.method and of shrink)."
        limits = {item.name: said(item.limit) for item in demands}
        raise ValueError(errors.message(expected, fix, multiple_of=floors.multiple_of, **limits))


def ranked(scores, sparsity, scope):
    """Keep flags per set: the best groups of the model, or of each set."""
    rows = [score[None] for score in scores]
    ones = [np.ones(row.shape, "int64") for row in rows]
    return [keep[0] for keep in allocation.by_sparsity(rows, ones, sparsity, "model" if scope == "model" else "layer")]


def _least_removed(floors, scores, scope, fits):
    """Keep flags of the smallest sparsity, to a thousandth, at which `fits(keeps)`; of the largest where none does."""

    def keeps_at(sparsity):
        return floors(ranked(scores, sparsity, scope), scores)[0]

    low, high = 0, 999
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(keeps_at(middle / 1000)) else (middle + 1, high)
    return keeps_at(high / 1000)
