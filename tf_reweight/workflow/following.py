"""How far the outputs of one model are from those of another, by what each output is trained for."""

import dataclasses
import typing

import keras

from tf_reweight.graph.losses import BINARY, ONE_HOT, OVERLAP, QUANTITIES, SPARSE, is_chosen_by_shape, loss_name, losses_of
from tf_reweight.workflow import labels
from tf_reweight.workflow.scoring import names_of

_LEAST = 1e-7


@dataclasses.dataclass(frozen=True)
class Followed:
    """One output that follows a teacher's.

    Attributes:
        distance: function `(teacher's output, student's output, temperature) -> one figure per example and position`, least
            where both are alike.
        weight: of the output in the loss, as compiled.
    """

    distance: typing.Callable
    weight: float


def followed(task, model, outputs):
    """What each output of a model follows, in order; None for an output without a loss.

    Classes, as probabilities or logits, follow by the Kullback-Leibler divergence of probabilities softened by the temperature
    (Hinton et al., arXiv 1503.02531), and so does each decision for itself. Quantities follow by the loss that they are trained
    with, and outputs with any other loss, such as the user's own, by their squared difference.

    Args:
        task: the `Task`.
        model: the Keras model.
        outputs: arrays of a batch, in the model's structure.
    """
    names, flat = names_of(model, outputs), keras.tree.flatten(outputs)
    losses = losses_of(task.loss, names)
    weights = losses_of(task.loss_weights, names)
    return [
        None if loss is None else Followed(_distance(loss, output), 1.0 if weight is None else float(weight))
        for loss, weight, output in zip(losses, weights, flat)
    ]


def _distance(loss, output):
    name, within = loss_name(loss), output.min() >= 0 and output.max() <= 1
    chosen_by_shape = is_chosen_by_shape(loss)
    if name in SPARSE + ONE_HOT or chosen_by_shape and output.shape[-1] > 1:
        return _classes if labels.are_probabilities(output) else _class_logits
    if name in BINARY or chosen_by_shape or name in OVERLAP and within:
        return _decisions if within and not getattr(loss, "from_logits", False) else _decision_logits
    if name in QUANTITIES:
        given = keras.losses.get(loss)
        return lambda teacher, student, temperature: _each(given, teacher, student)
    return lambda teacher, student, temperature: keras.losses.mean_squared_error(teacher, student)


def _each(loss, teacher, student):
    """The figures of a Keras loss, object or function, before they are averaged."""
    return loss.call(teacher, student) if isinstance(loss, keras.losses.Loss) else loss(teacher, student)


def _class_logits(teacher, student, temperature):
    """Logits `(..., classes)` to divergences `(...)`."""
    ops = keras.ops
    wanted, found = ops.log_softmax(teacher / temperature, axis=-1), ops.log_softmax(student / temperature, axis=-1)
    return ops.sum(ops.exp(wanted) * (wanted - found), axis=-1)


def _classes(teacher, student, temperature):
    """Probabilities `(..., classes)`, whose logarithms are logits."""
    return _class_logits(_log(teacher), _log(student), temperature)


def _decision_logits(teacher, student, temperature):
    """Logits `(..., decisions)` to mean divergences `(...)`."""
    ops = keras.ops
    teacher, student = teacher / temperature, student / temperature
    yes, no = ops.log_sigmoid(teacher), ops.log_sigmoid(-teacher)
    apart = ops.exp(yes) * (yes - ops.log_sigmoid(student)) + ops.exp(no) * (no - ops.log_sigmoid(-student))
    return ops.mean(apart, axis=-1)


def _decisions(teacher, student, temperature):
    """Probabilities `(..., decisions)`, each for itself."""
    return _decision_logits(_log(teacher) - _log(1.0 - teacher), _log(student) - _log(1.0 - student), temperature)


def _log(probabilities):
    return keras.ops.log(keras.ops.clip(probabilities, _LEAST, 1.0))
