"""The smallest model whose metric is no further behind the dense one's than allowed: a path of budgets, each from the last."""

import math

from tf_reweight import errors
from tf_reweight.coupling.pruning import most_macs
from tf_reweight.data.models import copied
from tf_reweight.reports.choosing import ROUNDING, worse_by
from tf_reweight.reports.metrics import text_of, value_of
from tf_reweight.reports.progress import say
from tf_reweight.workflow import judging
from tf_reweight.workflow.config import load
from tf_reweight.workflow.stages import stages_of

# All tries together may train so many times as long as one run that was told its budget.
_MOST_RUNS = 3
# Where what was met and what was missed are so near, no more is tried.
_NEAR = 1.08
# The fraction of the weights that single kernels keep at least, and what channels keep beyond the least that they can.
_FEWEST, _ROOM = 0.005, 0.02


def search(run):
    """Looks for the smallest model within `prune.budget.accuracy_drop` of the dense one, and takes its stages into a run.

    Budgets of half as much are tried, each training beginning with the last model that was good enough, in half of the epochs
    that a run has; after the first that is not, budgets between. The monitored metric on validation examples decides, after the
    last epoch, of the file that ships as it is executed: what rounding loses is lost to the user. Where a later stage learns
    the rounding, where the dense model's own file loses too much already, and where no try is good enough so, the Keras model
    decides. Test examples are measured for the record only. Each try has a folder of its own and goes on where it was cut
    off.

    Args:
        run: the `Run`, opened.

    Raises:
        ValueError: when no try was good enough.
    """
    drop = run.config.prune.budget["accuracy_drop"]
    dense, *_ = stages_of(run.config)
    run.do(dense)
    run.catch_up()
    figures = run.folder.figures(dense.name)
    wanted = value_of(figures, "validation", run.metric)
    precision = _precision_of(run, wanted, drop)
    path = _Path(run, figures, _tries(run.config))
    model, best, rounded, tried = run.model, None, None, []
    for number in range(path.tries):
        fraction = path.next()
        if fraction is None:
            break
        config = _config_of(run.config, path.budget(fraction))
        attempt = run.branch(config, copied(model), run.folder / "search" / f"{number + 1:02d}")
        for stage in stages_of(config):
            attempt.do(stage)
        attempt.catch_up()
        last = attempt.folder.figures(stages_of(config)[-1].name)
        reached = value_of(last, "validation", run.metric)
        as_file = None if precision is None else judging.executed(attempt, attempt.model, precision)
        judged = reached if precision is None else as_file
        good = within(run.metric, wanted, judged, drop)
        path.tell(fraction, path.left(last), good)
        entry = {"left": fraction, **config.prune.budget, "validation": reached, "file": as_file, "good_enough": good}
        tried.append(entry)
        said = f"{fraction:.3g} of {path.name} left, validation {text_of(run.metric, reached)}"
        said += "" if precision is None else f", as {precision} file {text_of(run.metric, as_file)}"
        say(run.console, f"[bold]search[/bold]: {said}, {'good enough' if good else 'too far behind'}")
        if good:
            model, best = attempt.model, attempt
        if within(run.metric, wanted, reached, drop) and (rounded is None or path.left(last) < rounded[0]):
            rounded = path.left(last), attempt
    run.searched = {"dense": wanted, "accuracy_drop": drop, "precision": precision, "tries": tried}
    run.folder.write_json("search.json", run.searched)
    if best is None and rounded is not None:
        text = f"no {precision} file is good enough, the smallest Keras model that is goes on: see the alarms"
        say(run.console, f"[bold]search[/bold]: {text}")
        best = rounded[1]
    if best is None:
        closest = min(tried, key=lambda found: abs(found["validation"] - wanted), default=None)
        fix = "Allow more, or train longer: the tries are in the run folder, under search."
        expected = "`accuracy_drop` must be one that a smaller model can keep."
        raise ValueError(errors.message(expected, fix, dense=wanted, accuracy_drop=drop, closest=closest))
    for stage in stages_of(best.config)[1:]:
        figures = {**best.folder.figures(stage.name), "epochs": 0}  # their curves stay in the folder of the try
        run.keep(stage.name, best.folder.load(stage.name), figures)


