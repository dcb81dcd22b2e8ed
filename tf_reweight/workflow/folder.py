"""The run folder: which stages are done, their models, and files that are written whole or not at all."""

import fnmatch
import json
import pathlib

import keras
import numpy as np

from tf_reweight import errors, files
from tf_reweight.workflow import differences
from tf_reweight.workflow.lock import LOCK

_CONFIG, _GIVEN, _STATE = "config.yaml", "given.json", "state.json"
_EXPECTED = "The run folder must be new, empty, or hold this very run."
_FIX = "Say the same as before to go on with it, choose another folder with --out (out=), or delete this one."


class Folder:
    """One run on disk; opening it again continues the run.

    Args:
        path: the folder; made when it does not exist.
        resolved: the resolved configuration as text. A folder that holds another is refused.
        given: what else makes the run this very run, such as the user's model and data, as a dict; None for nothing.
        custom_objects: the classes and functions of the user's own that its models need, by name.

    Raises:
        ValueError: when the folder holds anything but this very run.
    """

    def __init__(self, path, resolved, given=None, custom_objects=None):
        self.path, self._custom_objects = pathlib.Path(path), custom_objects or {}
        self.check(self.path, resolved, given)
        text = _text_of(given)
        files.make_folder(self.path)
        files.remove_partial(self.path)
        # The configuration last: with it the folder is this run's.
        if text is not None:
            self.write_text(_GIVEN, text)
        self.write_text(_CONFIG, resolved)
        state = self.path / _STATE
        self._stages = _read(state) if state.is_file() else {}

    @staticmethod
    def check(path, resolved, given=None):
        """Raises where a folder holds anything but this very run, or the beginnings that a killed process has left of it."""
        path, given = pathlib.Path(path), _text_of(given)
        if path.exists() and not path.is_dir():
            raise ValueError(errors.message(_EXPECTED, _FIX, out=str(path)))
        entries = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        entries = {name for name in entries if name != LOCK and not fnmatch.fnmatch(name, files.PARTIAL)}
        if not entries:
            return
        known = (path / _GIVEN).read_text(encoding="utf-8") if _GIVEN in entries else None
        if _CONFIG not in entries:
            if entries != {_GIVEN} or known != given:
                raise ValueError(errors.message(_EXPECTED, _FIX, out=str(path)))
            return
        held = (path / _CONFIG).read_text(encoding="utf-8")
        changed = differences.of_configurations(held, resolved) | differences.of_given(known, given)
        if changed:
            raise ValueError(errors.message(f"{_EXPECTED} What differs: {differences.told(changed)}.", _FIX, out=str(path)))

    @staticmethod
    def has_stages(path):
        """Whether a folder holds a stage that is done."""
        return (pathlib.Path(path) / _STATE).is_file()

    def __truediv__(self, name):
        return self.path / name

    def checkpoint(self, stage):
        """Where a stage keeps what it needs to go on after an interruption."""
        return self.path / f".{stage}.checkpoint"

    def tidy(self):
        """Removes what only an unfinished run needs."""
        for path in self.path.glob(".*.checkpoint"):
            path.unlink(missing_ok=True)

    def figures(self, stage):
        """What was recorded of a finished stage, or None."""
        return self._stages.get(stage)

    def finish(self, stage, model, figures):
        """Keeps a stage's model and figures; only then it counts as done."""
        with files.whole(self.path / f"{stage}.keras", ".keras") as temporary:
            model.save(temporary)
        self._stages[stage] = figures
        self.write_json(_STATE, self._stages)
        self.checkpoint(stage).unlink(missing_ok=True)

    def load(self, stage):
        """The model of a finished stage."""
        path = self.path / f"{stage}.keras"
        # Losses and metrics are the run's to set. Functions in a model of the user's own were written from it.
        options = {"custom_objects": self._custom_objects, "safe_mode": False} if self._custom_objects else {}
        return keras.saving.load_model(path, compile=False, **options)

    def write_json(self, name, value):
        """Writes a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(value, indent=1, default=_plain) + "\n")

    def write_text(self, name, text):
        """Writes a text file, whole or not at all."""
        files.write_text(self.path / name, text)


def _text_of(given):
    return None if given is None else json.dumps(given, indent=1) + "\n"


def _read(state):
    """What was recorded of the stages that are done."""
    try:
        return dict(json.loads(state.read_text(encoding="utf-8")))
    except ValueError as error:
        fix = "Delete it, and the stages are run again."
        expected = f"The record of a run's stages must be as it was written: {error}."
        raise ValueError(errors.message(expected, fix, file=str(state))) from None


def _plain(value):
    """NumPy scalars and paths as JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)
