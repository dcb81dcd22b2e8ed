"""How the loss reacts to each coupled group, seen from gradients: those of a training, or of labelled examples."""

import numpy as np
from keras import ops

from tf_reweight.graph.distribution import sum_over_replicas
from tf_reweight.graph.gradients import Listener, average, check_gradients, dense, on_examples


class Gates(Listener):
    """Keeps, for each coupled set, a moving average of the squared derivative of the loss by a gate on each group.

    A gate multiplies all that a group gives to the layers that read it. Its derivative is the sum of weight times gradient
    over the weights that read the group, and its square is how much the loss would change if the group were gone (Molchanov
    et al., arXiv 1906.10771). Sets that nobody trainable reads are measured by the weights that make them; slopes of PReLU
    never count: they act on what is negative alone.

    Args:
        penalties: the `CoupledBudgeted` penalties of the model, connected to their sets.
    """

    def __init__(self, penalties):
        super().__init__(self._see_slopes)
        self._watched = [(penalty, _parts(penalty.item)) for penalty in penalties]

    def _see_slopes(self, gradients):
        for penalty, parts in self._watched:
            slopes = _sum(parts, gradients, penalty.num_groups)
            if slopes is not None:
                # Each replica has a part of the batch, and gradients of that alone.
                average(penalty.saliency, penalty.batches, ops.square(sum_over_replicas(slopes)))


def _parts(item):
    """The slices whose weights times gradients add up to the derivative by a gate on each group.

    Those of what reads the groups; else the gammas and betas behind what makes them; else the kernels and biases that do.
    """
    readers = [part for part in item.slices if part.role == "read"]
    gammas = [part for part in item.slices if part.role == "scale" and part.variable.name == "gamma"]
    kernels = [part for part in item.slices if part.kernel]
    for parts in (readers, _with_biases(item, gammas), _with_biases(item, kernels)):
        trained = [part for part in parts if part.variable.trainable]
        if trained:
            return trained
    return []


def _with_biases(item, parts):
    """These slices, and those of the biases of their layers, which a gate behind a layer acts on too."""
    layers = {part.path for part in parts}
    return [
        part for part in item.slices
        if part in parts or (part.role == "scale" and part.path in layers and part.variable.name in ("bias", "beta"))
    ]  # fmt: skip


def _sum(parts, gradients, num_groups):
    """The derivative by a gate on each group, float32 `(num_groups,)`; None where the loss depends on no part."""
    found = [(part, gradients.get(id(part.variable))) for part in parts]
    slopes = [_slopes(part, gradient, num_groups) for part, gradient in found if gradient is not None]
    return sum(slopes) if slopes else None


def _slopes(part, gradient, num_groups):
    """Sum of weight times gradient over each group's slice, float32 `(num_groups,)`."""
    products = ops.cast(part.variable.value, "float32") * dense(gradient)
    sums = ops.sum(products, axis=tuple(axis for axis in range(len(products.shape)) if axis != part.axis))
    segments = np.where(part.group_of < 0, num_groups, part.group_of).astype("int32")
    return ops.segment_sum(sums, segments, num_segments=num_groups + 1)[:num_groups]


def reactions(model, sets, examples, batch_size=32):
    """The same squares, added up over batches of labelled examples, without training: float64 `(num_groups,)` per set.

    Args:
        model: a compiled model, on TensorFlow.
        sets: its coupled sets.
        examples: `data.labelled.Labelled`.
        batch_size: examples whose slopes are added up before they are squared.

    Raises:
        ValueError: without labels, a loss or TensorFlow.
    """
    check_gradients(model, examples)
    watched = [_parts(item) for item in sets]
    variables = list({id(part.variable): part.variable for parts in watched for part in parts}.values())
    totals = [np.zeros(item.num_groups) for item in sets]
    for gradients in on_examples(model, variables, examples, batch_size):
        for total, parts in zip(totals, watched):
            slopes = _sum(parts, gradients, len(total))
            total += 0.0 if slopes is None else np.square(ops.convert_to_numpy(slopes), dtype="float64")
    return totals
