"""Every architecture of keras.applications: couple, zero 30 % of the removable groups, shrink, compare, and run as .tflite.

Each architecture runs in a process of its own, so that its memory is given back. Weights and BatchNorm statistics are
random, so that nothing hides behind zeros and ones, and outputs are compared before the softmax. An architecture passes when
the small model gives the outputs of the large one, at least a quarter of the parameters are gone, and both files run.

    python benchmarks/zoo.py --export --output zoo.json      # all of them: an hour or two; goes on where it was stopped
    python benchmarks/zoo.py --export --only MobileNetV2 ResNet50
    python benchmarks/zoo.py --export --small                # small nets of other kinds: a few minutes
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import small_nets

# Smallest sensible inputs; those not named take 64.
_SIZES = {"InceptionV3": 96, "InceptionResNetV2": 96, "Xception": 96}
_FRACTION = 0.3
_MOST_LEFT = 0.75
_FIELDS = (
    ("architecture", "<22"), ("groups", ">7"), ("removed", ">8"), ("parameters", ">12"), ("after", ">12"), ("left", ">7"),
    ("MACs", ">14"), ("after ", ">14"), ("left ", ">7"), ("difference", ">11"), ("seconds", ">8"),
)  # fmt: skip


def names(small):
    """All architectures keras.applications offers, or the small nets."""
    if small:
        return [make.__name__ for make in small_nets.NETS]
    import keras

    return sorted(name for name in dir(keras.applications) if name[0].isupper() and callable(getattr(keras.applications, name)))


def build(name):
    """One architecture with random weights and random BatchNorm statistics, ending in logits."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    if hasattr(small_nets, name):
        model = getattr(small_nets, name)()
    else:
        size = _SIZES.get(name, 64)
        model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    for variable in model.weights:
        if variable.name == "gamma":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "bias"):
            variable.assign(rng.normal(size=variable.shape) * 0.2)
    scatter(settle(model, examples(model, num=8, seed=1)), rng)
    return model


def examples(model, num, seed):
    """Random inputs, a list of arrays."""
    import keras

    from tf_reweight.graph import random_inputs

    return random_inputs.inputs(model, keras.tree.flatten(model.input), num, seed)


def settle(model, inputs):
    """Sets the statistics of every BatchNormalization to those of a batch, a list of arrays; returns these layers.

    With others, activations grow from layer to layer; the outputs of the deepest nets then have the rounding of their first
    layers, amplified a million times, and say nothing.
    """
    import keras

    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(keras.tree.pack_sequence_as(model.input, inputs), training=True)
    for layer, momentum in zip(norms, momenta):
        layer.momentum = momentum
    return norms


def scatter(norms, rng):
    """Moves the statistics of BatchNormalizations at random about what they are; gamma keeps the scale."""
    import numpy as np

    for layer in norms:
        mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
        variance = np.maximum(variance, 0.1 * variance.mean())
        factor = rng.uniform(0.5, 1.5, mean.shape)
        layer.moving_mean.assign(mean + rng.normal(size=mean.shape) * 0.2 * np.sqrt(variance))
        layer.moving_variance.assign(variance * factor)
        if layer.scale:
            layer.gamma.assign(np.asarray(layer.gamma) * np.sqrt(factor))


def examine(name, export):
    """One row: what pruning and shrinking did to one architecture.

    Raises:
        ShrinkError: when the shrunk model computes something else.
    """
    import keras

    from tf_reweight import coupling, shrinking
    from tf_reweight.graph.counting import count_macs

    start = time.time()
    model = build(name)
    report = coupling.prune_groups(model, _FRACTION, scope="set")
    inputs = examples(model, num=4, seed=2)
    batch = keras.tree.pack_sequence_as(model.input, [array[:2] for array in inputs])
    small, shrunk = shrinking.shrink(model, inputs=batch, return_report=True)
    row = {
        "architecture": name,
        "groups": report.num_groups,
        "removed_groups": shrunk.removed_groups,
        "parameters_before": shrunk.parameters_before,
        "parameters_after": shrunk.parameters_after,
        "macs_before": count_macs(model),
        "macs_after": count_macs(small),
        "difference": shrunk.difference,
        "in_float64": shrunk.in_float64,
        "frozen": [f"{item.name}: {item.num_channels} channels; {'; '.join(item.reasons[:2])}" for item in shrunk.frozen],
    }
    del model
    if export:
        row |= exported(small, inputs)
    row["seconds"] = round(time.time() - start, 1)
    return row


