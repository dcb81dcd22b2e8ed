"""Keys of a configuration that nothing would look at, since an argument of the call stands in their place."""

from tf_reweight import errors
from tf_reweight.data import Dataset, code, sources
from tf_reweight.records import plain
from tf_reweight.workflow import config as configs
from tf_reweight.workflow.defaults import rules_of
from tf_reweight.workflow.sections import Data

_EXPECTED = "`data.{}` is for data sets by name, and `train` is given."
# Keys of `data` that a data set by its name is read by, and how their work is done for one that is given.
_READ_BY = {"limit": "pass as many examples as shall count", "image_size": "resize the images beforehand"}
_IN_A_RANGE = {"value_range": "pass values as the model takes them"}
_IN_NO_PLACE = {"data_dir": "load the data before the call"}
_IN_CODE = {"data_dir": "let the function know its folder"}
_EPOCHS = ("every", "epochs")


def check(said, train, validation):
    """Raises where the user gives a model, and says in the configuration what only a model or data by name have.

    Args:
        said: the configuration as a mapping, with what it says alone. One that says everything was written by a run, and its
            defaults are no wishes.
        train, validation: what the user gave, or None.

    Raises:
        ValueError: for the first such key.
    """
    if _says_everything(said):
        return
    for key in _section(said, "model"):
        expected = f"`model.{key}` is for models by name, and a model is given, with all that it is made of."
        _refuse(expected, f"Leave model.{key} out.", said, "model", key)
    if train is None:
        return
    is_split = isinstance(train, Dataset)
    ways = _READ_BY | _IN_NO_PLACE if is_split else _READ_BY | _IN_A_RANGE | _IN_NO_PLACE
    for key in _section(said, "data"):
        if key == "name":
            _refuse(_EXPECTED.format(key), "Leave one of them out.", said, "data", key)
        if key in ways and not _is_default(key, said):
            _refuse(_EXPECTED.format(key), f"Leave data.{key} out, and {ways[key]}.", said, "data", key)
    if (validation is not None or is_split) and not _is_default("validation", said):
        expected = "`data.validation` is for runs without validation examples of their own: it says how many are held out."
        _refuse(expected, "Leave one of them out.", said, "data", "validation")


def said_of_data(source, overrides, name):
    """What is said of data with its name: by the overrides, and by a configuration that says this name itself.

    A file holds for several runs, of which an override may name other data.

    Args:
        source, overrides: as `config.load` takes them.
        name: of the data, in the end.
    """
    said = configs.said(source)
    section = {} if _says_everything(said) else _section(said, "data")
    section = section if section.get("name", Data.model_fields["name"].default) == name else {}
    return {"data": {**section, **_section(configs.read({}, overrides), "data")}}


def check_named(said, name, splits=None):
    """Raises where data by name, or those of a function in a file, do not look at what is said of them.

    Args:
        said: what `said_of_data` gives.
        name: of the data.
        splits: None; or `(train, validation, test)` that a function gave.

    Raises:
        ValueError: for the first such key.
    """
    if splits is None and not code.is_code(name):
        if not _is_default("data_dir", said) and sources.has_own_place(name):
            expected = "`data.data_dir` is where tensorflow-datasets keeps its data, which these are not."
            _refuse(expected, "Leave data.data_dir out.", said, "data", "data_dir")
        return
    for key, way in (_READ_BY | _IN_A_RANGE | _IN_CODE).items():
        if splits is None and not _is_default(key, said):
            expected = f"`data.{key}` is for data sets by name: a function gives its examples as they are."
            _refuse(expected, f"Leave data.{key} out, and {way}.", said, "data", key)
    if splits is not None and splits[1] is not None and not _is_default("validation", said):
        expected = "`data.validation` is for runs without validation examples of their own, which the function gives."
        _refuse(expected, "Leave data.validation out, or let the function give none.", said, "data", "validation")


def check_epochs(said, made, epochs):
    """Raises where the argument `epochs` and the configuration both say how long a stage trains, and not the same.

    Args:
        said: as for `check`.
        made: the configuration with the epochs of the argument.
        epochs: the argument.
    """
    if epochs is None or _says_everything(said):
        return
    for name in configs.STEPS:
        section = _section(said, name)
        twice = [key for key in _EPOCHS if section.get(key) is not None and plain(section[key]) != made[name].get(key)]
        if twice:
            expected = f"How long the stage `{name}` trains is said twice, by `epochs` and by {name}.{twice[0]}."
            fix = 'Leave one of them out, or give epochs of the other stages alone, such as epochs={"retrain": 8}.'
            raise ValueError(errors.message(expected, fix, epochs=epochs, **{name: section}))


def check_task(said, monitor, mode):
    """Raises where an argument and the section `task` both name the metric that decides, or its direction, and not the same.

    Args:
        said: as for `check`.
        monitor, mode: the arguments, or None.
    """
    section = {} if _says_everything(said) else _section(said, "task")
    for name, value in (("monitor", monitor), ("mode", mode)):
        if value is not None and section.get(name) not in (None, value):
            expected = f"`{name}` is said twice, by the argument and by task.{name}."
            raise ValueError(errors.message(expected, "Leave one of them out.", **{name: value, "task": section}))


def check_structure(said, structure):
    """Raises where a structure and the section `regularize`, which would go before it, name others.

    Args:
        said: as for `check`.
        structure: its name.
    """
    section = _section(said, "regularize")
    named = [rule["structure"] for rule in rules_of(section) if "structure" in rule]
    named += ["channels"] if section.get("coupled") is not None else []
    if any(name != structure for name in named):
        expected = "The structure is said twice, by `structure` and by regularize."
        raise ValueError(errors.message(expected, "Leave one of them out.", structure=structure, regularize=section))


def check_steps(steps, feed):
    """Raises for a number of steps where the examples are in memory, of which every epoch sees all.

    Args:
        steps: `train.steps`, or None.
        feed: the `Feed` of the training.
    """
    if steps is not None and feed.in_memory and steps != feed.num_batches:
        fix = "Leave it out, or pass a source of batches, such as a tf.data.Dataset."
        expected = "`train.steps` is for sources of batches: an epoch sees all examples that are in memory."
        raise ValueError(errors.message(expected, fix, steps=steps, batches=feed.num_batches))


def _says_everything(said):
    return set(said) >= set(configs.Config.model_fields)


def _section(said, name):
    """What is said in a section; of what is none, which is refused later, nothing."""
    section = said.get(name)
    return section if isinstance(section, dict) else {}


def _is_default(key, said):
    """Whether a key of `data` says what holds where nobody says anything."""
    default = Data.model_fields[key].default
    value = plain(_section(said, "data").get(key, default))
    return type(value) is type(default) and value == default


def _refuse(expected, fix, said, section, key):
    raise ValueError(errors.message(expected, fix, **{key: said[section][key]}))
