"""What a model or a run looks like: figures as plain dictionaries, and the same figures as tables."""

import numpy as np
from rich import box
from rich.table import Table

from tf_reweight import structures
from tf_reweight.graph.checking import check_eager
from tf_reweight.graph.counting import count_macs, count_parameters
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.kernels.table import find
from tf_reweight.reports import metrics
from tf_reweight.reports.choosing import shipped_of, shipped_over

# The structures whose all-zero groups are worth counting in any model: the first two can be removed physically.
_COUNTED = ("filter", "channel", "column", "kernel")


def model_report(model):
    """Weights, zeros and all-zero groups of every kernel of a model.

    Returns:
        Dict with `num_parameters`, `num_kernel_weights`, `num_nonzero`, `sparsity`, `kernels` (one dict each: name, shape,
        `num_weights`, `num_nonzero`, and `[kept, all]` groups per structure that fits) and `left_out`.
    """
    check_eager()
    found, left_out = find(model)
    kernels = []
    for target in found:
        values = as_numpy(target.variable)
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
    """What matters most of a run: the file it ships against the dense float one, and the dense int8 one.

    Args:
        figures: a run's report, with `stages` and `files`.

    Returns:
        Dict with `shipped` (a file's name); `metric` (the name of the one that heads the report), `before` and `after` (test,
        as executed), `change` in words and `measurable`; the ratios `download`, `size`, `speed` and `weights`: how many times
        smaller, faster, fewer; `int8` with the first three against the dense int8 file, or None where there is none;
        `over_budget`: what the file has more of than the budget allows, by name a pair of what it has and what was asked for,
        empty where the file holds it. Of a classifier also `accuracy_before` and `accuracy_after`.
    """
    dense, shipped = figures["files"][0], shipped_of(figures)
    metric, num = metrics.head_of(figures), figures["data"]["num_test"]
    before, after = (metrics.value_of(file, "test", metric) for file in (dense, shipped))
    int8 = next((file for file in figures["files"] if file["name"] == "dense_int8.tflite"), None)
    accuracy = {"accuracy_before": before, "accuracy_after": after} if metric["name"] == "accuracy" else {}
    return {
        "shipped": shipped["name"],
        "metric": metric["name"],
        "before": before,
        "after": after,
        "change": metrics.change_of(metric, before, after, num),
        "measurable": metrics.is_measurable(metric, before, after, num),
        **accuracy,
        **_ratios(dense, shipped),
        "weights": figures["num_weights"] / max(1, figures["num_nonzero"]),
        "int8": None if int8 is None or int8 is shipped else _ratios(int8, shipped),
        "over_budget": {name: list(pair) for name, pair in shipped_over(figures).items()},
    }


def _ratios(dense, shipped):
    """How many times smaller and faster."""
    return {
        "download": dense["gzip_bytes"] / shipped["gzip_bytes"],
        "size": dense["num_bytes"] / shipped["num_bytes"],
        "speed": dense["latency_ms"] / shipped["latency_ms"],
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
    first = [_stage_table(report), *_metric_tables(report), layers, *left_out_tables(report["left_out"])]
    return [*first, *doubts, *_alarm_tables(report), _file_table(report)]


def _stage_table(report):
    """The metric that heads the report, per stage; where there are several, `metric_tables` has the others."""
    metric = metrics.head_of(report)
    better = {"max": "higher is better", "min": "lower is better"}.get(metric["mode"], "")
    split = "test split" if report["data"].get("has_test", True) else "validation split, no test given"
    title = f"{metric['name'].capitalize()} ({split}, last epoch{', ' + better if metric['name'] != 'accuracy' else ''})"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for heading in ("stage", "validation", "test", "nonzero weights", "rate", "parameters", "MACs"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in report["stages"]:
        counted = stage["keeps_zeros"] or stage["name"] == "dense"
        table.add_row(
            stage["name"],
            *[metrics.text_of(metric, metrics.value_of(stage, split, metric)) for split in ("validation", "test")],
            f"{stage['num_nonzero']:,}" if counted else "",
            f"{report['num_weights'] / max(1, stage['num_nonzero']):.1f}x" if stage["keeps_zeros"] else "",
            f"{stage['num_parameters']:,}",
            metrics.count_of(stage["num_macs"]),
        )
    return table


def _metric_tables(report):
    """One table with every metric of the test examples, per stage and file; none where the head says all."""
    every = metrics.tabled_of(report)
    if not every:
        return []
    table = Table(title="Every metric, test examples", box=box.SIMPLE_HEAD)
    table.add_column("metric")
    entries = [report["stages"][0], report["stages"][-1], shipped_of(report)]
    for entry in entries:
        table.add_column(entry["name"].removesuffix(".tflite"), justify="right")
    for metric in every:
        values = [metrics.value_of(entry, "test", metric) for entry in entries]
        table.add_row(metric["name"], *[metrics.text_of(metric, value) for value in values])
    return [table]


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


def _alarm_tables(report):
    """One table of what is worth a look, or none."""
    found = report.get("alarms") or []
    if not found:
        return []
    table = Table("", "seen", "what to look at", title="Worth a look", box=box.SIMPLE_HEAD)
    for alarm in found:
        table.add_row(alarm["level"], alarm["seen"], alarm["look"])
    return [table]


# Of a terminal that is 80 characters wide the columns of the last table leave so much for the names of files.
_NAME_WIDTH = 22


def _file_table(report):
    """Few short columns, so that it fits a terminal of 80; ratios are against the dense float file, `zip` is that of gzip."""
    metric = metrics.head_of(report)
    table = Table(title="Files, each executed and compared with its model", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in ("file", metric["name"][:9], "agrees", "bytes", "zip", "ms", "faster"):
        table.add_column(heading, justify="left" if heading == "file" else "right", no_wrap=True)
    dense = report["files"][0]
    for file in report["files"]:
        agreement = agreement_of(file)
        table.add_row(
            _short(file["name"].removesuffix(".tflite")),
            metrics.text_of(metric, metrics.value_of(file, "test", metric)),
            "-" if agreement is None else f"{agreement:.1%}",
            f"{file['num_bytes']:,}",
            f"{dense['gzip_bytes'] / file['gzip_bytes']:.1f}x",
            f"{file['latency_ms']:.3f}",
            f"{dense['latency_ms'] / file['latency_ms']:.2f}x",
        )
    return table


def _short(name):
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def agreement_of(file):
    """How often a file decides as its model does, in the output where it does least; None where outputs are numbers."""
    shares = [output["agreement"] for output in file.get("outputs", ()) if output["agreement"] is not None]
    return min(shares) if shares else None if file.get("outputs") else file["top1_agreement"]
