"""The charts of the page: each function takes figures and returns SVG (or a PNG as data) to put into it."""

import base64
import io

import numpy as np

from tf_reweight import targets
from tf_reweight.summaries import EDGES

_INK, _GRID, _MAIN, _SOFT, _WARM = "#1f2933", "#d9dee4", "#0b6e8f", "#9cc9d6", "#d1652b"
# Larger kernels are drawn in cells, each as dark as the share of its weights that is left.
_LARGEST_PICTURE = 256
# Inches; text keeps its size on the page when the chart is as wide as its place there.
_WIDE, _HALF = 9.6, 5.0


def accuracy(figures):
    """Validation and test accuracy after each stage, and of each executed file."""
    names = [stage["name"] for stage in figures["stages"]] + [_short(file["name"]) for file in figures["files"]]
    test = [stage["test_accuracy"] for stage in figures["stages"]] + [file["test_accuracy"] for file in figures["files"]]
    validation = [stage["validation_accuracy"] for stage in figures["stages"]]
    figure, axes = _axes(_WIDE, 0.5 + 0.36 * len(names))
    rows = np.arange(len(names))
    axes.hlines(rows, min(test + validation) * 100, 100, color=_GRID, linewidth=0.8)
    axes.plot(np.array(validation) * 100, rows[: len(validation)], "o", color=_SOFT, label="validation")
    axes.plot(np.array(test) * 100, rows, "o", color=_MAIN, label="test")
    for row, value in zip(rows, test):
        axes.annotate(
            f"{value:.2%}", (value * 100, row), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=_INK
        )
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.5, -0.8)
    axes.set_xlabel("top-1 accuracy, %")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return _svg(figure)


def sizes(figures):
    """Raw and zipped bytes of each file, on one scale."""
    names = [_short(file["name"]) for file in figures["files"]]
    rows = np.arange(len(names))
    figure, axes = _axes(_HALF, 0.6 + 0.46 * len(names))
    for offset, field, colour, label in ((-0.2, "num_bytes", _SOFT, "raw"), (0.2, "gzip_bytes", _MAIN, "zipped")):
        values = np.array([file[field] for file in figures["files"]]) / 1024
        axes.barh(rows + offset, values, 0.36, color=colour, label=label)
        for row, value in zip(rows, values):
            axes.annotate(f" {value:,.1f}", (value, row + offset), va="center", fontsize=8, color=_INK)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("KiB")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    return _svg(figure)


def latency(figures):
    """Median latency of each file, measured in turns in one process."""
    names = [_short(file["name"]) for file in figures["files"]]
    values = [file["latency_ms"] for file in figures["files"]]
    figure, axes = _axes(_HALF, 0.6 + 0.32 * len(names))
    axes.barh(names, values, 0.6, color=_MAIN)
    for row, value in enumerate(values):
        axes.annotate(f" {value:.3f} ms, {values[0] / value:.2f}x", (value, row), va="center", fontsize=8, color=_INK)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("ms on this machine, one thread")
    return _svg(figure)


def layers(figures):
    """What is left of each kernel, or of each set of channels."""
    entries = figures["kernels"] or figures["sets"]
    fields = ("kept_weights", "num_weights", "weights") if figures["kernels"] else ("kept_groups", "num_groups", "groups")
    names = [_clipped(entry["name"]) for entry in entries]
    kept = np.array([entry[fields[0]] / entry[fields[1]] for entry in entries]) * 100
    figure, axes = _axes(_WIDE, 0.6 + 0.26 * len(names))
    rows = np.arange(len(names))
    axes.barh(rows, np.full(len(names), 100.0), 0.6, color="#eef1f4")
    axes.barh(rows, kept, 0.6, color=_MAIN)
    for row, (entry, share) in enumerate(zip(entries, kept)):
        text = f" {entry[fields[0]]:,} of {entry[fields[1]]:,}"
        axes.annotate(text, (share, row), va="center", fontsize=8, color=_INK if share < 65 else "white",
                      ha="left" if share < 65 else "right")  # fmt: skip
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{fields[2]} kept, %")
    return _svg(figure)


