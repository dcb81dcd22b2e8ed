"""The state of the constraints on a model's weights, which Keras does not save: masks, thresholds, values that are shared."""

import keras
from keras import ops

from tf_reweight.kernels.constraints import Mask
from tf_reweight.kernels.held import place


def constraint_states(model):
    """The variables of all constraints of a model's weights.

    Returns:
        Mapping of `"position of the weight/class of the constraint/attribute"` to arrays.
    """
    states = {}
    for position, variable in enumerate(model.weights):
        for constraint in _chain(variable):
            for name, state in _variables(constraint):
                states[f"{position}/{type(constraint).__name__}/{name}"] = ops.convert_to_numpy(state.value)
    return states


def put_constraint_states(model, states):
    """Gives the constraints of a model the states they had; a mask that is missing is put on.

    Others that are missing lasted as long as a part of a training, whose callback knows what became of them.
    """
    weights, added = model.weights, False
    for key, value in states.items():
        position, kind, name = key.split("/")
        variable = weights[int(position)]
        found = [constraint for constraint in _chain(variable) if type(constraint).__name__ == kind]
        if found:
            dict(_variables(found[0]))[name].assign(value)
        elif kind == Mask.__name__:
            variable.constraint, added = Mask(value, variable.constraint), True
    if added:
        place(model)  # as `hold_all` does; masks that a callback keeps to itself stay where they are


def _chain(variable):
    constraint = variable.constraint
    while constraint is not None:
        yield constraint
        constraint = getattr(constraint, "inner", None)


def _variables(constraint):
    return sorted((name, value) for name, value in vars(constraint).items() if isinstance(value, keras.Variable))
