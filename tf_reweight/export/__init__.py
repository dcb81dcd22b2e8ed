"""From a Keras model to a `.tflite` that was executed and compared, and looking at such files."""

from tf_reweight.export.arm_eligible import ArmFix, make_arm_eligible
from tf_reweight.export.bundle import bundle
from tf_reweight.export.explain import explain
from tf_reweight.export.explanation import Explanation, OperationError
from tf_reweight.export.gate import FileCheck, check_file
from tf_reweight.export.mixed import (
    DoesNotFit, MixedRecord, PrecisionReport, choose_precisions, export_mixed, precision_sensitivity
)  # fmt: skip
from tf_reweight.export.precisions import PRECISIONS
from tf_reweight.export.tflite import ExportRecord, export_tflite
from tf_reweight.lazy import submodules
from tf_reweight.packing.arm import ArmReport, arm_eligibility
from tf_reweight.packing.pack import PackResult, pack, pack_tflite
from tf_reweight.tflite.comparing import VerificationError
from tf_reweight.tflite.delegation import Delegation, delegation
from tf_reweight.tflite.execution import Runner, evaluate_tflite
from tf_reweight.tflite.inspection import FileSummary, inspect_tflite
from tf_reweight.tflite.latency import Latencies, benchmark
from tf_reweight.tflite.metadata import annotate
from tf_reweight.tflite.sizes import apk_size, gzip_size, sizes_of

__all__ = [
    "ArmFix", "ArmReport", "Delegation", "DoesNotFit", "Explanation", "ExportRecord", "FileCheck", "FileSummary", "Latencies",
    "MixedRecord", "OperationError", "PRECISIONS", "PackResult", "PrecisionReport", "Runner", "VerificationError", "annotate",
    "apk_size", "arm_eligibility", "benchmark", "bundle", "check_file", "choose_precisions", "delegation", "evaluate_tflite",
    "explain", "export_mixed", "export_tflite", "gzip_size", "inspect_tflite", "make_arm_eligible", "pack", "pack_tflite",
    "precision_sensitivity", "sizes_of",
]  # fmt: skip
__getattr__ = submodules(__name__)
