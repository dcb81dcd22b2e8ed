"""The layer around a layer that is pruned while it trains, as tfmot puts it."""

import keras

from tf_reweight.baselines import schedules
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.pruning.masked import Masked


@keras.saving.register_keras_serializable(package="tf_reweight")
class PruneLowMagnitude(Masked):
    """A `Masked` layer with a schedule: `UpdatePruningStep` chooses its masks anew while `fit` runs.

    Args:
        layer: a layer with kernels, for example Dense or Conv2D.
        pruning_schedule: how much is pruned at which step; a schedule or its config.
        structure: name, config or `Structure` of what goes together.

    Example:
        >>> layer = PruneLowMagnitude(keras.layers.Dense(8), ConstantSparsity(0.5, 0))
    """

    def __init__(self, layer, pruning_schedule, structure="unstructured", **kwargs):
        self.pruning_schedule = schedules.get(pruning_schedule)
        super().__init__(layer, structure, **{"name": f"prune_low_magnitude_{layer.name}", **kwargs})

    def build(self, input_shape=None):
        super().build(input_shape)
        # As tfmot counts: -1 until masks have been chosen.
        self.pruning_step = self.add_weight(
            name="pruning_step", shape=(), dtype="int32", initializer=keras.initializers.Constant(-1), trainable=False
        )

    def state_variables(self):
        """The masks, and the step they belong to."""
        return [*super().state_variables(), self.pruning_step]

    def advance(self, step):
        """Chooses the masks that belong to an optimizer step, where they are not those already; returns whether it did."""
        due = self.pruning_schedule.last_update(step)
        if due is None or due == self.last_step:
            return False
        self.update(sparsity=self.pruning_schedule.sparsity(due))
        for target, mask in zip(self._targets(), self.masks):
            # Zero in the stored kernel as well: what was removed is the smallest the next time, and stays removed.
            # Not by a product, which makes negative zeros.
            kept, zero = keras.ops.cast(mask.value, "bool"), keras.ops.zeros((), dtype=target.variable.dtype)
            target.variable.assign(keras.ops.where(kept, target.variable.value, zero))
        self.pruning_step.assign(due)
        return True

    @property
    def last_step(self):
        """The step whose masks it has; -1 before the first."""
        return int(as_numpy(self.pruning_step))

    @property
    def reached(self):
        """The sparsity asked for by the step whose masks it has."""
        return self.pruning_schedule.sparsity(self.last_step) if self.last_step >= 0 else 0.0

    @property
    def mask_sparsity(self):
        """The fraction of weights that the masks remove."""
        masks = [as_numpy(mask) for mask in self.masks]
        return 1.0 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)

    def get_config(self):
        return {**super().get_config(), "pruning_schedule": self.pruning_schedule.serialize()}
