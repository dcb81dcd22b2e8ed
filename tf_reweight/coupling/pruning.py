"""Zeroing whole coupled groups in place, and keeping them at zero through retraining."""

import dataclasses
import typing

import keras
import numpy as np
from keras import ops

from tf_reweight import batch_statistics, errors
from tf_reweight import budget as budgets
from tf_reweight.checks import check_flag, check_flags, check_fraction, check_name
from tf_reweight.coupling import reconstruction
from tf_reweight.coupling.analysis.sets import FrozenChannels, frozen_reason, groups
from tf_reweight.coupling.cost import Cost
from tf_reweight.coupling.demands import (
    check_met, check_without, demands_of, prices_of, ranked, split, within, without_macs,
)  # fmt: skip
from tf_reweight.coupling.earlier import first_gone, is_beyond, removed
from tf_reweight.coupling.floors import Floors
from tf_reweight.coupling.gates import reactions
from tf_reweight.coupling.penalty import coupled_penalties
from tf_reweight.coupling.scores import CRITERIA, RANKINGS, check_criterion, group_norms, ranking
from tf_reweight.data.models import copied
from tf_reweight.graph.batchnorm import follow_closely
from tf_reweight.graph.checking import check_eager, check_finite
from tf_reweight.graph.emulation import check_channels_are_open
from tf_reweight.graph.gradients import TAYLOR, can_listen
from tf_reweight.kernels import allocation, filed, unmet
from tf_reweight.kernels.budgeted import check_reachable, choose, met
from tf_reweight.kernels.grouping import LAMP
from tf_reweight.kernels.held import hold_all, zero_again
from tf_reweight.penalties.attachment import attach, common_budget, take_off
from tf_reweight.records import Report


@dataclasses.dataclass(frozen=True)
class PrunedSet:
    """What was done to one coupled set; `rescued` counts groups kept only so that the set is not empty."""

    name: str
    kept_groups: int
    num_groups: int
    rescued: int


@dataclasses.dataclass(frozen=True)
class GroupPruneReport(Report):
    """What `prune_groups` did: one entry per coupled set, and the channels that could not be touched with the reasons.

    `notes` says in sentences where nothing went, or less than asked for, and what to try next. `reconstructed` has the squared
    errors of the layers that were fitted anew; see `coupling.reconstruction.Reconstruction`.
    """

    sets: tuple[PrunedSet, ...]
    frozen: tuple[FrozenChannels, ...]
    notes: tuple[str, ...] = ()
    reconstructed: tuple[dict, ...] = ()

    @property
    def kept_groups(self):
        return sum(item.kept_groups for item in self.sets)

    @property
    def num_groups(self):
        return sum(item.num_groups for item in self.sets)

    @property
    def sparsity(self):
        """Fraction of the removable groups that are zero now."""
        return 1.0 - self.kept_groups / self.num_groups

    def to_dict(self):
        return {
            "sparsity": self.sparsity,
            "sets": [dataclasses.asdict(item) for item in self.sets],
            "frozen": [dataclasses.asdict(item) for item in self.frozen],
            "notes": list(self.notes),
            "reconstructed": list(self.reconstructed),
        }

    def __str__(self):
        lines = [f"{self.kept_groups} of {self.num_groups} removable groups kept.", *self.notes]
        for item in self.sets:
            rescued = f", {item.rescued} of them only so that the set is not empty" if item.rescued else ""
            lines.append(f"      {item.name}: {item.kept_groups} of {item.num_groups} kept{rescued}")
        lines += [f"      {item.name}: frozen, {'; '.join(item.reasons[:3])}" for item in self.frozen]
        return "\n".join(lines)


