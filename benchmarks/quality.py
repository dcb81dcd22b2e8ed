"""Accuracy of reweighting and its rivals at the same numbers of nonzero weights and equal total epochs.

Each seed trains one dense model, from which every method starts. A method gets `--epochs` epochs to find its zeros and
`--retrain` epochs with the zeros fixed; one-shot pruning gets both for retraining. Reweighting goes first and removes what it
freed; the rivals are then pruned to as many weights (target "free"), and all of them to each of `--sparsities`. Where a method
has several coefficients to try (`--strength`, `--lasso_strength`, `--rho`), validation chooses, per seed and target; the target
"free" takes the first of `--strength`. Test accuracy is that of the last epoch. Weights are counted in the kernels that can
have the structure.

    python benchmarks/quality.py                                                # digits, all structures, 3 seeds
    python benchmarks/quality.py --structures unstructured --seeds 2 --output quality.json
    python benchmarks/quality.py --dataset mnist --model lenet5 --data_dir data --epochs 25 --retrain 10 --strength 2e-5
"""

import argparse
import json
import pathlib
import sys
import time

METHODS = ("reweighted", "proximal", "admm", "gradual", "lasso", "one_shot")
STRUCTURES = {
    "unstructured": "unstructured",
    "kernel": "kernel",
    "column": "column",
    "block": {"name": "block", "shape": [4, 4]},
}
_FIELDS = (
    ("structure", "<13"), ("target", "<7"), ("method", "<11"), ("nonzero / all", ">18"), ("rate", ">7"), ("test", ">16"),
    ("validation", ">16"), ("seeds", ">6"),
)  # fmt: skip


