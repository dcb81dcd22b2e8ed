"""Running a `.tflite` in `CompiledModel`, LiteRT's newer runtime, on raw arrays by name.

Needs nothing but LiteRT and NumPy, so that Python runs this very file as a script, in a process that may die:
`python compiled.py FOLDER` reads `model.tflite` and `inputs.npz` there, and writes `compiled.npz`, or `compiled.txt` with the
reason where this runtime cannot run the file.
"""

import atexit
import contextlib
import importlib.util
import os
import pathlib
import sys
import tempfile

import numpy as np


# Whether LiteRT has anything to say at the end of the process.
_used = []


class Unavailable(RuntimeError):
    """`CompiledModel` is missing, or cannot be fed with what the file takes."""


def missing():
    """Why files cannot be run in `CompiledModel` here, in words; "" where they can."""
    if importlib.util.find_spec("ai_edge_litert.compiled_model") is None:
        return "this version of ai-edge-litert has no CompiledModel"
    return ""


def is_fully_accelerated(content):
    """Whether `CompiledModel` gives every operation of a file to its accelerator for the CPU, XNNPACK.

    Args:
        content: the bytes.

    Raises:
        Unavailable: where this LiteRT has no `CompiledModel`.
        RuntimeError: for a file that it does not load.
    """
    return _on_model(content, lambda model: model.is_fully_accelerated())


def run(content, inputs):
    """Raw outputs of a file.

    Args:
        content: the bytes.
        inputs: dict of one array `(num, ...)` per input by its name in the signature, or its tensor's without one; the rest is
            the input's own shape.

    Returns:
        Dict of arrays `(num, ...)`, one per output.

    Raises:
        Unavailable: where this LiteRT has no `CompiledModel`, or it knows the inputs by other names.
        RuntimeError: for a file that it does not load or run.
    """
    return _on_model(content, lambda model: _outputs(model, inputs))


@contextlib.contextmanager
def programs(files, num_threads):
    """Files that are loaded side by side to be run again and again, a list of `Program`s, as long as the context lasts.

    Args:
        files: pairs of the bytes and the raw inputs, a dict of arrays by name, of which the first example is set.
        num_threads: threads of each.

    Raises:
        Unavailable, RuntimeError: as for `run`.
    """
    with _loading() as load:
        made = [Program(load(content, num_threads), inputs) for content, inputs in files]
        for program, (_, inputs) in zip(made, files):
            program.write(inputs, 0)
        yield made


class Program:
    """A loaded `CompiledModel` with buffers for the inputs and outputs of its first signature.

    Args:
        model: the `CompiledModel`.
        inputs: dict of arrays `(num, ...)` by name, of the sizes that it will be given.
    """

    def __init__(self, model, inputs):
        ends = model.get_signature_by_index(0)
        if set(ends["inputs"]) != set(inputs):
            raise Unavailable(f"CompiledModel names the inputs {ends['inputs']}")
        _resize(model, ends, inputs)
        self._model, self._key = model, ends["key"]
        self._sources = {name: model.create_input_buffer_by_name(self._key, name) for name in ends["inputs"]}
        self._targets = {name: model.create_output_buffer_by_name(self._key, name) for name in ends["outputs"]}

    def write(self, inputs, number):
        """Sets the inputs to one example."""
        for name, buffer in self._sources.items():
            buffer.write(np.ascontiguousarray(inputs[name][number]).reshape(-1).view("int8"))

    def invoke(self):
        """Computes once."""
        self._model.run_by_name(self._key, self._sources, self._targets)

    def read(self):
        """The outputs, a dict of arrays."""
        return {name: _read(buffer) for name, buffer in self._targets.items()}


def _on_model(content, work):
    """What `work` returns of a `CompiledModel` for the CPU, which is gone afterwards: its end is as noisy as its beginning."""
    with _loading() as load:
        return work(load(content))


@contextlib.contextmanager
def _loading():
    """A function from bytes to a `CompiledModel` for the CPU; whatever LiteRT writes meanwhile is dropped."""
    reason = missing()
    if reason:
        raise Unavailable(reason)
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    def load(content, num_threads=None):
        if num_threads is None:
            return CompiledModel.from_buffer(content, HardwareAccelerator.CPU)
        from ai_edge_litert.options import CpuOptions, Options

        return CompiledModel.from_buffer(content, options=Options(HardwareAccelerator.CPU, CpuOptions(num_threads=num_threads)))

    _used[:] = [True]
    with _quiet():
        yield load


def _outputs(model, inputs):
    program, made = Program(model, inputs), []
    for number in range(len(next(iter(inputs.values())))):
        program.write(inputs, number)
        program.invoke()
        made.append(program.read())
    return {name: np.stack([outputs[name] for outputs in made]) for name in made[0]}


def _resize(model, ends, inputs):
    """Sets the sizes that a file leaves open to those of the arrays."""
    details = model.get_input_tensor_details(ends["key"])
    for number, name in enumerate(ends["inputs"]):
        shape = inputs[name].shape[1:]
        if tuple(details[name]["shape"]) != shape:
            model.resize_input_tensor(number, shape, strict=False)


def _read(buffer):
    """A buffer's array. It is moved as bytes, as inputs are: LiteRT has no names for int64 and int16 there."""
    detail = buffer.get_tensor_details()
    shape, dtype = tuple(detail["shape"]), np.dtype(detail["dtype"])
    return buffer.read(int(np.prod(shape, dtype="int64")) * dtype.itemsize, np.int8).view(dtype).reshape(shape)


@contextlib.contextmanager
def _quiet():
    """Nothing on the process's standard error: for each file LiteRT lists there what it looks for and does not find.

    Where something is raised inside, its last line is what LiteRT said.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 2)
            try:
                yield
            except RuntimeError as error:
                sink.seek(0)
                said = [line for line in sink.read().decode(errors="replace").splitlines() if line.startswith("ERROR")]
                raise RuntimeError(" ".join([str(error), *said[-1:]])) from error
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)


@atexit.register
def _end_quietly():
    """Drops what LiteRT's own static objects write when the process ends, after everything else has been said."""
    if _used:
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def main(folder):
    """Runs what lies in a folder."""
    with np.load(folder / "inputs.npz") as stored:
        inputs = {name: stored[name] for name in stored.files}
    try:
        outputs = run((folder / "model.tflite").read_bytes(), inputs)
    except Unavailable as error:
        (folder / "compiled.txt").write_text(str(error), encoding="utf-8")
        return
    np.savez(folder / "compiled.npz", **outputs)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
