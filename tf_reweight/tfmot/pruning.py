"""Layers and models that are pruned while they train, and plain models out of them."""

import abc
import contextlib

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.baselines import schedules
from tf_reweight.checks import check_name, is_integer, is_sequence, listed
from tf_reweight.graph.access import all_layers
from tf_reweight.graph.additions import own_weights
from tf_reweight.graph.checking import check_model
from tf_reweight.graph.copying import Copied, assign_like, carry_state
from tf_reweight.graph.rebuilding import Replacements, rebuild
from tf_reweight.graph.ties import check_untied
from tf_reweight.graph.walking import is_graph
from tf_reweight.kernels.selection import select
from tf_reweight.pruning.masked import Masked, strip
from tf_reweight.tfmot.schedules import ConstantSparsity
from tf_reweight.tfmot.wrapper import PruneLowMagnitude

# tfmot leaves their kernels dense, which hold few weights and much of the accuracy.
_DENSE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
# What a wrapper takes beside its layer; tfmot's tutorials pass `input_shape`.
_OPTIONS = ("name", "trainable", "dtype", "autocast", "activity_regularizer", "input_shape", "input_dim")


class PruningPolicy(abc.ABC):
    """Which layers of a model are pruned; derive from it and pass an object as `pruning_policy`."""

    @abc.abstractmethod
    def allow_pruning(self, layer):
        """Whether a layer may be pruned."""

    def ensure_model_supports_pruning(self, model):
        """Raises ValueError where the policy does not suit the model; here it suits all."""


def prune_low_magnitude(
    to_prune, pruning_schedule=None, block_size=(1, 1), block_pooling_type="AVG", pruning_policy=None,
    sparsity_m_by_n=None, **kwargs,
):  # fmt: skip
    """A layer or model that is pruned while it trains, with `UpdatePruningStep` among the callbacks of `fit`.

    Args:
        to_prune: a layer, a list of layers, or a built Sequential or functional model, which stays as it is. A layer that is
            wrapped already is returned as it is.
        pruning_schedule: how much is pruned at which step; default half, from the first step on.
        block_size: `(rows, columns)` of blocks that go together; also for convolutions, whose kernel is then the matrix
            `(height * width * in, out)`.
        block_pooling_type: tfmot's `"AVG"` or `"MAX"`; blocks are ranked by the root mean square of their weights here, and
            another wish is said to be unmet.
        pruning_policy: a `PruningPolicy`; None prunes every layer that has a kernel, but of a model's no depthwise ones. Single
            layers that it does not allow are returned as they are.
        sparsity_m_by_n: `(m, n)`: m of each n consecutive weights are zero, whatever the schedule says.
        **kwargs: of the wrapper, for a single layer.

    Returns:
        A wrapped layer, a list of them, or a new model, not compiled.

    Raises:
        TypeError, ValueError: for what is no Keras 3 layer or model, a subclassed model, a model without a kernel or of layers
            that have a weight in common, or options that do not go together.

    Example:
        >>> pruned = prune_low_magnitude(model, PolynomialDecay(0.5, 0.8, begin_step=0, end_step=1000))
        >>> pruned.compile("adam", loss)
        >>> pruned.fit(x, y, callbacks=[UpdatePruningStep()])
        >>> plain = strip_pruning(pruned)
    """
    schedule = ConstantSparsity(0.5, 0) if pruning_schedule is None else schedules.get(pruning_schedule)
    structure = _structure(block_size, block_pooling_type, sparsity_m_by_n)
    _check_policy(pruning_policy)

    def wrapped(layer, **options):
        return PruneLowMagnitude(layer, schedule, structure, **options)

    if not isinstance(to_prune, keras.Model):
        _check_layers(listed(to_prune), kwargs)
        spared = [_is_spared(layer, pruning_policy) for layer in listed(to_prune)]
        layers = [layer if kept else wrapped(layer, **kwargs) for layer, kept in zip(listed(to_prune), spared)]
        return layers if is_sequence(to_prune) else layers[0]
    _check_graph(to_prune, kwargs)
    if pruning_policy is not None:
        pruning_policy.ensure_model_supports_pruning(to_prune)
    check_untied(to_prune, "prune_low_magnitude")
    chosen = _with_kernels(to_prune, structure, pruning_policy)
    made = rebuild(to_prune, Replacements(lambda path, layer: _Wrapped(layer, wrapped) if id(layer) in chosen else None))
    if not wrappers(made):
        fix = "Depthwise kernels stay dense, and those that the policy does not allow."
        raise ValueError(errors.message("A layer of the model must have a kernel to prune.", fix, model=to_prune.name))
    return made


def strip_pruning(model):
    """A plain Keras model with the zeros in its kernels, and without wrappers.

    Zeros are not held in further training, as in tfmot; `tf_reweight.keep_zeros` holds them.

    Args:
        model: from `prune_low_magnitude`; it stays as it is.

    Returns:
        A new model, not compiled.

    Raises:
        TypeError, ValueError: for what is no built Sequential or functional model.
    """
    check_model(model)
    found = wrappers(model)
    if any(layer.last_step < 0 for layer in found):
        text = "No weight was pruned: sparsity.keras.UpdatePruningStep() was not among the callbacks of a fit."
        errors.warn(text)
    else:
        _warn_of_early_end(found)
    return strip(model)


