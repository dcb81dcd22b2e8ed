"""What an optimizer keeps for a variable, and which one is at work."""

import keras
from keras import ops
from keras.src.backend.common import global_state

from tf_reweight.graph.distribution import as_numpy


def applying_optimizer():
    """The optimizer whose step is being computed around this call, or None.

    Keras applies constraints inside a name scope of the optimizer, with the optimizer as its caller.
    """
    scopes = global_state.get_global_attribute("name_scope_stack") or []
    caller = scopes[-1].caller if scopes else None
    return caller if isinstance(caller, keras.optimizers.Optimizer) else None


def average_of(optimizer, variable):
    """The moving average that an optimizer with `use_ema` keeps of a variable, or None."""
    if not (optimizer.use_ema and optimizer.built):
        return None
    averages = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average)
    return next((average for known, average in averages if known is variable), None)


def begin_averages(optimizer):
    """Lets the moving averages of an optimizer that was just built begin as the weights, as its first step would set them."""
    optimizer = innermost(optimizer)
    for part in getattr(optimizer, "optimizers", [optimizer]):
        if part.use_ema:
            for variable, average in zip(part._trainable_variables, part._model_variables_moving_average):
                if average is not None:
                    average.assign(variable.value)


def innermost(optimizer):
    """The optimizer that moves the weights: inside loss scaling there is another."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def accumulated(optimizer):
    """Over how many calls an optimizer gathers gradients before it moves the weights; 1 where it moves them each time."""
    return getattr(innermost(optimizer), "gradient_accumulation_steps", None) or 1


def steps_of(optimizer):
    """How often an optimizer has moved the weights, an int; with gradient accumulation that is not how often it was called."""
    # With accumulation Keras computes it, and a tensor comes instead of a variable.
    iterations = optimizer.iterations
    return int(as_numpy(iterations) if isinstance(iterations, keras.Variable) else ops.convert_to_numpy(iterations))


def build_optimizer(model):
    """Makes the variables of a model's optimizer where its first step has not made them yet."""
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
