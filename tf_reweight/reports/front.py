"""The page of a sweep: a metric against what models cost, with every file."""

import pathlib

from tf_reweight.reports import charts, metrics

_TEMPLATE = pathlib.Path(__file__).parent / "front.html"
_TITLES = {"num_macs": "multiply-accumulates", "num_bytes": "bytes of the file", "latency_ms": "milliseconds on this machine"}
_WIDTH, _HEIGHT, _MARGIN = 560, 260, 46


def render(figures, axes):
    """One self-contained HTML page, which opens from disk.

    Args:
        figures: `metric` and `points`; see `workflow.fronts.Front`.
        axes: the costs that are drawn.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["metric"] = lambda value: metrics.text_of(figures["metric"], value)
    environment.filters["bytes"], environment.filters["count"] = charts.size_text, metrics.count_of
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(front=figures, plots=[_plot(figures, axis) for axis in axes], width=_WIDTH, height=_HEIGHT)


def _plot(figures, axis):
    """Places of the points on one chart, in pixels, and the line through those that no other beats."""
    points = figures["points"]
    xs, ys = _scaled([p[axis] for p in points], _WIDTH), _scaled([p["validation"] for p in points], _HEIGHT)
    dots = [
        {"x": x, "y": _HEIGHT - y, "point": point, "best": axis in point["best_by"], "knee": axis in point["knee_by"]}
        for point, x, y in zip(points, xs, ys)
    ]
    line = sorted((dot["x"], dot["y"]) for dot in dots if dot["best"])
    ends = [f"{pick(point[axis] for point in points):,.6g}" for pick in (min, max)]
    return {"title": _TITLES[axis], "dots": dots, "line": " ".join(f"{x:.1f},{y:.1f}" for x, y in line), "ends": ends}


def _scaled(values, length):
    """Values as places between the margins."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return [_MARGIN + (value - low) / span * (length - 2 * _MARGIN) for value in values]
