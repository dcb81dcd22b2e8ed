"""What happens between epochs: reweighting, learning-rate restarts, zeros kept to the end."""


import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import check_integer, check_number
from tf_reweight.graph import one_fit
from tf_reweight.graph.access import schedule_of
from tf_reweight.graph.batchnorm import follow_again, follow_closely_for_now
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.learning_rate import BorrowedRate, half_cosine
from tf_reweight.penalties import epsilons
from tf_reweight.penalties.attachment import attach, attachments, unique_names


class Reweighting(keras.callbacks.Callback):
    """Renews the penalty weights of every `Reweighted` regularizer while `fit` runs.

    At the start of `fit` it binds penalties given in layers' constructors. A *round* is the time between two updates:
    `P <- penalty.weight(norms)` at the start of epochs `start`, `start + every`, ... Everything is decided from the epoch
    number alone, so a run resumed by `BackupAndRestore` or `initial_epoch` continues exactly. While `fit` runs, the momentum of
    BatchNormalization is 0.9 at most, so that its statistics keep up with the weights that the penalty moves.

    Args:
        every: epochs per round.
        rounds: number of updates; None goes on to the end of training.
        start: epoch of the first update. 0 (default) is the warm start for pretrained weights; with a larger one the
            penalty acts with all weights 1 until then.
        epsilon: overrides the penalties' own; a number, `(first, last)` for one lowered geometrically over the rounds
            (needs `rounds`), or a rule of `tf_reweight.epsilons`, such as `{"name": "adaptive", "keep": 0.1}`.
        learning_rate: None leaves the optimizer alone; a number restarts the learning rate there in each round and lowers
            it along half a cosine towards zero, which lets freed groups settle before the next update; afterwards the
            optimizer has its rate of before again, and after a `fit` that was interrupted from the next one on.

    Attributes:
        history: one dict per update of this `fit`: `epoch` and, per kernel, the number of groups that live, their norm above
            `negligible`, and of all. Of a second penalty on a kernel, in the order of `regularize`, the name is
            `"path/kernel (2)"`.

    Example:
        >>> model.fit(x, y, epochs=40, callbacks=[Reweighting(every=10, learning_rate=1e-3)])
    """

    def __init__(self, every=10, rounds=None, start=0, epsilon=None, learning_rate=None):
        super().__init__()
        check_integer("every", every, 1)
        check_integer("start", start, 0)
        if rounds is not None:
            check_integer("rounds", rounds, 1)
        self.every, self.rounds, self.start = every, rounds, start
        self.epsilon = _checked_epsilon(epsilon, rounds)
        if learning_rate is not None:
            fix = "None leaves the optimizer alone."
            check_number("learning_rate", learning_rate, exclusive=True, fix=fix)
        self.learning_rate = learning_rate
        self.history = []
        self._epoch, self._first, self._slow, self._rate = 0, None, [], None

    def is_update(self, epoch):
        """Whether the weights are renewed at the start of this epoch (counted from 0)."""
        since = epoch - self.start
        return since >= 0 and since % self.every == 0 and (self.rounds is None or since // self.every < self.rounds)

    def on_train_begin(self, logs=None):
        self.history, self._epoch, self._first = [], 0, None
        epochs = (self.params or {}).get("epochs")
        if epochs is not None and self.start >= epochs:
            raise ValueError(
                errors.message(
                    f"The first update must come before training ends after {epochs} epochs.",
                    "Lower `start`, or train longer.",
                    start=self.start,
                )
            )
        if self.learning_rate is not None and schedule_of(self.model.optimizer) is not None:
            raise ValueError(
                errors.message(
                    "Learning-rate restarts need an optimizer with a plain learning rate.",
                    "Compile with learning_rate=a number, or drop `learning_rate` here.",
                    learning_rate=schedule_of(self.model.optimizer),
                )
            )
        attach(self.model)
        carried = attachments(self.model)
        if not carried:
            raise ValueError(
                errors.message(
                    "Expected a model with at least one Reweighted penalty.",
                    "Call tf_reweight.regularize(model, ...), or pass "
                    "kernel_regularizer=tf_reweight.regularizers.Reweighted(...).",
                    model=self.model.name,
                )
            )
        others = {item.target.name: type(item.regularizer).__name__ for item in carried if not item.regularizer.renewable}
        if others:
            raise ValueError(
                errors.message(
                    "`Reweighting` needs penalties whose weights it can renew, and no others.",
                    "Fit without Reweighting, or `detach` the others first.",
                    others=others,
                )
            )
        self._rate = None if self.learning_rate is None else BorrowedRate(self.model.optimizer)
        self._slow = follow_closely_for_now(self.model)
        one_fit.begin(self.model, self, self._give_back)
        # Keras made the train step before this callback ran; the penalties bound now are not in it yet.
        self.model.make_train_function(force=True)

    def on_train_end(self, logs=None):
        if self._rate is not None:
            self._rate.give_back()
        one_fit.end(self.model, self)

    def _give_back(self):
        if self._rate is not None:
            self._rate.give_back_if_unchanged()
        if self._slow:
            follow_again(self._slow)
            drop_compiled_steps(self.model)
            self._slow = []

    def on_epoch_begin(self, epoch, logs=None):
        if self._first is None:
            self._first = epoch
            self._warn_without_update()
        self._epoch = epoch
        if self.is_update(epoch):
            self.update(epoch)

    def _warn_without_update(self):
        """Warns where `initial_epoch` leaves no update to this fit, and there was none before it either."""
        epochs = (self.params or {}).get("epochs") or self._first
        due = any(map(self.is_update, range(self._first, epochs)))
        if not due and any(item.regularizer.awaits_update for item in attachments(self.model)):
            errors.warn(
                f"No update of the penalty weights falls into the epochs {self._first} to {epochs - 1} of this fit, and none "
                f"came before: all groups are penalised alike. Pass start={self._first}, or a smaller every.",
            )

    def update(self, epoch):
        """Renews all penalty weights from the kernels as they are now."""
        living, carried = {}, attachments(self.model)
        for name, item in zip(unique_names(carried), carried):
            kernel = item.target.variable.value
            epsilon = self._epsilon_at(epoch, item.regularizer, kernel)
            norms = ops.convert_to_numpy(item.regularizer.update(kernel, epsilon))
            living[name] = {
                "living_groups": int(np.sum(norms > item.regularizer.negligible)), "num_groups": int(norms.size)
            }  # fmt: skip
        self.history.append({"epoch": epoch, "kernels": living})

    def on_train_batch_begin(self, batch, logs=None):
        if self.learning_rate is None:
            return
        steps = (self.params or {}).get("steps")
        inside = self._epoch + (batch / steps if steps else 0.0)
        self._rate.set(self.learning_rate * half_cosine(self._round_progress(inside)))

    def _round_progress(self, epoch):
        """How far into its round a (fractional) epoch is, in [0, 1); a last round without end stays at 1."""
        since = epoch - self.start
        if since < 0:
            return epoch / self.start
        if self.rounds is not None and since >= self.rounds * self.every:
            return 1.0
        return (since % self.every) / self.every

    def _epsilon_at(self, epoch, regularizer, kernel):
        if self.epsilon is None:
            return None
        norms = ops.convert_to_numpy(regularizer.compared_norms(kernel))
        return self.epsilon.at((epoch - self.start) // self.every, self.rounds, norms)


def _checked_epsilon(epsilon, rounds):
    if epsilon is None:
        return None
    rule = epsilons.get(epsilon)
    if rule.needs_rounds and rounds is None:
        raise ValueError(
            errors.message(
                "An `epsilon` that is lowered over the rounds needs `rounds`.",
                "Pass rounds, or a number such as 1e-2.",
                epsilon=epsilon,
                rounds=rounds,
            )
        )
    return rule
