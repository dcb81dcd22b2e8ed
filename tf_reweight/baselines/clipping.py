"""Magnitude clipping: whatever is below a threshold after a step is set to zero."""

import keras
from keras import ops

from tf_reweight.checks import check_number
from tf_reweight.graph import one_fit
from tf_reweight.kernels.compiled_step import drop_compiled_steps
from tf_reweight.kernels.constraints import Inserted, insert, remove
from tf_reweight.kernels.selection import select
from tf_reweight.structures import get as get_structure


class Clip(Inserted):
    """`w_g <- w_g where r_g > threshold, else 0`: a hard threshold on each group, after every optimizer step.

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
        keep = self.structure.group_norms(standard) > self.threshold
        mask = self.structure.mask(keep, self.layout.standard_shape)
        return weight * ops.cast(self.layout.from_standard(mask), weight.dtype)


class Clipping(keras.callbacks.Callback):
    """Sets every group with a norm at or below `threshold` to zero after each batch; it may grow back with the next.

    The simplest of the baselines. A group grows back only by a step larger than the threshold, so with a threshold well above
    the learning rate (under Adam) it is one-shot pruning at the first batch, spread over the layers by one number. When `fit`
    ends the zeros are there and nothing holds them: `tf_reweight.keep_zeros(model)` does. After a `fit` that was interrupted,
    the next one ends the clipping.

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
        self._variables = []

    def on_train_begin(self, logs=None):
        selected, _ = select(self.model, self.structure, self.layers)
        self._variables = [item.target.variable for item in selected]
        one_fit.begin(self.model, self, self._give_back)
        for item in selected:
            insert(item.target.variable, Clip(item.structure, item.target.layout, self.threshold))
        drop_compiled_steps(self.model)

    def on_train_end(self, logs=None):
        one_fit.end(self.model, self)

    def _give_back(self):
        for variable in self._variables:
            remove(variable, Clip)
        self._variables = []
        drop_compiled_steps(self.model)
