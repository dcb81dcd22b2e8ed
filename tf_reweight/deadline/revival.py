"""Groups that were drawn to zero, and may stay after all, begin anew."""

import numpy as np
from keras import ops

from tf_reweight.coupling.scores import counted_slices


def revive(item, back, stayed):
    """Gives groups of a coupled set that come back from zero weights to train on; what the network computes stays the same.

    With its filter and its gamma at zero a group has no gradient: it would cost what a living one costs and never be of use.
    So what makes it is drawn at random, of the size that groups which stayed have, and what reads it stays zero and learns
    first, as connections that are grown in Evci et al., arXiv 1911.11134.

    Args:
        item: a `CoupledSet`.
        back: bool `(num_groups,)`: those that come back.
        stayed: bool `(num_groups,)`: those that never were zero and stay.
    """
    parts = counted_slices(item)
    if not back.any() or not stayed.any() or not any(part.role == "read" for part in parts):
        return
    random = np.random.default_rng(item.num_groups)
    for part in parts:
        if part.role == "read":
            continue
        values = np.moveaxis(ops.convert_to_numpy(part.variable), part.axis, 0).copy()
        inside = part.group_of >= 0
        flags = [np.where(inside, of_groups[part.group_of], False) for of_groups in (back, stayed)]
        size = np.sqrt(np.mean(np.square(values[flags[1]], dtype="float64")))
        drawn = random.normal(size=values[flags[0]].shape) if values.ndim > 1 else 1.0
        values[flags[0]] = drawn * size
        part.variable.assign(np.moveaxis(values, 0, part.axis))
