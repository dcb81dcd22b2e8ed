"""What a run's figures warn of, red or amber, and what to look at."""

import dataclasses

from tf_reweight.reports.choosing import best_of, loses, own_of, shipped_of, shipped_over, values_of
from tf_reweight.reports.metrics import head_of, is_measurable, is_slower, is_worse, metrics_of, text_of, value_of

RED, AMBER = "red", "amber"
# Agreement of a file's classes or decisions with its model, below which it is worth a look, and below which it is wrong.
_AGREES, _DISAGREES = 0.95, 0.8
# Parts of what was asked for that may be missing: rounding to whole channels.
_SLACK = 0.02
# Precisions that have no rounding that training could learn.
_FLOATS = ("float32", "float16")
# Kinds of errors for which a file is not there.
_WRONG = "VerificationError"
# What the run and the dense model pruned at once have equally little of, by the names of a budget.
_EQUAL = {
    "macs": "multiply-accumulates", "parameters": "parameters", "weights": "weights that are not zero",
    "bytes": "bytes of weights", "zipped_bytes": "bytes of weights",
}  # fmt: skip
_LOOKS = {
    _WRONG: "Give more representative examples, choose a finer precision, or {rounding}.",
    "DoesNotFit": "Raise `export.mixed_bytes`, or prune and shrink the model further.",
}


@dataclasses.dataclass(frozen=True)
class Alarm:
    """One warning: how grave it is, what was seen, what to look at."""

    level: str
    seen: str
    look: str


def alarms_of(figures):
    """The alarms of a run as dicts, red ones first.

    Args:
        figures: a run's report, with its `summary`.
    """
    checks = (
        _unmeasured, _measured_otherwise, _lagging, _guessing, _refused, _worse, _behind, _rounded, _disagreeing, _slower,
        _missed, _over,
    )  # fmt: skip
    found = [alarm for check in checks for alarm in check(figures)]
    return [dataclasses.asdict(alarm) for alarm in sorted(found, key=lambda alarm: alarm.level != RED)]


def _num_test(figures):
    data = figures["data"]
    return data["num_test" if data.get("has_test", True) else "num_validation"]


def unmeasured(metric):
    """What keeps a metric of files unknown, and what makes it known; two sentences.

    Args:
        metric: the dict of the metric that heads a run.
    """
    cause = f"{metric['name']} of files cannot be measured: the model's class computes it in its own way"
    fix = (
        "Compile the model with losses or metrics on its outputs, give the examples labels, as (x, x) for an autoencoder, and "
        "leave `test_step`, `compute_loss` and `compute_metrics` to Keras, or measure the files yourself before you ship one."
    )
    return f"{cause}, not from outputs alone.", fix


def _unmeasured(figures):
    """Whether a file was chosen although of none it is known how good it is."""
    metric, own, shipped = head_of(figures), own_of(figures["files"]), shipped_of(figures)
    if all(value_of(file, "test", metric) is not None for file in own):
        return
    cause, fix = unmeasured(metric)
    by = "speed" if (figures["config"].get("export") or {}).get("best_by") == "speed" else "size"
    seen = f"{cause} {shipped['name']} was chosen by its {by} alone, of {len(own)} {'file' if len(own) == 1 else 'files'}"
    found = [output["error"] for output in shipped.get("outputs", ()) if output.get("error") is not None]
    yield Alarm(AMBER, f"{seen}{_off_by(found)}.", fix)


def _off_by(found):
    return f"; its outputs differ from its Keras model's by a relative error of at most {max(found):.2e}" if found else ""


def _measured_otherwise(figures):
    """Whether the float32 file of the dense model, which computes the same, has another figure than the model."""
    metric, model, file = head_of(figures), figures["stages"][0], figures["files"][0]
    in_keras, executed = value_of(model, "test", metric), value_of(file, "test", metric)
    if None not in (in_keras, executed) and is_measurable(metric, in_keras, executed, _num_test(figures)):
        texts = f"{text_of(metric, in_keras)} in Keras and {text_of(metric, executed)} as a file"
        cause = "files are measured by their outputs, and a class with steps of its own may measure otherwise"
        look = "Compare stages with stages and files with files, or leave `test_step` and `compute_metrics` to Keras."
        yield Alarm(AMBER, f"{metric['name']} of the dense model is {texts}: {cause}.", look)


