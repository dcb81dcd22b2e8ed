"""Operations that are not LiteRT's own: whose they are, and what runs them."""

_CUSTOM, _FLEX = "CUSTOM ", "CUSTOM Flex"
# Custom operations whose makers are known by their names.
_MAKERS = {
    "Convolution2DTransposeBias": ("MediaPipe", "MediaPipe's tasks and its own runtime"),
    "MaxPoolingWithArgmax2D": ("MediaPipe", "MediaPipe's tasks and its own runtime"),
    "MaxUnpooling2D": ("MediaPipe", "MediaPipe's tasks and its own runtime"),
    "Landmarks2TransformMatrix": ("MediaPipe", "MediaPipe's tasks and its own runtime"),
    "TransformLandmarks": ("MediaPipe", "MediaPipe's tasks and its own runtime"),
    "TransformTensorBilinear": ("MediaPipe", "MediaPipe's tasks and its own runtime"),
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
