"""Which of a run's files is the best by the user's wish, and which one a report is about."""

from tf_reweight.reports.metrics import is_worse, value_of

# The wishes, and what of a file is small where it is granted.
_WISHES = {"size": lambda file: file["num_bytes"], "speed": lambda file: file["latency_ms"]}
WISHES = (*_WISHES, "accuracy")
# The part of a metric that is no proportion, of which no number of examples says what is chance, that counts as none.
_SMALL = 0.02


def shipped_of(figures):
    """The file that a run ships: the one that its report names; of runs of earlier versions the last."""
    return next((file for file in figures["files"] if file["name"] == figures.get("shipped")), figures["files"][-1])


def best_file(files, metric, wish, max_drop=None, num=0):
    """The name of the best of the files that a run made smaller; of all where there are no others.

    Files count that lose nothing against the most accurate of them: by the metric that heads the report, as executed on
    validation examples. Test examples choose nothing, or the figure on them would be too good.

    Args:
        files: dicts of a run, with `name`, `num_bytes`, `latency_ms` and metrics; `dense_*` are what they are compared with.
        metric: the dict of the metric that heads the report.
        wish: of `WISHES`: the smallest file, the one that was fastest here, or the most accurate.
        max_drop: what a file may lose: of a proportion as it is, of other metrics as a share of it. None allows what cannot be
            measured on so many examples, of metrics that are no proportions a fiftieth.
        num: validation examples.
    """
    own = own_of(files)
    values = values_of(own, metric)
    if values is None:
        # Nothing says which way is better.
        return min(own, key=_WISHES.get(wish, _WISHES["size"]))["name"]
    best = best_of(values, metric)
    kept = [file for file in own if not loses(metric, best, values[file["name"]], max_drop, num)]
    if wish == "accuracy":
        return min(kept, key=lambda file: (abs(best - values[file["name"]]), file["num_bytes"]))["name"]
    return min(kept, key=_WISHES[wish])["name"]


def own_of(files):
    """The files that a run made smaller; all where there are no others than the dense ones."""
    return [file for file in files if not file["name"].startswith("dense_")] or files


def values_of(files, metric):
    """Mapping of files' names to a metric on validation examples; None where not all have it, or no way of it is better."""
    values = {file["name"]: value_of(file, "validation", metric) for file in files}
    return None if metric["mode"] is None or None in values.values() else values


def best_of(values, metric):
    """The best of the values of a metric, whichever way is better."""
    return (max if metric["mode"] == "max" else min)(values.values())


def loses(metric, best, value, max_drop, num):
    """Whether a file loses more against the best than it may; arguments as of `best_file`."""
    if max_drop is None and metric["proportion"]:
        return is_worse(metric, best, value, num)
    scale = 1.0 if metric["proportion"] else max(abs(best), 1e-12)
    return abs(best - value) / scale > (_SMALL if max_drop is None else max_drop)
