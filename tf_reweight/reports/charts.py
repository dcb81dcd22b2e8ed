"""The charts of the page: each function turns figures into what the template draws with text of the page's own size.

Bars and dots are plain HTML with places in percent, curves are SVG that stretches; so a page reads well in a narrow window, in
light and in dark, and needs no plotting library.
"""

import dataclasses
import math

import numpy as np

from tf_reweight.reports import metrics
from tf_reweight.reports.curves import EDGES

_HEIGHT, _WIDTH = 100.0, 1000.0
_LEAST = 1e-4  # what a logarithmic axis ends at, however small a value is


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One chart of `curves`: `lines` maps a label to the field of a record (or a part and its whole) and the line's style."""

    title: str
    caption: str
    lines: dict
    form: str
    log: bool = False
    from_zero: bool = True


_PANELS = (
    _Panel(
        "Accuracy", "At the end of each epoch; training examples may be moved, so their accuracy can be lower.",
        {"validation": ("val_accuracy", "a"), "training": ("accuracy", "b")}, "{:.1%}", from_zero=False,
    ),
    _Panel(
        "What is left", "The budget: groups not freed by the penalty, and weights that are not zero; a logarithmic scale.",
        {"living groups": (("living_groups", "num_groups"), "c"), "nonzero weights": (("num_nonzero", "num_weights"), "a")},
        "{:.3g} %", log=True,
    ),
    _Panel(
        "Penalty", "What it adds to the loss; after its weights are renewed, about the strength times the living groups.",
        {"penalty": ("penalty", "c")}, "{:.3g}",
    ),
    _Panel(
        "Strength", "The coefficient of the penalty, the largest where there are several.", {"strength": ("strength", "c")},
        "{:.3g}",
    ),
    _Panel("Learning rate", "At the start of each epoch.", {"learning rate": ("learning_rate", "a")}, "{:.2g}"),
)  # fmt: skip


def accuracy(figures):
    """The metric that heads the report after each stage, and of each executed file, as places on one axis.

    Returns:
        Dict with `rows` (name, is_file, test, validation, texts, places in percent) and `ticks` (place, text).
    """
    metric, files = metrics.head_of(figures), figures["files"]
    rows = [_placed(metric, stage, False) for stage in figures["stages"]] + [_placed(metric, file, True) for file in files]
    values = [value for row in rows for value in (row["test"], row["validation"]) if value is not None]
    scale = 100 if metric["proportion"] else 1
    ticks = _ticks(100 * min(values), 100 * max(values)) if metric["proportion"] else _free_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    for row in rows:
        for name in ("test", "validation"):
            value = row[name]
            row[f"{name}_at"] = None if value is None else 100 * (scale * value - low) / (high - low)
    return {"rows": rows, "ticks": [(100 * (tick - low) / (high - low), f"{tick:g}") for tick in ticks]}


def _placed(metric, entry, is_file):
    test, validation = (metrics.value_of(entry, split, metric) for split in ("test", "validation"))
    name = short(entry["name"]) if is_file else entry["name"]
    return {"name": name, "is_file": is_file, "test": test, "validation": validation, "text": metrics.text_of(metric, test)}


def _free_ticks(low, high):
    """Three to seven round numbers that hold both, of any size."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 2))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def sizes(figures):
    """Raw and zipped bytes of each file as shares of the largest, in percent."""
    largest = max(file["num_bytes"] for file in figures["files"])
    return [
        {
            "name": short(file["name"]),
            "raw": 100 * file["num_bytes"] / largest,
            "zipped": 100 * file["gzip_bytes"] / largest,
            "raw_text": size_text(file["num_bytes"]),
            "zipped_text": size_text(file["gzip_bytes"]),
        }
        for file in figures["files"]
    ]


def latency(figures):
    """Median latency of each file and its spread, as shares of the longest, in percent."""
    longest = max(file["latency_high_ms"] for file in figures["files"])
    return [
        {
            "name": short(file["name"]),
            "median": 100 * file["latency_ms"] / longest,
            "low": 100 * file["latency_low_ms"] / longest,
            "high": 100 * file["latency_high_ms"] / longest,
            "text": f"{file['latency_ms']:.3f} ms",
            "ratio": f"{file['speedup']:.2f}x",
        }
        for file in figures["files"]
    ]


def layers(figures):
    """What is left of each kernel (weights) or of each set of channels (groups)."""
    fields = ("kept_weights", "num_weights") if figures["kernels"] else ("kept_groups", "num_groups")
    return [
        {
            "name": entry["name"],
            "kept": entry[fields[0]],
            "all": entry[fields[1]],
            "share": 100 * entry[fields[0]] / entry[fields[1]],
            "structure": entry.get("structure", "channels that go together"),
        }
        for entry in figures["kernels"] or figures["sets"]
    ]


def norms(records):
    """Histograms of group norms, one per round: `rows` of bars in SVG, those of free groups apart, and `ticks` of the axis."""
    edges, rows = np.array(EDGES), []
    for record in records:
        # Roots, since a few large groups must show beside thousands of small ones.
        heights = np.sqrt(np.array(record["counts"], "float64"))
        heights = np.where(heights > 0, np.maximum(heights / max(heights.max(), 1.0) * (_HEIGHT - 4), 3.0), 0.0)
        free = edges[1:] <= np.log10(max(record["negligible"], 10 ** EDGES[0])) + 1e-9
        free[0] = True  # zeros, whatever is negligible
        rows.append(
            {
                "epoch": record["epoch"],
                "living": record["living_groups"],
                "all": record["num_groups"],
                "svg": _svg("".join(_bar(i, height, is_free) for i, (height, is_free) in enumerate(zip(heights, free)))),
            }
        )
    ticks = [(100 * (n - EDGES[0]) / (EDGES[-1] - EDGES[0]), "0" if n == EDGES[0] else f"1e{n:+d}") for n in range(-8, 3, 2)]
    return {"rows": rows, "ticks": ticks}


def curves(records, metric=None):
    """What changed over the whole run, epoch by epoch: one panel each for a metric, what is left, penalty and learning rate.

    Args:
        records: of `Curves`.
        metric: the one that heads the report, a dict; None for the accuracy of a classifier.

    Returns:
        Dict with `stages` (name, number of epochs) and `panels`: `title`, `caption`, `lines` (label, class), `svg`, and the
        texts at the `top` and `bottom` of the axis.
    """
    bands = []
    for record in records:
        if not bands or bands[-1][0] != record["stage"]:
            bands.append([record["stage"], 0])
        bands[-1][1] += 1
    first = _PANELS[0] if metric is None or metric["name"] == "accuracy" else _metric_panel(metric)
    panels = [_panel(records, bands, panel) for panel in (first, *_PANELS[1:])]
    return {"stages": bands, "panels": [panel for panel in panels if panel is not None]}


def _metric_panel(metric):
    """The panel of a metric that is not the accuracy of a classifier."""
    name = metric["name"]
    better = {"max": "Higher is better.", "min": "Lower is better."}.get(metric["mode"], "")
    caption = f"At the end of each epoch. {better}" + (" The loss contains penalties here." if name == "loss" else "")
    lines = {"validation": (f"val_{name}", "a"), "training": (name, "b")}
    return _Panel(name.capitalize(), caption, lines, "{:.1%}" if metric["proportion"] else "{:.4g}", from_zero=False)


def short(name):
    """A file's name without its ending."""
    return name.removesuffix(".tflite")


