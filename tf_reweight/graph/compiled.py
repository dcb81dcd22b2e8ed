"""What a model was compiled with, and what its class does in its own way when it trains and measures."""

import dataclasses

import keras
from keras.src.trainers.compile_utils import get_loss

from tf_reweight import errors
from tf_reweight.graph import steps
from tf_reweight.graph.access import rate_at, schedule_of
from tf_reweight.graph.better import mode_of_metric
from tf_reweight.graph.keras_classes import is_keras_own
from tf_reweight.graph.optimizers import steps_of

_MEASURING = ("test_step", "compute_loss", "compute_metrics", "compute_loss_and_updates")
# Steps at which a schedule is asked for its rate: some begin at zero and rise.
_ASKED_AT = (0, 100, 1_000, 10_000)


def compiled_with(model):
    """The arguments of `compile` as the user gave them, the live objects; None for a model that is not compiled.

    A class with a `compile` of its own may have kept none of them: the dict is empty then.
    """
    if not model.compiled:
        return None
    given = vars(model).get("_compile_config")
    return dict(given.config) if given is not None and is_keras_own(type(model).compile) else {}


def compiles_by_itself(model):
    """Whether the class of a model has a `compile` of its own."""
    return not is_keras_own(type(model).compile)


def can_compile_again(model):
    """Whether a copy of a model can be compiled: by Keras, or by its class, which says how."""
    return not compiles_by_itself(model) or not is_keras_own(type(model).compile_from_config)


def compile_by_itself(made, model):
    """Compiles `made` as the class of `model` says it was compiled."""
    made.compile_from_config(model.get_compile_config())


def measures_by_itself(model):
    """Whether the class of a model computes its loss or its metrics in its own way."""
    return any(not is_keras_own(getattr(type(model), name, keras.Model.test_step)) for name in _MEASURING)


def trains_by_itself(model):
    """Whether the class of a model takes its training steps, or computes what they lower, in its own way."""
    return measures_by_itself(model) or not is_keras_own(type(model).train_step)


def steps_taken(model):
    """Optimizer steps that a compiled model has behind it; 0 for one that is not compiled."""
    optimizer = model.optimizer if model.compiled else None
    return 0 if optimizer is None else steps_of(optimizer)


def rate_of(optimizer):
    """The learning rate of an optimizer; of a schedule the largest."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    schedule = schedule_of(optimizer)
    if schedule is not None:
        return max(rate_at(schedule, step) for step in _ASKED_AT)
    return rate_now(optimizer)


def rate_now(optimizer):
    """The learning rate of an optimizer, of a schedule at the step that it has reached.

    Raises:
        ValueError: for several optimizers in one, as Keras' `MultiOptimizer`, which has no rate of its own.
    """
    try:
        rate = optimizer.learning_rate
    except AttributeError:
        expected = "The optimizer must have one learning rate, which the training of a stage sets or follows."
        raise ValueError(errors.message(expected, "Compile the model with a single optimizer.", optimizer=optimizer)) from None
    return float(keras.ops.convert_to_numpy(rate))


@dataclasses.dataclass(frozen=True)
class Measured:
    """One metric that a model was compiled with.

    Attributes:
        name: as `evaluate(..., return_dict=True)` calls it.
        mode: `"max"` or `"min"`, which way is better; None where nothing says it. See `better.mode_of_metric`.
        proportion: whether it is a share of examples that are right.
        output: the name of the output that it is about; None where the model has only one.
        position: the same by number, where the name is none of the model's keys.
    """

    name: str
    mode: str | None
    proportion: bool = False
    output: str | None = None
    position: int = 0


def measured_by(model):
    """One `Measured` for each compiled metric of a model that has been evaluated once, in Keras' order."""
    compiled = model._compile_metrics
    if compiled is None or not compiled.built:
        return []
    of_outputs = [*enumerate(compiled._flat_metrics), *enumerate(compiled._flat_weighted_metrics)]
    owned = [(metric, own.output_name, position) for position, own in of_outputs if own for metric in own.metrics]
    measured = []
    for name, (metric, *owner) in zip(compiled.result(), owned):
        measured.append(Measured(name, mode_of_metric(metric), type(metric).__name__.endswith("Accuracy"), *owner))
    return measured


def measures_outputs(model):
    """Whether a model is compiled with metrics that need nothing but outputs and labels."""
    given = None if compiles_by_itself(model) or measures_by_itself(model) else compiled_with(model)
    return given is not None and bool(given.get("metrics") or given.get("weighted_metrics"))


def figures_of_outputs(model, y, outputs):
    """`(names to figures, a list of Measured)`: what a compiled model's metrics say of outputs, its own or a file's.

    Args:
        model: one of which `measures_outputs` is true.
        y, outputs: labels and outputs, in the structures in which the model has them.
    """
    model.reset_metrics()
    model.compute_metrics(None, y, outputs)
    figures = {name: steps.figure_of(value) for name, value in model._compile_metrics.result().items()}
    measured = measured_by(model)
    model.reset_metrics()
    return figures, measured


def loss_of_output(loss, y, output):
    """The value of one output's loss, given as `compile` takes it, for labels and an output, the model's own or a file's."""
    return steps.figure_of(get_loss(loss, y, output)(y, output))
