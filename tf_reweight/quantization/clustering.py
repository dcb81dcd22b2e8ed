"""Few values per kernel: files that zip small, with zeros that stay zeros."""

import dataclasses

import keras
import numpy as np
from keras import ops

from tf_reweight import extras
from tf_reweight.checks import check_flags, check_integer
from tf_reweight.graph.checking import check_eager, check_finite
from tf_reweight.graph.distribution import as_numpy, beside
from tf_reweight.graph.optimizers import applied_average
from tf_reweight.kernels.constraints import KeptZeros, Mask
from tf_reweight.kernels.selection import frozen_among, select
from tf_reweight.kernels.table import LeftOut, find
from tf_reweight.kernels.traced import renew_steps
from tf_reweight.records import Report

_WHAT = "Clustering"
# Weights that k-means looks at: more change nothing.
_SAMPLE = 50_000


class Shared(keras.constraints.Constraint):
    """Holds weights to few values after every optimizer step; which value a weight has is learned along with the values.

    Behind every weight stands a hidden one that may have any value. What an optimizer step moves the weight by, it moves the
    hidden one by (a straight-through estimator, Bengio et al., arXiv 1308.3432). Each weight then goes to the value nearest to
    its hidden one, and each value to the mean of the hidden ones that are there: one iteration of k-means a step. Weights that
    are exactly zero stay so. Like `Mask` it is not saved, since the weights themselves say it all: see `keep_clusters`.

    On JAX, where a constraint cannot keep anything from step to step, every weight stays with the value that it started with,
    and moves by the mean of what the weights of that value move by.

    Args:
        weights: array of the weight's shape, where the hidden weights start.
        values: array `(channels, num)`, nonzero and sorted in each row; one row if all channels share them. A channel with
            fewer repeats its last one, which no weight goes to then.
        layout: the kernel's `kernels.table.Layout`, which says where channels are.
        inner: the weight's own constraint, applied first, or None.
    """

    def __init__(self, weights, values, layout, inner=None):
        self.layout, self.inner = layout, inner
        values = np.asarray(values, "float32")
        self.channels, self.num = values.shape
        last = np.count_nonzero(np.diff(values, axis=1), axis=1)
        # For each place the value that stands there, and whether it is one of the channel's own.
        self._sources = np.minimum(np.arange(self.num), last[:, None])
        self._own = self._sources == np.arange(self.num)

        def untracked(value, name):
            # Variables, not constants, and not tracked by the model, for the reasons that `Mask` has.
            return keras.Variable(value, trainable=False, name=name, dtype=str(value.dtype), autocast=False)

        hidden = ops.convert_to_numpy(self._rows(ops.convert_to_tensor(np.asarray(weights, "float32"))))
        self.kept = untracked(hidden != 0, "kept")
        self.hidden = untracked(hidden, "hidden")
        self.values = untracked(values, "values")
        self.shared = untracked(ops.convert_to_numpy(self._take(values, self._clusters(hidden))), "shared")

    def __call__(self, weight):
        average = applied_average(weight)
        if self.inner is not None:
            weight = self.inner(weight)
        moved = self._rows(ops.cast(weight, "float32"))
        fixed = keras.backend.backend() == "jax"
        hidden = self.hidden.value if fixed else self.hidden.value + (moved - self.shared.value)
        clusters = self._clusters(hidden)
        values = self._means(moved if fixed else hidden, clusters)
        shared = self._take(values, clusters)
        if not fixed:
            self.hidden.assign(hidden)
            self.values.assign(values)
            self.shared.assign(shared)
        if average is not None:
            of_values = self._means(self._rows(ops.cast(average.value, "float32")), clusters)
            average.assign(ops.cast(self._from_rows(self._take(of_values, clusters)), average.dtype))
        return ops.cast(self._from_rows(shared), weight.dtype)

    def numpy(self):
        """The weights as they are shared now, `(weight's shape)`."""
        return ops.convert_to_numpy(self._from_rows(self.shared.value))

    def drop(self, mask):
        """Makes zeros of more weights, where `mask` `(weight's shape)` is False, which no longer count for the values."""
        self.kept.assign(ops.logical_and(self.kept.value, self._rows(ops.convert_to_tensor(mask, "bool"))))
        self.shared.assign(ops.where(self.kept.value, self.shared.value, 0.0))

    # Inside, weights are `(channels, weights of a channel)`.

    def _rows(self, weight):
        if self.channels == 1:
            return ops.reshape(weight, (1, -1))
        standard = self.layout.to_standard(weight)
        return ops.transpose(ops.reshape(standard, (-1, self.channels)))

    def _from_rows(self, rows):
        if self.channels == 1:
            return ops.reshape(rows, self.layout.shape)
        return self.layout.from_standard(ops.reshape(ops.transpose(rows), self.layout.standard_shape))

    def _clusters(self, rows):
        """The index of each weight's nearest value, counted through all channels."""
        values = self.values.value
        if self.num == 1:
            return ops.broadcast_to(ops.arange(self.channels, dtype="int32")[:, None], rows.shape)
        # One search in all channels: that of channel c takes place between c and c + 1.
        rows, first = ops.convert_to_tensor(rows), ops.arange(self.channels, dtype="float32")[:, None]
        low, width = values[:, :1], ops.maximum(values[:, -1:] - values[:, :1], 1e-30)
        borders = 0.9 * ((values[:, 1:] + values[:, :-1]) / 2 - low) / width
        borders = first + ops.where(self._own[:, 1:], borders, 0.98)  # beyond all places
        places = first + ops.clip(0.9 * (rows - low) / width, 0.0, 0.95)
        found = ops.searchsorted(ops.reshape(borders, (-1,)), ops.reshape(places, (-1,)))
        # There is one border less than values in every channel.
        return ops.reshape(found, rows.shape) + ops.arange(self.channels, dtype="int32")[:, None]

    def _means(self, rows, clusters):
        """Values `(channels, num)`: the mean of each cluster's weights, and where it has none the value as it was."""
        clusters, total = ops.reshape(clusters, (-1,)), self.channels * self.num
        kept = ops.reshape(ops.cast(self.kept.value, "float32"), (-1,))
        sums = ops.segment_sum(kept * ops.reshape(rows, (-1,)), clusters, total)
        counts = ops.segment_sum(kept, clusters, total)
        old = ops.reshape(self.values.value, (-1,))
        means = ops.reshape(ops.where(counts > 0, sums / ops.maximum(counts, 1.0), old), (self.channels, self.num))
        return ops.take_along_axis(means, self._sources, axis=1)

    def _take(self, values, clusters):
        return ops.where(self.kept.value, ops.take(ops.reshape(values, (-1,)), clusters), 0.0)


