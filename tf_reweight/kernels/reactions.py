"""How the loss reacts to the groups of single kernels, seen from gradients: those of a training, or of labelled examples."""

import keras
import numpy as np
from keras import ops

from tf_reweight.graph.distribution import as_numpy, beside, can_count, sum_over_replicas
from tf_reweight.graph.gradients import ENOUGH_BATCHES, Listener, average, check_gradients, dense, on_examples

# Once it is known well enough how the loss reacts, one batch in so many is taken into the average: that reads and writes as
# many numbers as the optimizer does, in a step that may do little else.
_EVERY, _GOLDEN = 2, 0.6180339887
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
        self._watched, self._every = [], _EVERY if can_count() else 1
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
        return _completed(seen, [members.shape for _, _, members, *_ in self._watched])

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
        # Outside of the choice below: inside it nobody knows the shape that rows which were looked up add up to, and replicas,
        # of which each has a part of the batch and gradients of that alone, cannot wait for each other.
        found = [(watched, gradients.get(id(watched[0].variable))) for watched in self._watched]
        seen = [(*watched, sum_over_replicas(dense(gradient))) for watched, gradient in found if gradient is not None]
        if self._every == 1 or not seen:
            self._take(seen)
            return
        import tensorflow as tf

        most = ops.max(ops.stack([batches.value for *_, batches in self._watched]))
        # By the golden ratio: every second one would never see what comes in each other batch, such as one of two tasks.
        turn = ops.floor(ops.cast(self._optimizer.iterations, "float32") * _GOLDEN)
        due = ops.logical_or(most < ENOUGH_BATCHES, ops.equal(turn % self._every, 0))
        tf.cond(due, lambda: self._take(seen), lambda: None)

    def _take(self, seen):
        for target, structure, members, kept, batches, gradient in seen:
            squares = structure.squared_norms(target.layout.to_standard(gradient))
            if members.max() > 1:
                squares = squares / np.maximum(members, 1).astype("float32")
            average(kept, batches, squares, self._every)


def felt_kernels(model, targets, examples, batch_size=32):
    """Each weight times the root mean square of its gradients over batches of labelled examples, without training.

    The sum of the squares over a group is what the diagonal of the Fisher information says of it.

    Args:
        model: a compiled model, on TensorFlow.
        targets: kernels, as `kernels.table.find` gives them.
        examples: `data.labelled.Labelled`.
        batch_size: examples whose gradients are averaged before they are squared.

    Returns:
        Mapping of kernel names to float32 arrays in standard order.

    Raises:
        ValueError: without labels, a loss or TensorFlow.
    """
    check_gradients(model, examples)
    variables, sums, batches = [target.variable for target in targets], {}, 0
    for gradients in on_examples(model, variables, examples, batch_size):
        batches += 1
        for key, gradient in gradients.items():
            if gradient is not None:
                sums[key] = sums.get(key, 0.0) + np.square(ops.convert_to_numpy(dense(gradient)), dtype="float64")
    found = [sums.get(id(variable)) for variable in variables]
    squares = _completed([None if own is None else own / batches for own in found], [v.shape for v in variables])
    felt = [np.sqrt(own) * as_numpy(variable) for own, variable in zip(squares, variables)]
    return {
        target.name: ops.convert_to_numpy(target.layout.to_standard(ops.convert_to_tensor(own, "float32")))
        for target, own in zip(targets, felt)
    }


def _completed(squares, shapes):
    """Mean squares > 0 of each kernel's groups; one that no gradient came to has the mean of all others."""
    seen = [np.ravel(of_kernel) for of_kernel in squares if of_kernel is not None]
    # Ones where nothing reacts at all: then norms decide.
    mean = (np.mean(np.concatenate(seen)) if seen else 0.0) or 1.0
    return [np.full(shape, mean) if own is None else _floored(own, mean) for shape, own in zip(shapes, squares)]


def _floored(squares, mean):
    """With a floor, so that among those that the loss did not feel yet, such as rows of rare words, norms decide."""
    return np.maximum(squares, _FLOOR * (squares.mean() or mean))


def _state(shape):
    return keras.Variable(np.zeros(shape, "float32"), trainable=False, autocast=False)