def prune_groups(
    model: keras.Model,
    sparsity: float | None = None,
    *,
    budget: budgets.Budget | dict | str | None = None,
    scope: str = "model",
    criterion: str | None = None,
    minimum: int | None = None,
    macs: float | None = None,
    multiple_of: int = 1,
    data: typing.Any = None,
    reconstruct: bool = False,
    include_frozen: bool = False,
) -> GroupPruneReport:
    """Zeroes whole coupled groups in place: all that makes, scales and reads a channel, so that `shrink` can remove it.

    After training with the penalty of `regularize_coupled`, `prune_groups(model)` zeroes what it freed: the groups whose norm
    became negligible. The zeros are held by constraints through any further training, and penalties are taken off. Groups that
    are zero already go first and stay: a call that asks for less than earlier ones removed removes nothing, and warns.
    `release(model)` gives their zeros free.

    Args:
        model: a built Sequential or functional model.
        sparsity: fraction of the removable groups to zero, in [0, 1); None asks the penalties.
        budget: instead, what may be left: a `Budget`, its mapping or text, such as `"macs=0.5"`; of weights, parameters,
            multiply-accumulates, bytes, milliseconds or several, of the whole model with its frozen layers. The ranking goes
            until it is met, and the best groups that still fit come back.
        scope: `"model"`: one ranking over all sets, each norm relative to its set's; `"set"`: the fraction in each set.
        criterion: `"kernel+gamma+next"`, `"kernel"` or `"gamma"`: the weights whose norm ranks the groups; `"kernel_l1"`: the
            sum of the kernels' absolute values (Li et al., Pruning Filters for Efficient ConvNets, 2017); `"lamp"`: the square
            of the first norm over those as large or larger in its set, over the root of what the group frees (Lee et al.,
            arXiv 2010.07611); `"taylor"`: how the loss of the compiled model reacts to a group on `data`, over what it frees
            (Molchanov et al., arXiv 1906.10771). None (default) is `"kernel+gamma+next"` without a budget; with one it is
            `"taylor"` where `data` has labels and the model is compiled, on TensorFlow, else `"lamp"`.
        minimum: groups every set keeps. 0 lets a set go that the network has a bypass around, a residual branch, which `shrink`
            then removes whole; a set without bypass keeps its best group. None (default) is 0 for what a penalty freed, and
            1 for a ranking.
        macs: instead of `sparsity`, the fraction of the multiply-accumulates to remove, in [0, 1).
        multiple_of: keep so many of the best of those to go that the channels kept are a multiple; int8 kernels like 16.
        include_frozen: whether channels may go that a layer with `trainable=False` makes, scales or reads. By default such
            sets stay whole, and a warning and the report say so.
        data: examples of any kind, alone or as `(x, y)`, for `"taylor"` and for `refresh_statistics` after the cut; see
            there. None leaves the statistics of BatchNormalization to the training that follows.
        reconstruct: whether what is left of each kernel that lost inputs is fitted anew, by least squares on 256 examples of
            `data`, whose labels are not looked at, so that layers give what they gave before; see
            `coupling.reconstruction`. For a model that is not trained any more.

    BatchNormalization's momentum becomes 0.9 where it was higher, since statistics that belong to the dense model have to be
    left behind in few steps; set `layer.momentum` for another.

    Returns:
        `GroupPruneReport`.

    Raises:
        ValueError, TypeError: for a value out of range, a subclassed model, or a model where nothing can be removed; the
            model is then unchanged.

    Example:
        >>> prune_groups(model, budget="macs=0.5")
        >>> model.fit(x, y, epochs=5)
        >>> small = shrink(model)
    """
    check_flags(include_frozen=include_frozen)
    check_eager()
    check_flag("reconstruct", reconstruct, fix="Pass True or False here, and the examples as `data`.")
    given = _amount_given(sparsity, budget, macs)
    check_finite(model)
    budget = filed.calibrated(model, budgets.get(budget), "of_channels")
    check_name("scope", scope, ("model", "set"))
    if scope != "model" and not given:
        fix = "Pass a sparsity, or leave `scope` out."
        raise ValueError(errors.message("`scope` says where an amount has to hold.", fix, scope=scope))
    coupled = removable(model, include_frozen)
    examples = batch_statistics.given(model, data)
    if reconstruct and examples is None:
        fix = "Pass some hundred inputs as data; labels are not needed."
        raise ValueError(errors.message("`reconstruct` needs examples.", fix, data=data))
    if criterion is None:
        criterion = _default_criterion(model, budget, examples)
    else:
        _check_ranking(criterion, given)
    warn_of_frozen(coupled.model, include_frozen, budget)
    zero_again(model)
    gone = removed(coupled)
    floors = Floors(coupled, (1 if given else 0) if minimum is None else minimum, multiple_of, gone)
    reacting = None if criterion != TAYLOR else reactions(model, coupled.sets, examples)
    if budget is not None:
        scores, keeps = _within_budget(floors, budget, criterion, scope, reacting)
    elif given:
        scores = first_gone(ranking(coupled.sets, criterion, reactions=reacting), gone)
        keeps = ranked(scores, sparsity, scope) if macs is None else without_macs(floors, scores, macs, scope)
    else:
        scores, keeps = _freed(model, floors)
    keeps, rescued = floors(keeps, scores)
    if given and any(flags.any() for flags in gone) and is_beyond(floors, scores, scope, sparsity, macs, budget):
        count = sum(int(flags.sum()) for flags in gone)
        unmet.warn_of_earlier("prune_groups", given, f"{count} of the {coupled.num_groups} removable groups")
    # Groups that are wholly zero already are what a solver freed, or an earlier cut.
    unfreed = None if given or not all(keep.all() for keep in keeps) else _unfreed(model, coupled, scores)
    dense = copied(model) if reconstruct else None
    report = zero_groups(model, coupled, keeps, rescued)
    take_off(model)
    rebuilt = () if dense is None else reconstruction.reconstruct(model, dense, examples).layers
    follow_closely(model)
    batch_statistics.refresh(model, examples)
    return dataclasses.replace(report, notes=unmet.said([unfreed, _short(report, sparsity, scope)]), reconstructed=rebuilt)


