"""How every stage trains: `fit` with the user's own loss, metrics, optimizer and callbacks, resumed where it was cut off."""

import abc
import dataclasses

from tf_reweight import registry
from tf_reweight.batch_statistics import BATCH, refresh
from tf_reweight.data.raised import as_raised
from tf_reweight.graph.access import begin_at_first_epoch
from tf_reweight.graph.beforehand import build_training
from tf_reweight.graph.optimizers import keeps_averages
from tf_reweight.graph.steps import updated_metrics
from tf_reweight.records import fields_of
from tf_reweight.reports.curves import Curves
from tf_reweight.reports.progress import EpochLines
from tf_reweight.workflow.checkpoint import Checkpoint
from tf_reweight.workflow.finite import Finite
from tf_reweight.workflow.scoring import outputs_of

CURVES = "curves.jsonl"


@dataclasses.dataclass(frozen=True)
class Trainer(abc.ABC):
    """Fits the model of a stage. Its fields are settings, the keys of `trainer` in a configuration."""

    # The stages whose training is its own, by the names of their sections; None for all. Others train plainly.
    stages = None

    @property
    @abc.abstractmethod
    def name(self):
        """The name used in configs."""

    def check(self, model, task, scorer):
        """Raises where it cannot train this model; called before any work.

        Args:
            model: the model of the run.
            task: the `Task`: how it is trained.
            scorer: the `Scorer`, which has the names of the outputs, and the outputs of a batch.
        """

    @abc.abstractmethod
    def trainee(self, model, context):
        """The Keras model that is compiled and fitted: the model itself, or one that has it inside and moves its weights.

        Args:
            model: the model of the stage.
            context: the stage's `Context`.
        """

    def fit(self, model, context, label, epochs, learning_rate, callbacks):
        """`fit` with a checkpoint after each epoch, from which an interrupted run goes on.

        Args:
            model: what is trained, in place.
            context: the stage's `Context`.
            label: for the terminal.
            epochs, learning_rate, callbacks: of `fit`; the user's callbacks come after these.

        Returns:
            One record per epoch, those before an interruption included; see `reports.curves.Curves`.

        Raises:
            ValueError: when the loss or a weight is not finite, at the epoch in which that happens; for a class whose own steps
                leave its compiled metrics without a value.
        """
        trainee, name, folder = self.trainee(model, context), context.stage.name, context.folder
        if not trainee.built:
            outputs_of(trainee, context.data.train.first()[0])
        context.task.compile(trainee, learning_rate)
        build_training(trainee, context.data.train.first())
        curves = Curves(name, folder / CURVES, context.logs, model)
        batches, options, in_order = context.data.training(context.config.data.shift)
        # Broken weights are found before anything is kept.
        stack = [
            Finite(name, (context.data.train, context.data.validation)), curves, *in_order, *callbacks,
            EpochLines(label, context.console), *context.callbacks(name),
        ]  # fmt: skip
        validating = context.data.validating()
        with as_raised(batches, validating.get("validation_data")), updated_metrics(trainee):
            trainee.fit(
                batches,
                shuffle=False,  # arrays are shuffled in an order of their own, that a resumed run finds again
                epochs=epochs,
                class_weight=context.config.train.class_weight,
                **validating,
                **options,
                callbacks=[*stack, Checkpoint(folder.checkpoint(name), name, stack, context.console)],
                verbose=0,
            )
        begin_at_first_epoch(trainee)
        if keeps_averages(trainee.optimizer) or context.stage.step == "train":
            # Averages of many steps are in place of the weights now, and statistics belong to those of the last steps; or they
            # follow as slowly as the user's layers say, which the stages after this one do not wait for.
            refresh(model, context.data.examples(model), min(BATCH, context.config.train.batch_size))
        return curves.history

    def serialize(self):
        """The name where there are no fields, else `{"name": ..., **fields}`."""
        return registry.serialize(self, fields_of(self))


@dataclasses.dataclass(frozen=True)
class Plain(Trainer):
    """The model as it is compiled."""

    name = "plain"

    def trainee(self, model, context):
        return model
