"""A training that is cut off anywhere goes on from its last whole epoch as if nothing had happened: one file has all of it."""

import io
import json
import random
import zipfile

import keras
import numpy as np

from tf_reweight import files
from tf_reweight.graph import state
from tf_reweight.graph.access import begin_at_epoch
from tf_reweight.graph.optimizers import build_optimizer
from tf_reweight.kernels.chains import constraint_states, put_constraint_states
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.reports.progress import say
from tf_reweight.workflow import plain

_FORMAT = 1
_WEIGHTS, _ARRAYS, _TRAINING = "model.weights.h5", "arrays.npz", "training.json"
# What Keras puts on a callback, what the terminal's clock counts, and what monitors give a sign when they first look.
_NOT_STATE = {"params", "validation_data", "_seconds", "_started", "min_delta"}
# Arrays that a callback held from the beginning are its data where they are larger, and are not kept.
_DATA_BYTES = 2**20


class Checkpoint(keras.callbacks.Callback):
    """Keeps all of a training after each epoch in one file, and lets the next `fit` like it go on from there.

    The file is a zip: `model.weights.h5`, which Keras reads; `arrays.npz`; and `training.json` with the epoch, the states of
    random generators and the callbacks' own values. It is written beside and renamed when it lies on the disk.

    It must be the last callback: what the others decide at the end of an epoch belongs to it. Of each it keeps the attributes
    that are numbers, text, arrays, and lists and dicts of those; one with more has `checkpoint_state()`, which returns such
    values, and `continue_from(state)`, called after its `on_train_begin`.

    Args:
        path: the file.
        name: of the training, checked when it goes on.
        callbacks: those whose values are kept, in their order.
        console: where an unreadable file is said.
    """

    def __init__(self, path, name, callbacks, console):
        super().__init__()
        self._path, self._name, self._callbacks, self._console = path, name, list(callbacks), console
        self._data = []

    def on_train_begin(self, logs=None):
        self._data = [_data_of(callback) for callback in self._callbacks]
        if not self._path.exists():
            return
        build_optimizer(self.model)  # so that there is something to load into
        try:
            members = _members(self._path)
            training = json.loads(members[_TRAINING])
            arrays = dict(np.load(io.BytesIO(members[_ARRAYS]), allow_pickle=False))
            self._check(training)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            self._say_unreadable(error)
            return
        before = state.saved_state(self.model)
        try:
            state.load_state(self.model, members[_WEIGHTS])
        except Exception as error:  # the user's own layers read it as well
            state.load_state(self.model, before)
            self._say_unreadable(error)
            return
        self._go_on(training, arrays)

    def on_epoch_end(self, epoch, logs=None):
        arrays = {f"constraint/{key}": value for key, value in constraint_states(self.model).items()}
        training = {
            "format": _FORMAT,
            "name": self._name,
            "variables": _shapes(self.model),
            "epoch": epoch + 1,
            "stopped": bool(self.model.stop_training),
            "draws": state.draws(self.model),
            "random": plain.packed(random.getstate(), arrays),
            "numpy": plain.packed(np.random.get_state(), arrays),
            "callbacks": [_kept(*pair, arrays) for pair in zip(self._callbacks, self._data)],
        }
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        with files.whole(self._path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(_WEIGHTS, state.saved_state(self.model))
            archive.writestr(_ARRAYS, stream.getvalue())
            archive.writestr(_TRAINING, json.dumps(training))

    def _check(self, training):
        if training["format"] != _FORMAT or training["name"] != self._name:
            raise ValueError(f"it is of {training['name']!r}, in format {training['format']}")
        if training["variables"] != _shapes(self.model):
            raise ValueError("it is of another model or optimizer")

    def _go_on(self, training, arrays):
        states = {key.removeprefix("constraint/"): value for key, value in arrays.items() if key.startswith("constraint/")}
        put_constraint_states(self.model, states)
        for callback, kept in zip(self._callbacks, training["callbacks"]):
            if kept["class"] == _class_of(callback):
                vars(callback).update(plain.unpacked(kept["values"], arrays))
                if kept["more"] is not None:
                    callback.continue_from(plain.unpacked(kept["more"], arrays))
        state.set_draws(self.model, training["draws"])
        random.setstate(plain.unpacked(training["random"], arrays))
        np.random.set_state(plain.unpacked(training["numpy"], arrays))
        begin_at_epoch(self.model, self.params["epochs"] if training["stopped"] else training["epoch"])
        # What constraints and callbacks put on the model is part of its step.
        drop_compiled_steps(self.model)
        self.model.make_train_function(force=True)

    def _say_unreadable(self, error):
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        text = f"[bold]{self._name}[/bold]: {self._path.name} cannot be read ({reason}); the stage begins anew"
        say(self._console, text)
        self._path.unlink(missing_ok=True)


def _members(path):
    """The files in a checkpoint, by name; their checksums are checked."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in (_WEIGHTS, _ARRAYS, _TRAINING)}


def _shapes(model):
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.weights, *(optimizer.variables if optimizer is not None else [])]
    return [[list(variable.shape), str(variable.dtype)] for variable in variables]


def _class_of(callback):
    return f"{type(callback).__module__}.{type(callback).__qualname__}"


def _data_of(callback):
    """Names of the attributes that hold large arrays before the training."""
    return {name: plain.arrays_in(value) for name, value in vars(callback).items() if _size_of(value) > _DATA_BYTES}


def _size_of(value):
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_size_of, value)) if isinstance(value, (list, tuple)) else 0


def _kept(callback, data, arrays):
    """What is kept of one callback, JSON-ready."""
    values = {}
    for name, value in vars(callback).items():
        if name in _NOT_STATE or name in data and plain.arrays_in(value) == data[name]:
            continue
        added = {}
        try:
            plain.packed(value, added)
        except plain.NotPlain:
            continue  # functions, models, writers: made anew
        values[name] = value
    more = callback.checkpoint_state() if hasattr(callback, "checkpoint_state") else None
    return {
        "class": _class_of(callback),
        "values": plain.packed(values, arrays),
        "more": None if more is None else plain.packed(more, arrays),
    }
