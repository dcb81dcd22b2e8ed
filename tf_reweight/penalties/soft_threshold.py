"""The soft threshold on groups, as a constraint that lasts as long as one `fit`."""

import keras
import numpy as np
from keras import ops

from tf_reweight.graph.distribution import can_count
from tf_reweight.graph.optimizers import zero_averages
from tf_reweight.kernels.constraints import Inserted

# Optimizer steps that one shrinking stands for, of single kernels and of coupled groups: it reads and writes every weight
# several times, as many as a training step does where a batch is small. One for many would leave what is zero to grow back.
EVERY = 2


class SoftThreshold(Inserted):
    """`w_g <- max(0, 1 - t_g / r_g) * w_g` after optimizer steps, on top of the constraint the weight had.

    This is the proximal operator of `sum_g t_g * r_g`, with `r_g` the norm of group g: it minimises
    `sum_g t_g * ||x_g|| + ||x - w||^2 / 2`. A group at or below its threshold becomes exactly zero; a zero may come back
    with the next step of the optimizer.

    Gathered, one shrinking comes for several optimizer steps, by what they come to: where the weight does not move in between,
    soft thresholds add up exactly. `flush` applies those that are still owed. Only TensorFlow counts inside its step;
    elsewhere each step has its own.

    Args:
        structure: `Structure` of the kernel.
        layout: the kernel's `kernels.table.Layout`.
        thresholds: array `(scopes, groups)`, >= 0: what one optimizer step takes off.
        inner: the weight's own constraint, applied first, or None.
        every: optimizer steps that one shrinking stands for.
    """

    def __init__(self, structure, layout, thresholds, inner=None, every=1):
        super().__init__(inner)
        self.structure, self.layout, self.every = structure, layout, every if can_count() else 1
        # Untracked by the model, as in `Mask`.
        self.thresholds = keras.Variable(
            np.asarray(thresholds, "float32"), trainable=False, name="thresholds", autocast=False
        )  # fmt: skip
        self._owed = keras.Variable(np.zeros((), "float32"), trainable=False, name="owed", autocast=False)

    def applied(self, weight):
        """The weight with its groups shrunk, or as it is where more steps are waited for."""
        weight = ops.convert_to_tensor(weight)
        if self.every == 1:
            return self._shrunk(weight, self.thresholds.value)  # no count, and nothing to choose between, in the step
        import tensorflow as tf

        owed = self._owed.value + 1.0
        due = owed >= self.every
        self._owed.assign(ops.where(due, 0.0, owed))
        return tf.cond(due, lambda: self._shrunk(weight, owed * self.thresholds.value), lambda: weight)

    def flush(self, variable, optimizer):
        """Shrinks a variable by what its last steps still owe; outside of a training step.

        Args:
            variable: the weight that carries this constraint.
            optimizer: that of the model, whose average of the weight follows.
        """
        if self.every > 1 and self._owed.value > 0:
            variable.assign(self._shrunk(variable.value, self._owed.value * self.thresholds.value))
            self._owed.assign(0.0)
            zero_averages(optimizer, [variable])

    def _shrunk(self, weight, thresholds):
        shrunk = self.structure.shrunk(self.layout.to_standard(ops.cast(weight, "float32")), thresholds)
        return ops.cast(self.layout.from_standard(shrunk), weight.dtype)
