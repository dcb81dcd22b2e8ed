"""How much a coupled group weighs: the norms that pruning ranks by and the penalty presses on."""

import functools

import numpy as np
from keras import ops

from tf_reweight.checks import check_name
from tf_reweight.graph.gradients import TAYLOR
from tf_reweight.kernels.budgeted import lamp
from tf_reweight.kernels.grouping import LAMP

# Before a BatchNorm a filter's own norm is free: scale it and nothing changes. Gamma and the next layer's inputs are not,
# and with all three a group is small only when it can be removed.
CRITERIA = ("kernel+gamma+next", "kernel", "gamma")
_L1 = "kernel_l1"
# Pruning can rank by three more; penalties press on Euclidean norms alone.
RANKINGS = (*CRITERIA, _L1, LAMP, TAYLOR)


def check_criterion(criterion, known=CRITERIA):
    """Raises unless `criterion` is one of those known."""
    check_name("criterion", criterion, known)


def counted_slices(item, criterion=CRITERIA[0]):
    """The slices of a set whose weights count towards its norm.

    `"kernel"`: the kernels that make the channels; `"gamma"`: the scales of the normalisations after them, or the kernels
    where there is none; `"kernel+gamma+next"`: both, and the kernels that read the channels. Biases, betas and the slopes of
    PReLU never count.
    """
    kernels = [s for s in item.slices if s.kernel]
    gammas = [s for s in item.slices if s.role == "scale" and s.variable.name == "gamma"]
    if criterion in ("kernel", _L1):
        return kernels
    if criterion == "gamma":
        return gammas or kernels
    return kernels + gammas + [s for s in item.slices if s.role == "read"]


def group_norms(item, criterion=CRITERIA[0], sums=None):
    """Root of the summed squares of each group over the counted slices, float64 `(num_groups,)`; for L1 the sum of magnitudes.

    Args:
        sums: a dict that remembers each variable's sums from set to set: a kernel that reads a long concatenation belongs to
            dozens of sets.
    """
    sums = {} if sums is None else sums
    # In double precision, which holds the square of every float32.
    measure = np.abs if criterion == _L1 else functools.partial(np.square, dtype="float64")
    totals = np.zeros(item.num_groups)
    for part in counted_slices(item, criterion):
        key = (id(part.variable), part.axis)
        if key not in sums:
            values = measure(ops.convert_to_numpy(ops.cast(ops.convert_to_tensor(part.variable), "float32")))
            sums[key] = values.sum(axis=tuple(axis for axis in range(values.ndim) if axis != part.axis), dtype="float64")
        inside = part.group_of >= 0
        totals += np.bincount(part.group_of[inside], sums[key][inside], item.num_groups)
    return totals if criterion == _L1 else np.sqrt(totals)


def relative_scores(sets, criterion):
    """For each set its norms divided by their root mean square, float64 `(num_groups,)`.

    Norms of different layers live on different scales; what can be compared over the model is how a group stands among
    its own.
    """
    sums, scores = {}, []
    for item in sets:
        norms = group_norms(item, criterion, sums)
        scale = np.sqrt(np.mean(np.square(norms)))
        scores.append(norms / scale if scale > 0 else norms)
    return scores


def ranking(sets, criterion, prices=None, reactions=None):
    """What groups are ranked by, comparable over all sets, float64 `(num_groups,)` per set.

    Args:
        sets: the coupled sets.
        criterion: `"lamp"`, or whose norms relative to their set's count; see `relative_scores`.
        prices: per set what each group frees alone, float64 `(num_groups,)`: LAMP's scores are divided by its root, the loss's
            reactions by it. None: one.
        reactions: for `"taylor"`, per set how the loss reacts to each group; see `gates.reactions`.
    """
    if criterion == TAYLOR:
        return reactions if prices is None else [score / price for score, price in zip(reactions, prices)]
    if criterion != LAMP:
        return relative_scores(sets, criterion)
    sums = {}
    scores = [lamp(group_norms(item, CRITERIA[0], sums)) for item in sets]
    return scores if prices is None else [score / np.sqrt(price) for score, price in zip(scores, prices)]
