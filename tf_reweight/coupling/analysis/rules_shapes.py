"""Rules for operations that move elements without changing them."""

import math

import numpy as np

from tf_reweight.checks import listed
from tf_reweight.coupling.analysis.labels import Signal
from tf_reweight.coupling.analysis.rules_channelwise import joined, reduced


def flatten(t, layer, x):
    labels, shape = x.labels, x.shape
    if layer.data_format == "channels_first" and len(shape) > 1:
        labels, shape = np.moveaxis(labels, 0, -1), (*shape[1:], shape[0])
    return _reshaped(t, layer, Signal(labels, shape), None, ())


def reshape(t, layer, x):
    return _reshaped(t, layer, x, "target_shape", layer.target_shape)


def reshape_op(t, operation, x):
    return _reshaped(t, operation, x, "newshape", operation.newshape)


def _reshaped(t, operation, x, field, target):
    """Follows each element to its new place; where the new shape names the number of channels, it follows too."""
    shape = t.shapes[0]
    sizes = _known_sizes(x.shape, shape)
    if sizes is None:
        return t.opaque(f"{t.step.path}: a reshape of unknown sizes")
    before, after = sizes
    moved = np.broadcast_to(x.labels, before).reshape(after)
    made = t.signal(moved, shape)
    axis = made.varying_axis
    if axis is None:
        return made
    if shape[axis] is None:
        return t.opaque(f"{t.step.path}: puts channels on an axis of unknown size")
    position = axis - len(shape) + len(target)  # the op counts the batch, the layer does not
    if field is not None and target[position] != -1:
        channels = t.vector(made, axis)
        t.rewrite(operation, field, channels, lambda alive: _replaced(target, position, int(alive.sum())))
    return made


def _replaced(values, position, value):
    return [*values[:position], value, *values[position + 1 :]]


def _known_sizes(before, after):
    """Both shapes with one unknown size each filled in consistently, or None."""
    unknown = [shape.count(None) for shape in (before, after)]
    if max(unknown) > 1 or unknown[0] != unknown[1]:
        return None
    if not unknown[0]:
        return before, after
    first, second = (math.prod(size for size in shape if size is not None) for shape in (before, after))
    count = second // math.gcd(first, second)
    fill = (count, first * count // second)
    return tuple(tuple(n if s is None else s for s in shape) for n, shape in zip(fill, (before, after)))


def permute(t, layer, x):
    return _transposed(t, x, [dim - 1 for dim in layer.dims])


def transpose_op(t, operation, x):
    rank = len(x.shape) + 1
    axes = [axis % rank for axis in (operation.axes or range(rank)[::-1])]
    if axes[0] != 0:
        return t.opaque(f"{t.step.path}: moves the batch axis")
    return _transposed(t, x, [axis - 1 for axis in axes[1:]])


def _transposed(t, x, order):
    return Signal(np.transpose(x.labels, order), t.shapes[0])


def repeat_vector(t, layer, x):
    return Signal(x.labels[None], t.shapes[0])


def expand_dims(t, operation, x):
    rank = len(x.shape) + 1
    axis = operation.axis
    axes = listed(axis)
    axes = [a % (rank + len(axes)) for a in axes]
    if 0 in axes:
        return t.opaque(f"{t.step.path}: moves the batch axis")
    return Signal(np.expand_dims(x.labels, tuple(a - 1 for a in axes)), t.shapes[0])


def squeeze(t, operation, x):
    rank = len(x.shape) + 1
    axis = operation.axis
    if axis is None:
        axes = [i + 1 for i, size in enumerate(x.shape) if size == 1]
    else:
        axes = [a % rank for a in listed(axis)]
    if 0 in axes:
        return t.opaque(f"{t.step.path}: moves the batch axis")
    return Signal(np.squeeze(x.labels, tuple(a - 1 for a in axes)), t.shapes[0])


def reduction(t, operation, x, *_, **__):
    rank = len(x.shape) + 1
    axis = operation.axis
    axes = range(rank) if axis is None else [a % rank for a in listed(axis)]
    if 0 in axes:
        return t.opaque(f"{t.step.path}: reduces over the batch")
    return reduced(t, x, {a - 1 for a in axes}, operation.keepdims)


def concatenate_op(t, operation, inputs):
    if any(not isinstance(item, Signal) for item in inputs):
        return t.opaque(f"{t.step.path}: joins channels with constants")
    return joined(t, inputs, operation.axis)


def split(t, operation, x):
    """Pieces along the channels: where to cut follows the channels kept, and no piece may become empty."""
    axis = operation.axis % (len(x.shape) + 1) - 1
    if axis < 0:
        return t.opaque(f"{t.step.path}: splits the batch")
    if x.varying_axis != axis:
        return [Signal(x.labels, shape) for shape in t.shapes]
    channels = t.vector(x, axis)
    cuts = np.cumsum([shape[axis] for shape in t.shapes])[:-1]
    t.rewrite(
        operation, "indices_or_sections", channels,
        lambda alive: [int(alive[:cut].sum()) for cut in cuts],
    )  # fmt: skip
    pieces = np.split(channels, cuts)
    for piece in pieces:
        t.span(piece)
    return [t.along(piece, axis, shape) for piece, shape in zip(pieces, t.shapes)]


def get_item(t, operation, x, key):
    """Slices of other axes than the channels'."""
    keys = listed(key)
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        missing = len(x.shape) + 1 - (len(keys) - 1 - keys.count(None))
        keys[at : at + 1] = [slice(None)] * missing
    # Axes that no key names are whole, and indices of the labels leave them out as well.
    if any(not (item is None or isinstance(item, (int, slice))) for item in keys) or keys[:1] not in ([], [slice(None)]):
        return t.opaque(f"{t.step.path}: an index that is no plain slice")
    picks, axis = [], 0
    for item in keys[1:]:
        if item is None:
            picks.append(None)
            continue
        if axis == x.varying_axis and item != slice(None):
            return t.opaque(f"{t.step.path}: slices the channels; keras.ops.split is followed")
        # Where the labels do not vary they have one element, whatever is picked of the tensor.
        picks.append(0 if isinstance(item, int) else slice(None))
        axis += 1
    return Signal(x.labels[tuple(picks)], t.shapes[0])
