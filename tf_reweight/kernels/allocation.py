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


def by_sparsity(scores, num_members, sparsity, scope="model", dense_members=None):
    """Removes the groups of lowest score until the fraction `sparsity` of the weights is gone.

    Args:
        scores: list of arrays `(scopes, groups)`, one per kernel; comparable between kernels for `scope="model"`.
        num_members: list of int arrays `(scopes, groups)`: weights in each group.
        sparsity: fraction of all weights removed, in [0, 1). Whole groups only: as many groups as fit without removing
            more than that fraction, except that unstructured counts are exact.
        scope: `"model"`: one ranking over all kernels; `"layer"`: the fraction holds in each kernel; `"scope"`: in each scope.
        dense_members: like `num_members`, before other groups were removed, whose weights count as removed by them; None where
            none were. A kernel or scope that has lost more than the fraction already loses no more.

    Returns:
        List of bool arrays `(scopes, groups)`.

    Raises:
        ValueError: for a sparsity outside [0, 1) or an unknown scope.
    """
    check_sparsity(sparsity)
    check_name("scope", scope, SCOPES)
    kernels = list(zip(scores, num_members, num_members if dense_members is None else dense_members, strict=True))
    if scope == "model":
        return _ranked_of_dense(kernels, sparsity)
    if scope == "layer":
        return [_ranked_of_dense([kernel], sparsity)[0] for kernel in kernels]
    return [np.stack([_ranked_of_dense([row], sparsity)[0] for row in zip(*kernel, strict=True)]) for kernel in kernels]


def is_beyond(num_members, dense_members, sparsity, scope="model"):
    """Whether more than the fraction `sparsity` is gone already, anywhere where it has to hold.

    Args:
        num_members: list of int arrays `(scopes, groups)`: weights that are left in each group.
        dense_members: like it, before anything was removed.
        sparsity, scope: as for `by_sparsity`.
    """
    parts = [(np.atleast_2d(left), np.atleast_2d(dense)) for left, dense in zip(num_members, dense_members, strict=True)]
    if scope == "model":
        counts = [(sum(int(left.sum()) for left, _ in parts), sum(int(dense.sum()) for _, dense in parts))]
    elif scope == "layer":
        counts = [(int(left.sum()), int(dense.sum())) for left, dense in parts]
    else:
        counts = [(int(a), int(b)) for left, dense in parts for a, b in zip(left.sum(axis=1), dense.sum(axis=1))]
    return any(dense - left > sparsity * dense + 1e-6 for left, dense in counts)


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


def _ranked_of_dense(kernels, sparsity):
    """Keep flags for one ranking, by which a fraction of all weights is gone, those that went before included.

    Args:
        kernels: `(scores, members, members when it was dense)` of each kernel or scope.
    """
    scores, members, dense = zip(*kernels)
    total, left = sum(int(np.sum(count)) for count in dense), sum(int(np.sum(count)) for count in members)
    # Of what is left, less has to go. The division is left out where nothing went before: counts are exact then.
    share = sparsity if left in (total, 0) else max(0.0, 1.0 - (1.0 - sparsity) * total / left)
    return _ranked(scores, members, share)


def _ranked(scores, members, sparsity):
    """Keep flags for one ranking over arrays of scores; ties are broken by position, so counts are exact."""
    # 1e-6 of one weight absorbs the rounding of sparsity * size.
    most = sparsity * sum(count.sum() for count in members) + 1e-6
    sizes_of_groups = {int(size) for count in members if count.size for size in (count.min(), count.max())}
    if len(sizes_of_groups) == 1 and 0 not in sizes_of_groups:
        keep = _without_lowest(scores, int(most // sizes_of_groups.pop()))
        if keep is not None:
            return keep
    flat, sizes = np.concatenate([np.ravel(score) for score in scores]), [score.size for score in scores]
    order = np.argsort(flat, kind="stable")
    flags = np.ones(flat.shape, bool)
    flags[order[np.cumsum(np.concatenate([np.ravel(count) for count in members])[order]) <= most]] = False
    return [part.reshape(score.shape) for part, score in zip(np.split(flags, np.cumsum(sizes)[:-1]), scores)]


def _without_lowest(scores, count):
    """Keep flags without the `count` lowest scores, of equal ones the first: what sorting gives, in a fraction of its memory.

    None where not all of these are numbers.
    """
    if not count:
        return [np.ones(score.shape, bool) for score in scores]
    flat = np.concatenate([np.ravel(score) for score in scores])
    flat.partition(count - 1)
    limit = flat[count - 1]
    ties = count - int((flat < limit).sum())
    if np.isnan(limit):
        return None
    del flat
    keeps = []
    for score in scores:
        keep, equal = score >= limit, np.flatnonzero(score == limit)[:ties]
        keep.flat[equal] = False
        keeps.append(keep | np.isnan(score))
        ties -= len(equal)
    return keeps
