"""The proximal solver for coupled penalties: a soft threshold on groups that span many variables."""


import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_fraction, check_number
from tf_reweight.coupling.analysis.sets import groups
from tf_reweight.coupling.cost import Cost
from tf_reweight.coupling.floors import has_bypass
from tf_reweight.coupling.gathered import Gathered
from tf_reweight.coupling.pruning import penalties_of
from tf_reweight.coupling.scores import group_norms
from tf_reweight.graph import one_fit
from tf_reweight.graph.batchnorm import follow_again, follow_closely_for_now
from tf_reweight.graph.checking import check_finite, check_trained_finite
from tf_reweight.graph.compiled import rate_now
from tf_reweight.graph.optimizers import accumulated, zero_averages
from tf_reweight.kernels.compiled_step import compiled, drop_compiled_steps
from tf_reweight.penalties.attachment import attach, attachments, check_trainable
from tf_reweight.penalties.base import replaced
from tf_reweight.penalties.projections import kept
from tf_reweight.penalties.proximal import STEP, Silent

# Training steps between two looks at what is zero.
_LOOK_EVERY = 10


class CoupledProximal(keras.callbacks.Callback):
    """Solves for the coupled penalties on the model by proximal steps instead of gradients.

    After the training steps on the loss alone every group is shrunk over all its variables at once,
    `r_g <- max(0, r_g - step * strength * P_g * rate)`, with the penalty weights P that `callbacks.Reweighting` renews. `rate`
    is the learning rate relative to the largest so far, so that shrinking ends with the optimizer's steps when a schedule
    lowers them. One shrinking stands for two training steps, by what both come to, which halves the cost. At the
    end of a whole epoch every step of it has been shrunk for.

    Why not by gradient: an optimizer such as Adam moves each weight by about the learning rate and no more, however strong
    the penalty. A BatchNorm's gamma starts at 1, so a group needs many hundred steps before it can be gone; a soft threshold
    scales all of a group's weights alike, the large ones with the small.

    L2 and other regularizers stay in the loss. During `fit`, `loss` and `val_loss` are without the penalty. After a `fit` that
    was interrupted, the next one ends the shrinking.

    The largest group of a set never becomes zero, unless the network has a bypass around the set: a net cannot become empty.

    With a budget the strength must only be large enough: shrinking ends when the groups that are zero give it. They stay zero
    then, and the others recover. A `fit` that ends before warns: the strength was too small.

    Args:
        step: factor on `strength`, > 0; `step * strength` is what one training step takes off a group of weight 1.
        macs: the budget, the fraction of the multiply-accumulates to free, in [0, 1); None presses to the end.

    Attributes:
        met_at: training steps of this `fit` after which the budget was seen to be met; None before, and without one.

    Raises:
        ValueError: for a value out of range; at the start of `fit`, for a model without coupled penalties or with others, and
            for a budget above all that penalised channels can give.

    Example:
        >>> regularize_coupled(model, strength=1.0)
        >>> model.fit(x, y, epochs=8, callbacks=[Reweighting(every=2, learning_rate=2e-3), CoupledProximal(macs=0.5)])
        >>> prune_groups(model, macs=0.5)
    """

    def __init__(self, step=STEP, macs=None):
        super().__init__()
        check_number("step", step, minimum=0.0, exclusive=True)
        if macs is not None:
            check_fraction("macs", macs, "multiply-accumulates removed")
        self.step, self.macs, self.met_at = float(step), macs, None
        self._items, self._peak, self._apply = [], 0.0, None
        self._budget, self._spared, self._steps, self._slow = None, [], 0, []
        self._held, self._done = None, 0

    def on_train_begin(self, logs=None):
        check_finite(self.model)  # a soft threshold would make zeros of what is no number
        attach(self.model)
        items = attachments(self.model)
        others = [item.target.name for item in items if not item.regularizer.spans_several]
        if others or not items:
            raise ValueError(
                errors.message(
                    "CoupledProximal needs coupled penalties on the model, and no others.",
                    "Call regularize_coupled(model, ...); for penalties on single kernels there is callbacks.Proximal.",
                    others=others[:5],
                )
            )
        for item in items:
            if item.regularizer.no_coupled_step is not None:
                expected = f"CoupledProximal needs penalties that are sums of norms: {item.regularizer.no_coupled_step}."
                fix = "Leave CoupledProximal out: the gradient solver takes any penalty with a strength."
                raise ValueError(errors.message(expected, fix, kernel=item.target.name))
        check_trainable(items)
        one_fit.end_earlier(self.model, self)
        coupled = groups(self.model)
        self._budget = None if self.macs is None else _Budget(coupled, items, self.macs)
        self._spared = [not has_bypass(coupled, [item.regularizer.item]) for item in items]
        self._items, self._peak, self._steps, self.met_at = items, 0.0, 0, None
        self._held = None
        for item in items:
            item.target.variable.regularizer = replaced(item.target.regularizer, Silent)
        self._apply = Gathered(compiled(self.shrink_coupled_groups))
        self._look()
        self._slow = follow_closely_for_now(self.model)
        one_fit.begin(self.model, self, self._give_back)
        drop_compiled_steps(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self._done = 0

    def on_train_batch_end(self, batch, logs=None):
        if self._apply is None:
            return
        rate = rate_now(self.model.optimizer)
        self._peak = max(self._peak, rate)
        # Several training steps may come in one execution; the last one of an epoch has fewer, which Keras does not say.
        last = (self.params or {}).get("steps") or batch + 1
        now = min(batch + 1, last)
        passed, self._done = now - self._done, now
        before, self._steps = self._steps, self._steps + passed
        look = self._steps // _LOOK_EVERY > before // _LOOK_EVERY
        if self._peak > 0:
            # With gradient accumulation only one step in several moves the weights.
            moved = passed / accumulated(self.model.optimizer)
            self._apply.add(passed, moved * rate / self._peak, now=look or now == last)
        if look:
            self._look()

    def on_epoch_end(self, epoch, logs=None):
        if self._apply is not None:
            self._apply.flush()  # of an epoch that was stopped inside
            for item in self._items:
                item.regularizer.without_negative_zeros()

    def on_train_end(self, logs=None):
        if self._apply is not None:  # a callback that trains the model by itself has ended this solver
            self._apply.flush()  # of an epoch that was stopped inside
        if self._budget is not None and self.met_at is None:
            errors.warn(
                f"The groups that are zero do not free {self.macs:.0%} of the multiply-accumulates yet: raise the strength, or "
                "train longer. Pruning to the budget now cuts what the network still uses.",
            )
        one_fit.end(self.model, self)

    def _give_back(self):
        for item in self._items:
            # The layer's attribute was never touched, so that a model saved meanwhile is the usual one.
            item.target.variable.regularizer = kept(item.target)
        follow_again(self._slow)
        self._items, self._slow, self._apply, self._budget = [], [], None, None
        drop_compiled_steps(self.model)

    def shrink_coupled_groups(self, steps):
        """Shrinks every group; `steps` counts training steps, of which a lower learning rate makes fractions.

        By this name its trace is known, see `kernels.traced`.
        """
        for penalty, spared in zip((item.regularizer for item in self._items), self._spared):
            penalty.soft_threshold(self.step * penalty.strength * steps * penalty.penalty_weights, spared)
        self._zero_averages()

    def _look(self):
        """Ends the shrinking when the budget is met."""
        if self._budget is None or self.met_at is not None or not self._budget.met():
            return
        check_trained_finite(self.model)  # what is no number counted as zero
        self.met_at = self._steps
        # What a penalty sees as zero is also kept from coming back: a constant (beta) may still reach the next layer.
        self._hold([np.where(_alive(item.regularizer), 0.0, np.inf).astype("float32") for item in self._items])

    def _hold(self, amounts):
        self._held = amounts
        holding = [(item.regularizer, of_set) for item, of_set in zip(self._items, amounts)]

        def hold_coupled_groups(steps):
            for penalty, of_set in holding:
                penalty.soft_threshold(of_set)
            self._zero_averages()

        # After each training step: gathered, what is held would be back in every second one.
        self._apply = Gathered(compiled(hold_coupled_groups), every=1)

    def _zero_averages(self):
        variables = {id(variable): variable for item in self._items for variable in item.regularizer.thresholded}
        zero_averages(self.model.optimizer, variables.values())

    def checkpoint_state(self):
        """What a training that is cut off and goes on needs to know besides numbers; see `workflow.checkpoint`."""
        return self._held

    def continue_from(self, state):
        """Holds what was held before the training was cut off."""
        self._hold(state)


class _Budget:
    """Whether the groups that penalties see as zero free a fraction of the multiply-accumulates."""

    def __init__(self, coupled, items, macs):
        penalties = penalties_of(coupled.sets, [item.regularizer for item in items])
        self._sets = list(zip(coupled.sets, penalties))
        self._cost = Cost(coupled)
        self._most = self._cost.macs() - macs * self._cost.macs()
        least = self._cost.macs([np.full(item.num_groups, penalty is None) for item, penalty in self._sets])
        if least > self._most:
            expected = f"`macs` must be at most {1.0 - least / self._cost.macs():.3f}, all that penalised channels can give."
            raise ValueError(errors.message(expected, "Frozen channels stay.", macs=macs))

    def met(self):
        sums = {}
        keeps = [np.ones(item.num_groups, bool) if penalty is None else _alive(penalty, sums) for item, penalty in self._sets]
        return self._cost.macs(keeps) <= self._most


def _alive(penalty, sums=None):
    return group_norms(penalty.item, penalty.criterion, sums) > 0