def _amount_given(sparsity, budget, macs):
    """How much goes, by the name of the argument that says it; empty where the penalties say it."""
    given = {"sparsity": sparsity, "budget": budget, "macs": macs}
    given = {name: amount for name, amount in given.items() if amount is not None}
    if len(given) > 1:
        fix = "Pass one of them: how many groups, what may be left, or how much computing goes."
        names = " and ".join(f"`{name}`" for name in given)
        raise ValueError(errors.message(f"{names} exclude each other.", fix, **given))
    for name, of in (("sparsity", "groups removed"), ("macs", "multiply-accumulates removed")):
        if name in given:
            check_fraction(name, given[name], of)
    return given


def _check_ranking(criterion, given):
    """Raises for an unknown criterion, and for one that ranks where nothing says how much goes."""
    check_criterion(criterion, RANKINGS)
    if not given:
        fix = "Pass a sparsity or a budget; what penalties freed needs no `criterion`."
        raise ValueError(errors.message("`criterion` ranks where an amount says how much goes.", fix, criterion=criterion))


def _default_criterion(model, budget, examples):
    if budget is None:
        return CRITERIA[0]
    labelled = examples is not None and examples.labels is not None
    return TAYLOR if labelled and model.compiled and can_listen() else LAMP


def _unfreed(model, coupled, scores):
    """A sentence about penalties that freed nothing; None where they have a budget, which says so itself."""
    penalties = penalties_of(coupled.sets, coupled_penalties(model))
    pressed = [(score, penalty) for score, penalty in zip(scores, penalties) if penalty is not None and penalty.budget is None]
    if not pressed:
        return None
    norms = np.concatenate([score for score, _ in pressed])
    negligible = np.concatenate([np.full(len(score), penalty.negligible) for score, penalty in pressed])
    strength = max(penalty.strength for _, penalty in pressed)
    return unmet.not_freed(norms, negligible, strength, lambda norm: "prune_groups(model, sparsity=0.1)")


def _short(report, sparsity, scope):
    """A sentence where less than a `sparsity` went; None where there is none or it was met."""
    if sparsity is None:
        return None
    if sparsity > 0 and report.kept_groups == report.num_groups and sparsity * report.num_groups < 1:
        return unmet.below_one_group(sparsity, 1 / report.num_groups)
    why = "whole groups go, and each set keeps its `minimum` and `multiple_of`"
    # Each ranking stops at the last group that fits: one over the model, or one in each set.
    spared = (1 if scope == "model" else len(report.sets)) / report.num_groups
    return unmet.falls_short(sparsity, report.sparsity, spared, why)


