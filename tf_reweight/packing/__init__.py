"""From a `.tflite` file to a smaller one with the same outputs, bit for bit."""

from tf_reweight.lazy import submodules
from tf_reweight.packing.arm import ArmReport, arm_eligibility
from tf_reweight.packing.pack import PackResult, pack_tflite

__all__ = ["ArmReport", "PackResult", "arm_eligibility", "pack_tflite"]
__getattr__ = submodules(__name__)
