"""Names that TensorFlow cannot use: of layers it makes scopes, of weights names of what it saves, and not of every text."""

import re

import keras

from tf_reweight import errors
from tf_reweight.graph.access import all_layers

# TensorFlow takes a backslash in a scope, and no operation whose name has one.
_SCOPE, _OUTERMOST = re.compile(r"[A-Za-z0-9_.>-]*"), re.compile(r"[A-Za-z0-9.][A-Za-z0-9_./>-]*")
_FIX = "Rename it (name=...) where the model is built: ASCII letters, digits, _ and . are taken, a letter or digit first."


def check_scopes(model):
    """Raises ValueError for the name of a layer, the model or a weight that no file can be made with."""
    # Inputs are no scopes, and have other names in a file.
    called = [layer.name for layer in all_layers(model) if not isinstance(layer, keras.layers.InputLayer)]
    bad = [] if _OUTERMOST.fullmatch(model.name) else [model.name]
    bad += [name for name in called if not _SCOPE.fullmatch(name)]
    bad += [variable.path for variable in model.variables if not _OUTERMOST.fullmatch(variable.path)]
    if bad:
        expected = "Every name in a model must be one that TensorFlow can use, for layers as for the model itself."
        raise ValueError(errors.message(expected, _FIX, name=bad[0]))
