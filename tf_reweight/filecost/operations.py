"""How long single operations take on this machine, each as a file of its own, in several sizes."""

import json

import keras
import numpy as np

from tf_reweight.filecost.files import content_of, times
from tf_reweight.graph.access import has_channels_first
from tf_reweight.graph.copying import config_of
from tf_reweight.graph.counting import count_macs

_L = keras.layers
# The entry of a layer's config that says how many channels it makes; None where it makes as many as it reads.
_CHANNELS = {
    _L.Dense: "units", _L.Conv1D: "filters", _L.Conv2D: "filters", _L.Conv3D: "filters", _L.Conv1DTranspose: "filters",
    _L.Conv2DTranspose: "filters", _L.DepthwiseConv1D: None, _L.DepthwiseConv2D: None,
}  # fmt: skip
# Parts of the channels, in and out, that each operation is timed with.
_SIZES = (0.25, 0.5, 1.0)
_OF_NO_USE = ("regularizer", "constraint", "initializer", "activation")


def curves(uses, precision):
    """For each use of a kernel, `[multiply-accumulates, milliseconds]`: two rising lists.

    Operations alike are timed once. Those of other kinds than dense layers and convolutions take as long as the timed ones do
    for as many multiply-accumulates; the whole is fitted to measured files afterwards.

    Args:
        uses: list of `(variable, positions, call)`; see `graph.counting.kernel_uses`.
        precision: of the files.
    """
    keys = [_key(call) for _, _, call in uses]
    timed = _timed({key: call for key, (_, _, call) in zip(keys, uses) if key is not None}, precision)
    rate = _rate(timed.values())
    works = [positions * float(np.prod(variable.shape)) for variable, positions, _ in uses]
    return [_whole(timed.get(key, [[0.0, work], [0.0, rate * work]]), work) for key, work in zip(keys, works)]


def _whole(curve, work):
    """The curve of one operation up to all that it multiplies and adds, as often as it runs: at each step of a sequence."""
    times = work / curve[0][-1]
    return [[times * amount for amount in amounts] for amounts in curve]


def _key(node):
    """What tells operations apart that take unlike times; None for one that is not timed by itself."""
    layer = node.operation
    if type(layer) not in _CHANNELS or has_channels_first(layer) or _config(layer).get("groups", 1) != 1:
        return None
    return json.dumps([type(layer).__name__, _config(layer), node.input_tensors[0].shape[1:]], default=str)


def _config(layer):
    """What of a layer's config the time depends on."""
    return {name: value for name, value in config_of(layer).items() if name != "name" and not name.endswith(_OF_NO_USE)}


def _timed(nodes, precision):
    models = {key: [_single(node, part) for part in _SIZES] for key, node in nodes.items()}
    flat = [content_of(model, precision) for several in models.values() for model in several]
    measured = iter(times(flat)) if flat else iter(())
    return {key: _rising([(count_macs(model), next(measured)) for model in several]) for key, several in models.items()}


def _single(node, part):
    """A model of one operation with a part of its channels."""
    layer, shape = node.operation, node.input_tensors[0].shape[1:]
    config, name = _config(layer), _CHANNELS[type(layer)]
    if name is not None:
        config[name] = max(1, round(part * config[name]))
    channels = max(1, round(part * shape[-1]))
    return keras.Sequential([keras.Input((*shape[:-1], channels)), type(layer)(**{**config, "dtype": "float32"})])


def _rising(points):
    """`[works, times]` of `(work, time)` pairs, one for each work; noise does not make more work faster."""
    points = dict(sorted(points))
    return [[float(work) for work in points], [float(ms) for ms in np.maximum.accumulate(list(points.values()))]]


def _rate(found):
    """Milliseconds of one multiply-accumulate, over all that was timed."""
    ends = [(works[-1], ms[-1]) for works, ms in found]
    return sum(ms for _, ms in ends) / sum(work for work, _ in ends) if ends else 1e-6
