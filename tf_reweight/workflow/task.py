"""What a run has to know of how a model is trained: its loss, its metrics, its optimizer, as they were compiled."""

import dataclasses
import typing

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.graph import compiled
from tf_reweight.graph.compiling import fresh_optimizer
from tf_reweight.graph.weight_decay import exclude_alike, undecayed

# A learning rate for models that are not compiled; that of Keras' Adam.
_RATE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """How every stage of a run trains its model, and what is measured of it.

    Attributes:
        loss, loss_weights, metrics, weighted_metrics, run_eagerly, jit_compile, steps_per_execution: of `compile`, the live
            objects of the user.
        optimizer: every stage begins with a fresh one of the same class and settings and the stage's learning rate; None for
            Adam.
        undecayed: weights that the user's optimizer was told not to decay, from `weight_decay.undecayed`.
        by_class: the model whose class compiles in its own way; None where Keras does.
    """

    loss: typing.Any = None
    loss_weights: typing.Any = None
    metrics: typing.Any = None
    weighted_metrics: typing.Any = None
    run_eagerly: bool = False
    jit_compile: typing.Any = "auto"
    steps_per_execution: int = 1
    optimizer: keras.optimizers.Optimizer | None = None
    undecayed: frozenset[str] = frozenset()
    by_class: keras.Model | None = None

    def compile(self, model, learning_rate):
        """Compiles a model as the user's was, with a fresh optimizer."""
        optimizer = self._fresh(learning_rate, model)
        # The objects are shared by all models of a run, and Keras resets them only from the second epoch on.
        for metric in keras.tree.flatten([self.metrics, self.weighted_metrics]):
            if isinstance(metric, keras.Metric):
                metric.reset_state()
        if self.by_class is not None:
            compiled.compile_by_itself(model, self.by_class)
            model.optimizer = optimizer
            return
        model.compile(
            optimizer,
            self.loss,
            loss_weights=self.loss_weights,
            metrics=self.metrics,
            weighted_metrics=self.weighted_metrics,
            run_eagerly=self.run_eagerly,
            jit_compile=self.jit_compile,
            steps_per_execution=self.steps_per_execution,
        )

    @property
    def learning_rate(self):
        """That of the user's optimizer."""
        return _RATE if self.optimizer is None else compiled.rate_of(self.optimizer)

    def _fresh(self, learning_rate, model):
        if self.optimizer is None:
            return keras.optimizers.Adam(learning_rate)
        made = fresh_optimizer(self.optimizer, learning_rate)
        exclude_alike(made, self.optimizer, model, self.undecayed)
        return made


def classifier(gives_probabilities):
    """The task of models that are built by their names: integer labels, cross-entropy, accuracy, Adam."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not gives_probabilities)
    return Task(loss=loss, metrics=["accuracy"])


def of_model(model):
    """The `Task` a model was compiled for; None where it is not compiled.

    Raises:
        ValueError: for a class that compiles in its own way and does not say how to compile a copy.
    """
    given = compiled.compiled_with(model)
    if given is None:
        return None
    if not compiled.can_compile_again(model):
        raise ValueError(
            errors.message(
                f"Every stage compiles the model anew, and {type(model).__name__} has a `compile` of its own.",
                "Give the class `get_compile_config` and `compile_from_config`, or let Keras compile it.",
                model=model.name,
            )
        )
    if compiled.compiles_by_itself(model):
        return Task(optimizer=model.optimizer, undecayed=undecayed(model), by_class=model)
    names = ("loss", "loss_weights", "metrics", "weighted_metrics", "jit_compile", "steps_per_execution")
    arguments = {name: given[name] for name in names}
    how = {"run_eagerly": bool(model.run_eagerly), "optimizer": model.optimizer, "undecayed": undecayed(model)}
    return Task(**arguments, **how)


def say_outputs_without_loss(task, names):
    """Warns of outputs, by their names, that no loss is about: what only they need counts as of no use, and changes at will."""
    losses = task.loss
    if isinstance(losses, dict):
        without = [name for name in names if losses.get(name) is None] if set(losses) <= set(names) else []
    else:
        without = [name for name, loss in zip(names, losses) if loss is None] if isinstance(losses, (list, tuple)) else []
    # Where there is none at all, layers add their own.
    if without and len(without) < len(names):
        errors.warn(
            f"No loss is about the outputs {', '.join(without[:5])}: what only they need is pruned first, and what they "
            "learned is lost as the others train. Compile the model with a loss for each, or compress it without them.",
        )


def check_has_gradient(model, outputs, names):
    """Raises ValueError for a model of whose outputs, arrays in any structure, every one is of integers: no loss trains it.

    A class with a step of its own, or a layer that adds a loss, may have another loss than that of the outputs.
    """
    if compiled.trains_by_itself(model) or model.losses:
        return
    types = [np.asarray(output).dtype for output in keras.tree.flatten(outputs)]
    if all(type_.kind in "biu" for type_ in types):
        expected = "An output must be of floats, for a loss to have a gradient."
        fix = "Compress the model without the layers that choose or round, and put them on afterwards."
        raise ValueError(errors.message(expected, fix, **dict(zip(names, map(str, types)))))


def of_names(settings):
    """The `Task` that a configuration names; None where it names no loss.

    Args:
        settings: the section `task`, with `loss`, `loss_weights`, `metrics`, `weighted_metrics` and `optimizer` as Keras takes
            them by name.

    Raises:
        ValueError: for a name that Keras does not know.
    """
    if settings.loss is None:
        names = ("optimizer", "metrics", "weighted_metrics", "loss_weights")
        without = {name: getattr(settings, name) for name in names if getattr(settings, name)}
        if without:
            fix = "Name `task.loss` too, or leave these to the compiled model."
            raise ValueError(errors.message("The section `task` must name a loss where it names anything.", fix, **without))
        return None
    optimizer = None if settings.optimizer is None else _known("optimizer", keras.optimizers.get, settings.optimizer)
    for loss in keras.tree.flatten(settings.loss):
        _known("loss", keras.losses.get, loss)
    for argument in ("metrics", "weighted_metrics"):
        for metric in keras.tree.flatten(vars(settings)[argument]):
            if metric not in (None, "accuracy", "acc", "crossentropy", "ce"):
                _known(argument, keras.metrics.get, metric)
    return Task(
        loss=settings.loss, loss_weights=settings.loss_weights, metrics=settings.metrics,
        weighted_metrics=settings.weighted_metrics, optimizer=optimizer,
    )  # fmt: skip


def _known(argument, get, name):
    try:
        return get(name)
    except (ValueError, TypeError) as error:
        fix = "Use a name that Keras knows, or compile the model with an object."
        raise ValueError(errors.message(f"`task.{argument}` must name what Keras has.", fix, **{argument: name})) from error
