"""Kernels fitted anew after channels went, from unlabelled examples, so that layers give what they gave before."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from tf_reweight.graph.access import has_channels_first
from tf_reweight.graph.distribution import as_numpy
from tf_reweight.graph.walking import calls_in_order, graph_of
from tf_reweight.kernels.constraints import mask_of
from tf_reweight.records import Report

_L = keras.layers
_CONVOLUTIONS = (_L.Conv1D, _L.Conv2D, _L.Conv3D)
# Examples, and places of each, that a kernel is fitted to.
_EXAMPLES, _PLACES = 256, 64
# Examples that are sent through the model at once: the first, and up to the second where its largest activation stays in bytes.
_BATCHES, _BYTES = (16, 64), 2**26
# How much a kernel may be held to what it is, relative to what its inputs weigh, and the part of the examples that chooses.
_RIDGES = (1e-5, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_CHOOSING = 0.25
# Length of an axis that is not known.
_UNKNOWN = 64


@dataclasses.dataclass(frozen=True)
class Reconstruction(Report):
    """What `reconstruct` did.

    Attributes:
        layers: one dict per layer that lost inputs: its `name`, and the mean squared error of what it gives before its
            activation, against the dense model, `before` and `after`.
    """

    layers: tuple[dict, ...]


def reconstruct(model, dense, examples):
    """Fits what is left of each kernel that lost inputs by least squares, in place, layer by layer.

    `min_W |Y - X W|^2 + ridge |W - W0|^2`, where `Y` is what the layer of the dense model gives for its own inputs, before the
    activation, `X` what the layer is given now, after those before it were fitted, and `W0` the kernel as it is (He et al.,
    Channel pruning, arXiv 1707.06168). Since `W0` itself is allowed, no layer's squared error rises. The ridge is the one that
    is best on a quarter of the examples when the others are fitted; where none is better there than `W0`, that stays, since few
    examples do not tell enough of a kernel with many inputs. Zeros stay zero.

    Dense layers and convolutions without groups are fitted; those inside nested models, and those that are called more than
    once, stay as they are, since what they are given may depend on themselves.

    Args:
        model: a Sequential or functional model after `prune_groups`.
        dense: a copy of it from before.
        examples: `data.labelled.Labelled`; labels are not looked at.

    Returns:
        `Reconstruction`.
    """
    rows = np.random.default_rng(0).permutation(examples.num)[:_EXAMPLES]
    size = _batch_size(model, len(rows))
    batches = [examples.batch(model, rows[start : start + size])[0] for start in range(0, len(rows), size)]
    calls = {}
    for node, old in zip(calls_in_order(model), calls_in_order(dense)):
        if _fits(node.operation):
            calls.setdefault(id(node.operation), []).append((node, old))
    once = [several[0] for several in calls.values() if len(several) == 1]
    found = [_refit(model, dense, batches, *pair) for pair in once if _lost_inputs(pair[0].operation)]
    return Reconstruction(tuple(entry for entry in found if entry is not None))


def _batch_size(model, num):
    """Few where activations are large; never so many that none are left to choose a ridge by.

    The model is called for every layer, one operation after the other, and a call costs little more for many examples.
    """
    shapes = [tensor.shape[1:] for node in calls_in_order(model) for tensor in node.output_tensors]
    largest = max(4 * math.prod(length or _UNKNOWN for length in shape) for shape in shapes)
    fewest, most = _BATCHES
    return min(max(fewest, min(most, _BYTES // largest)), math.ceil(_CHOOSING * num))


def _fits(layer):
    if isinstance(layer, _CONVOLUTIONS):
        return layer.groups == 1 and not has_channels_first(layer)
    return isinstance(layer, _L.Dense)


def _lost_inputs(layer):
    mask = mask_of(layer.kernel)
    return mask is not None and not _flat(mask.as_numpy()).any(1).all()


def _refit(model, dense, batches, node, before_cut):
    """Fits the layer of one call; None where its zeros are no whole rows and columns."""
    layer, old = node.operation, before_cut.operation
    mask = _flat(mask_of(layer.kernel).as_numpy())
    rows, columns = mask.any(1), mask.any(0)
    if not rows.any() or not mask[np.ix_(rows, columns)].all():
        return None
    kernel, bias = _flat(_values(layer.kernel)), _bias(layer)
    kept, wanted_of = np.ix_(rows, columns), _flat(_values(old.kernel))[:, columns]
    pairs = []
    for now, then in zip(_given(model, node, batches), _given(dense, before_cut, batches)):
        x, wanted = _patches(layer, now)[:, rows], _patches(layer, then) @ wanted_of + _bias(old)[columns]
        pairs.append((np.column_stack([x, np.ones(len(x))]) if layer.use_bias else x, wanted))
    held = max(1, round(_CHOOSING * len(pairs)))
    sides = [[np.concatenate(several) for several in zip(*part)] for part in (pairs[held:] or pairs, pairs[:held])]
    start = kernel[kept]
    start = np.vstack([start, bias[columns]]) if layer.use_bias else start
    fitted = _fitted(start, *sides)
    x, wanted = (np.concatenate(several) for several in zip(*pairs))
    before, after = _error(start, x, wanted), _error(fitted, x, wanted)
    if layer.use_bias:
        fitted, bias[columns] = fitted[:-1], fitted[-1]
        layer.bias.assign(bias)
    kernel[kept] = fitted
    layer.kernel.assign(kernel.reshape(layer.kernel.shape))
    return {"name": layer.name, "before": before, "after": after}


def _fitted(start, fitting, choosing):
    """The weights of least squares over all examples, with the ridge that is best on those that choose, or `start`."""
    tried = {ridge: _error(_solved(start, *fitting, ridge), *choosing) for ridge in _RIDGES}
    best = min(tried, key=tried.get)
    if tried[best] >= _error(start, *choosing):
        return start
    both = (np.concatenate(several) for several in zip(fitting, choosing))
    return _solved(start, *both, best)


def _solved(start, x, wanted, ridge):
    gram = x.T @ x
    weight = ridge * max(np.trace(gram), 1e-30) / len(gram)
    return start + np.linalg.solve(gram + weight * np.eye(len(gram)), x.T @ (wanted - x @ start))


def _error(weights, x, wanted):
    return float(np.mean(np.square(wanted - x @ weights)))


def _given(model, node, batches):
    """What a layer is given at one call, an array for each batch of inputs of the model."""
    seeing = keras.Model(graph_of(model).input, node.input_tensors[0])
    for inputs in batches:
        yield np.asarray(ops.convert_to_numpy(ops.cast(seeing(inputs, training=False), "float32")), "float64")


def _patches(layer, given):
    """What each output is made of, float64 `(places, flat kernel inputs)`; of a convolution some places of each example."""
    if not isinstance(layer, _CONVOLUTIONS):
        return given.reshape(-1, given.shape[-1])
    size, dilation, strides = layer.kernel_size, layer.dilation_rate, layer.strides
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation)]
    if layer.padding != "valid":
        given = np.pad(given, [(0, 0), *map(_padding, [layer.padding] * len(size), given.shape[1:-1], reach, strides), (0, 0)])
    axes = tuple(range(1, 1 + len(size)))
    windows = np.lib.stride_tricks.sliding_window_view(given, reach, axes)
    steps = [1, *strides, 1, *dilation]
    windows = windows[tuple(slice(None, None, step) for step in steps)]
    places = windows.shape[1 : 1 + len(size)]
    chosen = np.random.default_rng(0).permutation(int(np.prod(places)))[:_PLACES]
    parts = [windows[(slice(None), *place)] for place in zip(*np.unravel_index(chosen, places))]
    # From (examples, inputs, *kernel) to the kernel's own order, its places before its inputs.
    return np.concatenate([np.moveaxis(part, 1, -1).reshape(len(part), -1) for part in parts])


def _padding(kind, length, reach, stride):
    """What Keras pads one axis with, before and after."""
    if kind == "causal":
        return reach - 1, 0
    total = max((-(-length // stride) - 1) * stride + reach - length, 0)
    return total // 2, total - total // 2


def _flat(kernel):
    """A kernel, or its mask, as `(inputs, outputs)`."""
    return kernel.reshape(-1, kernel.shape[-1])


def _values(variable):
    return np.array(as_numpy(variable), "float64")


def _bias(layer):
    return _values(layer.bias) if layer.use_bias else np.zeros(layer.kernel.shape[-1])
