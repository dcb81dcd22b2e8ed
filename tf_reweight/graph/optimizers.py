"""What an optimizer keeps for a variable, and which one is at work."""

import keras
from keras import ops
from keras.src.backend.common import global_state

from tf_reweight import errors
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.keras_classes import is_keras_own

# Below this two means of squared gradients that are zero have a product of zero in single precision.
_LEAST_EPSILON = 1e-19
# What to do about an optimizer that divides by it.
INSTEAD = "use keras.optimizers.Adafactor(..., epsilon_1=1e-16), or another optimizer"


def applying_optimizer():
    """The optimizer whose step is being computed around this call, or None.

    Keras applies constraints inside a name scope of the optimizer, with the optimizer as its caller.
    """
    scopes = global_state.get_global_attribute("name_scope_stack") or []
    caller = scopes[-1].caller if scopes else None
    return caller if isinstance(caller, keras.optimizers.Optimizer) else None


def keeps_averages(optimizer):
    """Whether an optimizer puts moving averages in place of the weights when training ends (`use_ema`)."""
    return any(getattr(part, "use_ema", False) for part in _parts(optimizer))


def average_of(optimizer, variable):
    """The moving average that an optimizer with `use_ema` keeps of a variable, or None."""
    for part in _parts(optimizer):
        if getattr(part, "use_ema", False) and part.built:
            for known, average in zip(part._trainable_variables, part._model_variables_moving_average):
                if known is variable:
                    return average
    return None


def applied_average(variable):
    """The moving average of a variable that the optimizer keeps whose step is being computed around this call, or None."""
    optimizer = applying_optimizer()
    return None if optimizer is None else average_of(optimizer, variable)


def zero_averages(optimizer, variables):
    """Sets the averages that an optimizer with `use_ema` keeps of weights to zero where the weights are zero.

    Keras puts the averages in place of the weights when training ends, and `SwapEMAWeights` does before: what solvers drew to
    zero would not be zero then.

    Args:
        optimizer: of the model; nothing is done for one without averages.
        variables: the weights.
    """
    for variable in variables:
        average = average_of(optimizer, variable)
        if average is not None:
            zero = ops.zeros((), dtype=average.dtype)
            average.assign(ops.where(ops.equal(variable.value, 0), zero, average.value))


def restart_averages(optimizer, variables):
    """Lets averages that are zero begin anew as the weights, for weights that were zero and have been given other values."""
    for variable in variables:
        average = average_of(optimizer, variable)
        if average is not None:
            average.assign(ops.where(ops.equal(average.value, 0), ops.cast(variable.value, average.dtype), average.value))


def begin_averages(optimizer):
    """Lets the moving averages of an optimizer that was just built begin as the weights, as its first step would set them."""
    for part in _parts(optimizer):
        if part.use_ema:
            for variable, average in zip(part._trainable_variables, part._model_variables_moving_average):
                if average is not None:
                    average.assign(variable.value)


def divides_by_zero(optimizer):
    """Whether an optimizer makes NaN of a kernel with rows and columns of zeros, which get no gradient.

    Keras' Adafactor divides by the root of a mean of each row times a mean of each column; both are `epsilon_1` there, by
    default 1e-30, and their product underflows: the step is 0 / 0.
    """
    adafactors = [part for part in _parts(optimizer) if isinstance(part, keras.optimizers.Adafactor)]
    return any(is_keras_own(type(part).update_step) and part.epsilon_1 < _LEAST_EPSILON for part in adafactors)


def check_trains_zeros(optimizer):
    """Raises ValueError for an optimizer that makes NaN of what is pruned."""
    if divides_by_zero(optimizer):
        expected = "The optimizer must train kernels with rows and columns of zeros, of which this one makes NaN."
        raise ValueError(errors.message(expected, f"Instead {INSTEAD}.", optimizer=innermost(optimizer)))


def forgets_weights(optimizer):
    """Whether an optimizer that begins anew takes no notice of the weights that a model has.

    Keras' Ftrl computes weights from its own sums alone, which begin at zero: after its first step a weight of 1 is 3e-5.
    """
    parts = [part for part in _parts(optimizer) if isinstance(part, keras.optimizers.Ftrl)]
    return any(is_keras_own(type(part).update_step) for part in parts)


def check_keeps_weights(optimizer):
    """Raises ValueError for an optimizer that begins anew in each stage and forgets the model of the one before."""
    if forgets_weights(optimizer):
        expected = "The optimizer must go on from the weights that a model has: each stage begins with a new one."
        fix = "Compile the model with another optimizer for this, such as Adam."
        raise ValueError(errors.message(expected, fix, optimizer=innermost(optimizer)))


def _parts(optimizer):
    """The optimizers that move weights, inside others that only pass them on."""
    optimizer = innermost(optimizer)
    return getattr(optimizer, "optimizers", [optimizer])


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
