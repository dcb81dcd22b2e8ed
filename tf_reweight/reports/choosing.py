"""Which of a run's files is the best by the user's wish, and which one a report is about."""

import math

from tf_reweight.reports.metrics import head_of, is_worse, value_of

# The wishes, and what of a file is small where it is granted.
_WISHES = {"size": lambda file: file["num_bytes"], "speed": lambda file: file["latency_ms"]}
WISHES = (*_WISHES, "accuracy")
# A drop as it was asked for is kept by a difference that rounding makes larger.
ROUNDING = 1e-9
# What files have, by the names of a budget: their figures, and how much more than asked for may be chance. Bytes are counted,
# of which none is; a billionth absorbs the rounding of fractions. Times are measured, with noise.
_OF_FILES = {"bytes": ("num_bytes", ROUNDING), "zipped_bytes": ("gzip_bytes", ROUNDING), "latency_ms": ("latency_ms", 0.1)}


def shipped_of(figures):
    """The file that a run ships: the one that its report names; of runs of earlier versions the last."""
    return next((file for file in figures["files"] if file["name"] == figures.get("shipped")), figures["files"][-1])


def best_file(files, metric, wish, max_drop=None, num=0, budget=None, dense=None):
    """The name of the best of the files that a run made smaller; of all where there are no others.

    Where some of them meet the budget, only these count; where none does, those in the precision that it names. Of them count
    that lose nothing against the most accurate one: by the metric that heads the report, as executed on validation
    examples. Where the budget says how much worse than the dense model a file may be, that is what it may lose. Where files in
    the budget's own precision are left then, one of these is the best. Test examples choose nothing, or the figure on them
    would be too good.

    Args:
        files: dicts of a run, with `name`, `num_bytes`, `latency_ms` and metrics; `dense_*` are what they are compared with.
        metric: the dict of the metric that heads the report.
        wish: of `WISHES`: the smallest file, zipped where the budget is in zipped bytes, the one that was fastest here, or the
            most accurate.
        max_drop: what a file may lose: of a proportion as it is, of other metrics as a share of it. None allows what cannot be
            measured on so many examples, of metrics that are no proportions a fiftieth.
        num: validation examples.
        budget: the mapping that a configuration has for it, or None.
        dense: the dense model's metric on validation examples, which `budget.accuracy_drop` is about; or None.
    """
    budget, wishes = budget or {}, _WISHES
    if budget.get("zipped_bytes") is not None and budget.get("bytes") is None:
        wishes = {**_WISHES, "size": lambda file: file["gzip_bytes"]}
    own = own_of(files)
    meeting = [file for file in own if not over(file, files, budget, metric, dense)]
    if meeting and "accuracy_drop" in budget and max_drop is None:
        max_drop = math.inf
    own = meeting or _of_precision(own, budget)
    values = values_of(own, metric)
    if values is None:
        # Nothing says which way is better.
        return min(_of_precision(own, budget), key=wishes.get(wish, wishes["size"]))["name"]
    best = best_of(values, metric)
    kept = [file for file in own if not loses(metric, best, values[file["name"]], max_drop, num)]
    kept = _of_precision(kept, budget)
    if wish == "accuracy":
        return min(kept, key=lambda file: (abs(best - values[file["name"]]), wishes["size"](file)))["name"]
    return min(kept, key=wishes[wish])["name"]


def _of_precision(files, budget):
    """The files in the precision that a budget of files names; all where there is none, or no such budget."""
    if not set(_OF_FILES) & set(budget):
        return files
    return [file for file in files if file["precision"] == budget.get("precision")] or files


def over(file, files, budget, metric=None, dense=None):
    """What a file has more of than a budget allows: mapping of the budget's names to `(has, allowed)`.

    For an `accuracy_drop` that is how much worse the file is than the dense model on validation examples, and may be.

    Args:
        file: one of `files`.
        files: all of the run: a fraction is of the dense one in the precision that the budget names.
        budget: the mapping that a configuration has for it.
        metric: the dict of the metric that heads the report, for an `accuracy_drop`.
        dense: the dense model's, on validation examples; None where it is not known.
    """
    wanted = {name: budget[name] for name in _OF_FILES if budget.get(name) is not None}
    found = {}
    for name, amount in wanted.items():
        field, slack = _OF_FILES[name]
        limit = amount if amount > 1 else _part_of_dense(amount, field, files, budget)
        if limit is not None and file[field] > limit * (1 + slack):
            found[name] = (file[field], limit)
    return found | _dropped(file, budget.get("accuracy_drop"), metric, dense)


def _dropped(file, drop, metric, dense):
    """The entry of `over` for an `accuracy_drop`, or none."""
    value = None if None in (drop, dense) else value_of(file, "validation", metric)
    if value is None or worse_by(metric, dense, value) <= drop + ROUNDING:
        return {}
    return {"accuracy_drop": (worse_by(metric, dense, value), drop)}


def shipped_over(figures):
    """What the file that a run ships has more of than the run's budget allows; see `over`.

    Args:
        figures: a run's report.
    """
    metric, budget = head_of(figures), figures["config"].get("prune", {}).get("budget") or {}
    dense = value_of(figures["stages"][0], "validation", metric)
    return over(shipped_of(figures), figures["files"], budget, metric, dense)


def worse_by(metric, wanted, reached):
    """How much worse a figure is than the one wanted, whichever way is better; below 0 for one that is better."""
    return wanted - reached if metric["mode"] == "max" else reached - wanted


def _part_of_dense(amount, field, files, budget):
    """A fraction of a figure of the dense file that a budget is about; None where that file was not kept."""
    dense = (file for file in files if _is_dense(file) and file["precision"] == budget.get("precision"))
    return next((amount * file[field] for file in dense), None)


def own_of(files):
    """The files that a run made smaller; all where there are no others than the dense ones."""
    return [file for file in files if not _is_dense(file)] or files


def _is_dense(file):
    return file["name"].startswith("dense_")


def values_of(files, metric):
    """Mapping of files' names to a metric on validation examples; None where not all have it, or no way of it is better."""
    values = {file["name"]: value_of(file, "validation", metric) for file in files}
    return None if metric["mode"] is None or None in values.values() else values


def best_of(values, metric):
    """The best of the values of a metric, whichever way is better."""
    return (max if metric["mode"] == "max" else min)(values.values())


def loses(metric, best, value, max_drop, num):
    """Whether a file loses more against the best than it may; arguments as of `best_file`."""
    if max_drop is None:
        return is_worse(metric, best, value, num)
    return abs(best - value) > max_drop * (1.0 if metric["proportion"] else abs(best))
