"""Rules for layers that act on each channel alone, and for merges of several tensors."""

import keras
import numpy as np

from tf_reweight.checks import listed
from tf_reweight.coupling.analysis.labels import Signal
from tf_reweight.coupling.analysis.rules_kernels import channel_axis, is_elementwise, not_elementwise


def passing(t, layer, x, *_, **__):
    """One output element per input element: dropout, relu, rescaling."""
    return Signal(x.labels, t.shapes[0])


def dropout(t, layer, x, *_, **__):
    """Factors of one or zero; where a call fixes `training=True` a constant becomes random, and a zero stays one."""
    t.step.mixes = t.step.product = t.step.trains
    return Signal(x.labels, t.shapes[0])


def noise(t, layer, x, *_, **__):
    """Where a call fixes `training=True`, nothing behind it is constant."""
    t.step.mixes = t.step.trains
    return Signal(x.labels, t.shapes[0])


def activation(t, layer, x, *_, **__):
    """An Activation layer: elementwise or not, as its function is."""
    if not is_elementwise(layer.activation):
        return _mixed(t, x, f"{t.step.path}: {not_elementwise(layer.activation)}")
    return Signal(x.labels, t.shapes[0])


def rescaling(t, layer, x, *_, **__):
    """Plain numbers act on every element; a constant per channel goes with its channel."""
    for field in ("scale", "offset"):
        constants = np.asarray(getattr(layer, field))
        if constants.size > 1:
            if constants.ndim != 1 or keras.config.image_data_format() != "channels_last":
                return t.opaque(f"{t.step.path}: it holds constants along other axes than the last")
            t.rewrite(layer, field, t.vector(x, -1), lambda alive, constants=constants: constants[alive].tolist())
    return Signal(x.labels, t.shapes[0])


def spatial(t, layer, x, *_, **__):
    """Pooling, padding, cropping, up-sampling: other sizes, the same channels."""
    if x.varying_axis not in (None, channel_axis(layer, len(x.shape))):
        t.freeze(x, f"{t.step.path} works along the channels' axis")
        return Signal(_one(x), t.shapes[0])
    return Signal(x.labels, t.shapes[0])


def images(t, layer, x, *_, **__):
    """Resizing and cropping, which take a tensor of three axes for one image: the batch would be its height."""
    if len(x.shape) != 3:
        return t.opaque(f"{t.step.path}: it takes the batch for an axis of one image")
    return spatial(t, layer, x)


def global_pooling(t, layer, x, *_, **__):
    """One number per channel."""
    rank = len(x.shape)
    axes = set(range(rank)) - {channel_axis(layer, rank)}
    return reduced(t, x, axes, layer.keepdims)


def reduced(t, x, axes, keepdims):
    """A sum, mean or maximum over some axes."""
    if x.varying_axis in axes:
        return _mixed(t, x, f"{t.step.path} reduces over the channels")
    labels = x.labels if keepdims else np.squeeze(x.labels, tuple(axes))
    return Signal(labels, t.shapes[0])


def batch_normalization(t, layer, x, *_, **__):
    """Where a call fixes `training=True`, what becomes of a constant depends on how the model is called."""
    t.step.mixes = t.step.trains
    axis = layer.axis - 1 if layer.axis > 0 else layer.axis
    channels = t.vector(x, axis)
    t.scale(layer.gamma, 0, channels, makes=True)
    t.scale(layer.beta, 0, channels)
    t.state(layer.moving_mean, 0, channels)
    t.state(layer.moving_variance, 0, channels)
    return t.along(channels, axis, t.shapes[0])


def layer_normalization(t, layer, x, *_, **__):
    """Statistics over the channels change with their number, so they stay; over other axes all is well."""
    axes = listed(layer.axis)
    axes = {axis - 1 if axis > 0 else axis % len(x.shape) for axis in axes}
    if x.varying_axis in axes:
        return _mixed(t, x, f"{t.step.path} takes statistics over the channels")
    return Signal(x.labels, t.shapes[0])


def group_normalization(t, layer, x, *_, **__):
    """Statistics inside groups of channels: whole groups can go."""
    axis = (layer.axis - 1 if layer.axis > 0 else layer.axis) % len(x.shape)
    channels = t.vector(x, axis)
    groups = len(channels) if layer.groups == -1 else layer.groups
    rows = channels.reshape(groups, -1)
    t.labels.tie(rows, rows[:, :1])
    if layer.groups != -1:
        t.count(layer, "groups", rows[:, 0])
    t.scale(layer.gamma, 0, channels, makes=True)
    t.scale(layer.beta, 0, channels)
    return t.along(channels, axis, t.shapes[0])


