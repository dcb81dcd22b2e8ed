"""The front: what a model loses for what it saves, over several budgets from one dense model, with all files."""

import dataclasses
import json
import pathlib

from tf_reweight import budget as budgets
from tf_reweight import errors, export
from tf_reweight.checks import is_number, listed
from tf_reweight.data.models import copied
from tf_reweight.files import mark_of, sealed, unsealed
from tf_reweight.records import Report
from tf_reweight.reports import front as pages
from tf_reweight.reports.choosing import shipped_of
from tf_reweight.reports.metrics import is_slower, text_of, value_of
from tf_reweight.strict_json import to_json
from tf_reweight.workflow import reach
from tf_reweight.workflow.config import load
from tf_reweight.workflow.files import times_of
from tf_reweight.workflow.stages import stages_of

# What a model may cost, by the names that points have for it.
AXES = ("num_macs", "num_bytes", "latency_ms")
# What was measured of the files together, in the folder of the sweep.
_TIMES = "times.json"


@dataclasses.dataclass(frozen=True)
class Front(Report):
    """What `sweep` found.

    Attributes:
        metric: the one that decides: `name`, `mode`, `proportion`.
        points: one dict per file that is shipped, the dense one first: `name`, `validation` and `test` of the metric, as the
            file is executed, `num_macs`, `num_bytes`, `folder`, `file`, `latency_ms` (the median, with `latency_low_ms` and
            `latency_high_ms`, the 10th and 90th percentile) and `speedup` against the dense file; `best_by`: the costs for
            which no other point is better in both, in milliseconds by more than their times vary; `knee_by`: those
            for which it is the point furthest from the line between its ends. Where only the model's class can measure the
            metric, `validation` is that of the Keras model, and `test` is None.
        latency: how times were taken, of all files in turns, as in the result of `benchmark`. Those in the reports of the
            single runs are of other measurements, which cannot be compared.
        folder: the run folder, a `pathlib.Path`, in which `folder` and `file` of a point are, sweep.json and sweep.html.
    """

    metric: dict
    points: tuple[dict, ...]
    latency: dict | None = None
    folder: pathlib.Path | None = None

    def to_dict(self):
        return {"metric": self.metric, "points": list(self.points), "latency": self.latency}

    def to_tables(self):
        from rich.table import Table

        table = Table(title=f"{self.metric['name']} against what a model costs; * no other is better, K the knee")
        if self.latency is not None:
            table.caption = f"ms: median of {self.latency['num_runs']} runs here, all files in turns"
        for heading in ("budget", "validation", "test", "MACs", "bytes", "ms"):
            table.add_column(heading, justify="left" if heading == "budget" else "right")
        for point in self.points:
            costs = [_marked(point, axis, form) for axis, form in zip(AXES, ("{:,}", "{:,}", "{:.3f}"))]
            figures = [text_of(self.metric, point[split]) for split in ("validation", "test")]
            table.add_row(point["name"], *figures, *costs)
        return [table]


def _marked(point, axis, form):
    marks = ("*" if axis in point["best_by"] else "") + ("K" if axis in point["knee_by"] else "")
    return "-" if point[axis] is None else f"{form.format(point[axis])}{' ' + marks if marks else ''}"


def axes_of(points):
    """The costs that are known of all points: how much a model of the user's own class computes is not."""
    return [axis for axis in AXES if all(point[axis] is not None for point in points)]


def trace(run, wanted, out, configured):
    """Runs every budget from one dense model, and writes `sweep.json` and `sweep.html` into the folder.

    Args:
        run: a `Run`; its own budget is of no use.
        wanted: budgets of any form.
        out: folder, or None for `runs/<name>`.
        configured: function from a budget to the values of its configuration: how it is met may depend on how much goes.
    """
    wanted = {name_of(budget): budget for budget in check(wanted)}
    configs = {name: _config_of(run.config, load(configured(budget)), budget, name) for name, budget in wanted.items()}
    run.config = _of_all(run.config)
    for config in configs.values():
        reach.check(config, run.model)
    with run.open(out, configs.values()), run.scope():
        return _traced(run, configs)


def _traced(run, configs):
    dense, *_ = stages_of(run.config)
    run.do(dense)
    run.catch_up()
    points = []
    for name, config in configs.items():
        point = run.branch(config, copied(run.model), run.folder / name)
        report = point.finish()
        points += [_point("dense", report, 0, point)] if not points else []
        points.append(_point(name, report, -1, point))
    points, how = _timed(points, run)
    found = Front(run.metric, tuple(marked(points, run.metric["mode"])), how, run.folder.path)
    run.folder.write_json("sweep.json", found.to_dict())
    run.folder.write_text("sweep.html", pages.render(found.to_dict(), axes_of(points)))
    run.folder.tidy()
    for table in found.to_tables():
        run.console.print(table)
    return found


def check(wanted):
    """The budgets, read.

    Raises:
        TypeError: for what is no list of them.
        ValueError: for fewer than two, or one that comes twice.
    """
    fix = 'For example budgets=["macs=0.75", "macs=0.5", "macs=0.25"].'
    if any(not isinstance(budget, (budgets.Budget, dict, str, type(None))) for budget in listed(wanted)):
        raise TypeError(errors.message("`budgets` must be a list of budgets.", fix, budgets=wanted))
    found = [budgets.get(budget) for budget in listed(wanted)]
    if len(found) < 2 or None in found or len(set(map(name_of, found))) < len(found):
        raise ValueError(errors.message("A sweep needs two budgets or more, each once.", fix, budgets=list(map(str, found))))
    if any(budget.accuracy_drop is not None for budget in found):
        fix = "Limit what a model has; `compress` looks for an accuracy."
        raise ValueError(errors.message("A sweep goes over sizes.", fix, budgets=list(map(str, found))))
    return found