def exported(model, arrays):
    """Float and int8 .tflite files of a model, both executed: sizes in bytes and errors relative to the outputs' scale."""
    from tf_reweight import export

    row = {}
    with tempfile.TemporaryDirectory() as folder:
        # 4 examples: int8 ranges of random weights need no more, and only the first two are compared. Random weights put no
        # distance between outputs, so int8 is only asked to run; its error is in the table.
        for precision, tolerance in (("float32", None), ("int8", 10.0)):
            path = pathlib.Path(folder) / f"{precision}.tflite"
            record = export.export_tflite(model, path, precision, arrays, [array[:2] for array in arrays], tolerance)
            path.unlink()
            row[f"{precision}_bytes"] = record.num_bytes
            row[f"{precision}_error"] = record.verification.relative_error
            row[f"{precision}_float_ops"] = sorted(set(record.float_ops))
    return row


def failure(row):
    """Why a row did not pass, or None."""
    if "error" in row:
        return row["error"]
    if row["parameters_after"] > _MOST_LEFT * row["parameters_before"]:
        return f"more than {_MOST_LEFT:.0%} of the parameters are left"
    return None


def formatted(row):
    """A row of the printed table."""
    if "error" in row:
        return f"{row['architecture']:<22} failed: {row['error']}"
    values = (
        row["architecture"], row["groups"], row["removed_groups"],
        f"{row['parameters_before']:,}", f"{row['parameters_after']:,}",
        f"{row['parameters_after'] / row['parameters_before']:.1%}", f"{row['macs_before']:,}", f"{row['macs_after']:,}",
        f"{row['macs_after'] / row['macs_before']:.1%}", f"{row['difference']:.1e}", row["seconds"],
    )  # fmt: skip
    text = " ".join(f"{value:{form}}" for value, (_, form) in zip(values, _FIELDS))
    for kind in ("float32", "int8"):
        if f"{kind}_bytes" in row:
            text += f"  {kind}: {row[f'{kind}_bytes']:,} bytes, error {row[f'{kind}_error']:.1e}"
    return text


def run_in_process(name, export):
    """`examine` in a fresh process; a failure is a row with the last line of its error."""
    command = [sys.executable, __file__, "--child", name] + (["--export"] if export else [])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ})
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = done.stderr.strip().splitlines()[-1:] or ["no message"]
    return {"architecture": name, "error": f"exit status {done.returncode}: {last[0]}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these, in this order; default all")
    parser.add_argument("--small", action="store_true", help="small nets of other kinds instead of keras.applications")
    parser.add_argument("--export", action="store_true", help="also convert to float and int8 .tflite and run both")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the rows; those in it that passed are not run again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(examine(options.child, options.export)))
        return
    known = names(options.small)
    unknown = sorted(set(options.only or ()) - set(known))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(known)}")
    print(" ".join(f"{title:{form}}" for title, form in _FIELDS))
    rows = {}
    if options.output and options.output.exists():
        done = json.loads(options.output.read_text(encoding="utf-8"))
        rows = {row["architecture"]: row for row in done if not failure(row) and options.export <= ("int8_bytes" in row)}
    wanted = options.only or known
    for name in wanted:
        if name not in rows:
            rows[name] = run_in_process(name, options.export)
        print(formatted(rows[name]), flush=True)
        if options.output:
            options.output.write_text(json.dumps(list(rows.values()), indent=1) + "\n", encoding="utf-8")
    failed = {name: failure(rows[name]) for name in wanted if failure(rows[name])}
    for name, reason in failed.items():
        print(f"{name}: {reason}")
    print(f"{len(wanted) - len(failed)} of {len(wanted)} passed.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
