"""Pruning in place: which groups go, what the report says of it, and zeros that are held or released by hand."""

import dataclasses
import typing
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from tf_reweight import batch_statistics, errors
from tf_reweight import budget as budgets
from tf_reweight.checks import check_flags, check_name, check_sparsity, check_threshold, is_number, listed
from tf_reweight.graph.batchnorm import follow_closely
from tf_reweight.graph.checking import check_eager, check_finite
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.gradients import TAYLOR, check_gradients
from tf_reweight.kernels import allocation, filed, unmet
from tf_reweight.kernels.budgeted import choose, met
from tf_reweight.kernels.grouping import CRITERIA, LAMP, Groups
from tf_reweight.kernels.held import free, hold_all, place, zero_again
from tf_reweight.kernels.nonzeros import demands_on
from tf_reweight.kernels.own_calls import warn_of_own_calls
from tf_reweight.kernels.reactions import felt_kernels
from tf_reweight.kernels.selection import frozen_among, select
from tf_reweight.kernels.selectors import Layers
from tf_reweight.kernels.table import LeftOut, find
from tf_reweight.kernels.traced import renew_steps
from tf_reweight.penalties.attachment import attachments, check_choosable, common_budget, take_off
from tf_reweight.records import Report, plain
from tf_reweight.structures import StructureLike
from tf_reweight.structures import get as get_structure


@dataclasses.dataclass(frozen=True)
class PrunedKernel:
    """What pruning did to one kernel with one structure; `kept_weights` counts what structures before it removed as well."""

    name: str
    structure: str
    kept_groups: int
    num_groups: int
    kept_weights: int
    num_weights: int
    threshold: float | None

    @property
    def sparsity(self):
        """Fraction of the kernel's weights that are zero now."""
        return 1.0 - self.kept_weights / self.num_weights


@dataclasses.dataclass(frozen=True)
class PruneReport(Report):
    """What `prune` did: one entry per kernel and structure, and what was left out with its reason.

    `notes` says in sentences where nothing went, or less than asked for, and what to try next.
    """

    kernels: tuple[PrunedKernel, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self):
        """Fraction of the weights of all pruned kernels that are zero now."""
        least = {}
        for kernel in sorted(self.kernels, key=lambda kernel: -kernel.kept_weights):
            least[kernel.name] = kernel
        return 1.0 - sum(k.kept_weights for k in least.values()) / sum(k.num_weights for k in least.values())

    def to_dict(self):
        return {
            "sparsity": self.sparsity,
            "kernels": [{**dataclasses.asdict(k), "sparsity": k.sparsity} for k in self.kernels],
            "left_out": [dataclasses.asdict(item) for item in self.left_out],
            "notes": list(self.notes),
        }


