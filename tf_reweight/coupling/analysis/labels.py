"""Labels of channels: which are one and the same, and which may not be touched."""

import dataclasses

import numpy as np


class Labels:
    """Union-find over integer labels, with reasons why a label may not be removed.

    Tying and freezing are always safe: they only make the groups that can be removed fewer or larger.
    """

    def __init__(self):
        self._parent = np.zeros(0, "int64")
        self._frozen = []
        self._mixed = []

    def fresh(self, count):
        """`count` new labels, int64 `(count,)`."""
        start = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(start, start + count)])
        return np.arange(start, start + count)

    def roots(self, labels):
        """The representative of each label, same shape."""
        roots = np.asarray(labels)
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def tie(self, first, second):
        """Makes labels one, element by element; the arrays broadcast."""
        first, second = np.broadcast_arrays(self.roots(first), self.roots(second))
        pairs = np.stack([first.ravel(), second.ravel()], axis=1)
        pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        for left, right in pairs:
            left, right = self._root(left), self._root(right)
            self._parent[max(left, right)] = min(left, right)

    def freeze(self, labels, reason):
        """Says that these labels stay, and why."""
        self._frozen.append((np.unique(self.roots(labels)), reason))

    def frozen(self):
        """Mapping of root to the list of its reasons, in the order they were given."""
        return self._collect(self._frozen)

    def mark_mixed(self, labels):
        """Says that channels of these labels were combined with another channel: constants do not stay constant."""
        self._mixed.append((np.unique(self.roots(labels)), True))

    def mixed(self):
        """The set of roots marked by `mark_mixed`."""
        return set(self._collect(self._mixed))

    def _root(self, label):
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def _collect(self, entries):
        collected = {}
        for labels, value in entries:
            for root in np.unique(self.roots(labels)):
                values = collected.setdefault(int(root), [])
                if value not in values:
                    values.append(value)
        return collected


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """What is known of one tensor: a label for each of its elements.

    Attributes:
        labels: int64 array with one axis per axis of the tensor but the batch; size 1 where the labels do not vary. They
            vary along one axis at most: removing labels then removes whole slices.
        shape: the tensor's shape without the batch; None where it is unknown.
    """

    labels: np.ndarray
    shape: tuple

    @property
    def varying_axis(self):
        """The axis along which the labels vary, or None."""
        axes = [axis for axis, size in enumerate(self.labels.shape) if size > 1]
        return axes[0] if axes else None


def aligned(labels, array, shape, keep=None):
    """A `Signal` from one label per element: axes without variation collapse, and of several varying ones one is kept.

    Args:
        labels: the `Labels`.
        array: int array, broadcastable to `shape`.
        shape: the tensor's shape without the batch.
        keep: the axis to keep when several vary; by default the last. Along the others the labels are tied.
    """
    roots = labels.roots(array)
    varying = [axis for axis in range(roots.ndim) if _varies(roots, axis)]
    if len(varying) > 1:
        keep = varying[-1] if keep is None else keep
        for axis in varying:
            if axis != keep:
                labels.tie(roots, np.take(roots, [0], axis=axis))
        roots = labels.roots(roots)
        varying = [axis for axis in range(roots.ndim) if _varies(roots, axis)]
    for axis in range(roots.ndim):
        if axis not in varying:
            roots = np.take(roots, [0], axis=axis)
    return Signal(roots, tuple(shape))


def _varies(array, axis):
    return array.shape[axis] > 1 and bool((array != np.take(array, [0], axis=axis)).any())
