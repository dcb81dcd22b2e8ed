"""Few values per kernel: files that zip small, with zeros that stay zeros."""

import dataclasses

import keras
import numpy as np
from keras import ops

from tf_reweight import errors, targets
from tf_reweight.attachment import drop_compiled_steps
from tf_reweight.constraints import Mask
from tf_reweight.selection import select

# Weights that k-means looks at: more change nothing.
_SAMPLE = 50_000


class Shared(keras.constraints.Constraint):
    """Holds weights to few values after every optimizer step: those of one cluster all move to their mean.

    A step then moves each value by the mean of its weights' steps. Weights of cluster 0 are exactly zero. Like `Mask` it is
    not saved, since the weights themselves say it all: see `keep_clusters`.

    Args:
        clusters: int array of the weight's shape; 0 is the cluster of zeros, which may be empty.
        inner: the weight's own constraint, applied first, or None.
    """

    def __init__(self, clusters, inner=None):
        clusters = np.asarray(clusters, "int32")
        self.num_clusters = int(clusters.max()) + 1
        sizes = np.maximum(np.bincount(clusters.reshape(-1), minlength=self.num_clusters), 1)
        factors = (np.arange(self.num_clusters) > 0) / sizes
        # Variables, not constants, and not tracked by the model, for the reasons that `Mask` has.
        self.clusters = keras.Variable(clusters, trainable=False, name="clusters", dtype="int32", autocast=False)
        self.factors = keras.Variable(factors.astype("float32"), trainable=False, name="factors", autocast=False)
        self.inner = inner

    def __call__(self, weight):
        if self.inner is not None:
            weight = self.inner(weight)
        clusters = ops.reshape(self.clusters.value, (-1,))
        values = ops.reshape(ops.cast(weight, "float32"), (-1,))
        means = ops.segment_sum(values, clusters, self.num_clusters) * self.factors.value
        return ops.cast(ops.reshape(ops.take(means, clusters), weight.shape), weight.dtype)


@dataclasses.dataclass(frozen=True)
class ClusteredKernel:
    """One kernel: how many values it has, zero included, and the relative error (root mean square) of moving to them."""

    name: str
    num_values: int
    num_weights: int
    error: float


@dataclasses.dataclass(frozen=True)
class ClusterReport:
    """What `cluster` did: one entry per kernel, and what was left out with its reason."""

    kernels: tuple[ClusteredKernel, ...]
    left_out: tuple[targets.LeftOut, ...]

    def to_dict(self):
        return dataclasses.asdict(self)

    def __str__(self):
        lines = [f"{k.name}: {k.num_values} values for {k.num_weights:,} weights, error {k.error:.1%}" for k in self.kernels]
        return "\n".join(lines + [f"{item.name}: left out, {item.reason}" for item in self.left_out])


def cluster(model, num_clusters=16, layers=None):
    """Moves the weights of each kernel to `num_clusters` values, in place, and holds them there through further training.

    The values are k-means centroids, started evenly over the range (Han et al., Deep Compression, 2016). Exact zeros are
    one of them and stay zeros, so that pruning is kept. The file's raw size is the same; zipped it becomes smaller. Cluster
    what you export: folding BatchNormalization, as `quantize` does, would multiply the values of each channel, so quantize
    first and cluster the quantized model.

    Args:
        model: a built Keras model.
        num_clusters: values per kernel, 2..256.
        layers: which layers; see `selection.select`.

    Returns:
        `ClusterReport`.

    Raises:
        ValueError: for a number out of range, or when no kernel matches.

    Example:
        >>> prune(model, sparsity=0.8, structure="unstructured")
        >>> cluster(model, 16)
        >>> model.fit(x, y, epochs=5)
    """
    if isinstance(num_clusters, bool) or not isinstance(num_clusters, int) or not 2 <= num_clusters <= 256:
        fix = "16 costs little accuracy in most networks."
        raise ValueError(errors.message("`num_clusters` must be an int in 2..256.", fix, num_clusters=num_clusters))
    selected, left_out = select(model, "unstructured", layers)
    kernels = []
    for item in selected:
        kernel = ops.convert_to_numpy(item.target.variable.value).astype("float32")
        values = centroids(kernel[kernel != 0], num_clusters - bool((kernel == 0).any()))
        clusters = _nearest(kernel, values)
        moved = np.concatenate([[0.0], values])[clusters]
        _hold(item.target, clusters, moved)
        error = float(np.sqrt(np.sum((moved - kernel) ** 2) / max(np.sum(kernel**2), 1e-30)))
        kernels.append(ClusteredKernel(item.target.name, len(np.unique(moved)), kernel.size, error))
    drop_compiled_steps(model)
    return ClusterReport(tuple(kernels), tuple(left_out))


def keep_clusters(model, max_values=256):
    """Holds the few values a model's kernels have now through further training, for example after loading a clustered model.

    Args:
        model: a built Keras model.
        max_values: kernels with more values than this, or than half their weights, are not taken for clustered ones.

    Returns:
        The number of kernels that are held.
    """
    count = 0
    for target in targets.find(model)[0]:
        kernel = ops.convert_to_numpy(target.variable.value)
        values = np.unique(kernel[kernel != 0])
        if len(values) + bool((kernel == 0).any()) <= min(max_values, kernel.size // 2):
            _hold(target, _nearest(kernel, values), kernel)
            count += 1
    drop_compiled_steps(model)
    return count


def centroids(weights, num, seed=0):
    """The sorted `num` k-means centroids of a flat array of weights; fewer where there are fewer distinct weights."""
    from sklearn.cluster import KMeans  # here, since importing it takes a second

    weights = np.asarray(weights, "float32").reshape(-1)
    distinct = np.unique(weights)
    if len(distinct) <= num:
        return distinct
    if len(weights) > _SAMPLE:
        # The ends stay in, or the values would not reach as far as the weights.
        weights = np.concatenate([np.random.default_rng(seed).choice(weights, _SAMPLE, replace=False), distinct[[0, -1]]])
    start = np.linspace(distinct[0], distinct[-1], num, dtype="float32")[:, None]
    found = np.unique(KMeans(num, init=start, n_init=1).fit(weights[:, None]).cluster_centers_)
    # A centroid at zero would make zeros of weights that were not pruned.
    return found[found != 0].astype("float32")


def _nearest(kernel, values):
    """Clusters `(kernel's shape)`: 0 for exact zeros, else 1 + the index of the nearest of the sorted values."""
    if not len(values):
        return np.zeros(kernel.shape, "int32")
    borders = (values[1:] + values[:-1]) / 2
    return np.where(kernel == 0, 0, 1 + np.searchsorted(borders, kernel)).astype("int32")


def _hold(target, clusters, values):
    variable = target.variable
    inner = variable.constraint
    if isinstance(inner, (Mask, Shared)):
        # What these held is in the clusters.
        inner = inner.inner
    variable.constraint = Shared(clusters, inner)
    variable.assign(values)
