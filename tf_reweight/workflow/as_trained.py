"""A model as training will leave it, as far as the size of its file goes."""

import numpy as np

from tf_reweight.data.models import copied
from tf_reweight.graph.batchnorm import following
from tf_reweight.graph.distribution import as_numpy

# Far from what a trained model has, and far above the steps of integers.
_SCALE = 1e-2


def as_trained(model):
    """A copy in which no weight that trains is the same number throughout.

    The biases of a model that was never trained are zero, and what normalizes is zeros and ones: a file leaves them out, or
    holds those of one length once. Trained they take the room of their numbers, whatever these are.
    """
    made, rng = copied(model), np.random.default_rng(0)
    statistics = [variable for layer in following(made) for variable in (layer.moving_mean, layer.moving_variance)]
    for variable in (*made.trainable_variables, *statistics):
        array = as_numpy(variable)
        if array.size > 1 and array.dtype.kind == "f" and (array == array.flat[0]).all():
            variable.assign((array + _SCALE * rng.uniform(0.5, 1.5, array.shape)).astype(array.dtype))
    return made
