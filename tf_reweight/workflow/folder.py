"""The run folder: which stages are done, their models, and files that are written whole or not at all."""

import json
import os
import pathlib
import shutil

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.files import write_text


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
        config = self.path / "config.yaml"
        occupied = any(self.path.iterdir()) if self.path.is_dir() else self.path.exists()
        text = None if given is None else json.dumps(given, indent=1) + "\n"
        marked = self.path / "given.json"
        known = marked.read_text() if marked.is_file() else None
        if occupied and (not config.is_file() or config.read_text() != resolved or known != text):
            raise ValueError(
                errors.message(
                    "The run folder must be new, empty, or hold this very run.",
                    "Choose another with --out (out=), or delete it.",
                    out=str(self.path),
                )
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if text is not None:
            write_text(marked, text)
        write_text(config, resolved)
        state = self.path / "state.json"
        self._stages = json.loads(state.read_text()) if state.is_file() else {}

    def __truediv__(self, name):
        return self.path / name

    @property
    def backup(self):
        """Where a stage keeps what it needs to go on after an interruption."""
        return self.path / ".backup"

    def tidy(self):
        """Removes what only an unfinished run needs."""
        shutil.rmtree(self.backup, ignore_errors=True)

    def figures(self, stage):
        """What was recorded of a finished stage, or None."""
        return self._stages.get(stage)

    def finish(self, stage, model, figures):
        """Keeps a stage's model and figures; only then it counts as done."""
        temporary = self.path / f".{stage}.keras"
        model.save(temporary)
        os.replace(temporary, self.path / f"{stage}.keras")
        self._stages[stage] = figures
        self.write_json("state.json", self._stages)

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
        write_text(self.path / name, text)


def _plain(value):
    """NumPy scalars and paths as JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)
