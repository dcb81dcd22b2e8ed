"""The run folder: which stages are done, their models, and files that are written whole or not at all."""

import fnmatch
import itertools
import json
import os
import pathlib

import keras
import numpy as np

from tf_reweight import errors, files
from tf_reweight.workflow import differences
from tf_reweight.workflow.lock import LOCK

_CONFIG, _GIVEN, _STATE = "config.yaml", "given.json", "state.json"
_EXPECTED = "The run folder must be new, empty, or hold this very run."
_FIX = "Say the same as before to go on with it, choose another folder with --out (out=), or delete this one."
# What a run writes are files with such names; folders in it, such as those of a sweep, have others.
_FILES = ("*.yaml", "*.json", "*.jsonl", "*.keras", "*.tflite", "*.html", "app.zip", ".*.checkpoint", LOCK, files.PARTIAL)
# What is known of each stage that is done.
_RECORDED = {"name", "seconds", "validation", "test", "num_weights", "num_nonzero", "num_macs", "keeps_zeros", "details"}


class Folder:
    """One run on disk; opening it again continues the run.

    Args:
        path: the folder; made when it does not exist.
        resolved: the resolved configuration as text. A folder that holds another is refused.
        given: what else makes the run this very run, such as the user's model and data, as a dict; None for nothing.
        custom_objects: the classes and functions of the user's own that its models need, by name.

    Attributes:
        gone: the name of the first stage that was done and has lost its model, or None. It and those after it are to be done.

    Raises:
        ValueError: when the folder holds anything but this very run, or its record of stages is damaged.
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
        stages = _stages_in(self.path / _STATE)
        whole = list(itertools.takewhile(lambda name: self._model(name).exists(), stages))
        self.gone = next((name for name in stages if name not in whole), None)
        self._stages = {name: stages[name] for name in whole}
        for name in whole:  # left by a process that was killed between the record of a stage and this
            self.checkpoint(name).unlink(missing_ok=True)
        if self.gone is not None:
            self.tidy()  # what a later stage had begun came of a model that is made again

    @staticmethod
    def check(path, resolved, given=None):
        """Raises where a folder holds anything but this very run, or the beginnings that a killed process has left of it."""
        path, given = pathlib.Path(path), _text_of(given)
        file = next((place for place in (path, *path.parents) if place.is_file()), None)
        if file is not None:
            fix = "Choose a folder with --out (out=), which need not exist."
            raise ValueError(errors.message(f"The run folder must be a folder, and {file.name} is a file.", fix, out=str(path)))
        entries = set(_read(os.listdir, path)) if path.is_dir() else set()
        _check_files(path, entries)
        entries = {name for name in entries if name != LOCK and not fnmatch.fnmatch(name, files.PARTIAL)}
        if not entries:
            return
        known = _text(path / _GIVEN) if _GIVEN in entries else None
        if _CONFIG not in entries:
            if entries != {_GIVEN} or known != given:
                raise ValueError(errors.message(_EXPECTED, _FIX, out=str(path)))
            return
        held = _text(path / _CONFIG)
        changed = differences.of_configurations(held, resolved) | differences.of_given(known, given)
        if changed:
            raise ValueError(errors.message(f"{_EXPECTED} What differs: {differences.told(changed)}.", _FIX, out=str(path)))

    @staticmethod
    def holds(path, resolved, given=None):
        """Whether a folder holds this very run, begun or done."""
        if not (pathlib.Path(path) / _CONFIG).is_file():
            return False
        try:
            Folder.check(path, resolved, given)
        except ValueError:
            return False
        return True

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
        with files.whole(self._model(stage), ".keras") as temporary:
            model.save(temporary)
        self._stages[stage] = figures
        self.write_json(_STATE, self._stages)
        self.checkpoint(stage).unlink(missing_ok=True)

    def load(self, stage):
        """The model of a finished stage.

        Raises:
            ValueError: when its file is damaged.
        """
        path = self._model(stage)
        # Losses and metrics are the run's to set. Functions in a model of the user's own were written from it.
        options = {"custom_objects": self._custom_objects, "safe_mode": False} if self._custom_objects else {}
        try:
            return keras.saving.load_model(path, compile=False, **options)
        except Exception as error:
            damage = files.damage_of_zip(path)
            if damage is None:
                raise
            expected = f"The model of a stage that is done must be as it was written; reading it says: {damage}."
            fix = "Delete it, and this stage and those after it are done again."
            raise ValueError(errors.message(expected, fix, file=str(path))) from error

    def _model(self, stage):
        return self.path / f"{stage}.keras"

    def write_json(self, name, value):
        """Writes a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(value, indent=1, default=_plain) + "\n")

    def write_text(self, name, text):
        """Writes a text file, whole or not at all."""
        files.write_text(self.path / name, text)


def _text_of(given):
    return None if given is None else json.dumps(given, indent=1) + "\n"


def _read(read, path):
    """What a file or folder holds; raises ValueError where the system does not let it be read."""
    try:
        return read(path)
    except OSError as error:
        expected = f"A run folder and its files must be readable; the system says: {error.strerror}."
        fix = "Check the permissions, or choose another folder with --out (out=)."
        raise ValueError(errors.message(expected, fix, path=str(path))) from error


def _text(path):
    """The text in a file; bytes that are none make it another text than the one that was written."""
    return _read(pathlib.Path.read_bytes, path).decode(errors="replace")


def _check_files(path, entries):
    """Raises where a folder stands in the place of a file."""
    for name in sorted(entries):
        if any(fnmatch.fnmatch(name, pattern) for pattern in _FILES) and (path / name).is_dir():
            fix = "Delete or move this folder; what was in the file is then made again, or said to be missing."
            raise ValueError(errors.message("What has the name of a run's file must be a file.", fix, folder=str(path / name)))


def _stages_in(state):
    """What was recorded of the stages that are done, by name; nothing without a file."""
    if not state.exists():
        return {}
    content = _read(pathlib.Path.read_bytes, state)
    try:
        stages = dict(json.loads(content))
        lacking = {key for figures in stages.values() for key in _RECORDED - dict(figures).keys()}
        reason = f"it lacks {', '.join(sorted(lacking))}" if lacking else None
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error)
    if reason is None:
        return stages
    fix = "Delete it, and the stages are run again."
    expected = f"The record of a run's stages must be as it was written; reading it says: {reason}."
    raise ValueError(errors.message(expected, fix, file=str(state)))


def _plain(value):
    """NumPy scalars and paths as JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)
