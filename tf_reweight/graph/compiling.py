"""Carrying over how a model is trained: its class, and the live objects it was compiled with."""


import keras

from tf_reweight import errors
from tf_reweight.graph.access import schedule_of, settings_of
from tf_reweight.graph.compiled import can_compile_again, compile_by_itself, compiled_with, compiles_by_itself
from tf_reweight.graph.distribution import beside_all
from tf_reweight.graph.keras_classes import is_keras_own
from tf_reweight.graph.weight_decay import exclude_alike, undecayed

# What a class of the user's own may change about training. A copy that is not of this class would lose it.
_TRAINING = ("train_step", "test_step", "compute_loss", "compute_metrics", "compute_loss_and_updates")


def class_like(model):
    """The class to build a functional copy of `model` with: its own, where Keras' constructor makes it, else `keras.Model`."""
    cls = type(model)
    if is_keras_own(cls) or isinstance(model, keras.Sequential) or not is_keras_own(cls.__init__):
        return keras.Model
    return cls


def sequential_like(model, layers):
    """A Sequential model of these layers with the name of `model`, and of its class where Keras' constructor makes it."""
    cls = type(model) if is_keras_own(type(model).__init__) else keras.Sequential
    return cls(layers, name=model.name)


def compile_like(made, model):
    """Compiles a copy as `model` is compiled, with a fresh optimizer of the same kind and the user's own objects.

    Losses and metrics are the very functions and objects that the user gave, never made again from a name: a function called
    `huber` may be anybody's. Metric objects are therefore shared by both models. A model that is not compiled stays so.

    Warns:
        UserWarning: where the training of the class itself cannot be carried over, naming what is lost.
    """
    _warn_of_lost_training(made, model)
    if not model.compiled:
        return
    if compiles_by_itself(model):
        _compile_by_the_class(made, model)
        return
    given = compiled_with(model)
    with beside_all(made):
        optimizer = fresh_optimizer(model.optimizer)
        exclude_alike(optimizer, model.optimizer, made, undecayed(model))
        made.compile(
            optimizer=optimizer,
            loss=given["loss"],
            loss_weights=given["loss_weights"],
            metrics=given["metrics"],
            weighted_metrics=given["weighted_metrics"],
            run_eagerly=model.run_eagerly,
            steps_per_execution=given["steps_per_execution"],
            jit_compile=given["jit_compile"],
            # Keras wraps an optimizer for float16 by itself; this one is wrapped already where the old one was.
            auto_scale_loss=False,
        )
        made.optimizer.build(made.trainable_variables)


def fresh_optimizer(optimizer, learning_rate=None):
    """An optimizer of the same class and settings without state.

    Args:
        learning_rate: its own instead of any schedule; None keeps what there is, schedules and functions as the very objects.
    """
    config = settings_of(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = fresh_optimizer(optimizer.inner_optimizer, learning_rate)
        return type(optimizer)(inner, **{key: value for key, value in config.items() if key != "inner_optimizer"})
    wanted = schedule_of(optimizer) if learning_rate is None else learning_rate
    if wanted is not None:
        config["learning_rate"] = wanted
    return type(optimizer).from_config(config)


def _compile_by_the_class(made, model):
    """Lets a class that compiles in its own way do so; warns where it does not say how."""
    if type(made) is type(model) and can_compile_again(model):
        compile_by_itself(made, model)
        return
    errors.warn(
        f"The new model is not compiled: {type(model).__name__} has a `compile` of its own. Compile it, or give the class "
        "`get_compile_config` and `compile_from_config`.",
    )


def _warn_of_lost_training(made, model):
    lost = [name for name in _TRAINING if not is_keras_own(getattr(type(model), name, keras.Model.train_step))]
    if lost and type(made) is not type(model):
        errors.warn(
            f"The new model is a plain {type(made).__name__} and trains in Keras' way: {', '.join(lost)} of "
            f"{type(model).__name__} cannot be carried over, since the class has an __init__ of its own or is no functional "
            f"model. Build {type(model).__name__} around the new model's inputs and outputs to keep it.",
        )
