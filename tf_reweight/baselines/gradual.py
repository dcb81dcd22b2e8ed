"""Gradual magnitude pruning: a little more is removed every few steps, as tfmot does it."""


import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.baselines import projection, schedules
from tf_reweight.graph import one_fit
from tf_reweight.graph.checking import check_trained_finite
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.optimizers import steps_of
from tf_reweight.kernels.compiled_step import drop_compiled_steps, renew_step
from tf_reweight.kernels.constraints import mask_of
from tf_reweight.kernels.grouping import LAMP
from tf_reweight.kernels.held import hold_all
from tf_reweight.kernels.selection import select
from tf_reweight.structures import get as get_structure


class GradualMagnitude(keras.callbacks.Callback):
    """Removes the groups of smallest magnitude by a schedule while `fit` runs (Zhu and Gupta, arXiv 1710.01878).

    At each update of the schedule the groups are ranked by their norms, and the smallest are set to zero and held there, as
    `prune` does, also through saving and loading; what is removed stays removed. Steps are counted by the optimizer, so a
    resumed run or a second `fit` goes on where the schedule was; after other training with the same optimizer a warning says
    that the schedule is under way or over already. The model is pruned when the schedule has ended: train on, or
    `release` it; no `prune` is needed. A kernel has one of them in a `fit`.

    Args:
        schedule: `ConstantSparsity`, `PolynomialDecay`, or the config of one.
        structure: name, config or `Structure`. Of structures that decide themselves what is kept (n of m, patterns) the
            smallest weights they would not keep go first; a final sparsity at or above their own reaches them whole.
        layers: which layers; see `kernels.selectors`. Frozen kernels are left alone.
        scope: `"layer"` (default, tfmot's: the same fraction of each kernel), `"model"` or `"scope"`.
        criterion: what groups of several kernels are ranked by: `"lamp"` (default), `"magnitude"` or `"relative"`; see
            `prune`.

    Attributes:
        history: one dict per update of this `fit`: `step` of the schedule and `sparsity` reached over all kernels.

    Example:
        >>> schedule = PolynomialDecay(0.0, 0.9, begin_step=0, end_step=2000)
        >>> model.fit(x, y, epochs=20, callbacks=[GradualMagnitude(schedule)])
    """

    def __init__(self, schedule, structure="unstructured", layers=None, scope="layer", criterion=LAMP):
        super().__init__()
        self.schedule = schedules.get(schedule)
        self.structure = get_structure(structure)
        projection.check_ranking(scope, criterion)
        self.layers, self.scope, self.criterion = layers, scope, criterion
        self.history = []
        self._selected, self._applied = [], None

    def on_train_begin(self, logs=None):
        self._warn_when_too_late()
        self.history = []
        selected = projection.trainable(select(self.model, self.structure, self.layers)[0])
        variables = [item.target.variable for item in selected]
        one_fit.end_earlier(self.model, self, lambda earlier: projection.in_common(variables, earlier.variables))
        one_fit.begin(self.model, self, lambda: None)
        self._selected = selected
        self._applied, started = None, self.schedule.last_update(self._step() - 1)
        self._warn_when_begun_without_it()
        masks = []
        for variable in variables:
            if mask_of(variable) is None:
                # A fit that was cut off and goes on, of weights alone: its masks were not saved, but its zeros were.
                kept = np.ones(variable.shape, bool) if started is None else as_numpy(variable) != 0
                masks.append((variable, kept))
        hold_all(self.model, masks)
        drop_compiled_steps(self.model)

    @property
    def variables(self):
        """The kernels that it prunes."""
        return [item.target.variable for item in self._selected]

    def on_train_batch_begin(self, batch, logs=None):
        # Not "is this step one of the schedule's": with several steps per execution most are never seen here.
        due = self.schedule.last_update(self._step())
        if due is not None and due != self._applied:
            self._applied = due
            self.update(due)

    def on_train_end(self, logs=None):
        # What was due inside the last execution of several steps.
        due = self.schedule.last_update(self._step() - 1)
        if due is not None and due != self._applied:
            self.update(due)
        one_fit.end(self.model, self)

    def update(self, step):
        """Chooses the masks that belong to a step of the schedule, from the weights as they are now."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # inside an epoch the weights live outside their variables there
        check_trained_finite(self.model)  # no number has a rank
        variables = self.variables
        kernels = [as_numpy(variable) for variable in variables]
        chosen = projection.masks(self._selected, kernels, self.schedule.sparsity(step), self.scope, self.criterion)
        kept = 0
        for variable, kernel, mask in zip(variables, kernels, chosen):
            mask &= variable.constraint.as_numpy()
            variable.constraint.mask.assign(mask.astype("float32"))
            variable.assign(np.where(mask, kernel, 0))
            kept += int(mask.sum())
        renew_step(self.model)
        self.history.append({"step": step, "sparsity": 1.0 - kept / sum(kernel.size for kernel in kernels)})

    def _step(self):
        return steps_of(self.model.optimizer)

    def _warn_when_begun_without_it(self):
        """Warns where the steps before this fit count towards the schedule, and have not pruned what it says by now."""
        taken, schedule = self._step(), self.schedule
        due = schedule.last_update(taken)
        if due is None or taken == schedule.begin_step:
            return
        wanted, kernels = schedule.sparsity(due), [as_numpy(item.target.variable) for item in self._selected]
        zeros = sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)
        is_sudden = wanted > schedule.sparsity(schedule.begin_step) or schedule.begin_step > 0
        # A fit that goes on has about what was wanted before, and a structure may be unable to have all of it.
        if is_sudden and zeros < wanted / 2:
            errors.warn(
                f"The schedule counts the optimizer's steps, and {taken} came before this fit without pruning: its first batch "
                f"cuts to a sparsity of {wanted:.0%} at once. Compile the model anew, which counts from 0, or add {taken} to "
                "begin_step and end_step.",
            )

    def _warn_when_too_late(self):
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if steps is not None and self._step() + steps * epochs <= self.schedule.begin_step:
            errors.warn(
                f"The schedule begins at step {self.schedule.begin_step}, and this fit ends before: nothing is pruned in it.",
            )
