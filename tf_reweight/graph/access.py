"""What Keras keeps under private names, as functions: no file outside of this room touches one."""

import contextlib

import keras
from keras.src.backend.common import masking

from tf_reweight.graph.optimizers import innermost


def all_layers(model):
    """Every layer inside a model or layer, those inside other layers included, each once; not the model itself."""
    return list(model._flatten_layers(include_self=False))


def sublayers(layer):
    """The layers that a layer or model holds itself, not those inside them, in the order in which they were attached."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def unshared_variables(layer):
    """The weights of a layer that none of the layers inside it has; those are asked only where it has any of its own."""
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    inside = {id(variable) for child in layer._layers for variable in child.weights} if own else ()
    return [variable for variable in own if id(variable) not in inside]


def functional_of(model):
    """The functional model behind a Sequential one, which may not be built yet (None); any other model itself."""
    return model._functional if isinstance(model, keras.Sequential) else model


def is_tensor(item):
    """Whether something is a symbolic tensor."""
    return isinstance(item, keras.KerasTensor)


def tensors_in(structure):
    """The symbolic tensors in a structure, such as the arguments of a call, in order."""
    return [item for item in keras.tree.flatten(structure) if is_tensor(item)]


def masks_of(tensors):
    """The masks of padding that tensors carry, symbolic ones or values; None for each that carries none."""
    return [masking.get_keras_mask(tensor) for tensor in tensors]


def put_masks(tensors, masks):
    """Gives tensors the masks that `masks_of` found; a call of attention takes them off."""
    for tensor, mask in zip(tensors, masks):
        masking.set_keras_mask(tensor, mask)


def is_layer(operation):
    """Whether an operation is a layer, and not one of `keras.ops`."""
    return isinstance(operation, keras.layers.Layer)


def takes_training(operation):
    """Whether the `call` of an operation is told whether this is training."""
    return bool(getattr(operation, "_call_has_training_arg", False))


def has_channels_first(layer):
    """Whether a layer works on channels first; False for those to which that says nothing."""
    return getattr(layer, "data_format", None) == "channels_first"


def has_lora(layer):
    """Whether LoRA weights are added to a layer's kernel."""
    return bool(getattr(layer, "lora_enabled", False))


def quantization_of(layer):
    """The mode in which Keras itself has quantized a layer, or None."""
    return getattr(layer, "quantization_mode", None)


def operation_of(tensor):
    """The operation that makes a symbolic tensor."""
    return tensor._keras_history.operation


def node_of(tensor):
    """The call that makes a symbolic tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def calls_of(operation):
    """All calls of an operation on symbolic tensors, in whatever models they are."""
    return list(operation._inbound_nodes)


def forget_calls(nodes):
    """Takes calls in a graph that is given up off their operations, of each the latest or all: others keep their places."""
    for node in nodes:
        node.operation._inbound_nodes[:] = [other for other in node.operation._inbound_nodes if other is not node]
        for read in map(operation_of, node.input_tensors):
            read._outbound_nodes[:] = [other for other in read._outbound_nodes if other is not node]


def nodes_in_order(graph):
    """The calls of a functional model in the order in which they can run; without inputs, nested models as one call."""
    levels = graph._nodes_by_depth
    return [node for depth in sorted(levels, reverse=True) for node in levels[depth] if not node.is_input]


@contextlib.contextmanager
def unlocked(layer):
    """Within it, a built layer takes new attributes that Keras tracks."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def forget_sublayer(layer, sublayer):
    """Takes a sublayer out of those that Keras tracks and saves; nothing where it is none."""
    layer._layers[:] = [each for each in layer._layers if each is not sublayer]


def schedule_of(optimizer):
    """The schedule, or plain function, that an optimizer's learning rate comes from, also inside loss scaling.

    None for a plain rate, or without an optimizer.
    """
    rate = getattr(innermost(optimizer), "_learning_rate", None)
    return rate if callable(rate) else None


def rate_at(schedule, step):
    """The learning rate that what `schedule_of` gives has at a step; a plain function is not told which."""
    is_told = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
    return float(keras.ops.convert_to_numpy(schedule(step) if is_told else schedule()))


def settings_of(optimizer):
    """The config of an optimizer; a schedule or function as its rate is not in it, since not all can be written down."""
    inner, schedule = innermost(optimizer), schedule_of(optimizer)
    if schedule is None:
        return optimizer.get_config()
    vars(inner)["_learning_rate"] = 0.0
    try:
        return optimizer.get_config()
    finally:
        vars(inner)["_learning_rate"] = schedule


def begin_at_epoch(model, epoch):
    """Lets the `fit` that is beginning go on at an epoch, counted from 0."""
    model._initial_epoch = epoch


def begin_at_first_epoch(model):
    """Lets the next `fit` begin at its own first epoch: a resumed one leaves the epoch it began with on the model."""
    model._initial_epoch = None


def attention_constraint(attention, slot):
    """The constraint that an attention layer gives to all of its projections; `slot` is its name in the config."""
    return getattr(attention, slot if hasattr(attention, slot) else f"_{slot}")


def set_attention_constraint(attention, slot, constraint):
    """Sets what `attention_constraint` returns."""
    setattr(attention, slot if hasattr(attention, slot) else f"_{slot}", constraint)


def copy_trainable(copy, model):
    """Gives a copy of a model the flag of the model itself; those of its layers stay, which a plain assignment would change."""
    copy._trainable = model._trainable


def default_generator():
    """The random generator of `keras.random` where none is given; None before it was first used."""
    return keras.src.backend.common.global_state.get_global_attribute("global_seed_generator")


def seed_generators(layer):
    """The random generators that a layer itself holds."""
    return list(layer._seed_generators)