def name_of(budget):
    """A budget as the name of a folder."""
    amounts = [f"{name}_{amount:.12g}" for name, amount in budget.amounts.items()]
    return "_".join([*amounts, *filter(None, [budget.precision])])


def _of_all(config):
    """What the runs of a sweep have in common, whichever its budgets are."""
    values = config.model_dump(mode="json")
    for section in (values["shrink"], values["regularize"]["method"]):
        if "multiple_of" in (section or {}):
            section["multiple_of"] = 1
    common = load(values)
    common.prune.budget = None
    return common


def _config_of(config, own, budget, name):
    """The configuration of one budget.

    Args:
        config: that of the sweep.
        own: that of a run of this budget alone.
        budget: a `Budget`.
        name: of it.
    """
    values = config.model_dump(mode="json")
    values |= {section: value for section, value in own.model_dump(mode="json").items() if section in ("regularize", "shrink")}
    values["name"] = f"{config.name}_{name}"
    values["train"]["epochs"] = 0
    values["prune"] = {**values["prune"], "budget": budget.to_dict(), "sparsity": None, "macs": None, "threshold": None}
    return load(values)


def _point(name, report, position, run):
    """One model and the file to ship; the dense one's is of the same precision where there is one."""
    shipped, stages = shipped_of(report), report["stages"]
    same = [file for file in report["files"] if file["name"].startswith("dense") and file["precision"] == shipped["precision"]]
    file = shipped if position else (same or report["files"])[0]
    # Of the file, as all of a row is: what rounding loses is weighed against what it saves.
    validation = value_of(file, "validation", run.metric)
    return {
        "name": name,
        "validation": value_of(stages[position], "validation", run.metric) if validation is None else validation,
        "test": value_of(file, "test", run.metric),
        "num_macs": stages[position]["num_macs"],
        "num_bytes": file["num_bytes"],
        "folder": run.folder.path.name,
        "file": f"{run.folder.path.name}/{file['name']}",
    }


def _timed(points, run):
    """`(points, latency)`: the points with times of their files, all measured in turns, and how they were measured.

    Times of different measurements cannot be compared, as those that each run took of its own files. A sweep that goes on with
    the same files finds them measured.
    """
    paths, num_runs = [run.folder / point["file"] for point in points], run.config.export.latency_runs
    asked = {"files": [[point["file"], mark_of(path)] for point, path in zip(points, paths)], "num_runs": num_runs}
    times = _known_times(run.folder / _TIMES, asked)
    if times is None:
        times = export.benchmark(paths, num_runs).to_dict()
        run.folder.write_json(_TIMES, sealed(json.loads(to_json({"asked": asked, "times": times}))))
    how = {name: value for name, value in times.items() if name != "rows"}
    return [{**point, **times_of(row)} for point, row in zip(points, times["rows"])], how


def _known_times(path, asked):
    """What was measured before of the same files; None where it was of others, or its record is damaged."""
    try:
        found = unsealed(json.loads(path.read_text(encoding="utf-8")))
        times = found["times"]
        good = found["asked"] == asked and len(times["rows"]) == len(asked["files"]) and times["measurement"]["id"]
        return times if good and all(is_number(times_of(row)["latency_ms"]) for row in times["rows"]) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def marked(points, mode):
    """The points with `best_by` and `knee_by`, lists of costs.

    Args:
        points: dicts with `validation` and every cost.
        mode: `"max"` or `"min"`: which way the metric is better.
    """
    marks = {axis: _front(points, axis, mode) for axis in axes_of(points)}
    knees = {axis: _knee([points[i] for i in front], axis, mode) for axis, front in marks.items()}
    return [
        {
            **point,
            "best_by": [axis for axis in marks if i in marks[axis]],
            "knee_by": [axis for axis in marks if knees[axis] is point],
        }
        for i, point in enumerate(points)
    ]


def _gain(point, mode):
    return point["validation"] if mode == "max" else -point["validation"]


def _is_cheaper(one, other, axis):
    """Whether a point costs less than another; in milliseconds, by more than the times of both vary."""
    varies = axis == "latency_ms" and all("latency_low_ms" in point for point in (one, other))
    return is_slower(other, one) if varies else one[axis] < other[axis]


def _front(points, axis, mode):
    """Places of the points that no other is as good as in both, and better in one."""

    def beaten(one):
        for other in points:
            as_good = _gain(other, mode) >= _gain(one, mode) and other[axis] <= one[axis]
            if as_good and (_gain(other, mode) > _gain(one, mode) or _is_cheaper(other, one, axis)):
                return True
        return False

    return [i for i, point in enumerate(points) if not beaten(point)]


def _knee(front, axis, mode):
    """The point of a front furthest above the line between its ends, both scales brought to one; None for fewer than three.

    It costs less than the dearer end by more than times vary: else it is that end.
    """
    front = sorted(front, key=lambda point: point[axis])
    if len(front) < 3:
        return None
    (low, worst), (high, best) = ((point[axis], _gain(point, mode)) for point in (front[0], front[-1]))
    if low == high or worst == best:  # points that are equal in both: none of them beats another
        return None
    heights = [(_gain(p, mode) - worst) / (best - worst) - (p[axis] - low) / (high - low) for p in front]
    heights = [height if _is_cheaper(p, front[-1], axis) else 0.0 for height, p in zip(heights, front)]
    top = max(range(len(front)), key=heights.__getitem__)
    return front[top] if heights[top] > 0 else None
