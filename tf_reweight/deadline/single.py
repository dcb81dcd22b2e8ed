"""The groups of single kernels on their way to a budget."""

import numpy as np
from keras import ops

from tf_reweight.graph.distribution import beside
from tf_reweight.graph.gradients import TAYLOR
from tf_reweight.kernels import filed
from tf_reweight.kernels.budgeted import choose
from tf_reweight.kernels.compiled_step import renew_step
from tf_reweight.kernels.constraints import insert, remove
from tf_reweight.kernels.grouping import CRITERIA, LAMP, Groups
from tf_reweight.kernels.held import hold_all
from tf_reweight.kernels.nonzeros import demands_on
from tf_reweight.kernels.reactions import Reactions
from tf_reweight.penalties.soft_threshold import EVERY, SoftThreshold


class SingleGroups:
    """The groups of all kernels that carry a `Budgeted` penalty in one row, with what can be done to them.

    Args:
        model: the model in training.
        pairs: list of `(target, penalty)`.
        criterion: one of `criteria`; None is `"taylor"` where gradients can be seen, else what `prune` would take.
        listening: whether the gradients of the training can be seen.
    """

    # Scores follow the squared norm: a power of 1 would be the log-sum penalty's step, 0.5 that of a lasso in the units of
    # adaptive optimizers. Between them, and with pressure on all, was best; see docs/benchmarks.md.
    power, survivors, horizon = 0.75, 1.0, 0.2
    by_norms = tuple(CRITERIA)
    criteria = (TAYLOR, *by_norms)
    until = 0.5
    # A group may be a weight, and ranking them all take longer than a training step.
    many = True

    def __init__(self, model, pairs, criterion, listening):
        self.model, self._pairs = model, pairs
        self.criterion = criterion or (TAYLOR if listening else LAMP)
        self._reactions = Reactions(pairs) if self.criterion == TAYLOR else None
        members = [np.asarray(penalty.structure.num_members(target.standard_shape)) for target, penalty in pairs]
        self._shapes = [count.shape for count in members]
        self._real = self._row(members) > 0
        self._members, self._budget = members, pairs[0][1].budget
        self.demands = self._demands_of(self._budget)
        self._constraints = []

    @property
    def seen(self):
        """Batches whose gradients tell how the loss reacts; None where groups are ranked by their norms."""
        return None if self._reactions is None else self._reactions.batches

    def open(self):
        """Before the training step is traced."""
        for (target, penalty), shape in zip(self._pairs, self._shapes):
            remove(target.variable, SoftThreshold)  # of a `fit` that was interrupted
            with beside(target.variable):
                constraint = SoftThreshold(penalty.structure, target.layout, np.zeros(shape), every=EVERY)
            insert(target.variable, constraint)
            self._constraints.append(constraint)
        if self._reactions is not None:
            self._reactions.open(self.model.optimizer)

    def close(self):
        """When there is nothing more to press."""
        for target, _ in self._pairs:
            remove(target.variable, SoftThreshold)
        self._constraints = []
        if self._reactions is not None:
            self._reactions.close()

    def norms(self):
        """Float64 `(groups,)`, after the steps that thresholds still owe: those are applied first."""
        self._flush()
        return self._row([target.groups(penalty.structure).norms for target, penalty in self._pairs])

    def scores(self, norms):
        """What groups are ranked by, float64 `(groups,)`; squared, where they are not yet, so that small ones go first."""
        if self.seen:
            return np.square(norms) * self._row(self._reactions.squares())
        # Until enough batches were seen.
        criterion = LAMP if self._reactions is not None else self.criterion
        parts = zip(self._pairs, self._split(norms), self._members)
        groups = [Groups(penalty.structure, part.reshape(count.shape), count) for (_, penalty), part, count in parts]
        scores = self._row([group.by(criterion) for group in groups])
        return scores if criterion == LAMP else np.square(scores)

    def spared(self, scores):
        """Bool `(groups,)`: the best of each kernel, and places that no weight fills."""
        spared = [np.arange(np.prod(shape)) == int(np.argmax(part)) for part, shape in zip(self._split(scores), self._shapes)]
        return np.concatenate(spared) | ~self._real

    def press(self, amounts):
        """Sets what one step takes off each group's norm; zeros may come back until the end."""
        for constraint, part, shape in zip(self._constraints, self._split(amounts), self._shapes):
            constraint.thresholds.assign(part.reshape(shape).astype("float32"))
        renew_step(self.model)

    def amounts(self):
        """What is pressed with now, and what was seen of the loss, as a list of arrays; see `press_on`."""
        thresholds = [ops.convert_to_numpy(constraint.thresholds.value) for constraint in self._constraints]
        return thresholds + ([] if self._reactions is None else self._reactions.state())

    def press_on(self, amounts):
        """Presses with what `amounts` gave."""
        for constraint, amount in zip(self._constraints, amounts):
            constraint.thresholds.assign(amount)
        if self._reactions is not None:
            self._reactions.set_state(amounts[len(self._constraints) :])

    def step(self, steps, now):
        """After so many training steps, in which the optimizer has applied the thresholds; `now` those that it still owes."""
        if now:
            self._flush()

    def _flush(self):
        for constraint, (target, _) in zip(self._constraints, self._pairs):
            constraint.flush(target.variable, self.model.optimizer)

    def check_reachable(self, scores):
        """Raises where the budget cannot be met."""
        choose(scores, self.demands, self.spared(scores))

    def last(self, scores, demands=None):
        """Keep flags `(groups,)` at the deadline, or of demands on the way there; at the deadline files are measured again."""
        if demands is None and self._budget.zipped_bytes is not None:
            self.demands = self._demands_of(filed.calibrated_again(self.model, self._budget, self._chosen))
        return choose(scores, demands or self.demands, self.spared(scores), exact=True).keep

    def finish(self, keep):
        """The same as `hold`: no group of single kernels begins anew."""
        self.hold(keep)

    def hold(self, keep):
        """Zeroes what does not stay, and holds it."""
        parts = zip(self._pairs, self._split(keep), self._shapes)
        masks = [(t.variable, t.own_mask(part.reshape(shape), penalty.structure)) for (t, penalty), part, shape in parts]
        hold_all(self.model, masks)

    @property
    def _chosen(self):
        return [(target, penalty.structure) for target, penalty in self._pairs]

    def _demands_of(self, budget):
        targets = {target.name: target for target, _ in self._pairs}
        masks = {target.name: np.ones(target.standard_shape, bool) for target, _ in self._pairs}
        return demands_on(self.model, budget, self._chosen, self._members, targets, masks)

    def _split(self, row):
        return np.split(row, np.cumsum([int(np.prod(shape)) for shape in self._shapes])[:-1])

    @staticmethod
    def _row(arrays):
        return np.concatenate([np.ravel(ops.convert_to_numpy(array)) for array in arrays]).astype("float64")
