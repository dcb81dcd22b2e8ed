"""Whether loss, weights and metrics of a task are for outputs that the model has, looked at before any work."""


import keras

from tf_reweight import errors
from tf_reweight.checks import is_sequence

_METRICS = ("metrics", "weighted_metrics")
# Weights that say nothing of an output without a loss.
_IDLE = (None, 0, 1)


def check(task, model, outputs, names):
    """Raises where Keras would fail in its own words, or train for something else than the task says.

    Args:
        task: the `Task`; one whose class measures in its own way may mean its own things, and is not for here.
        model: the user's, whose layers may give a single output its name.
        outputs: of a batch, in the model's structure.
        names: of the outputs, from `scoring.names_of`.

    Raises:
        ValueError: for names of outputs that there are not, and numbers of losses, weights or metrics that do not fit.
    """
    if len(keras.tree.flatten(outputs)) != len(names):
        return  # outputs inside outputs: Keras compares the structures
    # A single output has all metrics, by whatever of its names.
    also = set() if len(names) > 1 else {layer.name for layer in model.layers}
    by_key = keras.tree.is_nested(outputs) and not is_sequence(outputs)
    _check_loss(task.loss, names, by_key)
    _check_weights(task.loss_weights, task.loss, names)
    for argument in _METRICS:
        _check_metrics(argument, vars(task)[argument], names, also)


def _check_loss(loss, names, by_key):
    if _by_name(loss):
        _check_known("loss", loss, names)
        without = [name for name in names if name not in loss]
        if without and not by_key:
            expected = "A loss by names must be there for each output, where the model gives no dict."
            _refuse(expected, f"Add {_listed(without)}, or None for an output that needs none.", names, loss=loss)
    # Several on a single output add up.
    if is_sequence(loss) and len(loss) != len(names) and not (len(names) == 1 and loss):
        expected = f"A list of losses must have one for each output, {len(names)}."
        _refuse(expected, "Name them: {output: loss}, or None for an output that needs none.", names, loss=loss)


def _check_weights(weights, loss, names):
    if weights is None or loss is None:
        return
    fix = "Give a weight for each loss, by the names of the outputs."
    if _by_name(weights):
        _check_known("loss_weights", weights, names)
        if not keras.tree.is_nested(loss) and len(names) > 1:
            expected = "Weights by names must go with a loss for each output; a single loss has one weight."
            _refuse(expected, "Name a loss for each output too.", names, loss=loss, loss_weights=weights)
        if is_sequence(loss) and len(names) > 1 and list(names) != sorted(names):  # Keras takes weights in the order of names
            moved = [(weight, name) for weight, name in zip(sorted(names), names) if weight != name]
            pairs = [f"{weight!r} to the loss of {name!r}" for weight, name in moved]
            expected = "Weights by names must go with losses by names: beside a list Keras takes them by the alphabet, and"
            expected += f" would give the weight of {', '.join(pairs)}."
            _refuse(expected, "Name the losses too: {output: loss}.", names, loss=loss, loss_weights=weights)
    if _by_name(weights) and _by_name(loss):
        idle = [name for name in weights if name not in loss]
        if idle:
            fix = f"Leave {_listed(idle)} out of loss_weights, or add a loss."
            _refuse("Each weight must be of an output that has a loss.", fix, names, loss=loss, loss_weights=weights)
        missing = [name for name in loss if name not in weights]
        if missing:
            expected = "Each loss must have a weight where any has."
            _refuse(expected, f"Add {_listed(missing)} to loss_weights.", names, loss=loss, loss_weights=weights)
        _say_idle([name for name in loss if loss[name] is None and weights[name] not in _IDLE])
    num = len(keras.tree.flatten(loss))
    if len(keras.tree.flatten(weights)) != num:
        expected = f"`loss_weights` must hold as many weights as there are losses, {num}."
        _refuse(expected, fix, names, loss=loss, loss_weights=weights)
    if is_sequence(loss) and is_sequence(weights) and len(loss) == len(weights) == len(names):
        _say_idle([name for name, each, weight in zip(names, loss, weights) if each is None and weight not in _IDLE])


def _check_metrics(argument, metrics, names, also):
    if _by_name(metrics):
        _check_known(argument, [name for name in metrics if name not in also], names)
    if not is_sequence(metrics) or not metrics or len(metrics) == len(names):
        return
    if len(names) > 1 or all(is_sequence(part) or part is None for part in metrics):
        expected = f"A list of `{argument}` must have those of each output, {len(names)}."
        _refuse(expected, "Name them: {output: [metric, ...]}.", names, **{argument: metrics})


def _by_name(given):
    return isinstance(given, dict)


def _check_known(argument, given, names):
    for name in given:
        if name not in names:
            raise ValueError(errors.unknown(f"output of the model in `{argument}`", name, names))


def _say_idle(names):
    if names:
        text = f"`loss_weights` weighs {_listed(names)}, of which there is no loss: the weight does nothing."
        errors.warn(text)


def _listed(names):
    return ", ".join(map(repr, names))


def _refuse(expected, fix, names, **received):
    raise ValueError(errors.message(expected, fix, **received, outputs=list(names)))
