"""What is said while a long step runs, to a terminal or a log file alike."""

import sys
import time

import keras
from rich.console import Console

# In a log file there is no terminal to ask for its width.
_FILE_WIDTH = 110

QUIET = Console(quiet=True)


def terminal(stderr=False):
    """A console for progress and tables."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else _FILE_WIDTH)


def say(console, text):
    """Prints one line, never broken, so that logs can be searched."""
    console.print(text, highlight=False, soft_wrap=True)


class EpochLines(keras.callbacks.Callback):
    """Prints stage, epoch, metrics and the time left, once per epoch, to a terminal or a log file alike.

    Args:
        stage: the word in front of each line.
        console: a rich console.
    """

    def __init__(self, stage, console):
        super().__init__()
        self.stage, self.console = stage, console
        self._seconds = []
        self._started = None

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        self._seconds.append(time.monotonic() - self._started)
        epochs = self.params["epochs"]
        left = (epochs - epoch - 1) * sum(self._seconds[-3:]) / len(self._seconds[-3:])
        figures = ", ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items() if name != "learning_rate")
        say(self.console, f"{self.stage} {epoch + 1}/{epochs}: {figures}, {left:.0f} s left")
