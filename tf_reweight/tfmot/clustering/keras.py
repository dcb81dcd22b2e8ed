"""`tfmot.clustering.keras`: few values in each kernel, under tfmot's names."""

import contextlib
import enum

import keras
import numpy as np

from tf_reweight import errors
from tf_reweight.checks import check_flags, check_name
from tf_reweight.graph.compiling import compile_like
from tf_reweight.graph.rebuilding import Replacements, rebuild
from tf_reweight.graph.ties import check_untied
from tf_reweight.graph.walking import is_graph
from tf_reweight.pruning.masked import strip
from tf_reweight.quantization.clustering import cluster

__all__ = ["CentroidInitialization", "cluster_scope", "cluster_weights", "strip_clustering"]


class CentroidInitialization(enum.Enum):
    """Where tfmot's values start; here k-means, started evenly over the range, finds them."""

    LINEAR = "LINEAR"
    RANDOM = "RANDOM"
    DENSITY_BASED = "DENSITY_BASED"
    KMEANS_PLUS_PLUS = "KMEANS_PLUS_PLUS"


def cluster_weights(
    to_cluster,
    number_of_clusters=16,
    cluster_centroids_init=CentroidInitialization.KMEANS_PLUS_PLUS,
    preserve_sparsity=True,
    cluster_per_channel=False,
):
    """A model whose kernels have few values each, which further training moves; see `quantization.cluster`.

    Args:
        to_cluster: a built Sequential or functional model, which stays as it is.
        number_of_clusters: values per kernel, 2..256, zero among them where there are zeros.
        cluster_centroids_init: where tfmot's values start. Here k-means finds them; `RANDOM` and `DENSITY_BASED` are said to be
            unmet.
        preserve_sparsity: zeros stay zeros, always; tfmot's False is said to be unmet.
        cluster_per_channel: values for each output channel.

    Returns:
        A new model, compiled as the given one was, with a fresh optimizer.

    Raises:
        TypeError: for a layer or what is no model; single layers are chosen by `quantization.cluster(model, layers=...)`.
        ValueError: for a number out of range, or layers that have a weight in common.

    Example:
        >>> clustered = cluster_weights(model, number_of_clusters=16)
        >>> plain = strip_clustering(clustered)
    """
    check_flags(preserve_sparsity=preserve_sparsity, cluster_per_channel=cluster_per_channel)
    if not isinstance(to_cluster, keras.Model) or not is_graph(to_cluster):
        fix = "For single layers, and subclassed models, call tf_reweight.quantization.cluster(model, 16, layers=...)."
        found = type(to_cluster).__name__
        raise TypeError(errors.message("`to_cluster` must be a Sequential or functional Keras 3 model.", fix, to_cluster=found))
    init = _init_name(cluster_centroids_init)
    if init in ("RANDOM", "DENSITY_BASED"):
        errors.warn(f"Values start from k-means, not from {init}: training moves them in any case.")
    if not preserve_sparsity:
        errors.warn("Zeros stay zeros, though preserve_sparsity is False: they are one of the values.")
    check_untied(to_cluster, "cluster_weights")
    made = rebuild(to_cluster, Replacements())
    compile_like(made, to_cluster)
    # NumPy's whole numbers too.
    number = int(number_of_clusters) if isinstance(number_of_clusters, np.integer) else number_of_clusters
    cluster(made, number, per_channel=cluster_per_channel)
    return made


def _init_name(init):
    """The name of a `CentroidInitialization`, or of what spells one."""
    names = [item.value for item in CentroidInitialization]
    if isinstance(init, CentroidInitialization):
        return init.value
    check_name("cluster_centroids_init", init, names)
    return init


def strip_clustering(model):
    """A plain model with the values in its kernels, which further training would move apart."""
    return strip(model)


def cluster_scope():
    """tfmot's scope for loading saved models, which needs none here."""
    return contextlib.nullcontext()
