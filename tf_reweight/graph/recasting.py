"""The same model in another floating-point type."""

from tf_reweight import errors
from tf_reweight.graph.access import all_layers
from tf_reweight.graph.additions import own_weights
from tf_reweight.graph.copying import Copied, config_of, input_like, without_penalties
from tf_reweight.graph.rebuilding import Replacements, rebuild
from tf_reweight.graph.walking import is_graph

_HALF = ("float16", "bfloat16")


class RecastError(ValueError):
    """A model that cannot be rebuilt in another floating-point type."""


def is_half(model):
    """Whether any layer computes in half precision."""
    return _computes_in(model, _HALF)


def is_stored_half(model):
    """Whether any layer has its weights in half precision, as under the policy float16; under mixed_float16 none has."""
    return any(layer.variable_dtype in _HALF for layer in all_layers(model))


def is_double(model):
    """Whether any layer computes in double precision."""
    return _computes_in(model, ("float64",))


def _computes_in(model, types):
    return any(layer.compute_dtype in types for layer in all_layers(model))


def single_precision(model):
    """The model itself, or its float32 copy where layers compute in half or double precision, which no TFLite kernel does."""
    return recast(model, "float32") if is_half(model) or is_double(model) else model


def recast(model, dtype):
    """A copy with the same weights whose layers have and compute in `dtype`; penalties' and masks' state is left behind.

    Args:
        model: a built Sequential or functional model.
        dtype: `"float32"` or `"float64"`.

    Raises:
        RecastError: for a subclassed model, or a layer that cannot be rebuilt from its config, or not with its weights.
    """
    way_out = f"build the model under the policy {dtype} and load its weights there."
    if not is_graph(model):
        expected = f"A model must be Sequential or functional to be rebuilt in {dtype}."
        raise RecastError(errors.message(expected, f"Or {way_out}", model=model.name))

    def refusal(layer):
        expected = f"A layer of {type(layer).__name__} must have a config from which it can be rebuilt in {dtype}."
        return RecastError(errors.message(expected, f"Complete its get_config, or {way_out}", layer=layer.name))

    def new_input(tensor):
        return input_like(tensor, dtype=dtype if "float" in tensor.dtype else None)

    def choose(path, operation):
        return None if is_graph(operation) else _Recast(operation, dtype, refusal)

    return rebuild(model, Replacements(choose, new_input), new_input=new_input)


class _Recast(Copied):
    """A copy in another type; refuses where the layer's config does not tell all that it is made of."""

    def __init__(self, operation, dtype, refusal):
        self.refusal = refusal
        try:
            config = _renewed(without_penalties(config_of(operation)), dtype)
            super().__init__(operation, **config)
        except (NotImplementedError, TypeError, ValueError) as error:  # no config, or one that the constructor refuses
            raise refusal(operation) from error

    def fill(self):
        if [weight.shape for weight in own_weights(self.operation)] != [weight.shape for weight in self.copy.weights]:
            raise self.refusal(self.operation)
        super().fill()


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
