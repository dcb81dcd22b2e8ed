"""Files of a model with zeros inside its kernels: what they have for so many weights that are left."""

import dataclasses

import numpy as np

from tf_reweight import errors
from tf_reweight.data.models import copied
from tf_reweight.filecost.files import check_can_measure, sizes_of_file
from tf_reweight.filecost.points import rising
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.kernels import measured
from tf_reweight.kernels.budgeted import Demand, choose
from tf_reweight.kernels.grouping import LAMP
from tf_reweight.kernels.nonzeros import check_countable
from tf_reweight.kernels.quantities import Linear
from tf_reweight.kernels.table import find
from tf_reweight.penalties.attachment import take_off

# Parts of the weights that are left in the files that are made first.
_LEFT = (1.0, 0.5, 0.25, 0.1, 0.03, 0.005)
# Files that are made then, each where the ones before say that the budget lies.
_CLOSER = 2
# Of a model in training, files of so much less each are made until one is within the budget, at most so often.
_LOWER, _MOST_LOWERED = 0.7, 6
# How often a model whose file is over its budget is cut again, and by which parts of its weights, one after the other.
_MOST_TIGHTENED, _STEPS_DOWN = 4, (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)


def of_zeros(model, budget, pairs):
    """A `Budget` that knows what files of a model with zeros in some kernels have: packed where that makes them smaller.

    Copies of the model with more and more zeros, by magnitude, are written; between them lie straight lines.

    Args:
        model: a built model; it stays as it is.
        budget: a `Budget`.
        pairs: list of `(target, structure)`.

    Raises:
        ValueError: for what cannot be measured, milliseconds, or a file that zeros do not make smaller.
    """
    check_countable(budget)
    check_can_measure(model, budget)
    files = _Files(model, budget.stored_in, pairs)
    _tell(budget, f"{len(_LEFT) + _CLOSER} {budget.stored_in} files of the model")
    points = [files.point(left) for left in _LEFT]
    for _ in range(_CLOSER):
        budget = _with(budget, points)
        points.append(files.point(_at_limit(budget) / files.num_weights))
    return _with(budget, points)


def of_zeros_again(model, budget, pairs):
    """A calibrated `Budget` with what files of the model as it is now have, near the budget; the dense end stays as it was.

    Training moves the weights that stay, and a file whose weights have other values zips to another size.

    Args:
        model: the model `of_zeros` was asked about, its weights trained since.
        budget: what that returned.
        pairs: as there.
    """
    files = _Files(model, budget.stored_in, pairs)
    ends = {name: [axis[-1] for axis in budget.calibration[name]["points"]] for name in budget.of_files}
    _tell(budget, f"at most {_MOST_LOWERED + _CLOSER} {budget.stored_in} files of the model as it is now")
    points = [(files.num_weights, {name: has for name, (_, has) in ends.items()})]
    left, limits = _at_limit(budget) / files.num_weights, _limits(budget)
    for _ in range(_MOST_LOWERED):
        left *= _LOWER
        points.append(files.point(left))
        if all(points[-1][1][name] <= limit for name, limit in limits.items()):
            break
    for _ in range(_CLOSER):
        budget = _with(budget, points)
        points.append(files.point(_at_limit(budget) / files.num_weights))
    return _with(budget, points)


def tightened(model, budget, pairs):
    """Budgets that were measured anew on a pruned model, as long as its own file is over what was asked for.

    A file is predicted from others, in which other weights are left; it is the file itself that has to be within. Each budget
    asks for fewer weights than the model has left. Warns where the last of them is not enough.

    Args:
        model: the pruned model; whoever asks for the next budget has pruned it to the last one.
        budget: a calibrated `Budget`.
        pairs: list of `(target, structure)`.

    Yields:
        At most a few calibrated `Budget`.
    """
    limits = _limits(budget)
    for _ in range(_MOST_TIGHTENED):
        if _is_within(_sizes_now(model, budget.stored_in), limits):
            return
        yield _fewer(_Files(model, budget.stored_in, pairs), budget, limits)
    has = _sizes_now(model, budget.stored_in)
    if not _is_within(has, limits):
        said = ", ".join(f"{has[name]:,} {name} where {limit:,.0f} were asked for" for name, limit in limits.items())
        errors.warn(f"The {budget.stored_in} file of the pruned model has {said}: ask for a little less.")


def _tell(budget, which):
    measured.tell(f"{' and '.join(budget.of_files)}: {which} are written and measured")