def prune(
    model: keras.Model,
    structure: StructureLike | Sequence[StructureLike] | None = None,
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    budget: budgets.Budget | dict | str | None = None,
    layers: Layers = None,
    scope: str = "model",
    criterion: str | None = None,
    data: typing.Any = None,
    include_frozen: bool = False,
) -> PruneReport:
    """Sets groups to zero in place and keeps them exactly zero through any further training.

    After training with the penalty, `prune(model)` removes what it freed: the groups whose norm became negligible
    (`Penalty.negligible`). Without a penalty, name a `structure` (one-shot magnitude pruning). Penalties are taken off, since
    retraining is to recover accuracy; the zeros are held by constraints that every Keras optimizer applies after its step.

    Several structures on one kernel (`regularize` called once for each, or a list here) cut one after the other: patterns and
    then whole kernels, filters and then single weights of those that are left. A `sparsity` is then reached by the last of
    them, counting what the ones before removed. What earlier calls hold at zero stays, and counts in the same way: a call that
    asks for less than they removed removes nothing, and warns. `release(model)` gives their zeros free.

    Args:
        model: a built Keras model.
        structure: name, config or `Structure`, or a list of these; by default those of each kernel's penalties.
        sparsity: fraction of the weights to remove, in [0, 1), over all pruned kernels.
        threshold: remove groups whose norm is at most this.
        budget: what may be left: a `Budget`, its mapping or text, such as `"sparsity=0.9"`. Weights and multiply-accumulates
            are those of the pruned kernels that are not zero, parameters those of the model. A kernel keeps its best group.
        layers: which layers, when `structure` is given; see `kernels.selectors`.
        scope: `"model"`, `"layer"` or `"scope"`: where `sparsity` has to hold.
        criterion: what ranks groups of several kernels: `"magnitude"`, the root mean square of their weights; `"relative"`,
            their norm over the root mean square of the kernel's norms; `"lamp"`, the squared norm over the sum of those as
            large or larger in the kernel (Lee et al., arXiv 2010.07611); `"taylor"`, on TensorFlow: how the loss of the
            compiled model reacts on labelled `data`, the mean over the group of each weight's square times the mean square of
            its gradients (Molchanov et al., arXiv 1906.10771). None (default) is `"lamp"`: by magnitude the largest kernel
            would be emptied before the others are touched, and it was never far from the best; see docs/benchmarks.md.
        include_frozen: whether kernels of layers with `trainable=False` are pruned too. By default they stay as they are, and a
            warning and the report say so.
        data: examples of any kind, alone or as `(x, y)`, for `"taylor"` and for `refresh_statistics` after the cut; see there.
            None leaves the statistics of BatchNormalization to the training that follows.

    The momentum of BatchNormalization becomes 0.9 where it was higher, since statistics that belong to the dense model have to
    be left behind in few steps; set `layer.momentum` for another.

    Returns:
        `PruneReport`.

    Raises:
        ValueError: more than one of `sparsity`, `threshold` and `budget`, or one of them beside structures that all say
            themselves how much is kept, a value out of range, a budget out of reach, neither penalty nor structure, gradients
            that are not finite; the model is then unchanged, though weights that are held at zero, and had other values, are
            zero again where what may go had to be counted before the refusal.
        TypeError: for a number in the place of the structure.

    Example:
        >>> prune(model, "filter", sparsity=0.8)
    """
    check_flags(include_frozen=include_frozen)
    check_eager()
    if is_number(structure):
        fix = f"Pass a fraction by its name: prune(model, sparsity={structure})."
        raise TypeError(errors.message("The second argument of `prune` is a structure.", fix, structure=structure))
    limit = budgets.get(budget)
    _check_amount(sparsity, threshold, limit, scope, criterion)
    check_finite(model)
    examples = batch_statistics.given(model, data)
    if criterion == TAYLOR:
        check_gradients(model, examples)
    amount_given, carried, parts = _any(sparsity, threshold, limit), None, []
    if structure is None:
        parts = _single_penalties(model, layers)
        carried = None if amount_given else common_budget([part.regularizer for part in parts])
        chosen, left_out = _penalised_chosen(model, parts)
    else:
        chosen, left_out = _magnitude_chosen(model, structure, layers, amount_given, limit)
    # A threshold of 0 asks for nothing but the zeros that are there, as after `baselines.Clipping`.
    _check_open(chosen, sparsity=sparsity, threshold=threshold or None, budget=limit)
    frozen = frozen_among([target for target, _, _ in chosen], include_frozen, "prune")
    names = {item.name for item in frozen}
    chosen = [item for item in chosen if item[0].name not in names]
    left_out += frozen
    # What comes after it counts what is left.
    zero_again(model)
    if carried is not None:
        limit = _still_to_meet(model, carried, parts)
    last = {target.name: (target, structure) for target, structure, _ in chosen}
    limit = filed.calibrated(model, limit, "of_zeros", list(last.values()))
    warn_of_own_calls([target for target, _, _ in chosen])
    masks = _held(chosen)
    before = _left(chosen, masks)
    if _is_beyond(model, sparsity, None if carried is not None else limit, scope, chosen, masks):
        _warn_of_earlier(masks, "prune", {"sparsity": sparsity, "budget": budget})
    felt = felt_kernels(model, [target for target, _ in last.values()], examples) if criterion == TAYLOR else None
    kernels = _prune_chosen(model, chosen, masks, _Amount(model, sparsity, limit, scope, criterion, felt), threshold)
    try:
        for tighter in filed.tightened(model, limit or carried, list(last.values())):
            kernels = _prune_chosen(model, chosen, _held(chosen), _Amount(model, None, tighter, scope, criterion, felt), None)
    except ValueError as error:  # less cannot be, and what was cut so far is good
        errors.warn(f"The file of the pruned model is over its budget and cannot be cut further: {error}")
    report = PruneReport(tuple(kernels), tuple(left_out))
    strength = max((part.regularizer.strength for part in attachments(model)), default=0.0)
    take_off(model)
    follow_closely(model)
    batch_statistics.refresh(model, examples)
    amounts = {"sparsity": sparsity, "threshold": threshold, "budget": budget, "scope": scope}
    held = not all(mask.all() for mask in masks.values())
    return dataclasses.replace(report, notes=unmet.said(_unmet(report, before, chosen, held, strength, **amounts)))


