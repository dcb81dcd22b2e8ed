"""The largest and the smallest entry by one operation: Keras tells the signs of zeros apart by their bits before it looks."""

import contextlib
import functools
import threading

import keras
from keras.src import backend

# Two threads that export at a time would put back each other's function.
_TRACING = threading.RLock()
_NAMES = ("argmax", "argmin")


@contextlib.contextmanager
def plain():
    """Lets whatever is traced meanwhile look for the largest or smallest entry of real numbers without a look at their bits.

    TFLite has no operation for these bits. The first of equal entries is taken as ever, and -0.0 is equal to 0.0, where Keras
    takes it for less.
    """
    import tensorflow as tf

    with _TRACING:
        known = {name: getattr(backend.numpy, name) for name in _NAMES}
        # Operations and users' calls of `keras.ops` look it up here at each call.
        for name, function in known.items():
            setattr(backend.numpy, name, functools.partial(_by_one_operation, tf, getattr(tf, name), function))
        try:
            yield
        finally:
            for name, function in known.items():
                setattr(backend.numpy, name, function)


def _by_one_operation(tf, operation, known, x, axis=None, keepdims=False):
    """What the `known` function of Keras gives, which is left whatever is not of real numbers."""
    x = keras.ops.convert_to_tensor(x)
    if not x.dtype.is_floating or not x.shape.rank:
        return known(x, axis, keepdims)
    numbers = tf.cast(x, tf.float32) if x.dtype.size < 4 else x
    if axis is None:
        found = operation(tf.reshape(numbers, [-1]), output_type=tf.int32)
        return tf.reshape(found, [1] * x.shape.rank) if keepdims else found
    found = operation(numbers, axis=axis, output_type=tf.int32)
    return tf.expand_dims(found, axis) if keepdims else found
