"""What a model costs without some of its channels, before it is rebuilt."""

import math

import keras
import numpy as np


class Cost:
    """Multiply-accumulates of a model's dense and convolution kernels, as a function of the groups kept.

    Counted like `report.count_macs`: one example, unknown sizes as 1, activations and normalisations left out.

    Args:
        coupled: `coupling.groups(model)`.
    """

    def __init__(self, coupled):
        self._sets = coupled.sets
        trace = coupled.trace
        self._parts = []
        for step in trace.steps:
            if not isinstance(step.operation, keras.layers.Layer):
                continue
            positions = math.prod(size or 1 for size in step.outputs[0].shape[:-1])
            for variable in step.operation.weights:
                if len(variable.shape) > 1 and "kernel" in variable.name:
                    entries = [trace.axes.get((id(variable), axis)) for axis in range(len(variable.shape))]
                    roots = [None if entry is None else trace.labels.roots(entry.labels) for entry in entries]
                    self._parts.append((positions, tuple(variable.shape), roots))

    def macs(self, keeps=None):
        """Multiply-accumulates, int.

        Args:
            keeps: one bool array `(num_groups,)` per set of `coupled.sets`; None keeps all.
        """
        dead = np.zeros(0, "int64")
        if keeps is not None:
            dead = np.concatenate([item.labels[~np.asarray(keep)] for item, keep in zip(self._sets, keeps)])
        total = 0
        for positions, shape, roots in self._parts:
            sizes = [size if root is None else int((~np.isin(root, dead)).sum()) for size, root in zip(shape, roots)]
            total += positions * math.prod(sizes)
        return total
