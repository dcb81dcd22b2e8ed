"""From a Keras model to a `.tflite` that was executed and compared, and looking at such files."""

from tf_reweight.export.execution import Runner, evaluate_tflite
from tf_reweight.export.inspection import FileSummary, inspect_tflite
from tf_reweight.export.latency import Latencies, benchmark
from tf_reweight.export.tflite import PRECISIONS, ExportRecord, export_tflite
from tf_reweight.export.verification import VerificationError

__all__ = [
    "ExportRecord", "FileSummary", "Latencies", "PRECISIONS", "Runner", "VerificationError", "benchmark", "evaluate_tflite",
    "export_tflite", "inspect_tflite",
]  # fmt: skip