def _within_budget(floors, budget, criterion, scope, reacting=None):
    """Scores and keep flags of what stays within a `Budget`.

    Raises:
        ValueError: when the budget cannot be met.
    """
    sets = floors.coupled.sets
    demands = demands_of(floors.coupled, budget)
    scores = first_gone(ranking(sets, criterion, prices_of(sets, demands), reacting), floors.gone)
    # Where whole branches may go, a budget that one group of each would exceed can be met.
    if floors.minimum > 0:
        spared = [
            allocation.keep_at_least(np.zeros(len(score), bool), score, ~gone, floors.minimum)[0]
            for score, gone in zip(scores, floors.gone)
        ]
        held_up, gone = floors.coupled.held_up(), np.concatenate(floors.gone)
        flat = choose(np.concatenate(scores), demands, np.concatenate(spared), True, held_up, gone).keep
        if floors.multiple_of == 1 and scope == "model":
            return scores, split(sets, flat)
    return scores, within(floors, scores, demands, scope)


def check_within_reach(model, budget, multiple_of=1):
    """Raises where a `Budget` cannot be met although each set of a model keeps as few channels as it can.

    Args:
        model: a built Sequential or functional model.
        budget: a `Budget`; files of the model are measured where it limits what only they tell.
        multiple_of: the channels kept are a multiple of this.
    """
    floors, least = _least_kept(model, multiple_of)
    coupled = floors.coupled
    demands = demands_of(coupled, budget)
    if multiple_of == 1:
        check_reachable(demands, np.concatenate(least), coupled.held_up())
    check_met(floors, least, demands)


def check_macs_within_reach(model, macs, multiple_of=1):
    """The same of a fraction of the multiply-accumulates to remove, as `prune_groups` takes it."""
    floors, least = _least_kept(model, multiple_of)
    check_without(Cost(floors.coupled), least, macs)


def _least_kept(model, multiple_of):
    """The `Floors` of a model, and the fewest groups that each set may keep, as flags."""
    floors = Floors(removable(model), 1, multiple_of)
    sets = floors.coupled.sets
    return floors, floors([np.zeros(item.num_groups, bool) for item in sets], ranking(sets, CRITERIA[0]))[0]


def least_left(model, multiple_of=1):
    """What `prune_groups` leaves at least, and what there is, of each quantity that a `Budget` limits without files.

    Args:
        model: a built Sequential or functional model.
        multiple_of: the channels kept are a multiple of this.

    Returns:
        Dict of `(least, all)` by the names `"macs"`, `"weights"`, `"parameters"`.

    Raises:
        TypeError, ValueError: for a model where nothing can be removed.
    """
    coupled = removable(model)
    scores = ranking(coupled.sets, CRITERIA[0])
    keeps, _ = Floors(coupled, 1, multiple_of)(ranked(scores, 0.999, "model"), scores)
    least, everything = np.concatenate(keeps), np.ones(coupled.num_groups, bool)
    return {name: (amount.at(least), amount.at(everything)) for name, amount in Cost(coupled).quantities.items()}


def most_macs(model, multiple_of=1):
    """The fraction of the multiply-accumulates that `prune_groups` can remove at most, in [0, 1); see `least_left`."""
    least, everything = least_left(model, multiple_of)["macs"]
    return 1.0 - least / everything


def _freed(model, floors):
    """Norms as the penalties see them, and keep flags: False where a norm became negligible. Sets without one stay whole."""
    attach(model)
    coupled = floors.coupled
    penalties = coupled_penalties(model)
    if not penalties:
        raise ValueError(
            errors.message(
                "Expected a model with a coupled penalty on it, or a `sparsity`.",
                "Call `regularize_coupled` and train first, or pass budget=, as \"macs=0.5\", or sparsity= for a cut at once.",
                sparsity=None,
            )
        )
    budget = common_budget(penalties)
    scores, keeps, sums = [], [], {}
    for item, penalty in zip(coupled.sets, penalties_of(coupled.sets, penalties)):
        scores.append(group_norms(item, CRITERIA[0] if penalty is None else penalty.criterion, sums))
        keeps.append(np.ones(item.num_groups, bool) if penalty is None else scores[-1] > penalty.negligible)
    if budget is None or met(demands_of(coupled, budget), np.concatenate(keeps)):
        return scores, keeps
    unmet.warn_of_budget(budget)
    return _within_budget(Floors(coupled, 1, floors.multiple_of, floors.gone), budget, LAMP, "model")


