"""What acts on a weight besides the loss, where its numbers stand in another layer: regularizers and constraints."""

import keras
import numpy as np
from keras import ops

from tf_reweight.graph.additions import remains_of

# Sums over entries: what these give does not depend on how the entries lie.
_SUMS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
# What is tried on numbers of these sizes is taken for a law.
_SIZES = (1e-3, 1.0, 1e3)


class Weight:
    """One weight of a layer as it stands in another.

    What acts on the weight comes along where it acts there as it did: penalties have the same value, constraints the same
    result. Penalties of this package do not, as in every copy.

    Args:
        holder: the layer that has the weight.
        slot: the weight's attribute.
        view: function `array -> array`, from the weight to how it stands in the other layer; None for the same.
        scale: the factor that is part of `view`.

    Attributes:
        values: the array there.
        regularizer, constraint: what acts on it there, or None.
        lost: names of what could not come along.
    """

    def __init__(self, holder, slot, view=None, scale=1.0):
        variable, prefix = getattr(holder, slot), slot.replace("recurrent_kernel", "recurrent")
        values = np.asarray(ops.convert_to_numpy(variable))
        self.values = values if view is None else view(values)
        names = [f"{prefix}_regularizer", f"{prefix}_constraint"]
        before = [remains_of(getattr(holder, name)) for name in names]
        self.regularizer = regularizer_like(before[0], values.shape, view, scale)
        self.constraint = _constraint_like(before[1], values.shape, view)
        after = (self.regularizer, self.constraint)
        self.lost = [name for name, old, new in zip(names, before, after) if old is not None and new is None]


@keras.saving.register_keras_serializable(package="tf_reweight")
class Unscaled(keras.regularizers.Regularizer):
    """What a regularizer gives for a weight of which another layer has a multiple: `regularizer(x / scale)`.

    Args:
        regularizer: the regularizer, or its config.
        scale: the factor, not zero.

    Example:
        >>> Unscaled(keras.regularizers.L2(0.1), 0.5)
    """

    def __init__(self, regularizer, scale):
        self.regularizer, self.scale = keras.regularizers.get(regularizer), scale

    def __call__(self, x):
        return self.regularizer(x / self.scale)

    def get_config(self):
        return {"regularizer": keras.regularizers.serialize(self.regularizer), "scale": self.scale}


def regularizer_like(regularizer, shape, view, scale=1.0):
    """The regularizer that gives for `view(x)` what the given one does for `x` of this shape; None without one."""
    if regularizer is None or view is None:
        return regularizer
    if type(regularizer) in _SUMS:
        known = {"l1": 0.0, "l2": 0.0, **regularizer.get_config()}
        return regularizer if scale == 1.0 else keras.regularizers.L1L2(l1=known["l1"] / scale, l2=known["l2"] / scale**2)
    alike = (regularizer, Unscaled(regularizer, float(scale)))
    return next((after for after in alike if _holds(regularizer, shape, view, after)), None)


def _constraint_like(constraint, shape, view):
    if constraint is None or view is None:
        return constraint
    held = _holds(lambda x: view(ops.convert_to_numpy(constraint(x))), shape, view, constraint)
    return constraint if held else None


def _holds(before, shape, view, after):
    """Whether `before(x)` is `after(view(x))`: tried on random numbers."""
    drawn = np.random.default_rng(0).normal(size=shape).astype("float32")
    try:
        pairs = [
            [ops.convert_to_numpy(function(ops.convert_to_tensor(x))) for function, x in ((before, x), (after, view(x)))]
            for x in (size * drawn for size in _SIZES)
        ]  # fmt: skip
    except Exception:  # Code of the user's own may raise anything.
        return False
    return all(old.shape == new.shape and np.allclose(old, new, rtol=1e-4, atol=1e-6 * np.abs(old).max()) for old, new in pairs)
