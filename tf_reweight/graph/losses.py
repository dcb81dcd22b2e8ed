"""Which loss and which metrics each output of a model has, and what they say of the output."""

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
    return _name_in_keras(keras.losses.get(loss))


def metric_name(metric):
    """The name of one of Keras' metrics, however it is given; None for a user's own, and for what Keras chooses by shapes."""
    if metric is None or is_accuracy_by_shape(metric) or is_chosen_by_shape(metric):
        return None
    return _name_in_keras(keras.metrics.get(metric))


def is_accuracy_by_shape(metric):
    """Whether it is the accuracy that Keras chooses by the shapes of labels and outputs."""
    return str(metric).lower() in ("accuracy", "acc")


def _name_in_keras(given):
    if not given.__module__.startswith("keras."):
        return None
    name = getattr(given, "__name__", type(given).__name__)
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


def metrics_of(metrics, names):
    """A list of metrics per output, in the order of the outputs; empty where an output has none.

    Args:
        metrics: as `compile` takes them: a list for the only output, or a list or dict with some for each.
        names: of the outputs.
    """
    if len(names) == 1 and is_sequence(metrics):
        return [keras.tree.flatten(metrics)]
    if is_sequence(metrics):
        return [keras.tree.flatten(part) for part in metrics] if len(metrics) == len(names) else [[] for _ in names]
    if keras.tree.is_nested(metrics):
        return [keras.tree.flatten(metrics.get(name)) for name in names]
    return [keras.tree.flatten(metrics) for _ in names]
