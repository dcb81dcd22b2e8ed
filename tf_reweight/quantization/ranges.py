"""The ranges of activations: learned from data without training, and held still at the end of training."""

import contextlib

import keras
import numpy as np
from keras import ops

from tf_reweight import errors
from tf_reweight.checks import check_flags, check_integer
from tf_reweight.data import varying
from tf_reweight.data.examples import checked, input_specs, take
from tf_reweight.data.fitting import check_indices
from tf_reweight.graph.access import all_layers
from tf_reweight.graph.checking import check_eager, check_layer
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.randomness import fixed_draws
from tf_reweight.graph.walking import fixed_batch, input_structure
from tf_reweight.quantization import small_channels
from tf_reweight.quantization.layers import QuantizedActivation, QuantizedKernel


def calibrate(model, inputs, batch_size=32):
    """Sets the ranges of a quantized model from data, without training; kernels stay as they are.

    The ranges are those of all the examples' values, as the converter takes them from `representative_data`: a good start for
    training, and all that is needed to export without any. While it looks, activations are not rounded. What was learned
    before counts no more, also in a model whose ranges are frozen; they are frozen again afterwards.

    Args:
        model: from `quantize`.
        inputs: examples of any kind that `data.examples.take` knows: arrays `(num, ...)`, a list or a dict of them, a
            `tf.data.Dataset`, a generator or a PyDataset, with or without labels; 100 to 500 do.
        batch_size: examples that are looked at together, where the model takes any number of them.

    A warning says where the examples, or the outputs for them, do not vary, and which channels of an output are lost beside
    larger ones.

    Raises:
        TypeError: for what holds no examples.
        ValueError: when the model is not quantized, or for examples that do not fit its inputs; the ranges are as before then.

    Example:
        >>> calibrate(qat, data.representative(256))
    """
    check_eager()
    layers = rounders(model)
    check_integer("batch_size", batch_size, 1, fix="It counts examples.")
    arrays = take(model, inputs, "inputs")
    arrays = checked(arrays, input_specs(model, arrays), "inputs")
    check_indices(model, arrays, "inputs")
    order = np.arange(len(arrays[0]))
    if fixed_batch(model):
        batch_size = fixed_batch(model)
        order = np.resize(order, -(-len(order) // batch_size) * batch_size)  # the first again, where the last are too few
    # Of each batch some: examples may be sorted.
    seen, each = [], -(-varying.MOST * batch_size // len(order))
    with _learning_anew(layers), fixed_draws(model):
        for start in range(0, len(order), batch_size):
            batch = [array[order[start : start + batch_size]] for array in arrays]
            outputs = model(keras.tree.pack_sequence_as(input_structure(model), batch), training=False)
            given = [np.atleast_1d(ops.convert_to_numpy(output)) for output in keras.tree.flatten(outputs)]
            seen.append([varying.few(array, each) for array in given])
    said = varying.of_examples("the data", arrays)
    said = said or varying.of_outputs("the data", [np.concatenate(parts) for parts in zip(*seen)])
    if said is not None:
        errors.warn(f"The ranges of the quantized model may not hold. {said}")
    lost = small_channels.of_outputs(model, arrays)
    if lost is not None:
        errors.warn(lost)


@contextlib.contextmanager
def _learning_anew(layers):
    """Within it, layers learn their ranges from nothing and do not round; where something is raised, they are as before."""
    learned = [variable for layer in layers for variable in (layer.minimum, layer.maximum, layer.observed)]
    # Copies: on torch an array may be the variable's own memory.
    known = [(variable, as_numpy(variable).copy()) for variable in learned]
    frozen = [(layer.frozen, as_numpy(layer.frozen).copy()) for layer in layers]
    for variable, value in (*known, *frozen):
        variable.assign(np.zeros_like(value))
    for layer in layers:
        layer.calibrating = True
    try:
        yield
    except BaseException:
        for variable, value in known:
            variable.assign(value)
        raise
    finally:
        for layer in layers:
            layer.calibrating = False
        for variable, value in frozen:
            variable.assign(value)


def freeze(model, frozen=True):
    """Holds the ranges of a quantized model still in any further training, or (`frozen=False`) lets them move again."""
    check_flags(frozen=frozen)
    for layer in rounders(model):
        layer.frozen.assign(float(frozen))


def rounders(model):
    """The layers of a quantized model that learn a range.

    Raises:
        ValueError: when there are none.
    """
    found = [layer for layer in _layers(model, QuantizedActivation) if layer.fixed_range is None]
    if not found:
        raise ValueError(errors.message("The model must be quantized.", "Call `quantize(model)` first.", model=model.name))
    return found


@contextlib.contextmanager
def exporting(model):
    """Within it, a quantized model is traced for a file, in which joins of unlike scale stay float; others are as ever."""
    layers = _layers(model, QuantizedActivation)
    for layer in layers:
        layer.exporting_float = layer.float_joins()
    try:
        yield
    finally:
        for layer in layers:
            layer.exporting_float = ()


def is_quantized(model):
    """Whether a model came from `quantize`."""
    return bool(_layers(model, (QuantizedActivation, QuantizedKernel)))


def check_exportable(model, precision):
    """Raises ValueError unless a quantized model can become a file of the given precision."""
    activation_bits = {layer.bits for layer in _layers(model, QuantizedActivation)}
    weight_bits = {layer.bits for layer in _layers(model, QuantizedKernel)}
    if activation_bits == {8} and max(weight_bits, default=8) <= 8:
        fits = "int8"
    elif activation_bits == {16} and weight_bits <= {8}:
        fits = "int16"
    else:
        fix = "Quantize with such widths; others are for studies in Keras."
        expected = "Files hold 8-bit activations with weights of 2 to 8 bits, or 16-bit activations with weights of 8."
        raise ValueError(errors.message(expected, fix, activation_bits=activation_bits, weight_bits=weight_bits))
    if precision != fits:
        fix = f'Export it as "{fits}", or the float model inside, `strip_quantization(model)`.'
        raise ValueError(errors.message(f"A model quantized like this is an {fits} model.", fix, precision=precision))
    blind = [layer.name for layer in rounders(model) if not float(ops.max(layer.observed))]
    if blind:
        fix = "Train it for an epoch, or call `tf_reweight.quantization.calibrate(model, inputs)`."
        raise ValueError(errors.message("The ranges of a quantized model must be learned first.", fix, ranges=blind[:5]))


class FreezeRanges(keras.callbacks.Callback):
    """Holds the ranges still from one epoch on, so that the last epochs train for exactly the grid that is exported.

    Args:
        epoch: the first epoch, counted from 0, in which ranges no longer move; a warning says where the fit ends before it.

    Example:
        >>> qat.fit(x, y, epochs=5, callbacks=[FreezeRanges(epoch=4)])
    """

    def __init__(self, epoch):
        super().__init__()
        check_integer("epoch", epoch, 0, fix="It is counted from 0.")
        self.epoch = epoch

    def on_train_begin(self, logs=None):
        rounders(self.model)  # or it is said before any training
        epochs = self.params.get("epochs")
        if epochs is not None and self.epoch >= epochs:
            errors.warn(
                f"FreezeRanges({self.epoch}) freezes nothing in a fit that ends with epoch {epochs - 1}, counted from 0. Give "
                f"the number of one of its epochs, such as {epochs - 1}, or leave the callback out.",
            )

    def on_epoch_begin(self, epoch, logs=None):
        # Decided from the epoch alone, so that a resumed run goes on as it would have.
        freeze(self.model, epoch >= self.epoch)


def _layers(model, kinds):
    check_layer(model)
    return [layer for layer in all_layers(model) if isinstance(layer, kinds)]
