"""The reweighted penalty as a Keras regularizer that carries its own state, and the sum of several."""

import keras
from keras import ops

from tf_reweight import errors, structures
from tf_reweight.checks import is_sequence
from tf_reweight.graph.additions import remains_of
from tf_reweight.graph.copying import without_penalties
from tf_reweight.penalties.base import Holder, as_loss, bind, parts_of, replaced
from tf_reweight.penalties.renewed import RenewedOnKernel


@keras.saving.register_keras_serializable(package="tf_reweight")
class Reweighted(RenewedOnKernel):
    """Penalises the groups of one kernel, each with a weight that follows its norm.

    Adds `strength * sum_g P_g * r_g` to the loss, where `r_g` is the norm of group g and the penalty weights `P` are
    constants between updates. `callbacks.Reweighting` sets `P = price * penalty.weight(r)` every few epochs: small
    groups are pressed harder and vanish, large ones are hardly pressed (Zhang et al., arXiv 2004.05531).

    Give it in a layer's constructor, or put it on a built model with `tf_reweight.regularize`. From a constructor it
    is not bound to a kernel yet: `callbacks.Reweighting` (or `attach`) replaces it by a bound copy; until then all
    weights are 1.

    Args:
        structure: name, config or `Structure`: what is penalised together.
        strength: the coefficient, >= 0; about the price of one surviving group in units of the loss.
        penalty: name, config or `Penalty`; `"log_sum"` by default, `"lasso"` is never reweighted.
        price: factor on every penalty weight of this kernel, > 0; what a group costs relative to other kernels.
        layout: config of the bound kernel's `Layout`; set by `bind`, not by hand.

    Example:
        >>> layer = keras.layers.Conv2D(8, 3, kernel_regularizer=Reweighted("filter", 1e-3))
    """

    def __init__(self, structure="unstructured", strength=1e-5, penalty="log_sum", price=1.0, layout=None):
        super().__init__(structures.get(structure), strength, penalty, price, layout)

    @property
    def no_proximal_step(self):
        """Why no proximal step can stand in for it, or None."""
        return self.penalty.no_proximal_step

    def bind(self, layout):
        """A fresh copy for a kernel of this `Layout`, with all penalty weights at their price."""
        structure = self.structure.fit(layout)
        return Reweighted(structure, self.strength, self.penalty, self.price, layout.get_config())

    def norms(self, kernel):
        """Group norms `(scopes, groups)`, float32, of the kernel in the layer's own order."""
        return self.structure.group_norms(self._standard(kernel))

    def _penalised(self, kernel):
        return self.structure.penalised(self.penalty_weights, self._standard(kernel), self.penalty.power)

    def _standard(self, kernel):
        kernel = ops.cast(kernel, "float32")
        return self.layout.to_standard(kernel) if self.bound else kernel

    def get_config(self):
        return {"structure": self.structure.serialize(), **super().get_config()}


@keras.saving.register_keras_serializable(package="tf_reweight")
class Combined(Holder):
    """The sum of several regularizers on one kernel: two structures, or a structure and the layer's own L2.

    Args:
        regularizers: list of regularizers, names or configs.

    Example:
        >>> both = Combined([Reweighted("filter", 1e-3), Reweighted("unstructured", 1e-5), "l2"])
    """

    def __init__(self, regularizers):
        if not is_sequence(regularizers) or not regularizers:
            raise ValueError(
                errors.message(
                    "`regularizers` must be a non-empty list.", "List what is to be added.", regularizers=regularizers
                )
            )
        super().__init__()
        self.regularizers = [
            keras.saving.deserialize_keras_object(item)
            if isinstance(item, dict) and "class_name" in item
            else keras.regularizers.get(item)
            for item in regularizers
        ]

    def parts(self):
        """The single penalties in here."""
        return tuple(part for item in self.regularizers for part in parts_of(item))

    def replaced(self, function):
        """The sum of what is left when `function` has given another regularizer, or None, for each of the parts."""
        rest = [item for item in (replaced(part, function) for part in self.regularizers) if item is not None]
        return Combined(rest) if len(rest) > 1 else rest[0] if rest else None

    def bind(self, layout):
        """The sum of copies for a kernel of this `Layout`."""
        return Combined([bind(item, layout) for item in self.regularizers])

    def __call__(self, kernel):
        """The sum of all: a scalar."""
        return as_loss(sum(ops.cast(regularizer(kernel), "float32") for regularizer in self.regularizers))

    def get_config(self):
        return {"regularizers": [keras.saving.serialize_keras_object(item) for item in self.regularizers]}

    @classmethod
    def remainder(cls, config):
        """The layer's own regularizers."""
        rest = [item for item in map(without_penalties, config["regularizers"]) if item is not None]
        if len(rest) > 1:
            # Never made: a regularizer of the user's own cannot be, from its config alone.
            return {**keras.saving.serialize_keras_object(cls(["l2"])), "config": {"regularizers": rest}}
        return rest[0] if rest else None

    def remains(self):
        rest = [item for item in map(remains_of, self.regularizers) if item is not None]
        return Combined(rest) if len(rest) > 1 else rest[0] if rest else None
