"""Does the coupled penalty earn its place? Reweighted against one-shot, gradual and static-lasso filter pruning.

A residual net with BatchNorm on Fashion-MNIST (or digits); every method gets the same number of epochs, the same share of the
multiply-accumulates is removed, the last epoch counts, and accuracy is that of the shrunk model.

    python benchmarks/coupled.py --data_dir DIR --seeds 3
    python benchmarks/coupled.py --data digits --seeds 1       # a minute
"""

import argparse
import json
import pathlib

import keras
import numpy as np

from tf_reweight import coupling, data, shrinking
from tf_reweight.callbacks import CosineDecay, Reweighting
from tf_reweight.report import count_macs

L = keras.layers
METHODS = ("one_shot", "gradual", "lasso", "reweighted")
_RATE = 2e-3


def build(shape, num_classes, width):
    """Three residual stages of one block each; BatchNorm after every convolution."""

    def conv(x, filters, size, strides=1, activate=True):
        x = L.BatchNormalization(momentum=0.9)(L.Conv2D(filters, size, strides, padding="same", use_bias=False)(x))
        return L.ReLU()(x) if activate else x

    inputs = keras.Input(shape)
    x = conv(inputs, width, 3)
    for stage in range(3):
        filters, strides = width * 2**stage, 1 if stage == 0 else 2
        y = conv(conv(x, filters, 3, strides), filters, 3, activate=False)
        x = x if strides == 1 else conv(x, filters, 1, strides, activate=False)
        x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(num_classes)(L.GlobalAveragePooling2D()(x)))


def fit(model, digits, epochs, *callbacks):
    """Adam with a cosine over all epochs, unless the callbacks set the rate."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(_RATE), loss, metrics=["accuracy"])
    model.fit(*digits.train, batch_size=64, epochs=epochs, verbose=0, callbacks=list(callbacks) or [CosineDecay(_RATE)])


def accuracy(model, digits):
    """Top-1 on the test split."""
    return float(np.mean(model.predict(digits.test[0], batch_size=512, verbose=0).argmax(-1) == digits.test[1]))


def compressed(method, model, digits, macs, options):
    """The shrunk model after `options.rounds * options.every + options.retrain` epochs of one method."""
    rounds, every = options.rounds, options.every
    if method == "one_shot":
        coupling.prune_groups(model, macs=macs, criterion="kernel")
        fit(model, digits, rounds * every + options.retrain)
    elif method == "gradual":
        for step in range(1, rounds + 1):
            coupling.prune_groups(model, macs=macs * step / rounds, criterion="kernel")
            fit(model, digits, every)
        fit(model, digits, options.retrain)
    else:
        penalty = "lasso" if method == "lasso" else {"name": "log_sum", "epsilon": options.epsilon}
        criterion = "kernel" if method == "lasso" else "kernel+gamma+next"
        coupling.regularize_coupled(model, options.strength, penalty, criterion)
        fit(model, digits, rounds * every, Reweighting(every, rounds, learning_rate=_RATE))
        coupling.prune_groups(model, macs=macs, criterion=criterion)
        fit(model, digits, options.retrain)
    return shrinking.shrink(model, inputs=digits.validation[0][:8])


def rows_of(seed, digits, options):
    """One row per method and budget, all from the same dense model."""
    keras.utils.set_random_seed(seed)
    dense = build(digits.input_shape, digits.num_classes, options.width)
    fit(dense, digits, options.dense)
    print(f"seed {seed}: dense {accuracy(dense, digits):.2%}", flush=True)
    for macs in options.macs:
        for method in options.methods:
            keras.utils.set_random_seed(seed + 100)
            model = keras.models.clone_model(dense)
            model.set_weights(dense.get_weights())
            small = compressed(method, model, digits, macs, options)
            row = {
                "seed": seed,
                "method": method,
                "macs_removed": 1 - count_macs(small) / count_macs(dense),
                "budget": macs,
                "dense_accuracy": accuracy(dense, digits),
                "accuracy": accuracy(small, digits),
                "fewest_filters": min(layer.filters for layer in small.layers if isinstance(layer, L.Conv2D)),
            }
            print(f"seed {seed}, {macs:.0%} of the MACs: {method:<11} {row['accuracy']:.2%}, "
                  f"narrowest layer {row['fewest_filters']}", flush=True)  # fmt: skip
            yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--data_dir", help="where tensorflow-datasets keeps its data")
    parser.add_argument("--limit", type=int, default=10_000, help="training examples")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--dense", type=int, default=8, help="epochs of dense training")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--retrain", type=int, default=6)
    parser.add_argument("--strength", type=float, default=1e-3)
    parser.add_argument("--epsilon", type=float, default=5e-2)
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.75], help="shares of the computing to remove")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the rows")
    options = parser.parse_args()
    digits = data.load(options.data, options.data_dir, limit=options.limit if options.data != "digits" else None)
    rows = []
    for seed in range(options.seeds):
        for row in rows_of(seed, digits, options):
            rows.append(row)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\nmethod       MACs removed  accuracy, mean and range over seeds   against dense")
    for macs in options.macs:
        for method in options.methods:
            found = [row for row in rows if row["method"] == method and row["budget"] == macs]
            values = np.array([row["accuracy"] for row in found]) * 100
            change = np.mean([row["accuracy"] - row["dense_accuracy"] for row in found]) * 100
            spread = f"{values.min():.2f} to {values.max():.2f}"
            print(f"{method:<12} {macs:>12.0%}  {values.mean():.2f} ({spread}) {change:>+28.2f}")


if __name__ == "__main__":
    main()
