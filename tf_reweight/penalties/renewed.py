"""Penalties whose weights follow the norms: what is the same for one kernel, for several, and towards levels."""

import abc

import keras
import numpy as np
from keras import ops

from tf_reweight import errors, penalties
from tf_reweight.checks import check_number
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.kernels.layout import Layout
from tf_reweight.penalties.base import KernelPenalty, as_loss


class Renewed(KernelPenalty):
    """`strength * sum_g P_g * r_g ** power`, with weights P that `callbacks.Reweighting` renews; abstract.

    Args:
        strength: the coefficient, >= 0.
        penalty: name, config or `Penalty`.
        price: factor on every penalty weight, > 0.
        shape: of the penalty weights; None when it is not bound to a kernel yet and has none.
    """

    renewable = True

    def __init__(self, strength, penalty, price, shape):
        penalty = penalties.get(penalty)
        check_price(price)
        super().__init__(strength)
        self.penalty, self.price = penalty, float(price)
        self.penalty_weights = self.epsilon = None
        if shape is not None:
            self.penalty_weights = self._state("penalty_weights", shape, self.price)
            # The epsilon last used: `Reweighting` may set its own, and pruning asks for it, also after save and load.
            self.epsilon = self._state("epsilon", (), penalty.get_config().get("epsilon", 0.0))

    @property
    def negligible(self):
        """Norm below which pruning removes a group: a tenth of the epsilon last used."""
        last = float(as_numpy(self.epsilon)) if self.bound and self.penalty.reweighted else None
        return float(self.penalty.negligible(last))

    def compared_norms(self, kernel):
        """Group norms as epsilon sees them: raised to the penalty's power."""
        return self.norms(kernel) ** self.penalty.power

    def update(self, kernel, epsilon=None):
        """Sets the penalty weights from the kernel as it is now; a no-op for penalties that are never reweighted.

        Args:
            kernel: variable or array in the layer's own order.
            epsilon: overrides the penalty's own.
        """
        norms = self.norms(kernel)
        if self._follows_norms:
            if epsilon is not None:
                self.epsilon.assign(epsilon)
            self.penalty_weights.assign(self.price * self._weights_at(norms, epsilon))
        return norms

    @property
    def awaits_update(self):
        """Whether its weights follow the norms and no update has set them yet."""
        return self._follows_norms and bool((as_numpy(self.penalty_weights) == np.float32(self.price)).all())

    @property
    def _follows_norms(self):
        return self.penalty.reweighted

    @abc.abstractmethod
    def _weights_at(self, norms, epsilon):
        """Penalty weights at these norms, without the price."""

    def _state(self, name, shape, value):
        start = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=shape, initializer=start, trainable=False, autocast=False, dtype="float32")

    def get_config(self):
        return {"strength": self.strength, "penalty": self.penalty.serialize(), "price": self.price}


class RenewedOnKernel(Renewed):
    """A renewed penalty on the groups of one kernel; abstract.

    Args:
        structure: `Structure` of the groups.
        strength, penalty, price: as of `Renewed`.
        layout: config of the bound kernel's `Layout`, or None.
    """

    def __init__(self, structure, strength, penalty, price, layout):
        layout = None if layout is None else Layout.from_config(layout)
        super().__init__(strength, penalty, price, None if layout is None else structure.group_shape(layout.standard_shape))
        self.structure, self.layout = structure, layout

    @property
    def bound(self):
        """Whether it belongs to one kernel and carries penalty weights."""
        return self.layout is not None

    def misfit(self, shape):
        """Why a kernel of standard `shape` cannot carry this penalty, or None."""
        return self.structure.misfit(shape)

    def __call__(self, kernel):
        """The penalty of a kernel: a scalar."""
        if not self.bound:
            errors.warn(
                "This penalty is not attached to a kernel yet: it acts as a static one, all weights 1. Pass "
                "tf_reweight.callbacks.Reweighting() to fit, or call tf_reweight.attach(model).",
            )
            return as_loss(self.strength * self.price * ops.sum(self.norms(kernel) ** self.penalty.power))
        if tuple(kernel.shape) != self.layout.shape:
            raise ValueError(
                errors.message(
                    f"This regularizer is bound to a kernel of shape {self.layout.shape}.",
                    "Give every layer an instance of its own, or detach and attach it again.",
                    shape=tuple(kernel.shape),
                )
            )
        return as_loss(self.strength * self._penalised(kernel))

    def _penalised(self, kernel):
        """The penalty of a kernel at strength 1."""
        return self.structure.surrogate(self.penalty_weights, self.norms(kernel), self.penalty.power)

    @property
    def _follows_norms(self):
        # Structures that decide themselves (n of m, patterns) choose anew which groups go free, under any penalty.
        return self.penalty.reweighted or self.structure.decides

    def _weights_at(self, norms, epsilon):
        return self.structure.penalty_weights(self.penalty, norms, epsilon)

    def get_config(self):
        return {**super().get_config(), "layout": self.layout.get_config() if self.bound else None}


def check_price(price):
    """Raises unless `price` is a finite number > 0."""
    check_number("price", price, minimum=0.0, exclusive=True, fix="1 is what a group costs by default.")
