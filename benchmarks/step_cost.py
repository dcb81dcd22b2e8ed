"""What a penalty, a mask or a baseline costs relative to plain `fit`: time of a step, time of an update, memory.

All variants of a net are trained in turns in one process, a short `fit` each, in an order drawn anew in every turn, so that
whatever else the machine does hits all alike. The ratio is the median over the turns of a variant's time divided by the plain
time of the same turn; the quartiles say how far to trust it. The processor's time is compared in the same way: on a machine
shared with others it is the steadier of the two.

An update renews all penalty weights of a net with 25 million weights, which a callback does every few epochs. Memory is that of
the same kind of net, in copies of its weights: what a variant keeps (its state), and what the peak of a process that trains for
a few steps rises by over the plain one's; temporaries and the allocator's habits are in the second, and where weights are
ranked (mask, admm, gradual) that of the ranking.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --measure update memory
    python benchmarks/step_cost.py --nets mlp --variants plain penalty mask --turns 40 --output step_cost.json
"""

import argparse
import json
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import time
import warnings

import keras
import numpy as np

import tf_reweight as tfr
from tf_reweight import baselines, coupling
from tf_reweight.graph.counting import count_parameters
from tf_reweight.penalties import proximal

L = keras.layers
MEASURES = ("step", "update", "memory")
UPDATED = ("unstructured", "filter", "column", "kernel", {"name": "block", "shape": [4, 4]}, "n_of_m", "pattern")
# What a penalty costs at least that acts by its gradient: that a ready array is added to the loss's, with nothing computed.
# Keras' own L2 computes it, and its value.
VARIANTS = (
    "plain", "ready gradient", "keras l2", "penalty", "penalty filter", "coupled", "mask", "proximal", "proximal filter",
    "coupled proximal", "admm", "gradual", "budget", "budget by norms", "coupled budget",
)  # fmt: skip
_FIELDS = (
    ("net", "<5"),
    ("variant", "<17"),
    ("ms / step", ">10"),
    ("ratio", ">7"),
    ("quartiles", ">15"),
    ("cpu ratio", ">10"),
    ("quartiles ", ">15"),
)


def conv():
    """Three convolutions and two Dense on 28 x 28 images, batch 64."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            L.Conv2D(32, 3, activation="relu"),
            L.Conv2D(64, 3, strides=2, activation="relu"),
            L.Conv2D(64, 3, strides=2, activation="relu"),
            L.Flatten(),
            L.Dense(128, activation="relu"),
            L.Dense(10),
        ]
    )
    return model, 64


def mlp():
    """784-1024-1024-1024-10, 2.9 million weights, batch 32: nothing but weights, the worst case for what acts on them."""
    hidden = [L.Dense(1024, activation="relu") for _ in range(3)]
    return keras.Sequential([keras.Input((28, 28, 1)), L.Flatten(), *hidden, L.Dense(10)]), 32


NETS = {"conv": conv, "mlp": mlp}


def large():
    """Eleven convolutions of 512 filters, 26 million weights, on images so small that weights are all that matters."""
    layers = [L.Conv2D(512, 3, padding="same", activation="relu") for _ in range(11)]
    return keras.Sequential([keras.Input((4, 4, 512)), *layers, L.GlobalAveragePooling2D(), L.Dense(10)])


class Contender:
    """One variant of one net, compiled and warm, that can be trained for a number of steps.

    Args:
        net: name of the net.
        variant: name of the variant.
        steps: steps in each turn.
    """

    def __init__(self, net, variant, steps):
        keras.utils.set_random_seed(0)
        self.model, batch = NETS[net]()
        self.net, self.variant, self.steps = net, variant, steps
        self.seconds, self.cpu_seconds = [], []
        rng = np.random.default_rng(0)
        x = rng.random((steps * batch, *self.model.input_shape[1:])).astype("float32")
        self.arguments = {"x": x, "y": rng.integers(0, 10, len(x)), "batch_size": batch, "shuffle": False, "verbose": 0}
        self.clock = Clock()
        # Those that work by a callback make the step anew when a fit begins: that falls into its first epoch, untimed.
        self.callbacks = [*prepared(self.model, variant), self.clock]
        self.model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def turn(self):
        """Trains for two epochs; keeps the seconds per step, of the clock and of the processor, of the second.

        More are planned, so that the deadline of a budget is not reached: until then it costs most.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Training ended before the deadline")
            self.model.fit(**self.arguments, epochs=4, callbacks=self.callbacks)
        for kept, first, last in zip((self.seconds, self.cpu_seconds), self.clock.first, self.clock.last):
            kept.append((last - first) / (self.clock.batches - 1))


