"""Whether a batch fits the model that takes it: as many sizes as its inputs have, and numbers that their types hold."""

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_holds
from tf_reweight.data.examples import arrays_of
from tf_reweight.graph.walking import calls_in_order, declares_inputs, input_structure, is_graph


def check_fits(model, x, split, **received):
    """Raises ValueError where the inputs of a batch are not those of a model.

    Keras runs with other sizes where its layers can, which a file does not, and makes other numbers of those that are too large
    for an input's type. Of a subclassed model neither is known.

    Args:
        model: a built Keras model.
        x: inputs in any form that `examples.take` knows for arrays.
        split: their name, for errors.
        received: what the error says beside the name and the sizes, such as the number of the batch.
    """
    if not declares_inputs(model):
        return
    arrays, about = arrays_of(model, x, split), received
    for tensor, array in zip(keras.tree.flatten(input_structure(model)), arrays):
        wanted, found = tensor.shape[1:], array.shape[1:]
        if len(wanted) != len(found) or any(size not in (None, given) for size, given in zip(wanted, found)):
            expected = f"The model must take the data's inputs, examples of the shape {tuple(wanted)} for {tensor.name!r}."
            received = {"split": split, **received, "input_shape": array.shape}
            raise ValueError(errors.message(expected, "Choose data or model to match.", **received))
        if array.dtype.kind in "USO" and tensor.dtype != "string":
            expected = f"`{split}` must hold numbers for {tensor.name!r}, and not text."
            fix = 'Convert it, as with .astype("float32").'
            raise TypeError(errors.message(expected, fix, **about, dtype=str(array.dtype)))
        check_holds(keras.backend.standardize_dtype(tensor.dtype), array, split, repr(tensor.name))
    check_indices(model, arrays, split, **about)


def check_indices(model, arrays, argument, **received):
    """Raises ValueError for indices that an `Embedding` which reads an input itself does not have.

    Args:
        model: a Keras model.
        arrays: one array per input.
        argument: their name, for errors.
        received: what the error says first, such as the number of the batch.
    """
    if not is_graph(model):
        return
    tensors = keras.tree.flatten(input_structure(model))
    places = {id(tensor): place for place, tensor in enumerate(tensors)}
    for node in calls_in_order(model):
        layer = node.operation
        place = places.get(id(node.input_tensors[0])) if isinstance(layer, keras.layers.Embedding) else None
        if place is None or not arrays[place].size:
            continue
        last = layer.input_dim - 1
        beyond = [value for value in (arrays[place].min().item(), arrays[place].max().item()) if not 0 <= value <= last]
        if beyond:
            expected = f"`{argument}` must hold indices that {layer.name!r} has for {tensors[place].name!r}: 0 to {last}."
            fix = "Look at what made them, or give the Embedding more rows."
            raise ValueError(errors.message(expected, fix, **received, value=beyond[0]))


def check_finite(x, y, weight, split, **received):
    """Raises ValueError for NaN and infinity in a batch; the arguments are those of `check_fits`."""
    for name, part in {"x": x, "y": y, "sample_weight": weight}.items():
        for array in keras.tree.flatten(part):
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
                expected = f"`{split}` must be finite (no NaN, no infinity), in its {name}."
                raise ValueError(errors.message(expected, "Remove or fill it.", **received, example=bad))
