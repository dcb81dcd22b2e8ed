"""Multiply-accumulates counted in a run, from the sizes of its arrays: what the package counts is compared with it."""

import contextlib
import math

import keras

from tf_reweight.graph.random_inputs import inputs as random_inputs

L = keras.layers


def _einsum(layer, before, after):
    """The product of all sizes that its equation names, over all examples."""
    read, kernel = layer.equation.split("->")[0].split(",")
    return math.prod({**dict(zip(read, before)), **dict(zip(kernel, layer.kernel.shape))}.values())


def _at_outputs(layer, before, after):
    return math.prod(after[:-1]) * sum(_size(weight) for weight in layer.weights if len(weight.shape) > 1)


def _at_inputs(layer, before, after):
    return math.prod(before[:-1]) * _size(layer.kernel)


def _at_steps(layer, before, after):
    return before[0] * before[1] * (_size(layer.cell.kernel) + _size(layer.cell.recurrent_kernel))


def _size(weight):
    return math.prod(weight.shape)


# By how a layer works, with channels last.
COUNTS = {
    **dict.fromkeys((L.Conv1D, L.Conv2D, L.Dense, L.DepthwiseConv1D, L.DepthwiseConv2D, L.SeparableConv2D), _at_outputs),
    **dict.fromkeys((L.Conv1DTranspose, L.Conv2DTranspose), _at_inputs),
    **dict.fromkeys((L.GRU, L.LSTM), _at_steps),
    L.EinsumDense: _einsum,
}


@contextlib.contextmanager
def _watched(model, seen):
    """Within it, `(layer, sizes in, sizes out)` of every call of a layer with kernels is appended to a list."""

    def noting(layer, call):
        def noted(inputs, *args, **kwargs):
            outputs = call(inputs, *args, **kwargs)
            seen.append((layer, tuple(inputs.shape), tuple(outputs.shape)))
            return outputs

        return noted

    layers = [layer for layer in model._flatten_layers() if type(layer) in COUNTS]
    for layer in layers:
        layer.call = noting(layer, layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def macs_of_a_run(model):
    """Multiply-accumulates of all kernels for one example."""
    given, seen = random_inputs(model, model.inputs, num=1), []
    with _watched(model, seen):
        model(given if len(given) > 1 else given[0])
    return sum(COUNTS[type(layer)](layer, *sizes) for layer, *sizes in seen)