class Contest:
    """One dense model and its data, and every method's way from there to a sparse one.

    Args:
        options: the parsed command line.
        seed: for weights, splits and batches.
    """

    def __init__(self, options, seed):
        import keras

        import tf_reweight as tfr

        self.options, self.seed = options, seed
        keras.utils.set_random_seed(seed)
        self.data = tfr.data.load(options.dataset, options.data_dir, seed=seed, limit=options.limit)
        self.dense = tfr.models.build(options.model, self.data.input_shape, self.data.num_classes)
        self.fit(self.dense, options.dense, [])

    def run(self, method, structure, target, sparsity):
        """One method at one target: the result that validation likes best of its coefficients."""
        tries = self._tries(method, target)
        results = [self._once(method, structure, sparsity, coefficient) for coefficient in tries]
        return max(results, key=lambda result: result["validation_accuracy"])

    def _tries(self, method, target):
        options = self.options
        strengths = options.strength[:1] if target == "free" else options.strength
        return {"reweighted": strengths, "proximal": strengths, "lasso": options.lasso_strength, "admm": options.rho}.get(
            method, [None]
        )

    def _once(self, method, structure, sparsity, coefficient):
        import tf_reweight as tfr
        from tf_reweight import rivals

        options, retrain = self.options, self.options.retrain
        model, amount = self.copy(), {"sparsity": sparsity, "structure": structure, "scope": options.scope}
        if method in ("reweighted", "proximal", "lasso"):
            penalty = "lasso" if method == "lasso" else {"name": "log_sum", "epsilon": options.epsilon}
            freed = self.penalise(model, structure, coefficient, penalty, method == "proximal")
            amount = {"threshold": freed, "structure": structure} if sparsity is None else amount
        elif method == "admm":
            self.fit(
                model, options.epochs, [rivals.ADMM(structure, sparsity, (coefficient, 100 * coefficient), scope=options.scope)]
            )
        elif method == "gradual":
            steps = -(-len(self.data.train[1]) // options.batch_size) * options.epochs
            schedule = rivals.PolynomialDecay(0.0, sparsity, 0, steps, frequency=max(1, steps // 40))
            self.fit(model, options.epochs + retrain, [rivals.GradualMagnitude(schedule, structure, scope=options.scope)])
            return {**self.measure(model, structure), "coefficient": None}
        else:
            retrain += options.epochs
        tfr.prune(model, **amount)
        self.fit(model, retrain, [])
        return {**self.measure(model, structure), "coefficient": coefficient}

    def penalise(self, model, structure, strength, penalty, proximal):
        """Trains with a penalty in rounds, takes it off, and returns the norm at which groups count as freed."""
        import tf_reweight as tfr
        from tf_reweight.proximal import Proximal

        options = self.options
        tfr.regularize(model, structure, strength, penalty)
        callbacks = [
            tfr.callbacks.Reweighting(
                max(1, options.epochs // options.rounds), options.rounds, learning_rate=options.learning_rate
            )
        ] + ([Proximal(options.step)] if proximal else [])  # fmt: skip
        self.fit(model, options.epochs, callbacks, decay=False)
        freed = min(item.regularizer.negligible for item in tfr.attachment.attachments(model))
        tfr.detach(model)
        return freed

    def fit(self, model, epochs, callbacks, decay=True):
        """Adam, along half a cosine unless a callback sets the learning rate itself; the same batches for all methods."""
        import keras

        import tf_reweight as tfr

        keras.utils.set_random_seed(self.seed + 1)
        rate = self.options.learning_rate
        model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        decays = [tfr.callbacks.CosineDecay(rate)] if decay else []
        batch = self.options.batch_size
        model.fit(*self.data.train, batch_size=batch, epochs=epochs, callbacks=[*decays, *callbacks], verbose=0)

    def copy(self):
        """The dense model once more, without penalties or masks."""
        import keras

        model = keras.models.clone_model(self.dense)
        model.set_weights(self.dense.get_weights())
        return model

    def measure(self, model, structure):
        """Accuracies of a model as it is, and the weights of the kernels that can have the structure."""
        import tf_reweight as tfr
        from tf_reweight.selection import select
        from tf_reweight.workflow.measures import accuracy

        names = {item.target.name for item in select(model, structure)[0]}
        counts = [pair for name, pair in tfr.sparsity(model).items() if name in names]
        return {
            "validation_accuracy": accuracy(model, *self.data.validation),
            "test_accuracy": accuracy(model, *self.data.test),
            "num_nonzero": sum(size - zeros for zeros, size in counts),
            "num_weights": sum(size for _, size in counts),
        }


def rows_of(contest, name):
    """All results of one seed and structure, as they come."""
    structure = STRUCTURES[name]
    yield {"method": "dense", "target": "-", "coefficient": None, **contest.measure(contest.dense, structure)}
    targets = {f"{sparsity:g}": sparsity for sparsity in contest.options.sparsities}
    if "reweighted" in contest.options.methods:
        started = time.monotonic()
        free = contest.run("reweighted", structure, "free", None)
        yield {"method": "reweighted", "target": "free", "seconds": time.monotonic() - started, **free}
        targets = {"free": 1.0 - free["num_nonzero"] / free["num_weights"], **targets}
    for target, sparsity in targets.items():
        for method in contest.options.methods:
            if (method, target) != ("reweighted", "free"):
                started = time.monotonic()
                result = contest.run(method, structure, target, sparsity)
                yield {"method": method, "target": target, "seconds": time.monotonic() - started, **result}


def summary(rows):
    """One row per structure, target and method: mean and spread (standard deviation) over the seeds."""
    import numpy as np

    groups = {}
    for row in rows:
        groups.setdefault((row["structure"], row["target"], row["method"]), []).append(row)
    lines = []
    for (structure, target, method), found in groups.items():
        line = {"structure": structure, "target": target, "method": method, "num_seeds": len(found)}
        for field in ("test_accuracy", "validation_accuracy", "num_nonzero"):
            values = [row[field] for row in found]
            line[field], line[f"{field}_spread"] = float(np.mean(values)), float(np.std(values, ddof=1)) if found[1:] else 0.0
        line["num_weights"] = found[0]["num_weights"]
        lines.append(line)
    return sorted(lines, key=lambda line: (line["structure"], line["target"]))


def formatted(line):
    """A line of the printed table; accuracies are percentages, +- the standard deviation over seeds."""
    nonzero, total = round(line["num_nonzero"]), line["num_weights"]
    spreads = [f"{line[f]:.2%} +- {line[f + '_spread'] * 100:.2f}" for f in ("test_accuracy", "validation_accuracy")]
    values = (
        line["structure"], line["target"], line["method"], f"{nonzero:,} / {total:,}", f"{total / max(1, nonzero):.1f}x",
        *spreads, line["num_seeds"],
    )  # fmt: skip
    return " ".join(f"{value:{form}}" for value, (_, form) in zip(values, _FIELDS))


def parsed(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits", help="digits, or a tensorflow-datasets name")
    parser.add_argument("--data_dir", help="where tensorflow-datasets keeps its data")
    parser.add_argument("--limit", type=int, help="at most this many training examples")
    parser.add_argument("--model", default="small_cnn", help="small_cnn, lenet5, ds_cnn, ...")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--structures", nargs="+", choices=STRUCTURES, default=list(STRUCTURES))
    parser.add_argument("--sparsities", nargs="*", type=float, default=[0.9, 0.95], help="further targets for every method")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dense", type=int, default=15, help="epochs of the dense model")
    parser.add_argument("--epochs", type=int, default=20, help="epochs to find the zeros in")
    parser.add_argument("--retrain", type=int, default=10, help="epochs with the zeros fixed")
    parser.add_argument("--rounds", type=int, default=4, help="reweighting rounds in --epochs")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--epsilon", type=float, default=1e-2)
    parser.add_argument("--strength", nargs="+", type=float, default=[2e-5], help="of reweighting; the first makes 'free'")
    parser.add_argument("--lasso_strength", nargs="+", type=float, default=[1e-4, 1e-3])
    parser.add_argument("--rho", nargs="+", type=float, default=[1e-4, 1e-3], help="of ADMM; raised to 100 times that")
    parser.add_argument("--step", type=float, default=0.05, help="of the proximal solver")
    parser.add_argument("--scope", choices=("model", "layer"), default="model", help="where a given sparsity has to hold")
    parser.add_argument("--output", type=pathlib.Path, help="write every result to this JSON file as it comes")
    return parser.parse_args(arguments)


def main():
    options = parsed()
    rows = []
    settings = {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in vars(options).items()}
    for seed in range(options.seeds):
        contest = Contest(options, seed)
        for structure in options.structures:
            for row in rows_of(contest, structure):
                rows.append({"structure": structure, "seed": seed, **row})
                test, nonzero = row["test_accuracy"], row["num_nonzero"]
                print(f"seed {seed} {structure} {row['target']} {row['method']}: {test:.2%}, {nonzero:,}", file=sys.stderr)
                if options.output:
                    content = {"settings": settings, "summary": summary(rows), "results": rows}
                    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(" ".join(f"{title:{form}}" for title, form in _FIELDS))
    for line in summary(rows):
        print(formatted(line))


if __name__ == "__main__":
    main()
