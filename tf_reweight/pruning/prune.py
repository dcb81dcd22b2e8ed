"""Zeros that stay: pruning in place, masks through retraining, and the wrapper layer."""

import dataclasses
import warnings
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import check_number, check_sparsity, is_number
from tf_reweight.kernels import allocation
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.kernels.held import free, hold_all, place
from tf_reweight.kernels.selection import select
from tf_reweight.kernels.selectors import Layers
from tf_reweight.kernels.table import LeftOut, find
from tf_reweight.penalties.attachment import attachments, detach
from tf_reweight.records import Report
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
    """What `prune` did: one entry per kernel and structure, and what was left out with its reason."""

    kernels: tuple[PrunedKernel, ...]
    left_out: tuple[LeftOut, ...]

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
        }


def prune(
    model: keras.Model,
    structure: StructureLike | Sequence[StructureLike] | None = None,
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    layers: Layers = None,
    scope: str = "model",
) -> PruneReport:
    """Sets groups to zero in place and keeps them exactly zero through any further training.

    After training with the penalty, `prune(model)` removes what it freed: the groups whose norm became negligible
    (`Penalty.negligible`). Without a penalty, name a `structure` (one-shot magnitude pruning). Penalties are taken off, since
    retraining is to recover accuracy; the zeros are held by constraints that every Keras optimizer applies after its step.

    Several structures on one kernel (`regularize` called once for each, or a list here) cut one after the other: patterns and
    then whole kernels, filters and then single weights of those that are left. A `sparsity` is then reached by the last of
    them, counting what the ones before removed.

    Args:
        model: a built Keras model.
        structure: name, config or `Structure`, or a list of these; by default those of each kernel's penalties.
        sparsity: fraction of the weights to remove, in [0, 1), over all pruned kernels; groups are ranked by the root
            mean square of their weights.
        threshold: remove groups whose norm is at most this.
        layers: which layers, when `structure` is given; see `kernels.selectors`.
        scope: `"model"`, `"layer"` or `"scope"`: where `sparsity` has to hold.

    Returns:
        `PruneReport`.

    Raises:
        ValueError: both `sparsity` and `threshold`, a value out of range, neither penalty nor structure; the model is then
            unchanged.
        TypeError: for a number in the place of the structure.

    Example:
        >>> prune(model, "filter", sparsity=0.8)
    """
    if is_number(structure):
        fix = f"Pass a fraction by its name: prune(model, sparsity={structure:g})."
        raise TypeError(errors.message("The second argument of `prune` is a structure.", fix, structure=structure))
    _check_amount(sparsity, threshold)
    if structure is None:
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
        if any(a.regularizer.spans_several for a in parts):
            raise ValueError(
                errors.message(
                    "Coupled penalties span several kernels and are pruned by `prune_groups(model)`.",
                    "Call it first; it takes them off.",
                    kernels=[a.target.name for a in parts if a.regularizer.spans_several][:5],
                )
            )
        chosen = [(a.target, a.regularizer.structure, a.regularizer.negligible) for a in parts]
        names = {target.name for target, _, _ in chosen}
        left_out = [LeftOut(t.name, "carries no penalty") for t in find(model)[0] if t.name not in names]
    else:
        chosen, left_out = _magnitude_chosen(model, structure, layers, sparsity is not None or threshold is not None)
    kernels = _prune_chosen(model, chosen, sparsity, threshold, scope)
    detach(model)
    return PruneReport(tuple(kernels), tuple(left_out))


def keep_zeros(model: keras.Model) -> int:
    """Holds the exact zeros a model has now through further training.

    `prune` does so by itself, also after saving and loading. This is for zeros from elsewhere, and for weights that were put
    into a model by hand.

    Returns:
        The number of kernels that have zeros and are held.
    """
    masks = [(target.variable, ops.convert_to_numpy(target.variable.value) != 0) for target in find(model)[0]]
    masks = [(variable, mask) for variable, mask in masks if not mask.all()]
    hold_all(model, masks)
    return len(masks)


def release(model: keras.Model) -> int:
    """Takes the masks off again: zeros may grow back. Returns the number of kernels released."""
    count = sum(free(target.variable) for target in find(model)[0])
    for variable in model.weights:  # what `prune_groups` holds besides kernels
        free(variable)
    place(model)
    drop_compiled_steps(model)
    return count


