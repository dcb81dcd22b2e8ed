"""The solver that needs no strength: it presses on groups so that a budget is met by a deadline inside the training."""


import keras
import numpy as np

from tf_reweight import budget as budgets
from tf_reweight import errors
from tf_reweight.checks import check_fraction, check_integer, check_number, is_number
from tf_reweight.deadline.found import noted, reachable_groups_of
from tf_reweight.deadline.pace import pace
from tf_reweight.graph import one_fit
from tf_reweight.graph.batchnorm import follow_again, follow_closely_for_now
from tf_reweight.graph.checking import check_trained_finite
from tf_reweight.graph.gradients import ENOUGH_BATCHES, TAYLOR
from tf_reweight.graph.optimizers import check_trains_zeros
from tf_reweight.kernels.budgeted import choose
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.kernels.held import zero_again
from tf_reweight.penalties.attachment import take_off

# With fewer training steps before the deadline groups are cut rather than drawn to zero.
_FEWEST_STEPS = 30
# Unless it is given, the horizon is no shorter: a training of a hundred steps lost five points with one of ten.
_FEWEST_STEPS_AHEAD = 50
# Training steps between two looks, unless given; and how many looks come within the horizon of many groups at least.
_USUAL, _PER_HORIZON = 10, 20
# There are so many looks before the deadline, if need be with fewer steps between, less those that come too early.
_LOOKS = 10


