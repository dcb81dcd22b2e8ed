"""What a subclassed model takes and gives, by the shapes that Keras recorded when it was built."""

import keras


def taken(model):
    """Symbolic inputs in the structure in which a model was first called; None where Keras recorded none, or several arguments.

    Sizes are those of the first call, the batch left open, and types are all float32: nobody knows which of them are fixed.
    """
    shapes = getattr(model, "_build_shapes_dict", None) or {}
    return _symbolic(next(iter(shapes.values())), ()) if len(shapes) == 1 else None


def given(model):
    """Symbolic outputs in the structure in which a model gives them; None where its `call` does not run on `taken`."""
    inputs = taken(model)
    if inputs is None:
        return None
    try:
        return model.compute_output_spec(inputs)
    except Exception:  # whatever a user's `call` raises on symbolic floats, where it was written for numbers or integers
        return None


def _symbolic(shapes, path):
    """The structure of shapes with a symbolic tensor for each, which has the name of its place."""
    if isinstance(shapes, dict):
        return {name: _symbolic(part, (*path, name)) for name, part in shapes.items()}
    if any(map(keras.tree.is_nested, shapes)):
        # `fit` makes tuples of lists, and a file lists of tuples.
        return tuple(_symbolic(part, (*path, number)) for number, part in enumerate(shapes))
    return keras.KerasTensor((None, *shapes[1:]), name="_".join(map(str, ("input", *path))))
