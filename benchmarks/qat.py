"""Quantization-aware training on digits: does the executed int8 file name the classes that Keras names?

Each model of tf_reweight.data.models is trained in float, trained on with rounded numbers, exported and run; beside it the same
float model with its ranges calibrated after training. Wanted: at least 99.5 % of the classes the same, accuracy within 0.2
points.
`benchmarks/qat_zoo.py` shows which architectures go through at all. `--skewed` measures a regression whose largest targets are
far from the others instead, trained on in batches of several sizes: the file must be as good as the float model in each.

    python benchmarks/qat.py
    python benchmarks/qat.py --skewed
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

_MODELS = ("small_cnn", "resnet20", "ds_cnn")
# Small, for enough steps that BatchNormalization's statistics settle in a short training.
_BATCH = 32
_AGREEMENT, _DISTANCE = 0.995, 0.002
_BATCHES, _WORSE = (8, 32, 128), 1.5


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
    model = compiled(tfr.data.models.build(name, data.input_shape, data.num_classes), 2e-3)
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


def measure_skewed(options):
    """One row per size of batches: mean squared errors of a float model and of its executed int8 files, on what it learned."""
    import keras
    import numpy as np

    import tf_reweight as tfr

    keras.utils.set_random_seed(options.seed)
    x = np.random.default_rng(options.seed).normal(size=(512, 8)).astype("float32")
    y = np.exp(x[:, :1] + 0.5 * x[:, 1:2])
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.compile(keras.optimizers.Adam(5e-3), "mse")
    model.fit(x, y, epochs=40, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")

        def of_file(exported, **data):
            tfr.export_tflite(exported, path, "int8", **data)
            return float(np.mean(np.square(tfr.export.Runner(path)([x])[0] - y)))

        known = {"seed": options.seed, "float": float(np.mean(np.square(model.predict(x, verbose=0) - y)))}
        known |= {"after_training": of_file(model, representative_data=x)}
        for batch in _BATCHES:
            qat = tfr.quantize(model)
            qat.compile(keras.optimizers.Adam(5e-4), "mse")
            qat.fit(x, y, epochs=3, batch_size=batch, verbose=0)
            yield {"batch": batch, **known, "qat_file": of_file(qat, verify_data=x)}


def shown(row):
    """A row as one line of text."""
    return "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=_MODELS, default=_MODELS, help="these models; default all")
    parser.add_argument("--epochs", type=int, default=25, help="float epochs")
    parser.add_argument("--qat-epochs", type=int, default=5, help="epochs with rounded numbers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="write the rows to this JSON file as they come")
    parser.add_argument("--skewed", action="store_true", help="a regression with few large targets, by size of batch")
    options = parser.parse_args()
    rows = []
    if options.skewed:
        for row in measure_skewed(options):
            rows.append(row)
            print(shown(row), flush=True)
        if options.output:
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        sys.exit(any(row["qat_file"] > _WORSE * row["after_training"] for row in rows))
    for name in options.only:
        rows.append(measure_digits(name, options))
        print(shown(rows[-1]), flush=True)
        if options.output:
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    missed = [
        row["model"] for row in rows
        if row["agreement"] < _AGREEMENT or abs(row["qat_file"] - row["qat"]) > _DISTANCE
    ]  # fmt: skip
    print(f"{len(rows) - len(missed)} of {len(rows)} are as close as wanted.")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
