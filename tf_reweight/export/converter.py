"""TensorFlow's converter on a saved model, here or in a process of its own.

Needs nothing but TensorFlow and NumPy, so that Python runs this very file as a script: `python converter.py FOLDER` reads
`settings.json`, `data.npz` and the folder `saved` there, and writes `model.tflite`, or `error.txt` with the converter's words.
With `calibrated.tflite` in the folder it goes on from there.
"""

import json
import pathlib
import signal
import subprocess
import sys
import warnings

import numpy as np


CALIBRATED = "calibrated.tflite"


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


def convert_apart(folder, settings, representative=None):
    """`convert`, or `quantize` where there is a calibrated file, in a process of its own, which may die without taking the
    user's along.

    Raises:
        ConverterDied: when it was ended by a signal, as by the converter's own check.
        RuntimeError: with the converter's words.
    """
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model.tflite").unlink(missing_ok=True)  # of the step before
    if representative is not None:
        np.savez(folder / "data.npz", **{f"{i:06d}": array for i, array in enumerate(representative)})
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if (folder / "error.txt").exists():
        raise RuntimeError((folder / "error.txt").read_text(encoding="utf-8"))
    if done.returncode or not (folder / "model.tflite").exists():
        raise ConverterDied(_cause(done))
    return (folder / "model.tflite").read_bytes()


def _cause(done):
    if done.returncode < 0:
        names = {item.value: item.name for item in signal.Signals}
        return names.get(-done.returncode, f"signal {-done.returncode}")
    return " ".join((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1].split())


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
    """Converts what lies in a folder."""
    settings, data = json.loads((folder / "settings.json").read_text(encoding="utf-8")), folder / "data.npz"
    representative = None
    if data.exists():
        with np.load(data) as stored:
            representative = [stored[name] for name in sorted(stored.files)]
    try:
        step = quantize if (folder / CALIBRATED).exists() else convert
        content = step(folder, settings, representative)
    except Exception as error:  # whatever it is, the process that asked shall say it
        (folder / "error.txt").write_text(str(error) or repr(error), encoding="utf-8")
        return
    (folder / "model.tflite").write_bytes(content)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
