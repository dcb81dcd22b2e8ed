"""From a Keras model to a `.tflite` that was executed and compared, and looking at such files."""

from tf_reweight.export.arm import ArmReport, arm_eligibility
from tf_reweight.export.arm_fix import ArmFix, make_arm_eligible
from tf_reweight.export.bundle import bundle
from tf_reweight.export.execution import Runner, evaluate_tflite
from tf_reweight.export.inspection import FileSummary, inspect_tflite
from tf_reweight.export.latency import Latencies, benchmark
from tf_reweight.export.metadata import annotate
from tf_reweight.export.mixed import (
    DoesNotFit, MixedRecord, PrecisionReport, choose_precisions, export_mixed, precision_sensitivity
)  # fmt: skip
from tf_reweight.export.packing import PackResult, pack, pack_tflite
from tf_reweight.export.precisions import PRECISIONS
from tf_reweight.export.sizes import apk_size, gzip_size, sizes_of
from tf_reweight.export.tflite import ExportRecord, export_tflite
from tf_reweight.export.verification import VerificationError

__all__ = [
    "ArmFix", "ArmReport", "DoesNotFit", "ExportRecord", "FileSummary", "Latencies", "MixedRecord", "PRECISIONS", "PackResult",
    "PrecisionReport", "Runner", "VerificationError", "annotate", "apk_size", "arm_eligibility", "benchmark", "bundle",
    "choose_precisions", "evaluate_tflite", "export_mixed", "export_tflite", "gzip_size", "inspect_tflite",
    "make_arm_eligible", "pack", "pack_tflite", "precision_sensitivity", "sizes_of",
]  # fmt: skip
