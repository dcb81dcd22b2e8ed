"""Files of a model without some of its channels, before it is trained: predicted, and corrected by files that were made."""

import dataclasses
import warnings

import numpy as np

from tf_reweight import errors
from tf_reweight.coupling.analysis.sets import groups
from tf_reweight.coupling.cost import Cost
from tf_reweight.coupling.pruning import prune_groups
from tf_reweight.coupling.scores import group_norms
from tf_reweight.data.models import copied
from tf_reweight.filecost.files import check_can_measure, content_of, sizes, sizes_of_file, times
from tf_reweight.filecost.operations import curves
from tf_reweight.filecost.points import rising
from tf_reweight.graph.counting import kernel_uses
from tf_reweight.kernels.budgeted import Demand, met
from tf_reweight.kernels.measured import once, tell
from tf_reweight.penalties.attachment import take_off
from tf_reweight.pruning.prune import release
from tf_reweight.shrinking import shrink

# A prediction that is no further off than this is good enough, of sizes and of times.
_CLOSE = {"bytes": 0.005, "zipped_bytes": 0.02, "latency_ms": 0.05}
_MOST_TRIES = 3
# A sparsity that leaves no more than each set has to keep.
_ALL = 1 - 1e-9


def of_channels(model, budget, pairs=None):
    """A `Budget` that knows what files of a model without some channels have.

    Sizes are predicted by a model of the file: bytes of the weights in its precision, so many for each channel, and the rest,
    which the dense file tells. Times are the sum of those of the single operations, timed on this machine in several sizes.
    Both are fitted to executed files: the dense one, and that of a copy pruned at once to the budget, twice more where the
    prediction was off. A budget out of reach is measured with one channel left of each set: whoever refuses it says what can
    be reached, with the floors that hold there.

    Args:
        model: a built Sequential or functional model; it stays as it is.
        budget: a `Budget`.
        pairs: of no use here.

    Raises:
        ValueError: for what cannot be measured, files that removing channels does not make smaller or faster.
        ImportError: for milliseconds without LiteRT.
    """
    check_can_measure(model, budget)
    dense = _plain(model)
    coupled = groups(dense)
    cost, meter = Cost(coupled), _Meter(budget, dense)
    measured = meter.of(dense, f"the {budget.stored_in} file of the whole model")
    operations = {}
    if budget.latency_ms is not None:
        operations = {"operations": curves(kernel_uses(dense), budget.stored_in)}
    everything = np.ones(coupled.num_groups, bool)
    least = np.concatenate([np.arange(item.num_groups) < 1 for item in coupled.sets]) if coupled.sets else everything
    amounts = {name: budget.amounts[name] for name in budget.of_files}
    limits = {name: amount * measured[name] if amount <= 1 else amount for name, amount in amounts.items()}
    found = dict.fromkeys(budget.of_files, operations)
    # Over what the points lie is known without any; the dense file stands for them until then.
    first = {name: {**entry, "points": [[0.0], [measured[name]]]} for name, entry in found.items()}
    budget = dataclasses.replace(budget, calibration=first)
    inner = {name: cost.inner(name, budget) for name in budget.of_files}
    points = {name: {inner[name].at(everything): measured[name]} for name in budget.of_files}
    for _ in range(_MOST_TRIES):
        budget = _with(budget, points)
        quantities = cost.of_files(budget)
        reached = met([Demand(name, quantities[name], limit) for name, limit in limits.items()], least)
        keep, small = _pruned(dense, {"budget": budget} if reached else {"sparsity": _ALL})
        if keep.all():
            break
        predicted = {name: quantity.at(keep) for name, quantity in quantities.items()}
        measured = meter.of(small, f"the {budget.stored_in} file without {1 - keep.mean():.0%} of the channels")
        for name in budget.of_files:
            points[name][inner[name].at(keep)] = measured[name]
        budget = _with(budget, points)
        if all(abs(predicted[name] / measured[name] - 1) <= _CLOSE[name] for name in budget.of_files):
            break
    return budget


def _plain(model):
    """A copy without penalties and masks."""
    dense = copied(model)
    take_off(dense)
    release(dense)
    return dense


class _Meter:
    """Measures what a budget limits of files; of milliseconds the files run in turns with that of the whole model."""

    def __init__(self, budget, dense):
        self._budget, self._names = budget, budget.of_files
        most = f"at most {_MOST_TRIES + 1} {budget.stored_in} files of the model"
        tell(f"{' and '.join(self._names)}: {most} are written and measured")
        self._dense = None if budget.latency_ms is None else (dense, content_of(dense, budget.stored_in))

    def of(self, model, name):
        """Mapping of what the budget limits of files to what the file of a model has."""
        if self._dense is None:
            found = sizes_of_file(model, self._budget.stored_in, name=name)
        else:
            found = once(None, name, lambda: self._timed(model))
        return {name: float(found[name]) for name in self._names}

    def _timed(self, model):
        dense, of_dense = self._dense
        content = of_dense if model is dense else content_of(model, self._budget.stored_in)
        return {**sizes(content), "latency_ms": times([of_dense, content])[1]}


def _pruned(dense, amount):
    """`(keep flags, small model)` of a copy that is pruned at once to an amount, as `prune_groups` takes it."""
    copy = copied(dense)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is to be said of the model is said when it is pruned itself
        prune_groups(copy, **amount)
        keep = np.concatenate([group_norms(item) > 0 for item in groups(copy).sets])
        return keep, shrink(copy)


def _with(budget, points):
    """A budget with the points measured so far, those that rise."""
    entries = {}
    for name in budget.of_files:
        known = points[name]
        if name == "latency_ms" and len(known) == 1:
            known = {0.0: 0.0, **known}  # times of operations are scaled to that of the file
        entries[name] = {**budget.calibration[name], "points": _curve(name, known)}
    return dataclasses.replace(budget, calibration=entries)


def _curve(name, points):
    """The `points.rising` of one quantity.

    Raises:
        ValueError: where a file without channels has no less than the dense one.
    """
    found = rising(points.items())
    if len(points) > 1 and len(found[0]) == 1:
        fix = "Limit macs or parameters instead: what this file takes does not lie in its channels."
        expected = f"A file with fewer channels must have less {name} than the dense one, and it has not here."
        raise ValueError(errors.message(expected, fix, dense=found[1][-1], pruned=points[min(points)]))
    return found
