"""The soft threshold on groups, as a constraint that lasts as long as one `fit`."""

import keras
import numpy as np
from keras import ops

from tf_reweight.kernels.constraints import Inserted


class SoftThreshold(Inserted):
    """`w_g <- max(0, 1 - t_g / r_g) * w_g` after every optimizer step, on top of the constraint the weight had.

    This is the proximal operator of `sum_g t_g * r_g`, with `r_g` the norm of group g: it minimises
    `sum_g t_g * ||x_g|| + ||x - w||^2 / 2`. A group at or below its threshold becomes exactly zero; a zero may come back
    with the next step of the optimizer.

    Args:
        structure: `Structure` of the kernel.
        layout: the kernel's `kernels.table.Layout`.
        thresholds: array `(scopes, groups)`, >= 0.
        inner: the weight's own constraint, applied first, or None.
    """

    def __init__(self, structure, layout, thresholds, inner=None):
        super().__init__(inner)
        self.structure, self.layout = structure, layout
        # Untracked by the model, as in `Mask`.
        self.thresholds = keras.Variable(
            np.asarray(thresholds, "float32"), trainable=False, name="thresholds", autocast=False
        )  # fmt: skip

    def applied(self, weight):
        """The weight with its groups shrunk."""
        standard = self.layout.to_standard(ops.cast(weight, "float32"))
        shrunk = self.structure.shrunk(standard, self.thresholds.value)
        return ops.cast(self.layout.from_standard(shrunk), weight.dtype)