def size_text(num_bytes):
    """Bytes for people: `"14.7 KiB"`."""
    kib = num_bytes / 1024
    return f"{kib:,.1f} KiB" if kib < 1024 else f"{kib / 1024:,.1f} MiB"


def _panel(records, bands, panel):
    """One panel, or None where no record has any of its lines."""
    found = {}
    for label, (field, style) in panel.lines.items():
        values = [_value(record, field) for record in records]
        if any(value is not None for value in values):
            found[label] = (values, style)
    if not found:
        return None
    known = [value for values, _ in found.values() for value in values if value is not None]
    bottom, top = (0.0 if panel.from_zero and not panel.log else min(known)), max(known)
    bottom = max(bottom, _LEAST) if panel.log else bottom
    scale = _log if panel.log else float
    drawn = [f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT:g}"/>' for x in _borders(bands)]
    lengths = [num for _, num in bands]
    for values, style in found.values():
        places = [None if value is None else scale(value) for value in values]
        drawn.append(_line(places, (scale(bottom), scale(top)), lengths, style))
    return {
        "title": panel.title,
        "caption": panel.caption,
        "lines": [(label, style) for label, (_, style) in found.items()],
        "svg": _svg("".join(drawn)),
        "top": panel.form.format(top),
        "bottom": panel.form.format(bottom),
    }


def _log(value):
    return math.log(max(value, _LEAST))


def _value(record, field):
    """A figure of a record, or the share of two in percent; None where it has none."""
    if isinstance(field, str):
        return record.get(field)
    part, whole = (record.get(name) for name in field)
    return None if part is None or not whole else 100.0 * part / whole


def _line(values, limits, lengths, style):
    """A polyline for each stretch of epochs that has values; broken between stages."""
    low, high = limits
    span = high - low or 1.0
    step = _WIDTH / len(values)
    points = [
        None if value is None else ((i + 0.5) * step, 3 + (_HEIGHT - 6) * (1 - (value - low) / span))
        for i, value in enumerate(values)
    ]
    parts, starts = [], np.cumsum([0, *lengths])
    for start, end in zip(starts, starts[1:]):
        stretch = [point for point in points[start:end] if point is not None]
        if stretch:
            # A stretch of one epoch has no length to see, so it gets a little.
            stretch = stretch if len(stretch) > 1 else _widened(stretch[0], step / 4)
            text = " ".join(f"{x:.1f},{y:.1f}" for x, y in stretch)
            parts.append(f'<polyline class="line {style}" points="{text}"/>')
    return "".join(parts)


def _widened(point, by):
    x, y = point
    return [(x - by, y), (x + by, y)]


def _borders(bands):
    """Places between the stages."""
    total = sum(num for _, num in bands)
    return [_WIDTH * done / total for done in np.cumsum([num for _, num in bands])[:-1]]


def _bar(position, height, is_free):
    if height <= 0:
        return ""
    width = _WIDTH / (len(EDGES) - 1)
    style = "free" if is_free else "kept"
    return (
        f'<rect class="{style}" x="{position * width + 1:.1f}" y="{_HEIGHT - height:.1f}" width="{width - 2:.1f}" '
        f'height="{height:.1f}"/>'
    )


def _svg(inside):
    return f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" aria-hidden="true">{inside}</svg>'


def _ticks(low, high):
    """Four to seven round numbers that hold both, never beyond 100."""
    span = max(high - low, 0.2)
    step = next(step for step in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 25) if span / step <= 5)
    first, last = np.floor(low / step) * step, min(100.0, np.ceil(high / step) * step)
    if first >= last:
        first = last - step
    return [round(float(tick), 2) for tick in np.arange(first, last + step / 2, step)]
