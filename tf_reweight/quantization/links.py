"""Which tensors share a range: decided from the ranges learned so far."""

import math

import numpy as np
from keras import ops

from tf_reweight.quantization.rules import NOISE


class Links:
    """What the joins of one group of places say about their ranges.

    Args:
        joins: `[inputs, output, compared, limit]` of each join, in the order in which they compute; see `QuantizedActivation`.
        places: number of places.
    """

    def __init__(self, joins, places):
        self._limits = np.array([limit for *_, limit in joins], "float32")
        # What is not compared with its inputs shares no range with them.
        self._members = _rows([[*inputs, output] if compared else [output] for inputs, output, compared, _ in joins], places)
        self._compared = _rows([compared for _, _, compared, _ in joins], places)
        self._outputs = _rows([[output] for _, output, _, _ in joins], places)
        # The cliques that the joins make of their places, as `(joins, places, places)`.
        self._cliques = self._members[:, :, None] * self._members[:, None, :]
        # Whether a join reads what another has made, at once or through others.
        inputs = _rows([inputs for inputs, _, _, _ in joins], places)
        direct = np.minimum(inputs @ self._outputs.T + np.eye(len(joins), dtype="float32"), 1.0)
        self._reads = np.minimum(np.linalg.matrix_power(direct, len(joins)), 1.0).astype("float32")
        self._itself = np.eye(places, dtype="float32")
        self._doublings = max(1, math.ceil(math.log2(places)))

    def __call__(self, minimum, maximum):
        """`(together, is_float)`: float `(places, places)`, 1 where two share a range; bool `(places,)` of what stays float."""
        apart = self._apart(ops.convert_to_tensor(minimum), ops.convert_to_tensor(maximum), ops)
        together = ops.sum((1.0 - apart)[:, None, None] * self._cliques, axis=0)
        together = ops.minimum(together + self._itself, 1.0)
        for _ in range(self._doublings):
            together = ops.minimum(ops.matmul(together, together), 1.0)
        return together, ops.sum(apart[:, None] * self._outputs, axis=0) > 0

    def apart(self, minimum, maximum):
        """Bool array `(joins,)` from arrays: the joins that stay float."""
        return self._apart(minimum, maximum, np) > 0

    def _apart(self, minimum, maximum, xp):
        """1.0 for each join whose inputs are too unlike for one range, or that reads such a join; by NumPy or by Keras."""
        widths = xp.maximum(-minimum, maximum)
        widest = xp.max(self._members * widths, axis=1)
        alive = xp.logical_and(self._compared > 0, widths > NOISE * widest[:, None])
        narrowest = xp.min(xp.where(alive, widths, widest[:, None]), axis=1)
        unlike = xp.logical_and(widest > 0, widest >= self._limits * narrowest)
        return xp.minimum(xp.matmul(self._reads, xp.where(unlike, 1.0, 0.0)[:, None])[:, 0], 1.0)


def _rows(lists, size):
    """One row of zeros and ones per list of positions."""
    rows = np.zeros((len(lists), size), "float32")
    for row, positions in zip(rows, lists):
        row[positions] = 1.0
    return rows
