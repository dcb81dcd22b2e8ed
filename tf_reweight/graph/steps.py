"""Training and test steps: what is made before one that is being traced, and one test step on any backend."""

import contextlib

import keras
import numpy as np
from keras.src.backend.common import global_state

_STATELESS = "stateless_scope"  # where Keras keeps the scope in which it traces a step for JAX


def before_step():
    """Within it, variables are made before the training step that is being traced, and not by it."""
    return _BEFORE.get(keras.backend.backend(), contextlib.nullcontext)()


def test_step(model, batch):
    """Measures one batch; returns a dict of the metrics so far.

    Args:
        model: a compiled model.
        batch: tuple `(x, y)` or `(x, y, sample_weight)`.
    """
    if keras.backend.backend() == "tensorflow":
        return model.test_step(batch)  # not compiled: a few batches of another model each time
    return model.test_on_batch(*batch, return_dict=True)


def figure_of(value):
    """A metric's value as a float, of any backend; of one with a value for each class their mean."""
    return float(np.mean(keras.ops.convert_to_numpy(value)))


def _before_tensorflow_step():
    import tensorflow as tf

    return tf.init_scope()


@contextlib.contextmanager
def _before_jax_step():
    import jax

    # Keras makes no variable of an array within a stateless scope, and one of a function only after it, as a traced value.
    scope = global_state.get_global_attribute(_STATELESS)
    global_state.set_global_attribute(_STATELESS, None)
    try:
        with jax.ensure_compile_time_eval():
            yield
    finally:
        global_state.set_global_attribute(_STATELESS, scope)


_BEFORE = {"tensorflow": _before_tensorflow_step, "jax": _before_jax_step}
