"""One-hot vectors in files of integers: written so that the converter gives them the scale they are stored with."""

import contextlib
import functools
import threading

# Two threads that export at a time would put back each other's function.
_TRACING = threading.RLock()


@contextlib.contextmanager
def compared():
    """Lets whatever is traced meanwhile write a one-hot as a comparison whose result is cast.

    The converter gives the output of ONE_HOT the scale of the concatenation behind it, and its two values scales of their own:
    1 then reads as another number. With learned ranges it refuses the operation. What a comparison gives is 0 or 1 in floats,
    and is quantized as any tensor.
    """
    import tensorflow as tf

    with _TRACING:
        known = tf.one_hot
        # Keras and users alike look it up here at each call.
        tf.one_hot = functools.partial(_by_comparison, tf, known)
        try:
            yield
        finally:
            tf.one_hot = known


def _by_comparison(tf, known, indices, depth, on_value=None, off_value=None, axis=None, dtype=None, name=None):
    """`tf.one_hot`; the `known` one where a comparison would not do."""
    indices = tf.convert_to_tensor(indices)
    plain = on_value is None and off_value is None and tf.as_dtype(dtype or tf.float32).is_floating
    if not plain or indices.shape.rank is None:
        return known(indices, depth, on_value, off_value, axis, dtype, name)
    axis = indices.shape.rank if axis in (None, -1) else axis
    places = tf.reshape(tf.range(depth), [-1] + [1] * (indices.shape.rank - axis))
    indices = tf.expand_dims(tf.cast(indices, tf.int32), axis)
    # A single comparison and its cast are what the converter makes ONE_HOT of by itself.
    alike = tf.logical_and(tf.greater_equal(indices, places), tf.less_equal(indices, places))
    return tf.cast(alike, dtype or tf.float32)
