"""Do files have the bytes and milliseconds that a budget says, and what does looking for an accuracy cost?

Each model is trained towards its budget, without a strength; then its int8 file is written and measured beside the dense one.
Sizes are predicted before the training, from files of the dense model. A search for the smallest model within a drop of
accuracy is timed against one run that is told its budget, by the processor's clock, exports and reports included.

    python benchmarks/file_budgets.py                                       # ten minutes of one core; writes its result
    python benchmarks/file_budgets.py --nets bn_cnn --seeds 0 --no_search   # a minute; prints only
"""

import argparse
import collections
import json
import pathlib
import tempfile
import time

import keras
from record import RESULTS, commit, environment_of

import tf_reweight as tfr
from tf_reweight import data
from tf_reweight.data import models
from tf_reweight.deadline import BudgetProximal
from tf_reweight.filecost import files
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow.measures import environment

PRECISION = "int8"
# What is removed, what is limited, and to which part of the dense file.
BUDGETS = (
    ("channels", "bytes", 0.7), ("channels", "bytes", 0.4),
    ("channels", "zipped_bytes", 0.7), ("channels", "zipped_bytes", 0.4),
    ("channels", "latency_ms", 0.85), ("channels", "latency_ms", 0.75),
    ("zeros", "bytes", 0.8), ("zeros", "zipped_bytes", 0.5),
)  # fmt: skip
# How far files may be from their budgets.
GOALS = {"bytes": 0.01, "zipped_bytes": 0.01, "latency_ms": 0.1}
NETS = ("bn_cnn", "ds_cnn")
Examples = collections.namedtuple("Examples", "train validation test input_shape num_classes")


def enlarged(dataset, times):
    """Images of so many times the height and width: a run takes long enough to be timed."""
    splits = [(x.repeat(times, 1).repeat(times, 2), y) for x, y in (dataset.train, dataset.validation, dataset.test)]
    return Examples(*splits, splits[0][0].shape[1:], dataset.num_classes)


def fit(model, digits, epochs, *callbacks):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit(*digits.train, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks))


def file_of(removed, model, digits, budget, epochs):
    """The bytes of the model's file after training towards a budget."""
    if removed == "channels":
        tfr.regularize_coupled(model, budget=budget)
        fit(model, digits, epochs, BudgetProximal())
        tfr.prune_groups(model)
        return files.content_of(tfr.shrink(model), PRECISION)
    tfr.regularize(model, "unstructured", budget=budget)
    fit(model, digits, epochs, BudgetProximal())
    tfr.prune(model)
    return files.content_of(model, PRECISION)


def share_of(quantity, removed, dense, content):
    """What a file has of the dense one's; of times, in turns in one process."""
    if quantity == "latency_ms":
        before, after = files.times([dense, content])
        return after / before
    return files.sizes(content, packed=removed == "zeros")[quantity] / files.sizes(dense)[quantity]


def rows_of(net, seed, digits, options):
    """One row per budget, all from one dense model."""
    keras.utils.set_random_seed(seed)
    dense = models.build(net, digits.input_shape, digits.num_classes)
    fit(dense, digits, options.dense)
    content = files.content_of(dense, PRECISION)
    for removed, quantity, left in BUDGETS:
        keras.utils.set_random_seed(seed + 100)
        budget = {quantity: left, "precision": PRECISION}
        try:
            found = file_of(removed, models.copied(dense), digits, budget, options.epochs)
        except ValueError as refused:
            print(f"{net}, seed {seed}, {removed}: {quantity}={left} is refused: {refused}", flush=True)
            continue
        share = share_of(quantity, removed, content, found)
        row = {"net": net, "seed": seed, "removed": removed, "quantity": quantity, "budget": left, "error": share / left - 1.0}
        print(f"{net}, seed {seed}, {removed}: {quantity}={left}, the file has {share:.4f}, {row['error']:+.2%}", flush=True)
        yield row


