"""Constraints that keep zeros exactly zero under every optimizer, and after saving and loading."""

import abc

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.graph.additions import Addition
from tf_reweight.graph.distribution import as_numpy, beside
from tf_reweight.graph.optimizers import applied_average
from tf_reweight.graph.saveable import Saveable
from tf_reweight.graph.steps import before_step
from tf_reweight.kernels.compiled_step import value_before_step


class Mask(keras.constraints.Constraint):
    """Sets the masked-out entries of one weight to zero after every optimizer step, on top of the constraint it had.

    An optimizer with `use_ema` averages the weights before constraints act; its average of this weight is masked as well, so
    the zeros stay when training ends or `SwapEMAWeights` puts the averages in place.

    Args:
        mask: bool array of the weight's shape; True is kept.
        inner: the weight's own constraint, applied first, or None.
    """

    def __init__(self, mask, inner=None):
        # A variable, not a constant: a traced step would otherwise carry a second copy of the mask. Untracked by the
        # model, since Keras on JAX donates the buffers of tracked state.
        self.mask = keras.Variable(np.asarray(mask, bool), trainable=False, name="mask", dtype="bool", autocast=False)
        self.inner = inner

    def __call__(self, weight):
        average = applied_average(weight)
        if average is not None:
            average.assign(self._masked(average.value))
        return self._masked(weight if self.inner is None else self.inner(weight))

    def _masked(self, weight):
        weight = ops.convert_to_tensor(weight)
        # Not a product: that makes negative zeros, which are nonzero bytes in a file.
        return ops.where(self.mask.value, weight, ops.zeros((), dtype=weight.dtype))

    def as_numpy(self):
        """The mask as a bool array."""
        return as_numpy(self.mask)


class Inserted(keras.constraints.Constraint, abc.ABC):
    """A constraint that lasts as long as one `fit`, on top of the one that the weight had; abstract.

    What it makes zero is zero in the average of an optimizer with `use_ema` as well.

    Not serializable on purpose.

    Args:
        inner: the weight's own constraint, applied first, or None.
    """

    def __init__(self, inner=None):
        self.inner = inner

    def __call__(self, weight):
        applied = self.applied(weight if self.inner is None else self.inner(weight))
        average = applied_average(weight)
        if average is not None:
            # Else Keras puts averages that are not zero in the place of what this constraint made zero, when training ends.
            average.assign(ops.where(ops.equal(applied, 0), ops.zeros((), dtype=average.dtype), average.value))
        return applied

    @abc.abstractmethod
    def applied(self, weight):
        """The weight after this constraint alone."""


@keras.saving.register_keras_serializable(package="tf_reweight")
class KeptZeros(keras.constraints.Constraint, Saveable, Addition):
    """Brings the masks of a layer's weights back with the layer: it stands in the layer's `kernel_constraint`.

    Its config holds the layer's own constraint only. The masks are saved beside the weights, one bit for a weight, so that they
    are there after `keras.saving.load_model`, `load_weights` and checkpoints. A copy of a layer that was made from its config
    and given its weights by hand holds what is exactly zero when its first training step is traced.

    Attention layers give one constraint to all of their projections; it then holds several masks.

    Args:
        inner: the layer's own constraint, applied first, or None; an object or its config.

    Example:
        >>> layer = keras.layers.Dense(8, kernel_constraint=KeptZeros())
    """

    def __init__(self, inner=None):
        self.inner = keras.constraints.get(inner)
        self.masks, self.loaded = {}, {}

    def __call__(self, weight):
        return self.bind(weight, value_before_step)(weight)

    def put(self, variable, mask):
        """Takes up the `Mask` of one weight, for the files."""
        self.masks[_key(variable)] = mask

    def bind(self, variable, value=as_numpy):
        """Gives a weight a `Mask` of its own, from the file or else from its zeros; returns it.

        Args:
            variable: a weight that was made with this constraint.
            value: function `variable -> array or None`: the weight before a step moved it, or None where nobody knows it.
        """
        kept = self._loaded(_key(variable), variable.shape)
        if kept is None:
            before = value(variable)
            if before is None:
                errors.warn(
                    f"The zeros of {variable.path} could not be read before training moved them, and are not held: "
                    "call tf_reweight.keep_zeros(model) before training.",
                )
            kept = np.ones(tuple(variable.shape), bool) if before is None else np.asarray(before) != 0
        with before_step(), beside(variable):
            variable.constraint = Mask(kept, self.inner)
        self.put(variable, variable.constraint)
        return variable.constraint

    def _loaded(self, key, shape):
        """The mask `(shape)` of a weight in the file that was loaded, or None."""
        alone = len(self.loaded) == 1 and len(self.masks) < 2  # then the layer may have another name in the file
        bits, size = next(iter(self.loaded.values())) if alone else self.loaded.get(key), int(np.prod(shape))
        if bits is None or len(bits) != -(-size // 8):
            return None
        return np.unpackbits(bits, count=size).astype(bool).reshape(tuple(shape))

    def save_own_variables(self, store):
        bits = {key: np.packbits(mask.as_numpy()) for key, mask in self.masks.items()}
        for key, value in {**self.loaded, **bits}.items():
            store[key] = value

    def load_own_variables(self, store):
        self.loaded = {key: np.asarray(store[key]) for key in store.keys()}
        for key, mask in self.masks.items():
            kept = self._loaded(key, mask.mask.shape)
            if kept is not None:
                mask.mask.assign(kept)

    def get_config(self):
        return {"inner": keras.constraints.serialize(self.inner)}

    @classmethod
    def remainder(cls, config):
        return config["inner"]

    def remains(self):
        return self.inner


def _key(variable):
    """What tells the weights of one layer apart, whatever the model is called."""
    return ".".join(variable.path.split("/")[-2:])


def mask_of(variable):
    """The `Mask` in force on a weight, also on one just loaded; None where there is none."""
    constraint = variable.constraint
    if isinstance(constraint, KeptZeros):
        return constraint.bind(variable)
    return constraint if isinstance(constraint, Mask) else None


def hold(variable, mask):
    """Sets a variable to zero where `mask` is False, and keeps it there by a constraint; masks it has already add up."""
    held = mask_of(variable)
    inner = variable.constraint if held is None else held.inner
    if held is not None:
        mask = mask & held.as_numpy()
    if hasattr(inner, "drop"):
        # Values that weights share are not to be drawn towards those that are held at zero above.
        inner.drop(mask)
    with beside(variable):
        variable.constraint = Mask(mask, inner)
    variable.assign(variable.constraint(variable.value))


def insert(variable, constraint):
    """Adds an `Inserted` constraint to a variable's own, below a `Mask`: what is pruned stays zero."""
    outer = mask_of(variable)
    if outer is not None:
        constraint.inner, outer.inner = outer.inner, constraint
    else:
        constraint.inner, variable.constraint = variable.constraint, constraint


def remove(variable, kind):
    """Takes every constraint of class `kind` out of a variable's chain; returns whether there was one."""
    before = variable.constraint
    while isinstance(variable.constraint, kind):
        variable.constraint = variable.constraint.inner
    found = variable.constraint is not before
    outer = variable.constraint
    while isinstance(outer, (Mask, Inserted)):
        while isinstance(outer.inner, kind):
            outer.inner, found = outer.inner.inner, True
        outer = outer.inner
    return found
