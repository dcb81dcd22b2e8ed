"""One self-contained HTML page of a run, which opens from disk and needs no network."""

import pathlib

import yaml

from tf_reweight.page import charts

_TEMPLATE = pathlib.Path(__file__).parent / "report.html"


def render(figures, model=None):
    """The page of a run.

    Args:
        figures: what `compress` returns, or `report.json` read back.
        model: the final Keras model, for pictures of its kernels; None leaves them out.

    Returns:
        HTML as text.

    Example:
        >>> pathlib.Path("report.html").write_text(render(json.load(open("runs/quickstart/report.json"))))
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = "{:,}".format
    environment.filters["percent"] = "{:.2%}".format
    template = environment.from_string(_TEMPLATE.read_text())
    return template.render(
        run=figures,
        headline=headline(figures),
        config=yaml.safe_dump(figures["config"], sort_keys=False),
        charts={
            "accuracy": charts.accuracy(figures),
            "sizes": charts.sizes(figures),
            "latency": charts.latency(figures),
            "layers": charts.layers(figures),
            "norms": charts.norms(figures["norms"]) if figures.get("norms") else None,
            "living": charts.living(figures["norms"]) if figures.get("norms") else None,
        },
        kernels=charts.kernels(model) if model is not None else [],
    )


def headline(figures):
    """What matters most, dense float file against the last one shipped: list of `(value, what it is)`."""
    dense, shipped = figures["files"][0], figures["files"][-1]
    lost = (dense["test_accuracy"] - shipped["test_accuracy"]) * 100
    change = f"{lost:.2f} points less than dense" if lost > 0 else f"{-lost:.2f} points more than dense"
    return [
        (f"{figures['num_weights'] / figures['num_nonzero']:.1f}x", f"fewer weights: {figures['num_nonzero']:,} kept"),
        (f"{shipped['test_accuracy']:.2%}", f"test accuracy of {shipped['name']}, executed; {change}"),
        (f"{dense['gzip_bytes'] / shipped['gzip_bytes']:.1f}x", f"smaller download: {shipped['gzip_bytes']:,} bytes zipped"),
        (f"{dense['num_bytes'] / shipped['num_bytes']:.1f}x", f"smaller file: {shipped['num_bytes']:,} bytes"),
        (f"{dense['latency_ms'] / shipped['latency_ms']:.2f}x", f"faster here: {shipped['latency_ms']:.3f} ms"),
    ]
