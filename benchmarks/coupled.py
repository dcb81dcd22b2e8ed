"""Does the coupled penalty earn its place? Reweighted against one-shot, gradual and static-lasso filter pruning.

A residual net with BatchNorm on Fashion-MNIST (or digits). From one dense model every method gets the same number of epochs
under one cosine; one-shot prunes before them, gradual at the start of the first ones, the penalties press by proximal steps
until the budget is met. The same share of the multiply-accumulates is removed, the last epoch counts, and accuracy is that of
the shrunk model. `dense` is trained as long as the others and nothing is removed.

    python benchmarks/coupled.py --data_dir DIR --seeds 3 --output coupled.json     # goes on where it was stopped
    python benchmarks/coupled.py --data digits --seeds 1                            # some minutes
    python benchmarks/coupled.py --data digits --seeds 1 --methods reweighted --macs 0.75 --files   # and the speed of the file
"""

import argparse
import json
import pathlib
import tempfile

import keras
import numpy as np

from tf_reweight import coupling, data, export, shrinking
from tf_reweight.coupling.savings import PRICES
from tf_reweight.graph.counting import count_macs
from tf_reweight.learning_rate import CosineDecay
from tf_reweight.penalties.reweighting import Reweighting

L = keras.layers
METHODS = ("dense", "one_shot", "gradual", "lasso", "reweighted")
_RATE = 2e-3


def build(shape, num_classes, width):
    """A stem of stride 2 and three residual stages of one block each; BatchNorm after every convolution."""

    def conv(x, filters, size, strides=1, activate=True):
        x = L.BatchNormalization(momentum=0.9)(L.Conv2D(filters, size, strides, padding="same", use_bias=False)(x))
        return L.ReLU()(x) if activate else x

    inputs = keras.Input(shape)
    x = conv(inputs, width, 3, 2)
    for stage in range(3):
        filters, strides = width * 2**stage, 1 if stage == 0 else 2
        y = conv(conv(x, filters, 3, strides), filters, 3, activate=False)
        x = x if strides == 1 else conv(x, filters, 1, strides, activate=False)
        x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(num_classes)(L.GlobalAveragePooling2D()(x)))