@dataclasses.dataclass(frozen=True)
class ClusteredKernel:
    """One kernel: how many values it has (or the channel of it with most), zero included, and the relative error (root mean
    square) of moving to them."""

    name: str
    num_values: int
    num_weights: int
    error: float


@dataclasses.dataclass(frozen=True)
class ClusterReport(Report):
    """What `cluster` did: one entry per kernel, and what was left out with its reason."""

    kernels: tuple[ClusteredKernel, ...]
    left_out: tuple[LeftOut, ...]

    def __str__(self):
        lines = [f"{k.name}: {k.num_values} values for {k.num_weights:,} weights, error {k.error:.1%}" for k in self.kernels]
        return "\n".join(lines + [f"{item.name}: left out, {item.reason}" for item in self.left_out])


def cluster(model, num_clusters=16, *, layers=None, per_channel=False, include_frozen=False):
    """Moves the weights of each kernel to `num_clusters` values, in place, and holds them there through further training.

    The values are k-means centroids, started evenly over the range (Han et al., Deep Compression, 2016), and training moves
    them, and weights from one to another (see `Shared`). Exact zeros are one of them and stay zeros, so that pruning is kept.
    A copy of the model, or what is loaded from its file, does not hold them: see `keep_clusters`.
    The file's raw size is the same; zipped it becomes smaller. Cluster what you export: folding BatchNormalization, as
    `quantize` does, would multiply the values of each channel, so quantize first and cluster the quantized model.

    Args:
        model: a built Keras model.
        num_clusters: values per kernel, 2..256.
        layers: which layers; see `kernels.selectors`.
        per_channel: `num_clusters` values for each output channel instead: closer to the weights, and larger when zipped.
        include_frozen: whether kernels of layers with `trainable=False` are clustered too. By default they stay as they are,
            and a warning names them.

    Returns:
        `ClusterReport`.

    Raises:
        ValueError: for a number out of range, or when no kernel matches or only frozen ones do.
        TypeError: when `per_channel` or `include_frozen` is not a bool.
        ImportError: when scikit-learn is not installed (the extra `cluster`).

    Example:
        >>> prune(model, sparsity=0.8, structure="unstructured")
        >>> cluster(model, 16)
        >>> model.fit(x, y, epochs=5)
    """
    check_flags(per_channel=per_channel, include_frozen=include_frozen)
    check_eager()
    check_integer("num_clusters", num_clusters, 2, 256, fix="16 costs little accuracy in most networks.")
    extras.check("sklearn", _WHAT)
    check_finite(model)
    selected, left_out = select(model, "unstructured", layers)
    frozen = frozen_among([item.target for item in selected], include_frozen, "cluster")
    names, kernels = {item.name for item in frozen}, []
    for item in selected:
        if item.target.name in names:
            continue
        kernel = as_numpy(item.target.variable).astype("float32")
        channels = _channels(kernel, item.target.layout, per_channel)
        values = [centroids(row[row != 0], num_clusters - bool((row == 0).any())) for row in channels]
        moved = _hold(item.target, kernel, values)
        # Squares of weights from 2e19 on are more than float32 holds.
        old, new = kernel.astype("float64"), moved.astype("float64")
        error = float(np.sqrt(np.sum((new - old) ** 2) / max(np.sum(old**2), np.finfo("float64").tiny)))
        most = max(len(np.unique(row)) for row in _channels(moved, item.target.layout, per_channel))
        kernels.append(ClusteredKernel(item.target.name, most, kernel.size, error))
    _renew_steps(model, [item.target for item in selected if item.target.name not in names])
    return ClusterReport(tuple(kernels), tuple(left_out + frozen))


