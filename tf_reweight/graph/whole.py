"""Which tensors of a graph hold integers when the model runs, whatever Keras says of them beforehand."""

import keras

from tf_reweight.graph.access import tensors_in


class Whole:
    """Follows the types that tensors have when the model runs, from call to call.

    Keras says of many layers that they give floats, as their own type is; those that only move numbers or choose among them,
    such as `Resizing`, `Cropping2D` and `MaxPooling2D`, give the integers that they are given.
    """

    def __init__(self):
        self._types, self._kept = {}, []

    def __contains__(self, tensor):
        return not keras.backend.is_float_dtype(self._types.get(id(tensor), tensor.dtype))

    def follow(self, operation, args, kwargs, outputs):
        """Notes what a call gives; where all that it is given is float, what Keras says is true.

        Args:
            operation: what is called in the model.
            args, kwargs: of the call, with symbolic tensors.
            outputs: what stands for the call's outputs.
        """
        if not any(tensor in self for tensor in tensors_in((args, kwargs))):
            return
        args, kwargs = keras.tree.map_structure(self._as_run, (args, kwargs))
        try:
            specs = keras.Operation.compute_output_spec(operation, *args, **kwargs)
        except Exception:  # an own layer may do anything: then Keras is believed
            return
        for tensor, spec in zip(tensors_in(outputs), tensors_in(specs)):
            self._types[id(tensor)] = spec.dtype
            self._kept.append(tensor)  # ids are only good as long as the tensor lives

    def _as_run(self, item):
        """A tensor of the type that it has when the model runs; anything else as it is."""
        if id(item) not in self._types:
            return item
        return keras.KerasTensor(item.shape, self._types[id(item)], name=item.name)