class BudgetProximal(keras.callbacks.Callback):
    """Draws groups to zero while `fit` runs, so that a budget is met at a deadline; no strength has to be given.

    Every few steps the groups are ranked; those of lowest score have to go until the budget is met, and the best that still fit
    come back. After training steps on the loss alone, once for two of them by what both come to, groups are shrunk by what
    brings the marginal one to zero within the horizon, at the latest at the deadline, and those of lower score before. At the
    deadline what does not stay is zeroed and held, and the epochs left are for the rest to recover. The budget is met by
    construction, whatever the scale of the loss, the optimizer and the number of steps.

    The budget is that of the penalties on the model, see `regularize` and `regularize_coupled`, or the one given here for
    coupled channels. Afterwards `prune_groups(model)` or `prune(model)` takes the penalties off, and `shrink` makes the model
    smaller. Other regularizers stay in the loss.

    Args:
        budget: a `Budget`, its mapping or text, for the coupled channels of a model without penalties; None takes that of the
            penalties on the model.
        until: the deadline, as a fraction of the training steps of this `fit`, in (0, 1); None is 0.25 for coupled groups,
            which need long to recover, and 0.5 for single kernels.
        criterion: what groups are ranked by. `"taylor"`: how the loss reacts to a group, of coupled ones the square of weight
            times gradient over what the group frees, of single kernels the squared norm times the mean square of its weights'
            gradients; both averaged over batches. By norms alone: of coupled ones `"lamp"`, the norm among those of its set
            over the root of what it frees; on single kernels `"lamp"`, `"relative"` or `"magnitude"`, as in `prune`. None
            (default): `"taylor"` where gradients are seen, on TensorFlow in the optimizer that the model is compiled with, else
            `"lamp"`.
        power: how much faster those of lower score shrink, > 0; None is 2 for coupled groups, 0.75 for single kernels.
        survivors: the pressure on groups that are to stay, in [0, 1]; None is 1.
        horizon: within what part of the steps before the deadline the marginal group would reach zero if the loss did not hold
            against it, in (0, 1]; None is 1 for coupled groups, which stay at zero. For single kernels it is 0.2, though no
            fewer than 50 steps: the net is sparse early, and learns which weights it needs, since they may come back.
        every: training steps between two looks, at most; fewer where the deadline is near. None is 10, for single kernels a
            twentieth of the steps of their horizon where that is more: ranking millions of weights takes longer than a step.
        steps: training steps of an epoch, where `fit` cannot tell beforehand, as with generators and some tf.data; None asks
            `fit`. Where that does not know either, the first epoch counts them: nothing is pressed in it, and `until` is of the
            epochs after it.
        multiple_of: for coupled groups: the channels that stay are a multiple of it; int8 kernels like 8 or 16.

    Attributes:
        history: one dict per look of this `fit`: `step`, `freed` so far and `planned` as fractions of what the budget removes,
            and `marginal`, the score of the last group that has to go.
        met_at: training step at which the budget was met; None before.

    After a `fit` that was interrupted, the next one ends the pressing, and begins anew where it has a BudgetProximal; so do
    `prune`, `prune_groups` and `detach`.

    Raises:
        ValueError: for a value out of range; at the start of `fit`, for a model without budget, a budget out of reach, an
            unknown number of steps where there is one epoch.

    Example:
        >>> model.fit(x, y, epochs=20, callbacks=[BudgetProximal("macs=0.5")])
        >>> prune_groups(model)
        >>> small = shrink(model)
    """

    def __init__(
        self, budget=None, until=None, criterion=None, power=None, survivors=None, every=None, multiple_of=1, steps=None,
        horizon=None,
    ):
        super().__init__()
        if until is not None:
            check_fraction("until", until, "training steps before the deadline", exclusive=True)
        if every is not None:
            check_integer("every", every, 1, fix="It counts training steps.")
        if power is not None:
            check_number("power", power, exclusive=True, fix="1 is usual.")
        if survivors is not None and not (is_number(survivors) and 0 <= survivors <= 1):
            fix = "0 leaves the groups that are to stay alone, 1 presses on all alike."
            raise ValueError(errors.message("`survivors` must be in [0, 1].", fix, survivors=survivors))
        self.budget, self.until, self.criterion, self.every = budgets.get(budget), until, criterion, every
        check_integer("multiple_of", multiple_of, 1, fix="1, 8 or 16.")
        if steps is not None:
            check_integer("steps", steps, 1, fix="It counts the training steps of an epoch.")
        self.steps = steps
        if horizon is not None and not (is_number(horizon) and 0 < horizon <= 1):
            fix = "1 draws the marginal group to zero right at the deadline, 0.2 in a fifth of that time."
            raise ValueError(errors.message("`horizon` must be in (0, 1].", fix, horizon=horizon))
        self.power, self.survivors, self.horizon, self.multiple_of = power, survivors, horizon, multiple_of
        self.history, self.met_at = [], None
        self._groups, self._epoch, self._steps, self._done, self._pressing = None, 0, None, 0, False
        self._first, self._looked = None, 0
        self._counted, self._before = 0, 0
        self._slow, self._deaf, self._bare = [], False, False

    def on_train_begin(self, logs=None):
        self._steps = (self.params or {}).get("steps") or self.steps
        self._check_countable((self.params or {}).get("epochs", 1))
        check_trains_zeros(getattr(self.model, "optimizer", None))
        one_fit.end_earlier(self.model, self)
        self.history, self._epoch, self._looked, self._deaf = [], 0, 0, False
        wanted = (self.budget, self.criterion, self.multiple_of)
        self._groups, self._bare = reachable_groups_of(self.model, type(self).__name__, *wanted)
        self.met_at, self._pressing, self._first, self._done = None, False, None, 0
        self._counted, self._before = 0, 0
        self._slow = follow_closely_for_now(self.model)
        self._groups.open()
        one_fit.begin(self.model, self, self._give_back)
        drop_compiled_steps(self.model)

    def _check_countable(self, epochs):
        """Raises where the steps of an epoch are not known, and there are no epochs after one in which they are counted."""
        if self._steps is None and epochs < 2:
            fix = "Pass steps=... here, steps_per_epoch to fit, data of known length, or several epochs: the first counts them."
            raise ValueError(errors.message("BudgetProximal must know the steps of an epoch.", fix, steps_per_epoch=None))

    def on_epoch_begin(self, epoch, logs=None):
        if self._steps is None and self._counted:
            self._steps = self._before = self._counted
        if self._steps is None:
            self._begin_to_count(epoch)
            return
        if self._first is None:
            self._begin(epoch)
        self._epoch = epoch - self._first
        self._done = self._epoch * self._steps

    def _begin_to_count(self, epoch):
        """Before an epoch in which steps are counted, and which `initial_epoch` may have chosen."""
        try:
            self._check_countable(self.params["epochs"] - epoch)
        except ValueError:
            one_fit.end(self.model, self)
            if self._bare:
                take_off(self.model)  # the penalties that were put on for this `fit`
            raise

    def on_test_begin(self, logs=None):
        """Of the validation after an epoch: one that was stopped inside still owes something."""
        if self._pressing:
            self._sync()
            self._groups.step(0, True)

    def on_epoch_end(self, epoch, logs=None):
        if self._counted and self._steps is not None:
            self._done = (self._epoch + 1) * self._steps  # also after fewer steps than were counted
        self.on_test_begin()

    def _begin(self, epoch):
        """Before the first epoch, which `initial_epoch` may have chosen: what came before was not looked at."""
        self._first = epoch
        if self._deadline < _FEWEST_STEPS:
            errors.warn(
                f"Only {self._deadline} training steps come before the deadline: groups are cut rather than drawn to zero. "
                f"Train longer, at least {round(_FEWEST_STEPS / self._until)} steps in all.",
            )

    def on_train_batch_begin(self, batch, logs=None):
        if self._groups is None or self._steps is None or self.met_at is not None:
            return
        now = self._epoch * self._steps + batch
        if now >= self._deadline:
            self._finish(now)
            return
        every = max(1, min(self._every, self._deadline // _LOOKS))
        # Several steps in one execution may pass over the one that is due.
        if not self._pressing or now // every > self._looked // every:
            self._look(now)

    def on_train_batch_end(self, batch, logs=None):
        if self._steps is None:
            self._counted = batch + 1
            return
        # The last execution of an epoch may have fewer steps than the others, which Keras does not say.
        now = self._epoch * self._steps + min(batch + 1, self._steps)
        passed, self._done = now - self._done, now
        if self._pressing:
            self._sync()
            self._groups.step(passed, now == (self._epoch + 1) * self._steps)

    def on_train_end(self, logs=None):
        if self._groups is None:
            return
        if self.met_at is None and self._first is not None and self._done >= self._deadline:
            self._finish(self._done)  # the deadline is the end
        if self.met_at is None:
            errors.warn(
                "Training ended before the deadline, and the budget is not met yet: pruning now cuts what the network still "
                "uses. Train for all epochs that were planned, or set an earlier deadline with `until`.",
            )
        else:
            # Another callback may have brought back weights of before the deadline.
            zero_again(self.model)
        one_fit.end(self.model, self)

    def checkpoint_state(self):
        """What a training that goes on needs to know besides numbers and histories; see `workflow.checkpoint`."""
        return self._groups.amounts()

    def continue_from(self, state):
        """Presses on as before the training was cut off."""
        if self.met_at is None:
            self._groups.press_on(state)
        else:
            self._groups.close()
        drop_compiled_steps(self.model)

    def _give_back(self):
        """Takes off what lasts as long as one `fit`."""
        if self._groups is not None:
            self._groups.close()
        self._groups, self._pressing = None, False
        follow_again(self._slow)
        self._slow = []
        drop_compiled_steps(self.model)

    @property
    def _deadline(self):
        """Training steps from the first epoch of this `fit`, or the first after steps were counted, to the deadline."""
        return max(1, round(self._until * self._steps * (self.params["epochs"] - self._first)))

    @property
    def _until(self):
        return self._groups.until if self.until is None else self.until

    @property
    def _horizon(self):
        """Training steps in which the marginal group would be gone."""
        if self.horizon is not None:
            return max(1, round(self.horizon * self._deadline))
        return max(_FEWEST_STEPS_AHEAD, round(self._groups.horizon * self._deadline))

    @property
    def _every(self):
        """Training steps between two looks, where the deadline is far."""
        if self.every is not None:
            return self.every
        return max(_USUAL, self._horizon // _PER_HORIZON) if self._groups.many else _USUAL

    def _look(self, now):
        groups = self._groups
        if not self._knows_enough(now):
            return
        self._sync()
        check_trained_finite(self.model)  # no number has a rank: a whole layer would be zeroed
        norms = groups.norms()
        scores = groups.scores(norms)
        spared = groups.spared(scores)
        chosen = choose(scores, groups.demands, spared)
        power = groups.power if self.power is None else self.power
        survivors = groups.survivors if self.survivors is None else self.survivors
        steps = min(self._deadline - now, self._horizon)
        amounts = pace(norms, scores, chosen.keep, chosen.marginal, steps, power, survivors)
        # A group that stays only as the best of its kernel would be drawn to zero before those that go.
        groups.press(np.where(spared & (scores <= chosen.marginal), 0.0, amounts))
        self._pressing, self._looked = True, now
        self._note(now, norms > 0, chosen.marginal)

    def _knows_enough(self, now):
        """Whether groups can be told apart: by norms at once, by the loss's reaction after some batches."""
        seen = self._groups.seen
        enough = min(ENOUGH_BATCHES, max(1, self._deadline // 3))
        if seen == 0 and now >= 2 * enough and self.criterion == TAYLOR and not self._deaf:
            self._deaf = True
            errors.warn(
                'criterion="taylor" needs gradients that go through the optimizer the model is compiled with, and none did: '
                "groups are ranked by norms. Compile the model with the optimizer that trains it, or choose another criterion.",
            )
        # Where none is seen, as with an optimizer of the model's own, norms have to do.
        return seen is None or seen >= enough or (seen == 0 and now >= 2 * enough)

    def _finish(self, now):
        groups = self._groups
        self._sync()
        check_trained_finite(self.model)
        norms = groups.norms()
        scores = groups.scores(norms)
        keep = groups.last(scores)
        groups.close()
        groups.finish(keep)
        self._note(now, keep, float(scores[~keep].max(initial=0.0)))
        self.met_at, self._pressing = self._before + now, False
        drop_compiled_steps(self.model)

    def _note(self, now, keep, marginal):
        self.history.append(noted(self._groups, self._before + now, min(1.0, now / self._deadline), keep, marginal))

    def _sync(self):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # inside an epoch the weights live outside their variables there