def _lagging(figures):
    """Whether the dense model has statistics that do not belong to its weights: whatever trains afterwards seems to gain."""
    metric, dense = head_of(figures), figures["stages"][0]
    own, other = (value_of(dense, split, metric) for split in ("validation", "refreshed_validation"))
    if is_worse(metric, other, own, figures["data"]["num_validation"]):
        texts = f"{metric['name']} is {text_of(metric, own)} on validation examples, {text_of(metric, other)} with those of now"
        seen = f"BatchNormalization of the dense model has statistics of weights of long ago: {texts}."
        look = "No gain from the dense model counts. Call `tfr.refresh_statistics(model, x, y)` on it, then compress it again."
        yield Alarm(RED, seen, look)


def _guessing(figures):
    """Whether the shipped file and the dense model are better than one constant answer."""
    metric, guess = head_of(figures), (figures.get("guess") or {})
    constant, num = guess.get(metric["name"]), _num_test(figures)
    entries = [("The dense model", figures["files"][0]), (shipped_of(figures)["name"], shipped_of(figures))]
    for name, entry in entries if constant is not None and metric["mode"] else ():
        value = value_of(entry, "test", metric)
        if value is None:
            continue
        better = value > constant if metric["mode"] == "max" else value < constant
        if not better or not is_measurable(metric, constant, value, num):
            look = "Train longer, and check labels, the range of the inputs and the learning rate."
            texts = f"{metric['name']} {text_of(metric, value)} to {text_of(metric, constant)}"
            unsure = f"not measurably better than one constant answer on {num} examples"
            hardly = unsure if metric["proportion"] else "hardly better than one constant answer"
            yield Alarm(RED, f"{name} is {hardly if better else 'no better than one constant answer'}: {texts}.", look)
            return


def _worse(figures):
    metric, files = head_of(figures), figures["files"]
    before, after = (value_of(file, "test", metric) for file in (files[0], shipped_of(figures)))
    if is_worse(metric, before, after, _num_test(figures)):
        change = abs(after - before)
        grave = change > 0.05 if metric["proportion"] else before and change > 0.25 * abs(before)
        *ways, last = dict.fromkeys(("Ask for less", "retrain longer", _rounding(figures, shipped_of(figures))))
        look = f"{', '.join(ways)}, or {last}; see at which stage it was lost."
        seen = f"{metric['name']} went from {text_of(metric, before)} to {text_of(metric, after)}."
        yield Alarm(RED if grave else AMBER, seen, look)


def _behind(figures):
    """Whether the run is worse than the dense model pruned at once to what the run has left; in any output."""
    cut, num = figures.get("one_shot"), figures["data"]["num_validation"]
    if cut is None:
        return
    head, *others = metrics_of(figures)
    # Beside a metric, a loss tells how sure answers are: training again makes it larger where they get better.
    for metric in (head, *(other for other in others if other["name"].rpartition("_")[2] != "loss")):
        before, after = value_of(cut, "validation", metric), value_of(figures["stages"][-1], "validation", metric)
        if is_worse(metric, before, after, num):
            texts = f"{metric['name']} {text_of(metric, after)} to {text_of(metric, before)} on validation examples"
            seen = f"The run is behind the dense model {_cut(cut)}: {texts}."
            look = "Train longer or with a smaller learning rate, or use method: one_shot and retrain."
            yield Alarm(RED if metric is head else AMBER, seen, look)


def _cut(cut):
    """What was done at once to the dense model that a run is compared with, in words."""
    equal = " and ".join(dict.fromkeys(_EQUAL[name] for name in cut.get("at_most") or ()))
    to = f"to no more {equal} than the run has" if equal else "to what its structure leaves"
    if cut.get("reconstructed"):
        return f"pruned at once {to}, not trained but fitted by least squares on {cut['num_examples']} examples"
    return f"pruned at once {to}, without any training"


def _rounded(figures):
    """Which of the run's own files lose against the most accurate of them."""
    metric, own = head_of(figures), own_of(figures["files"])
    values = values_of(own, metric)
    if values is None:
        return
    best = best_of(values, metric)
    for name, value in values.items():
        if loses(metric, best, value, None, figures["data"]["num_validation"]):
            texts = f"{metric['name']} {text_of(metric, value)} to {text_of(metric, best)} on validation examples"
            (file,) = (file for file in own if file["name"] == name)
            cause = "It has the weights of its model:" if _is_float(file) else "See what loses it: tf-reweight explain; or"
            look = f"{cause} {_rounding(figures, file)}."
            yield Alarm(AMBER, f"{name} loses against the most accurate of the run's files: {texts}.", look)