def penalties_of(sets, penalties):
    """The penalty of each set, or None, in the order of the sets."""
    # The analysis is deterministic: a set has the same labels each time.
    by_labels = {tuple(penalty.item.labels): penalty for penalty in penalties}
    return [by_labels.get(tuple(item.labels)) for item in sets]


def removable(model, include_frozen=False):
    """`groups(model)`, without sets that touch frozen layers, refusing a model where nothing can be removed."""
    coupled = groups(model)
    check_channels_are_open(model)
    if not include_frozen:
        coupled = coupled.without_frozen_layers()
    if not coupled.sets:
        reasons = "; ".join(f"{item.name}: {item.reasons[0]}" for item in coupled.frozen[:5]) or "It has no hidden channels"
        raise ValueError(
            errors.message("Expected a model with channels that can be removed.", f"{reasons}.", model=model.name)
        )
    return coupled


def warn_of_frozen(model, include_frozen=False, budget=None):
    """Warns of the sets that stay whole since they touch a layer with `trainable=False`, and of what that leaves a `Budget`."""
    held = [] if include_frozen else [item for item in groups(model).sets if item.frozen_layers]
    if held:
        names = ", ".join(item.name for item in held[:5])
        layers = list(dict.fromkeys(path for item in held for path in item.frozen_layers))
        bounds = "" if budget is None else _bounds(removable(model), budget)
        errors.warn(f"The channels of {names} are left whole: {frozen_reason(layers)}.{bounds}")


def _bounds(coupled, budget):
    """A sentence on what a `Budget` can reach without frozen channels, which count all the same."""
    cost = Cost(coupled)
    quantities, everything = cost.quantities | cost.of_files(budget), np.ones(coupled.num_groups, bool)
    least = np.concatenate([np.arange(item.num_groups) < 1 for item in coupled.sets])
    limited = ["weights" if name == "sparsity" else name for name in budget.amounts]
    found = [(name, quantities[name].at(least), quantities[name].at(everything)) for name in limited]
    said = ", ".join(f"{name} from {low:,.4g} to {high:,.4g}" for name, low, high in found)
    return f" They count in the budget, which can reach {said}."


def zero_groups(model, coupled, keeps, rescued=None):
    """Zeroes the groups with `keep == False` and holds them.

    Args:
        coupled: `groups(model)`.
        keeps: one bool array `(num_groups,)` per set.
        rescued: per set, how many of those kept were kept only so that it is not empty; warned of and reported.
    """
    done, masks = [], {}
    for item, keep, saved in zip(coupled.sets, keeps, rescued or [0] * len(keeps)):
        if saved:
            errors.warn(f"Too many groups of {item.name} were to be removed; the best {int(keep.sum())} were kept.")
        done.append(PrunedSet(item.name, int(keep.sum()), item.num_groups, saved))
        _add_masks(masks, item, keep)
    hold_all(model, list(masks.values()))
    return GroupPruneReport(tuple(done), coupled.frozen)


def hold_groups(model: keras.Model) -> int:
    """Holds the groups that are wholly zero now through further training, for example after loading a pruned model.

    Returns:
        The number of groups held.
    """
    check_eager()
    coupled = groups(model)
    masks: dict = {}
    count = 0
    for item in coupled.sets:
        # Counted, not squared: squares of small weights are zero, and those of NaN not above it.
        weights = [part for part in item.slices if part.role != "state"]
        others = sum(part.squared_norms(item.num_groups, ops.not_equal(part.variable.value, 0)) for part in weights)
        keep = ops.convert_to_numpy(others) > 0
        count += int((~keep).sum())
        _add_masks(masks, item, keep)
    hold_all(model, list(masks.values()))
    return count


def _add_masks(masks, item, keep):
    if keep.all():
        return
    for part in item.slices:
        if part.role == "state":
            continue
        variable, mask = masks.get(id(part.variable), (part.variable, np.ones(tuple(part.variable.shape), bool)))
        masks[id(part.variable)] = (variable, mask & part.mask(keep))
