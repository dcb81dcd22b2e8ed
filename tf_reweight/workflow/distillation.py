"""Training that follows the outputs of the dense model as well as the labels."""

import dataclasses

import keras

from tf_reweight import errors
from tf_reweight.workflow.labels import are_probabilities
from tf_reweight.workflow.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Distilled(Trainer):
    """The loss follows the outputs of the dense model as well.

    Args:
        weight: of the dense model's outputs in the loss, in (0, 1); the labels have the rest.
        temperature: the logits of both models are divided by it, > 0.
    """

    weight: float
    temperature: float

    name = "distilled"
    stages = ("retrain", "cluster", "quantize")

    def check(self, model, task, scorer):
        outputs = keras.tree.flatten(scorer.outputs)
        single = len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] >= 2
        if not single or are_probabilities(outputs[0]):
            fix = "End it with a Dense layer without softmax, or leave `distill` out."
            raise ValueError(errors.message("Distillation needs a model that gives logits.", fix, model=model.name))

    def trainee(self, model, context):
        return self.taught(model, context.folder.load("dense"))

    def taught(self, model, teacher):
        """The model with the dense one beside it, as Keras' own distillation wants them."""
        teacher.trainable = False
        return keras.distillation.Distiller(
            teacher,
            model,
            # The object, not its name: given "kl_divergence", Keras compares logits as if they were probabilities.
            keras.distillation.LogitsDistillation(self.temperature, loss=keras.losses.KLDivergence()),
            distillation_loss_weights=self.weight,
            student_loss_weight=1.0 - self.weight,
        )
