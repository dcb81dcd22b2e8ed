"""The base of layers that compute another layer with kernels changed for the call."""

import abc

import keras

from tf_reweight import errors
from tf_reweight.graph.access import is_layer


class KernelWrapper(abc.ABC, keras.layers.Wrapper):
    """Has the outputs, masks of sequences and activity penalty of the layer inside; what it changes are its kernels.

    Args:
        layer: the layer inside.

    Raises:
        TypeError: for what is no layer.
    """

    def __init__(self, layer, **kwargs):
        if not is_layer(layer):
            expected = f"`{type(self).__name__}` wraps a Keras layer with a kernel."
            fix = "For example keras.layers.Dense(8) or keras.layers.Conv2D(8, 3)."
            raise TypeError(errors.message(expected, fix, layer=layer))
        super().__init__(layer, **kwargs)
        # Keras applies it where a layer is called, and the inner one is called without its losses.
        self.activity_regularizer = layer.activity_regularizer
        self.supports_masking = layer.supports_masking

    @abc.abstractmethod
    def changed_kernels(self):
        """The kernels the layer computes with: mapping of the stored variable's id to the value in its place."""

    def call(self, inputs, *args, **kwargs):
        changed = self.changed_kernels()
        variables = [*self.layer.variables, *keras.tree.flatten(getattr(self.layer, "states", None) or ())]
        values = [changed.get(id(variable), variable.value) for variable in variables]
        # A whole call of the layer: it finds out by itself its type of numbers, whether this is training, and about masks.
        with keras.StatelessScope(state_mapping=list(zip(variables, values))) as scope:
            outputs = self.layer(inputs, *args, **kwargs)
        for variable, old in zip(variables, values):
            new = scope.get_current_value(variable)
            if new is not old and id(variable) not in changed:
                variable.assign(new)
        return outputs

    def compute_output_shape(self, input_shape):
        """The shape that the layer inside gives; `TimeDistributed` asks for it."""
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, *args, **kwargs):
        # By tracing, as Keras does for layers without `compute_output_shape`: that has no dtypes, and one input.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_mask(self, inputs, previous_mask=None):
        """The mask of a sequence that the layer inside gives."""
        return self.layer.compute_mask(inputs, previous_mask)
