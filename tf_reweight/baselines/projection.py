"""The nearest kernels that have a wanted sparsity."""

import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import check_name, check_sparsity
from tf_reweight.kernels import allocation
from tf_reweight.kernels.grouping import CRITERIA, LAMP, Groups


def masks(selected, kernels, sparsity, scope="model", criterion=LAMP):
    """Masks of the nearest kernels that are sparse enough: `min ||W - Z||` over all Z with the groups removed.

    In a kernel the smallest groups go; how many of each kernel, its criterion says. By magnitude, the mean square, every
    prefix of the order loses the least energy of all choices that remove at least as many weights, so the projection is
    exact, ragged groups and kernels of different sizes included. By the others it is the nearest among kernels that keep as
    many groups of each, where these are of one size. One group of each kernel always stays.

    Args:
        selected: list of `selection.Selected`.
        kernels: list of arrays in the layers' own order.
        sparsity: fraction of the weights removed, in [0, 1); None for structures that decide themselves (n of m, patterns).
            With a fraction such a structure is reached only in part: the smallest go of what it would not keep, never more.
        scope: `"model"`, `"layer"` or `"scope"`: where `sparsity` has to hold.
        criterion: what groups are ranked by, of `grouping.CRITERIA`.

    Returns:
        List of bool arrays in the layers' own order.
    """
    groups = [_groups(item, kernel) for item, kernel in zip(selected, kernels)]
    decided, members = [item.decided() for item in groups], [item.members for item in groups]
    if sparsity is None:
        keeps = decided
    else:
        scores = [item.by(criterion) for item in groups]
        scores = [score if flags is None else np.where(flags, np.inf, score) for score, flags in zip(scores, decided)]
        keeps = allocation.by_sparsity(scores, members, sparsity, scope)
        keeps = [keep if flags is None else keep | flags for keep, flags in zip(keeps, decided)]
        keeps = [allocation.keep_at_least(keep, g.norms, g.members)[0] for keep, g in zip(keeps, groups)]
    return [item.target.own_mask(keep, item.structure) for item, keep in zip(selected, keeps)]


def trainable(selected):
    """Those of a list of `selection.Selected` whose kernels training moves.

    Raises:
        ValueError: for none.
    """
    chosen = [item for item in selected if item.target.variable.trainable]
    if not chosen:
        raise ValueError(
            errors.message(
                "At least one selected kernel must be trainable.",
                "Set `layer.trainable = True`.",
                frozen=[item.target.name for item in selected],
            )
        )
    return chosen


def in_common(variables, others):
    """Whether two lists of variables have one in common."""
    return not {id(variable) for variable in variables}.isdisjoint(id(variable) for variable in others)


def _groups(item, kernel):
    standard = item.target.layout.to_standard(ops.convert_to_tensor(kernel, "float32"))
    return Groups.of(item.structure, standard)


def check_amount(structure, sparsity):
    """Raises unless `sparsity` goes with the structure: a fraction, or None where the structure itself decides."""
    if structure.decides and sparsity is not None:
        raise ValueError(
            errors.message(
                f"The structure {structure.name!r} itself says how much is kept: `sparsity` must be None.",
                "Drop it, or change the structure's fields.",
                sparsity=sparsity,
            )
        )
    if not structure.decides:
        check_sparsity(sparsity)


def check_ranking(scope, criterion):
    """Raises unless `scope` is one that `allocation.by_sparsity` knows, and `criterion` one of `grouping.CRITERIA`."""
    check_name("scope", scope, allocation.SCOPES)
    check_name("criterion", criterion, CRITERIA)
