"""Which files of the zoo XNNPACK runs whole: before and after operations without integer kernels compute in float.

Random weights; `keras.applications` with the softmax that they end in, the small nets as `zoo.py` has them. Each file is made
once, as it is converted, and rewritten by `tflite.acceleration`; both are compared with the Keras model on the same random
examples. Each net runs in a process of its own; the same command goes on where it stopped.

    python benchmarks/accelerated.py --small
    python benchmarks/accelerated.py --output benchmarks/results/accelerated.json
    python benchmarks/accelerated.py --only MobileNetV2 --precisions int8
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import zoo

_PRECISIONS = ("int8", "dynamic_int8")
# Ranges of random weights need no more examples.
_EXAMPLES = 8
_FIELDS = (
    ("net", "<22"), ("precision", "<13"), ("whole", "<6"), ("after", "<6"), ("bytes", ">12"), ("added", ">8"),
    ("error", ">8"), ("after ", ">8"),
)  # fmt: skip
_COLUMNS = [
    ["net", "{net}"], ["precision", "{precision}"],
    ["fully accelerated as converted", "{whole}"], ["once rewritten", "{after}"],
    ["bytes as converted", "{size}"], ["added by rewriting", "{added}"],
    ["error of outputs as converted", "{error}"], ["error once rewritten", "{error_after}"],
]  # fmt: skip


def examine(name, precisions):
    """Rows of one net, one per precision."""
    import keras

    model = zoo.build(name)
    if hasattr(keras.applications, name):
        model = keras.Model(model.input, keras.layers.Softmax()(model.output))
    arrays = zoo.examples(model, num=_EXAMPLES, seed=2)
    return [_row(name, model, arrays, precision) for precision in precisions]


def _row(name, model, arrays, precision):
    from tf_reweight import export
    from tf_reweight.export.samples import identifiers, input_specs
    from tf_reweight.export.verification import is_fragile, keras_outputs, output_names
    from tf_reweight.tflite.acceleration import accelerate
    from tf_reweight.tflite.comparing import compare

    expected = keras_outputs(model, arrays)
    inputs = dict(zip(identifiers([spec.name for spec in input_specs(model, arrays)]), arrays))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        # Random weights put no distance between outputs: here files are compared with each other.
        how = {"representative_data": arrays, "tolerance": 10.0, "accelerated": False, "classes": [False] * len(expected)}
        record = export.export_tflite(model, path, precision, **how)
        before, made = path.read_bytes(), accelerate(path.read_bytes())
        errors = []
        for content in (before, made.content):
            runner = export.Runner(content, delegate=not is_fragile(model, precision))
            errors.append(compare(expected, runner(inputs, output_names(model, len(expected))))[1])
        after = export.delegation(made.content)
    return {
        "net": name, "precision": precision,
        "whole": record.delegation.fully_accelerated, "whole_after": after.fully_accelerated,
        "outside": record.delegation.summary, "outside_after": after.summary,
        "reasons_after": sorted({f"{item.name}: {item.reason}" for item in after.outside}),
        "num_bytes": len(before), "num_bytes_after": len(made.content), "error": errors[0], "error_after": errors[1],
    }  # fmt: skip


def run_in_process(name, precisions):
    """`examine` in a fresh process; a failure is a row with the last line of its error."""
    command = [sys.executable, __file__, "--child", name, "--precisions", *precisions]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ})
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = done.stderr.strip().splitlines()[-1:] or ["no message"]
    return [{"net": name, "precision": precision, "error_text": f"{done.returncode}: {last[0]}"} for precision in precisions]


def formatted(row):
    """A row of the printed table."""
    if "error_text" in row:
        return f"{row['net']:<22} {row['precision']:<13} failed: {row['error_text'][:150]}"
    values = (
        row["net"], row["precision"], "yes" if row["whole"] else "no", "yes" if row["whole_after"] else "no",
        f"{row['num_bytes']:,}", f"{row['num_bytes_after'] - row['num_bytes']:+,}", f"{row['error']:.2%}",
        f"{row['error_after']:.2%}",
    )  # fmt: skip
    text = " ".join(f"{value:{form}}" for value, (_, form) in zip(values, _FIELDS))
    return text + ("" if row["whole_after"] else f"  {row['outside_after'].partition('outside: ')[2]}")


def _saved(path, rows):
    from tf_reweight.tflite.processor import processor_name

    shown = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True)
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "ai-edge-litert")}
    passed = [row for row in rows if "error_text" not in row]
    figures = {
        "title": "Files that XNNPACK runs whole",
        "command": _command([*dict.fromkeys(row["net"] for row in rows)]),
        "commit": shown.stdout.strip(),
        "recorded": "written by benchmarks/accelerated.py",
        "environment": {"processor": processor_name(), **versions, "date": datetime.date.today().isoformat()},
        "seeds": [0],
        "findings": [_finding(precision, passed) for precision in dict.fromkeys(row["precision"] for row in passed)],
        "columns": _COLUMNS,
        "figures": [_figures(row) for row in passed],
        "rows": rows,
    }
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _command(nets):
    some = set(nets) != {*zoo.names(True), *zoo.names(False)}
    return "python benchmarks/accelerated.py" + (f" --only {' '.join(nets)}" if some else "")


def _figures(row):
    """A row as it stands on a page."""
    outside = row["outside_after"].partition("outside: ")[2]
    return {
        "net": row["net"], "precision": row["precision"], "whole": "yes" if row["whole"] else "no",
        "after": "yes" if row["whole_after"] else f"no: {outside}",
        "size": f"{row['num_bytes']:,}", "added": f"{row['num_bytes_after'] - row['num_bytes']:+,}",
        "error": f"{row['error']:.2%}", "error_after": f"{row['error_after']:.2%}",
    }  # fmt: skip


def _finding(precision, rows):
    own = [row for row in rows if row["precision"] == precision]
    before, after = (sum(row[name] for row in own) for name in ("whole", "whole_after"))
    return f"{precision}: XNNPACK runs {before} of {len(own)} files whole as they are converted, and {after} once rewritten."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these, in this order; default all")
    parser.add_argument("--small", action="store_true", help="the small nets alone")
    parser.add_argument("--precisions", nargs="+", default=list(_PRECISIONS))
    parser.add_argument("--output", type=pathlib.Path, help="JSON file; nets in it that passed are not run again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(examine(options.child, options.precisions)))
        return
    rows = []
    if options.output and options.output.exists():
        rows = [row for row in json.loads(options.output.read_text(encoding="utf-8"))["rows"] if "error_text" not in row]
    done = {(row["net"], row["precision"]) for row in rows}
    wanted = options.only or (zoo.names(True) + ([] if options.small else zoo.names(False)))
    print(" ".join(f"{title:{form}}" for title, form in _FIELDS))
    for row in rows:
        print(formatted(row))
    for name in wanted:
        left = [precision for precision in options.precisions if (name, precision) not in done]
        for row in run_in_process(name, left) if left else ():
            rows.append(row)
            print(formatted(row), flush=True)
        if options.output:
            _saved(options.output, rows)
    sys.exit(any("error_text" in row for row in rows))


if __name__ == "__main__":
    main()