def check(run):
    """Raises where a drop has no meaning: without a metric, or with several rules; called before any work."""
    drop = run.config.prune.budget["accuracy_drop"]
    if run.metric["name"] == "loss" and run.config.task.monitor is None:
        fix = "Compile the model with a metric, or say monitor='loss' and a drop in units of the loss."
        raise ValueError(errors.message("`accuracy_drop` needs a metric.", fix, metrics=[m["name"] for m in run.metrics]))
    if run.metric["proportion"] and drop >= 1:
        hint = f"Did you mean {drop / 100:g}? " if drop < 100 else ""
        expected = f"`accuracy_drop` must be below 1: {run.metric['name']} is a proportion."
        raise ValueError(errors.message(expected, f"{hint}0.005 is half a point.", accuracy_drop=drop))
    if run.config.regularize.coupled is None and len(run.config.regularize.rules) != 1:
        fix = "Keep one rule, or `coupled`."
        raise ValueError(errors.message("`accuracy_drop` takes one rule.", fix, rules=len(run.config.regularize.rules)))


def within(metric, wanted, reached, drop):
    """Whether a figure is no more than `drop` worse than the one wanted, whichever way is better; None is no figure."""
    return reached is not None and worse_by(metric, wanted, reached) <= drop + ROUNDING


def _precision_of(run, wanted, drop):
    """The precision whose files are judged; None for Keras models."""
    precision = judging.precision_of(run.config)
    if precision is None or not run.scorer.measures_files:
        return None
    dense = judging.executed(run, run.model, precision)
    if within(run.metric, wanted, dense, drop):
        return precision
    behind = f"the dense model's own {precision} file is too far behind, with {text_of(run.metric, dense)}"
    say(run.console, f"[bold]search[/bold]: {behind}: Keras models are judged")
    return None


class _Path:
    """The budgets that are tried, as fractions of the dense model's."""

    def __init__(self, run, figures, tries):
        coupled = run.config.regularize.coupled is not None
        self.name, self.tries = "macs" if coupled else "weights", tries
        self._total = figures["num_macs" if coupled else "num_weights"]
        multiple_of = 1 if run.config.shrink is None else run.config.shrink.multiple_of
        self._least = 1.0 - most_macs(run.model, multiple_of) + _ROOM if coupled else _FEWEST
        self._met, self._missed = 1.0, None

    def budget(self, fraction):
        """The amount by name, absolute."""
        return {self.name: max(2, math.floor(fraction * self._total))}

    def next(self):
        """The next fraction; None where nothing is left to try."""
        if self._missed is not None:
            return None if self._met / self._missed < _NEAR else math.sqrt(self._met * self._missed)
        fraction = max(self._met / 2, self._least)
        return fraction if fraction * _NEAR < self._met else None

    def left(self, figures):
        """What a stage has left, as a fraction."""
        return figures["num_macs" if self.name == "macs" else "num_nonzero"] / self._total

    def tell(self, fraction, left, good):
        """What came of it, with less left than was asked for where channels stay multiples."""
        if good:
            self._met = min(fraction, left)
        else:
            # What was asked for, and not the less that was left: the same model would come of all budgets between.
            self._missed = fraction


def _tries(config):
    """How many trainings of half the epochs fit into the time of so many runs."""
    whole, half = _trained(config), _trained(_config_of(config, {"weights": 0.5}))
    return max(1, _MOST_RUNS * whole // half) if half else 2 * _MOST_RUNS


def _trained(config):
    """Epochs of the stages that every try repeats."""
    return sum(config.epochs_of(step) for step in config.steps if step in ("regularize", "retrain"))


def _halved(epochs):
    return (epochs + 1) // 2


def _config_of(config, budget):
    """The configuration of one try: no dense training, half of the other epochs, nothing after the model is small."""
    values = config.model_dump(mode="json")
    values["stages"] = [step for step in config.steps if step not in ("cluster", "quantize")]
    values |= {"cluster": None, "quantize": None}
    values["train"]["epochs"] = 0
    values["regularize"]["every"] = _halved(config.regularize.every)
    values["retrain"]["epochs"] = _halved(config.retrain.epochs)
    values["prune"] = {**values["prune"], "budget": budget}
    return load(values)
