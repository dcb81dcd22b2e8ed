"""One self-contained HTML page of a run, which opens from disk and needs no network."""

import pathlib

import yaml

from tf_reweight.reports import charts, metrics, pictures, tables
from tf_reweight.reports.choosing import shipped_of

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
    environment.filters["count"] = metrics.count_of
    environment.filters["percent"] = "{:.2%}".format
    environment.filters["ratio"], environment.filters["versus"] = ratio, versus
    environment.filters["bytes"] = charts.size_text
    environment.filters["short"] = charts.short
    environment.filters["metric"] = lambda entry, metric, split="test": metrics.text_of(
        metric, metrics.value_of(entry, split, metric)
    )
    environment.filters["agreement"] = _agreement
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        run=figures,
        shipped=shipped_of(figures),
        dense=figures["files"][0],
        change=change(figures),
        metric=metrics.head_of(figures),
        metric_rows=_metric_rows(figures),
        alarms=figures.get("alarms") or [],
        config=yaml.safe_dump(figures["config"], sort_keys=False),
        accuracy=charts.accuracy(figures),
        sizes=charts.sizes(figures),
        latency=charts.latency(figures),
        layers=charts.layers(figures),
        norms=charts.norms(figures["norms"]) if figures["norms"] else None,
        curves=charts.curves(figures["curves"], metrics.head_of(figures)) if figures["curves"] else None,
        kernels=pictures.kernels(model) if model is not None else [],
    )


def ratio(value):
    """A factor with as many digits as it can bear: `"3.5x"`, `"152x"`."""
    return f"{value:.0f}x" if value >= 99.95 else f"{value:.1f}x" if value >= 9.995 else f"{value:.2f}x"


def versus(value, better, worse):
    """A factor in words, whichever way it goes: `"3.50x smaller"`, `"1.10x larger"`."""
    return f"{ratio(value)} {better}" if value >= 1 else f"{ratio(1 / value)} {worse}"


def change(figures):
    """The change of the metric that heads the report, for a tile: `text`, and `label` and `detail` under it."""
    metric, data = metrics.head_of(figures), figures["data"]
    before, after = (metrics.value_of(file, "test", metric) for file in (figures["files"][0], shipped_of(figures)))
    num = data["num_test"]
    texts = [metrics.text_of(metric, value) for value in (before, after)]
    width = metrics.interval(metric, after, num)
    sure = "" if width is None else f" \N{PLUS-MINUS SIGN} {width:.2%}"
    detail = f"{texts[0]} to {texts[1]}{sure}, {num:,} examples"
    if before is None or after is None:
        return {"text": "-", "label": f"{metric['name']} of the file", "detail": "only the model's class can measure it"}
    if metric["proportion"]:
        difference = 100 * (after - before)
        text = "0.00" if abs(difference) < 0.005 else f"{difference:+.2f}".replace("-", "\N{MINUS SIGN}")
        unsure = "" if metrics.is_measurable(metric, before, after, num) else "; no measurable difference"
        return {"text": text, "label": f"points of test {metric['name']}{unsure}", "detail": detail}
    changed = metrics.change_of(metric, before, after, num)
    return {"text": texts[1], "label": f"test {metric['name']}", "detail": f"{changed}; {detail}"}


def _metric_rows(figures):
    """Every metric of the test examples where the report has others than its head: name and a text per stage and file."""
    entries = [figures["stages"][0], figures["stages"][-1], *figures["files"]]
    guess = figures.get("guess") or {}
    return [
        {
            "name": metric["name"],
            "better": {"max": "higher", "min": "lower"}.get(metric["mode"], ""),
            "texts": [metrics.text_of(metric, metrics.value_of(entry, "test", metric)) for entry in entries],
            "guess": metrics.text_of(metric, guess.get(metric["name"])),
        }
        for metric in metrics.tabled_of(figures)
    ]


def _agreement(file):
    """How each output of a file agrees with the model it is of."""
    outputs = file.get("outputs") or []
    if len(outputs) < 2:
        share = tables.agreement_of(file)
        return "-" if share is None else f"{share:.2%}"
    texts = [f"{output['name']} {output['agreement']:.2%}" for output in outputs if output["agreement"] is not None]
    texts += [f"{output['name']} {output['error']:.1e} off" for output in outputs if output["agreement"] is None]
    return ", ".join(texts)
