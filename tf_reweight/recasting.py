"""The same model in another floating-point type."""

import keras

_HALF = ("float16", "bfloat16")


def is_half(model):
    """Whether any layer computes in half precision."""
    return any(layer.compute_dtype in _HALF for layer in model._flatten_layers(include_self=False))


def recast(model, dtype):
    """A copy with the same weights whose layers have and compute in `dtype`; penalties' and masks' state is left behind.

    Args:
        model: a built Sequential or functional model.
        dtype: `"float32"` or `"float64"`.

    Raises:
        TypeError, ValueError, NotImplementedError: where a layer cannot be made anew from its config.
    """

    def renewed(config):
        if isinstance(config, dict):
            return {key: dtype if key == "dtype" and value else renewed(value) for key, value in config.items()}
        return [renewed(item) for item in config] if isinstance(config, list) else config

    copy = keras.models.clone_model(model, clone_function=lambda x: type(x).from_config(renewed(x.get_config())))
    copy.set_weights(model.get_weights())
    return copy
