"""Gradients: those that a training computes, seen from the call that applies them, and those of labelled examples."""

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.graph.optimizers import innermost

# The criterion that ranks groups by them.
TAYLOR = "taylor"
# Batches after which it is known well enough how the loss reacts, where there is time for them.
ENOUGH_BATCHES = 20
# How much of a moving average a new batch replaces, once there are enough.
_NEW = 0.02


def dense(gradient):
    """A gradient as one float32 tensor: that of a table of rows has each row as often as it was looked up, to be added up."""
    import tensorflow as tf

    return ops.cast(tf.convert_to_tensor(gradient), "float32")


class Listener:
    """Lets a function see every gradient that a training applies.

    Args:
        see: takes a dict from the `id` of each trainable variable to its gradient, or None.
    """

    def __init__(self, see):
        self._see, self._optimizer = see, None

    def open(self, optimizer):
        """Listens to an optimizer from now on; the training step has to be traced anew."""
        # Inside loss scaling: what overflowed does not come this far, and the rest has its own scale.
        self._optimizer = optimizer = innermost(optimizer)
        apply = optimizer.apply

        def listening(gradients, trainable_variables=None):
            variables = optimizer.trainable_variables if trainable_variables is None else trainable_variables
            self._see({id(variable): gradient for variable, gradient in zip(variables, gradients)})
            return apply(gradients, trainable_variables)

        optimizer.apply = listening

    def close(self):
        """Listens no more."""
        if self._optimizer is not None:
            vars(self._optimizer).pop("apply", None)
            self._optimizer = None


def can_listen(model=None):
    """Whether gradients can be seen here: in TensorFlow's training step, which runs in variables, of a model's optimizer."""
    return keras.backend.backend() == "tensorflow" and (model is None or model.optimizer is not None)


def average(kept, batches, values, every=1):
    """Takes the values of a batch into a moving average; those that are not finite would stay in it for ever, and are left out.

    Args:
        kept: variable of the shape of `values`, the average.
        batches: variable, a scalar: how many batches it has seen.
        values: float32 tensor.
        every: batches that come for one that is taken in.
    """
    seen, finite = batches.value, ops.isfinite(ops.sum(values))
    fresh = ops.where(finite, ops.maximum(1.0 / (seen + 1.0), every * _NEW), 0.0)
    values = ops.where(finite, values, kept)
    kept.assign(kept + fresh * (values - kept))
    batches.assign(seen + ops.cast(finite, "float32"))


def check_gradients(model, examples):
    """Raises ValueError where `on_examples` cannot tell how the loss reacts: without labels, a loss or TensorFlow."""
    if not can_listen() or not model.compiled:
        fix = 'Compile the model with its loss, on the TensorFlow backend, or rank by criterion="lamp".'
        expected = 'criterion="taylor" needs the gradients of a loss.'
        received = {"compiled": model.compiled, "backend": keras.backend.backend()}
        raise ValueError(errors.message(expected, fix, **received))
    if examples is None or examples.labels is None:
        fix = 'Pass data=(x, y), or rank by criterion="lamp".'
        raise ValueError(errors.message('criterion="taylor" needs labelled examples.', fix, labels=None))


def on_examples(model, variables, examples, batch_size=32):
    """The gradients of the compiled loss on one batch of labelled examples after another, in a fixed order, as in inference.

    Args:
        model: a compiled model, on TensorFlow; see `check_gradients`.
        variables: list of its variables.
        examples: `data.labelled.Labelled`.
        batch_size: examples whose gradients are averaged.

    Yields:
        Mapping of each variable's `id` to its gradient, or None where the loss does not depend on it.

    Raises:
        ValueError: for labels that the loss does not take, and for gradients that are not finite, among which no rank means
            anything.
    """
    import tensorflow as tf

    order = np.random.default_rng(0).permutation(examples.num)
    for start in range(0, len(order), batch_size):
        x, y = examples.batch(model, order[start : start + batch_size])
        with tf.GradientTape() as tape:
            loss = _loss(model, x, y)
        found = tape.gradient(loss, [variable.value for variable in variables])
        _check_finite(variables, found, float(loss))
        yield {id(variable): gradient for variable, gradient in zip(variables, found)}


def _loss(model, x, y):
    predicted = model(x, training=False)
    try:
        return model.compute_loss(x=x, y=y, y_pred=predicted, training=False)
    except Exception as error:  # Keras and TensorFlow have types of their own for what a loss refuses
        fix = 'Pass labels as `evaluate` takes them, or rank by criterion="lamp".'
        expected = "`data` must have labels that the loss of the model takes."
        raise ValueError(errors.message(expected, fix, loss_says=errors.said_by(error)[:300])) from error


def _check_finite(variables, gradients, loss):
    pairs = [(variable, gradient) for variable, gradient in zip(variables, gradients) if gradient is not None]
    broken = [variable.path for variable, gradient in pairs if not bool(ops.all(ops.isfinite(dense(gradient))))]
    if broken:
        fix = 'Look at the loss and its labels, or rank by criterion="lamp".'
        expected = 'criterion="taylor" needs gradients that are finite (no NaN, no infinity).'
        raise ValueError(errors.message(expected, fix, loss=loss, weights=broken[:5]))