def prune_scope():
    """tfmot's scope for loading saved models, which needs none here: the classes are known once tf_reweight is imported."""
    return contextlib.nullcontext()


def wrappers(model):
    """The layers of a model that are pruned while it trains."""
    return [layer for layer in all_layers(model) if isinstance(layer, PruneLowMagnitude)]


class _Wrapped(Copied):
    """A copy of a layer inside the wrapper."""

    def __init__(self, layer, wrapped):
        super().__init__(layer)
        # A wrapper is told the shape of one input; attention has several.
        self.copy.build_from_config(layer.get_build_config())
        self.copy = wrapped(self.copy)

    def fill(self):
        for variable, old in zip(self.copy.layer.weights, own_weights(self.operation)):
            assign_like(variable, old, old.value)
        carry_state(self.copy.layer, self.operation)


def _with_kernels(model, structure, policy):
    """The ids of the outermost layers whose kernels are pruned: an attention layer, not the projections inside it."""
    chosen = set()
    for item in select(model, structure)[0]:
        (layer, *_) = [part for part in (*item.target.parents, item.target.layer) if not is_graph(part)]
        if not isinstance(layer, (*_DENSE, Masked)) and (policy is None or policy.allow_pruning(layer)):
            chosen.add(id(layer))
    return chosen


def _structure(block_size, block_pooling_type, sparsity_m_by_n):
    """The config of what goes together."""
    block = _pair("block_size", block_size, "(rows, columns), as (1, 4)")
    check_name("block_pooling_type", block_pooling_type, ("AVG", "MAX"))
    if sparsity_m_by_n is not None:
        if block != (1, 1):
            received = {"block_size": block_size, "sparsity_m_by_n": sparsity_m_by_n}
            raise ValueError(errors.message("Pass one of `block_size` and `sparsity_m_by_n`.", "Leave one out.", **received))
        zeros, of = _pair("sparsity_m_by_n", sparsity_m_by_n, "(zeros, of how many), as (2, 4)")
        if zeros >= of:
            fix = "It is (zeros, of how many), as (2, 4)."
            raise ValueError(errors.message("`sparsity_m_by_n` must leave weights.", fix, sparsity_m_by_n=sparsity_m_by_n))
        return {"name": "n_of_m", "n": of - zeros, "m": of}
    if block == (1, 1):
        return "unstructured"
    if block_pooling_type == "MAX":
        errors.warn("Blocks are ranked by the root mean square of their weights, not by their largest.")
    return {"name": "block", "shape": list(block)}


def _pair(name, value, meaning):
    pair = tuple(value) if is_sequence(value) else ()
    if len(pair) != 2 or not all(is_integer(number) and number > 0 for number in pair):
        raise ValueError(errors.message(f"`{name}` must be two whole numbers > 0.", f"They are {meaning}.", **{name: value}))
    return pair


def _check_layers(layers, options):
    if not layers:
        fix = "Pass the layers to wrap."
        raise ValueError(errors.message("`to_prune` must hold at least one layer.", fix, to_prune=layers))
    for layer in layers:
        _check_layer(layer)
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        expected = f"Options of the wrapper are {', '.join(_OPTIONS)}."
        raise TypeError(errors.message(expected, "Pass others to the layer itself.", options=unknown))


def _is_spared(layer, policy):
    return isinstance(layer, PruneLowMagnitude) or (policy is not None and not policy.allow_pruning(layer))


def _check_layer(layer):
    if not isinstance(layer, keras.Layer):
        fix = "Models of tf_keras: save as .keras and load with keras.saving.load_model."
        found = f"{type(layer).__module__}.{type(layer).__name__}"
        expected = "`to_prune` must be a Keras 3 layer or model, or a list of layers."
        raise TypeError(errors.message(expected, fix, to_prune=found))


def _check_policy(policy):
    if policy is not None and not isinstance(policy, PruningPolicy):
        fix = "Derive its class from PruningPolicy."
        raise TypeError(errors.message("`pruning_policy` must be a PruningPolicy.", fix, pruning_policy=policy))


def _check_graph(model, options):
    check_model(model)
    if options:
        fix = "Leave them out, or wrap layers one by one."
        raise TypeError(errors.message("Options of the wrapper are for single layers.", fix, **options))
    if not is_graph(model):
        fix = "Wrap its layers where they are made, or prune it in place with tf_reweight.baselines.GradualMagnitude."
        raise ValueError(errors.message("`to_prune` must be Sequential or functional.", fix, to_prune=type(model).__name__))


def _warn_of_early_end(layers):
    """Says where the schedule was left before its end."""
    for layer in layers:
        schedule = layer.pruning_schedule
        final = schedule.sparsity(np.inf if schedule.end_step < 0 else schedule.end_step)
        if final - layer.reached > 0.01:
            errors.warn(
                f"Training ended before the schedule: {layer.reached:.0%} of {final:.0%} are pruned, by the masks of step "
                f"{layer.last_step}. Train longer, or lower `end_step` or `frequency`.",
            )
            return
