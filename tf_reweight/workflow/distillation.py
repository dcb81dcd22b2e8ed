"""Training that follows the outputs of the dense model as well as the labels."""

import dataclasses

import keras

from tf_reweight import errors
from tf_reweight.graph.compiled import compiles_by_itself, trains_by_itself
from tf_reweight.graph.distribution import share_of_replica
from tf_reweight.workflow.following import followed
from tf_reweight.workflow.scoring import outputs_of
from tf_reweight.workflow.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Distilled(Trainer):
    """The loss follows the outputs of the dense model as well.

    Args:
        weight: of the dense model's outputs in the loss, in (0, 1); the loss as compiled has the rest.
        temperature: the logits of both models are divided by it, > 0.
    """

    weight: float
    temperature: float

    name = "distilled"
    stages = ("retrain", "cluster", "quantize")

    def check(self, model, task, scorer):
        if compiles_by_itself(model) or trains_by_itself(model):
            fix = "Let Keras compile the model with a loss, or leave `distill` out."
            expected = "Distillation adds to the loss that a model is compiled with, and this class trains in its own way."
            raise ValueError(errors.message(expected, fix, model=model.name, type=type(model).__name__))

    def trainee(self, model, context):
        teacher = context.folder.load("dense")
        outputs = outputs_of(teacher, context.data.train.first()[0])
        return self.taught(model, teacher, followed(context.task, teacher, outputs))

    def taught(self, model, teacher, outputs):
        """The model with the dense one beside it.

        Args:
            model: what is trained.
            teacher: the model whose outputs it follows.
            outputs: one `Followed` or None per output.
        """
        return Taught(model, teacher, outputs, self.weight, self.temperature)


class Taught(keras.Model):
    """A model that is trained to follow another: its own loss, with all weights and penalties, and the distance of outputs.

    `keras.distillation.Distiller` leaves out weights of examples, classes and outputs, and penalties.

    Args:
        student: the model that is trained.
        teacher: the model that is followed; it is not trained.
        outputs: one `following.Followed` or None per output, in order.
        weight: of the distance in the loss, in (0, 1).
        temperature: by which logits are divided.
    """

    def __init__(self, student, teacher, outputs, weight, temperature):
        super().__init__(name="taught")
        teacher.trainable = False
        self.student, self.teacher = student, teacher
        self.weight, self.temperature = weight, temperature
        self._followed = outputs
        self.distance = keras.metrics.Mean(name="distillation_loss")

    def call(self, inputs, training=None):
        return self.student(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        # First, while `losses` holds what the student alone has added.
        own = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return own  # what is validated is the model
        distance = self.distance_of(self.teacher(x, training=False), y_pred, sample_weight)
        self.distance.update_state(distance)
        return (1.0 - self.weight) * own + self.weight * share_of_replica(distance)

    def distance_of(self, wanted, found, sample_weight=None):
        """The mean distance of a batch's outputs, weighted as the loss is."""
        wanted, found = _as_losses_are(wanted), _as_losses_are(found)
        given = keras.tree.flatten(sample_weight)
        weights = given if len(given) == len(found) else given * len(found)
        parts = [
            output.weight * _mean(output.distance(one, other, self.temperature), weight)
            for output, one, other, weight in zip(self._followed, wanted, found, weights)
            if output is not None
        ]
        return sum(parts)


def _as_losses_are(outputs):
    """Outputs in the precision of Keras' losses, which is not that of a model with a `mixed_float16` policy."""
    return [keras.ops.cast(output, keras.config.floatx()) for output in keras.tree.flatten(outputs)]


def _mean(figures, weight):
    """The mean of `(batch, ...)` figures, each times the weight of its example or position, as Keras' losses have it."""
    if weight is not None:
        weight = keras.ops.cast(weight, figures.dtype)
        while len(weight.shape) > len(figures.shape):
            weight = keras.ops.squeeze(weight, -1)
        while len(weight.shape) < len(figures.shape):
            weight = keras.ops.expand_dims(weight, -1)
        figures = figures * weight
    return keras.ops.mean(figures)
