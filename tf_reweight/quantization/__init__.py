"""Training with the numbers an int8 file will have, so that the file is as accurate as the model."""

from tf_reweight.lazy import submodules
from tf_reweight.quantization.build import quantize
from tf_reweight.quantization.clustering import ClusteredKernel, ClusterReport, Shared, cluster, keep_clusters
from tf_reweight.quantization.layers import QuantizedActivation, QuantizedKernel
from tf_reweight.quantization.levels import ToLevels, regularize_levels, snap
from tf_reweight.quantization.ranges import FreezeRanges, calibrate, freeze, is_quantized
from tf_reweight.quantization.report import QuantizationReport, QuantizedLayer
from tf_reweight.quantization.simplification import simplify
from tf_reweight.quantization.strip import strip_quantization

__all__ = [
    "ClusterReport", "ClusteredKernel", "FreezeRanges", "QuantizationReport", "QuantizedActivation", "QuantizedKernel",
    "QuantizedLayer", "Shared", "ToLevels", "calibrate", "cluster", "freeze", "is_quantized", "keep_clusters", "quantize",
    "regularize_levels", "simplify", "snap", "strip_quantization",
]  # fmt: skip
__getattr__ = submodules(__name__)