def keep_clusters(model, max_values=256, per_channel=False, small_kernels=False):
    """Holds a model's kernels to as few values as they have now through further training, for example after loading it.

    A model that was saved and loaded, cloned or copied has the values that its clusters had, and no longer holds them: its next
    `fit` moves every weight by itself, and nothing warns, since few values may be chance. Call this before it.

    Args:
        model: a built Keras model.
        max_values: kernels with more values than this, or than half their weights, are not taken for clustered ones.
        per_channel: count the values of each output channel, as `cluster` does with it.
        small_kernels: whether kernels with more values than half their weights are held as well, for a model whose kernels
            are known to be clustered: a kernel that has few weights has few values in any case.

    Returns:
        The number of kernels that are held.

    Raises:
        TypeError: when `per_channel` or `small_kernels` is not a bool.
    """
    check_flags(per_channel=per_channel, small_kernels=small_kernels)
    check_eager()
    check_integer("max_values", max_values, 1, fix="It counts values; a byte tells 256.")
    held = []
    for target in find(model)[0]:
        kernel = as_numpy(target.variable).astype("float32")
        channels = _channels(kernel, target.layout, per_channel)
        if all(len(np.unique(row)) <= (max_values if small_kernels else min(max_values, row.size // 2)) for row in channels):
            _hold(target, kernel, [np.unique(row[row != 0]) for row in channels])
            held.append(target)
    _renew_steps(model, held)
    return len(held)


def centroids(weights, num, seed=0):
    """The sorted `num` k-means centroids of a flat array of weights; fewer where there are fewer distinct weights."""
    weights = np.asarray(weights, "float32").reshape(-1)
    distinct = np.unique(weights)
    if len(distinct) <= num:
        return distinct
    if len(weights) > _SAMPLE:
        # The ends stay in, or the values would not reach as far as the weights.
        weights = np.concatenate([np.random.default_rng(seed).choice(weights, _SAMPLE, replace=False), distinct[[0, -1]]])
    # k-means squares float32. A power of two brings the weights to 1, which rounds none of them.
    exponent = np.frexp(np.abs(distinct[[0, -1]]).max())[1]
    weights, ends = np.ldexp(weights, -exponent), np.ldexp(distinct[[0, -1]], -exponent)
    start = np.linspace(*ends, num, dtype="float32")[:, None]
    means = extras.load("sklearn.cluster", _WHAT).KMeans  # here, since importing it takes a second
    found = np.ldexp(np.unique(means(num, init=start, n_init=1).fit(weights[:, None]).cluster_centers_), exponent)
    # A centroid at zero would make zeros of weights that were not pruned.
    return found[found != 0].astype("float32")


def _renew_steps(model, targets):
    renew_steps(model, [target.variable for target in targets], "the weights will not stay at their few values")


def _channels(kernel, layout, per_channel):
    """The weights that share values: one flat array per output channel, or one of all."""
    if not per_channel:
        return [kernel.reshape(-1)]
    standard = ops.convert_to_numpy(layout.to_standard(kernel))
    return list(standard.reshape(-1, standard.shape[-1]).T)


def _hold(target, kernel, values):
    """Puts `Shared` on a kernel, in place of what held it to zeros or values before; returns the kernel as it is then."""
    variable = target.variable
    inner = variable.constraint
    while isinstance(inner, (Mask, Shared, KeptZeros)):
        # What these held is in the weights.
        inner = inner.inner
    num = max(1, max(map(len, values)))
    # Channels with fewer values than others repeat their last one, which changes nothing; a pruned one has none to repeat.
    rows = [np.pad(row, (0, num - len(row)), mode="edge") if len(row) else np.zeros(num) for row in values]
    with beside(variable):
        variable.constraint = Shared(kernel, np.stack(rows), target.layout, inner)
    moved = variable.constraint.numpy()
    variable.assign(moved)
    return moved
