"""Training steps that were traced before a model was changed: Keras' own are dropped, of others a warning is given."""

import gc

import keras

from tf_reweight import errors
from tf_reweight.graph.attributes import models_sharing
from tf_reweight.graph.distribution import copies_of
from tf_reweight.graph.memory import objects_of
from tf_reweight.kernels.compiled_step import drop_compiled_steps

# What Keras calls the steps that it traces. Those of models that share the weights are dropped, others are of no concern.
_OF_KERAS = {"one_step_on_data", "one_step_on_data_distributed", "one_step_on_iterator", "multi_step_on_iterator", "function"}
# The steps by which solvers act on coupled groups, still in memory after a `fit` that was interrupted.
_OF_OURS = {"pressed_towards_budget", "shrink_coupled_groups", "hold_coupled_groups"}
# Where TensorFlow notes the inputs of an operation made of others that it only reads.
_ONLY_READ = "_read_only_resource_inputs"


def renew_steps(model, variables, what):
    """Drops every step that Keras has traced with these variables, and warns of a `tf.function` of the user's that trains them.

    What is computed inside such a function was fixed when it was traced: constraints and penalties that are put on later do
    nothing in it, those that are taken off go on acting, and nothing else would tell.

    Args:
        model: the model that was changed.
        variables: its weights that were given something, or from which something was taken.
        what: what a step traced before goes on without, for the warning: `"the zeros will not stay"`.
    """
    drop_compiled_steps(model)
    if not variables:
        return
    models, *functions = objects_of(keras.Model, *_traced())  # at once, since it takes about a tenth of a second
    for other in models_sharing(variables, models):
        drop_compiled_steps(other)
    names = _training_functions(variables, functions)
    if names:
        errors.warn(
            f"A tf.function that trains this model was traced before ({', '.join(names[:3])}): {what} in it. Make the function "
            "anew after this call, so that it is traced again.",
        )


def _traced():
    """The class of what TensorFlow has traced, where it is the backend."""
    if keras.backend.backend() != "tensorflow":
        return ()
    from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction

    return (ConcreteFunction,)


def _training_functions(variables, functions):
    """Names of the traced functions in memory that assign one of the variables.

    Args:
        variables: the variables.
        functions: lists of functions, one for each of `_traced()`; they are emptied, so that nothing here holds a function.
    """
    if not functions:
        return []  # the backend traces none
    suspected = bool(_assigning(variables, functions))
    functions.clear()
    if not suspected:
        return []
    gc.collect()  # functions that nobody holds any more may still be there before
    return sorted({graph.name for graph in _assigning(variables, objects_of(*_traced()))})


def _assigning(variables, functions):
    # Graphs outlive their functions: only what can still be called counts.
    graphs = {id(function.graph): function.graph for found in functions for function in found}.values()
    copies = [copy for variable in variables for copy in copies_of(variable)]
    handles = {id(handle) for handle in (getattr(copy, "handle", None) for copy in copies) if handle is not None}
    return [graph for graph in graphs if graph.name not in _OF_KERAS | _OF_OURS and _assigns(graph, handles)]


def _assigns(graph, handles):
    held = [inner for outer, inner in graph.captures if id(outer) in handles]
    return any(_writes(operation, tensor) for tensor in held for operation in tensor.consumers())


def _writes(operation, tensor):
    """Whether an operation assigns the variable behind its input; loops, branches and calls say which they only read."""
    if operation.type.startswith(("Assign", "ResourceApply")):
        return True
    if _ONLY_READ not in operation.node_def.attr:
        return False
    places = {place for place, given in enumerate(operation.inputs) if given is tensor}
    return not places <= set(operation.get_attr(_ONLY_READ))
