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
    moved = _moved(np.broadcast_to(x.labels, before), after)
    if moved is None:
        return t.opaque(f"{t.step.path}: spreads an example's values over several")
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


def _moved(labels, after):
    """The labels of one example in a new shape, or None where those of the examples that it is made of differ.

    Examples are more where the new shape is smaller, as where each frame of a video becomes one, and fewer where it is larger.
    """
    before, now = labels.size, math.prod(after)
    num = math.lcm(before, now)
    examples = np.broadcast_to(labels, (num // before, *labels.shape)).reshape(num // now, *after)
    return examples[0] if (examples == examples[0]).all() else None


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


def swap_axes(t, operation, x):
    rank = len(x.shape) + 1
    order = list(range(rank))
    first, second = operation.axis1 % rank, operation.axis2 % rank
    order[first], order[second] = second, first
    return _reordered(t, x, order)


def move_axis(t, operation, x):
    # The sizes of an empty array are told apart by their values.
    order = np.moveaxis(np.empty(range(len(x.shape) + 1)), operation.source, operation.destination).shape
    return _reordered(t, x, list(order))


def _reordered(t, x, order):
    if order[0] != 0:
        return t.opaque(f"{t.step.path}: moves the batch axis")
    return _transposed(t, x, [axis - 1 for axis in order[1:]])


def flip(t, operation, x):
    """The last becomes the first, channels too, whatever number of them is left."""
    axes = _own_axes(x, operation.axis)
    if axes is None:
        return t.opaque(f"{t.step.path}: reverses the batch")
    return Signal(np.flip(x.labels, axes), t.shapes[0])


def roll(t, operation, x):
    axes = _own_axes(x, operation.axis)
    if axes is None or x.varying_axis in axes:
        return t.opaque(f"{t.step.path}: rolls the channels, or the batch")
    return Signal(x.labels, t.shapes[0])


def pad(t, operation, x, constant_values=None):
    """New elements beside the old ones, whose values make no channel constant that was not: they are looked at."""
    widths = [tuple(width) for width in operation.pad_width]
    widths = widths * (len(x.shape) + 1) if len(widths) == 1 else widths
    padded = [axis - 1 for axis, width in enumerate(widths) if any(width)]
    if -1 in padded or x.varying_axis in padded or isinstance(constant_values, Signal):
        return t.opaque(f"{t.step.path}: pads the channels, or the batch, or with what the model computes")
    return Signal(x.labels, t.shapes[0])


def tile(t, operation, x):
    """Copies side by side; those of a channel stay together."""
    repeats = listed(operation.repeats)
    repeats = [1] * (len(x.shape) + 1 - len(repeats)) + list(repeats)
    if len(repeats) > len(x.shape) + 1 or repeats[0] != 1:
        return t.opaque(f"{t.step.path}: repeats the batch, or adds an axis")
    varying = x.varying_axis
    return Signal(np.tile(x.labels, [n if axis == varying else 1 for axis, n in enumerate(repeats[1:])]), t.shapes[0])


def repeat(t, operation, x):
    """Each element several times in a row."""
    axes = None if operation.axis is None else _own_axes(x, operation.axis)
    if axes is None or np.size(operation.repeats) > 1:
        return t.opaque(f"{t.step.path}: repeats the batch, or each element another number of times")
    labels = np.repeat(x.labels, int(np.ravel(operation.repeats)[0]), axes[0]) if x.varying_axis in axes else x.labels
    return Signal(labels, t.shapes[0])


def stack(t, operation, inputs):
    """A new axis: channel i is the same one in every input."""
    axis = operation.axis % (len(t.shapes[0]) + 1) - 1
    if any(not isinstance(item, Signal) for item in inputs):
        return t.opaque(f"{t.step.path}: joins channels with constants")
    along = {signal.varying_axis for signal in inputs} - {None}
    if axis < 0 or len(along) > 1:
        return t.opaque(f"{t.step.path}: joins along the batch, or channels along different axes")
    for signal in inputs[1:]:
        t.labels.tie(inputs[0].labels, signal.labels)
    widest = max(inputs, key=lambda signal: signal.labels.size)
    return t.signal(np.expand_dims(widest.labels, axis), t.shapes[0])


def _own_axes(x, axis):
    """Axes of an operation, which count the batch, as those of the labels; None where the batch is among them."""
    axes = () if axis is None else tuple(each % (len(x.shape) + 1) - 1 for each in listed(axis))
    return axes if axes and -1 not in axes else None
