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

    Raises:
        ValueError: when the folder holds anything but this very run.
    """

    def __init__(self, path, resolved):
        self.path = pathlib.Path(path)
        config = self.path / "config.yaml"
        occupied = any(self.path.iterdir()) if self.path.is_dir() else self.path.exists()
        if occupied and (not config.is_file() or config.read_text() != resolved):
            raise ValueError(
                errors.message(
                    "The run folder must be new, empty, or hold this very run.",
                    "Choose another with --out (out=), or delete it.",
                    out=str(self.path),
                )
            )
        self.path.mkdir(parents=True, exist_ok=True)
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
        return keras.saving.load_model(self.path / f"{stage}.keras")

    def write_json(self, name, value):
        """Writes a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(value, indent=1, default=_plain) + "\n")

    def write_text(self, name, text):
        """Writes a text file, whole or not at all."""
        write_text(self.path / name, text)


def _plain(value):
    """NumPy scalars and paths as JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)
