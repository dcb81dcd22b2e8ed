"""A training that is cut off anywhere goes on from its last whole epoch as if nothing had happened: one file has all of it."""

import collections
import io
import json
import random
import zipfile

import keras
import numpy as np
from rich.markup import escape

from tf_reweight import files
from tf_reweight.graph import state, tensorflow_draws
from tf_reweight.graph.access import begin_at_epoch
from tf_reweight.graph.optimizers import build_optimizer
from tf_reweight.kernels.chains import constraint_states, put_constraint_states
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.reports.progress import say
from tf_reweight.workflow import plain
from tf_reweight.workflow.attributes import Attributes

_FORMAT = 3
_WEIGHTS, _ARRAYS, _TRAINING = "model.weights.h5", "arrays.npz", "training.json"


class Checkpoint(keras.callbacks.Callback):
    """Keeps all of a training after each epoch in one file, and lets the next `fit` like it go on from there.

    The file is a zip: `model.weights.h5`, which Keras reads; `arrays.npz`; and `training.json` with the epoch, the states of
    random generators and the callbacks' own values. It is written beside and renamed when it lies on the disk.

    It must be the last callback: what the others decide at the end of an epoch belongs to it. Of each it keeps the attributes
    that training has changed, where they are numbers, text, arrays, or collections of those; see `attributes.Attributes`. One
    with more has `checkpoint_state()`, which returns such values, and `continue_from(state)`, called after its
    `on_train_begin` and after its attributes are there.

    Args:
        path: the file.
        name: of the training, checked when it goes on.
        callbacks: those whose values are kept, in their order. They are found again by their class.
        console: where an unreadable file is said, and what of callbacks is not as it was.
    """

    def __init__(self, path, name, callbacks, console):
        super().__init__()
        self._path, self._name, self._console = path, name, console
        self._callbacks = [Attributes(callback) for callback in callbacks]
        self._drawing = None  # operations of the step whose state is not kept, looked for when it is traced

    def on_train_begin(self, logs=None):
        for attributes in self._callbacks:
            attributes.begin()
        if not self._path.exists():
            return
        build_optimizer(self.model)  # so that there is something to load into
        try:
            members = _members(self._path)
            training = json.loads(members[_TRAINING])
            arrays = dict(np.load(io.BytesIO(members[_ARRAYS]), allow_pickle=False))
            self._check(training)
        except Exception as error:  # each flipped byte ends in another kind of error, of zipfile's, NumPy's or JSON's
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
        if self._drawing is None:
            self._drawing = tensorflow_draws.drawing_operations(self.model)
        arrays = {f"constraint/{key}": value for key, value in constraint_states(self.model).items()}
        training = {
            "format": _FORMAT,
            "name": self._name,
            "variables": _shapes(self.model),
            "epoch": epoch + 1,
            "stopped": bool(self.model.stop_training),
            "draws": state.draws(self.model),
            "tensorflow": {"generator": tensorflow_draws.generator_state(), "not_kept": self._drawing},
            "random": plain.packed(random.getstate(), arrays),
            "numpy": plain.packed(np.random.get_state(), arrays),
            "callbacks": [attributes.kept(arrays) for attributes in self._callbacks],
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
        waiting = collections.defaultdict(list)
        for attributes in reversed(self._callbacks):
            waiting[attributes.kind].append(attributes)
        for kept in training["callbacks"]:
            if waiting[kept["class"]]:
                for line in waiting[kept["class"]].pop().go_on(kept, arrays):
                    say(self._console, f"[bold]{self._name}[/bold]: {line}")
        state.set_draws(self.model, training["draws"])
        random.setstate(plain.unpacked(training["random"], arrays))
        np.random.set_state(plain.unpacked(training["numpy"], arrays))
        tensorflow_draws.set_generator_state(training["tensorflow"]["generator"])
        if training["tensorflow"]["not_kept"]:
            names = ", ".join(training["tensorflow"]["not_kept"])
            text = f"the training step draws by TensorFlow's {names}, whose state cannot be kept: the numbers are others now"
            say(self._console, f"[bold]{self._name}[/bold]: {text}; see keras.random.SeedGenerator in docs/tasks.md")
        begin_at_epoch(self.model, self.params["epochs"] if training["stopped"] else training["epoch"])
        # What constraints and callbacks put on the model is part of its step.
        drop_compiled_steps(self.model)

    def _say_unreadable(self, error):
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        text = f"[bold]{self._name}[/bold]: {self._path.name} cannot be read ({escape(reason)}); the stage begins anew"
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
