"""Zeros that stay: pruning in place, masks through retraining, and the wrapper layer."""

import dataclasses
import warnings

import numpy as np
from keras import ops

from tf_reweight import allocation, errors, targets
from tf_reweight.attachment import attachments, detach, drop_compiled_steps
from tf_reweight.constraints import Mask, hold
from tf_reweight.selection import select
from tf_reweight.structures import get as get_structure


@dataclasses.dataclass(frozen=True)
class PrunedKernel:
    """What pruning did to one kernel with one structure."""

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
class PruneReport:
    """What `prune` did: one entry per kernel and structure, and what was left out with its reason."""

    kernels: tuple[PrunedKernel, ...]
    left_out: tuple[targets.LeftOut, ...]

    @property
    def sparsity(self):
        """Fraction of the weights of all pruned kernels that are zero now."""
        last = {kernel.name: kernel for kernel in self.kernels}.values()
        return 1.0 - sum(k.kept_weights for k in last) / sum(k.num_weights for k in last)

    def to_dict(self):
        return {
            "sparsity": self.sparsity,
            "kernels": [{**dataclasses.asdict(k), "sparsity": k.sparsity} for k in self.kernels],
            "left_out": [dataclasses.asdict(item) for item in self.left_out],
        }


def prune(model, sparsity=None, threshold=None, structure=None, layers=None, scope="model"):
    """Sets groups to zero in place and keeps them exactly zero through any further training.

    After training with the penalty, `prune(model)` removes what it freed: the groups whose norm became negligible
    (`Penalty.negligible`). Without a penalty, name a `structure` (one-shot magnitude pruning). Penalties are taken off, since
    retraining is to recover accuracy; the zeros are held by constraints that every Keras optimizer applies after its step.

    Args:
        model: a built Keras model.
        sparsity: fraction of the weights to remove, in [0, 1), over all pruned kernels; groups are ranked by the root
            mean square of their weights.
        threshold: remove groups whose norm is at most this.
        structure: name, config or `Structure`; by default that of each kernel's penalty.
        layers: which layers, when `structure` is given; see `selection.select`.
        scope: `"model"`, `"layer"` or `"scope"`: where `sparsity` has to hold.

    Returns:
        `PruneReport`.

    Raises:
        ValueError: both `sparsity` and `threshold`, a value out of range, neither penalty nor structure; the model is then
            unchanged.

    Example:
        >>> prune(model, sparsity=0.8, structure="filter")
    """
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
        if any(a.regularizer.structure is None for a in parts):
            raise ValueError(
                errors.message(
                    "Coupled penalties span several kernels and are pruned by `prune_groups(model)`.",
                    "Call it first; it takes them off.",
                    kernels=[a.target.name for a in parts if a.regularizer.structure is None][:5],
                )
            )
        chosen = [(a.target, a.regularizer.structure, a.regularizer.negligible) for a in parts]
        names = {target.name for target, _, _ in chosen}
        left_out = [targets.LeftOut(t.name, "carries no penalty") for t in targets.find(model)[0] if t.name not in names]
    else:
        if sparsity is None and threshold is None and not get_structure(structure).decides:
            raise ValueError(
                errors.message(
                    "With `structure`, pass `sparsity` or `threshold`: no penalty says what is free.",
                    "For example sparsity=0.8.",
                    structure=structure,
                )
            )
        selected, left_out = select(model, structure, layers)
        chosen = [(item.target, item.structure, 0.0) for item in selected]
    kernels = _prune_chosen(chosen, sparsity, threshold, scope)
    detach(model)
    drop_compiled_steps(model)
    return PruneReport(tuple(kernels), tuple(left_out))


def keep_zeros(model):
    """Holds the exact zeros a model has now through further training, for example after loading a pruned model.

    Masks are not saved with a model: its exact zeros say it all.

    Returns:
        The number of kernels that have zeros and are held.
    """
    count = 0
    for target in targets.find(model)[0]:
        mask = ops.convert_to_numpy(target.variable.value) != 0
        if not mask.all():
            hold(target.variable, mask)
            count += 1
    drop_compiled_steps(model)
    return count


def release(model):
    """Takes the masks off again: zeros may grow back. Returns the number of kernels released."""
    count = 0
    for target in targets.find(model)[0]:
        if isinstance(target.variable.constraint, Mask):
            target.variable.constraint = target.variable.constraint.inner
            count += 1
    drop_compiled_steps(model)
    return count


def sparsity(model):
    """Zeros of every prunable kernel.

    Returns:
        Mapping of kernel name to `(num_zeros, num_weights)`.
    """
    counts = {}
    for target in targets.find(model)[0]:
        kernel = ops.convert_to_numpy(target.variable.value)
        counts[target.name] = (int((kernel == 0).sum()), int(kernel.size))
    return counts


def _check_amount(sparsity, threshold):
    if sparsity is not None and threshold is not None:
        raise ValueError(
            errors.message("Pass `sparsity` or `threshold`, not both.", "Drop one.", sparsity=sparsity, threshold=threshold)
        )
    if sparsity is not None:
        allocation.check_sparsity(sparsity)
    if threshold is not None and (isinstance(threshold, bool) or not threshold >= 0):
        raise ValueError(errors.message("`threshold` must be a number >= 0.", "It is a group norm.", threshold=threshold))


def _prune_chosen(chosen, sparsity, threshold, scope):
    """Decides all masks first, then applies them, so that an error leaves the model as it was."""
    norms = [np.asarray(ops.convert_to_numpy(s.group_norms(t.standard_kernel())), "float64") for t, s, _ in chosen]
    members = [structure.num_members(target.standard_shape) for target, structure, _ in chosen]
    fixed = [structure.select(ops.convert_to_tensor(r, "float32")) for (_, structure, _), r in zip(chosen, norms)]
    free = [i for i, flags in enumerate(fixed) if flags is None]
    thresholds = [threshold if threshold is not None else chosen[i][2] for i in free]
    if sparsity is not None:
        scores = [norms[i] / np.sqrt(np.maximum(members[i], 1)) for i in free]
        decided = allocation.by_sparsity(scores, [members[i] for i in free], sparsity, scope) if free else []
        thresholds = [None] * len(free)
    else:
        decided = allocation.by_threshold([norms[i] for i in free], thresholds)
    keeps = [None if flags is None else ops.convert_to_numpy(flags) for flags in fixed]
    used = [None] * len(chosen)
    for i, keep, limit in zip(free, decided, thresholds):
        keeps[i], rescued = allocation.keep_at_least(keep, norms[i], members[i])
        used[i] = limit
        if rescued:
            warnings.warn(f"Every group of {chosen[i][0].name} was to be removed; the largest one was kept.", stacklevel=3)
    return [
        _apply(target, structure, keep, count, limit)
        for (target, structure, _), keep, count, limit in zip(chosen, keeps, members, used)
    ]


def _apply(target, structure, keep, members, threshold):
    mask = target.layout.from_standard(structure.mask(ops.convert_to_tensor(keep), target.standard_shape))
    mask = ops.convert_to_numpy(mask) != 0
    hold(target.variable, mask)
    real = members > 0
    return PrunedKernel(
        target.name, structure.name, int((keep & real).sum()), int(real.sum()), int(mask.sum()), int(mask.size), threshold
    )
