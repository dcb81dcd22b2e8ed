"""Models of which every replica has a copy (`tf.distribute`): where new variables go, and what replicas add up to."""

import contextlib

import keras
from keras import ops


def beside(variable):
    """Within it, new variables live where a variable does: in a copy on each device of its strategy.

    A state that a training step changes must: each replica would change the one copy otherwise, one after the other.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    value = variable.value
    # Inside a training step the strategy is in force already, and may not be entered again.
    if tf.distribute.has_strategy() or not isinstance(value, tf.distribute.DistributedValues):
        return contextlib.nullcontext()
    return value.distribute_strategy.scope()


def can_count():
    """Whether training steps can be counted inside them, by a variable that no model tracks; see `beside`."""
    return keras.backend.backend() == "tensorflow"


def beside_all(model):
    """`beside` the variables of a model or layer, which live in one place."""
    return next((beside(variable) for variable in model.variables), contextlib.nullcontext())


def as_numpy(variable):
    """A variable's value as an array: of the first replica's copy where there are several."""
    value = variable.value
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        value = tf.convert_to_tensor(value)  # NumPy cannot read what is mirrored inside the scope of its strategy
    return ops.convert_to_numpy(value)


def copies_of(variable):
    """The tensors or backend variables that hold a variable: one for each replica, or the one there is."""
    return tuple(getattr(variable.value, "values", None) or (variable.value,))


def sum_over_replicas(value):
    """The sum of what all replicas have for a value, in each of them; itself outside a distributed step."""
    replica = _replica()
    return value if replica is None else replica.all_reduce("SUM", value)


def share_of_replica(mean):
    """The part that one replica adds to a loss which is the mean of its own examples; gradients of all replicas are summed."""
    replica = _replica()
    return mean if replica is None else mean / replica.num_replicas_in_sync


def of_all_replicas(value):
    """The values of all replicas `(replicas, *shape)`, in each of them; `(1, *shape)` outside a distributed step."""
    replica = _replica()
    if replica is None:
        return value[None]
    count = replica.num_replicas_in_sync
    # Replicas can be added up, and not compared: each adds a row of its own.
    own = ops.equal(ops.arange(count), ops.cast(replica.replica_id_in_sync_group, "int32"))
    own = ops.reshape(own, (count, *([1] * len(value.shape))))
    return replica.all_reduce("SUM", ops.where(own, value[None], ops.zeros((), dtype=value.dtype)))


def _replica():
    """The replica in whose step this is, where there are several; else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return None if replica is None or replica.num_replicas_in_sync == 1 else replica
