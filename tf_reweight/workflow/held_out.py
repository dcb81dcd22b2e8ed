"""Held-out examples of what `--data` names, as a model takes them: for commands that measure and do not train."""

import keras

from tf_reweight import data as datasets
from tf_reweight import errors
from tf_reweight.data import code, value_range
from tf_reweight.workflow.config import Config


def held_out(model, name, data_dir=None, final=False):
    """Validation examples, or those for training where a function gives no others.

    Args:
        model: the built Keras model that they are for: images get the range of values that it was made for.
        name: `FILE.py:FUNCTION`, which returns train, validation and test; a data set's name, an `.npz`, a folder of images.
        data_dir: where tensorflow-datasets keeps its data.
        final: whether it is the last word, for which test examples are kept, rather than a choice.

    Returns:
        What `data.examples.take_labelled` knows, or a pair of inputs and labels.

    Raises:
        FileNotFoundError, ValueError: for a name that is none, or a function that returns nothing to take.
    """
    if code.is_code(name):
        # As in a run with the default seed: a random split has the same parts.
        keras.utils.set_random_seed(Config.model_fields["seed"].default)
        train, validation, test = code.splits(name)
        wanted = (test, validation, train) if final else (validation, train)
        return next(part for part in wanted if part is not None)
    shape = tuple(model.inputs[0].shape[1:]) if len(model.inputs) == 1 else ()
    is_file = name == "digits" or str(name).endswith(".npz")
    size = shape[:2] if len(shape) == 3 and None not in shape and not is_file else None
    data = datasets.load(name, data_dir, image_size=size, value_range=value_range.RAW)
    if data.input_shape != shape:
        fix = "Choose data or model to match; data of several inputs come from FILE.py:FUNCTION."
        raise ValueError(errors.message(f"The model takes examples of shape {shape}.", fix, data=name, shape=data.input_shape))
    wanted = value_range.RAW if data.white is None else value_range.made_for(model, data.white, shape)
    data = data.in_range(wanted)
    return data.test if final else data.validation
