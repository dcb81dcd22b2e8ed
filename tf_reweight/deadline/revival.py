"""Groups that were drawn to zero, and may stay after all, begin anew."""

import numpy as np
from keras import ops

from tf_reweight.coupling.scores import counted_slices


def revive(item, back, stayed):
    """Gives groups of a coupled set that come back from zero weights to train on; what the network computes stays the same.

    With its filter and its gamma at zero, and all that reads it, a group has no gradient: it would cost what a living one costs
    and never be of use. So what is zero of what makes it is drawn at random, of the size that groups which stayed have, and
    what reads it stays zero and learns first, as connections that are grown in Evci et al., arXiv 1911.11134. A group that is
    read has a gradient, and is left as it is: by the criteria `"kernel"` and `"gamma"` a part of it may be zero alone.

    Args:
        item: a `CoupledSet`.
        back: bool `(num_groups,)`: those that come back.
        stayed: bool `(num_groups,)`: those that never were zero and stay.
    """
    parts = counted_slices(item)
    readers = [part for part in parts if part.role == "read"]
    if not readers:
        return
    back = back & np.all([_is_zero(part, item.num_groups) for part in readers], axis=0)
    if not back.any() or not stayed.any():
        return
    random = np.random.default_rng(item.num_groups)
    makers = [part for part in parts if part.role != "read"]
    # Two parts may lie in one variable, so all are looked at before any is drawn.
    for part, zero in [(part, _is_zero(part, item.num_groups)) for part in makers]:
        values = np.moveaxis(ops.convert_to_numpy(part.variable), part.axis, 0).copy()
        inside = part.group_of >= 0
        flags = [np.where(inside, of_groups[part.group_of], False) for of_groups in (back & zero, stayed)]
        size = np.sqrt(np.mean(np.square(values[flags[1]], dtype="float64")))
        drawn = random.normal(size=values[flags[0]].shape) if values.ndim > 1 else 1.0
        values[flags[0]] = drawn * size
        part.variable.assign(np.moveaxis(values, 0, part.axis))


def _is_zero(part, num_groups):
    """Bool `(num_groups,)`: the groups of which a slice has no weight but zeros."""
    # Counted, not squared: squares of small weights are zero.
    counts = part.squared_norms(num_groups, ops.not_equal(part.variable.value, 0))
    return ops.convert_to_numpy(counts) == 0
