"""How time and memory of each function grow with a model: with its width, with its depth, with what it stores.

Each case is a process of its own with a time cap: it makes a model, calls one function on it, and says how long the call took,
by the processor's clock, and by how much the peak of the process rose meanwhile. The slope is that of time over size between
neighbouring sizes, both as logarithms: 1 is linear. Size is the number of weights where a net becomes wider, and the number of
convolutions where it becomes deeper. A call of less than 0.2 s has no slope: it is all overhead.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --functions shrink prune --nets dense --output scaling.json
    python benchmarks/scaling.py --nets chain residual --sizes 50 800 --cap 120
"""

import argparse
import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import warnings

import keras
import numpy as np

# Width of both hidden layers; 0.1 to 52 million weights.
WIDTHS = (256, 512, 1024, 2048, 4096, 7168)
DEPTHS = (50, 100, 200, 400, 800)
# Below so many seconds the time is that of starting up, and no slope is said.
_SHORTEST = 0.2
_CHANNELS = 8


def dense(width):
    """Two hidden Dense layers, with biases."""
    hidden = [keras.layers.Dense(width, activation="relu", name=f"hidden_{i}") for i in range(2)]
    return keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10, name="head")])


def chain(depth):
    """Convolutions one behind another, each with BatchNormalization and ReLU; a block is three layers."""
    return _of_blocks(depth, lambda x, number: _block(x, number))


def residual(depth):
    """The same with an addition around each block."""
    return _of_blocks(depth, lambda x, number: keras.layers.Add(name=f"add_{number}")([x, _block(x, number)]))