def fit(model, digits, epochs, *callbacks, learning_rate=_RATE):
    """Adam with a cosine over all epochs; None leaves the rate to the callbacks."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(_RATE), loss, metrics=["accuracy"])
    decay = [] if learning_rate is None else [CosineDecay(learning_rate)]
    model.fit(*digits.train, batch_size=64, epochs=epochs, verbose=0, callbacks=[*callbacks, *decay])


class Gradual(keras.callbacks.Callback):
    """Prunes filters by the L1 norms of their kernels at the start of the first epochs, each time as much computing more."""

    def __init__(self, macs, rounds):
        super().__init__()
        self.macs, self.rounds = macs, rounds

    def on_epoch_begin(self, epoch, logs=None):
        if epoch < self.rounds:
            coupling.prune_groups(self.model, macs=self.macs * (epoch + 1) / self.rounds, criterion="kernel_l1")
            self.model.make_train_function(force=True)


def accuracy(model, digits):
    """Top-1 on the test split."""
    return float(np.mean(model.predict(digits.test[0], batch_size=512, verbose=0).argmax(-1) == digits.test[1]))


def compressed(method, model, digits, macs, options):
    """`(shrunk model, training steps until the budget was met)` of one method; the steps are None but for penalties."""
    proximal, callbacks = None, []
    if method == "one_shot":
        coupling.prune_groups(model, macs=macs, criterion="kernel_l1")
    elif method == "gradual":
        callbacks = [Gradual(macs, options.rounds)]
    elif method != "dense":
        kind, strength = method.split()
        penalty = "lasso" if kind == "lasso" else {"name": "log_sum", "epsilon": options.epsilon}
        relative = kind != "lasso" and not options.absolute
        coupling.regularize_coupled(model, float(strength), penalty, price=options.price, relative=relative)
        proximal = coupling.CoupledProximal(macs=macs)
        callbacks = [Reweighting(options.every), proximal]
    fit(model, digits, options.epochs, *callbacks)
    if proximal is not None:
        coupling.prune_groups(model, macs=macs)
    return shrinking.shrink(model, inputs=digits.validation[0][:8]), proximal and proximal.met_at


def runs_of(options):
    """The runs of one seed: `(method, budget)`; penalties with their strength in the name."""
    names = []
    for method in options.methods:
        strengths = {"lasso": options.lasso_strengths, "reweighted": options.strengths}.get(method)
        names += [method] if strengths is None else [f"{method} {strength:g}" for strength in strengths]
    return [(name, macs) for macs in options.macs for name in names if name != "dense" or macs == options.macs[0]]


def rows_of(seed, digits, options, done):
    """One row per method and budget that is not among `done`, all from the same dense model."""
    wanted = [run for run in runs_of(options) if (seed, *run) not in done]
    if not wanted:
        return
    keras.utils.set_random_seed(seed)
    dense = build(digits.input_shape, digits.num_classes, options.width)
    fit(dense, digits, options.dense)
    print(f"seed {seed}: before, {accuracy(dense, digits):.2%}", flush=True)
    for method, macs in wanted:
        keras.utils.set_random_seed(seed + 100)
        model = keras.models.clone_model(dense)
        model.set_weights(dense.get_weights())
        small, met_at = compressed(method, model, digits, macs, options)
        row = {
            "seed": seed,
            "method": method,
            "macs_removed": 1 - count_macs(small) / count_macs(dense),
            "budget": macs,
            "met_at": met_at,
            "before": accuracy(dense, digits),
            "accuracy": accuracy(small, digits),
            "fewest_filters": min(layer.filters for layer in small.layers if isinstance(layer, L.Conv2D)),
        }
        if options.files:
            row |= files_of(dense, small, digits)
        print(f"seed {seed}, {row['macs_removed']:.1%} of the MACs removed: {method:<16} {row['accuracy']:.2%}, "
              f"narrowest layer {row['fewest_filters']}", flush=True)  # fmt: skip
        yield row


def files_of(dense, small, digits):
    """Dense float32 against shrunk int8, as files: latency in turns in one process, sizes, and accuracy as executed."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / name for name in ("dense_float32.tflite", "shrunk_int8.tflite")]
        calibration, held_out = digits.representative(200), digits.validation[0][:200]
        records = [
            export.export_tflite(model, path, precision, calibration, held_out)
            for model, path, precision in zip((dense, small), paths, ("float32", "int8"))
        ]
        times = export.benchmark(paths, num_runs=400)
        accuracies = [export.evaluate_tflite(path, *digits.test) for path in paths]
    row = {
        "speedup": times.rows[1]["speedup"],
        "dense_ms": times.rows[0]["median_ms"],
        "smaller": records[0].num_bytes / records[1].num_bytes,
        "smaller_zipped": records[0].gzip_bytes / records[1].gzip_bytes,
        "file_accuracies": accuracies,
    }
    print(f"  int8 file: {row['speedup']:.1f}x faster, {row['smaller']:.1f}x smaller, {row['smaller_zipped']:.1f}x zipped; "
          f"accuracy {accuracies[0]:.2%} before, {accuracies[1]:.2%} after", flush=True)  # fmt: skip
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--data_dir", help="where tensorflow-datasets keeps its data")
    parser.add_argument("--limit", type=int, default=10_000, help="training examples")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--dense", type=int, default=8, help="epochs of dense training")
    parser.add_argument("--epochs", type=int, default=14, help="of every method, after the dense training")
    parser.add_argument("--rounds", type=int, default=4, help="epochs in which the gradual method prunes")
    parser.add_argument("--every", type=int, default=1, help="epochs between two updates of the penalty weights")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.7, 1.0], help="of the reweighted penalty")
    parser.add_argument("--lasso_strengths", type=float, nargs="+", default=[0.5, 1.0], help="of the static group lasso")
    parser.add_argument("--epsilon", type=float, default=5e-2)
    parser.add_argument("--price", choices=PRICES, default="equal", help="of a group, for both penalties")
    parser.add_argument("--absolute", action="store_true", help="reweighting by norms, not relative to those of the set")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.75], help="shares of the computing to remove")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--files", action="store_true", help="also dense float32 against shrunk int8 .tflite: speed and sizes")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the rows; those in it are not run again")
    options = parser.parse_args()
    digits = data.load(options.data, options.data_dir, limit=options.limit if options.data != "digits" else None)
    rows = json.loads(options.output.read_text()) if options.output and options.output.exists() else []
    done = {(row["seed"], row["method"], row["budget"]) for row in rows}
    for seed in range(options.seeds):
        for row in rows_of(seed, digits, options, done):
            rows.append(row)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\nmethod            MACs removed  accuracy, mean and range over seeds")
    for method, macs in runs_of(options):
        values = np.array([row["accuracy"] for row in rows if (row["method"], row["budget"]) == (method, macs)]) * 100
        shown = "none" if method == "dense" else f"{macs:.0%}"
        print(f"{method:<17} {shown:>12}  {values.mean():.2f} ({values.min():.2f} to {values.max():.2f})")


if __name__ == "__main__":
    main()
