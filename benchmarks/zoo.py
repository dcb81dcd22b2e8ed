"""Every architecture of keras.applications: couple, zero 30 % of the removable groups, shrink, compare, and run as .tflite.

Each architecture runs in a process of its own, so that its memory is given back. Weights and BatchNorm statistics are
random, so that nothing hides behind zeros and ones, and outputs are compared before the softmax.

    python benchmarks/zoo.py                       # all of them, slowly
    python benchmarks/zoo.py --only MobileNetV2 ResNet50 --export
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

# Smallest sensible inputs; those not named take 64.
_SIZES = {"InceptionV3": 96, "InceptionResNetV2": 96, "Xception": 96}
_FRACTION = 0.3
_FIELDS = (
    ("architecture", "<20"), ("groups", ">7"), ("removed", ">8"), ("parameters", ">12"), ("after", ">12"), ("left", ">7"),
    ("MACs", ">14"), ("after ", ">14"), ("left ", ">7"), ("difference", ">11"), ("seconds", ">8"),
)  # fmt: skip


def names():
    """All architectures keras.applications offers."""
    import keras

    return sorted(name for name in dir(keras.applications) if name[0].isupper() and callable(getattr(keras.applications, name)))


def build(name):
    """One architecture with random weights and random BatchNorm statistics, ending in logits."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    size = _SIZES.get(name, 64)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.normal(size=variable.shape) * 0.2)
    return model


def macs(model):
    """Multiplications of dense and convolution kernels for one example, int; activations and norms are left out."""
    import keras

    total = 0
    for layer in model._flatten_layers(include_self=False):
        kernels = [w for w in layer.weights if len(w.shape) > 1 and "kernel" in w.name]
        if layer._flatten_layers(include_self=False, recursive=False) and kernels and isinstance(layer, keras.Model):
            continue
        if not kernels or not layer._inbound_nodes:
            continue
        for node in layer._inbound_nodes:
            positions = math.prod(size or 1 for size in node.outputs[0].shape[1:-1])
            total += positions * sum(math.prod(kernel.shape) for kernel in kernels)
    return int(total)


def examine(name, export):
    """One row: what pruning and shrinking did to one architecture.

    Raises:
        ShrinkError: when the shrunk model computes something else.
    """
    from tf_reweight import coupling, shrinking

    start = time.time()
    model = build(name)
    report = coupling.prune_groups(model, _FRACTION, scope="set")
    small, shrunk = shrinking.shrink(model, return_report=True)
    row = {
        "architecture": name,
        "groups": report.num_groups,
        "removed_groups": shrunk.removed_groups,
        "parameters_before": shrunk.parameters_before,
        "parameters_after": shrunk.parameters_after,
        "macs_before": macs(model),
        "macs_after": macs(small),
        "difference": shrunk.difference,
        "frozen": [f"{item.name}: {item.num_channels} channels; {'; '.join(item.reasons[:2])}" for item in shrunk.frozen],
    }
    if export:
        row |= exported(small)
    row["seconds"] = round(time.time() - start, 1)
    return row


def exported(model):
    """Float and int8 .tflite files of a model, both run: sizes in bytes and differences in units of the outputs' scale."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    rng = np.random.default_rng(1)
    samples = rng.normal(size=(8, *model.inputs[0].shape[1:])).astype("float32")
    expected = np.asarray(model(samples[:1]))
    full = {
        "optimizations": ["DEFAULT"],
        "representative_dataset": lambda: ([sample[None]] for sample in samples),
    }
    row = {}
    for kind, options in (("float", {}), ("int8", full)):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.tflite")
            model.export(path, format="litert", verbose=False, **options)
            content = pathlib.Path(path).read_bytes()
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], samples[:1])
        interpreter.invoke()
        output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        row[f"{kind}_bytes"] = len(content)
        row[f"{kind}_difference"] = float(np.abs(output - expected).max() / np.abs(expected).max())
    return row


def formatted(row):
    """A row of the printed table."""
    if "error" in row:
        return f"{row['architecture']:<20} failed: {row['error']}"
    values = (
        row["architecture"], row["groups"], row["removed_groups"],
        f"{row['parameters_before']:,}", f"{row['parameters_after']:,}",
        f"{row['parameters_after'] / row['parameters_before']:.1%}", f"{row['macs_before']:,}", f"{row['macs_after']:,}",
        f"{row['macs_after'] / row['macs_before']:.1%}", f"{row['difference']:.1e}", row["seconds"],
    )  # fmt: skip
    text = " ".join(f"{value:{form}}" for value, (_, form) in zip(values, _FIELDS))
    for kind in ("float", "int8"):
        if f"{kind}_bytes" in row:
            text += f"  {kind}: {row[f'{kind}_bytes']:,} bytes, difference {row[f'{kind}_difference']:.1e}"
    return text


def run_in_process(name, export):
    """`examine` in a fresh process; a failure is a row with the last line of its error."""
    command = [sys.executable, __file__, "--child", name] + (["--export"] if export else [])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return {"architecture": name, "error": last[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures; default all")
    parser.add_argument("--export", action="store_true", help="also convert to float and int8 .tflite and run both")
    parser.add_argument("--output", type=pathlib.Path, help="write the rows to this JSON file as they come")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(examine(options.child, options.export)))
        return
    known = names()
    unknown = sorted(set(options.only or ()) - set(known))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(known)}")
    print(" ".join(f"{title:{form}}" for title, form in _FIELDS))
    rows = []
    for name in options.only or known:
        rows.append(run_in_process(name, options.export))
        print(formatted(rows[-1]), flush=True)
        if options.output:
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    failed = [row["architecture"] for row in rows if "error" in row]
    print(f"{len(rows) - len(failed)} of {len(rows)} passed.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
