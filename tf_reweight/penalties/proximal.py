"""The proximal solver: the optimizer follows the loss alone, and a soft threshold on the groups does the rest."""

import math

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_number
from tf_reweight.graph import one_fit
from tf_reweight.graph.batchnorm import follow_again, follow_closely_for_now
from tf_reweight.graph.checking import check_finite
from tf_reweight.graph.distribution import as_numpy, beside
from tf_reweight.graph.optimizers import accumulated
from tf_reweight.kernels.compiled_step import drop_compiled_steps, renew_step
from tf_reweight.kernels.constraints import insert, remove
from tf_reweight.kernels.table import find
from tf_reweight.penalties.attachment import attach, attachments
from tf_reweight.penalties.base import Holder, as_loss, replaced
from tf_reweight.penalties.projections import kept
from tf_reweight.penalties.soft_threshold import EVERY, SoftThreshold


# What the soft thresholds multiply a strength by, where nobody says: those of single kernels and of coupled groups alike.
STEP = 5e-3


class Silent(Holder):
    """A penalty that keeps its weights and adds nothing to the loss, while a proximal step stands in for it.

    Not serializable on purpose: it lasts as long as one `fit`, and the layer's own attribute keeps the penalty.

    Args:
        penalty: the `KernelPenalty` to silence.
    """

    def __init__(self, penalty):
        super().__init__()
        self.penalty = penalty

    def parts(self):
        """The single penalties in here: those of the one it silences."""
        return self.penalty.parts()

    def replaced(self, function):
        """What stands in place of the penalty, silent no more."""
        return replaced(self.penalty, function)

    def bind(self, layout):
        """A silent copy for a kernel of this `Layout`."""
        return Silent(self.penalty.bind(layout))

    def __call__(self, kernel):
        return as_loss(0.0)


class Proximal(keras.callbacks.Callback):
    """Solves for the penalties on the model by proximal steps instead of gradients: exact zeros during training.

    After the optimizer's steps on the loss alone every group is shrunk,
    `r_g <- max(0, r_g - step * strength * P_g)`, with the penalty weights P of the model's `Reweighted` penalties. Add it next
    to `callbacks.Reweighting`, which renews P as ever; `regularize` and `prune` are the same, only the solver differs. It works
    under every Keras optimizer, since Keras applies constraints after each of them.

    On TensorFlow one shrinking stands for two optimizer steps, by what both come to, which halves its cost. At
    the end of an epoch every step of it has been shrunk for; within one, zeros may be away after an odd number of steps.
    Elsewhere, and where `fit` cannot tell the steps of an epoch beforehand, each step has its own.

    The step is its own, not the optimizer's: adaptive optimizers rescale the gradient of a penalty along with the loss's, and
    a soft threshold is not rescaled. `step * strength` is what one optimizer step takes off a group of weight 1. On digits,
    with Adam at 2e-3 and unstructured `log_sum`, a product of 2e-5 freed three quarters of the weights, and 6e-4 all of them.

    L2 and other regularizers stay in the loss. Zeros may come back until the model is pruned. During `fit`, `loss` and
    `val_loss` are without the penalty. After a `fit` that was interrupted, the next one, or `take_off(model)`, ends the steps.

    Args:
        step: factor on `strength`, > 0.

    Example:
        >>> tfr.regularize(model, "filter", strength=1e-4)
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> model.fit(x, y, epochs=20, callbacks=[Reweighting(every=5), Proximal(step=0.1)])
        >>> tfr.prune(model)
    """

    def __init__(self, step=STEP):
        super().__init__()
        check_number("step", step, minimum=0.0, exclusive=True)
        self.step = float(step)
        self._placed, self._stale, self._slow = [], True, []

    def on_train_begin(self, logs=None):
        check_finite(self.model)  # a soft threshold would make zeros of what is no number
        one_fit.end_earlier(self.model, self)
        attach(self.model)
        take_off(self.model)
        chosen = _chosen(self.model)
        # Before validation no step may be owed, and with generators nobody knows which one is the last.
        every = EVERY if (self.params or {}).get("steps") else 1
        # The threshold is applied at every call of the optimizer; with accumulation only one in several moves the weights,
        # and soft thresholds in a row add up.
        calls = accumulated(self.model.optimizer)
        self._placed = []
        for target, penalty in chosen:
            target.variable.regularizer = replaced(target.regularizer, Silent)
            factor = self.step * penalty.strength / calls
            with beside(target.variable):
                constraint = SoftThreshold(penalty.structure, target.layout, factor * _weights(penalty), every=every)
            insert(target.variable, constraint)
            self._placed.append((constraint, target.variable, penalty, factor))
        self._slow = follow_closely_for_now(self.model)
        one_fit.begin(self.model, self, self._give_back)
        drop_compiled_steps(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        # Taken over at the first batch: by then `Reweighting` has renewed the weights, wherever it stands in the list.
        self._stale = True

    def on_train_batch_begin(self, batch, logs=None):
        if self._stale:
            self._stale = False
            changed = False
            for constraint, _, penalty, factor in self._placed:
                thresholds = factor * _weights(penalty)
                changed |= not np.array_equal(thresholds, as_numpy(constraint.thresholds))
                constraint.thresholds.assign(thresholds)
            if changed:
                renew_step(self.model)

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 >= ((self.params or {}).get("steps") or math.inf):  # the last execution may count beyond it
            self._flush()

    def on_test_begin(self, logs=None):
        self._flush()  # validation after an epoch that was stopped inside

    def on_epoch_end(self, epoch, logs=None):
        self._flush()

    def on_train_end(self, logs=None):
        one_fit.end(self.model, self)

    def _flush(self):
        for constraint, variable, *_ in self._placed:
            constraint.flush(variable, self.model.optimizer)

    def _give_back(self):
        follow_again(self._slow)
        self._placed, self._slow = [], []
        take_off(self.model)
        drop_compiled_steps(self.model)  # the momentum is a constant in them as well


def take_off(model):
    """Ends the proximal steps: penalties act in the loss again, weights stay. `Proximal` does it when `fit` ends.

    Returns:
        The number of kernels that had one.
    """
    count = 0
    for target in find(model)[0]:
        if remove(target.variable, SoftThreshold):
            # The layer's attribute was never touched, so that a model saved meanwhile is the usual one.
            target.variable.regularizer = kept(target)
            count += 1
    if count:
        drop_compiled_steps(model)
    return count


def _chosen(model):
    """`(target, penalty)` pairs of a model, one for each kernel; raises where a proximal step has no closed form."""
    pairs = [(item.target, item.regularizer) for item in attachments(model)]
    if not pairs:
        raise ValueError(
            errors.message(
                "Expected a model with at least one Reweighted penalty.",
                "Call tf_reweight.regularize(model, ...) first.",
                model=model.name,
            )
        )
    for target, penalty in pairs:
        reason = _misfit(penalty, [other for where, other in pairs if where.name == target.name])
        if reason is not None:
            raise ValueError(
                errors.message(
                    f"A proximal step needs a penalty that is a sum over groups of one kernel: {reason}.",
                    "Leave Proximal out: the gradient solver takes any penalty.",
                    kernel=target.name,
                )
            )
    return pairs


def _misfit(penalty, on_kernel):
    if len(on_kernel) > 1:
        return f"this one carries {len(on_kernel)} penalties"
    return penalty.no_proximal_step


def _weights(penalty):
    return as_numpy(penalty.penalty_weights)
