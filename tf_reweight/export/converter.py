"""TensorFlow's converter on a saved model, here or in a process of its own.

Needs nothing but TensorFlow and NumPy, so that Python runs this very file as a script: `python converter.py FOLDER` takes
names of steps, `convert` or `quantize`, as lines on its standard input. For each it reads `settings.json`, `data.npz` and the
folder `saved` or the file `calibrated.tflite` there, writes `model.tflite`, or `error.txt` with the converter's words, and says
so by a line.
"""

import json
import pathlib
import signal
import subprocess
import sys
import warnings

import numpy as np


CALIBRATED = "calibrated.tflite"
# The line by which the process says that a step is over; TensorFlow may write others.
_OVER = "This step is over."


class ConverterDied(RuntimeError):
    """The converter's process ended without a file and without a word; its own message says of what."""


def convert(folder, settings, representative=None):
    """The bytes of a `.tflite`.

    Args:
        folder: path of a folder with the saved model in `saved`.
        settings: dict with `precision`, `names` of the inputs, `quantized_io`, `needs_data`, and `calibrate_only`: whether to
            stop at a float32 file that has the range of each tensor in it, for `quantize`.
        representative: list of arrays, one per input; None where no ranges are to be found.

    Raises:
        Exception: of types of the converter's own, which cannot be imported.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"), signature_keys=["serving_default"])
    _set_precision(converter, settings, representative)
    # The one name of this step, which TensorFlow's own debugger of quantized files goes by as well.
    converter._experimental_calibrate_only = settings["calibrate_only"]
    with warnings.catch_warnings():
        # The converter calibrates with TensorFlow's own interpreter; we run files in LiteRT.
        warnings.filterwarnings("ignore", message=r"[\s\S]*tf\.lite\.Interpreter is deprecated")
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        return converter.convert()


def quantize(folder, settings, representative=None):
    """The bytes of an int8 `.tflite` from the calibrated one in `calibrated.tflite`; arguments as for `convert`."""
    import tensorflow as tf
    from tensorflow.lite.python import convert as steps

    ends = tf.int8 if settings["quantized_io"] else tf.float32
    calibrated = (folder / CALIBRATED).read_bytes()
    return steps.mlir_quantize(calibrated, input_data_type=ends, output_data_type=ends)


class Apart:
    """`convert` and `quantize` in a process of its own, which may die without taking the user's along.

    It is started for the first step and stays for the next one of the same folder: to import TensorFlow takes longer than most
    steps. It ends with the `with` block.
    """

    def __init__(self):
        self._process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def convert(self, folder, settings, representative=None):
        """As `convert`.

        Raises:
            ConverterDied: when the process was ended by a signal, as by the converter's own check.
            RuntimeError: with the converter's words.
        """
        return self._step("convert", folder, settings, representative)

    def quantize(self, folder, settings, representative=None):
        """As `quantize`; raises as `convert` does."""
        return self._step("quantize", folder, settings, representative)

    def _step(self, name, folder, settings, representative):
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        (folder / "model.tflite").unlink(missing_ok=True)  # of the step before
        if representative is not None:
            np.savez(folder / "data.npz", **{f"{i:06d}": array for i, array in enumerate(representative)})
        if self._process is None:
            self._start(folder)
        try:
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead, and says nothing more
        lives = any(line.strip() == _OVER for line in self._process.stdout)
        if (folder / "error.txt").exists():
            raise RuntimeError((folder / "error.txt").read_text(encoding="utf-8"))
        if not lives:
            raise ConverterDied(self._cause(folder))
        return (folder / "model.tflite").read_bytes()

    def _start(self, folder):
        command = [sys.executable, str(pathlib.Path(__file__).resolve()), str(folder)]
        # What it says goes to a file: a pipe that nobody reads would stop it once it is full.
        with open(folder / "said.txt", "w", encoding="utf-8") as said:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, text=True, errors="replace")

    def _cause(self, folder):
        """What the process died of: the name of a signal, or the last that it said."""
        code = self._process.wait()
        if code < 0:
            names = {item.value: item.name for item in signal.Signals}
            return names.get(-code, f"signal {-code}")
        lines = (folder / "said.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " ".join((lines or [f"exit status {code}"])[-1].split())


def _set_precision(converter, settings, representative):
    import tensorflow as tf

    precision, names = settings["precision"], settings["names"]
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if not settings["needs_data"]:
        return
    # Without data the model itself holds the ranges (`quantization.quantize`), and the converter wants no flag then.
    if representative is not None:
        kernels = {
            "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
            "int16": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
        }[precision]
        # Operations without an integer kernel stay float; the export record names them.
        converter.target_spec.supported_ops = [kernels, tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.representative_dataset = lambda: (
            {name: array[i : i + 1] for name, array in zip(names, representative)} for i in range(len(representative[0]))
        )
    if settings["quantized_io"]:
        converter.inference_input_type = converter.inference_output_type = getattr(tf, precision)


def main(folder):
    """Takes steps, by name, until there is none."""
    for line in sys.stdin:
        _take({"convert": convert, "quantize": quantize}[line.strip()], folder)
        print(f"\n{_OVER}", flush=True)


def _take(step, folder):
    settings, data = json.loads((folder / "settings.json").read_text(encoding="utf-8")), folder / "data.npz"
    representative = None
    if data.exists():
        with np.load(data) as stored:
            representative = [stored[name] for name in sorted(stored.files)]
    try:
        content = step(folder, settings, representative)
    except Exception as error:  # whatever it is, the process that asked shall say it
        (folder / "error.txt").write_text(str(error) or repr(error), encoding="utf-8")
        return
    (folder / "model.tflite").write_bytes(content)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
