"""Setting on a built layer what Keras takes in constructors alone, and finding the models that a layer belongs to."""

import keras

from tf_reweight.graph.access import forget_sublayer, unlocked
from tf_reweight.graph.memory import objects_of


def set_part(layer, attribute, part):
    """Sets a layer's attribute to another part, a layer or any object; the part before it is tracked no more."""
    with unlocked(layer):
        forget_sublayer(layer, getattr(layer, attribute, None))
        if attribute in vars(layer).get("_modules", ()):
            delattr(layer, attribute)  # on torch a module takes the place of another, and nothing else does
        setattr(layer, attribute, part)


def models_with(part):
    """The models in memory that a layer is a part of, the largest first.

    Keras tells a layer nothing of the model around it. What is loaded with a model and needs more than its own layer has no
    other way to find it than to look through what the interpreter holds, which takes about a tenth of a second.
    """
    models = _made(*objects_of(keras.Model))
    parts = [list(model._flatten_layers()) for model in models]
    holding = [(len(inside), model) for model, inside in zip(models, parts) if any(layer is part for layer in inside)]
    return [model for _, model in sorted(holding, key=lambda pair: -pair[0])]


def models_sharing(variables, models):
    """Those of the models in memory that one of these variables belongs to."""
    wanted = {id(variable) for variable in variables}
    return [model for model in _made(models) if any(id(variable) in wanted for variable in model.variables)]


def _made(models):
    """All but those whose construction failed before Keras' own."""
    return [model for model in models if "_layers" in vars(model)]
