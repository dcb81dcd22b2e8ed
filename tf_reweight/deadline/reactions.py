"""How the loss reacts to the groups of single kernels, seen from the gradients of a training."""

import keras
import numpy as np

from tf_reweight.graph.distribution import as_numpy, beside, sum_over_replicas
from tf_reweight.graph.gradients import Listener, average, dense

# Of a kernel's mean: what a group has at least.
_FLOOR = 1e-6


class Reactions(Listener):
    """Keeps, for each group of each kernel, a moving average of the mean square of its weights' gradients.

    Times the squared norm it says how much the loss would change if the group were gone. For single weights it is the square of
    weight times gradient (Molchanov et al., arXiv 1906.10771), and half of it what the diagonal of the Fisher information gives
    (LeCun et al. 1990; Theis et al., arXiv 1801.05787); in larger groups weights and gradients count as independent.

    Args:
        pairs: list of `(target, penalty)`.
    """

    def __init__(self, pairs):
        super().__init__(self._see_squares)
        self._watched = []
        for target, penalty in pairs:
            members = np.asarray(penalty.structure.num_members(target.standard_shape))
            with beside(target.variable):
                kept, batches = (_state(shape) for shape in (members.shape, ()))
            self._watched.append((target, penalty.structure, members, kept, batches))

    @property
    def batches(self):
        """The most that any kernel has seen: one that no loss depends on sees none, however long one waits."""
        return max(int(as_numpy(batches)) for *_, batches in self._watched)

    def squares(self):
        """A list of float32 `(scopes, groups)`, one for each kernel, > 0; one without gradients has the mean of all others."""
        seen = [as_numpy(kept) if int(as_numpy(batches)) else None for *_, kept, batches in self._watched]
        # Ones where nothing reacts at all: then norms decide.
        mean = np.mean(np.concatenate([np.ravel(squares) for squares in seen if squares is not None])) or 1.0
        shapes = [members.shape for _, _, members, *_ in self._watched]
        return [np.full(shape, mean) if squares is None else _felt(squares, mean) for shape, squares in zip(shapes, seen)]

    def state(self):
        """What `set_state` takes: a list of arrays."""
        return [as_numpy(variable) for *_, kept, batches in self._watched for variable in (kept, batches)]

    def set_state(self, arrays):
        """Goes on from what `state` gave."""
        variables = [variable for *_, kept, batches in self._watched for variable in (kept, batches)]
        # A training that ranked by norms until now has kept none.
        for variable, array in zip(variables, arrays, strict=bool(arrays)):
            variable.assign(array)

    def _see_squares(self, gradients):
        for target, structure, members, kept, batches in self._watched:
            gradient = gradients.get(id(target.variable))
            if gradient is None:
                continue
            # Each replica has a part of the batch, and gradients of that alone.
            whole = sum_over_replicas(dense(gradient))
            squares = structure.squared_norms(target.layout.to_standard(whole))
            if members.max() > 1:
                squares = squares / np.maximum(members, 1).astype("float32")
            average(kept, batches, squares)


def _felt(squares, mean):
    """With a floor, so that among those that the loss did not feel yet, such as rows of rare words, norms decide."""
    return np.maximum(squares, _FLOOR * (squares.mean() or mean))


def _state(shape):
    return keras.Variable(np.zeros(shape, "float32"), trainable=False, autocast=False)
