"""Quantization-aware training: accuracy and agreement of the executed int8 file, and coverage of keras.applications.

Digits: each model of tf_reweight.models is trained in float, trained on with rounded numbers, exported and run; beside it the
same float model with its ranges calibrated after training. `--zoo`: each architecture, in a process of its own, is quantized,
trained for one step on random images, exported and run; operations that stay float are listed.

    python benchmarks/qat.py
    python benchmarks/qat.py --zoo --only MobileNetV2 ResNet50 EfficientNetB0
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

_MODELS = ("small_cnn", "resnet20", "ds_cnn")
_SIZE = 96
# Small, for enough steps that BatchNormalization's statistics settle in a short training.
_BATCH = 32
_CLASSES = 10


def compiled(model, learning_rate):
    """The model, compiled for labels and logits."""
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    return model


def accuracy(model, x, y):
    """Top-1 accuracy of a Keras model, float."""
    return float((model.predict(x, verbose=0).argmax(-1) == y).mean())


def measure_digits(name, options):
    """One row: accuracies of a model, its quantized training, and both of its int8 files.

    Returns:
        dict of figures; `agreement` is the share of test and validation images on which the file and Keras name one class.
    """
    import keras
    import numpy as np

    import tf_reweight as tfr
    from tf_reweight import quantization

    keras.utils.set_random_seed(options.seed)
    data = tfr.data.load("digits")
    model = compiled(tfr.models.build(name, data.input_shape, data.num_classes), 2e-3)
    model.fit(*data.train, epochs=options.epochs, batch_size=_BATCH, verbose=0)
    start = time.time()
    qat, report = quantization.quantize(model, return_report=True)
    freeze = quantization.FreezeRanges(max(options.qat_epochs - 1, 0))
    compiled(qat, 2e-4).fit(*data.train, epochs=options.qat_epochs, batch_size=_BATCH, verbose=0, callbacks=[freeze])
    seconds = time.time() - start
    held_out = np.concatenate([data.test[0], data.validation[0]])
    row = {
        "model": name, "seed": options.seed, "float": accuracy(model, *data.test), "qat": accuracy(qat, *data.test),
        "stays_float": [f"{item.name}: {item.reason}" for item in report.left_out], "seconds": round(seconds, 1),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        record = tfr.export_tflite(qat, path, "int8", verify_data=held_out)
        row |= {"qat_file": tfr.export.evaluate_tflite(path, *data.test), "agreement": record.verification.top1_agreement}
        row |= {"float_ops": list(record.float_ops), "bytes": record.num_bytes}
        record = tfr.export_tflite(model, path, "int8", data.representative(256), held_out, tolerance=1e3)
        row |= {"calibrated_file": tfr.export.evaluate_tflite(path, *data.test)}
    return row


def measure_architecture(name, options):
    """One row: an architecture of keras.applications, quantized, trained for a step, exported and run."""
    import keras
    import numpy as np

    import tf_reweight as tfr
    from tf_reweight import quantization

    keras.utils.set_random_seed(options.seed)
    start = time.time()
    rng = np.random.default_rng(options.seed)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(_SIZE, _SIZE, 3), classes=_CLASSES, classifier_activation=None)
    # Networks with an own Rescaling take pixels.
    pixels = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    x = rng.uniform(0, 255, (8, _SIZE, _SIZE, 3)) if pixels else rng.normal(size=(8, _SIZE, _SIZE, 3))
    x, y = x.astype("float32"), rng.integers(0, _CLASSES, 8)
    settle(model, x)
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


def settle(model, x):
    """Sets BatchNormalization's statistics of an untrained network to those of the images, so that numbers stay in bounds."""
    import keras

    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(x, training=True)


def run_in_process(name, options):
    """`measure_architecture` in a fresh process; a failure is a row with the last line of its error."""
    command = [sys.executable, __file__, "--child", name, "--seed", str(options.seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return {"model": name, "error": last[0]}


def applications():
    """All architectures keras.applications offers."""
    import keras

    return sorted(name for name in dir(keras.applications) if name[0].isupper() and callable(getattr(keras.applications, name)))


def shown(row):
    """A row as one line of text."""
    return "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", action="store_true", help=f"keras.applications at {_SIZE} pixels instead of digits")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models; default all")
    parser.add_argument("--epochs", type=int, default=25, help="float epochs on digits")
    parser.add_argument("--qat-epochs", type=int, default=5, help="epochs with rounded numbers on digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="write the rows to this JSON file as they come")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure_architecture(options.child, options)))
        return
    known = applications() if options.zoo else list(_MODELS)
    unknown = sorted(set(options.only or ()) - set(known))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(known)}")
    rows = []
    for name in options.only or known:
        rows.append(run_in_process(name, options) if options.zoo else measure_digits(name, options))
        print(shown(rows[-1]), flush=True)
        if options.output:
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    failed = [row["model"] for row in rows if "error" in row]
    print(f"{len(rows) - len(failed)} of {len(rows)} ran.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
