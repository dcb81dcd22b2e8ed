"""How every stage trains: `fit` with the user's own loss, metrics, optimizer and callbacks, resumed where it was cut off."""

import keras

from tf_reweight.graph.access import begin_at_first_epoch
from tf_reweight.reports.curves import Curves
from tf_reweight.reports.progress import EpochLines
from tf_reweight.workflow.finite import Finite

CURVES = "curves.jsonl"


class Trainer:
    """Fits models of one run.

    Args:
        task: the `Task`.
        data: the `Splits`.
        config: the configuration.
        callbacks: the user's: callbacks that every stage's `fit` is given, the same objects each time, or a function
            `name of the stage -> callbacks` that makes them.
        console: a rich console.
    """

    def __init__(self, task, data, config, callbacks, console):
        self.task, self.data, self.config, self.console = task, data, config, console
        self._callbacks = callbacks if callable(callbacks) else lambda stage: callbacks

    def of(self, config):
        """The same for another configuration."""
        return Trainer(self.task, self.data, config, self._callbacks, self.console)

    def fit(self, model, stage, label, epochs, learning_rate, callbacks, folder, logs=None, teacher=None):
        """`model.fit` with a backup after each epoch, from which an interrupted run goes on.

        Args:
            model: what is trained, in place.
            stage: name of the stage.
            label: for the terminal.
            epochs, learning_rate, callbacks: of `fit`; the user's callbacks come after these.
            folder: the run `Folder`.
            logs: where TensorBoard's files go; None for none.
            teacher: a model to learn from as well, or None.

        Returns:
            One record per epoch, those before an interruption included; see `summaries.Curves`.

        Raises:
            ValueError: when the loss or a weight is not finite, at the epoch in which that happens.
        """
        trainee = model if teacher is None else self._taught(model, teacher)
        self.task.compile(trainee, learning_rate)
        backup = keras.callbacks.BackupAndRestore(folder.backup / stage, delete_checkpoint=True)
        curves = Curves(stage, folder / CURVES, logs)
        batches, options, in_order = self.data.training(self.config.data.shift)
        trainee.fit(
            batches,
            shuffle=False,  # arrays are shuffled in an order of their own, that a resumed run finds again
            epochs=epochs,
            class_weight=self.config.train.class_weight,
            **self.data.validating(),
            **options,
            # Broken weights are found before anything is kept; curves come before the backup, or an epoch could count as
            # done without its record.
            callbacks=[
                Finite(stage), curves, backup, *in_order, *callbacks, EpochLines(label, self.console), *self._callbacks(stage),
            ],
            verbose=0,
        )  # fmt: skip
        begin_at_first_epoch(trainee)
        return curves.history

    def _taught(self, model, teacher):
        """The model with the dense one beside it, as Keras' own distillation wants them."""
        settings = self.config.distill
        teacher.trainable = False
        taught = keras.distillation.Distiller(
            teacher,
            model,
            # The object, not its name: given "kl_divergence", Keras compares logits as if they were probabilities.
            keras.distillation.LogitsDistillation(settings.temperature, loss=keras.losses.KLDivergence()),
            distillation_loss_weights=settings.weight,
            student_loss_weight=1.0 - settings.weight,
        )
        taught.build((None, *model.inputs[0].shape[1:]))
        return taught
