"""What a group costs relative to those of other coupled sets: prices by name, one on average."""

import numpy as np

from tf_reweight.coupling.cost import Cost
from tf_reweight.penalties import prices

PRICES = ("equal", "weights", "macs")
# A set may cost this many times more, or less, than the mean: beyond, one layer would pay for all.
_MOST = 4.0


def of_sets(price, coupled):
    """The price of each coupled set of a `regularize_coupled` call.

    `"weights"` and `"macs"` are what removing one group saves, relative to the mean over the sets, between a quarter and four.

    Args:
        price: a number, a name of `PRICES`, or a function `CoupledSet -> number`.
        coupled: what `coupling.groups` found.

    Returns:
        Floats > 0, in the order of `coupled.sets`.
    """
    if callable(price):
        return prices.asked(price, coupled.sets)
    prices.check(price, PRICES)
    if price not in ("weights", "macs"):
        return [1.0 if price == "equal" else price] * len(coupled.sets)
    savings = [item.weights_per_group for item in coupled.sets] if price == "weights" else _macs_per_group(coupled)
    mean = sum(savings) / len(savings)
    return [max(1.0 / _MOST, min(_MOST, saving / mean)) for saving in savings]


def _macs_per_group(coupled):
    """Multiply-accumulates that go with one group of each set, from the whole model."""
    cost = Cost(coupled)
    keeps = [np.ones(item.num_groups, bool) for item in coupled.sets]
    whole, savings = cost.macs(keeps), []
    for keep in keeps:
        keep[0] = False
        savings.append(whole - cost.macs(keeps))
        keep[0] = True
    return savings
