"""The run folder: which stages are done, their models, and files that are written whole or not at all."""

import contextlib
import fnmatch
import itertools
import json
import os
import pathlib
import stat

import keras
import numpy as np
from rich.markup import escape

from tf_reweight import errors, files
from tf_reweight.checks import is_integer, is_number
from tf_reweight.strict_json import to_json
from tf_reweight.workflow import differences
from tf_reweight.workflow.lock import LOCK

_CONFIG, _GIVEN, _STATE = "config.yaml", "given.json", "state.json"
# What was measured before a run begins; by itself it makes a folder no run's, and is right for any.
MEASURED = "measured.json"
_EXPECTED = "The run folder must be new, empty, or hold this very run."
_FIX = "Say the same as before to go on with it, choose another folder with --out (out=), or delete this one."
# What a run writes are files with such names; folders in it, such as those of a sweep, have others.
_FILES = ("*.yaml", "*.json", "*.jsonl", "*.keras", "*.tflite", "*.html", "app.zip", ".*.checkpoint", LOCK, files.PARTIAL)
# What is known of each stage that is done. How much a model of the user's own class computes is not.
_COUNTED = {"num_weights": int, "num_nonzero": int, "num_macs": (int, type(None))}
_RECORDED = {
    "name": str, "seconds": (int, float), "validation": dict, "test": dict, **_COUNTED, "keeps_zeros": bool, "details": dict,
}  # fmt: skip
# Beside it stands what its file is known by; runs of older versions have not written that down.
_MARK = "model_file"


def _are_numbers(figures):
    return all(map(is_number, figures.values()))


# What more must be true of what is recorded, where it is.
_CHECKS = {
    "validation": _are_numbers,
    "test": _are_numbers,
    "epochs": is_integer,
    _MARK: lambda mark: isinstance(mark, dict) and mark.keys() == {"bytes", "sha256"},
}


def check_folder(path):
    """Raises ValueError where a file stands at a path, or at a folder that it is in."""
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is not None:
        fix = "Choose a folder with --out (out=), which need not exist."
        raise ValueError(errors.message(f"The run folder must be a folder, and {file.name} is a file.", fix, out=str(path)))


