"""Which groups stay within a budget: the lowest scores go, and what still fits comes back."""

import dataclasses
import math

import numpy as np

from tf_reweight import errors
from tf_reweight.kernels.quantities import Quantity

# A budget counts as reached where no more than this part of it is left over.
_CLOSE = 0.005
# Where lies what cannot go.
_OF_KERNELS = "lies in kernels that are not pruned"
_REST = {
    "bytes": f"is the file's graph, or {_OF_KERNELS}",
    "zipped_bytes": f"is the file's graph, or {_OF_KERNELS}",
    "latency_ms": "is the time that each operation takes whatever its size, or that of kernels that are not pruned",
}
# By how much of it what is left at least may be missed where it is read between files that were measured: with another budget
# others are.
_UNSURE = {"bytes": 0.02, "zipped_bytes": 0.03, "latency_ms": 0.05}
# How many of the groups that are kept with the lowest scores, and how many kinds of cost, may change places with others to come
# closer to the budget.
_MOST_EXCHANGED = 64
# How many of one cost may go at a time for others.
_MOST_OF_A_COST = 4
# Of a score's 64 bits those that are not looked at at first: exponent and five bits of the mantissa are left.
_DROPPED_BITS = 47


@dataclasses.dataclass(frozen=True, eq=False)
class Demand:
    """One quantity of a budget with its limit, both absolute."""

    name: str
    quantity: Quantity
    limit: float

    def room(self, keep):
        """What is left of the limit; negative where it is exceeded."""
        return self._upper - self.quantity.at(keep)

    def met_without(self, freed):
        """Whether the limit is kept without groups that cost `freed`, bool as that array; see `Quantity.without`."""
        return self._upper >= self.quantity.without(freed)

    @property
    def _upper(self):
        # A billionth absorbs the rounding of fractions.
        return self.limit * (1 + 1e-9)

    def attainable(self, keep):
        """A limit that is met with these groups kept: what there is of them, and what may be missed of it."""
        reached = self.quantity.at(keep) * (1 + _UNSURE.get(self.name, 0.0))
        return math.ceil(reached - 1e-6) if reached >= 10 else reached


def first_to_meet(demands, num_groups):
    """The first `Demand` that the dense model does not meet yet, the first of all where it meets every one.

    What groups free is counted in it: in a quantity of which nothing has to go, that would tell nothing.
    """
    dense = np.ones(num_groups, bool)
    return next((demand for demand in demands if demand.room(dense) < 0), demands[0])


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """What stays within a budget.

    Attributes:
        keep: bool `(groups,)`.
        marginal: score of the last group that had to go, by rank; 0.0 where none had.
    """

    keep: np.ndarray
    marginal: float


def choose(scores, demands, spared, exact=False, held_up="", gone=None):
    """Removes the groups of lowest score until all demands are met, and gives back, best first, what still fits.

    Args:
        scores: float64 `(groups,)`.
        demands: list of `Demand`.
        spared: bool `(groups,)`: groups that never go.
        exact: whether groups may change places to come closer to the limits, at some cost in time.
        held_up: a sentence for the error, on what cannot go.
        gone: bool `(groups,)`: groups that are removed already and never come back; None: none are.

    Returns:
        `Chosen`.

    Raises:
        ValueError: when the demands cannot be met; it says what can be reached and what holds it up.
    """
    scores = np.asarray(scores, "float64")
    gone = np.zeros(len(scores), bool) if gone is None else gone
    may_go = ~(np.asarray(spared) | gone)
    check_reachable(demands, ~(may_go | gone), held_up)
    fixed = all(demand.quantity.costs is not None for demand in demands) and bool((scores >= 0).all())
    lowest = (_lowest_of_fixed_costs if fixed else _lowest)(scores, demands, may_go, gone)
    keep = ~gone
    keep[lowest] = False
    marginal = float(scores[lowest[-1]]) if len(lowest) else 0.0
    give_back(keep, scores, demands, gone)
    if exact:
        _exchange(keep, scores, demands, spared, gone)
    return Chosen(keep, marginal)


def _lowest(scores, demands, may_go, gone):
    """Positions of the groups of lowest score that have to go until all demands are met, the last one last."""
    candidates = np.flatnonzero(may_go)
    order = candidates[np.argsort(scores[candidates], kind="stable")]

    def kept(count):
        keep = ~gone
        keep[order[:count]] = False
        return keep

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if met(demands, kept(middle)) else (middle + 1, high)
    return order[:high]