def _unmet(report, groups, chosen, held, strength, sparsity, threshold, budget, scope):
    """Sentences where nothing went, or less than asked for; None for each that is not so.

    Args:
        report: what was done.
        groups: the `Groups` of each of `chosen` before.
        held: whether zeros were held before, by a solver or an earlier cut: then no penalty or threshold has to find any.
        strength: the largest coefficient of the penalties.
    """
    if budget is not None or all(structure.decides for _, structure, _ in chosen):
        return
    nothing = all(kernel.kept_groups == (item.members > 0).sum() for kernel, item in zip(report.kernels, groups))
    if not any((item.members > 0).any() for item in groups):
        return  # all was removed before
    if sparsity is not None and (not nothing or report.sparsity >= sparsity):
        # Each ranking stops at the last group that fits: one over the model, or one in each kernel.
        largest, total = [item.members.max() for item in groups], sum(int(item.members.sum()) for item in groups)
        spared = (max(largest) if scope == "model" else sum(largest)) / total
        yield unmet.falls_short(sparsity, report.sparsity, spared, "whole groups go, and each kernel keeps its best")
        return
    norms = np.concatenate([item.norms[item.members > 0] for item in groups])
    sizes = [item.members[item.members > 0] for item in groups if (item.members > 0).any()]
    total = sum(int(size.sum()) for size in sizes)
    if sparsity:
        yield unmet.below_one_group(sparsity, min(size.min() / (total if scope == "model" else size.sum()) for size in sizes))
    elif nothing and not held and threshold is not None:
        yield unmet.above_threshold(norms, threshold)
    elif nothing and not held and sparsity is None:
        limits = np.concatenate([np.full((item.members > 0).sum(), limit) for item, (*_, limit) in zip(groups, chosen)])
        yield unmet.not_freed(norms, limits, strength, lambda norm: f"prune(model, threshold={norm:.3g})")


def keep_zeros(model: keras.Model) -> int:
    """Holds the exact zeros a model has now through further training.

    `prune` does so by itself, also after saving and loading. This is for zeros from elsewhere, and for weights that were put
    into a model by hand.

    Returns:
        The number of kernels that have zeros and are held.
    """
    check_eager()
    masks = [(target.variable, as_numpy(target.variable) != 0) for target in find(model)[0]]
    masks = [(variable, mask) for variable, mask in masks if not mask.all()]
    hold_all(model, masks)
    return len(masks)


def release(model: keras.Model) -> int:
    """Takes the masks off again: zeros may grow back. Returns the number of kernels released.

    Zeros that are one of the values of a clustered kernel are no masks: `quantization.cluster` holds them with the others, and
    they stay. Release before clustering where they are to grow back.
    """
    check_eager()
    kernels = [target.variable for target in find(model)[0] if free(target.variable)]
    others = [variable for variable in model.weights if free(variable)]  # what `prune_groups` holds besides kernels
    place(model)
    renew_steps(model, [*kernels, *others], "the zeros stay zero")
    return len(kernels)


