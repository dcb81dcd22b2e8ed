"""How the loss reacts to each coupled group, seen from the gradients that the optimizer gets while `fit` runs."""

import keras
import numpy as np
from keras import ops

# How much of the average a new batch replaces, once there are enough.
_NEW = 0.02


class Gates:
    """Keeps, for each coupled set, a moving average of the squared derivative of the loss by a gate on each group.

    A gate multiplies all that a group gives to the layers that read it. Its derivative is the sum of weight times gradient
    over the weights that read the group, and its square is how much the loss would change if the group were gone (Molchanov
    et al., arXiv 1906.10771). Sets that nobody trainable reads are measured by the weights that make them.

    The gradients are taken from the call that applies them, inside the compiled step.

    Args:
        penalties: the `CoupledBudgeted` penalties of the model, connected to their sets.
    """

    def __init__(self, penalties):
        self._watched = [(penalty, _parts(penalty.item)) for penalty in penalties]
        self._optimizer = None

    def open(self, optimizer):
        """Listens to an optimizer from now on; the training step has to be traced anew."""
        self._optimizer, apply = optimizer, optimizer.apply

        def listening(gradients, trainable_variables=None):
            variables = optimizer.trainable_variables if trainable_variables is None else trainable_variables
            self._see({id(variable): gradient for variable, gradient in zip(variables, gradients)})
            return apply(gradients, trainable_variables)

        optimizer.apply = listening

    def close(self):
        """Listens no more."""
        if self._optimizer is not None:
            del self._optimizer.apply
            self._optimizer = None

    def _see(self, gradients):
        for penalty, parts in self._watched:
            found = [(part, gradients.get(id(part.variable))) for part in parts]
            slopes = [_slopes(part, gradient, penalty.num_groups) for part, gradient in found if gradient is not None]
            if slopes:
                seen = penalty.batches.value
                fresh = ops.maximum(1.0 / (seen + 1.0), _NEW)
                penalty.saliency.assign(penalty.saliency + fresh * (ops.square(sum(slopes)) - penalty.saliency))
                penalty.batches.assign(seen + 1.0)


def _parts(item):
    """The slices whose weights times gradients add up to the derivative by a gate on each group."""
    for role in ("read", "scale", "out"):
        parts = [part for part in item.slices if part.role == role and part.variable.trainable]
        if parts:
            return parts
    return []


def _slopes(part, gradient, num_groups):
    """Sum of weight times gradient over each group's slice, float32 `(num_groups,)`."""
    products = ops.cast(part.variable.value, "float32") * ops.cast(ops.convert_to_tensor(gradient), "float32")
    sums = ops.sum(products, axis=tuple(axis for axis in range(len(products.shape)) if axis != part.axis))
    segments = np.where(part.group_of < 0, num_groups, part.group_of).astype("int32")
    return ops.segment_sum(sums, segments, num_segments=num_groups + 1)[:num_groups]


def can_listen():
    """Whether gradients can be seen here: in TensorFlow's training step, which runs in variables."""
    return keras.backend.backend() == "tensorflow"
