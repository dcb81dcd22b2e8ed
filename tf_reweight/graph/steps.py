"""Training and test steps: what is made before one that is being traced, and one test step on any backend."""

import contextlib

import keras
import numpy as np
from keras.src.backend.common import global_state

from tf_reweight import errors

_STATELESS = "stateless_scope"  # where Keras keeps the scope in which it traces a step for JAX


def before_step():
    """Within it, variables are made before the training step that is being traced, and not by it."""
    return _BEFORE.get(keras.backend.backend(), contextlib.nullcontext)()


def test_step(model, batch):
    """Measures one batch; returns a dict of the metrics so far, as `evaluate` names them.

    Args:
        model: a compiled model.
        batch: tuple `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        ValueError: for a class with a `test_step` of its own that asks for compiled metrics which nothing has updated.
    """
    with updated_metrics(model):
        if keras.backend.backend() == "tensorflow":
            return _flat(model.test_step(batch))  # not compiled: a few batches of another model each time
        return model.test_on_batch(*batch, return_dict=True)


def _flat(logs):
    """Logs as `evaluate` gives them: of all compiled metrics `{m.name: m.result() for m in self.metrics}` has one dict."""
    found = {}
    for name, value in logs.items():
        found.update(_flat(value) if isinstance(value, dict) else {name: value})
    return found


@contextlib.contextmanager
def updated_metrics(model):
    """Within it Keras' "Cannot get result()" says which step of the class does not update the compiled metrics.

    Keras makes them where a step first updates them, and asks for their results after every epoch, whatever the steps return.
    """
    try:
        yield
    except ValueError as error:
        metrics = model._compile_metrics
        if metrics is None or metrics.built or "Cannot get result()" not in str(error):
            raise
        own = f"`train_step` and `test_step` of {type(model).__name__}"
        expected = f"Where a model is compiled with metrics, {own} must update them: nothing had when Keras asked for results."
        fix = "Call `self.compute_metrics(x, y, y_pred, sample_weight)` in both, or compile the model without metrics."
        given = [each for each in (metrics._user_metrics, metrics._user_weighted_metrics) if each]
        raise ValueError(errors.message(expected, fix, metrics=given[0] if len(given) == 1 else given)) from error


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