def sparsity(model: keras.Model) -> dict[str, tuple[int, int]]:
    """Zeros of every prunable kernel.

    Returns:
        Mapping of kernel name to `(num_zeros, num_weights)`.
    """
    check_eager()
    counts = {}
    for target in find(model)[0]:
        kernel = as_numpy(target.variable)
        counts[target.name] = (int((kernel == 0).sum()), int(kernel.size))
    return counts


def _still_to_meet(model, budget, parts):
    """The `Budget` of the penalties where the groups that are zero do not meet it yet, with a warning; else None.

    Without a warning where they met it when they were chosen, and the file has grown since by the values of those that stayed.
    """
    groups = [part.target.groups(part.regularizer.structure) for part in parts]
    targets = {part.target.name: part.target for part in parts}
    masks = {name: np.ones(target.standard_shape, bool) for name, target in targets.items()}
    pairs = [(part.target, part.regularizer.structure) for part in parts]
    members, keep = [item.members for item in groups], _row([item.norms > 0 for item in groups])
    now = filed.calibrated_again(model, budget, pairs)
    if met(demands_on(model, now, pairs, members, targets, masks), keep):
        return None
    if not met(demands_on(model, budget, pairs, members, targets, masks), keep):
        unmet.warn_of_budget(budget)
    return now


def _any(*amounts):
    return any(amount is not None for amount in amounts)


def _check_amount(sparsity, threshold, budget, scope, criterion):
    given = {"sparsity": sparsity, "threshold": threshold, "budget": budget}
    given = {name: amount for name, amount in given.items() if amount is not None}
    check_name("scope", scope, allocation.SCOPES)
    if len(given) > 1:
        expected = "Pass one of `sparsity`, `threshold` and `budget`, not both."
        raise ValueError(errors.message(expected, "Drop the others.", **given))
    if budget is not None and scope != "model":
        fix = "Leave `scope` out, or pass a sparsity."
        raise ValueError(errors.message("A budget holds over the whole model.", fix, scope=scope))
    if sparsity is None and scope != "model":
        raise ValueError(errors.message("`scope` says where a `sparsity` has to hold.", "Pass that too.", scope=scope))
    if criterion is not None:
        check_name("criterion", criterion, (*CRITERIA, TAYLOR))
        if sparsity is None and budget is None:
            fix = "Pass a sparsity or a budget, or leave `criterion` out."
            raise ValueError(errors.message("`criterion` ranks where an amount says how much goes.", fix, criterion=criterion))
    if sparsity is not None:
        check_sparsity(sparsity)
    if threshold is not None:
        check_threshold(threshold)


def _single_penalties(model, layers):
    """The `Attachment`s of a model that is pruned by its penalties; raises for none, and for those of `regularize_coupled`."""
    if layers is not None:
        raise ValueError(errors.message("`layers` goes with `structure`.", "Name the structure too.", layers=layers))
    parts = attachments(model)
    if not parts:
        raise ValueError(
            errors.message(
                "Expected a model with a penalty on it, or a `structure`.",
                "Call `regularize` and train first, or pass structure= for magnitude pruning.",
                structure=None,
            )
        )
    coupled = [part.target.name for part in parts if part.regularizer.spans_several]
    if coupled:
        expected = "Coupled penalties span several kernels and are pruned by `prune_groups(model)`."
        raise ValueError(errors.message(expected, "Call it first; it takes them off.", kernels=coupled[:5]))
    return parts


def _penalised_chosen(model, parts):
    """`(target, structure, norm up to which groups are negligible)` of every penalty, and the kernels that carry none."""
    chosen = [(part.target, part.regularizer.structure, part.regularizer.negligible) for part in parts]
    names = {target.name for target, _, _ in chosen}
    return chosen, [LeftOut(t.name, "carries no penalty") for t in find(model)[0] if t.name not in names]


