"""Iterative magnitude pruning with learning-rate rewinding: a baseline that takes the same budgets as the deadline."""

import dataclasses

import keras
import numpy as np

from tf_reweight import budget as budgets
from tf_reweight import errors
from tf_reweight.checks import check_integer, check_number
from tf_reweight.deadline.found import gone, noted, reachable_groups_of
from tf_reweight.graph import one_fit
from tf_reweight.graph.access import schedule_of
from tf_reweight.graph.checking import check_trained_finite
from tf_reweight.kernels.budgeted import first_to_meet
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.kernels.held import zero_again
from tf_reweight.learning_rate import BorrowedRate, half_cosine
from tf_reweight.penalties.attachment import take_off


class IterativePruning(keras.callbacks.Callback):
    """Cuts a trained model in rounds while `fit` runs, and trains what is left from the full learning rate each time.

    `limit_k = dense * (limit / dense) ** (k / rounds)`: each round begins with a cut by magnitude that leaves the same part of
    what the round before left, and the last cut meets the budget. What is gone stays gone. Then the weights train on, and the
    learning rate begins anew and falls along half a cosine until the next cut (Renda, Frankle and Carbin, arXiv 2003.02389:
    learning-rate rewinding). It is a baseline: with one round it is one-shot pruning and retraining.

    The budget is that of the penalties on the model, see `regularize` and `regularize_coupled`, or the one given here for
    coupled channels. Afterwards `prune_groups(model)` or `prune(model)` takes the penalties off, and the optimizer has its
    learning rate of before again; where `fit` is interrupted, from the next one on.

    Args:
        budget: a `Budget`, its mapping or text, for the coupled channels of a model without penalties; None takes that of the
            penalties on the model.
        rounds: cuts, shared out over the epochs of this `fit`, from `initial_epoch` on; >= 1 and at most as many as epochs.
        learning_rate: where it begins in each round, > 0; None is the optimizer's own at the start.
        criterion: what groups are ranked by: of single kernels `"lamp"`, `"relative"` or `"magnitude"`, as in `prune`; of
            coupled channels `"lamp"`, which None is for both.
        multiple_of: for coupled groups: the channels that stay are a multiple of it.

    Attributes:
        history: one dict per cut of this `fit`: `step`, `freed` and `planned` as fractions of what the budget removes, and
            `marginal`, the score of the last group that went.

    Raises:
        ValueError: for a value out of range; at the start of `fit`, for fewer epochs than rounds, a model without budget, a
            budget out of reach.

    Example:
        >>> regularize(model, "unstructured", budget="sparsity=0.9")
        >>> model.fit(x, y, epochs=20, callbacks=[IterativePruning(rounds=5)])
        >>> prune(model)
    """

    def __init__(self, budget=None, rounds=5, learning_rate=None, criterion=None, multiple_of=1):
        super().__init__()
        check_integer("rounds", rounds, 1, fix="It counts cuts.")
        if learning_rate is not None:
            check_number("learning_rate", learning_rate, exclusive=True, fix="Try 1e-3.")
        check_integer("multiple_of", multiple_of, 1, fix="1, 8 or 16.")
        self.budget, self.rounds, self.learning_rate = budgets.get(budget), rounds, learning_rate
        self.criterion, self.multiple_of = criterion, multiple_of
        self.history = []
        self._groups, self._kept, self._first, self._cuts, self._epoch = None, None, None, 0, 0
        self._rate, self._bare = None, False

    def on_train_begin(self, logs=None):
        self._check_epochs(self.params["epochs"])
        if schedule_of(self.model.optimizer) is not None:
            fix = "Compile with a number as learning_rate: it falls along half a cosine in each round."
            expected = "IterativePruning sets the learning rate, and the optimizer's must be a number."
            raise ValueError(errors.message(expected, fix, learning_rate=schedule_of(self.model.optimizer)))
        one_fit.end_earlier(self.model, self)
        # By norms alone: the first cut comes before the first batch, which tells how the loss reacts.
        name, self.history, self._epoch = type(self).__name__, [], 0
        wanted = (self.budget, self.criterion, self.multiple_of)
        self._groups, self._bare = reachable_groups_of(self.model, name, *wanted, listening=False)
        self._kept, self._first, self._cuts = np.ones(len(self._groups.norms()), bool), None, 0
        self._rate = BorrowedRate(self.model.optimizer)
        one_fit.begin(self.model, self, self._rate.give_back_if_unchanged)

    def on_epoch_begin(self, epoch, logs=None):
        if self._first is None:
            self._begin(epoch)
        self._epoch = epoch - self._first
        due = 1 + self._epoch * self.rounds // self._epochs
        if self._cuts < due:
            self._cut(due)

    def _begin(self, epoch):
        """Before the first epoch, which `initial_epoch` may have chosen; a training that goes on knows its first epoch."""
        try:
            self._check_epochs(self.params["epochs"] - epoch)
        except ValueError:
            if self._bare:
                take_off(self.model)  # the penalties that were put on for this `fit`
            raise
        self._first = epoch

    def _check_epochs(self, epochs):
        if epochs < self.rounds:
            fix = "Train longer, or lower `rounds`."
            raise ValueError(errors.message("Each round needs an epoch.", fix, epochs=epochs, rounds=self.rounds))

    def on_train_batch_begin(self, batch, logs=None):
        steps, begun = self.params.get("steps"), self._begin_of(self._cuts - 1)
        inside = self._epoch - begun + (batch / steps if steps else 0.0)
        highest = self._rate.before if self.learning_rate is None else self.learning_rate
        self._rate.set(highest * half_cosine(inside / (self._begin_of(self._cuts) - begun)))

    def on_train_end(self, logs=None):
        if self._cuts < self.rounds:
            errors.warn(
                f"Training ended after {self._cuts} of {self.rounds} rounds, and the budget is not met yet: pruning now cuts "
                "what the network still uses. Train for all epochs that were planned.",
            )
        # Another callback may have brought back weights of before a cut.
        zero_again(self.model)
        self._groups = None
        # Else the next `fit` would begin with what half a cosine ends at.
        self._rate.give_back()
        one_fit.end(self.model, self)

    def checkpoint_state(self):
        """What a training that goes on needs to know besides numbers and histories; see `workflow.checkpoint`."""
        return [self._kept]

    def continue_from(self, state):
        """Holds what was gone before the training was cut off; what had begun anew has learned since, and stays as it is."""
        (self._kept,) = state
        self._groups.hold(self._kept)

    @property
    def _epochs(self):
        """Epochs of this `fit`."""
        return max(self.rounds, self.params["epochs"] - self._first)

    def _begin_of(self, number):
        """The epoch in which a round begins, counted from 0; of the one after the last, all epochs."""
        return -(-number * self._epochs // self.rounds)

    def _cut(self, number):
        """The cut with which a round begins, counted from 1."""
        groups = self._groups
        check_trained_finite(self.model)  # no number has a rank: a whole layer would be zeroed
        scores = groups.scores(groups.norms())
        demands = [_part_of_the_way(demand, len(scores), number / self.rounds) for demand in groups.demands]
        last = self._kept
        self._kept = groups.last(scores, demands) & last
        groups.finish(self._kept)
        self._cuts = number
        step, marginal = self._epoch * (self.params.get("steps") or 0), float(scores[last & ~self._kept].max(initial=0.0))
        self.history.append(noted(groups, step, _planned(groups, demands, len(scores)), self._kept, marginal))
        drop_compiled_steps(self.model)


def _part_of_the_way(demand, num_groups, part):
    """A `Demand` with the limit that is met after a part of the rounds; a limit that the dense model meets stays."""
    dense = demand.quantity.at(np.ones(num_groups, bool))
    return dataclasses.replace(demand, limit=max(demand.limit, dense * (demand.limit / dense) ** part))


def _planned(groups, demands, num_groups):
    """What a cut has to free, as a fraction of what the budget removes."""
    final = first_to_meet(groups.demands, num_groups)
    (asked,) = (demand for demand in demands if demand.name == final.name)
    return gone(final, num_groups, asked.limit)
