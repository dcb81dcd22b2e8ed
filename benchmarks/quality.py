"""Accuracy of reweighting and its baselines at the same numbers of nonzero weights and equal total epochs.

Each seed trains one dense model, from which every method starts. A method gets `--epochs` epochs to find its zeros and
`--retrain` epochs with the zeros fixed; one-shot pruning gets both for retraining. Reweighting goes first and removes what it
freed; the baselines are then pruned to as many weights (target "free", which `--no_free` leaves out), and all of them to each
of `--sparsities`. `budget` is told the sparsity and no strength, and is left out of structures that decide themselves. Where a
method has several coefficients to try (`--strength`, `--lasso_strength`, `--rho`), or there are several `--epochs` to find the
zeros in, or several criteria (`--criterion`) by which all methods but `budget` rank the groups, or where `budget` runs more
than once (`--orders`), validation chooses, for each seed and target; the target "free" takes the first of these. Whatever is
chosen, all have the same epochs together. Strengths are of all groups together, so that one suits every structure: each group's
is that divided by their number. Test accuracy is that of the last epoch. Weights are counted in the kernels that can have the
structure. A pattern says itself how much is kept: all methods have one target there, "own".

What depends on the seed alone (the dense model) or not on the target (training with a penalty) is done once. With `--output`
the same command goes on where it was cut off; with `--cache` several commands share the dense models.

    python benchmarks/quality.py                                                # digits, all structures, 3 seeds
    python benchmarks/quality.py --structures unstructured --seeds 2 --output quality.json
    python benchmarks/quality.py --dataset mnist --model lenet5 --data_dir data --epochs 25 --retrain 10 --strength 8
    python benchmarks/quality.py --dataset fashion_mnist --model bn_cnn --data_dir data --limit 10000 --epochs 8 4 --retrain 4
    python benchmarks/quality.py --structures unstructured --methods reweighted budget --sparsities 0.9 --no_free
"""

import argparse
import itertools
import json
import pathlib
import sys
import time

from tf_reweight.kernels.grouping import CRITERIA, LAMP
from tf_reweight.penalties.prices import PRICES

METHODS = ("reweighted", "budget", "proximal", "admm", "gradual", "lasso", "one_shot")
STRUCTURES = {
    "unstructured": "unstructured",
    "kernel": "kernel",
    "column": "column",
    "block": {"name": "block", "shape": [4, 4]},
    "pattern": {"name": "pattern", "positions": "natural", "entries": 4, "num_patterns": 8},
    "circles": {"name": "pattern", "positions": "circles"},
}
# Options that do not change any single result.
_FREE_OPTIONS = ("methods", "structures", "sparsities", "no_free", "seeds", "output", "cache")
_FIELDS = (
    ("structure", "<13"), ("target", "<7"), ("method", "<11"), ("nonzero / all", ">18"), ("rate", ">7"), ("test", ">16"),
    ("validation", ">16"), ("seeds", ">6"),
)  # fmt: skip


