"""Every architecture of keras.applications: couple, zero 30 % of the removable groups, shrink, compare, and run as .tflite.

Each architecture runs in a process of its own, so that its memory is given back. Weights and BatchNorm statistics are
random, so that nothing hides behind zeros and ones, and outputs are compared before the softmax.

    python benchmarks/zoo.py                       # all of them, slowly
    python benchmarks/zoo.py --only MobileNetV2 ResNet50 --export
"""

import argparse
import json
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


def examine(name, export):
    """One row: what pruning and shrinking did to one architecture.

    Raises:
        ShrinkError: when the shrunk model computes something else.
    """
    from tf_reweight import coupling, shrinking
    from tf_reweight.report import count_macs

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
        "macs_before": count_macs(model),
        "macs_after": count_macs(small),
        "difference": shrunk.difference,
        "frozen": [f"{item.name}: {item.num_channels} channels; {'; '.join(item.reasons[:2])}" for item in shrunk.frozen],
    }
    if export:
        row |= exported(small)
    row["seconds"] = round(time.time() - start, 1)
    return row


def exported(model):
    """Float and int8 .tflite files of a model, both executed: sizes in bytes and errors relative to the outputs' scale."""
    import numpy as np

    from tf_reweight import export

    samples = np.random.default_rng(1).normal(size=(8, *model.inputs[0].shape[1:])).astype("float32")
    row = {}
    with tempfile.TemporaryDirectory() as folder:
        # Random weights put no distance between outputs, so int8 is only asked to run; its error is in the table.
        for precision, tolerance in (("float32", None), ("int8", 10.0)):
            path = pathlib.Path(folder) / f"{precision}.tflite"
            record = export.export_tflite(model, path, precision, samples, samples[:2], tolerance)
            row[f"{precision}_bytes"] = record.num_bytes
            row[f"{precision}_error"] = record.verification.relative_error
            row[f"{precision}_float_ops"] = sorted(set(record.float_ops))
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
    for kind in ("float32", "int8"):
        if f"{kind}_bytes" in row:
            text += f"  {kind}: {row[f'{kind}_bytes']:,} bytes, error {row[f'{kind}_error']:.1e}"
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