def searched(seed, digits, options):
    """Processor time of a search for the smallest model within a drop, as a multiple of one run's that was told its budget."""

    def seconds(budget):
        keras.utils.set_random_seed(seed)
        model = models.build("bn_cnn", digits.input_shape, digits.num_classes)
        fit(model, digits, options.dense)
        config = {"export": {"precisions": [PRECISION], "latency_runs": 5, "verify": 32}, "seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            how = {"budget": budget, "epochs": 2 * options.epochs, "config": config, "console": QUIET}
            result = tfr.compress(model, *digits[:3], out=pathlib.Path(folder) / "run", **how)
            return time.process_time() - begun, result

    (one, _), (whole, result) = seconds("macs=0.5"), seconds("accuracy_drop=0.01")
    tries, left = result["search"]["tries"], result["stages"][-1]["num_macs"] / result["stages"][0]["num_macs"]
    said = f"seed {seed}: a search of {len(tries)} tries takes {whole / one:.2f} runs and ends at {left:.1%} of the MACs"
    print(said, flush=True)
    return {"seed": seed, "tries": len(tries), "runs": whole / one, "macs_left": left}


def _told(search):
    return (
        f"Seed {search['seed']}: a search for the smallest model within a point of accuracy (`bn_cnn`) takes "
        f"{search['runs']:.2f} times as long as one run that is told to leave half of the MACs, with {search['tries']} tries; "
        f"the aim is at most three. It leaves {search['macs_left']:.0%} of the MACs."
    )


def result_of(rows, searches, seeds, measured_at):
    """The content of the result file."""
    found, asked = collections.defaultdict(list), len(BUDGETS) * len({(row["net"], row["seed"]) for row in rows})
    for row in rows:
        found[row["removed"], row["quantity"], row["budget"]].append(row["error"])
    figures = [
        {"removed": removed, "quantity": quantity, "budget": budget, "lowest": min(errors), "highest": max(errors),
         "goal": GOALS[quantity], "files": len(errors)}
        for (removed, quantity, budget), errors in found.items()
    ]  # fmt: skip
    over = [row for row in rows if row["error"] > GOALS[row["quantity"]]]
    return {
        "title": "Files against their budgets" + (", and what a search for an accuracy costs" if searches else ""),
        "command": "python benchmarks/file_budgets.py",
        "commit": measured_at,
        "recorded": "written by the script itself",
        "environment": environment_of(environment()),
        "seeds": seeds,
        "findings": [
            f"Digits, {' and '.join(dict.fromkeys(row['net'] for row in rows))}, trained towards budgets without a strength. "
            "Int8 files, those with zeros packed; times in turns beside the dense file, on one thread of a shared machine.",
            f"{len(over)} of {len(rows)} files have more than their budget by more than the goal, which is 1 % for sizes and "
            f"10 % for times; {asked - len(rows)} budgets were refused as out of reach.",
            *map(_told, searches),
        ],
        "columns": [
            ["removed", "{removed}"], ["budget", "{quantity}={budget}"], ["lowest error of a file", "{lowest:+.2%}"],
            ["highest", "{highest:+.2%}"], ["goal", "{goal:.0%}"], ["files", "{files}"],
        ],
        "figures": figures, "rows": rows, "searches": searches,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=NETS, choices=NETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--enlarged", type=int, default=2, help="height and width of the digits, in times 8 pixels")
    parser.add_argument("--dense", type=int, default=2, help="epochs of dense training")
    parser.add_argument("--epochs", type=int, default=2, help="of training towards a budget")
    parser.add_argument("--no_search", action="store_true", help="budgets of files only; nothing is written")
    options = parser.parse_args()
    measured_at = None if options.no_search else commit()
    digits = enlarged(data.load("digits"), options.enlarged)
    rows = [row for net in options.nets for seed in options.seeds for row in rows_of(net, seed, digits, options)]
    if options.no_search:
        return
    # What is measured so far is kept, whatever becomes of the searches, which take longest.
    write(rows, [], options.seeds, measured_at)
    write(rows, [searched(seed, digits, options) for seed in options.seeds], options.seeds, measured_at)


def write(rows, searches, seeds, measured_at):
    result = result_of(rows, searches, seeds, measured_at)
    (RESULTS / "file_budgets.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