def _magnitude_chosen(model, structure, layers, amount_given, budget):
    """`(target, structure, 0.0)` of every kernel and structure named, in their order, and what is left out of all."""
    named = [get_structure(item) for item in listed(structure)]
    if not named:
        fix = 'For example "filter", or a list of them.'
        raise ValueError(errors.message("`structure` must name one at least.", fix, structure=structure))
    if not amount_given and not all(item.decides for item in named):
        raise ValueError(
            errors.message(
                "With `structure`, pass `sparsity` or `threshold`, or a `budget`: no penalty says what is free.",
                "For example sparsity=0.8.",
                structure=structure,
            )
        )
    if budget is not None:
        check_choosable(named[-1])
    picked = [select(model, item, layers) for item in named]
    chosen = [(item.target, item.structure, 0.0) for selected, _ in picked for item in selected]
    names = {target.name for target, _, _ in chosen}
    left_out = {item.name: item for _, skipped in picked for item in skipped if item.name not in names}
    return chosen, list(left_out.values())


def _check_open(chosen, **amounts):
    """Raises for an amount where every structure says itself how much goes: none of them would read it."""
    given = {name: amount for name, amount in amounts.items() if amount is not None}
    if given and all(structure.decides for _, structure, _ in chosen):
        names = ", ".join(dict.fromkeys(repr(structure.name) for _, structure, _ in chosen))
        expected = f"No amount goes with {names}, which itself says how much is kept."
        fix = f"Leave {', '.join(given)} out, or choose another structure."
        raise ValueError(errors.message(expected, fix, **given))


def _held(chosen):
    """What of each kernel is held at zero from before: mapping of names to bool masks in standard order, False where it is."""
    targets = {target.name: target for target, _, _ in chosen}
    return {name: target.held_mask() for name, target in targets.items()}


def _left(chosen, masks):
    """The `Groups` of each of `chosen` in what the masks leave of the kernels."""
    return [target.groups(structure, masks[target.name]) for target, structure, _ in chosen]


def _is_beyond(model, sparsity, budget, scope, chosen, masks):
    """Whether so much is held at zero already that some of it could come back within what is asked for."""
    if all(mask.all() for mask in masks.values()):
        return False
    last = {target.name: (target, structure) for target, structure, _ in chosen if not structure.decides}
    pairs = list(last.values())
    dense = [np.asarray(structure.num_members(target.standard_shape)) for target, structure in pairs]
    if sparsity is not None:
        left = [target.groups(structure, masks[target.name]).members for target, structure in pairs]
        return allocation.is_beyond(left, dense, sparsity, scope)
    if budget is None or not pairs:
        return False
    targets = {target.name: target for target, _, _ in chosen}
    whole = {name: np.ones(mask.shape, bool) for name, mask in masks.items()}
    everything = np.ones(sum(count.size for count in dense), bool)
    left = [target.groups(structure, masks[target.name]).members for target, structure in pairs]
    now, before = (demands_on(model, budget, pairs, *given) for given in ((left, targets, masks), (dense, targets, whole)))
    # What a budget leaves unused is less than a group.
    return all(
        demand.room(everything) > max(demand.limit * unmet.GAP, float(first.quantity.changes(everything).max(initial=0.0)))
        for demand, first in zip(now, before)
    )


def _warn_of_earlier(masks, call, amounts):
    zeros, total = sum(int((~mask).sum()) for mask in masks.values()), sum(mask.size for mask in masks.values())
    unmet.warn_of_earlier(call, amounts, f"{zeros / total:.1%} of the weights of these kernels")


