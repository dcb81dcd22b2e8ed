"""The same model in another floating-point type."""

import keras

from tf_reweight import errors

_HALF = ("float16", "bfloat16")


class RecastError(ValueError):
    """A model that cannot be made anew in another floating-point type."""


def is_half(model):
    """Whether any layer computes in half precision."""
    return any(layer.compute_dtype in _HALF for layer in model._flatten_layers(include_self=False))


def single_precision(model):
    """The model itself, or its float32 copy where layers compute in half precision, which no TFLite kernel does."""
    return recast(model, "float32") if is_half(model) else model


def recast(model, dtype):
    """A copy with the same weights whose layers have and compute in `dtype`; penalties' and masks' state is left behind.

    Args:
        model: a built Sequential or functional model.
        dtype: `"float32"` or `"float64"`.

    Raises:
        RecastError: for a subclassed model, or a layer that cannot be made anew from its config.
    """
    try:
        copy = keras.models.clone_model(model, clone_function=lambda x: type(x).from_config(_renewed(x.get_config(), dtype)))
        copy.set_weights(model.get_weights())
    except (TypeError, ValueError, NotImplementedError) as error:  # what Keras raises for the one and the other
        expected = f"The model must be one that can be made anew in {dtype}: Sequential or functional, its layers with configs."
        fix = f"Build it under the policy {dtype} and load its weights there."
        raise RecastError(errors.message(expected, fix, model=model.name)) from error
    return copy


def _renewed(config, dtype):
    """A layer's config with every floating-point type or policy in it replaced; integer inputs stay integers."""
    if isinstance(config, list):
        return [_renewed(item, dtype) for item in config]
    if not isinstance(config, dict):
        return config
    return {key: dtype if key == "dtype" and _is_float(value) else _renewed(value, dtype) for key, value in config.items()}


def _is_float(value):
    """Whether a config's `dtype` is a floating-point type, the name of a policy, or a policy's own config."""
    name = value.get("config", {}).get("name") if isinstance(value, dict) else value
    return isinstance(name, str) and "float" in name
