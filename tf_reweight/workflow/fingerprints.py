"""What tells the model, the way it is trained and the data of a run from others: a folder goes on only with the same."""

import contextlib
import hashlib
import re
import types
import warnings

import keras
import numpy as np
from keras.src.utils.naming import to_snake_case

from tf_reweight.graph.distribution import as_numpy
from tf_reweight.workflow import own_code
from tf_reweight.workflow.differences import CODE

# Keras numbers what has no name of its own by how many the process has made, and shared objects by where they lie in memory.
# Some layers draw a seed where none is given; every stage sets the seeds of all.
_NUMBER = re.compile(r"_\d+$")
_OF_THE_PROCESS = {"shared_object_id", "registered_name", "build_config", "compile_config", "module", "seed"}
# Where the config of a model names layers to say how they are connected.
_CONNECTIONS = {"keras_history", "input_layers", "output_layers"}
_PLAIN = (str, int, float, bool, types.NoneType)


def fingerprint(model, task, splits, parts=()):
    """What a run writes down of what it was given, as a dict that JSON takes.

    Args:
        model: the user's; None for one that the configuration names by its kind.
        task: the `Task`: how it is trained.
        splits: the data.
        parts: what else works on the model and may be the user's, such as stages.
    """
    mark = {}
    if model is not None:
        mark = {"model": name_of(model), "layers": own_code.digest(_layers(model)), "weights": _weights(model)}
    mark |= _training(task)
    trained = (task.loss, task.metrics, task.weighted_metrics, task.optimizer, task.by_class)
    mark[CODE] = own_code.of(model, *trained, *parts)
    for split, feed in splits.feeds.items():
        mark |= {split: feed.num_examples, f"{split} examples": feed.fingerprint()}
    return mark


def name_of(model):
    """The name of a model, without the number of one that Keras has named: it is another when the process makes it again."""
    kind = to_snake_case(type(model).__name__)
    return kind if _NUMBER.sub("", model.name) == kind else model.name


def of_start(model):
    """What a run inside another one writes down of the model that it begins with: the rest is that of the other."""
    return {"weights": _weights(model)}


def _weights(model):
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(as_numpy(weight)).tobytes())
    return digest.hexdigest()


def _layers(model):
    """The config of a model with connections by number: its layers may have other names when a process makes it again."""
    config = _config(model)
    numbers = {}
    for name in _names(config):
        numbers.setdefault(name, len(numbers))
    return [type(model).__name__, _numbered(_plain(config), numbers)]


def _names(config):
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            yield config["name"]
        for value in config.values():
            yield from _names(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _names(value)


def _numbered(config, numbers, connects=False):
    if isinstance(config, dict):
        return {
            key: _NUMBER.sub("", value) if key == "name" and isinstance(value, str)
            else _numbered(value, numbers, key in _CONNECTIONS)
            for key, value in config.items()
        }  # fmt: skip
    if isinstance(config, list):
        return [_numbered(value, numbers, connects) for value in config]
    return numbers.get(config, config) if connects and isinstance(config, str) else config


def _training(task):
    if task.by_class is not None:
        own = task.by_class.get_compile_config()
        return {"compile": _told(own)}
    parts = {name: getattr(task, name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics", "optimizer")}
    return {name: _told(part) for name, part in parts.items() if part is not None}


def _told(part):
    """A loss, metric or optimizer, or a structure of them, in words that are the same in every process."""
    return _numbered(_plain(part), {})


def _plain(value):
    """Anything that models are made of and compiled with, in dicts, lists, numbers and text."""
    if isinstance(value, float):
        return float(f"{value:.7g}")  # a rate of 0.001, which Keras keeps in single precision, is told as that
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            return "lambda"  # Keras keeps in which line of which file it stands
        return {str(key): _plain(part) for key, part in value.items() if key not in _OF_THE_PROCESS}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic | keras.Variable):
        return np.asarray(value).tolist()
    if isinstance(value, types.FunctionType):
        return _function(value)
    return _object(value)


def _object(value):
    """The class of an object, with its config where it has one."""
    return {"class": type(value).__name__, **_plain(_config(value))}


def _config(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lambdas, which Keras would not load again: here nothing is loaded
        try:
            return value.get_config()
        except (AttributeError, NotImplementedError):  # nothing that Keras makes again: its name has to do
            return {}


def _function(function):
    """A function by its name and, unless it is Keras', by what it does: the body may have changed."""
    if (function.__module__ or "").startswith("keras."):
        return function.__name__
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    kept = [value for value in [*_closed_over(function), *defaults] if isinstance(value, _PLAIN)]
    return f"{function.__qualname__} ({own_code.digest([own_code.code(function.__code__), kept])[:8]})"


def _closed_over(function):
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # empty, until its name has a value
            yield cell.cell_contents
