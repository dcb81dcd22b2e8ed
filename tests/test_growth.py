"""What is done once must not be done once for each channel or layer: operations are counted, not timed."""

import keras
import numpy as np

from tf_reweight import shrinking
from tf_reweight.shrinking import dead

L = keras.layers


class Counter:
    """Counts the calls of a function that it stands in for."""

    def __init__(self, monkeypatch, module, name):
        self.count, function = 0, getattr(module, name)

        def counted(*args, **kwargs):
            self.count += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)


def half_dead(width):
    """Two hidden layers of a width in which every other channel leaves a constant."""
    hidden = [L.Dense(width, activation="relu", bias_initializer="ones") for _ in range(2)]
    model = keras.Sequential([keras.Input((4,)), *hidden, L.Dense(3)])
    for layer in hidden:
        layer.kernel.assign(np.asarray(layer.kernel.value) * (np.arange(width) % 2))
    return model


def test_shrink_reads_each_array_once_however_many_channels_are_dead(monkeypatch):
    counts = []
    for width in (8, 64):
        with monkeypatch.context() as patch:
            counter = Counter(patch, dead.ops, "convert_to_numpy")
            _, report = shrinking.shrink(half_dead(width), return_report=True)
        assert report.removed_groups == width, "half of both layers"
        counts.append(counter.count)
    assert counts[0] == counts[1] > 0
