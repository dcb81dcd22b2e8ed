"""Which of a run's files is the best by the user's wish, and which one a report is about."""

from tf_reweight.reports.metrics import is_worse, value_of

# The wishes, and what of a file is small where it is granted.
_WISHES = {"size": lambda file: file["num_bytes"], "speed": lambda file: file["latency_ms"]}
WISHES = (*_WISHES, "accuracy")


def shipped_of(figures):
    """The file that a run ships: the one that its report names; of runs of earlier versions the last."""
    return next((file for file in figures["files"] if file["name"] == figures.get("shipped")), figures["files"][-1])


def best_file(files, metric, wish, max_drop=None, num=0):
    """The name of the best of the files that a run made smaller; of all where there are no others.

    Files count that lose nothing against the most accurate of them: by the metric that heads the report, as executed.

    Args:
        files: dicts of a run, with `name`, `num_bytes`, `latency_ms` and metrics; `dense_*` are what they are compared with.
        metric: the dict of the metric that heads the report.
        wish: of `WISHES`: the smallest file, the one that was fastest here, or the most accurate.
        max_drop: what a file may lose: of a proportion as it is, of other metrics as a share of it. None allows what cannot be
            measured on so many examples.
        num: examples that the metric was measured on.
    """
    own = [file for file in files if not file["name"].startswith("dense_")] or files
    values = {file["name"]: value_of(file, "test", metric) for file in own}
    if metric["mode"] is None or None in values.values():
        # Nothing says which way is better.
        return min(own, key=_WISHES.get(wish, _WISHES["size"]))["name"]
    best = (max if metric["mode"] == "max" else min)(values.values())
    kept = [file for file in own if _lost(metric, best, values[file["name"]], max_drop, num) <= 0.0]
    if wish == "accuracy":
        return min(kept, key=lambda file: (abs(best - values[file["name"]]), file["num_bytes"]))["name"]
    return min(kept, key=_WISHES[wish])["name"]


def _lost(metric, best, value, max_drop, num):
    """How much more a file loses than it may; not above 0 where that is all right."""
    if max_drop is None:
        return float(is_worse(metric, best, value, num))
    scale = 1.0 if metric["proportion"] else max(abs(best), 1e-12)
    return abs(best - value) / scale - max_drop
