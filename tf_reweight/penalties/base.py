"""What a penalty on a kernel must answer, and how penalties are found inside any Keras regularizer."""

import abc

import keras
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import check_number
from tf_reweight.graph.additions import Addition


class KernelPenalty(Addition, keras.layers.Layer, keras.regularizers.Regularizer, abc.ABC):
    """What presses on a kernel: a Keras regularizer that carries state and answers what training and pruning ask.

    It is a layer as well, so that Keras saves, restores and traces its state. A variable inside a plain `Regularizer` is
    baked into the compiled step on JAX and lost on save; one added to the host layer breaks loading, since Dense and Conv
    save a fixed list of weights.

    An heir writes `__call__`, `norms`, `negligible`, `bind` and `get_config`, and is registered by
    `keras.saving.register_keras_serializable`. Where `spans_several` is False it also sets `structure`: the `Structure` of the
    groups that `norms` counts, by which `prune` cuts.

    Args:
        strength: the coefficient, >= 0.

    Example:
        >>> @keras.saving.register_keras_serializable(package="mine")
        ... class Ridge(KernelPenalty): ...
    """

    # Whether its groups span several kernels: `prune_groups` removes them then, and not `prune`.
    spans_several = False
    # Whether `callbacks.Reweighting` renews its weights, by `update`.
    renewable = False
    # Whether it belongs to one kernel; one from a layer's constructor does not until `attach` has replaced it by `bind(...)`.
    bound = True
    # The `Budget` that says how much of all kernels with this penalty goes, where there is one in place of a strength.
    budget = None
    # Why no proximal step can stand in for it, or None.
    no_proximal_step = "this penalty has no proximal step"

    def __init__(self, strength):
        check_number("strength", strength, minimum=0.0)
        super().__init__(dtype="float32")
        self._strength = float(strength)
        self.built = True

    def frozen(self, target):
        """Names of what it presses on and training does not move, as a list; `target` is the kernel that it sits on."""
        return [] if target.variable.trainable else [target.name]

    @property
    def strength(self):
        """The coefficient, float >= 0."""
        return self._strength

    @abc.abstractmethod
    def __call__(self, kernel):
        """The penalty of a kernel in the layer's own order, `strength` included: a scalar; see `as_loss`."""

    @abc.abstractmethod
    def norms(self, kernel):
        """Group norms, float32, `(scopes, groups)` where there is a structure, of a kernel in the layer's own order."""

    @property
    @abc.abstractmethod
    def negligible(self):
        """Norm, float >= 0, at or below which pruning removes a group."""

    @abc.abstractmethod
    def bind(self, layout):
        """A fresh copy for a kernel of this `Layout`."""

    def compared_norms(self, kernel):
        """Group norms as epsilon sees them."""
        return self.norms(kernel)

    def update(self, kernel, epsilon=None):
        """Renews the weights from a kernel as it is now, and returns its norms; only what is `renewable` can.

        Args:
            kernel: variable or array in the layer's own order.
            epsilon: overrides the penalty's own.
        """
        raise ValueError(
            errors.message(
                "`Reweighting` renews the weights of reweighted penalties, and this one has none.",
                "Fit without Reweighting, or `detach` it first.",
                penalty=type(self).__name__,
            )
        )

    def misfit(self, shape):
        """Why a kernel of standard `shape` cannot carry this penalty, as a sentence; None when it can."""
        return None

    def connect(self, model, target):
        """Finds in a model what it needs beside its own kernel `target`: nothing, unless it spans several."""

    # A method, not a property: Keras walks all properties of what it saves, and would walk this one for ever.
    def parts(self):
        """The single penalties in here: itself, unless it holds others."""
        return (self,)

    def replaced(self, function):
        """What stands here when `function` gives another regularizer, or None, for each of the parts."""
        return function(self)

    def of(self, name):
        """What acts on the kernel of the layer `name`: itself, unless it holds the penalties of several layers."""
        return self

    def build(self, *args, **kwargs):
        self.built = True

    def get_build_config(self):
        return None

    def load_own_variables(self, store):
        # Weights saved before the penalty was attached hold nothing for it: keep the initial ones.
        if len(store.keys()):
            super().load_own_variables(store)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Holder(KernelPenalty):
    """A penalty made of others: it answers for all of its parts together; abstract.

    Whoever treats penalties one by one asks `parts()`; as a whole, it is as strong as the strongest of them.
    """

    def __init__(self):
        super().__init__(0.0)

    @property
    def strength(self):
        """The largest coefficient of the parts."""
        return max((part.strength for part in self.parts()), default=0.0)

    @property
    def spans_several(self):
        return any(part.spans_several for part in self.parts())

    @property
    def renewable(self):
        return all(part.renewable for part in self.parts())

    @property
    def bound(self):
        return all(part.bound for part in self.parts())

    @property
    def negligible(self):
        """Norm below which each of the parts removes a group."""
        return min((part.negligible for part in self.parts()), default=0.0)

    def norms(self, kernel):
        """Group norms of all parts, one after the other, `(1, groups)`."""
        return _in_a_row(part.norms(kernel) for part in self.parts())

    def compared_norms(self, kernel):
        return _in_a_row(part.compared_norms(kernel) for part in self.parts())

    def update(self, kernel, epsilon=None):
        return _in_a_row([part.update(kernel, epsilon) for part in self.parts()])

    def misfit(self, shape):
        return next((reason for reason in (part.misfit(shape) for part in self.parts()) if reason is not None), None)

    def connect(self, model, target):
        for part in self.parts():
            part.connect(model, target)

    @abc.abstractmethod
    def parts(self):
        """The single penalties in here."""


def parts_of(regularizer):
    """The single penalties inside any Keras regularizer; empty for those that are not ours."""
    return regularizer.parts() if isinstance(regularizer, KernelPenalty) else ()


def bind(regularizer, layout):
    """A copy for one kernel of anything of ours; other regularizers are stateless and returned as they are."""
    return regularizer.bind(layout) if isinstance(regularizer, KernelPenalty) else regularizer


def replaced(regularizer, function):
    """`KernelPenalty.replaced` for any Keras regularizer: those that are not ours stay as they are."""
    return regularizer.replaced(function) if isinstance(regularizer, KernelPenalty) else regularizer


def own_of(regularizer, name):
    """`KernelPenalty.of` for any Keras regularizer: those that are not ours act as they are."""
    return regularizer.of(name) if isinstance(regularizer, KernelPenalty) else regularizer


def removed(penalty):
    """For `replaced`: nothing stands where the penalty was."""


def _in_a_row(norms):
    rows = [ops.reshape(norm, (1, -1)) for norm in norms]
    return ops.concatenate(rows, axis=1) if rows else ops.zeros((1, 0), dtype="float32")


def as_loss(value):
    """A penalty, computed in float32, in the type in which Keras adds up losses."""
    return ops.cast(value, keras.config.floatx())
