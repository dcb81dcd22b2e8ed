"""One figure of a run in words: which way is better, how sure it is, and whether a change can be measured at all."""

import math

# Half width of a 95 % interval in standard errors.
_ERRORS = 1.96
# The part of a figure that is no proportion, of which no number of examples says what is chance, that counts as none.
LITTLE = 0.02
# Milliseconds are shown with three digits.
_SHOWN_MS = 1e-3


def metrics_of(figures):
    """The metrics of a run, the one that heads the report first: dicts with `name`, `mode` and `proportion`.

    Runs of earlier versions had one, the accuracy of a classifier.
    """
    return figures.get("metrics") or [{"name": "accuracy", "mode": "max", "proportion": True}]


def head_of(figures):
    """The metric that heads the report."""
    return metrics_of(figures)[0]


def tabled_of(figures):
    """Every metric of a run, for a table of them; none where the one that heads the report and the loss are all there is."""
    every = metrics_of(figures)
    return every if any(metric["name"] != "loss" for metric in every[1:]) else []


def value_of(entry, split, metric):
    """A metric of a stage or a file on a split; None where it was not measured."""
    return (entry.get(split) or {}).get(metric["name"], entry.get(f"{split}_{metric['name']}"))


def text_of(metric, value):
    """A figure as text: percent for a proportion, four digits else, `-` for none."""
    if value is None:
        return "-"
    return f"{value:.2%}" if metric["proportion"] else f"{value:.4g}"


def count_of(number):
    """A count as text, `-` for one that is not known."""
    return "-" if number is None else f"{number:,}"


def interval(metric, value, num):
    """Half the width of the 95 % confidence interval of a proportion, after Wilson; None for other figures.

    Args:
        metric: its dict.
        value: the proportion.
        num: examples it was measured on.
    """
    if not metric["proportion"] or value is None or not num:
        return None
    square = _ERRORS**2
    return _ERRORS * math.sqrt(value * (1.0 - value) / num + square / (4 * num**2)) / (1.0 + square / num)


def is_measurable(metric, before, after, num):
    """Whether a change is more than the spread of a proportion measured on so many examples; of other figures, than 2 %."""
    if before is None or after is None:
        return before != after
    if not metric["proportion"]:
        return abs(after - before) > LITTLE * abs(before)
    if not num:
        return before != after
    middle = (before + after) / 2
    return abs(after - before) > _ERRORS * math.sqrt(max(2 * middle * (1.0 - middle), 1.0 / num) / num)


def change_of(metric, before, after, num):
    """A change in words: `"+1.20 points"`, `"12 % lower (better)"`, `"no measurable difference"`."""
    if before is None or after is None:
        return "not measured"
    if not is_measurable(metric, before, after, num):
        return "no measurable difference"
    if metric["proportion"]:
        return f"{100 * (after - before):+.2f} points"
    better = {"max": after > before, "min": after < before}.get(metric["mode"])
    judged = "" if better is None else " (better)" if better else " (worse)"
    if not before:
        return f"{before:.4g} to {after:.4g}{judged}"
    share = abs(after - before) / abs(before)
    return f"{share:.1%} {'higher' if after > before else 'lower'}{judged}"


def is_worse(metric, before, after, num):
    """Whether a figure became worse by more than can be chance."""
    if before is None or after is None or metric["mode"] is None or not is_measurable(metric, before, after, num):
        return False
    return after < before if metric["mode"] == "max" else after > before


def is_slower(file, other):
    """Whether a file is slower by more than times vary: its fast turns take longer than the other's median, and reversed.

    Less than a microsecond, which no report shows, is no difference.
    """
    seen = file["latency_ms"] - other["latency_ms"] >= _SHOWN_MS
    return seen and file["latency_low_ms"] > other["latency_ms"] and file["latency_ms"] > other["latency_high_ms"]
