"""Does a budget need a strength? The solver of a deadline against one-shot and gradual pruning, each with several criteria.

From one dense model every method gets the same number of epochs, the same optimizer, one cosine, and the same batches; the last
epoch counts, and accuracy is that of the shrunk model on test data. No method is given a strength. `dense` is trained as long
as the others and nothing is removed.

    python benchmarks/budget.py --data_dir DIR --output budget.json                     # goes on where it was stopped
    python benchmarks/budget.py --data digits --nets bn_cnn --seeds 1 --epochs 6         # two minutes
    python benchmarks/budget.py --data_dir DIR --nets residual --recipe sgd --macs 0.25
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from coupled import Gradual, accuracy
from coupled import build as residual

from tf_reweight import coupling, data, shrinking
from tf_reweight.data import models
from tf_reweight.deadline import BudgetProximal
from tf_reweight.graph.counting import count_macs
from tf_reweight.learning_rate import CosineDecay

NETS = ("residual", "bn_cnn", "ds_cnn")
METHODS = (
    "dense", "one_shot lamp", "one_shot kernel_l1", "one_shot kernel+gamma+next", "gradual kernel_l1", "budget", "budget lamp",
)  # fmt: skip
# Learning rates at the start of the cosine.
RECIPES = {
    "adam": lambda rate: keras.optimizers.Adam(rate or 2e-3),
    "sgd": lambda rate: keras.optimizers.SGD(rate or 0.05, momentum=0.9, weight_decay=5e-4),
}


def build(net, digits):
    if net == "residual":
        return residual(digits.input_shape, digits.num_classes, 16)
    return models.build(net, digits.input_shape, digits.num_classes)


def fit(model, digits, epochs, recipe, *callbacks):
    optimizer = RECIPES[recipe](None)
    rate = float(optimizer.learning_rate)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(*digits.train, batch_size=64, epochs=epochs, verbose=0, callbacks=[*callbacks, CosineDecay(rate)])


def compressed(method, model, digits, macs, options):
    """The shrunk model of one method; `macs` is the share that may be left."""
    kind, _, criterion = method.partition(" ")
    callbacks = []
    if kind == "one_shot":
        coupling.prune_groups(model, budget={"macs": macs}, criterion=criterion)
    elif kind == "gradual":
        callbacks = [Gradual(1.0 - macs, options.rounds)]
    elif kind == "budget":
        callbacks = [BudgetProximal({"macs": macs}, until=options.until, criterion=criterion or None)]
    fit(model, digits, options.epochs, options.recipe, *callbacks)
    if kind == "budget":
        coupling.prune_groups(model)
    return shrinking.shrink(model, inputs=digits.validation[0][:8])


def runs_of(options):
    """`(method, budget)` of one seed and net."""
    return [(name, macs) for macs in options.macs for name in options.methods if name != "dense" or macs == options.macs[0]]


def rows_of(net, seed, digits, options, done):
    """One row per method and budget that is not among `done`, all from the same dense model."""
    wanted = [run for run in runs_of(options) if (net, options.recipe, seed, *run) not in done]
    if not wanted:
        return
    keras.utils.set_random_seed(seed)
    dense = build(net, digits)
    fit(dense, digits, options.dense, "adam")
    for method, macs in wanted:
        keras.utils.set_random_seed(seed + 100)
        model = keras.models.clone_model(dense)
        model.set_weights(dense.get_weights())
        start = time.time()
        small = compressed(method, model, digits, macs, options)
        row = {
            "net": net, "recipe": options.recipe, "seed": seed, "method": method, "budget": macs,
            "macs_left": count_macs(small) / count_macs(dense), "before": accuracy(dense, digits),
            "accuracy": accuracy(small, digits), "seconds": time.time() - start,
            "validation": float(np.mean(small.predict(digits.validation[0], verbose=0).argmax(-1) == digits.validation[1])),
        }  # fmt: skip
        print(f"{net}, seed {seed}, {macs:.0%} of the MACs: {method:<28} {row['accuracy']:.2%} (validation "
              f"{row['validation']:.2%}, before {row['before']:.2%}, {row['macs_left']:.2%} left, {row['seconds']:.0f} s)",
              flush=True)  # fmt: skip
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--data_dir", help="where tensorflow-datasets keeps its data")
    parser.add_argument("--limit", type=int, default=6_000, help="training examples")
    parser.add_argument("--nets", nargs="+", default=NETS, choices=NETS)
    parser.add_argument("--recipe", default="adam", choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dense", type=int, default=8, help="epochs of dense training, with Adam")
    parser.add_argument("--epochs", type=int, default=10, help="of every method, after the dense training")
    parser.add_argument("--rounds", type=int, default=4, help="epochs in which the gradual method prunes")
    parser.add_argument("--until", type=float, default=0.25, help="the deadline of the budget, as a share of the epochs")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.25], help="shares of the computing that may be left")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the rows; those in it are not run again")
    options = parser.parse_args()
    digits = data.load(options.data, options.data_dir, limit=options.limit if options.data != "digits" else None)
    rows = json.loads(options.output.read_text()) if options.output and options.output.exists() else []
    keys = ("net", "recipe", "seed", "method", "budget")
    done = {tuple(row[key] for key in keys) for row in rows}
    for net in options.nets:
        for seed in options.seeds:
            for row in rows_of(net, seed, digits, options, done):
                rows.append(row)
                if options.output:
                    options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\nnet       MACs left  method                       accuracy, mean and range over seeds")
    for net in options.nets:
        for method, macs in runs_of(options):
            wanted = (net, options.recipe, method, macs)
            found = [row for row in rows if (row["net"], row["recipe"], row["method"], row["budget"]) == wanted]
            values = np.array([row["accuracy"] for row in found]) * 100
            shown = "all" if method == "dense" else f"{macs:.0%}"
            print(f"{net:<9} {shown:>9}  {method:<28} {values.mean():.2f} ({values.min():.2f} to {values.max():.2f})")


if __name__ == "__main__":
    main()