class Comparison:
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
        self.dense = tfr.data.models.build(options.model, self.data.input_shape, self.data.num_classes)
        self._penalised = {}
        file = None if options.cache is None else options.cache / self._dense_name()
        if file is not None and file.exists():
            self.dense.load_weights(file)
            return
        self.fit(self.dense, options.dense, [])
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.dense.save_weights(file)

    def _dense_name(self):
        options = self.options
        parts = (options.dataset, options.limit, options.model, options.dense, options.batch_size, options.learning_rate)
        return "-".join(map(str, (*parts, self.seed))) + ".weights.h5"

    def structure(self, name):
        """The structure as the dense model's kernels have it: natural patterns are counted there, for all methods alike."""
        from tf_reweight.kernels.selection import select

        return select(self.dense, STRUCTURES[name])[0][0].structure

    def num_groups(self, structure, layers=None):
        """Groups of all kernels that can have the structure; for patterns, whole 2-D kernels."""
        from tf_reweight.kernels.selection import select

        shapes = [item.structure.group_shape(item.target.standard_shape) for item in select(self.dense, structure, layers)[0]]
        return sum(scopes if structure.decides else scopes * groups for scopes, groups in shapes)

    def pressed(self, structure):
        """What a penalty presses, and which kernels: those of the structure, for a pattern on wish each of their weights."""
        import tf_reweight as tfr
        from tf_reweight.kernels.selection import select

        if not structure.decides or self.options.pressed == "distance":
            return structure, None
        names = {item.target.name for item in select(self.dense, structure)[0]}
        return tfr.structures.get("unstructured"), lambda target: target.name in names

    def run(self, method, structure, target, sparsity):
        """One method at one target: the result that validation likes best of what it can try."""
        results = [self._once(method, structure, sparsity, *tried) for tried in self._tries(method, target)]
        return max(results, key=lambda result: result["validation_accuracy"])

    def _tries(self, method, target):
        """Triples of a coefficient, the epochs to find the zeros in, and what groups are ranked by.

        A budget has no coefficient: its runs are told apart by the order of their batches.
        """
        options = self.options
        coefficients = {"reweighted": options.strength, "proximal": options.strength, "lasso": options.lasso_strength}
        coefficients["admm"] = options.rho
        if method == "budget":
            return [(order, options.epochs[0], None) for order in range(options.orders)]
        # A structure that decides itself ranks nothing.
        criteria = options.criterion[:1] if target == "own" else options.criterion
        if method not in coefficients:
            return [(None, options.epochs[0], criterion) for criterion in criteria]
        tries = list(itertools.product(coefficients[method], options.epochs, criteria))
        return tries[:1] if target == "free" and method in ("reweighted", "proximal") else tries

    def _once(self, method, structure, sparsity, coefficient, epochs, criterion):
        import tf_reweight as tfr
        from tf_reweight import baselines

        options, model = self.options, self.copy()
        order = coefficient if method == "budget" else 0
        retrain = options.epochs[0] + options.retrain - epochs
        amount = {} if structure.decides else {"sparsity": sparsity, "scope": options.scope, "criterion": criterion}
        if method in ("reweighted", "proximal", "lasso"):
            weights, freed = self.penalised(method, structure, coefficient, epochs)
            model.set_weights(weights)
            amount = {"threshold": freed} if sparsity is None and not structure.decides else amount
        elif method == "admm":
            rho = (coefficient, 100 * coefficient)
            self.fit(model, epochs, [baselines.ADMM(structure, sparsity, rho, scope=options.scope, criterion=criterion)])
        elif method == "budget":
            # No coefficient. The learning rate stays until the zeros are fixed, as in `compress`. That of other penalties falls
            # along a cosine in each round; on one seed that was no better here.
            tfr.regularize(model, structure, budget={"sparsity": sparsity})
            self.fit(model, epochs, [tfr.callbacks.BudgetProximal(until=options.until)], decay=False, order=order)
            amount = {}
        elif method == "gradual":
            final = tfr.prune(self.copy(), structure=structure).sparsity if structure.decides else sparsity
            steps = -(-len(self.data.train[1]) // options.batch_size) * epochs
            schedule = baselines.PolynomialDecay(0.0, final, 0, steps, frequency=max(1, steps // 40))
            gradual = baselines.GradualMagnitude(schedule, structure, scope=options.scope, criterion=criterion)
            self.fit(model, epochs + retrain, [gradual])
            return {**self.measure(model, structure), "coefficient": None, "epochs": epochs, "criterion": criterion}
        else:
            retrain += epochs
        tfr.prune(model, **({} if method == "budget" else {"structure": structure}), **amount)
        self.fit(model, retrain, [], order=order)
        return {**self.measure(model, structure), "coefficient": coefficient, "epochs": epochs, "criterion": criterion}

    def penalised(self, method, structure, coefficient, epochs):
        """Weights after training with a penalty, the same for every target, and the norm at which groups count as freed."""
        key = (method, structure, coefficient, epochs)
        if key not in self._penalised:
            model = self.copy()
            freed = self.penalise(model, method, structure, coefficient, epochs)
            self._penalised[key] = (model.get_weights(), freed)
        return self._penalised[key]

    def penalise(self, model, method, structure, coefficient, epochs):
        """Trains with a penalty in rounds, takes it off, and returns the norm at which groups count as freed."""
        import tf_reweight as tfr
        from tf_reweight.penalties.proximal import Proximal

        options = self.options
        if method == "lasso":
            strength, penalty, epsilons = coefficient, "lasso", None
        else:
            strength, epsilon = coefficient
            epsilons = options.epsilon if epsilon is None else [epsilon]
            penalty = {"name": "log_sum", "epsilon": epsilons[-1]}
        annealed = tuple(epsilons) if epsilons and epsilons[1:] else None
        pressed, layers = self.pressed(structure)
        tfr.regularize(model, pressed, strength / self.num_groups(pressed, layers), penalty, layers=layers, price=options.price)
        every = max(1, epochs // options.rounds)
        callbacks = [tfr.callbacks.Reweighting(every, options.rounds, 0, annealed, options.learning_rate)]
        callbacks += [Proximal(options.step)] if method == "proximal" else []
        self.fit(model, epochs, callbacks, decay=False)
        freed = min(item.regularizer.negligible for item in tfr.penalties.attachment.attachments(model))
        tfr.detach(model)
        return freed

    def fit(self, model, epochs, callbacks, decay=True, order=0):
        """Adam, along half a cosine unless a callback sets the learning rate itself; the same batches for one `order`."""
        import keras

        import tf_reweight as tfr

        keras.utils.set_random_seed(self.seed + 1 + 1000 * order)
        rate = self.options.learning_rate
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss)
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
        from tf_reweight.kernels.selection import select
        from tf_reweight.workflow.measures import accuracy

        names = {item.target.name for item in select(model, structure)[0]}
        counts = [pair for name, pair in tfr.sparsity(model).items() if name in names]
        return {
            "validation_accuracy": accuracy(model, *self.data.validation),
            "test_accuracy": accuracy(model, *self.data.test),
            "num_nonzero": sum(size - zeros for zeros, size in counts),
            "num_weights": sum(size for _, size in counts),
        }


def rows_of(comparison, name, done):
    """All results of one seed and structure, as they come.

    Args:
        comparison: the seed's `Comparison`.
        name: name of the structure.
        done: results there are already, by target and method.
    """
    structure = comparison.structure(name)

    def row(method, target, sparsity):
        if (target, method) in done:
            return done[target, method]
        started = time.monotonic()
        result = comparison.run(method, structure, target, sparsity)
        return {"method": method, "target": target, "seconds": time.monotonic() - started, **result}

    dense = {"method": "dense", "target": "-", "coefficient": None, "epochs": None, "criterion": None}
    yield {**dense, **comparison.measure(comparison.dense, structure)}
    targets = {f"{sparsity:g}": sparsity for sparsity in comparison.options.sparsities}
    if structure.decides:
        targets = {"own": None}
    elif "reweighted" in comparison.options.methods and not comparison.options.no_free:
        free = row("reweighted", "free", None)
        yield free
        targets = {"free": 1.0 - free["num_nonzero"] / free["num_weights"], **targets}
    for target, sparsity in targets.items():
        for method in comparison.options.methods:
            if (method, target) != ("reweighted", "free") and not (method == "budget" and structure.decides):
                yield row(method, target, sparsity)


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


def strength_and_epsilon(text):
    """`"30:0.3"` as `(30.0, 0.3)`, `"30"` as `(30.0, None)`."""
    strength, colon, epsilon = text.partition(":")
    try:
        pair = float(strength), float(epsilon) if colon else None
    except ValueError:
        pair = None
    if pair is None or (colon and not pair[1] > 0):
        raise argparse.ArgumentTypeError(f"expected 30, or 30:0.3 with an epsilon > 0. Received: {text}.")
    return pair


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
    parser.add_argument("--no_free", action="store_true", help="only these targets, not also what reweighting frees by itself")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dense", type=int, default=15, help="epochs of the dense model")
    parser.add_argument("--epochs", type=int, nargs="+", default=[20], help="epochs to find the zeros in; validation chooses")
    parser.add_argument("--retrain", type=int, default=10, help="epochs with the zeros fixed, after the first of --epochs")
    parser.add_argument("--rounds", type=int, default=4, help="reweighting rounds in --epochs")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1e-2], help="of reweighting; two: first and last round")
    parser.add_argument(
        "--strength", nargs="+", type=strength_and_epsilon, default=[(4.0, None)],
        help="of all groups together; the first is 'free'; 30:0.3 is a strength of 30 with an epsilon of 0.3",
    )  # fmt: skip
    parser.add_argument("--lasso_strength", nargs="+", type=float, default=[4.0, 40.0], help="of all groups together")
    parser.add_argument("--rho", nargs="+", type=float, default=[1e-4, 1e-3], help="of ADMM; raised to 100 times that")
    parser.add_argument("--step", type=float, default=0.05, help="of the proximal solver")
    parser.add_argument("--until", type=float, default=0.9, help="deadline of `budget`, as a fraction of --epochs")
    parser.add_argument(
        "--orders", type=int, default=1,
        help="runs of `budget` with other orders of the batches, of which validation chooses; all other methods have one order",
    )  # fmt: skip
    parser.add_argument("--price", choices=PRICES, default="size", help="of a group, for all penalties")
    parser.add_argument(
        "--pressed", choices=("distance", "weights"), default="distance",
        help="what penalties press of a pattern's kernels: the distance to the nearest pattern, or every weight",
    )  # fmt: skip
    parser.add_argument(
        "--criterion", nargs="+", choices=CRITERIA, default=[LAMP],
        help="what groups are ranked by, by all methods but `budget`; of several, validation chooses",
    )  # fmt: skip
    parser.add_argument("--scope", choices=("model", "layer"), default="model", help="where a given sparsity has to hold")
    parser.add_argument("--output", type=pathlib.Path, help="every result goes to this JSON file as it comes; goes on from it")
    parser.add_argument("--cache", type=pathlib.Path, help="folder in which dense models are kept and found")
    options = parser.parse_args(arguments)
    longest = options.epochs[0] + options.retrain
    if not all(2 <= epochs <= longest for epochs in options.epochs):
        parser.error(f"--epochs must be within 2..{longest}, the first of them and --retrain. Received: {options.epochs}.")
    if len(options.epsilon) > 2:
        parser.error(f"--epsilon takes one number, or that of the first and of the last round. Received: {options.epsilon}.")
    return options


def earlier(options, settings):
    """The results of an output file written under the same settings; none when there is no such file."""
    if options.output is None or not options.output.exists():
        return []
    content = json.loads(options.output.read_text(encoding="utf-8"))
    fixed = [name for name in settings if name not in _FREE_OPTIONS]
    differing = [name for name in fixed if content["settings"].get(name) != settings[name]]
    if differing:
        raise SystemExit(f"{options.output} was written with other values of {differing}; choose another --output.")
    return content["results"]


def main():
    options = parsed()
    settings = {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in vars(options).items()}
    settings = json.loads(json.dumps(settings))
    rows, wanted = [], [(seed, structure) for seed in range(options.seeds) for structure in options.structures]
    before = earlier(options, settings)
    others = [row for row in before if (row["seed"], row["structure"]) not in wanted]
    comparisons = {}
    for seed, structure in wanted:
        if seed not in comparisons:
            comparisons = {seed: Comparison(options, seed)}
        done = {(row["target"], row["method"]): row for row in before if (row["seed"], row["structure"]) == (seed, structure)}
        for row in rows_of(comparisons[seed], structure, done):
            rows.append({**row, "structure": structure, "seed": seed})
            test, nonzero = row["test_accuracy"], row["num_nonzero"]
            print(f"seed {seed} {structure} {row['target']} {row['method']}: {test:.2%}, {nonzero:,}", file=sys.stderr)
            if options.output:
                kept = [row for row in before if _key(row) not in {_key(other) for other in rows}]
                content = {"settings": settings, "summary": summary(kept + rows), "results": kept + rows}
                options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(" ".join(f"{title:{form}}" for title, form in _FIELDS))
    for line in summary(others + rows):
        print(formatted(line))


def _key(row):
    return (row["seed"], row["structure"], row["target"], row["method"])


if __name__ == "__main__":
    main()
