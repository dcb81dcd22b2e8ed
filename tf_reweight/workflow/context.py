"""What a stage of a run has to work with besides its model."""

import dataclasses
import typing

from tf_reweight.workflow import trainers
from tf_reweight.workflow.config import Config
from tf_reweight.workflow.folder import Folder
from tf_reweight.workflow.given import Splits
from tf_reweight.workflow.task import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """Handed to every stage; several of them, with other configurations, make a sweep.

    Attributes:
        config: the `Config`.
        data: the `Splits`: training, validation and test examples.
        task: the `Task`: loss, metrics and optimizer.
        folder: the run `Folder`, in which the models of earlier stages are.
        console: a rich console.
        callbacks: function `name of the stage -> callbacks` of the user's.
        stage: the `Stage`.
    """

    config: Config
    data: Splits
    task: Task
    folder: Folder
    console: typing.Any
    callbacks: typing.Callable
    stage: typing.Any

    def fit(self, model, label, epochs, learning_rate, callbacks=()):
        """Trains a model in place, as the configuration's trainer does; see `trainer.Trainer.fit`."""
        trainer = trainers.of_stage(self.config, self.stage.step)
        return trainer.fit(model, self, label, epochs, learning_rate, callbacks)

    @property
    def logs(self):
        """Where the stage writes for TensorBoard; None where the configuration does not ask for it."""
        return self.folder / "logs" / self.stage.name if self.config.regularize.tensorboard else None