def _rounding(figures, file):
    """What makes up for rounding in a file: the stage that a run has not had, or more of it; of floats more training."""
    if _is_float(file):
        return "retrain longer"
    if figures.get("quantized"):
        return "train `quantize` longer, or with another learning rate"
    return "learn the rounding with `quantize`"


def _is_float(file):
    return file.get("precision") in _FLOATS


def _disagreeing(figures):
    for file in figures["files"]:
        for output in file.get("outputs", ()):
            share = output["agreement"]
            if share is not None and share < _AGREES:
                seen = f"{file['name']} agrees with its Keras model in {share:.1%} of {output['name']}."
                look = f"Measure it on real data; give more representative data, or {_rounding(figures, file)}."
                yield Alarm(RED if share < _DISAGREES else AMBER, seen, look)


def _refused(figures):
    for file in figures.get("refused") or ():
        kind = file.get("kind", _WRONG)
        expected = file["reason"].partition(" Received: ")[0]
        what = "kept: it does not compute what its model does." if kind == _WRONG else f"written: {expected}"
        look = _LOOKS.get(kind, "Choose another precision, or leave it out.").format(rounding=_rounding(figures, file))
        yield Alarm(RED, f"{file['name']} was not {what}", look)


def _slower(figures):
    files, shipped = figures["files"], shipped_of(figures)
    for dense in (file for file in files if file is not shipped and file["name"].startswith("dense_")):
        if is_slower(shipped, dense):
            times = f"{shipped['latency_ms']:.3f} to {dense['latency_ms']:.3f} ms"
            seen = f"{shipped['name']} is slower than {dense['name']}: {times}."
            yield Alarm(AMBER, seen, f"{_faster(shipped, dense)} Measure on the phone before you decide.")


def _faster(shipped, dense):
    if shipped["precision"] != dense["precision"]:
        return f"Files in {dense['precision']} are faster here: `export.best_by: speed` ships the fastest."
    return "Zeros alone make nothing faster: remove channels."


def _missed(figures):
    """Whether the computing that was to go is gone."""
    asked = _asked(figures["config"].get("prune") or {})
    stages = figures["stages"]
    if asked is None or not stages[0].get("num_macs"):
        return
    shrunk = [stage for stage in stages if stage["name"].startswith("shrunk")]
    if shrunk:
        freed = 1.0 - shrunk[-1]["num_macs"] / stages[0]["num_macs"]
        if freed < asked - _SLACK:
            look = "Lower shrink.multiple_of, raise the strength, or train longer before pruning."
            yield Alarm(AMBER, f"{freed:.0%} of the computing went, {asked:.0%} were asked for.", look)


def _over(figures):
    """Whether the shipped file is worse, has more bytes, or takes longer, than its budget says."""
    shipped, metric = shipped_of(figures), head_of(figures)
    budget = figures["config"].get("prune", {}).get("budget") or {}
    if "accuracy_drop" in budget and value_of(shipped, "validation", metric) is None:
        seen = f"Nothing tells whether {shipped['name']} holds the budget: {metric['name']} of a file cannot be measured here."
        yield Alarm(AMBER, seen, "Only the model's class measures it, from the Keras model. Measure the file in your own way.")
    for name, (has, limit) in shipped_over(figures).items():
        if name == "accuracy_drop":
            yield _dropped(figures, has, limit)
            continue
        seen = f"{shipped['name']} has {has:,.6g} {name}, and {limit:,.6g} were asked for."
        look = "Ask for a little less: what a file has is predicted before training, from files of the dense model."
        yield Alarm(AMBER, seen, look)


def _dropped(figures, has, limit):
    """The alarm of a file that is further behind the dense model than its budget allows."""
    shipped, metric = shipped_of(figures), head_of(figures)
    lost, asked = (f"{100 * part:.2f} points" if metric["proportion"] else f"{part:.4g}" for part in (has, limit))
    behind = f"loses {lost} of {metric['name']} against the dense model on validation examples"
    seen = f"{shipped['name']} {behind}; {asked} may go."
    look = f"Allow more, {_rounding(figures, shipped)}, or export a finer precision too: a file that holds it is shipped."
    return Alarm(RED, seen, look)


def _asked(prune):
    """The fraction of the multiply-accumulates that was to go; None where that is not what was asked for."""
    left = (prune.get("budget") or {}).get("macs")
    return prune.get("macs") if left is None or left > 1 else 1.0 - left