def _prune_chosen(model, chosen, held, amount, threshold):
    """Decides all masks first, then applies them, so that an error leaves the model as it was.

    Several structures on one kernel cut one after the other, each what the ones before it left, earlier calls among them. An
    amount is for the last on each kernel that has one to set; those before it remove what is negligible.

    Args:
        held: the masks of `_held`; they stay as they are.
    """
    masks = {name: mask.copy() for name, mask in held.items()}
    free = {target.name: i for i, (target, structure, _) in enumerate(chosen) if not structure.decides}
    budgeted = sorted(free.values()) if amount.given else []
    entries = {}
    for i, (target, structure, negligible) in enumerate(chosen):
        if i not in budgeted:
            limit = None if structure.decides else negligible if threshold is None else threshold
            entries[i] = _cut(target, structure, masks, limit)
    if budgeted:
        targets = {target.name: target for target, _, _ in chosen}
        pairs = [chosen[i][:2] for i in budgeted]
        groups = [target.groups(structure, masks[target.name]) for target, structure in pairs]
        for i, keep in zip(budgeted, amount.keeps(pairs, groups, targets, masks)):
            entries[i] = _cut(*chosen[i][:2], masks, None, keep)
    targets = {target.name: target for target, _, _ in chosen}.values()
    hold_all(model, [(target.variable, target.in_own_order(masks[target.name])) for target in targets])
    return [entries[i] for i in range(len(chosen))]


@dataclasses.dataclass(frozen=True, eq=False)
class _Amount:
    """How much goes: a fraction of the weights, or what a budget demands, and by what groups are ranked.

    `felt` are the kernels of `reactions.felt_kernels`, for `"taylor"`.
    """

    model: keras.Model
    sparsity: float | None
    budget: budgets.Budget | None
    scope: str
    criterion: str | None
    felt: dict | None

    @property
    def given(self):
        return _any(self.sparsity, self.budget)

    def keeps(self, pairs, groups, targets, masks):
        """Keep flags for each `(target, structure)`, by its `Groups` after what went before: zeros of the masks are gone."""
        scores = self._scores(pairs, groups, masks)
        members = [item.members for item in groups]
        if self.sparsity is not None:
            dense = [np.asarray(structure.num_members(target.standard_shape)) for target, structure in pairs]
            return allocation.by_sparsity(scores, members, self.sparsity, self.scope, dense)
        demands = demands_on(self.model, self.budget, pairs, members, targets, masks)
        spared = [allocation.keep_at_least(np.zeros(s.shape, bool), s, count)[0] for s, count in zip(scores, members)]
        keep = choose(_row(scores), demands, _row(spared) | (_row(members) == 0), exact=True).keep
        return [flags.reshape(s.shape) for flags, s in zip(np.split(keep, np.cumsum([s.size for s in scores])[:-1]), scores)]

    def _scores(self, pairs, groups, masks):
        if self.criterion != TAYLOR:
            return [item.by(self.criterion or LAMP) for item in groups]
        found = [Groups.of(structure, self.felt[target.name], masks[target.name]) for target, structure in pairs]
        return [item.scores for item in found]


def _row(arrays):
    return np.concatenate([np.ravel(array) for array in arrays])


def _cut(target, structure, masks, threshold, keep=None):
    """Lets one structure cut one kernel's mask, in place, by `keep`, its own choice or a threshold; returns what it did."""
    mask = masks[target.name]
    left = target.groups(structure, mask)
    if structure.decides:
        keep = left.decided()
    else:
        keep = allocation.by_threshold([left.norms], threshold)[0] if keep is None else keep
        keep, rescued = allocation.keep_at_least(keep, left.norms, left.members)
        if rescued:
            errors.warn(f"Every group of {target.name} was to be removed; the largest one was kept.")
    mask &= target.standard_mask(keep, structure)
    groups = int((structure.num_members(target.standard_shape) > 0).sum())
    kept = int((keep & (left.members > 0)).sum())
    # What is zero by itself counts as zero, as in a file.
    nonzero = int(np.count_nonzero(mask & ops.convert_to_numpy(ops.not_equal(target.standard_kernel(), 0))))
    return PrunedKernel(target.name, structure.name, kept, groups, nonzero, int(mask.size), plain(threshold))