class Ready(keras.regularizers.Regularizer):
    """A value of zero with a gradient that was there before.

    Args:
        gradient: a variable of the kernel's shape.
    """

    def __init__(self, gradient):
        self.gradient = gradient

    def __call__(self, kernel):
        @keras.ops.custom_gradient
        def known(kernel, gradient):
            return keras.ops.zeros(()), lambda *arguments, upstream=None: (gradient, None)

        return known(*(keras.ops.convert_to_tensor(array) for array in (kernel, self.gradient)))


class Clock(keras.callbacks.Callback):
    """Notes when the first and the last batch of the latest epoch ended; after the second one training ends."""

    def on_epoch_begin(self, epoch, logs=None):
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.last, self.batches = (time.perf_counter(), time.process_time()), self.batches + 1
        if self.batches == 1:
            self.first = self.last

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def prepared(model, variant):
    """Puts a variant on a model and returns the callbacks it needs."""
    if variant == "mask":
        tfr.prune(model, sparsity=0.9, structure="unstructured")
    elif variant == "keras l2":
        for target in tfr.kernels.table.find(model)[0]:
            target.variable.regularizer = keras.regularizers.L2(1e-6)
    elif variant == "ready gradient":
        for target in tfr.kernels.table.find(model)[0]:
            gradient = keras.Variable(1e-6 * keras.ops.sign(target.variable), trainable=False)
            target.variable.regularizer = Ready(gradient)
    elif "budget" in variant:
        if variant.startswith("coupled"):
            tfr.regularize_coupled(model, budget="macs=0.5")
        else:
            tfr.regularize(model, "unstructured", budget="sparsity=0.9")
        return [tfr.callbacks.BudgetProximal(until=0.99, criterion="lamp" if variant.endswith("norms") else "taylor")]
    elif variant.startswith("coupled"):
        tfr.regularize_coupled(model, 1e-6)
        return [coupling.CoupledProximal()] if variant == "coupled proximal" else []
    elif variant.startswith(("penalty", "proximal")):
        tfr.regularize(model, "filter" if variant.endswith("filter") else "unstructured", 1e-6)
        return [proximal.Proximal()] if variant.startswith("proximal") else []
    elif variant == "admm":
        baselines.ADMM("unstructured", 0.9).attach(model)
    elif variant == "gradual":
        return [baselines.GradualMagnitude(baselines.ConstantSparsity(0.9, 0))]
    return []


def measure(net, variants, turns, steps):
    """Rows of one net: milliseconds a step, and the ratio to plain with its quartiles."""
    contenders = [Contender(net, variant, steps) for variant in variants]
    for contender in contenders:
        contender.turn()
        contender.seconds.clear()
        contender.cpu_seconds.clear()
    order = list(contenders)
    for turn in range(turns):
        random.Random(turn).shuffle(order)
        for contender in order:
            contender.turn()
    plain, rows = contenders[0], []
    for contender in contenders:
        ratio, quartiles = compared(contender.seconds, plain.seconds)
        cpu_ratio, cpu_quartiles = compared(contender.cpu_seconds, plain.cpu_seconds)
        rows.append(
            {
                "net": net,
                "variant": contender.variant,
                "num_weights": count_parameters(contender.model),
                "batch_size": contender.arguments["batch_size"],
                "milliseconds": 1000 * statistics.median(contender.seconds),
                "ratio": ratio,
                "quartiles": quartiles,
                "cpu_ratio": cpu_ratio,
                "cpu_quartiles": cpu_quartiles,
                "turns": turns,
                "steps": steps,
            }
        )
    return rows


def compared(seconds, plain):
    """Median of the ratios turn by turn, and their quartiles."""
    low, middle, high = statistics.quantiles([one / other for one, other in zip(seconds, plain)], n=4)
    return middle, [low, high]


def formatted(row):
    """A row of the printed table."""
    wall, cpu = ("{:.3f} - {:.3f}".format(*row[field]) for field in ("quartiles", "cpu_quartiles"))
    ratio, cpu_ratio = f"{row['ratio']:.3f}", f"{row['cpu_ratio']:.3f}"
    values = (row["net"], row["variant"], f"{row['milliseconds']:.2f}", ratio, wall, cpu_ratio, cpu)
    return " ".join(f"{value:{form}}" for value, (_, form) in zip(values, _FIELDS))


