"""One line per epoch: what a long step is doing and when it will be done."""

import time

import keras


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
        self.console.print(f"{self.stage} {epoch + 1}/{epochs}: {figures}, {left:.0f} s left", highlight=False)
