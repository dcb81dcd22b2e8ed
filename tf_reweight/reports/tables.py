"""What a model or a run looks like: figures as plain dictionaries, and the same figures as tables."""

import numpy as np
from keras import ops
from rich import box
from rich.table import Table

from tf_reweight import structures
from tf_reweight.graph.counting import count_macs, count_parameters
from tf_reweight.kernels.table import find

# The structures whose all-zero groups are worth counting in any model: the first two can be removed physically.
_COUNTED = ("filter", "channel", "column", "kernel")


def model_report(model):
    """Weights, zeros and all-zero groups of every kernel of a model.

    Returns:
        Dict with `num_parameters`, `num_kernel_weights`, `num_nonzero`, `sparsity`, `kernels` (one dict each: name, shape,
        `num_weights`, `num_nonzero`, and `[kept, all]` groups per structure that fits) and `left_out`.
    """
    found, left_out = find(model)
    kernels = []
    for target in found:
        values = ops.convert_to_numpy(target.variable.value)
        kernels.append(
            {
                "name": target.name,
                "shape": list(target.layout.shape),
                "num_weights": int(values.size),
                "num_nonzero": int(np.count_nonzero(values)),
                "groups": {name: _living(target, structures.get(name)) for name in _COUNTED if _fits(target, name)},
            }
        )
    total = sum(kernel["num_weights"] for kernel in kernels)
    nonzero = sum(kernel["num_nonzero"] for kernel in kernels)
    return {
        "model": model.name,
        "num_parameters": count_parameters(model),
        "num_macs": count_macs(model),
        "num_kernel_weights": total,
        "num_nonzero": nonzero,
        "sparsity": 1.0 - nonzero / total if total else 0.0,
        "kernels": kernels,
        "left_out": [{"name": item.name, "reason": item.reason} for item in left_out],
    }


def pruned_figures(details):
    """What pruning did, kernel by kernel or coupled set by coupled set, and what it left out.

    Returns:
        Dict with `kernels` (name, structure, kept and all weights and groups; empty for coupled runs), `sets` and `left_out`.
    """
    kernels, sets = details.get("kernels", []), details.get("sets", [])
    touched = {entry["name"] for entry in [*kernels, *sets]}
    left_out = [{"name": name, "reason": why} for name, why in details["left_out"].items() if name not in touched]
    return {"kernels": kernels, "sets": sets, "left_out": left_out}


def _fits(target, name):
    return structures.get(name).misfit(target.standard_shape) is None


def _living(target, structure):
    structure = structure.fit(target.layout)
    norms = target.groups(structure).norms
    return [int(np.count_nonzero(norms)), int(norms.size)]


def summary(figures):
    """What matters most of a run: the last file it shipped against the dense float one.

    Args:
        figures: a run's report, with `stages` and `files`.

    Returns:
        Dict with `shipped` (a file's name), `accuracy_before` and `accuracy_after` (test, as executed), and the ratios
        `download`, `size`, `speed` and `weights`: how many times smaller, faster, fewer.
    """
    dense, shipped = figures["files"][0], figures["files"][-1]
    return {
        "shipped": shipped["name"],
        "accuracy_before": dense["test_accuracy"],
        "accuracy_after": shipped["test_accuracy"],
        "download": dense["gzip_bytes"] / shipped["gzip_bytes"],
        "size": dense["num_bytes"] / shipped["num_bytes"],
        "speed": dense["latency_ms"] / shipped["latency_ms"],
        "weights": figures["num_weights"] / max(1, figures["num_nonzero"]),
    }


def model_tables(report):
    """The tables of `model_report` for the terminal."""
    table = Table(title=f"{report['model']}: {report['num_parameters']:,} parameters, kernels {report['sparsity']:.2%} zero")
    for heading in ("kernel", "shape", "nonzero / all", "zero", *_COUNTED):
        table.add_column(heading, justify="left" if heading in ("kernel", "shape") else "right")
    for kernel in report["kernels"]:
        groups = [kernel["groups"].get(name) for name in _COUNTED]
        table.add_row(
            kernel["name"],
            "x".join(map(str, kernel["shape"])),
            f"{kernel['num_nonzero']:,} / {kernel['num_weights']:,}",
            f"{1 - kernel['num_nonzero'] / kernel['num_weights']:.1%}",
            *[f"{pair[0]:,} / {pair[1]:,}" if pair else "-" for pair in groups],
        )
    return [table, *left_out_tables(report["left_out"])]


