"""Pruning and precision together on MNIST and Fashion-MNIST: accuracy and size of each step, as executed files.

Rows: dense in float32, dense with int8 calibrated after training, pruned with the same, pruned and trained for int8, pruned,
clustered and trained for int8. With `--output` an interrupted run goes on where it was.

    python benchmarks/combined.py --data_dir DIR --output combined.json
"""

import argparse
import json
import pathlib
import tempfile

_BATCH = 64


def compiled(model, learning_rate):
    """The model, compiled for labels and logits."""
    import keras

    model.compile(keras.optimizers.Adam(learning_rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def executed(model, precision, data):
    """Test accuracy, bytes, zipped bytes and zeros of a model's file."""
    import tf_reweight as tfr

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        record = tfr.export_tflite(model, path, precision, data.representative(256), data.validation[0][:512])
        figures = {"bytes": record.num_bytes, "gzip": record.gzip_bytes, "sparsity": record.sparsity}
        return figures | {"accuracy": tfr.export.evaluate_tflite(path, *data.test)}


def trained_for_int8(model, data, options, clusters):
    """The pruned model after `quantize`, with its zeros and, when asked for, few values held."""
    import tf_reweight as tfr

    qat = tfr.quantize(model)
    tfr.quantization.calibrate(qat, data.representative(256))
    if clusters:
        tfr.quantization.cluster(qat, clusters)
    freeze = tfr.quantization.FreezeRanges(max(options.qat_epochs - 1, 0))
    compiled(qat, 2e-4).fit(*data.train, epochs=options.qat_epochs, batch_size=_BATCH, verbose=0, callbacks=[freeze])
    return qat


def measure(name, seed, options):
    """Rows of one data set and seed."""
    import keras

    import tf_reweight as tfr

    keras.utils.set_random_seed(seed)
    data = tfr.data.load(name, options.data_dir, limit=options.limit)
    model = compiled(tfr.data.models.build(options.model, data.input_shape, data.num_classes), 1e-3)
    model.fit(*data.train, epochs=options.epochs, batch_size=_BATCH, verbose=0)
    rows = {"dense, float32": executed(model, "float32", data), "dense, int8 after training": executed(model, "int8", data)}
    tfr.regularize(model, "unstructured", options.strength)
    reweighting = tfr.callbacks.Reweighting(every=options.every, rounds=options.rounds, learning_rate=1e-3)
    compiled(model, 1e-3).fit(
        *data.train, epochs=options.every * options.rounds, batch_size=_BATCH, verbose=0, callbacks=[reweighting]
    )
    tfr.prune(model, sparsity=options.sparsity)
    compiled(model, 1e-3).fit(*data.train, epochs=options.retrain_epochs, batch_size=_BATCH, verbose=0)
    rows["pruned, int8 after training"] = executed(model, "int8", data)
    rows["pruned, trained for int8"] = executed(trained_for_int8(model, data, options, None), "int8", data)
    clustered = trained_for_int8(model, data, options, options.clusters)
    rows["pruned, clustered, trained for int8"] = executed(clustered, "int8", data)
    return [{"data": name, "seed": seed, "row": row, **figures} for row, figures in rows.items()]


def summary(rows):
    """One line per data set and row: mean and spread over the seeds."""
    import numpy as np

    for data, row in dict.fromkeys((item["data"], item["row"]) for item in rows):
        same = [item for item in rows if (item["data"], item["row"]) == (data, row)]
        values = [100 * item["accuracy"] for item in same]
        sizes = " and ".join(f"{np.mean([item[key] for item in same]):,.0f} {key}" for key in ("bytes", "gzip"))
        print(f"{data}, {row}: {np.mean(values):.2f} +- {np.std(values):.2f} %, {sizes}, {len(same)} seeds")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["mnist", "fashion_mnist"])
    parser.add_argument("--data_dir")
    parser.add_argument("--limit", type=int, help="examples; default all")
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--strength", type=float, default=2e-5)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--retrain_epochs", type=int, default=6)
    parser.add_argument("--qat_epochs", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file of the rows; what ran in it before is not run again")
    options = parser.parse_args()
    rows = json.loads(options.output.read_text()) if options.output and options.output.is_file() else []
    for seed in range(options.seeds):
        for name in options.data:
            if any((row["data"], row["seed"]) == (name, seed) for row in rows):
                continue
            rows += measure(name, seed, options)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            summary(rows)


if __name__ == "__main__":
    main()
