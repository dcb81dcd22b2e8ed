"""Keras caches compiled steps: what changes in a model must drop them."""

import keras

from tf_reweight.graph.access import all_layers


def drop_compiled_steps(model):
    """Forgets the traced train, test and predict steps: Keras would go on silently with the old graph.

    Each one that was there is made anew, which traces nothing yet: a callback may change a model while `fit`, `evaluate` or
    `predict` runs, and these ask for their function once, at the beginning, and find it on the model at every batch.
    """
    for layer in (model, *all_layers(model)):
        if isinstance(layer, keras.Model):
            for name in ("train", "test", "predict"):
                if getattr(layer, f"{name}_function") is not None:
                    getattr(layer, f"make_{name}_function")(force=True)


def renew_step(model):
    """Makes the training step anew where values of untracked variables are constants in it: on JAX."""
    if keras.backend.backend() == "jax":
        model.make_train_function(force=True)


def value_before_step(variable):
    """A weight's value, asked for inside a training step that is being traced; None where a step may have moved it already."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    if not tf.inside_function():
        return None
    with tf.init_scope():
        return variable.value.numpy()


def compiled(function):
    """The function as a graph where the backend has them, TensorFlow; else itself."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    traced = []

    def call(*tensors):
        # Not a `tf.function` to call: that warns of retracing where several models have one of the same code each. Without
        # AutoGraph, which rewrites the source of all that is called: no branch of ours goes by a tensor.
        if not traced:
            traced.append(tf.function(function, autograph=False).get_concrete_function(*tensors))
        return traced[0](*tensors)

    return call
