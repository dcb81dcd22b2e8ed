"""Running a `.tflite` in a process of its own, which may die without taking the user's along."""

import pathlib
import signal
import subprocess
import sys
import tempfile

from tf_reweight.tflite import litert


def run(content, inputs):
    """Raw outputs with and without the default delegate.

    Args:
        content: the bytes.
        inputs: as for `litert.run`.

    Returns:
        Dict of `litert.RUNS`' names to lists of arrays.

    Raises:
        RuntimeError: when LiteRT refuses the file, or dies of it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "model.tflite").write_bytes(content)
        litert.save_arrays(folder / "inputs.npz", inputs)
        command = [sys.executable, litert.__file__, name]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise RuntimeError(complaint(done))
        return {name: litert.load_arrays(folder / f"{name}.npz") for name in litert.RUNS}


def complaint(done, who="its process"):
    """What a process that failed says: of which signal it died, or its last line."""
    if done.returncode < 0 or done.returncode > 128:
        number = abs(done.returncode) % 128
        names = {item.value: item.name for item in signal.Signals}
        return f"{who} died of {names.get(number, f'signal {number}')}"
    return " ".join((done.stderr.strip().splitlines() or ["it says nothing"])[-1].split())
