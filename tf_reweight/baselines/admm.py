"""Pruning by the alternating direction method of multipliers: the predecessor of reweighting."""


import keras
import numpy as np
from keras import ops

from tf_reweight import errors, structures
from tf_reweight.baselines import projection
from tf_reweight.checks import EPOCHS, check_integer, check_number, is_sequence
from tf_reweight.graph import one_fit
from tf_reweight.graph.checking import check_trained_finite
from tf_reweight.graph.distribution import as_numpy, beside_all
from tf_reweight.kernels.grouping import LAMP
from tf_reweight.kernels.layout import Layout
from tf_reweight.kernels.selection import Selected, select
from tf_reweight.penalties.attachment import add_all, attachments
from tf_reweight.penalties.base import KernelPenalty, as_loss

# The coefficient, raised over the updates: a small one first, which lets the loss choose what Z is to be.
RHO = (1e-4, 1e-2)


@keras.saving.register_keras_serializable(package="tf_reweight")
class AdmmPenalty(KernelPenalty):
    """`rho / 2 * ||W - Z + U||^2` for one kernel W; Z is sparse, U collects what is still missing.

    `ADMM` puts it on the kernels and renews Z and U. Both are saved with the model, so that a run can be resumed.

    Args:
        structure: name, config or `Structure`.
        rho: the coefficient, > 0, at the start.
        layout: `Layout` of the kernel, or its config.
    """

    no_proximal_step = "ADMM's penalty is a distance to sparse kernels and no sum of norms"

    def __init__(self, structure, rho, layout):
        structure = structures.get(structure)
        check_number("rho", rho, minimum=0.0, exclusive=True)
        super().__init__(rho)
        self.structure = structure
        self.initial_rho = float(rho)
        self.layout = Layout.from_config(layout) if isinstance(layout, dict) else layout
        self.z = self._state("z", self.layout.shape, "zeros")
        self.u = self._state("u", self.layout.shape, "zeros")
        self.rho = self._state("rho", (), keras.initializers.Constant(self.initial_rho))

    @property
    def strength(self):
        """The coefficient as it is now, float > 0."""
        return float(as_numpy(self.rho))

    @property
    def negligible(self):
        """Half the smallest norm that is kept in Z: below it `prune` without a sparsity removes a group."""
        norms = ops.convert_to_numpy(self.norms(self.z.value))
        return float(norms[norms > 0].min()) / 2.0 if (norms > 0).any() else 0.0

    def bind(self, layout):
        """A fresh copy for a kernel of this `Layout`."""
        return type(self)(self.structure, self.initial_rho, layout)

    def misfit(self, shape):
        """Why a kernel of standard `shape` cannot carry this penalty, or None."""
        return self.structure.misfit(shape)

    def norms(self, kernel):
        """Group norms `(scopes, groups)`, float32, of the kernel in the layer's own order."""
        return self.structure.group_norms(self.layout.to_standard(ops.cast(kernel, "float32")))

    def __call__(self, kernel):
        """The penalty of the kernel: a scalar."""
        distance = ops.cast(kernel, "float32") - self.z.value + self.u.value
        return as_loss(0.5 * self.rho.value * ops.sum(ops.square(distance)))

    def get_config(self):
        return {"structure": self.structure.serialize(), "rho": self.initial_rho, "layout": self.layout.get_config()}

    def _state(self, name, shape, initializer):
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, trainable=False, autocast=False, dtype="float32"
        )  # fmt: skip


