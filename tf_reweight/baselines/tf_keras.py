"""Models to Keras 2 (`tf_keras`) and back, so that tfmot's schemes can be compared side by side. Needs the extra `tfmot`.

Importing tfmot turns `tf.keras` into Keras 2 for the whole process, so use it in a process of its own: `benchmarks/tfmot.py`.
"""

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import is_sequence, listed
from tf_reweight.graph.access import is_layer, operation_of
from tf_reweight.graph.walking import graph_of, walk

# Layer -> the arguments that mean the same in both; weights come in the same order. A layer that is not here is refused.
_COMMON = ("name", "trainable")
_CONV = ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups", "activation", "use_bias")
_POOL = ("pool_size", "strides", "padding", "data_format")
LAYERS = {
    "Activation": ("activation",),
    "Add": (),
    "AveragePooling2D": _POOL,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv1D": _CONV,
    "Conv2D": _CONV,
    "Dense": ("units", "activation", "use_bias"),
    "DepthwiseConv2D": (
        "kernel_size", "strides", "padding", "depth_multiplier", "data_format", "dilation_rate", "activation", "use_bias",
    ),
    "Dropout": ("rate",),
    "Flatten": ("data_format",),
    "GlobalAveragePooling2D": ("data_format", "keepdims"),
    "GlobalMaxPooling2D": ("data_format", "keepdims"),
    "MaxPooling2D": _POOL,
    "Multiply": (),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Reshape": ("target_shape",),
    "Softmax": ("axis",),
    "ZeroPadding2D": ("padding", "data_format"),
}  # fmt: skip
_ACTIVATIONS = ("linear", "relu", "relu6", "sigmoid", "softmax", "tanh", "elu", "selu", "softplus", "softsign")
_TOLERANCE = 1e-4


def to_tf_keras(model):
    """The same model in Keras 2, with the same weights and, to 1e-4 of their scale, the same outputs.

    Args:
        model: a built Sequential or functional Keras 3 model of the layers in `LAYERS`, each used once; `x + y` is an Add.

    Returns:
        A functional `tf_keras.Model`, not compiled.

    Raises:
        ImportError: when tf_keras is not installed.
        ValueError: for a layer or activation that is not on the list, a layer used twice, or outputs that differ.

    Example:
        >>> old = to_tf_keras(model)
    """
    old = _tf_keras()
    made, used = [], set()

    def visit(path, node, args, kwargs):
        operation = node.operation
        if id(operation) in used:
            raise _refusal(path, "it is used more than once")
        used.add(id(operation))
        layer = _counterpart(old.layers, type(operation).__name__, _config(operation), path)
        tensors = [item for item in keras.tree.flatten((args, kwargs)) if not isinstance(item, (bool, int, float, type(None)))]
        outputs = layer(tensors if len(tensors) > 1 else tensors[0])
        made.append((layer, operation))
        return outputs

    graph = graph_of(model)
    inputs = [old.Input(tuple(t.shape[1:]), name=operation_of(t).name) for t in keras.tree.flatten(graph.inputs)]
    outputs = walk(model, inputs, visit)
    new = old.Model(inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0], name=model.name)
    for layer, operation in made:
        if layer.weights:
            layer.set_weights(operation.get_weights())
    _check(model, new, keras.tree.flatten(graph.inputs))
    return new


def from_tf_keras(model):
    """The same model in Keras 3; the way back of `to_tf_keras`, after tfmot's `strip_*`.

    Args:
        model: a functional or Sequential `tf_keras.Model` of the layers in `LAYERS`, each used once.

    Returns:
        A functional `keras.Model`, not compiled.

    Raises:
        ImportError, ValueError: as `to_tf_keras`; also for tfmot's own layers, which must be stripped first.
    """
    old = _tf_keras()
    if not isinstance(model, old.Model) or not model.built or not model.inputs:
        fix = "Pass a functional or Sequential model."
        raise ValueError(errors.message("`model` must be a built tf_keras model.", fix, model=type(model).__name__))
    values = {id(tensor): keras.Input(tuple(tensor.shape[1:]), name=tensor.node.layer.name) for tensor in model.inputs}
    inputs = [values[id(tensor)] for tensor in model.inputs]
    made = []
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            continue
        if len(layer.inbound_nodes) != 1:
            raise _refusal(layer.name, "it is used more than once")
        new = _counterpart(keras.layers, kind, layer.get_config(), layer.name)
        given = _inputs(layer, values)
        values[id(layer.output)] = new(given if len(given) > 1 else given[0])
        made.append((new, layer))
    outputs = [values[id(tensor)] for tensor in model.outputs]
    back = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0], name=model.name)
    for new, layer in made:
        if new.weights:
            new.set_weights(layer.get_weights())
    _check(back, model, back.inputs)
    return back


def _inputs(layer, values):
    tensors = listed(layer.input)
    return [values[id(tensor)] for tensor in tensors]


def _tf_keras():
    try:
        import tf_keras
    except ImportError as error:
        fix = 'Install it with pip install "tf-reweight[tfmot]".'
        raise ImportError(errors.message("Keras 2 models need tf_keras.", fix, tf_keras=None)) from error
    return tf_keras


def _config(operation):
    """What an operation is made of; one of keras.ops has a name alone."""
    known = is_layer(operation)
    return operation.get_config() if known else {"name": operation.name.replace("/", "_"), "trainable": True}


def _counterpart(layers, kind, config, path):
    """The layer of this name and meaning in the other Keras."""
    if kind not in LAYERS:
        raise _refusal(path, f"{kind} is not among {', '.join(LAYERS)}")
    activation = config.get("activation", "linear")
    if activation not in _ACTIVATIONS:
        raise _refusal(path, f"its activation is not among {', '.join(_ACTIVATIONS)}")
    chosen = {name: config[name] for name in (*_COMMON, *LAYERS[kind]) if name in config}
    if kind == "BatchNormalization" and is_sequence(chosen["axis"]):
        chosen["axis"] = chosen["axis"][0]
    return getattr(layers, kind)(**chosen)


def _refusal(path, reason):
    fix = "Replace it, or compare another model."
    return ValueError(errors.message(f"Every layer must exist in both versions of Keras: {reason}.", fix, layer=path))


def _check(model, other, inputs):
    """Raises unless a Keras 3 and a Keras 2 model have the same outputs on random inputs."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(4, *tensor.shape[1:])).astype("float32") for tensor in inputs]
    given = arrays if len(arrays) > 1 else arrays[0]
    pairs = zip(keras.tree.flatten(model(given, training=False)), keras.tree.flatten(other(given, training=False)))
    for first, second in ((np.asarray(a), np.asarray(b)) for a, b in pairs):
        difference, scale = float(np.abs(first - second).max()), float(np.abs(first).max())
        if not difference <= _TOLERANCE * max(scale, 1e-30):
            fix = "Please report the model."
            expected = f"Both models must give the same outputs within {_TOLERANCE:g} of their scale."
            raise ValueError(errors.message(expected, fix, difference=difference, scale=scale))
