"""How much a coupled group weighs: the norms that pruning ranks by and the penalty presses on."""

import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.structures.base import safe_sqrt

# Before a BatchNorm a filter's own norm is free: scale it and nothing changes. Gamma and the next layer's inputs are not,
# and with all three a group is small only when it can be removed.
CRITERIA = ("kernel+gamma+next", "kernel", "gamma")


def check_criterion(criterion):
    """Raises unless `criterion` is one of `CRITERIA`."""
    if criterion not in CRITERIA:
        raise ValueError(errors.unknown("criterion", criterion, CRITERIA))


def counted_slices(item, criterion):
    """The slices of a set whose weights count towards its norm.

    `"kernel"`: the kernels that make the channels; `"gamma"`: the scales of the normalisations after them, or the kernels
    where there is none; `"kernel+gamma+next"`: both, and the kernels that read the channels.
    """
    kernels = [s for s in item.slices if s.role in ("out", "scale") and len(s.variable.shape) > 1]
    gammas = [s for s in item.slices if s.role == "scale" and s.variable.name == "gamma"]
    if criterion == "kernel":
        return kernels
    if criterion == "gamma":
        return gammas or kernels
    return kernels + gammas + [s for s in item.slices if s.role == "read"]


def group_norms(item, criterion=CRITERIA[0]):
    """Root of the summed squares of each group over the counted slices, float32 `(num_groups,)`."""
    return safe_sqrt(sum(s.squared_norms(item.num_groups) for s in counted_slices(item, criterion)))


def relative_scores(item, criterion):
    """Norms of a set divided by their root mean square, float64 `(num_groups,)`.

    Norms of different layers live on different scales; what can be compared over the model is how a group stands among
    its own.
    """
    norms = np.asarray(ops.convert_to_numpy(group_norms(item, criterion)), "float64")
    scale = np.sqrt(np.mean(np.square(norms)))
    return norms / scale if scale > 0 else norms
