"""Layers that look words and numbers up in a table, and inputs that are no numbers: no file of built-in operations has them."""

import keras

from tf_reweight import errors
from tf_reweight.graph.access import all_layers
from tf_reweight.graph.walking import input_structure

_LAYERS = (
    keras.layers.StringLookup, keras.layers.IntegerLookup, keras.layers.Hashing, keras.layers.HashedCrossing,
    keras.layers.TextVectorization,
)  # fmt: skip
_FIX = (
    "Let the app look up, and give the model the result as an input of numbers: take the part behind it with "
    "keras.Model(layer.output, model.output), compress that, and ship the vocabulary with it."
)


def check_tables(model):
    """Raises ValueError for layers and inputs that no file can hold, nor a model that is quantized for one."""
    found = [layer.name for layer in all_layers(model) if isinstance(layer, _LAYERS)]
    if found:
        expected = "No layer may look up or hash: TFLite has no built-in operation for it."
        raise ValueError(errors.message(expected, _FIX, layers=found[:5]))
    tensors = keras.tree.flatten(input_structure(model))
    known = [tensor for tensor in tensors if tensor is not None]
    words = [tensor.name for tensor in known if keras.backend.standardize_dtype(tensor.dtype) == "string"]
    if words:
        raise ValueError(errors.message("Every input of a file must be of numbers, not of text.", _FIX, inputs=words[:5]))
