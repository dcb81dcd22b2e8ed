"""Putting coupled penalties on a model: one on each set of channels that go together."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tf_reweight import budget as budgets
from tf_reweight import errors
from tf_reweight.checks import check_flags
from tf_reweight.coupling import savings
from tf_reweight.coupling.analysis.sets import CoupledSet, groups
from tf_reweight.coupling.budgeted import CoupledBudgeted
from tf_reweight.coupling.demands import demands_of
from tf_reweight.coupling.penalty import Coupled, anchored
from tf_reweight.coupling.pruning import removable, warn_of_frozen
from tf_reweight.coupling.scores import CRITERIA
from tf_reweight.graph.checking import check_eager, check_trained_finite
from tf_reweight.graph.distribution import beside
from tf_reweight.kernels import filed
from tf_reweight.kernels.budgeted import check_reachable
from tf_reweight.kernels.table import LeftOut, find
from tf_reweight.penalties.attachment import add_all, check_not_beside, check_strength
from tf_reweight.penalties.functions import PenaltyLike
from tf_reweight.records import Report


@dataclasses.dataclass(frozen=True, eq=False)
class CoupledPenalties(Report):
    """What `regularize_coupled` did: the penalties in force now, and what was left out with its reason."""

    penalties: tuple[Coupled, ...]
    left_out: tuple[LeftOut, ...]

    def to_dict(self):
        """The penalties in force as their configurations, and what was left out."""
        return {
            "sets": [{"name": penalty.item.name, **penalty.get_config()} for penalty in self.penalties],
            "left_out": [dataclasses.asdict(item) for item in self.left_out],
        }

    def __str__(self):
        lines = [f"{penalty.item.name}: {penalty.num_groups} groups" for penalty in self.penalties]
        lines += [f"{item.name}: left out, {item.reason}" for item in self.left_out]
        return "\n".join(lines)


def regularize_coupled(
    model: keras.Model,
    strength: float | None = None,
    penalty: PenaltyLike = "log_sum",
    *,
    budget: budgets.Budget | dict | str | None = None,
    criterion: str = CRITERIA[0],
    price: float | str | Callable[[CoupledSet], float] = 1.0,
    relative: bool = False,
) -> CoupledPenalties:
    """Puts one reweighted penalty on each set of channels that go together, in place; outputs stay as they are.

    Use it to get whole filters, heads and units to vanish. A filter's own norm is free before a BatchNorm, so a penalty on
    it can shrink numbers without freeing anything; the default counts the kernels that make a channel, the gammas that
    scale it and the kernels that read it.

    Args:
        model: a built Sequential or functional model.
        strength: the coefficient, about the price of one surviving group in units of the loss; None is 1e-3 without a budget.
        penalty: name, config or `Penalty`.
        budget: instead of a strength, what may be left: a `Budget`, its mapping or text, such as `"macs=0.5"`. `fit` with
            `callbacks.BudgetProximal` then presses as hard as it needs; `penalty`, `price` and `relative` play no part.
        criterion: `"kernel+gamma+next"`, `"kernel"` or `"gamma"`: the weights that make up a group's norm.
        price: what a group costs relative to those of other sets: a number, a function `CoupledSet -> number`, or what it
            saves, `"weights"` or `"macs"`, about one on average.
        relative: whether each norm counts relative to the root mean square of its set's, as it is at each update; epsilon is
            then relative too. Without, small norms make for large penalty weights, and a layer that is small throughout can
            lose everything while others stay whole. With it a set that has lost groups is pressed less, and all shrink
            alike.

    Returns:
        `CoupledPenalties`.

    Raises:
        TypeError, ValueError: for a subclassed model, one where nothing can be removed, weights that are not finite,
            a value out of range, a strength, penalty, price or `relative` beside a budget, a budget out of reach; the model is
            then unchanged.

    Example:
        >>> regularize_coupled(model, budget="macs=0.5")
        >>> model.fit(x, y, epochs=20, callbacks=[BudgetProximal()])
        >>> prune_groups(model)
        >>> small = shrink(model)
    """
    check_flags(relative=relative)
    check_eager()
    budget = budgets.get(budget)
    strength = check_strength(strength, budget, 1e-3)
    check_not_beside(budget, {"penalty": (penalty, "log_sum"), "price": (price, 1.0), "relative": (relative, False)})
    check_trained_finite(model)
    removable(model)  # refused before any work
    budget = filed.calibrated(model, budget, "of_channels")
    coupled = groups(model)
    made, costs = [], savings.of_sets(price, coupled)
    anchors, left_out = _anchors(model, coupled)
    for number, target, position in anchors:
        item = coupled.sets[number]
        with beside(target.variable):
            if budget is None:
                regularizer = Coupled(item.num_groups, strength, penalty, criterion, costs[number], relative, position)
            else:
                regularizer = CoupledBudgeted(item.num_groups, budget, criterion, position)
        made.append((target, regularizer.join(item, target.variable)))
    if not made:
        raise ValueError(
            errors.message(
                "At least one kernel must be trainable.", "Set `layer.trainable = True`.", left_out=[i.name for i in left_out]
            )
        )
    if budget is not None:
        _check_within_reach(coupled, budget, {id(regularizer.item) for _, regularizer in made})
    add_all(model, made)
    warn_of_frozen(model, budget=budget)
    return CoupledPenalties(tuple(regularizer for _, regularizer in made), tuple(left_out))


def _anchors(model, coupled):
    """`(number of the set, the kernel that carries its penalty, position)` of each set to be pressed, and what is left out."""
    found, left_out = [], []
    positions: dict[str, int] = {}
    for number, (item, target) in enumerate(anchored(coupled.sets, find(model)[0], trainable=True)):
        if target is None:
            frozen = f"{', '.join(item.frozen_layers[:3])}: trainable=False" if item.frozen_layers else None
            left_out.append(LeftOut(item.name, frozen or "none of its kernels can carry a regularizer"))
            continue
        # Sets that stay whole count as well: the position tells sets apart when a model is loaded.
        position = positions.get(target.name, 0)
        positions[target.name] = position + 1
        if item.frozen_layers:
            left_out.append(LeftOut(item.name, f"{', '.join(item.frozen_layers[:3])}: trainable=False"))
        else:
            found.append((number, target, position))
    return found, left_out + [LeftOut(item.name, "; ".join(item.reasons)) for item in coupled.frozen]


def _check_within_reach(coupled, budget, pressed):
    """Raises where a budget cannot be met although each set that is pressed keeps one group only."""
    least = [np.arange(item.num_groups) < (1 if id(item) in pressed else item.num_groups) for item in coupled.sets]
    check_reachable(demands_of(coupled, budget), np.concatenate(least), coupled.held_up())