def prelu(t, layer, x, *_, **__):
    if x.varying_axis is not None and layer.alpha.shape[x.varying_axis] > 1:
        t.scale(layer.alpha, x.varying_axis, t.vector(x, x.varying_axis))
    return Signal(x.labels, t.shapes[0])


def softmax(t, layer, x, *_, **__):
    axes = listed(layer.axis)
    if x.varying_axis in {axis - 1 if axis > 0 else axis % len(x.shape) for axis in axes}:
        return _mixed(t, x, f"{t.step.path}: a softmax mixes channels")
    return Signal(x.labels, t.shapes[0])


def merge(t, layer, inputs, *_, **__):
    """Add, Average, Maximum: channel i of every input becomes channel i of the output."""
    return elementwise(t, layer, *inputs)


def product(t, layer, inputs, *_, **__):
    t.step.product = True
    return elementwise(t, layer, *inputs)


def where(t, operation, *inputs, **options):
    """A choice for each element; what a condition of one channel chooses is as constant as the condition."""
    if len([*inputs, *options]) != 3:
        return t.opaque(f"{t.step.path}: it gives places, as many as there are")
    return elementwise(t, operation, *inputs, *options.values())


def times(t, operation, *inputs, **options):
    t.step.product = True
    return elementwise(t, operation, *inputs, **options)


def elementwise(t, operation, *inputs, **options):
    """Any operation on elements of the same place; a single channel spread over many ties nothing, but stays."""
    shape, rank = t.shapes[0], len(t.shapes[0])
    inputs += tuple(option for option in options.values() if isinstance(option, Signal))
    signals = [item for item in inputs if isinstance(item, Signal)]
    constants = [item for item in inputs if not isinstance(item, Signal) and item is not None]
    if any(np.size(item) > 1 for item in constants):
        return t.opaque(f"{t.step.path}: combines channels with an array of constants")
    if any(len(signal.shape) != rank for signal in signals):
        return t.opaque(f"{t.step.path}: broadcasts tensors of different rank")
    axes = {signal.varying_axis for signal in signals if signal.varying_axis is not None}
    if len(axes) > 1:
        return t.opaque(f"{t.step.path}: combines channels along different axes")
    axis = axes.pop() if axes else None
    narrow = [s for s in signals if axis is not None and s.shape[axis] == 1 and shape[axis] != 1]
    wide = [s for s in signals if not any(s is other for other in narrow)]
    for signal in narrow:
        t.freeze(signal, f"{t.step.path}: one channel is spread over many")
    for signal in wide[1:]:
        t.labels.tie(wide[0].labels, signal.labels)
    widest = max(wide, key=lambda signal: signal.labels.size)
    if narrow:
        t.labels.mark_mixed(widest.labels)
    return t.signal(widest.labels, shape)


def concatenate(t, layer, inputs, *_, **__):
    return joined(t, inputs, layer.axis)


def joined(t, inputs, axis):
    """Channels side by side; `axis` counts the batch."""
    rank = len(t.shapes[0])
    axis = axis % (rank + 1) - 1
    others = [s.varying_axis for s in inputs if s.varying_axis not in (None, axis)]
    if axis < 0 or (others and any(v != others[0] for v in others)):
        return t.opaque(f"{t.step.path}: joins along the batch, or channels along different axes")
    if others or any(s.shape[axis] is None for s in inputs):
        # Joined in time or space: channel i is the same one in every input.
        for signal in inputs[1:]:
            t.labels.tie(inputs[0].labels, signal.labels)
        return t.signal(max(inputs, key=lambda s: s.labels.size).labels, t.shapes[0], keep=others[0] if others else None)
    return t.along(np.concatenate([t.vector(signal, axis) for signal in inputs]), axis, t.shapes[0])


def _one(x):
    return x.labels.reshape(-1)[:1].reshape((1,) * x.labels.ndim)


def _mixed(t, x, reason):
    """Freezes what an operation mixes; its output is one frozen label."""
    t.step.mixes = True
    t.freeze(x, reason)
    return Signal(x.labels.reshape(-1)[:1].reshape((1,) * len(t.shapes[0])), t.shapes[0])
