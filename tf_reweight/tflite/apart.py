"""Running a `.tflite` in a process of its own, which may die without taking the user's along."""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile

import numpy as np

from tf_reweight.tflite import compiled, litert, shapes as input_shapes
from tf_reweight.tflite.delegation import from_dict

# As the traceback of another process names it.
_UNFIT = f"{input_shapes.Unfit.__module__}.{input_shapes.Unfit.__qualname__}"


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
        _run([sys.executable, litert.__file__, name])
        return {name: litert.load_arrays(folder / f"{name}.npz") for name in litert.RUNS}


def compiled_run(content, inputs):
    """Raw outputs of `CompiledModel`.

    Args:
        content: the bytes.
        inputs: as for `compiled.run`.

    Returns:
        Dict of arrays by name.

    Raises:
        compiled.Unavailable: where this LiteRT cannot run the file so.
        RuntimeError: when LiteRT refuses the file, or dies of it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "model.tflite").write_bytes(content)
        np.savez(folder / "inputs.npz", **inputs)
        _run([sys.executable, compiled.__file__, name])
        if (folder / "compiled.txt").exists():
            raise compiled.Unavailable((folder / "compiled.txt").read_text(encoding="utf-8"))
        with np.load(folder / "compiled.npz") as stored:
            return {output: stored[output] for output in stored.files}


def delegation(content, shapes=None, name=None):
    """`delegation.delegation` of a file's bytes.

    Args:
        content: the bytes.
        shapes: of inputs whose sizes the file leaves open.
        name: what messages call the file, as its path.

    Raises:
        shapes.Unfit: for shapes that the file does not take.
        ValueError: when LiteRT refuses the file, with its words, or dies of it.
    """
    with tempfile.TemporaryDirectory() as here:
        folder = pathlib.Path(here)
        (folder / "model.tflite").write_bytes(content)
        if shapes is not None:
            (folder / "shapes.json").write_text(json.dumps(shapes, default=_plain), encoding="utf-8")
        try:
            _run([sys.executable, "-m", "tf_reweight.tflite.delegation", here, str(name or f"{len(content)} bytes")])
        except RuntimeError as error:
            kind, _, said = str(error).partition(": ")
            if kind == _UNFIT:
                raise input_shapes.Unfit(said) from error
            raise ValueError(str(error).removeprefix("ValueError: ")) from error
        return from_dict(json.loads((folder / "delegation.json").read_text(encoding="utf-8")))


def _plain(value):
    """Numbers and arrays of NumPy as Python's, anything else as its text, which is refused as a shape by whoever reads it."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _run(command):
    """Runs a command; RuntimeError with what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise RuntimeError(complaint(done))


def complaint(done, who="its process"):
    """What a process that failed says: of which signal it died, or its last line."""
    if done.returncode < 0 or done.returncode > 128:
        number = abs(done.returncode) % 128
        names = {item.value: item.name for item in signal.Signals}
        return f"{who} died of {names.get(number, f'signal {number}')}"
    return " ".join((done.stderr.strip().splitlines() or ["it says nothing"])[-1].split())
