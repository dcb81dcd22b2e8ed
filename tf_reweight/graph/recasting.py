"""The same model in another floating-point type."""

import keras

from tf_reweight import errors
from tf_reweight.graph.walking import is_graph

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
        RecastError: for a subclassed model, or a layer that cannot be made anew from its config, or not with its weights.
    """
    way_out = f"build the model under the policy {dtype} and load its weights there."
    if not is_graph(model):
        expected = f"A model must be Sequential or functional to be made anew in {dtype}."
        raise RecastError(errors.message(expected, f"Or {way_out}", model=model.name))

    def refusal(layer):
        expected = f"A layer of {type(layer).__name__} must have a config from which it can be made anew in {dtype}."
        return RecastError(errors.message(expected, f"Complete its get_config, or {way_out}", layer=layer.name))

    def anew(layer):
        try:
            config = layer.get_config()
        except NotImplementedError as error:  # Keras' word for a missing one
            raise refusal(layer) from error
        config = _renewed(config, dtype)
        try:
            return type(layer).from_config(config)
        except (TypeError, ValueError) as error:  # what constructors say to a config that is not theirs
            raise refusal(layer) from error

    copy = keras.models.clone_model(model, clone_function=anew)
    for old, new in zip(model.layers, copy.layers):
        if [weight.shape for weight in old.weights] != [weight.shape for weight in new.weights]:
            raise refusal(old)
    copy.set_weights(model.get_weights())
    for layer in copy._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # what it computes with is made of its weights once, when these are learned or loaded
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
