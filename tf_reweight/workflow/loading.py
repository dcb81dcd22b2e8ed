"""The model, the data and the task of a run, from its configuration or from the user's hands, and whether they fit together."""

import dataclasses
import re

import keras

from tf_reweight import data as datasets
from tf_reweight import errors
from tf_reweight.data import code, feeds, models, value_range
from tf_reweight.data.fitting import check_fits
from tf_reweight.data.splits import class_numbers
from tf_reweight.graph.losses import ONE_HOT, SPARSE, loss_name
from tf_reweight.graph.walking import input_structure
from tf_reweight.workflow import config as configs
from tf_reweight.workflow import given, labels, unheeded
from tf_reweight.workflow import task as tasks
from tf_reweight.workflow.scoring import Scorer, outputs_of
from tf_reweight.workflow.sections import GIVEN


def check_data_is_named(config, source, overrides, model):
    """Raises for a model of the user's own and no data: the default, digits, is for models by name alone.

    Args:
        config: the `Config`.
        source, overrides: what it was made of, as `config.load` takes them.
        model: a Keras model, or None for the one that the configuration names.
    """
    if model is None:
        name = config.model.name
        if name in models.names():
            return
        if name != GIVEN and re.fullmatch(r"[\w-]+", name):
            raise ValueError(errors.unknown("model", name, models.names()))
    if "name" in (configs.said(source, overrides).get("data") or {}):
        return
    fix = 'Pass train=(x, y), or anything else that `fit` takes, or config={"data": {"name": ...}}; or say --data.'
    received = {"model": config.model.name if model is None else model.name, "train": None}
    raise ValueError(errors.message("A model of your own needs `train`, or a configuration that names data.", fix, **received))


def _check_is_named(what, section, fix):
    """Raises for a configuration that a run wrote which was given what is to be loaded by its name."""
    if section.name == GIVEN:
        expected = f"The configuration of a run that was given its {what} needs the {what} again."
        raise ValueError(errors.message(expected, fix, **{f"{what}.name": section.name}))


def data_of(config, source, overrides):
    """What the configuration names: a `Dataset`, or train, validation and test as a function returns them.

    Args:
        config, source, overrides: as for `check_data_is_named`.

    What is random in functions of the user's, for data and then for the model, begins where the seed of the configuration says.
    """
    keras.utils.set_random_seed(config.seed)
    named = config.data
    _check_is_named("data", named, "Pass them as train=(x, y) with the model, or name them by --data (data.name).")
    said = unheeded.said_of_data(source, overrides, named.name)
    unheeded.check_named(said, named.name)
    if code.is_code(named.name):
        splits = code.splits(named.name)
        unheeded.check_named(said, named.name, splits)
        return splits
    return datasets.load(
        named.name, named.data_dir, named.validation, config.seed, named.limit, named.image_size, value_range.RAW
    )  # fmt: skip


def model_of(config, data):
    """The model that the configuration names; a seed that a user's file sets, also when it is imported, stays in force."""
    named = config.model
    _check_is_named("model", named, "Pass your model first, compress(model, train, config=...), or name it by --model.")
    parts = {}
    for path in named.custom:
        parts |= code.parts_of(code.imported(path))
    if code.is_code(named.name):
        return code.called(named.name, "model")
    if isinstance(data, datasets.Dataset):
        return models.load(named.name, data.input_shape, data.num_classes, parts or None)
    if named.name in models.names():
        fix = "Pass a model, the path of a .keras file (--model), or FILE.py:FUNCTION."
        raise ValueError(errors.message("Models by name are for labelled images.", fix, model=named.name))
    return models.load(named.name, custom_objects=parts or None)


def fitted(model, data, config):
    """`(Splits, Task)`: the data as the model takes them, and how it is trained.

    Raises:
        ValueError: for data that the model does not take, labels that do not fit the loss, or a model without a loss.
    """
    if isinstance(data, datasets.Dataset):
        data = _in_range(data, config.data.value_range, model)
        if config.data.shift and len(data.input_shape) != 3:
            fix = "Set data.shift to 0."
            raise ValueError(errors.message("`data.shift` moves images.", fix, input_shape=data.input_shape))
        if config.data.shift and config.data.shift >= min(data.input_shape[:2]):
            expected = "`data.shift` must be less than the images are high and wide: nothing of them would be left."
            fix = "A tenth of the size is usual."
            raise ValueError(errors.message(expected, fix, shift=config.data.shift, input_shape=data.input_shape))
        splits = given.of_dataset(data, config.train.batch_size, config.seed)
    else:
        if config.data.shift:
            fix = "Set data.shift to 0, and move images in your data set."
            raise ValueError(errors.message("`data.shift` is for data sets by name.", fix, shift=config.data.shift))
        splits = given.of_anything(model, *data, config, config.seed)
    unheeded.check_steps(config.train.steps, splits.train)
    outputs = _outputs(model, splits)
    task = tasks.of_names(config.task) or tasks.of_model(model) or _classifier(model, splits, outputs)
    if splits.dataset is not None and is_classifier(task):
        splits = _one_hot(splits) if loss_name(task.loss) in ONE_HOT else splits
        task = task if task.metrics or task.weighted_metrics else dataclasses.replace(task, metrics=["accuracy"])
    return splits, task


