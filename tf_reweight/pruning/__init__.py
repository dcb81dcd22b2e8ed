"""Zeros that stay: pruning in place, masks through retraining, and the wrapper layer."""

from tf_reweight.lazy import submodules
from tf_reweight.pruning.keep_zeros import KeepZeros
from tf_reweight.pruning.masked import Masked, strip
from tf_reweight.pruning.prune import PrunedKernel, PruneReport, keep_zeros, prune, release, sparsity

__all__ = ["KeepZeros", "Masked", "PruneReport", "PrunedKernel", "keep_zeros", "prune", "release", "sparsity", "strip"]
__getattr__ = submodules(__name__)