def norms(records):
    """Histograms of group norms, one line of bars per round: what is freed moves left, and a gap opens."""
    figure, axes = _axes(_WIDE, 0.7 + 0.62 * len(records))
    edges = np.array(EDGES)
    for row, record in enumerate(records):
        heights = np.log10(1.0 + np.array(record["counts"]))
        heights = heights / max(heights.max(), 1e-9) * 0.85
        axes.bar(edges[:-1], -heights, np.diff(edges), bottom=row, align="edge", color=_MAIN, linewidth=0)
    axes.set_yticks(range(len(records)), [f"after epoch {record['epoch']}" for record in records])
    axes.set_ylim(len(records) - 0.9, -1)
    axes.set_xticks(range(-8, 3, 2), ["≤ 1e-8" if n == -8 else f"1e{n:+d}" for n in range(-8, 3, 2)])
    axes.set_xlabel("norm of a group (heights: logarithm of the number of groups)")
    return _svg(figure)


def living(records):
    """How many groups are alive after each round."""
    figure, axes = _axes(_WIDE, 2.4)
    epochs = [record["epoch"] for record in records]
    values = [record["living_groups"] for record in records]
    axes.plot(epochs, values, "o-", color=_WARM)
    for epoch, value in zip(epochs, values):
        axes.annotate(f"{value:,}", (epoch, value), (0, 7), textcoords="offset points", ha="center", fontsize=8, color=_INK)
    axes.set_yscale("log")
    axes.margins(y=0.3)
    axes.set_xlabel("epoch of the regularized training")
    axes.set_ylabel("living groups")
    return _svg(figure)


def kernels(model, most=24):
    """Pictures of a model's kernels, inputs down and outputs across: list of dicts with `name`, `shape`, `kept`, `image`.

    Args:
        model: the pruned Keras model.
        most: at most so many, the largest kernels.
    """
    found = sorted(targets.find(model)[0], key=lambda target: -np.prod(target.layout.shape))[:most]
    pictures = []
    for target in found:
        alive = np.asarray(target.variable.value) != 0
        pictures.append(
            {
                "name": target.name,
                "shape": " x ".join(map(str, alive.shape)),
                "kept": f"{int(alive.sum()):,} of {alive.size:,}",
                "image": _png(_cells(alive.reshape(-1, alive.shape[-1]))),
            }
        )
    return pictures


def _cells(alive):
    """Share of living weights in the cells of a picture of bounded size, float `(rows, columns)`."""
    for axis in (0, 1):
        size = alive.shape[axis]
        if size > _LARGEST_PICTURE:
            starts = np.linspace(0, size, _LARGEST_PICTURE, endpoint=False).astype(int)
            counts = np.diff(np.append(starts, size))
            alive = np.add.reduceat(alive.astype("float32"), starts, axis=axis)
            alive = alive / (counts[:, None] if axis == 0 else counts)
    return alive.astype("float32")


def _png(shares):
    """A grey picture as a data address; sparse cells are lifted, or a kept weight among thousands would not show."""
    from matplotlib import colors, image

    ramp = colors.LinearSegmentedColormap.from_list("ink", ["#f3f5f7", _MAIN])
    stream = io.BytesIO()
    image.imsave(stream, np.sqrt(shares), cmap=ramp, vmin=0, vmax=1, format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _axes(width, height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, max(1.6, height)), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(colors=_INK, labelsize=8, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.xaxis.label.set(color=_INK, size=8)
    axes.yaxis.label.set(color=_INK, size=8)
    return figure, axes


def _svg(figure):
    """SVG with real text, without the XML prologue. Each figure has ids of its own: a page holds many."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": None}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _short(name):
    return name.removesuffix(".tflite")


def _clipped(name, limit=38):
    return name if len(name) <= limit else name[: limit - 1] + "…"
