"""One self-contained HTML page of a run, which opens from disk and needs no network."""

import pathlib

import yaml

from tf_reweight.reports import charts, pictures

_TEMPLATE = pathlib.Path(__file__).parent / "report.html"


def render(figures, model=None):
    """The page of a run.

    Args:
        figures: what `compress` returns, or `report.json` read back.
        model: the Keras model whose kernels are shown as pictures; None leaves them out.

    Returns:
        HTML as text.

    Example:
        >>> pathlib.Path("report.html").write_text(render(json.load(open("runs/quickstart/report.json"))))
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = "{:,}".format
    environment.filters["percent"] = "{:.2%}".format
    environment.filters["ratio"], environment.filters["versus"] = ratio, versus
    environment.filters["bytes"] = charts.size_text
    environment.filters["short"] = charts.short
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        run=figures,
        shipped=figures["files"][-1],
        dense=figures["files"][0],
        change=_points(figures["summary"]),
        config=yaml.safe_dump(figures["config"], sort_keys=False),
        accuracy=charts.accuracy(figures),
        sizes=charts.sizes(figures),
        latency=charts.latency(figures),
        layers=charts.layers(figures),
        norms=charts.norms(figures["norms"]) if figures["norms"] else None,
        curves=charts.curves(figures["curves"]) if figures["curves"] else None,
        kernels=pictures.kernels(model) if model is not None else [],
    )


def ratio(value):
    """A factor with as many digits as it can bear: `"3.5x"`, `"152x"`."""
    return f"{value:.0f}x" if value >= 99.95 else f"{value:.1f}x" if value >= 9.995 else f"{value:.2f}x"


def versus(value, better, worse):
    """A factor in words, whichever way it goes: `"3.50x smaller"`, `"1.10x larger"`."""
    return f"{ratio(value)} {better}" if value >= 1 else f"{ratio(1 / value)} {worse}"


def _points(summary):
    """The change of accuracy in points, with its sign."""
    change = 100 * (summary["accuracy_after"] - summary["accuracy_before"])
    return "0.00" if abs(change) < 0.005 else f"{change:+.2f}".replace("-", "\N{MINUS SIGN}")
