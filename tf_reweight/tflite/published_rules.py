"""What makers of GPU and NPU delegates publish of the operations they run: read here, never tried on a device.

A file may run outside of a delegate although every operation is on its list, since drivers add rules of their own; and newer
drivers run more. Only a run on the device tells.
"""

from tf_reweight.tflite.operations import is_foreign

# "Supported ops" of https://ai.google.dev/edge/litert/performance/gpu, in float16 and float32; 8-bit files run in those.
_GPU = frozenset(
    (
        "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXP FULLY_CONNECTED LOGICAL_AND LOGISTIC LSTM "
        "MAX_POOL_2D MAXIMUM MINIMUM MUL PAD PRELU RELU RELU6 RESHAPE RESIZE_BILINEAR SOFTMAX STRIDED_SLICE SUB "
        "TRANSPOSE_CONV"
    ).split()
)
# litert/vendors/qualcomm/compiler/Qualcomm_QNN_Compiler.md of https://github.com/google-ai-edge/LiteRT, commit 08c8bf6.
_NPU = frozenset(
    (
        "ABS ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CAST CEIL CONCATENATION CONV_2D CONV_3D COS CUMSUM "
        "DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV "
        "FULLY_CONNECTED GATHER GATHER_ND GELU GREATER GREATER_EQUAL HARD_SWISH L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS "
        "LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG "
        "NOT_EQUAL PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN RELU RELU_0_TO_1 RELU6 "
        "RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT SELECT_V2 SIGN SIN SLICE "
        "SOFTMAX SPACE_TO_DEPTH SPLIT SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TOPK_V2 TRANSPOSE "
        "TRANSPOSE_CONV UNPACK"
    ).split()
)
# Conversions around quantized tensors fall away where a GPU computes the whole file in floats.
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")

GPU_SOURCE = "LiteRT's page on the GPU delegate"
NPU_SOURCE = "LiteRT's list for Qualcomm's NPU compiler"


def gpu(graph):
    """Names of operations that are not on the published list of LiteRT's GPU delegate; a tuple, each once."""
    return _outside(graph, _GPU.union(_CONVERSIONS))


def npu(graph):
    """Names of operations that are not on the published list of LiteRT's compiler for Qualcomm's NPUs; a tuple, each once."""
    return _outside(graph, _NPU)


def _outside(graph, listed):
    return tuple(dict.fromkeys(name for name in graph.names if is_foreign(name) or name not in listed))
