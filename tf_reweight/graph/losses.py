"""Which loss each output of a model has, and what it says of the output."""

import keras

from tf_reweight.checks import is_sequence

SPARSE = ("sparse_categorical_crossentropy",)
ONE_HOT = ("categorical_crossentropy", "categorical_focal_crossentropy", "kl_divergence")
BINARY = ("binary_crossentropy", "binary_focal_crossentropy")
OVERLAP = ("dice",)
QUANTITIES = (
    "mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_logarithmic_error", "huber",
    "log_cosh", "poisson",
)  # fmt: skip
_ALIASES = {
    "mse": "mean_squared_error", "mae": "mean_absolute_error", "mape": "mean_absolute_percentage_error",
    "bce": "binary_crossentropy", "kld": "kl_divergence", "k_l_divergence": "kl_divergence", "logcosh": "log_cosh",
}  # fmt: skip


def is_chosen_by_shape(loss):
    """Whether it is the cross-entropy that Keras chooses by the shapes of labels and outputs."""
    return str(loss).lower() in ("crossentropy", "ce")


def loss_name(loss):
    """The name of one of Keras' losses, however it is given: a name, an object, a function; None for a user's own."""
    if loss is None or is_chosen_by_shape(loss):
        return None
    loss = keras.losses.get(loss)
    if not loss.__module__.startswith("keras."):
        return None
    name = getattr(loss, "__name__", type(loss).__name__)
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
    return _ALIASES.get(name, name)


def losses_of(loss, names):
    """One loss per output, in the order of the outputs; None where an output has none.

    Args:
        loss: as `compile` takes it: one for all, or a list, dict or structure of them.
        names: of the outputs.
    """
    if not keras.tree.is_nested(loss):
        return [loss] * len(names)
    if not is_sequence(loss):
        return [loss.get(name) for name in names]
    flat = keras.tree.flatten(loss)
    return flat if len(flat) == len(names) else [None] * len(names)
