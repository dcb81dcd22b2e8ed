"""Masks of a model's weights: put on, in places where they are saved with the layers, and taken off."""


import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.graph.access import attention_constraint, set_attention_constraint, sublayers
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.keras_classes import is_keras_own
from tf_reweight.graph.optimizers import INSTEAD, divides_by_zero, innermost
from tf_reweight.graph.walking import comes_back
from tf_reweight.kernels.constraints import KeptZeros, hold, mask_of
from tf_reweight.kernels.traced import renew_steps

_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def hold_all(model, masks):
    """Holds zeros in weights of a model, through training and through saving and loading.

    Warns at once where that cannot be had: an optimizer with a step of its own, a layer that is not made again with its
    constraints when it is loaded, a `tf.function` of the user's that was traced before and goes on without the zeros.

    Args:
        masks: list of `(variable, bool array)`; True is kept.
    """
    for variable, mask in masks:
        hold(variable, mask)
    _warn_of_what_is_not_saved(place(model))
    renew_steps(model, [variable for variable, mask in masks if not mask.all()], "the zeros will not stay")
    _warn_of_optimizer(model)


def restore_zeros(model):
    """Sets to zero what is held at zero and has another value now; returns `(variable, values, kept)` of what it was."""
    revived = _revived(model)
    for variable, values, kept in revived:
        variable.assign(np.where(kept, values, np.zeros((), values.dtype)))
    return revived


def zero_again(model):
    """Sets to zero what is held at zero and has another value now, and warns: weights were put into the model meanwhile."""
    revived = restore_zeros(model)
    if revived:
        errors.warn(
            f"Weights that are held at zero had other values and are zero again: {_paths(revived)}. Weights of before "
            "the pruning were put into the model, as EarlyStopping(restore_best_weights=True) does: train on to recover.",
        )


def warn_of_revived(model):
    """Warns where weights that are held at zero have other values, for what takes a model as it is and does not train it."""
    revived = _revived(model)
    if revived:
        errors.warn(
            f"Weights that are held at zero have other values now: {_paths(revived)}. Weights of before the pruning were put "
            "into the model, as by set_weights or load_weights: prune once more, or train on, which sets them to zero again.",
        )


def _revived(model):
    """`(variable, values, kept)` of the weights that are held at zero and have other values."""
    found = []
    for variable in model.weights:
        mask = mask_of(variable)
        if mask is not None:
            values, kept = as_numpy(variable), mask.as_numpy()
            if values[~kept].any():
                found.append((variable, values, kept))
    return found


def _paths(revived):
    return ", ".join(variable.path for variable, _, _ in revived[:5])


def place(model):
    """Puts every mask of the model where its layer saves it. Returns the paths of the weights for which there is no place."""
    homeless = []
    _place(model, comes_back(model) or not isinstance(model, keras.Model), None, homeless, set())
    return homeless


def free(variable):
    """Takes the mask of a weight off; the constraint that was there before is back. Returns whether there was one."""
    mask = mask_of(variable)
    if mask is None:
        return False
    variable.constraint = mask.inner
    return True


def _place(layer, is_saved, attention, homeless, seen):
    """Places the masks of one layer and those inside; `attention` is the attention layer around it, or None."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    children = sublayers(layer)
    inside = {id(variable) for child in children for variable in child.weights}
    for variable in layer.weights:
        if id(variable) not in inside:
            _place_one(layer, variable, is_saved, attention, homeless)
    passes = comes_back(layer)
    around = layer if isinstance(layer, _ATTENTION) else attention
    for child in children:
        _place(child, is_saved and passes, around, homeless, seen)


def _place_one(layer, variable, is_saved, attention, homeless):
    slot = _slot(layer, variable)
    mask = mask_of(variable)
    placed = None if slot is None else getattr(layer, slot)
    if mask is None:
        if isinstance(placed, KeptZeros) and attention is None:
            setattr(layer, slot, placed.inner)  # released
        return
    if slot is None or not is_saved:
        homeless.append(variable.path)
    if slot is None:
        return
    if attention is not None:
        placed = attention_constraint(attention, slot)
    if not isinstance(placed, KeptZeros):
        placed = KeptZeros(placed)
    if attention is not None:
        set_attention_constraint(attention, slot, placed)
    setattr(layer, slot, placed)
    placed.put(variable, mask)


def _slot(layer, variable):
    """The attribute under which a layer saves the constraint of one of its weights, or None."""
    name = variable.name
    slots = (f"{name}_constraint", f"{name.removesuffix('_kernel')}_constraint", "depthwise_constraint")
    slots = slots if name == "kernel" else slots[:2]
    return next((slot for slot in slots if slot in _config(layer)), None)


def _config(layer):
    try:
        return layer.get_config()
    except Exception:  # Code of the user's own may raise anything; then the layer cannot be saved either.
        return {}


def _warn_of_what_is_not_saved(paths):
    if paths:
        errors.warn(
            f"The zeros of {', '.join(paths[:5])} are held now, but will not be after the model was saved and loaded: its "
            "class makes these weights without a constraint from a config. Call tf_reweight.keep_zeros(model) after loading.",
        )


def _warn_of_optimizer(model):
    optimizer = innermost(getattr(model, "optimizer", None))
    if optimizer is not None and not is_keras_own(type(optimizer).apply):
        errors.warn(
            f"The optimizer {type(optimizer).__name__} has an `apply` of its own: zeros only stay if that applies the "
            "constraints of the weights as Keras' does.",
        )
    if optimizer is not None and divides_by_zero(optimizer):
        name = type(optimizer).__name__
        errors.warn(f"{name} makes NaN of kernels with rows and columns of zeros: before you train on, {INSTEAD}.")