def updates(turns):
    """Rows: seconds of one update of all penalty weights of the large net, for each structure."""
    for structure in UPDATED:
        model = large()
        tfr.regularize(model, structure, 1e-6)
        callback, seconds = tfr.callbacks.Reweighting(), []
        callback.set_model(model)
        for turn in range(turns + 1):
            started, cpu_started = time.perf_counter(), time.process_time()
            callback.update(turn)
            seconds.append((time.perf_counter() - started, time.process_time() - cpu_started))
        wall, cpu = (statistics.median(column) for column in zip(*seconds[1:]))
        name = tfr.structures.get(structure).name
        yield {"structure": name, "num_weights": count_parameters(model), "seconds": wall, "cpu_seconds": cpu}


def memory(variants):
    """Rows: state and rise of the peak of each variant on the large net, in copies of its prunable weights."""
    plain = None
    for variant in variants:
        command = [sys.executable, __file__, "--child", variant]
        child = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(child.stdout.splitlines()[-1])
        plain = row["peak_bytes"] if plain is None else plain
        row["state_copies"] = row["state_bytes"] / row["kernel_bytes"]
        row["peak_copies"] = (row["peak_bytes"] - plain) / row["kernel_bytes"]
        yield row


def peak(variant):
    """Trains a variant of the large net for a few steps, and says what memory it took."""
    model = large()
    num_bytes = sum(int(np.prod(t.layout.shape)) * 4 for t in tfr.kernels.table.find(model)[0])
    callbacks = prepared(model, variant)
    state = sum(int(np.prod(w.shape)) * 4 for part in model._flatten_layers() if _is_penalty(part) for w in part.weights)
    masks = [v.constraint.mask for v in model.trainable_variables if isinstance(v.constraint, tfr.kernels.constraints.Mask)]
    state += sum(int(np.prod(mask.shape)) for mask in masks)  # bool
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).random((16, 4, 4, 512)).astype("float32")
    model.fit(x, np.zeros(16, "int32"), batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"variant": variant, "kernel_bytes": num_bytes, "state_bytes": state, "peak_bytes": peak_bytes}


def _is_penalty(part):
    return isinstance(part, keras.regularizers.Regularizer)


def steps_measured(options):
    """Rows of every net, printed as they come."""
    variants = ["plain", *[variant for variant in options.variants if variant != "plain"]]
    print(" ".join(f"{title:{form}}" for title, form in _FIELDS))
    for net in options.nets:
        for row in measure(net, variants, options.turns, options.steps):
            print(formatted(row), flush=True)
            yield row


def updates_measured(options):
    """Rows of every structure, printed as they come."""
    print(f"{'update of':<15} {'weights':>12} {'seconds':>8} {'cpu':>8}")
    for row in updates(max(3, options.turns // 4)):
        print(f"{row['structure']:<15} {row['num_weights']:>12,} {row['seconds']:>8.3f} {row['cpu_seconds']:>8.3f}", flush=True)
        yield row


def memory_measured(options):
    """Rows of every variant, printed as they come."""
    print(f"{'memory of':<15} {'state MB':>9} {'copies':>7} {'peak MB':>9} {'copies':>7}")
    for row in memory(["plain", *[variant for variant in options.variants if variant != "plain"]]):
        state, peak_mb = row["state_bytes"] / 1e6, row["peak_bytes"] / 1e6
        copies = f"{row['state_copies']:>7.2f} {peak_mb:>9.0f} {row['peak_copies']:>7.2f}"
        print(f"{row['variant']:<15} {state:>9.1f} {copies}", flush=True)
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="plain is always among them")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30, help="steps of each fit's timed epoch")
    parser.add_argument("--output", type=pathlib.Path, help="write the rows to this JSON file")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(peak(options.child)))
        return
    if options.turns < 2 or options.steps < 2:
        parser.error("--turns and --steps must be at least 2")
    rows = {}
    for name, measured in zip(MEASURES, (steps_measured, updates_measured, memory_measured)):
        if name not in options.measure:
            continue
        rows[name] = []
        for row in measured(options):
            rows[name].append(row)
            if options.output:
                options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
