"""Two objectives by the multi-gradient rule against training towards budgets: two sweeps from equal dense models.

Both sides have the same epochs, optimizer and budgets of single weights. The rule knows nothing of the budget while it trains,
and is cut to it afterwards; both are retrained alike.

    python benchmarks/multi_gradient.py                   # some minutes of one core; writes its result
    python benchmarks/multi_gradient.py --seeds 0 --dry   # prints only
"""

import argparse
import json
import pathlib
import tempfile

import keras
import numpy as np
from record import RESULTS, commit, environment_of

import tf_reweight as tfr
from tf_reweight import data
from tf_reweight.data import models
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow.measures import environment

NET, BUDGETS = "small_cnn", ("weights=0.3", "weights=0.1", "weights=0.03")
METHODS = {"multi_gradient": "multi_gradient", "deadline": {"name": "deadline", "until": 0.5}}
EPOCHS = {"train": 5, "regularize": 6, "retrain": 4}
EXPORT = {"precisions": ["float32"], "latency_runs": 2, "representative": 16, "verify": 16, "pack": False}


def swept(method, seed, digits):
    """Points of one sweep, dense first, and what each run's report says of the training that found the zeros."""
    keras.utils.set_random_seed(seed)
    model = models.build(NET, digits.input_shape, digits.num_classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    config = {
        "seed": seed, "export": EXPORT,
        "regularize": {"method": METHODS[method], "rules": [{"structure": "unstructured"}], "rounds": 1},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "front"
        front = tfr.sweep(model, digits, budgets=BUDGETS, epochs=EPOCHS, config=config, out=out, console=QUIET)
        reports = [json.loads((out / point["folder"] / "report.json").read_text()) for point in front.points[1:]]
    return front.points, reports


def rows_of(seed, digits):
    for method in METHODS:
        points, reports = swept(method, seed, digits)
        for point, report in zip(points[1:], reports):
            last = report["updates"][-1]
            row = {"method": method, "seed": seed, "budget": point["name"], "dense": points[0]["test"], "test": point["test"]}
            row |= {"weights": report["num_nonzero"], "zeros": last.get("zeros"), "loss_weight": last.get("weight")}
            print(row, flush=True)
            yield row


def spread(values, digits):
    """The mean of shares, with the lowest and the highest where there are several."""
    mean = f"{np.mean(values):.{digits}%}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}%} to {max(values):.{digits}%})"


def result_of(rows, seeds, measured_at):
    figures = []
    for budget in dict.fromkeys(row["budget"] for row in rows):
        cells = {"budget": budget.replace("_", "=")}
        for method in METHODS:
            values = [row["test"] for row in rows if (row["budget"], row["method"]) == (budget, method)]
            cells[method] = spread(values, 2)
        figures.append(cells)
    own = [row["zeros"] for row in rows if row["zeros"] is not None]
    dense = [row["dense"] for row in rows]
    return {
        "title": "Two objectives by the multi-gradient rule, against a budget",
        "command": f"python benchmarks/multi_gradient.py --seeds {' '.join(map(str, seeds))}",
        "commit": measured_at,
        "recorded": "written by the script itself",
        "environment": environment_of(environment()),
        "seeds": seeds,
        "findings": [
            f"Digits, `{NET}`, single weights, test accuracy of the float32 files; {spread(dense, 1)} dense. "
            f"Equal epochs for both: {EPOCHS['regularize']} that find the zeros and {EPOCHS['retrain']} afterwards.",
            f"By itself, before it was cut to a budget, the rule with its defaults ended with {spread(own, 1)} of the "
            "weights at zero.",
        ],
        "columns": [
            ["left", "{budget}"],
            ["`multi_gradient`", "{multi_gradient}"],
            ["towards the budget", "{deadline}"],
        ],
        "figures": figures, "rows": rows,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dry", action="store_true", help="nothing is written")
    options = parser.parse_args()
    measured_at = None if options.dry else commit()
    digits = data.load("digits")
    rows = [row for seed in options.seeds for row in rows_of(seed, digits)]
    if not options.dry:
        result = json.dumps(result_of(rows, options.seeds, measured_at), indent=1) + "\n"
        (RESULTS / "multi_gradient.json").write_text(result, encoding="utf-8")


if __name__ == "__main__":
    main()
