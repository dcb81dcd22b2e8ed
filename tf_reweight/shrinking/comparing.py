"""How far two models of the user's are apart on examples of any kind."""

import keras

from tf_reweight import errors
from tf_reweight.data.examples import checked, input_specs, take
from tf_reweight.graph import comparing
from tf_reweight.graph.checking import check_eager, check_model


def compare(model, other, inputs):
    """Runs both models on the same inputs, with the same random draws where a layer makes some, and compares each output.

    Each output is measured in its own scale, so that scores between 0 and 1 are not lost beside boxes in pixels.

    Args:
        model: a built Keras model.
        other: one that takes the same inputs and has as many outputs.
        inputs: examples of any kind that `data.examples.take` knows: arrays `(num, ...)`, a list or a dict of them, a
            `tf.data.Dataset`, a generator or a PyDataset.

    Returns:
        The `Comparison` of the output that differs most for its scale.

    Raises:
        TypeError: for what is no model, or holds no examples.
        ValueError: for inputs of another shape than a model's, no examples, NaN or infinity, or another number of outputs.

    Example:
        >>> compare(model, shrink(model), x).relative
    """
    check_eager()
    for each in (model, other):
        check_model(each)
    arrays = take(model, inputs, "inputs")
    for each in (model, other):
        arrays = checked(arrays, input_specs(each, arrays), "inputs", text=True)
    counts = [len(keras.tree.flatten(each.outputs)) for each in (model, other)]
    if counts[0] != counts[1]:
        fix = "Compare models that compute the same, as one and what `shrink` makes of it."
        raise ValueError(errors.message("Both models must have as many outputs.", fix, model=counts[0], other=counts[1]))
    return comparing.compare(model, other, arrays)