def _lowest_of_fixed_costs(scores, demands, may_go, gone):
    """The same where no cost depends on what else is kept; millions of single weights are not sorted for it.

    Groups are counted by the leading bits of their scores, which order numbers that are not negative; only those are sorted
    that have the bits of the last one that has to go.
    """
    candidates = np.flatnonzero(may_go)
    own = scores[candidates] + 0.0  # a negative zero has a bit of its own
    leading = own.view("int64") >> _DROPPED_BITS
    costs = [demand.quantity.costs for demand in demands]
    before = [float(cost[gone].sum()) for cost in costs]

    def enough(steps):
        """Whether all demands are met after each step, of which arrays tell what it costs."""
        freed = [already + np.concatenate([[0.0], np.cumsum(step)]) for already, step in zip(before, steps)]
        return freed, np.all([demand.met_without(sums) for demand, sums in zip(demands, freed)], axis=0)

    freed, is_met = enough([np.bincount(leading, weights=cost[candidates]) for cost in costs])
    if is_met[0]:
        return candidates[:0]
    last = int(np.argmax(is_met)) - 1 if is_met.any() else len(is_met) - 2
    before = [sums[last] for sums in freed]
    surely, unsure = np.flatnonzero(leading < last), np.flatnonzero(leading == last)
    unsure = unsure[np.argsort(own[unsure], kind="stable")]
    _, is_met = enough([cost[candidates[unsure]] for cost in costs])
    count = int(np.argmax(is_met)) if is_met.any() else len(unsure)
    return candidates[np.concatenate([surely, unsure[:count]])]


def met(demands, keep):
    """Whether all demands are met."""
    return all(demand.room(keep) >= 0 for demand in demands)


def check_reachable(demands, least, held_up=""):
    """Raises unless the demands are met with the fewest groups that can be kept, a bool array; `held_up` says what stays."""
    for demand in demands:
        if demand.room(least) < 0:
            total = demand.quantity.at(np.ones(len(least), bool))
            reached = demand.attainable(least)
            part = math.ceil(reached / total * 1000) / 1000
            # A sparsity was asked for as the weights it leaves.
            same = f" (sparsity={1 - part:g} or less)" if demand.name == "weights" else ""
            raise ValueError(
                errors.message(
                    f"The budget must leave at least {said(reached)} of the dense model's {said(total)} {demand.name}: the "
                    f"rest {_REST.get(demand.name, _OF_KERNELS)}, and every set keeps a group. {held_up}".rstrip(),
                    f"Pass {demand.name}={part:g} or more{same}, or let more layers be pruned.",
                    **{demand.name: said(demand.limit)},
                )
            )


def said(amount):
    """An amount in words: counts whole, milliseconds with three digits."""
    return f"{amount:,.0f}" if amount >= 10 or amount == int(amount) else f"{amount:.3g}"


def give_back(keep, scores, demands, barred=None):
    """Takes groups back, in place, the best first, as long as one fits into the room that is left; none of those `barred`."""
    while not keep.all():
        fits = ~keep if barred is None else ~(keep | barred)
        for demand in demands:
            fits &= demand.quantity.changes(keep) <= demand.room(keep)
        if not fits.any():
            return
        keep[int(np.argmax(np.where(fits, scores, -np.inf)))] = True


def _exchange(keep, scores, demands, spared, never):
    """Lets kept groups of low score go for others that fill the room better, in place, while the budget is not used up.

    One at a time for any other; then some of one cost for those of other costs, since the next of its own kernel would only
    take the place of a group.
    """

    def left_over(flags):
        return min(demand.room(flags) / demand.limit for demand in demands)

    def improve(gone, barred):
        tried = keep & ~gone
        give_back(tried, scores, demands, barred | never)
        better = 0 <= left_over(tried) < left_over(keep)
        if better:
            keep[:] = tried
        return better

    kept = np.flatnonzero(keep & ~np.asarray(spared))
    kept = kept[np.argsort(scores[kept], kind="stable")]
    places = np.arange(len(keep))
    for group in kept[:_MOST_EXCHANGED]:
        if left_over(keep) <= _CLOSE:
            return
        improve(places == group, places == group)
    # What is worth more than half of the others stays whatever room is left.
    kept = kept[: max(_MOST_EXCHANGED, len(kept) // 2)]
    for _ in range(_MOST_EXCHANGED):
        kept = kept[keep[kept]]
        if left_over(keep) <= _CLOSE or not len(kept):
            return
        costs = [demand.quantity.changes(keep) for demand in demands]
        alike = np.all([np.isclose(cost, cost[kept[0]]) for cost in costs], axis=0)
        lowest, kept = kept[alike[kept]], kept[~alike[kept]]
        for count in range(1, min(_MOST_OF_A_COST, len(lowest)) + 1):
            if improve(np.isin(places, lowest[:count]), alike):
                break


def lamp(norms):
    """Each norm's square over the sum of the squares of those as large or larger, float64 in [0, 1].

    The largest of a set has 1, so that sets of unlike scale and size can be ranked together (Lee et al., arXiv 2010.07611).

    Args:
        norms: array of any shape: one set.
    """
    squares = np.square(np.asarray(norms, "float64"))
    order = np.argsort(-squares, axis=None, kind="stable")
    sums = np.cumsum(squares.ravel()[order])
    scores = np.zeros(squares.size)
    np.divide(squares.ravel()[order], sums, out=sums, where=sums > 0)
    scores[order] = sums
    return scores.reshape(squares.shape)
