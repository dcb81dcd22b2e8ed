"""Whether something is a built Keras 3 model."""

import keras

from tf_reweight import errors
from tf_reweight.graph.access import is_layer, sublayers


def check_model(model):
    """Raises unless `model` is a built Keras 3 model."""
    check_layer(model)
    inside = [layer.name for layer in sublayers(model) if not layer.built]
    # A class that trains its parts by a `train_step` of its own, and never calls itself, has all that it needs.
    trains_parts = isinstance(model, keras.Model) and not isinstance(model, keras.Sequential)
    has_all = model.built or trains_parts and not inside
    unbuilt = inside if model.built else [model.name, *inside]
    if not has_all or not model.weights and unbuilt:
        raise ValueError(
            errors.message(
                "`model` must be built: its kernels must exist.",
                "Give it an Input, call `model.build(input_shape)`, or run it once on a batch.",
                model=model.name,
                unbuilt_layers=unbuilt[:5],
            )
        )


def check_eager():
    """Raises inside a `tf.function`, where weights have no values that could be looked at or changed."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if not tf.executing_eagerly():
        expected = "What looks at weights or changes a model needs their values, which a function that is being traced has not."
        raise ValueError(errors.message(expected, "Call it eagerly, outside of tf.function.", eagerly=False))


def check_finite(model):
    """Raises for weights that are not finite: a rank among them means nothing, and the converter makes garbage of them."""
    _check_finite(model, model.weights)


def _check_finite(model, weights):
    check_eager()
    check_model(model)
    floats = [weight for weight in weights if "float" in keras.backend.standardize_dtype(weight.dtype)]
    broken = [weight.path for weight in floats if not bool(keras.ops.all(keras.ops.isfinite(weight.value)))]
    if broken:
        fix = "Training diverged, or its examples are not finite: load an earlier checkpoint, and lower the learning rate."
        raise ValueError(errors.message("Every weight must be finite (no NaN, no infinity).", fix, weights=broken[:5]))


def check_trained_finite(model):
    """Raises where what training moves is not finite; a mask of -inf that a layer keeps beside it may be."""
    _check_finite(model, model.trainable_weights)


def check_layer(model):
    """Raises unless `model` is a Keras 3 model or layer, built or not."""
    if not is_layer(model):
        raise TypeError(
            errors.message(
                "`model` must be a Keras 3 model.",
                "tf_keras models: save as .keras and load with `keras.saving.load_model`.",
                model=type(model).__module__ + "." + type(model).__name__,
            )
        )