class ADMM(keras.callbacks.Callback):
    """Pulls the kernels to the nearest sparse ones while `fit` runs (Zhang et al., arXiv 1804.03294).

    The loss gets `rho / 2 * ||W - Z + U||^2`. Training minimises it over W; every few epochs
    `Z <- project(W + U)` and `U <- U + W - Z`, where `project` gives the nearest kernels with the wanted number of groups
    kept. Unlike reweighting, the sparsity is chosen beforehand, for the model or each layer. Kernels come close to Z, not onto
    it: `prune(model, sparsity=...)` with the same sparsity, scope and criterion ends it, and retraining follows.

    Updates happen at the start of epochs and depend on the epoch alone. A model saved meanwhile keeps Z and U; to resume by
    `BackupAndRestore`, call `attach(model)` before `fit`, so that there is something to restore.

    Args:
        structure: name, config or `Structure`.
        sparsity: fraction of the weights removed, in [0, 1); None for structures that decide themselves (n of m, patterns).
        rho: the coefficient, > 0; or `(first, last)` for one raised geometrically over the updates of the fit.
        every: epochs between updates of Z and U.
        layers: which layers; see `kernels.selectors`.
        scope: `"model"` (default, as of `prune`), `"layer"` or `"scope"`: where `sparsity` has to hold.
        criterion: what groups of several kernels are ranked by: `"lamp"` (default), `"magnitude"` or `"relative"`; see
            `prune`.

    Attributes:
        history: one dict per update of this `fit`: `epoch`, `rho`, and `distance`, `||W - Z|| / ||W||` over all kernels before
            Z moves.

    Example:
        >>> model.fit(x, y, epochs=20, callbacks=[ADMM("filter", 0.5, rho=(1e-3, 1e-1), every=2)])
        >>> tfr.prune(model, sparsity=0.5)
    """

    def __init__(self, structure, sparsity, rho=RHO, every=1, layers=None, scope="model", criterion=LAMP):
        super().__init__()
        self.structure = structures.get(structure)
        projection.check_amount(self.structure, sparsity)
        projection.check_ranking(scope, criterion)
        self.rho = _checked_rho(rho)
        check_integer("every", every, 1, fix=EPOCHS)
        self.sparsity, self.every, self.layers, self.scope, self.criterion = sparsity, every, layers, scope, criterion
        self.history, self._first = [], None

    def attach(self, model):
        """Puts the penalty on a model, in place, with Z the projection of its kernels; `fit` does it where it is missing.

        Returns:
            The list of `Attachment`: kernels and their `AdmmPenalty`.

        Raises:
            ValueError: when kernels carry other penalties of ours, or nothing selected is trainable.
        """
        carried = attachments(model)
        if not carried:
            self._put(model)
            carried = attachments(model)
            self._start(carried)
        others = [item.target.name for item in carried if not isinstance(item.regularizer, AdmmPenalty)]
        if others or not all(self._has_structure(item) for item in carried):
            raise ValueError(
                errors.message(
                    f"ADMM needs a model without other penalties than its own of structure {self.structure.serialize()!r}.",
                    "Call tf_reweight.detach(model) first.",
                    kernels=others or [item.target.name for item in carried],
                )
            )
        return carried

    def on_train_begin(self, logs=None):
        epochs = (self.params or {}).get("epochs")
        if epochs is not None and self.every >= epochs:
            raise ValueError(
                errors.message(
                    f"The first update of Z and U must come before training ends after {epochs} epochs.",
                    "Lower `every`, or train longer.",
                    every=self.every,
                )
            )
        one_fit.end_earlier(self.model, self)
        self.attach(self.model)
        one_fit.begin(self.model, self, lambda: None)
        self.history, self._first = [], None
        self.model.make_train_function(force=True)

    def on_train_end(self, logs=None):
        one_fit.end(self.model, self)

    def on_epoch_begin(self, epoch, logs=None):
        if self._first is None:
            self._first = epoch
            self._warn_without_update()
        if epoch % self.every == 0:
            self.update(epoch)

    def _warn_without_update(self):
        """Warns where `initial_epoch` leaves no update to this fit, and there was none before it either."""
        epochs = (self.params or {}).get("epochs") or self._first
        due = any(epoch % self.every == 0 for epoch in range(self._first, epochs))
        if not due and not any(_values(item.regularizer.u).any() for item in attachments(self.model)):
            errors.warn(
                f"No update of Z and U falls into the epochs {self._first} to {epochs - 1} of this fit, and none came before: "
                f"the kernels are pulled to their first projection all along. Use a smaller `every` than {self.every}.",
            )

    def update(self, epoch):
        """Moves Z and U to the kernels as they are now; at epoch 0 both start anew."""
        check_trained_finite(self.model)  # no number has a rank
        carried = attachments(self.model)
        kernels = [_values(item.target.variable) for item in carried]
        if epoch == 0:
            self._start(carried)
            distance = self._distance(carried, kernels)
        else:
            distance = self._distance(carried, kernels)
            rho = self._rho_at(epoch // self.every)
            sums = [kernel + _values(item.regularizer.u) for item, kernel in zip(carried, kernels)]
            for item, kernel, total, mask in zip(carried, kernels, sums, self._masks(carried, sums)):
                z = np.where(mask, total, 0)
                # U is the multiplier divided by rho: it shrinks when rho grows.
                ratio = item.regularizer.strength / rho
                item.regularizer.z.assign(z)
                item.regularizer.u.assign((total - z) * ratio)
                item.regularizer.rho.assign(rho)
        rho = carried[0].regularizer.strength
        self.history.append({"epoch": epoch, "rho": rho, "distance": distance})

    def _put(self, model):
        chosen = projection.trainable(select(model, self.structure, self.layers)[0])
        with beside_all(model):
            pairs = [(item.target, AdmmPenalty(item.structure, self.rho[0], item.target.layout)) for item in chosen]
        add_all(model, pairs)

    def _has_structure(self, item):
        """Whether a penalty of ADMM's has the structure of this one; what is learned from trained kernels goes by its name."""
        carried, fitted = item.regularizer.structure, self.structure.fit(item.target.layout)
        return carried.name == fitted.name and (carried == fitted or fitted.misfit(item.target.standard_shape) is not None)

    def _start(self, carried):
        kernels = [_values(item.target.variable) for item in carried]
        for item, kernel, mask in zip(carried, kernels, self._masks(carried, kernels)):
            item.regularizer.z.assign(np.where(mask, kernel, 0))
            item.regularizer.u.assign(np.zeros_like(kernel))
            item.regularizer.rho.assign(self.rho[0])

    def _masks(self, carried, kernels):
        selected = [Selected(item.target, item.regularizer.structure) for item in carried]
        return projection.masks(selected, kernels, self.sparsity, self.scope, self.criterion)

    def _rho_at(self, done):
        first, last = self.rho
        updates = max(1, (self.params["epochs"] - 1) // self.every)
        return first * (last / first) ** min(1.0, done / updates)

    def _distance(self, carried, kernels):
        gaps = [np.sum((kernel - _values(item.regularizer.z)) ** 2) for item, kernel in zip(carried, kernels)]
        whole = sum(np.sum(kernel**2) for kernel in kernels)
        return float(np.sqrt(sum(gaps) / whole)) if whole > 0 else 0.0


def _values(variable):
    return np.asarray(as_numpy(variable), "float32")


def _checked_rho(rho):
    pair = tuple(rho) if is_sequence(rho) else (rho, rho)
    if len(pair) != 2:
        raise ValueError(errors.message("`rho` must be a number > 0 or (first, last).", "Try 1e-3.", rho=rho))
    for value in pair:
        check_number("rho", value, minimum=0.0, exclusive=True)
    return tuple(float(value) for value in pair)
