"""A constraint that keeps zeros exactly zero under every optimizer."""

import keras
import numpy as np
from keras import ops


class Mask(keras.constraints.Constraint):
    """Sets the masked-out entries of a weight to zero after every optimizer step, on top of the constraint it had.

    Not serializable on purpose: the exact zeros in the weights are the mask, and `keep_zeros` reads it from them.

    Args:
        mask: bool array of the weight's shape; True is kept.
        inner: the weight's own constraint, applied first, or None.
    """

    def __init__(self, mask, inner=None):
        # A variable, not a constant: a traced step would otherwise carry a second copy of the mask. Untracked by the
        # model, since Keras on JAX donates the buffers of tracked state.
        self.mask = keras.Variable(np.asarray(mask, bool), trainable=False, name="mask", dtype="bool", autocast=False)
        self.inner = inner

    def __call__(self, weight):
        if self.inner is not None:
            weight = self.inner(weight)
        weight = ops.convert_to_tensor(weight)
        # Not a product: that makes negative zeros, which are nonzero bytes in a file.
        return ops.where(self.mask.value, weight, ops.zeros((), dtype=weight.dtype))

    def as_numpy(self):
        """The mask as a bool array."""
        return ops.convert_to_numpy(self.mask.value)


def hold(variable, mask):
    """Sets a variable to zero where `mask` is False, and keeps it there by a constraint; masks it has already add up."""
    inner = variable.constraint
    if isinstance(inner, Mask):
        mask = mask & inner.as_numpy()
        inner = inner.inner
    if hasattr(inner, "drop"):
        # Values that weights share are not to be drawn towards those that are held at zero above.
        inner.drop(mask)
    variable.constraint = Mask(mask, inner)
    variable.assign(variable.constraint(variable.value))


def insert(variable, constraint):
    """Adds a constraint that has an `inner` to a variable's own, below a `Mask`: what is pruned stays zero."""
    outer = variable.constraint
    if isinstance(outer, Mask):
        constraint.inner, outer.inner = outer.inner, constraint
    else:
        constraint.inner, variable.constraint = outer, constraint


def remove(variable, kind):
    """Takes a constraint of class `kind` out of a variable's chain; returns whether there was one."""
    outer = variable.constraint
    if isinstance(outer, kind):
        variable.constraint = outer.inner
        return True
    if isinstance(outer, Mask) and isinstance(outer.inner, kind):
        outer.inner = outer.inner.inner
        return True
    return False
