"""Coverage of quantization-aware training over keras.applications, 96-pixel inputs, each in a process of its own.

Each architecture is quantized, trained for one step on random images, exported and run; operations that stay float are
listed. With `--output` an interrupted run goes on where it was. Small architectures come first.

    python benchmarks/qat_zoo.py --output zoo.json
    python benchmarks/qat_zoo.py --only MobileNetV2 EfficientNetB0
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import zoo

_SIZE, _CLASSES = 96, 10
# By parameters, from small to large; those not named come last.
_SMALL_FIRST = (
    "MobileNetV3Small", "MobileNetV2", "MobileNet", "NASNetMobile", "EfficientNetB0", "EfficientNetV2B0", "MobileNetV3Large",
    "EfficientNetB1", "EfficientNetV2B1", "DenseNet121", "EfficientNetB2", "EfficientNetV2B2", "EfficientNetB3", "DenseNet169",
    "EfficientNetV2B3", "EfficientNetB4", "DenseNet201", "EfficientNetV2S", "Xception", "InceptionV3", "ResNet50", "ResNet50V2",
    "ConvNeXtTiny", "EfficientNetB5", "EfficientNetB6", "ResNet101", "ResNet101V2", "ConvNeXtSmall", "EfficientNetV2M",
    "InceptionResNetV2", "ResNet152", "ResNet152V2", "EfficientNetB7", "VGG16", "VGG19", "NASNetLarge", "ConvNeXtBase",
)  # fmt: skip


def compiled(model, learning_rate):
    """The model, compiled for labels and logits."""
    import keras

    model.compile(keras.optimizers.Adam(learning_rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def measure_architecture(name, options):
    """One row: an architecture of keras.applications, quantized, trained for a step, exported and run."""
    import keras
    import numpy as np

    import tf_reweight as tfr
    from tf_reweight import quantization
    from tf_reweight.graph import random_inputs

    keras.utils.set_random_seed(options.seed)
    start = time.time()
    rng = np.random.default_rng(options.seed)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(_SIZE, _SIZE, 3), classes=_CLASSES, classifier_activation=None)
    (x,), y = random_inputs.inputs(model, model.inputs, num=8, seed=options.seed), rng.integers(0, _CLASSES, 8)
    zoo.settle(model, [x])
    qat, report = quantization.quantize(model, return_report=True)
    compiled(qat, 1e-5).fit(x, y, epochs=1, batch_size=8, verbose=0)
    quantization.calibrate(qat, x)
    row = {"model": name, "kernels": len(report.kernels), "ranges": report.num_ranges}
    row["stays_float"] = [f"{item.name}: {item.reason}" for item in report.left_out]
    with tempfile.TemporaryDirectory() as folder:
        record = tfr.export_tflite(qat, pathlib.Path(folder, "model.tflite"), "int8", verify_data=x, tolerance=1e3)
    row |= {"ops": record.num_ops, "float_ops": sorted(set(record.float_ops)), "bytes": record.num_bytes}
    # Untrained networks amplify every rounding, so the file's distance from Keras is to be read beside that of rounding at all.
    row |= {"relative_error": record.verification.relative_error, "rounding_error": distance(model, qat, x)}
    return row | {"seconds": round(time.time() - start, 1)}


def distance(model, qat, x):
    """Root mean square of the differences that rounding makes to a model's outputs, over that of the outputs."""
    import numpy as np

    expected, given = (np.asarray(m(x, training=False)) for m in (model, qat))
    return float(np.sqrt(np.mean((expected - given) ** 2) / np.mean(expected**2)))


def run_in_process(name, options):
    """`measure_architecture` in a fresh process; a failure is a row with the last line of its error."""
    command = [sys.executable, __file__, "--child", name, "--seed", str(options.seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return {"model": name, "error": last[0]}


def applications():
    """All architectures keras.applications offers, small ones first."""
    import keras

    names = [name for name in dir(keras.applications) if name[0].isupper() and callable(getattr(keras.applications, name))]
    return sorted(names, key=lambda name: (_SMALL_FIRST.index(name) if name in _SMALL_FIRST else len(_SMALL_FIRST), name))


def shown(row):
    """A row as one line of text."""
    return "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file of the rows; what ran in it before is not run again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure_architecture(options.child, options)))
        return
    known = applications()
    unknown = sorted(set(options.only or ()) - set(known))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(known)}")
    there = options.output is not None and options.output.is_file()
    rows = [row for row in json.loads(options.output.read_text()) if "error" not in row] if there else []
    for name in options.only or known:
        if any(row["model"] == name for row in rows):
            continue
        rows.append(run_in_process(name, options))
        print(shown(rows[-1]), flush=True)
        if options.output:
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    failed = [row["model"] for row in rows if "error" in row]
    print(f"{len(rows) - len(failed)} of {len(rows)} ran.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
