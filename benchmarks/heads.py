"""A small transformer classifier loses half its attention heads, and half the units of its MLPs.

Fashion-MNIST (or digits), each row of an image a token. One dense model per seed; every method gets as many epochs more,
also the dense model that nothing is removed from; the last epoch counts, and accuracy is that of the shrunk model.

    python benchmarks/heads.py --data_dir DIR --seeds 3
    python benchmarks/heads.py --data digits --seeds 1       # a minute
"""

import argparse
import json
import pathlib

import coupled
import keras
import numpy as np

from tf_reweight import coupling, data, shrinking
from tf_reweight.graph.counting import count_macs
from tf_reweight.penalties.reweighting import Reweighting

L = keras.layers
METHODS = ("dense", "one_shot", "reweighted")
_RATE = 2e-3


class Positions(L.Layer):
    """Adds a learned vector to each token."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], initializer="glorot_uniform", name="table")

    def call(self, x):
        return x + self.table


def build(shape, num_classes, heads, blocks=2, width=48):
    """A pre-norm transformer over the rows of an image."""
    inputs = keras.Input(shape)
    x = Positions()(L.Dense(width)(L.Reshape((shape[0], shape[1] * shape[2]))(inputs)))
    for _ in range(blocks):
        y = L.LayerNormalization()(x)
        x = x + L.MultiHeadAttention(heads, width // heads)(y, y)
        y = L.LayerNormalization()(x)
        x = x + L.Dense(width)(L.Dense(2 * width, activation="gelu")(y))
    return keras.Model(inputs, L.Dense(num_classes)(L.GlobalAveragePooling1D()(L.LayerNormalization()(x))))


def compressed(method, model, digits, options):
    """The model after `rounds * every + retrain` more epochs, without `sparsity` of the heads and units of each layer."""
    removed = {"sparsity": options.sparsity, "scope": "set", "criterion": "kernel+gamma+next"}
    regularized = options.rounds * options.every
    if method == "reweighted":
        coupling.regularize_coupled(model, options.strength, {"name": "log_sum", "epsilon": options.epsilon})
        reweighting = Reweighting(options.every, options.rounds, learning_rate=_RATE)
        coupled.fit(model, digits, regularized, reweighting, learning_rate=None)
        coupling.prune_groups(model, **removed)
        coupled.fit(model, digits, options.retrain)
        return shrinking.shrink(model, inputs=digits.validation[0][:8])
    if method == "one_shot":
        coupling.prune_groups(model, **removed)
    coupled.fit(model, digits, regularized + options.retrain)
    return shrinking.shrink(model, inputs=digits.validation[0][:8])


def rows_of(seed, digits, options):
    """One row per method, all from the same dense model."""
    keras.utils.set_random_seed(seed)
    first = build(digits.input_shape, digits.num_classes, options.heads)
    coupled.fit(first, digits, options.dense)
    for method in options.methods:
        keras.utils.set_random_seed(seed + 100)
        model = keras.models.clone_model(first)
        model.set_weights(first.get_weights())
        small = compressed(method, model, digits, options)
        row = {
            "seed": seed,
            "method": method,
            "accuracy": coupled.accuracy(small, digits),
            "heads": sum(layer.num_heads for layer in small.layers if isinstance(layer, L.MultiHeadAttention)),
            "parameters": small.count_params(),
            "macs": count_macs(small),
        }
        print(f"seed {seed}: {method:<11} {row['accuracy']:.2%}, {row['heads']} heads", flush=True)
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--data_dir", help="where tensorflow-datasets keeps its data")
    parser.add_argument("--limit", type=int, default=10_000, help="training examples")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heads", type=int, default=8, help="heads of each of the two blocks")
    parser.add_argument("--sparsity", type=float, default=0.5, help="fraction of the heads and of the MLPs' units to remove")
    parser.add_argument("--dense", type=int, default=10, help="epochs of the first training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--retrain", type=int, default=6)
    parser.add_argument("--strength", type=float, default=5e-3)
    parser.add_argument("--epsilon", type=float, default=5e-2)
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
    print("\nmethod       heads  parameters        MACs  accuracy, mean and range over seeds")
    for method in options.methods:
        found = [row for row in rows if row["method"] == method]
        values = np.array([row["accuracy"] for row in found]) * 100
        print(f"{method:<12} {found[0]['heads']:>5} {found[0]['parameters']:>11,} {found[0]['macs']:>11,}  "
              f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