@contextlib.contextmanager
def without_traces(path):
    """Within it an error leaves no folder behind in which nothing but measurements was kept; those of a run stay."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except Exception:
        for folder in new:
            with contextlib.suppress(OSError):
                (folder / MEASURED).unlink(missing_ok=True)
                folder.rmdir()
        raise


class Folder:
    """One run on disk; opening it again continues the run.

    Args:
        path: the folder; made when it does not exist.
        resolved: the resolved configuration as text. A folder that holds another is refused.
        given: what else makes the run this very run, such as the user's model and data, as a dict; None for nothing.
        custom_objects: the classes and functions of the user's own that its models need, by name.
        of_sweep: whether it is that of a sweep, whose budgets may be others each time.

    Attributes:
        gone: the name of the first stage that was done and whose model is no more what it was, or None. It and those after it
            are to be done.
        loss: what became of that model, in words.

    Raises:
        ValueError: when the folder holds anything but this very run, or its record of stages is damaged.
    """

    def __init__(self, path, resolved, given=None, custom_objects=None, of_sweep=False):
        self.path, self._custom_objects = pathlib.Path(path), custom_objects or {}
        self.check(self.path, resolved, given, of_sweep)
        text = _text_of(given)
        files.make_folder(self.path)
        files.remove_partial(self.path)
        # The configuration last: with it the folder is this run's.
        if text is not None:
            self.write_text(_GIVEN, text)
        self.write_text(_CONFIG, resolved)
        stages = _stages_in(self.path / _STATE)
        whole = list(itertools.takewhile(lambda name: self._loss(name, stages[name]) is None, stages))
        self.gone = next((name for name in stages if name not in whole), None)
        self.loss = None if self.gone is None else self._loss(self.gone, stages[self.gone])
        self._written, self._stages = set(stages), {name: stages[name] for name in whole}
        for name in whole:  # left by a process that was killed between the record of a stage and this
            self.checkpoint(name).unlink(missing_ok=True)
        if self.gone is not None:
            self.tidy()  # what a later stage had begun came of a model that is made again

    @staticmethod
    def check(path, resolved, given=None, of_sweep=False):
        """Raises where a folder holds anything but this very run, or the beginnings that a killed process has left of it."""
        path, given = pathlib.Path(path), _text_of(given)
        check_folder(path)
        entries = set(_read(os.listdir, path)) if path.is_dir() else set()
        _check_files(path, entries)
        entries = {name for name in entries if name not in (LOCK, MEASURED) and not fnmatch.fnmatch(name, files.PARTIAL)}
        if not entries:
            return
        known = _text(path / _GIVEN) if _GIVEN in entries else None
        differences.check_whole(path / _GIVEN, known, given)
        if _CONFIG not in entries:
            if entries != {_GIVEN} or known != given:
                raise ValueError(errors.message(_EXPECTED, _FIX, out=str(path)))
            return
        held = _text(path / _CONFIG)
        differences.check_whole(path / _CONFIG, held, resolved)
        # Sweeps of older versions have the budget that came last; a single run, whose budget counts, has no runs inside.
        budgets = differences.OF_BUDGETS if of_sweep and any(path.glob(f"*/{_CONFIG}")) else ()
        changed = differences.of_configurations(held, resolved, budgets) | differences.of_given(known, given)
        if changed:
            raise ValueError(errors.message(f"{_EXPECTED} What differs: {differences.told(changed)}.", _FIX, out=str(path)))

    @staticmethod
    def holds(path, resolved, given=None, of_sweep=False):
        """Whether a folder holds this very run, begun or done."""
        if not (pathlib.Path(path) / _CONFIG).is_file():
            return False
        try:
            Folder.check(path, resolved, given, of_sweep)
        except ValueError:
            return False
        return True

    @staticmethod
    def is_unmarked(path):
        """Whether a folder holds a run that does not say what it was given."""
        return (pathlib.Path(path) / _CONFIG).is_file() and not (pathlib.Path(path) / _GIVEN).exists()

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
        recorded = self._stages.get(stage)
        return None if recorded is None else {name: value for name, value in recorded.items() if name != _MARK}

    def finish(self, stage, model, figures, has_zeros=False):
        """Keeps a stage's model and figures; only then it counts as done.

        Args:
            stage: its name.
            model: its model.
            figures: a dict.
            has_zeros: whether much of the file is zeros, as the state of an optimizer that has not trained: it is compressed.
        """
        self._stages.pop(stage, None)
        if stage in self._written:  # killed between its model and its record, it would be done with another model
            self._write_stages()
        with files.whole(self._model(stage), ".keras") as temporary:
            model.save(temporary)
            if has_zeros:
                files.deflate(temporary)
            mark = files.mark_of(temporary)
        self._stages[stage] = {**figures, _MARK: mark}
        self._write_stages()
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

    def _loss(self, stage, recorded):
        """What became of the model of a stage that is done, in words; None where it is as it was written."""
        path, mark = self._model(stage), recorded.get(_MARK)
        if not path.exists():
            return "is not there any more"
        if mark is None:
            damage = files.damage_of_zip(path)
            return None if damage is None else f"cannot be read ({escape(damage)})"
        good = path.stat().st_size == mark["bytes"] and _read(files.mark_of, path) == mark
        return None if good else "is not what was written there"

    def _write_stages(self):
        # As Python reads it: a run that goes on has the same figures, also those that are not finite.
        stages = json.loads(json.dumps(self._stages, default=_plain))
        self.write_text(_STATE, json.dumps(files.sealed(stages), indent=1) + "\n")
        self._written = set(self._stages)

    def write_json(self, name, value):
        """Writes a JSON file, whole or not at all; numbers that are not finite are null in it."""
        self.write_text(name, to_json(value, indent=1, default=_plain) + "\n")

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
    """Raises where a folder, or what a reader would wait for, stands in the place of a file."""
    for name in sorted(name for name in entries if any(fnmatch.fnmatch(name, pattern) for pattern in _FILES)):
        try:
            mode = os.stat(path / name).st_mode
        except OSError:  # a link that leads nowhere, or a lock whose holder has just removed it
            continue
        if not stat.S_ISREG(mode):
            kind = "folder" if stat.S_ISDIR(mode) else "entry"
            fix = f"Delete or move this {kind}; what was in the file is then made again, or said to be missing."
            expected = "What has the name of a run's file must be a file."
            raise ValueError(errors.message(expected, fix, **{kind: str(path / name)}))


def _stages_in(state):
    """What was recorded of the stages that are done, by name; nothing without a file."""
    if not state.exists():
        return {}
    content = _read(pathlib.Path.read_bytes, state)
    try:
        stages = json.loads(content)
        stages = files.unsealed(stages) if isinstance(stages, dict) else stages
        reason = _strange(stages)
    except (ValueError, RecursionError) as error:
        reason = str(error)
    if reason is None:
        return stages
    fix = "Delete it, and the stages are run again."
    expected = f"The record of a run's stages must be as it was written; reading it says: {reason}."
    raise ValueError(errors.message(expected, fix, file=str(state)))


def _strange(stages):
    """What a record of stages has that none which was written has, in words; None where it has nothing of that kind."""
    if not isinstance(stages, dict) or not all(isinstance(recorded, dict) for recorded in stages.values()):
        return "it is no mapping of stages to their figures"
    lacking = sorted({name for recorded in stages.values() for name in _RECORDED.keys() - recorded.keys()})
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    for stage, recorded in stages.items():
        wrong = sorted(name for name, kind in _RECORDED.items() if not isinstance(recorded[name], kind))
        wrong = wrong or sorted(name for name, is_good in _CHECKS.items() if name in recorded and not is_good(recorded[name]))
        if wrong or recorded["name"] != stage:
            return f"{', '.join(wrong or ['name'])} of {stage} cannot be what it says"
    return None


def _plain(value):
    """NumPy scalars and paths as JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)
