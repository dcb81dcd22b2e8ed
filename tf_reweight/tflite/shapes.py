"""Sizes for inputs that a `.tflite` leaves open: from the user, one shape or one per input."""

import numpy as np

from tf_reweight import errors
from tf_reweight.checks import is_sequence


class Unfit(ValueError):
    """Shapes that a file does not take."""


def checked(shapes, details, argument="shapes"):
    """The shape of each input, with what the user says of those that are open.

    Args:
        shapes: None; one shape, for files of one input; or a dict of shapes by the name of the input. Whole shapes, the
            number of examples included: `(1, 224, 224, 3)`.
        details: dict of LiteRT's input details by name.
        argument: for errors.

    Returns:
        Dict of tuples by name.

    Raises:
        Unfit: for an unknown input, or a shape that the file does not take.
    """
    made = {name: tuple(int(size) for size in detail["shape"]) for name, detail in details.items()}
    if shapes is None:
        return made
    if not isinstance(shapes, dict):
        if len(made) != 1:
            fix = f"Pass a dict of shapes by input: {list(made)}."
            raise Unfit(errors.message(f"One shape in `{argument}` is for files of one input.", fix, shapes=shapes))
        shapes = {next(iter(made)): shapes}
    for name, shape in shapes.items():
        if name not in made:
            raise Unfit(errors.unknown(f"input of `{argument}`", name, made))
        made[name] = _fitting(name, shape, details[name], argument)
    return made


def _fitting(name, shape, detail, argument):
    # A shape that is known from the start has no signature in some files.
    signature = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    known = [int(size) for size in signature]
    good = is_sequence(shape) and len(shape) == len(known)
    good = good and all(isinstance(size, (int, np.integer)) and size > 0 for size in shape)
    if not good or any(size not in (-1, given) for size, given in zip(known, shape)):
        fix = "Pass a whole shape, the number of examples included, as (1, 224, 224, 3)."
        expected = f"`{argument}` of input {name!r} must fit {tuple(known)}, where -1 is open."
        raise Unfit(errors.message(expected, fix, shape=shape))
    return tuple(int(size) for size in shape)
