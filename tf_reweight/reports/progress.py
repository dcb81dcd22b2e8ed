"""What is said while a long step runs, to a terminal or a log file alike."""

import sys
import time

import keras
from rich.console import Console

from tf_reweight import errors
from tf_reweight.graph.steps import figure_of

# In a log file there is no terminal to ask for its width.
_FILE_WIDTH = 110
# A line about an epoch has at most so many columns, that of a narrow terminal.
LINE_WIDTH = 80
# What a stage may change, with the word for it.
_COUNTED = {"num_nonzero": "weights", "num_parameters": "parameters", "num_macs": "MACs"}

QUIET = Console(quiet=True)


class _Terminal(Console):
    """A console that lets it be known that nobody reads its output any more; rich ends the program there."""

    def on_broken_pipe(self):
        raise  # what it is called for


def terminal(stderr=False):
    """A console for progress and tables; of a process without such a stream, as of a daemon, it prints nothing."""
    stream = sys.stderr if stderr else sys.stdout
    return _Terminal(stderr=stderr, width=None if stream is not None and stream.isatty() else _FILE_WIDTH)


def check_console(console):
    """Raises TypeError for what is no rich console."""
    if not isinstance(console, Console):
        fix = "Pass rich.console.Console(...), or None for the terminal."
        raise TypeError(errors.message("`console` must be a rich console.", fix, console=console))


def say(console, text):
    """Prints one line, never broken, so that logs can be searched."""
    console.print(text, highlight=False, soft_wrap=True)


def changes(before, after):
    """What a stage changed of a model's counts, as `", weights 40,536 to 2,127"`; empty where nothing did.

    Args:
        before: figures of the stage before, or None.
        after: figures of the stage.
    """
    counts = [(word, (before or after).get(name), after.get(name)) for name, word in _COUNTED.items()]
    return "".join(f", {word} {old:,} to {new:,}" for word, old, new in counts if old is not None and new not in (None, old))


class EpochLines(keras.callbacks.Callback):
    """Prints stage, epoch, metrics and the time left in one line of at most 80 columns.

    A log file gets a line for each epoch. In a terminal each overwrites the one before, and the stage's own line the last.
    Losses that contain penalties say so: they are no measure of the model.

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
        start, end = f"{self.stage} {epoch + 1}/{epochs}: ", f"{left:.0f} s left"
        text = start + _fitting(_figures(logs or {}, bool(self.model.losses)), LINE_WIDTH - len(start) - len(end)) + end
        if self.console.is_terminal:
            self.console.print(text.ljust(LINE_WIDTH - 1), end="\r", highlight=False, soft_wrap=True)
        else:
            say(self.console, text)

    def on_train_end(self, logs=None):
        if self.console.is_terminal:
            self.console.print(" " * (LINE_WIDTH - 1), end="\r", soft_wrap=True)


def _figures(logs, penalised):
    """`(name, value)` of what Keras says of an epoch: metrics of the model first, its loss, then parts of losses."""
    names = [name for name in logs if name != "learning_rate"]
    order = sorted(names, key=lambda name: (name.endswith("_loss") and name != "val_loss", name.removeprefix("val_") == "loss"))
    renamed = {"loss": "loss+penalty", "val_loss": "val_loss+penalty"} if penalised else {}
    return [(renamed.get(name, name), figure_of(logs[name])) for name in order]


def _fitting(figures, width):
    """As many figures as there is room for, the first ones, each with a comma behind."""
    text = ""
    for name, value in figures:
        part = f"{name} {value:.4f}, "
        if len(text) + len(part) > width:
            break
        text += part
    return text
