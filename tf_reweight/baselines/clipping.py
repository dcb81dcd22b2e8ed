"""Magnitude clipping: whatever is below a threshold after a step is set to zero."""


import keras
from keras import ops

from tf_reweight import errors
from tf_reweight.baselines import projection
from tf_reweight.checks import check_number
from tf_reweight.graph import one_fit
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.kernels.constraints import Inserted, insert, remove
from tf_reweight.kernels.selection import select
from tf_reweight.structures import get as get_structure


class Clip(Inserted):
    """`w_g <- w_g where r_g > threshold, else 0`: a hard threshold on each group, after every optimizer step.

    Where no group of a kernel is above the threshold the largest stays, as with `prune`: a kernel of zeros cuts the network.

    Args:
        structure: `Structure` of the kernel.
        layout: the kernel's `kernels.table.Layout`.
        threshold: norm at or below which a group is set to zero.
        inner: the weight's own constraint, applied first, or None.
    """

    def __init__(self, structure, layout, threshold, inner=None):
        super().__init__(inner)
        self.structure, self.layout, self.threshold = structure, layout, threshold

    def applied(self, weight):
        """The weight without its small groups."""
        standard = self.layout.to_standard(ops.cast(weight, "float32"))
        norms = self.structure.group_norms(standard)
        keep = ops.logical_or(norms > self.threshold, norms >= ops.max(norms))
        mask = self.structure.mask(keep, self.layout.standard_shape)
        stays = ops.cast(self.layout.from_standard(mask), "bool")
        # What is no number is above nothing: as a zero it would hide that the training diverged.
        stays = ops.logical_or(stays, ops.isnan(weight))
        # Not a product: that makes negative zeros, which are nonzero bytes in a file.
        return ops.where(stays, weight, ops.zeros((), dtype=weight.dtype))

    def clips_all(self, weight):
        """Whether no group of a weight is above the threshold, so that the largest alone stays."""
        norms = self.structure.group_norms(self.layout.to_standard(ops.cast(weight, "float32")))
        # The norm of what is no number counts as 0.
        return not bool(ops.logical_or(ops.max(norms) > self.threshold, ops.any(ops.isnan(weight))))


class Clipping(keras.callbacks.Callback):
    """Sets every group with a norm at or below `threshold` to zero after each batch; it may grow back with the next.

    The largest group of a kernel stays whatever its norm, and a warning names the kernels where it alone did.

    The simplest of the baselines. A group grows back only by a step larger than the threshold, so with a threshold well above
    the learning rate (under Adam) it is one-shot pruning at the first batch, spread over the layers by one number. When `fit`
    ends the zeros are there and nothing holds them: `tf_reweight.keep_zeros(model)` does. After a `fit` that was interrupted,
    the next one ends the clipping. A kernel has one of them in a `fit`.

    Args:
        threshold: a group norm, > 0; with `"unstructured"` a magnitude.
        structure: name, config or `Structure`.
        layers: which layers; see `kernels.selectors`. Frozen kernels are left alone.

    Example:
        >>> model.fit(x, y, epochs=5, callbacks=[Clipping(1e-2)])
        >>> tfr.keep_zeros(model)
    """

    def __init__(self, threshold, structure="unstructured", layers=None):
        super().__init__()
        check_number("threshold", threshold, exclusive=True, fix="It is a group norm.", finite=False)
        self.threshold = float(threshold)
        self.structure = get_structure(structure)
        self.layers = layers
        self._variables, self._clips = [], []

    @property
    def variables(self):
        """The kernels that it clips."""
        return self._variables

    def on_train_begin(self, logs=None):
        selected, _ = select(self.model, self.structure, self.layers)
        projection.trainable(selected)
        variables = [item.target.variable for item in selected]
        one_fit.end_earlier(self.model, self, lambda earlier: projection.in_common(variables, earlier.variables))
        self._variables = variables
        one_fit.begin(self.model, self, self._give_back)
        for item in selected:
            clip = Clip(item.structure, item.target.layout, self.threshold)
            insert(item.target.variable, clip)
            self._clips.append((item.target, clip))
        drop_compiled_steps(self.model)

    def on_epoch_end(self, epoch, logs=None):
        names = [target.name for target, clip in self._clips if target.variable.trainable and clip.clips_all(target.variable)]
        if names:
            errors.warn(
                f"No group of {', '.join(names[:5])} is above threshold={self.threshold:g}: the largest one of each was kept. "
                "Choose a lower threshold.",
            )
            self._clips = []  # said once

    def on_train_end(self, logs=None):
        one_fit.end(self.model, self)

    def _give_back(self):
        for variable in self._variables:
            remove(variable, Clip)
        self._variables, self._clips = [], []
        drop_compiled_steps(self.model)