def concatenated(depth):
    """Blocks of two branches that are concatenated, each reading all of the one before."""
    def block(x, number):
        branches = [_block(x, f"{number}_{side}", _CHANNELS // 2) for side in "ab"]
        return keras.layers.Concatenate(name=f"join_{number}")(branches)

    return _of_blocks(depth, block, layers=2)


def nested(depth):
    """Models inside models, each with a block and the next one."""
    inner = None
    for number in range(depth):
        inputs = keras.Input((8, 8, _CHANNELS))
        x = _block(inputs, number)
        inner = keras.Model(inputs, x if inner is None else inner(x), name=f"level_{number}")
    inputs = keras.Input((8, 8, 3))
    x = inner(keras.layers.Conv2D(_CHANNELS, 3, padding="same", name="stem")(inputs))
    return keras.Model(inputs, _head(x))


def _of_blocks(depth, block, layers=1):
    """A net of so many convolutions, `layers` of them in each block."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(_CHANNELS, 3, padding="same", name="stem")(inputs)
    for number in range(depth // layers):
        x = block(x, number)
    return keras.Model(inputs, _head(x))


def _block(x, number, channels=_CHANNELS):
    # Small weights: what goes around a block by an addition must not grow beyond the range of floats in 800 of them.
    small = keras.initializers.VarianceScaling(1e-4)
    convolution = keras.layers.Conv2D(
        channels, 3, padding="same", use_bias=False, kernel_initializer=small, name=f"conv_{number}"
    )  # fmt: skip
    norm = keras.layers.BatchNormalization(beta_initializer="ones", name=f"norm_{number}")
    return keras.layers.ReLU(name=f"relu_{number}")(norm(convolution(x)))


def _head(x):
    return keras.layers.Dense(10, name="head")(keras.layers.GlobalAveragePooling2D(name="pool")(x))


NETS = {"dense": dense, "chain": chain, "residual": residual, "concatenated": concatenated, "nested": nested}
SIZES = {"dense": WIDTHS, "chain": DEPTHS, "residual": DEPTHS, "concatenated": DEPTHS, "nested": (10, 20, 40, 80)}


class Case:
    """What the functions are called on.

    Args:
        model: the model.
        folder: for files.
    """

    def __init__(self, model, folder):
        self.model, self.folder = model, pathlib.Path(folder)

    def examples(self, count=8):
        """`(x, y)`: random inputs and classes."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(count, *self.model.input_shape[1:])).astype("float32")
        return x, rng.integers(0, 10, count)

    def half_dead(self):
        """Zeroes every other channel, but no bias: where a Dense layer has one, dead channels leave constants."""
        for variable in self.model.trainable_variables:
            if variable.path.startswith("head"):
                continue
            values = np.array(variable)
            if variable.name == "bias":
                values[:] = np.linspace(0.1, 1.0, len(values))
            else:
                values[..., ::2] = 0.0
            variable.assign(values)

    def fit(self):
        """Two training steps, traced and run."""
        self.model.compile("sgd", _loss())
        x, y = self.examples()
        self.model.fit(x, y, batch_size=4, epochs=1, verbose=0)


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def functions():
    """Mapping of name to `(prepare, call)`, both functions of a `Case`; only the second is measured."""
    import tf_reweight as tfr
    from tf_reweight.coupling.floors import has_bypass
    from tf_reweight.graph.comparing import compare
    from tf_reweight.packing.pack import pack
    from tf_reweight.quantization import cluster

    def nothing(case):
        pass

    def exported(case):
        case.half_dead()
        tfr.export_tflite(case.model, case.folder / "model.tflite", accelerated=False)

    def bypasses(case):
        coupled = tfr.groups(case.model)
        for item in coupled.sets:
            has_bypass(coupled, [item])

    return {
        "fit": (nothing, Case.fit),
        "groups": (nothing, lambda case: tfr.groups(case.model)),
        "regularize": (nothing, lambda case: tfr.regularize(case.model, "unstructured", 1e-5)),
        "fit with penalty": (lambda case: tfr.regularize(case.model, "unstructured", 1e-5), Case.fit),
        "regularize_coupled": (nothing, lambda case: tfr.regularize_coupled(case.model, 1e-4)),
        "attach": (lambda case: tfr.regularize_coupled(case.model, 1e-4), lambda case: tfr.attach(case.model)),
        "fit with coupled": (lambda case: tfr.regularize_coupled(case.model, 1e-4), Case.fit),
        "has_bypass": (nothing, bypasses),
        "prune": (nothing, lambda case: tfr.prune(case.model, "unstructured", sparsity=0.8)),
        "prune filters": (nothing, lambda case: tfr.prune(case.model, "filter", sparsity=0.5)),
        "prune_groups": (nothing, lambda case: tfr.prune_groups(case.model, sparsity=0.5)),
        "shrink": (Case.half_dead, lambda case: tfr.shrink(case.model)),
        "strip": (lambda case: tfr.prune(case.model, "unstructured", sparsity=0.8), lambda case: tfr.strip(case.model)),
        "quantize": (nothing, lambda case: tfr.quantize(case.model)),
        "cluster": (nothing, lambda case: cluster(case.model, 16)),
        "compare": (nothing, lambda case: compare(case.model, case.model, [case.examples()[0]])),
        "export float32": (
            nothing, lambda case: tfr.export_tflite(case.model, case.folder / "model.tflite", accelerated=False),
        ),
        "export int8": (
            nothing,
            lambda case: tfr.export_tflite(
                case.model, case.folder / "model.tflite", "int8", representative_data=case.examples()[0], accelerated=False
            ),
        ),
        "pack": (exported, lambda case: pack((case.folder / "model.tflite").read_bytes())),
    }  # fmt: skip


NAMES = (
    "fit", "groups", "regularize", "fit with penalty", "regularize_coupled", "attach", "fit with coupled", "has_bypass",
    "prune", "prune filters", "prune_groups", "shrink", "strip", "quantize", "cluster", "compare", "export float32",
    "export int8", "pack",
)  # fmt: skip


def measured(net, function, size, folder):
    """One case, in this process: `{"seconds", "bytes", "weights"}`."""
    # Keras itself follows a graph by recursion: without this, no model of that depth can be made.
    sys.setrecursionlimit(20_000)
    keras.utils.set_random_seed(0)
    prepare, call = functions()[function]
    case = Case(NETS[net](size), folder)
    weights = int(sum(math.prod(weight.shape) for weight in case.model.trainable_weights))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights: that nothing was freed or learned is no news here
        prepare(case)
        before, started, wall = _peak(), time.process_time(), time.perf_counter()
        call(case)
        seconds, after = time.process_time() - started, _peak()
    # The processor's time is compared: on a machine shared with others it is the steadier of the two.
    return {"seconds": seconds, "wall_seconds": time.perf_counter() - wall, "bytes": after - before, "weights": weights}


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(net, function, size, cap):
    """One case in a process of its own; `seconds` is None where it did not end in time, with the reason in `failed`."""
    command = [sys.executable, __file__, "--child", net, function, str(size)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=cap, env=os.environ)
        except subprocess.TimeoutExpired:
            return {"net": net, "function": function, "size": size, "seconds": None, "failed": f"over {cap:g} s"}
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"net": net, "function": function, "size": size, "seconds": None, "failed": said[:160]}
    return {"net": net, "function": function, "size": size, **json.loads(done.stdout.splitlines()[-1])}


def slope_of(row, smaller, deeper):
    """How time grows from a smaller size to this: the exponent; None where there is none or it says nothing."""
    if smaller is None or None in (row["seconds"], smaller["seconds"]) or smaller["seconds"] < _SHORTEST:
        return None
    name = "size" if deeper else "weights"
    return math.log(row["seconds"] / smaller["seconds"]) / math.log(row[name] / smaller[name])


def said(row):
    """A row of the printed table."""
    head = f"{row['net']:<13} {row['function']:<19} {row['size']:>6}"
    if row["seconds"] is None:
        return f"{head} {row['failed']}"
    slope = "" if row["slope"] is None else f"{row['slope']:.2f}"
    return f"{head} {row['weights']:>12,} {row['seconds']:>9.2f} {row['bytes'] / 1e6:>9.0f} {slope:>6}"


def rows_of(options):
    """Every case, printed as it comes."""
    print(f"{'net':<13} {'function':<19} {'size':>6} {'weights':>12} {'seconds':>9} {'MB more':>9} {'slope':>6}", flush=True)
    for net in options.nets:
        for function in options.functions:
            smaller = None
            for size in options.sizes or SIZES[net]:
                row = run(net, function, size, options.cap)
                row["slope"] = slope_of(row, smaller, deeper=net != "dense")
                smaller = row
                print(said(row), flush=True)
                yield row
                if row["seconds"] is None:
                    break  # larger ones take longer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--functions", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--sizes", nargs="+", type=int, help="widths or depths; by default those of each net")
    parser.add_argument("--cap", type=float, default=300.0, help="seconds that a case may take, start included")
    parser.add_argument("--output", type=pathlib.Path, help="write the rows to this JSON file")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        net, function, size, folder = options.child
        print(json.dumps(measured(net, function, int(size), folder)))
        return
    rows = []
    for row in rows_of(options):
        rows.append(row)
        if options.output:
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
