"""Operations that are not LiteRT's own: whose they are, and what runs them."""

_CUSTOM, _FLEX = "CUSTOM ", "CUSTOM Flex"
_OWN_RUNTIME = ("MediaPipe", "MediaPipe's tasks and its own runtime")
# XNNPACK has kernels of these, and LiteRT none.
_WITH_XNNPACK = ("MediaPipe", "LiteRT with its delegate XNNPACK, or MediaPipe's own runtime")
# Custom operations whose makers are known by their names.
_MAKERS = {
    "Convolution2DTransposeBias": _WITH_XNNPACK,
    "MaxPoolingWithArgmax2D": _WITH_XNNPACK,
    "MaxUnpooling2D": _WITH_XNNPACK,
    "Landmarks2TransformMatrix": _OWN_RUNTIME,
    "TransformLandmarks": _OWN_RUNTIME,
    "TransformTensorBilinear": _OWN_RUNTIME,
    "TFLite_Detection_PostProcess": ("TensorFlow's object detection", "LiteRT, which has it built in"),
    "edgetpu-custom-op": ("the compiler for Coral's Edge TPU", "a device with that chip and its delegate alone"),
    "ethos-u": ("the compiler for Arm's Ethos-U", "TFLite for microcontrollers on a chip with that NPU alone"),
    "DISPATCH_OP": ("LiteRT's ahead-of-time compiler for an NPU", "CompiledModel on the chip that it was compiled for alone"),
}


def is_foreign(name):
    """Whether an operation, named as by `flatbuffer.op_name`, is not one of LiteRT's built-in ones."""
    return name.startswith(_CUSTOM)


def described(name):
    """Whose a foreign operation is and what runs it, as a sentence."""
    own = name.removeprefix(_CUSTOM)
    if name.startswith(_FLEX):
        return f"{own} is an operation of TensorFlow (Flex): LiteRT runs it with the Flex delegate of a full TensorFlow alone"
    unknown = ("a maker whom its name does not tell", "a runtime in which its maker's kernel is registered")
    maker, runner = _MAKERS.get(own, unknown)
    return f"{own} is a custom operation of {maker}: it needs {runner}"


def foreign(names):
    """`described` of each foreign operation among names, each once; a tuple."""
    return tuple(described(name) for name in dict.fromkeys(names) if is_foreign(name))
