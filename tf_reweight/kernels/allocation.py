"""From one model-wide budget to how many groups each scope keeps."""

import numpy as np

from tf_reweight.checks import check_name, check_sparsity

# Where a fraction has to hold.
SCOPES = ("model", "layer", "scope")


def by_threshold(scores, thresholds):
    """Keeps the groups whose score is above the threshold of their kernel.

    Args:
        scores: list of arrays `(scopes, groups)`, one per kernel.
        thresholds: one number per kernel, or one for all.

    Returns:
        List of bool arrays `(scopes, groups)`.
    """
    thresholds = np.broadcast_to(np.asarray(thresholds, "float64"), len(scores))
    return [np.asarray(score) > threshold for score, threshold in zip(scores, thresholds)]


def by_sparsity(scores, num_members, sparsity, scope="model"):
    """Removes the groups of lowest score until the fraction `sparsity` of the weights is gone.

    Args:
        scores: list of arrays `(scopes, groups)`, one per kernel; comparable between kernels for `scope="model"`.
        num_members: list of int arrays `(scopes, groups)`: weights in each group.
        sparsity: fraction of all weights removed, in [0, 1). Whole groups only: as many groups as fit without removing
            more than that fraction, except that unstructured counts are exact.
        scope: `"model"`: one ranking over all kernels; `"layer"`: the fraction holds in each kernel; `"scope"`: in each scope.

    Returns:
        List of bool arrays `(scopes, groups)`.

    Raises:
        ValueError: for a sparsity outside [0, 1) or an unknown scope.
    """
    check_sparsity(sparsity)
    check_name("scope", scope, SCOPES)
    if scope == "model":
        sizes = [score.size for score in scores]
        flat = np.concatenate([np.ravel(score) for score in scores])
        members = np.concatenate([np.ravel(count) for count in num_members])
        keep = np.split(_rank(flat, members, sparsity), np.cumsum(sizes)[:-1])
        return [flags.reshape(score.shape) for flags, score in zip(keep, scores)]
    if scope == "layer":
        return [by_sparsity([s], [n], sparsity)[0] for s, n in zip(scores, num_members)]
    return [np.stack([_rank(row, n, sparsity) for row, n in zip(s, m)]) for s, m in zip(scores, num_members)]


def keep_at_least(keep, scores, num_members, minimum=1):
    """Gives each kernel back its best groups where fewer than `minimum` are left, so that no layer is cut off.

    Returns:
        `(keep, rescued)`: the flags, and the number of groups given back.
    """
    keep = np.array(keep, bool)
    real = np.asarray(num_members) > 0
    missing = min(minimum, int(real.sum())) - int((keep & real).sum())
    if missing <= 0:
        return keep, 0
    ranked = np.where(real & ~keep, np.asarray(scores, "float64"), -np.inf)
    best = np.argsort(-ranked, axis=None, kind="stable")[:missing]
    keep.flat[best] = True
    return keep, missing


def _rank(scores, members, sparsity):
    """Keep flags for one ranking; ties are broken by position, so counts are exact."""
    order = np.argsort(scores, kind="stable")
    gone = np.cumsum(members[order])
    budget = sparsity * members.sum()
    keep = np.ones(scores.shape, bool)
    # 1e-6 of one weight absorbs the rounding of sparsity * size.
    keep[order[gone <= budget + 1e-6]] = False
    return keep