def is_classifier(task):
    """Whether a task has one loss, and that chooses one of several classes."""
    return not keras.tree.is_nested(task.loss) and loss_name(task.loss) in SPARSE + ONE_HOT


def scorer(model, splits, task):
    """The `Scorer` of a run; raises where the labels of a split are not what the task expects."""
    made = Scorer(task, model, splits.train.first()[0])
    for split in ("train", "validation", *(["test"] if splits.has_test else [])):
        labels.check_labels(task, made, splits.feeds[split], split)
    made.begin(splits.train.first())
    return made


def _outputs(model, splits):
    """The model's outputs for the first batch of the training; every split is tried."""
    found = []
    # A part of the training stands for splits that nobody gave: what is wrong is said of it first.
    for split in ("train", "validation", "test"):
        x = splits.feeds[split].first()[0]
        try:
            found.append(outputs_of(model, x))
        except Exception as error:  # each backend has types of its own for what does not fit
            shapes = [array.shape for array in keras.tree.flatten(x)]
            fix = "Choose data or model to match."
            if isinstance(error, NotImplementedError):
                fix = "Stages are measured by its outputs: give its class a `call`, or compress the part of it that is shipped."
            expected = f"The model must take the data's inputs: {errors.said_by(error)}."
            raise ValueError(errors.message(expected, fix, split=split, input_shape=shapes)) from None
        check_fits(model, x, split)
    return found[0]


def _classifier(model, splits, outputs):
    """The task of a model that is not compiled: whole-number labels and one output per class need no loss by name."""
    dataset, y = splits.dataset, splits.train.labels()
    single, classes = not keras.tree.is_nested(outputs), class_numbers(y)
    if dataset is not None:
        _check_classifier(model, dataset, outputs if single else None)
        return tasks.classifier(labels.are_probabilities(outputs))
    if single and outputs.ndim == 2 and outputs.shape[1] > 1 and classes is not None:
        return tasks.classifier(labels.are_probabilities(outputs))
    raise ValueError(
        errors.message(
            "The model must be compiled, or the loss named.",
            'Call model.compile(optimizer, loss, metrics), or pass config={"task": {"loss": "mse", "metrics": ["mae"]}}.',
            model=model.name,
        )
    )


def _in_range(data, wanted, model):
    """The data in the range of values that the configuration, or the model, asks for."""
    if wanted != value_range.AUTO:
        return data.in_range(wanted)
    if data.white is None:
        return data
    return data.in_range(value_range.made_for(model, data.white, data.input_shape))


def _check_classifier(model, data, outputs):
    """Raises unless the model takes these inputs and has one output per class."""
    structure = input_structure(model)
    if outputs is None or structure is not None and len(keras.tree.flatten(structure)) != 1:
        fix = "Compile the model with its losses, and pass train= and validation= as `fit` takes them."
        expected = "A model that is not compiled must be a classifier with one input and one output."
        raise ValueError(errors.message(expected, fix, model=model.name))
    if outputs.ndim != 2 or outputs.shape[1] != data.num_classes:
        raise ValueError(
            errors.message(
                f"The model must have one output per class, {data.num_classes} for {data.name}.",
                "Choose data or model to match.",
                output_shape=outputs.shape[1:],
            )
        )


def _one_hot(splits):
    """Labels of a data set by name as the model's own loss expects them."""
    num = splits.dataset.num_classes

    def changed(feed):
        return feeds.Arrays(feed.x, keras.utils.to_categorical(feed.y, num), feed.weight, feed.batch_size, feed.seed)

    parts = {split: changed(feed) for split, feed in splits.feeds.items()}
    return dataclasses.replace(splits, **parts)