def sparsity(model: keras.Model) -> dict[str, tuple[int, int]]:
    """Zeros of every prunable kernel.

    Returns:
        Mapping of kernel name to `(num_zeros, num_weights)`.
    """
    counts = {}
    for target in find(model)[0]:
        kernel = ops.convert_to_numpy(target.variable.value)
        counts[target.name] = (int((kernel == 0).sum()), int(kernel.size))
    return counts


def _check_amount(sparsity, threshold):
    if sparsity is not None and threshold is not None:
        raise ValueError(
            errors.message("Pass `sparsity` or `threshold`, not both.", "Drop one.", sparsity=sparsity, threshold=threshold)
        )
    if sparsity is not None:
        check_sparsity(sparsity)
    if threshold is not None:
        check_number("threshold", threshold, fix="It is a group norm.", finite=False)


def _magnitude_chosen(model, structure, layers, amount_given):
    """`(target, structure, 0.0)` of every kernel and structure named, in their order, and what is left out of all."""
    named = [get_structure(item) for item in (structure if isinstance(structure, (list, tuple)) else [structure])]
    if not amount_given and not all(item.decides for item in named):
        raise ValueError(
            errors.message(
                "With `structure`, pass `sparsity` or `threshold`: no penalty says what is free.",
                "For example sparsity=0.8.",
                structure=structure,
            )
        )
    picked = [select(model, item, layers) for item in named]
    chosen = [(item.target, item.structure, 0.0) for selected, _ in picked for item in selected]
    names = {target.name for target, _, _ in chosen}
    left_out = {item.name: item for _, skipped in picked for item in skipped if item.name not in names}
    return chosen, list(left_out.values())


def _prune_chosen(model, chosen, sparsity, threshold, scope):
    """Decides all masks first, then applies them, so that an error leaves the model as it was.

    Several structures on one kernel cut one after the other, each what the ones before it left. A `sparsity` is for the last
    on each kernel that has one to set; those before it remove what is negligible.
    """
    masks = {target.name: np.ones(target.standard_shape, bool) for target, _, _ in chosen}
    free = {target.name: i for i, (target, structure, _) in enumerate(chosen) if not structure.decides}
    budgeted = sorted(free.values()) if sparsity is not None else []
    entries = {}
    for i, (target, structure, negligible) in enumerate(chosen):
        if i not in budgeted:
            limit = None if structure.decides else negligible if threshold is None else threshold
            entries[i] = _cut(target, structure, masks, limit)
    if budgeted:
        rest = [chosen[i][:2] for i in budgeted]
        for i, keep in zip(budgeted, _within_budget(rest, masks, sparsity, scope)):
            entries[i] = _cut(*chosen[i][:2], masks, None, keep)
    targets = {target.name: target for target, _, _ in chosen}.values()
    hold_all(model, [(target.variable, target.in_own_order(masks[target.name])) for target in targets])
    return [entries[i] for i in range(len(chosen))]


def _within_budget(pairs, masks, sparsity, scope):
    """Keep flags for each `(target, structure)`, such that `sparsity` of all weights is gone, what went before included."""
    groups = [target.groups(structure, masks[target.name]) for target, structure in pairs]
    scores, counts = [item.scores for item in groups], [item.members for item in groups]
    total = sum(masks[target.name].size for target, _ in pairs)
    left = sum(int(members.sum()) for members in counts)
    # Of what is left, less has to go. The division is left out where nothing went before: counts are exact then.
    share = sparsity if left == total else max(0.0, 1.0 - (1.0 - sparsity) * total / left)
    return allocation.by_sparsity(scores, counts, share, scope)


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
            warnings.warn(f"Every group of {target.name} was to be removed; the largest one was kept.", stacklevel=4)
    mask &= target.standard_mask(keep, structure)
    groups = int((structure.num_members(target.standard_shape) > 0).sum())
    kept = int((keep & (left.members > 0)).sum())
    return PrunedKernel(target.name, structure.name, kept, groups, int(mask.sum()), int(mask.size), threshold)
