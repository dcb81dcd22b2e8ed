"""The converter's own quantization after training against litert-quantizer's, from the same float models.

    python benchmarks/quantizers.py --epochs 4 --seeds 0 1

For each precision that both make, on nets trained on digits with half of their weights pruned: the error of the outputs
relative to the float model's on test examples, test accuracy, bytes, how many more zeros the file has, operations in float, and
speed relative to the float32 file, taken in turns in one process. `--json` writes the rows.
"""

import argparse
import json
import pathlib
import tempfile
import warnings

import keras
import numpy as np

from tf_reweight import data, export
from tf_reweight.data import models
from tf_reweight.export import conversion, samples
from tf_reweight.pruning.prune import prune
from tf_reweight.tflite import flatbuffer
from tf_reweight.tflite.comparing import compare
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.inspection import summarize

NETS = ("small_cnn", "ds_cnn", "bn_cnn")
PRECISIONS = ("float16", "dynamic_int8", "int8", "int16")


def residual(shape, classes):
    """Sums and a softmax at the end."""
    layers = keras.layers
    x = keras.Input(shape)
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(x)))
    for _ in range(2):
        r = layers.Conv2D(16, 3, padding="same", activation="relu")(h)
        h = layers.ReLU()(h + layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(r)))
    return keras.Model(x, layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling2D()(h)))


def by_quantizer(content, precision, examples):
    """The file that litert-quantizer makes of a float32 one."""
    from litert_quantizer import quantizer, recipe

    from tf_reweight.export.litert_quantizer import requantize

    if precision == "float16":
        return requantize(content, "float16")
    work, calibrated = quantizer.Quantizer(bytearray(content)), None
    if precision == "dynamic_int8":
        work.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    else:
        work.load_quantization_recipe(recipe.static_wi8_ai8() if precision == "int8" else recipe.static_wi8_ai16())
        name = next(iter(Runner(content).inputs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calibrated = work.calibrate({"serving_default": [{name: example[None]} for example in examples]})
    made = work.quantize(calibrated, enable_progress_bar=False, enable_progress_report=False).quantized_model
    return flatbuffer.write(flatbuffer.read(bytes(made)))


def trained(name, digits, epochs, seed):
    """A net with half of its weights zero."""
    keras.utils.set_random_seed(seed)
    shape, classes = digits.input_shape, digits.num_classes
    model = residual(shape, classes) if name == "residual" else models.build(name, shape, classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=name != "residual")
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(*digits.train, epochs=epochs, verbose=0)
    prune(model, "unstructured", sparsity=0.5)
    model.fit(*digits.train, epochs=2, verbose=0)
    return model


def rows_of(name, digits, epochs, seed, folder):
    """One row per precision and maker."""
    model = trained(name, digits, epochs, seed)
    specs, examples, (x, y) = samples.input_specs(model), digits.representative(128), digits.test
    content = conversion.convert(model, "float32", specs)
    expected, zeros = Runner(content)([x]), summarize(content, name).sparsity
    files = {("float32", "converter"): content}
    for precision in PRECISIONS:
        files[precision, "converter"] = conversion.convert(model, precision, specs, [examples])
        files[precision, "quantizer"] = by_quantizer(content, precision, examples)
    paths = []
    for number, made in enumerate(files.values()):
        paths.append(folder / f"{name}_{number}.tflite")
        paths[-1].write_bytes(made)
    times = export.benchmark(paths, num_runs=60).rows
    rows = []
    for (precision, maker), made, time in zip(files, files.values(), times):
        outputs, summary = Runner(made)([x]), summarize(made, name)
        row = {"net": name, "seed": seed, "precision": precision, "maker": maker, "error": compare(expected, outputs)[1]}
        row |= {"accuracy": float(np.mean(outputs[0].argmax(-1) == y)), "bytes": len(made), "zeros": summary.sparsity - zeros}
        row |= {"float_ops": len(summary.float_ops), "speed": time["speedup"]}
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--nets", nargs="+", default=["residual", *NETS])
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    digits, rows = data.load("digits"), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            for name in arguments.nets:
                made = rows_of(name, digits, arguments.epochs, seed, pathlib.Path(folder))
                rows += made
                for row in made:
                    print(
                        f"{row['net']:10} {row['seed']} {row['precision']:13} {row['maker']:10} error {row['error']:.2%} "
                        f"accuracy {row['accuracy']:.2%} {row['bytes']:7,} B, zeros {row['zeros']:+.2%}, "
                        f"{row['float_ops']} in float, {row['speed']:.2f}x", flush=True,
                    )  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