def left_out_tables(left_out):
    """One table of what was not touched and why; none when nothing was left out."""
    if not left_out:
        return []
    table = Table("left out", "reason", title="Not touched")
    for item in left_out:
        table.add_row(item["name"], item["reason"])
    return [table]


def run_tables(report):
    """The tables of a run's `report.json` for the terminal: accuracy, layers, files."""
    layers = _layer_table(report) if report["kernels"] else _set_table(report)
    doubts = _doubt_tables(report["files"])
    return [_stage_table(report), layers, _file_table(report), *doubts, *left_out_tables(report["left_out"])]


def _stage_table(report):
    table = Table(title="Accuracy (test split, last epoch)", box=box.SIMPLE_HEAD)
    for heading in ("stage", "validation", "test", "nonzero weights", "rate", "parameters", "MACs"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in report["stages"]:
        counted = stage["keeps_zeros"] or stage["name"] == "dense"
        table.add_row(
            stage["name"],
            f"{stage['validation_accuracy']:.2%}",
            f"{stage['test_accuracy']:.2%}",
            f"{stage['num_nonzero']:,}" if counted else "",
            f"{report['num_weights'] / stage['num_nonzero']:.1f}x" if stage["keeps_zeros"] else "",
            f"{stage['num_parameters']:,}",
            f"{stage['num_macs']:,}",
        )
    return table


def _layer_table(report):
    title = f"Kernels: {report['num_nonzero']:,} of {report['num_weights']:,} weights kept"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for heading in ("kernel", "structure", "weights kept / all", "zero", "groups kept / all"):
        table.add_column(heading, justify="left" if heading in ("kernel", "structure") else "right")
    for kernel in report["kernels"]:
        table.add_row(
            kernel["name"],
            kernel["structure"],
            f"{kernel['kept_weights']:,} / {kernel['num_weights']:,}",
            f"{kernel['sparsity']:.2%}",
            f"{kernel['kept_groups']:,} / {kernel['num_groups']:,}",
        )
    return table


def _set_table(report):
    kept, every = (sum(item[field] for item in report["sets"]) for field in ("kept_groups", "num_groups"))
    table = Table(title=f"Channels that go together: {kept:,} of {every:,} groups kept", box=box.SIMPLE_HEAD)
    for heading in ("made by", "groups kept / all", "zero"):
        table.add_column(heading, justify="left" if heading == "made by" else "right")
    for item in report["sets"]:
        share = 1 - item["kept_groups"] / item["num_groups"]
        table.add_row(item["name"], f"{item['kept_groups']:,} / {item['num_groups']:,}", f"{share:.1%}")
    return table


def _doubt_tables(files):
    """One table of what is worth a look in files, or none; runs of earlier versions have no such entry."""
    found = [(file["name"], doubt) for file in files for doubt in file.get("doubts", ())]
    if not found:
        return []
    table = Table("file", "worth a look", title="Files that compute what their models do, and yet", box=box.SIMPLE_HEAD)
    for name, doubt in found:
        table.add_row(name.removesuffix(".tflite"), doubt)
    return [table]


def _file_table(report):
    """Eight short columns, so that it fits a terminal; ratios are against the dense float file, `zipped` that of gzip."""
    table = Table(title="Files, each executed and compared with its Keras model", box=box.SIMPLE_HEAD)
    for heading in ("file", "test", "agrees", "bytes", "gzip", "zipped", "ms", "faster"):
        table.add_column(heading, justify="left" if heading == "file" else "right", no_wrap=True)
    dense = report["files"][0]
    for file in report["files"]:
        table.add_row(
            file["name"].removesuffix(".tflite"),
            f"{file['test_accuracy']:.2%}",
            f"{file['top1_agreement']:.1%}",
            f"{file['num_bytes']:,}",
            f"{file['gzip_bytes']:,}",
            f"{dense['gzip_bytes'] / file['gzip_bytes']:.1f}x",
            f"{file['latency_ms']:.3f}",
            f"{dense['latency_ms'] / file['latency_ms']:.2f}x",
        )
    return table
