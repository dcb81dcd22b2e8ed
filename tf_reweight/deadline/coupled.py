"""Coupled sets on their way to a budget."""

import keras
import numpy as np
from keras import ops

from tf_reweight.coupling.analysis.sets import groups
from tf_reweight.coupling.demands import demands_of, prices_of, split, within
from tf_reweight.coupling.floors import Floors
from tf_reweight.coupling.gates import Gates
from tf_reweight.coupling.gathered import Gathered
from tf_reweight.coupling.pruning import penalties_of, zero_groups
from tf_reweight.coupling.scores import group_norms
from tf_reweight.deadline.revival import revive
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.gradients import TAYLOR
from tf_reweight.graph.optimizers import restart_averages, zero_averages
from tf_reweight.kernels.budgeted import choose, lamp
from tf_reweight.kernels.compiled_step import compiled
from tf_reweight.kernels.grouping import LAMP
from tf_reweight.kernels.held import restore_zeros


class CoupledGroups:
    """The groups of all coupled sets in one row, with what can be done to them.

    Args:
        model: the model in training.
        graph: the functional or Sequential model that has the channels: that one, or one inside it.
        penalties: its `CoupledBudgeted` penalties, connected.
        criterion: `"taylor"`, `"lamp"` or None for the first where gradients can be seen, else the second.
        multiple_of: the channels that stay in the end are a multiple of it.
        listening: whether the gradients of the training can be seen.
    """

    by_norms = (LAMP,)
    criteria = (TAYLOR, *by_norms)
    until = 0.25
    many = False
    # Pressing on those that are to stay as well makes scores tell them apart before the deadline.
    power, survivors, horizon = 2.0, 1.0, 1.0

    def __init__(self, model, graph, penalties, criterion, multiple_of, listening):
        self.model, self._coupled = model, groups(graph)
        self._sets = self._coupled.sets
        self._penalties = penalties_of(self._sets, penalties)
        self.demands = demands_of(self._coupled, penalties[0].budget)
        self._floors = Floors(self._coupled, 1, multiple_of)
        self._prices = prices_of(self._sets, self.demands)
        self.criterion = criterion or (TAYLOR if listening else LAMP)
        self._gates = Gates(penalties) if self.criterion == TAYLOR else None
        self._amounts = [keras.Variable(np.zeros(item.num_groups, "float32"), trainable=False) for item in self._sets]
        self._apply, self._gone = None, np.zeros(self._coupled.num_groups, bool)

    def open(self):
        """Before the training step is traced."""
        if self._gates is not None:
            self._gates.open(self.model.optimizer)
        self._apply = Gathered(compiled(self.pressed_towards_budget))

    def close(self):
        """When there is nothing more to press."""
        self._apply = None
        if self._gates is not None:
            self._gates.close()

    def norms(self):
        """Float64 `(groups,)`, after the steps that were gathered: those are applied first."""
        if self._apply is not None:
            self._apply.flush()
        sums = {}
        norms = [self._norms_of(item, penalty, sums) for item, penalty in zip(self._sets, self._penalties)]
        self._gone = np.concatenate(norms) == 0
        return np.concatenate(norms)

    def scores(self, norms):
        """What groups are ranked by, float64 `(groups,)`."""
        scores, seen = [], self.seen
        for item, penalty, price, of_set in zip(self._sets, self._penalties, self._prices, split(self._sets, norms)):
            if not seen:
                scores.append(lamp(of_set) / np.sqrt(price))
            elif penalty is None:
                scores.append(np.full(item.num_groups, np.inf))
            else:
                # What is zero already has no slope, whatever the average remembers.
                scores.append(np.where(of_set > 0, as_numpy(penalty.saliency) / price, 0.0))
        return np.concatenate(scores)

    def spared(self, scores):
        """Bool `(groups,)`: the best of each set, and sets without penalty."""
        spared = []
        for penalty, of_set in zip(self._penalties, split(self._sets, scores)):
            best = np.full(len(of_set), penalty is None)
            best[int(np.argmax(of_set))] = True
            spared.append(best)
        return np.concatenate(spared)

    def press(self, amounts):
        """Sets what one step takes off each group's norm; a group that is zero is set to zero again each time."""
        amounts = np.where(self._gone, np.inf, amounts)
        for variable, of_set in zip(self._amounts, split(self._sets, amounts)):
            variable.assign(of_set.astype("float32"))

    def amounts(self):
        """What is pressed with now, and the groups that are gone, as a list of arrays; see `press_on`."""
        return [*(ops.convert_to_numpy(variable.value) for variable in self._amounts), self._gone]

    def press_on(self, amounts):
        """Presses with what `amounts` gave."""
        *amounts, self._gone = amounts
        for variable, amount in zip(self._amounts, amounts):
            variable.assign(amount)

    def step(self, steps, now):
        """After so many training steps; `now` where weights are looked at next."""
        self._apply.add(steps, float(steps), now)

    def check_reachable(self, scores):
        """Raises where the budget cannot be met, with the multiples that are to stay."""
        choose(scores, self.demands, self.spared(scores), held_up=self._coupled.held_up())
        self.last(scores)

    def last(self, scores, demands=None):
        """Keep flags `(groups,)` at the deadline, or of demands on the way there."""
        demands = demands or self.demands
        if self._floors.multiple_of == 1:
            return choose(scores, demands, self.spared(scores), exact=True).keep
        # The best of a set, and sets without penalty, stay whatever the floors say.
        ranked = np.where(self.spared(scores), np.inf, scores)
        return np.concatenate(within(self._floors, split(self._sets, ranked), demands))

    def pressed_towards_budget(self, steps):
        """What `step` does; by this name its trace is known, see `kernels.traced`."""
        for penalty, amounts in zip(self._penalties, self._amounts):
            if penalty is not None:
                penalty.soft_threshold(amounts.value * steps)
        zero_averages(self.model.optimizer, self._pressed())

    def hold(self, keep):
        """Zeroes what does not stay, and holds it."""
        zero_groups(self.model, self._coupled, split(self._sets, keep))

    def finish(self, keep):
        """The same; what is zero and stays begins anew."""
        self.hold(keep)
        rows = (split(self._sets, flags) for flags in (keep & self._gone, keep & ~self._gone))
        for item, penalty, back, stayed in zip(self._sets, self._penalties, *rows):
            if penalty is not None:
                revive(item, back, stayed)
        # What was drawn for such a group may read one that is gone.
        restore_zeros(self.model)
        restart_averages(self.model.optimizer, self._pressed())

    def _pressed(self):
        """The variables that `step` changes, each once."""
        penalties = [penalty for penalty in self._penalties if penalty is not None]
        return {id(variable): variable for penalty in penalties for variable in penalty.thresholded}.values()

    def _norms_of(self, item, penalty, sums):
        return group_norms(item, *([] if penalty is None else [penalty.criterion]), sums=sums)

    @property
    def seen(self):
        """Batches whose gradients tell how the loss reacts; None where groups are ranked by their norms."""
        if self._gates is None:
            return None
        # The most that any has seen: sets that no loss depends on see none, however long one waits.
        return max(int(as_numpy(penalty.batches)) for penalty in self._penalties if penalty is not None)
