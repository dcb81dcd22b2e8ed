"""The reweighted penalty as a Keras regularizer that carries its own state."""

import warnings

import keras
from keras import ops

from tf_reweight import errors, penalties, structures
from tf_reweight.checks import check_number
from tf_reweight.kernels.layout import Layout
from tf_reweight.penalties.base import StatefulRegularizer


@keras.saving.register_keras_serializable(package="tf_reweight")
class Reweighted(StatefulRegularizer):
    """Penalises the groups of one kernel, each with a weight that follows its norm.

    Adds `strength * sum_g P_g * r_g` to the loss, where `r_g` is the norm of group g and the penalty weights `P` are
    constants between updates. `callbacks.Reweighting` sets `P = price * penalty.weight(r)` every few epochs: small
    groups are pressed harder and vanish, large ones are left in peace (Zhang et al., arXiv 2004.05531).

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
        structure = structures.get(structure)
        penalty = penalties.get(penalty)
        check_number("strength", strength, minimum=0.0)
        check_price(price)
        super().__init__()
        self.structure = structure
        self.strength = float(strength)
        self.penalty = penalty
        self.price = float(price)
        self.layout = None if layout is None else Layout.from_config(layout)
        self.penalty_weights = self.epsilon = None
        if self.layout is not None:
            self.penalty_weights = self.add_weight(
                name="penalty_weights",
                shape=structure.group_shape(self.layout.standard_shape),
                initializer=keras.initializers.Constant(self.price),
                trainable=False,
                autocast=False,
                dtype="float32",
            )
            # The epsilon last used: `Reweighting` may set its own, and pruning asks for it, also after save and load.
            self.epsilon = self.add_weight(
                name="epsilon",
                shape=(),
                initializer=keras.initializers.Constant(getattr(penalty, "epsilon", 0.0)),
                trainable=False,
                autocast=False,
                dtype="float32",
            )

    @property
    def negligible(self):
        """Norm below which `prune` removes a group of this kernel."""
        return float(self.penalty.negligible(float(self.epsilon) if self.bound and self.penalty.reweighted else None))

    @property
    def bound(self):
        """Whether it belongs to one kernel and carries penalty weights."""
        return self.layout is not None

    # A method, not a property: Keras walks all properties of what it saves, and would walk this one for ever.
    def parts(self):
        """The reweighted penalties in here: itself."""
        return (self,)

    def bind(self, layout):
        """A fresh copy for a kernel of this `Layout`, with all penalty weights at their price."""
        config = {
            **self.get_config(),
            "structure": self.structure.fit(layout).serialize(),
            "layout": layout.get_config(),
        }
        return type(self)(**config)

    def misfit(self, shape):
        """Why a kernel of standard `shape` cannot carry this penalty, or None."""
        return self.structure.misfit(shape)

    def connect(self, model, target):
        """Nothing to find in the model: all it needs is its own kernel (a coupled penalty needs others)."""

    def norms(self, kernel):
        """Group norms `(scopes, groups)`, float32, of the kernel in the layer's own order."""
        kernel = ops.cast(kernel, "float32")
        if self.bound:
            kernel = self.layout.to_standard(kernel)
        return self.structure.group_norms(kernel)

    def __call__(self, kernel):
        """The penalty of a kernel: a float32 scalar."""
        if not self.bound:
            warnings.warn(
                "This penalty is not attached to a kernel yet: it acts as a static one, all weights 1. Pass "
                "tf_reweight.callbacks.Reweighting() to fit, or call tf_reweight.attach(model).",
                stacklevel=2,
            )
            return self.strength * self.price * ops.sum(self.norms(kernel) ** self.penalty.power)
        if tuple(kernel.shape) != self.layout.shape:
            raise ValueError(
                errors.message(
                    f"This regularizer is bound to a kernel of shape {self.layout.shape}.",
                    "Give every layer an instance of its own, or detach and attach it again.",
                    shape=tuple(kernel.shape),
                )
            )
        return self.strength * self.structure.surrogate(self.penalty_weights, self.norms(kernel), self.penalty.power)

    def update(self, kernel, epsilon=None):
        """Sets the penalty weights from the kernel as it is now; a no-op for penalties that are never reweighted,
        except that structures which decide themselves (n of m, patterns) choose anew which groups go free.

        Args:
            kernel: variable or array in the layer's own order.
            epsilon: overrides the penalty's own.
        """
        norms = self.norms(kernel)
        if self.penalty.reweighted or self.structure.decides:
            if epsilon is not None:
                self.epsilon.assign(epsilon)
            self.penalty_weights.assign(self.price * self.structure.penalty_weights(self.penalty, norms, epsilon))
        return norms

    def load_own_variables(self, store):
        # Weights saved before the penalty was attached hold nothing for it: keep the initial ones.
        if len(store.keys()):
            super().load_own_variables(store)

    def get_config(self):
        return {
            "structure": self.structure.serialize(),
            "strength": self.strength,
            "penalty": self.penalty.serialize(),
            "price": self.price,
            "layout": self.layout.get_config() if self.bound else None,
        }


@keras.saving.register_keras_serializable(package="tf_reweight")
class Combined(StatefulRegularizer):
    """The sum of several regularizers on one kernel: two structures, or a structure and the layer's own L2.

    Args:
        regularizers: list of regularizers, names or configs.

    Example:
        >>> both = Combined([Reweighted("filter", 1e-3), Reweighted("unstructured", 1e-5), "l2"])
    """

    def __init__(self, regularizers):
        if not isinstance(regularizers, (list, tuple)) or not regularizers:
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

    @property
    def bound(self):
        return all(part.bound for part in self.parts())

    def parts(self):
        """The reweighted penalties in here."""
        return tuple(part for item in self.regularizers for part in parts_of(item))

    def bind(self, layout):
        return Combined([bind(item, layout) for item in self.regularizers])

    def __call__(self, kernel):
        return sum(ops.cast(regularizer(kernel), "float32") for regularizer in self.regularizers)

    def get_config(self):
        return {"regularizers": [keras.saving.serialize_keras_object(item) for item in self.regularizers]}


def parts_of(regularizer):
    """The `Reweighted` penalties inside any Keras regularizer; empty for those that are not ours."""
    return regularizer.parts() if isinstance(regularizer, StatefulRegularizer) else ()


def bind(regularizer, layout):
    """A copy for one kernel of anything of ours; other regularizers are stateless and returned as they are."""
    return regularizer.bind(layout) if isinstance(regularizer, StatefulRegularizer) else regularizer


def check_price(price):
    """Raises unless `price` is a finite number > 0."""
    check_number("price", price, minimum=0.0, exclusive=True, fix="1 is what a group costs by default.")