def _fewer(files, budget, limits):
    """A budget of the largest file within the limits that was found, with fewer weights than are left."""
    left = files.part_left
    for step in _STEPS_DOWN:
        left *= 1.0 - step
        at, found = files.point(left)
        if _is_within(found, limits):
            break
    asked = dataclasses.replace(budget, **{name: found[name] for name in limits})
    ends = {name: budget.calibration[name]["points"][1][-1] for name in limits}
    return _with(asked, [(at, found), (files.num_weights, ends)])


def _is_within(sizes_of_file, limits):
    return all(sizes_of_file[name] <= limit * (1 + 1e-9) for name, limit in limits.items())


def _sizes_now(model, precision):
    copy = copied(model)
    take_off(copy)
    return sizes_of_file(copy, precision, True, f"the {precision} file of the pruned model")


def _limits(budget):
    """What files may have, absolute: a fraction is of the dense file, where the measured curve ends."""
    ends = {name: budget.calibration[name]["points"][1][-1] for name in budget.of_files}
    return {name: budget.amounts[name] * (ends[name] if budget.amounts[name] <= 1 else 1) for name in ends}


class _Files:
    """Files of a copy of a model in which a part of the weights is left."""

    def __init__(self, model, precision, pairs):
        self._copy, self._precision = copied(model), precision
        take_off(self._copy)
        by_name = {target.name: target for target in find(self._copy)[0]}
        self._kernels = [(by_name[target.name], structure) for target, structure in pairs]
        self._dense = [as_numpy(target.variable) for target, _ in self._kernels]
        self._shapes = [np.shape(structure.num_members(target.standard_shape)) for target, structure in pairs]
        groups = [target.groups(structure) for target, structure in self._kernels]
        self._members = np.concatenate([np.ravel(item.members) for item in groups]).astype("float64")
        self._scores = np.concatenate([np.ravel(item.by(LAMP)) for item in groups])
        best = [np.arange(item.members.size) == int(np.argmax(item.by(LAMP))) for item in groups]
        self._spared = np.concatenate(best) | (self._members == 0)

    @property
    def num_weights(self):
        return self._members.sum()

    @property
    def part_left(self):
        """The part of the weights whose groups are not zero."""
        return self._members[self._scores > 0].sum() / self.num_weights

    def point(self, left):
        """`(weights that are not zero, sizes of the file)` with a part of the weights left, those of the best groups."""
        least = self._members[self._spared].sum()
        demand = Demand("weights", Linear(self._members), max(left * self.num_weights, least))
        keep = choose(self._scores, [demand], self._spared).keep
        parts = np.split(keep, np.cumsum([int(np.prod(shape)) for shape in self._shapes])[:-1])
        for (target, structure), dense, flags, shape in zip(self._kernels, self._dense, parts, self._shapes):
            # Not a product: negative zeros do not zip as zeros do.
            target.variable.assign(np.where(target.own_mask(flags.reshape(shape), structure), dense, np.zeros_like(dense)))
        name = f"the {self._precision} file with {left:.3g} of the weights left"
        return float(self._members[keep].sum()), sizes_of_file(self._copy, self._precision, True, name)


def _with(budget, points):
    entries = {}
    for name in budget.of_files:
        entries[name] = {"points": _curve(name, [(at, found[name]) for at, found in points], budget)}
    return dataclasses.replace(budget, calibration=entries)


def _at_limit(budget):
    """The weights that may be left by what is known so far."""
    curves = {name: budget.calibration[name]["points"] for name in budget.of_files}
    left = []
    for name, (at_points, is_points) in curves.items():
        amount = budget.amounts[name]
        left.append(float(np.interp(amount if amount > 1 else amount * is_points[-1], is_points, at_points)))
    return min(left)


def _curve(name, points, budget):
    """The `points.rising` of one quantity.

    Raises:
        ValueError: where the dense file is no larger than the others, and not within the budget.
    """
    found, amount = rising(points), budget.amounts[name]
    if len(found[0]) == 1 and (amount == 1 or amount >= found[1][-1]):
        return [[0.0, *found[0]], found[1] * 2]  # whatever is left meets it
    if len(found[0]) == 1:
        fix = "Limit zipped_bytes or sparsity, choose another precision, or remove channels (prune_groups)."
        expected = f"Zeros must make the {budget.stored_in} file smaller, and {name} does not fall with them here."
        raise ValueError(errors.message(expected, fix, budget=budget, dense=found[1][-1]))
    return found
