"""The penalties on the projections of one attention layer, saved and loaded with it."""

import keras

from tf_reweight import errors
from tf_reweight.graph.additions import remains_of
from tf_reweight.graph.attention import shared_regularizer
from tf_reweight.graph.attributes import models_with, set_part
from tf_reweight.graph.copying import without_penalties
from tf_reweight.kernels.table import find, walk
from tf_reweight.penalties.base import Holder, as_loss, own_of, parts_of, removed, replaced


@keras.saving.register_keras_serializable(package="tf_reweight")
class PerProjection(Holder):
    """One regularizer for each projection of an attention layer (query, key, value, gate, output).

    Keras' attention layers have one regularizer for all of their kernels, and a saved file holds that one alone. This stands
    in its place, on the layer and on its projections, and holds what each has by name. On the kernels acts their own; where a
    layer was made from a config alone, this one passes each kernel to the one that belongs to it, until `settle`.

    Args:
        regularizers: mapping of projections' names to regularizers or their configs.
        rest: the layer's own regularizer, which acts on the other projections, its config, or None.
    """

    def __init__(self, regularizers, rest=None):
        super().__init__()
        # Two lists, since Keras saves what is in a dict in the order of its entries.
        self.names = sorted(regularizers)
        self.regularizers = [keras.regularizers.get(regularizers[name]) for name in self.names]
        self.rest = keras.regularizers.get(rest)
        # Whether each acts on its own kernel already.
        self.settled = False

    def parts(self):
        """The single penalties on all projections."""
        return tuple(part for item in self.regularizers for part in parts_of(item))

    def replaced(self, function):
        """What stands here when `function` gives another regularizer, or None, for each of the parts."""
        others = {name: replaced(item, function) for name, item in zip(self.names, self.regularizers)}
        others = {name: item for name, item in others.items() if parts_of(item)}
        return PerProjection(others, self.rest) if others else self.rest

    def of(self, name):
        """The regularizer of one projection's kernel, or None."""
        return self.regularizers[self.names.index(name)] if name in self.names else self.rest

    def bind(self, layout):
        """Itself: each of those in it belongs to a kernel already."""
        return self

    def __call__(self, kernel):
        """The penalty of one of the kernels: a scalar."""
        if not isinstance(kernel, keras.Variable):
            raise ValueError(
                errors.message(
                    "The penalties of an attention layer act on its kernels, not on a tensor of their values.",
                    "Call tf_reweight.attach(model) once, or fit with callbacks.Reweighting.",
                    shape=tuple(kernel.shape),
                )
            )
        own = self.of(kernel.path.split("/")[-2])
        return as_loss(0.0) if own is None else own(kernel)

    def load_own_variables(self, store):
        # By now the model stands: Keras loads what it holds after all layers have been built.
        super().load_own_variables(store)
        if not self.settled:
            self.settled = True
            for model in models_with(self):
                for target in find(model)[0]:
                    settle(target)

    def get_config(self):
        serialize = keras.regularizers.serialize
        each = {name: serialize(item) for name, item in zip(self.names, self.regularizers)}
        return {"regularizers": each, "rest": None if self.rest is None else serialize(self.rest)}

    @classmethod
    def remainder(cls, config):
        """The layer's own regularizer."""
        return without_penalties(config["rest"])

    def remains(self):
        return remains_of(self.rest)


def kept(target):
    """The regularizer that a layer keeps for a kernel and is saved with; while a proximal step lasts, another one acts."""
    return own_of(getattr(target.layer, target.regularizer_attribute), target.layer.name)


def keep(target, regularizer):
    """Sets the regularizer that a layer keeps for a kernel: on the layer, and for a projection on its attention layer."""
    attention = next((layer for layer in target.parents if shared_regularizer(layer) is not None), None)
    if attention is None:
        set_part(target.layer, target.regularizer_attribute, regularizer)
        return
    projections = walk(attention)[0]
    each = {item.layer.name: kept(item) for item in projections} | {target.layer.name: regularizer}
    penalties = {name: own for name, own in each.items() if parts_of(own)}
    rest = replaced(getattr(attention, shared_regularizer(attention)), removed)
    held = rest
    if penalties:
        held = PerProjection(penalties, rest)
        held.settled = True
    # On the projections as well, as Keras does it: what is saved is then laid out as what will be loaded.
    set_part(attention, shared_regularizer(attention), held)
    for item in projections:
        set_part(item.layer, item.regularizer_attribute, held)


def settle(target):
    """Lets a projection's kernel be pressed by the one regularizer that is for it, of those a loaded layer came with."""
    target.variable.regularizer = own_of(target.regularizer, target.layer.name)
