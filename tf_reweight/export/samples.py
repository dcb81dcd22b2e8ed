"""What goes into a model: names, shapes and types of its inputs, and arrays checked against them."""

import dataclasses
import re

import keras
import numpy as np

from tf_reweight import errors


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input tensor: its name in the file's signature, its shape `(batch=1, ...)`, its NumPy dtype name."""

    name: str
    shape: tuple
    dtype: str


def input_specs(model, data=None):
    """One `InputSpec` per input tensor of a built model; sizes the model leaves open are read off `data`.

    Raises:
        ValueError: when a size is open and there is no data to read it off.
    """
    arrays = None if data is None else [np.asarray(x) for x in _flat(data)]
    tensors = keras.tree.flatten(model.inputs) if getattr(model, "inputs", None) else None
    if tensors is None:
        if arrays is None:
            raise ValueError(
                errors.message(
                    "The shape of the inputs must be known; a subclassed model does not say it.",
                    "Pass `verify_data` or `representative_data`, inputs as the model takes them.",
                    model=type(model).__name__,
                )
            )
        return [InputSpec(f"input_{i}", (1, *x.shape[1:]), _narrow(x.dtype.name)) for i, x in enumerate(arrays)]
    specs = []
    for position, tensor in enumerate(tensors):
        shape = tuple(tensor.shape[1:])
        if None in shape and arrays is not None and position < len(arrays) and arrays[position].ndim == len(shape) + 1:
            known = arrays[position].shape[1:]
            shape = tuple(have if size is None else size for size, have in zip(shape, known))
        if None in shape:
            raise ValueError(
                errors.message(
                    "A file for phones needs inputs of one size; this model leaves it open.",
                    "Pass `verify_data` or `representative_data` of the size you want.",
                    input=tensor.name,
                    shape=tuple(tensor.shape),
                )
            )
        specs.append(InputSpec(tensor.name, (1, *shape), keras.backend.standardize_dtype(tensor.dtype)))
    return specs


def checked(data, specs, argument):
    """`data` as a list of arrays `(num, ...)`, one per input.

    Args:
        data: an array, or a list, tuple or dict of them for several inputs.
        specs: from `input_specs`.
        argument: the argument's name, for errors.

    Raises:
        ValueError: for a wrong number of arrays, a wrong shape, no examples, NaN or infinity.
    """
    arrays = _flat(data)
    if len(arrays) != len(specs):
        raise ValueError(
            errors.message(
                f"`{argument}` must hold one array per input, {len(specs)}.", f"In this order: {[s.name for s in specs]}.",
                arrays=len(arrays),
            )
        )  # fmt: skip
    made = []
    for item, spec in zip(arrays, specs):
        array = np.asarray(item)
        if array.ndim != len(spec.shape) or array.shape[1:] != spec.shape[1:] or not len(array):
            raise ValueError(
                errors.message(
                    f"`{argument}` must have the shape (num >= 1, {', '.join(map(str, spec.shape[1:]))}), for {spec.name!r}.",
                    "Stack examples as the model takes them.",
                    shape=array.shape,
                )
            )
        if array.dtype.kind not in "biuf" or ("int" in spec.dtype and array.dtype.kind == "f"):
            raise ValueError(
                errors.message(f"`{argument}` must hold numbers that fit {spec.dtype}.", "Convert it.", dtype=str(array.dtype))
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            raise ValueError(
                errors.message(f"`{argument}` must be finite (no NaN, no infinity).", "Remove or fill it.", example=bad)
            )
        made.append(array.astype(spec.dtype))
    if len({len(array) for array in made}) != 1:
        lengths = [len(array) for array in made]
        raise ValueError(
            errors.message(f"`{argument}` must have as many examples for each input.", "Check it.", lengths=lengths)
        )
    return made


def identifiers(names):
    """Names a signature can carry: letters, digits and underscores, each once."""
    made = []
    for name in names:
        clean = re.sub(r"\W", "_", name)
        clean = clean if clean and not clean[0].isdigit() else f"_{clean}"
        while clean in made:
            clean += "_"
        made.append(clean)
    return made


def _flat(data):
    if isinstance(data, dict):
        return [data[key] for key in data]
    return list(data) if isinstance(data, (list, tuple)) else [data]


def _narrow(dtype):
    return {"float64": "float32", "int64": "int32"}.get(dtype, dtype)
