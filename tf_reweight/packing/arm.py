"""Where sparse weights are safe on ARM phones.

As soon as one weight is stored sparsely, XNNPACK on ARM tries to run the convolutions between a certain stem and a mean over
the image on sparse kernels. That is fast where it fits, and silently wrong where the stem fits and a later operation does
not. A test on another machine shows neither, so this module decides by a list of operations that were executed on ARM.
"""

import dataclasses

import numpy as np
from rich.table import Table

from tf_reweight.records import Report
from tf_reweight.tflite import flatbuffer
from tf_reweight.tflite.file_graph import Graph

_CLAMPS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
_UNARY = ("HARD_SWISH", "LOGISTIC", "RELU", "RELU6")
_REDUCTIONS = ("MEAN", "SUM", "DEPTH_TO_SPACE")
_IMAGE = (1, 2)


@dataclasses.dataclass(frozen=True)
class OpVerdict:
    """One operation: `verdict` is `"stem"`, `"verified"`, `"mean"`, `"not verified"` or `"outside"`, and why."""

    name: str
    index: int
    verdict: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ArmReport(Report):
    """What sparse weights would do to a file on ARM.

    Attributes:
        stem_found: whether the file has the floating-point stem that switches XNNPACK's sparse kernels on.
        eligible: whether weights may be stored sparsely.
        ops: one `OpVerdict` per operation, in order.
    """

    stem_found: bool
    eligible: bool
    ops: tuple[OpVerdict, ...]

    @property
    def reason(self):
        """The first operation that forbids it, in words; "" where nothing does."""
        bad = [op for op in self.ops if op.verdict == "not verified"]
        return f"{bad[0].name} #{bad[0].index}: {bad[0].reason}" if bad else ""

    def to_dict(self):
        """Every figure, as plain types."""
        return {**dataclasses.asdict(self), "ops": [dataclasses.asdict(op) for op in self.ops], "reason": self.reason}

    def to_tables(self):
        """The same as rich tables."""
        stem = "with" if self.stem_found else "without"
        table = Table(title=f"Sparse weights on ARM: {'safe' if self.eligible else 'not safe'}, {stem} a sparse stem")
        for heading in ("#", "operation", "verdict", "why"):
            table.add_column(heading, justify="right" if heading == "#" else "left")
        for op in self.ops:
            table.add_row(str(op.index), op.name, op.verdict, op.reason)
        return [table]


def arm_eligibility(content):
    """Whether weights of a file may be stored sparsely without wrong results on ARM phones.

    They may where no qualifying stem exists (then only the file shrinks), or where every operation from the stem to the mean
    over the image is on the list of those that were executed on ARM (then 1x1 convolutions with more than two thirds of zeros
    run faster as well). A stem is a floating-point 3x3 convolution of stride 2 over 3 channels, padded by 1 with an operation
    of its own. Files that compute in int8 throughout have none.

    Args:
        content: the bytes of a `.tflite`.

    Returns:
        `ArmReport`.

    Raises:
        ValueError: when it is no TFLite flatbuffer, or is cut off.

    Example:
        >>> arm_eligibility(pathlib.Path("model.tflite").read_bytes()).eligible
    """
    return examine(Graph(flatbuffer.parse(content)))


def examine(graph):
    """`arm_eligibility` for a `Graph`."""
    stems = [position for position in range(len(graph.names)) if _is_stem(graph, position)]
    verdicts = {position: ("stem", _stem_obstacle(graph, position)) for position in stems}
    reached = {graph.output(position) for position in stems}
    waiting = sorted(reached)
    while waiting:
        index = waiting.pop(0)
        for position, _ in graph.readers.get(index, []):
            if _is_mean(graph, position, keep_dims=False):
                verdicts[position] = ("mean", "")
            elif graph.output(position) not in reached:
                reached.add(graph.output(position))
                waiting.append(graph.output(position))
                verdicts.setdefault(position, ("verified", ""))
    for position, (verdict, reason) in verdicts.items():
        reason = reason or ("" if verdict == "mean" else _obstacle(graph, position, reached))
        verdicts[position] = ("not verified" if reason else verdict, reason)
    for position in _mixed(graph):
        verdicts[position] = ("not verified", "it computes in floating point beside quantized kernels")
    ops = tuple(
        OpVerdict(name, position, *verdicts.get(position, ("outside", ""))) for position, name in enumerate(graph.names)
    )
    return ArmReport(bool(stems), all(op.verdict != "not verified" for op in ops), ops)


def _is_stem(graph, position):
    """A floating-point 3x3 convolution of stride 2 over 3 channels, whose input a PAD widens by one on every side."""
    if graph.names[position] != "CONV_2D" or graph.dtype(graph.input(position, 0)) != "FLOAT32":
        return False
    padding = graph.makers.get(graph.input(position, 0))
    return (
        graph.shape(graph.input(position, 1))[1:] == (3, 3, 3)
        and strides(graph, position) == (2, 2)
        and not _is_same(graph, position)
        and padding is not None
        and graph.names[padding] in ("PAD", "PADV2")
        and graph.pads(padding) in (None, [(0, 0), (1, 1), (1, 1), (0, 0)])
    )


def _stem_obstacle(graph, position):
    padding = graph.makers[graph.input(position, 0)]
    if graph.pads(padding) is None:
        return "its padding is not known beforehand"
    if any(size % 2 for size in graph.shape(graph.input(padding, 0))[1:3]):
        return "only images of even height and width were executed"
    return ""


def _obstacle(graph, position, reached):
    """Why an operation behind the stem is not on the list; "" where it is."""
    name, made = graph.names[position], graph.output(position)
    if made in graph.outputs:
        return "it is an output that no mean over the image leads to"
    if made not in graph.readers:
        return "no mean over the image follows"
    if graph.dtype(made) != "FLOAT32":
        return f"it computes in {graph.dtype(made)}"
    if _activation(graph, position) not in _CLAMPS:
        return f"its activation {_activation(graph, position)} was not executed"
    if name in _UNARY:
        return ""
    return _CHECKS[name](graph, position, reached) if name in _CHECKS else "it is not on the list of executed operations"


def _convolution(graph, position, reached):
    weights = graph.input(position, 1)
    if graph.dtype(weights) != "FLOAT32":
        return "its weights are quantized and its input is not"
    if _is_stem(graph, position):
        return ""
    if graph.shape(weights)[1:3] != (1, 1):
        return "only 1x1 convolutions were executed"
    if strides(graph, position) != (1, 1) or _dilations(graph, position) != (1, 1):
        return "strided and dilated 1x1 convolutions give wrong results"
    if graph.shape(weights)[3] != graph.shape(graph.input(position, 0))[3]:
        return "grouped convolutions give wrong results"
    return ""


def _depthwise(graph, position, reached):
    source, weights = graph.input(position, 0), graph.input(position, 1)
    size, steps = graph.shape(weights)[1:3], strides(graph, position)
    if graph.dtype(weights) != "FLOAT32":
        return "its weights are quantized and its input is not"
    if size not in ((3, 3), (5, 5)) or graph.options(position, "depthMultiplier", 1) != 1:
        return "only depthwise 3x3 and 5x5 with one filter per channel were executed"
    if steps not in ((1, 1), (2, 2)) or _dilations(graph, position) != (1, 1):
        return "only strides 1 and 2 without dilation were executed"
    if _is_same(graph, position):
        return "" if steps == (1, 1) else "stride 2 with 'same' padding gives wrong results"
    if graph.maker(source) != "PAD" or not _around(graph, graph.makers[source], size[0] // 2):
        return "without padding it was not executed"
    if steps == (2, 2) and any(n % 2 for n in graph.shape(graph.input(graph.makers[source], 0))[1:3]):
        return "stride 2 was executed on even heights and widths only"
    return ""


def _pad(graph, position, reached):
    readers = graph.readers.get(graph.output(position), [])
    if len(readers) != 1 or graph.names[readers[0][0]] != "DEPTHWISE_CONV_2D":
        return "only padding of one depthwise convolution was executed"
    return ""


def _binary(graph, position, reached):
    first, second = (graph.input(position, slot) for slot in (0, 1))
    if not {first, second} <= reached:
        return "one of its operands does not come from the stem"
    shapes = (graph.shape(first), graph.shape(second))
    gate = graph.names[position] == "MUL" and any(shape[1:3] == (1, 1) for shape in shapes)
    return "" if shapes[0] == shapes[1] or gate else "operands of different shapes were not executed"


def _kept_mean(graph, position, reached):
    if not _is_mean(graph, position, keep_dims=True):
        return "only means over height and width were executed"
    readers = graph.readers.get(graph.output(position), [])
    squeezed = all(graph.names[reader] == "CONV_2D" for reader, _ in readers)
    return "" if squeezed else "a mean that keeps its axes was executed in squeeze-and-excite alone"


_CHECKS = {
    "CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _depthwise, "PAD": _pad, "ADD": _binary, "MUL": _binary, "MEAN": _kept_mean,
}  # fmt: skip


def _mixed(graph):
    """Floating-point reductions of images, in a file that also has quantized 1x1 or fully connected kernels.

    There, XNNPACK counts the zeros of those kernels by types that it does not have a case for.
    """
    quantized = any(
        (name == "FULLY_CONNECTED" or (name == "CONV_2D" and graph.shape(graph.input(position, 1))[1:3] == (1, 1)))
        and graph.dtype(graph.input(position, 1)) not in ("FLOAT32", "FLOAT16")
        for position, name in enumerate(graph.names)
    )
    if not quantized:
        return []
    return [
        position for position, name in enumerate(graph.names)
        if name in _REDUCTIONS and graph.dtype(graph.input(position, 0)) == "FLOAT32"
        and len(graph.shape(graph.input(position, 0))) == 4
        and graph.maker(graph.input(position, 0)) not in ("", "DEQUANTIZE")
    ]  # fmt: skip


def _is_mean(graph, position, keep_dims):
    if graph.names[position] != "MEAN" or len(graph.shape(graph.input(position, 0))) != 4:
        return False
    axes = graph.constant(graph.input(position, 1))
    over_image = axes is not None and sorted(int(axis) % 4 for axis in np.ravel(axes)) == list(_IMAGE)
    return over_image and bool(graph.options(position, "keepDims")) == keep_dims


def _around(graph, position, width):
    return graph.pads(position) == [(0, 0), (width, width), (width, width), (0, 0)]


def strides(graph, position):
    """Strides over height and width."""
    return graph.options(position, "strideH", 1), graph.options(position, "strideW", 1)


def _dilations(graph, position):
    return graph.options(position, "dilationHFactor", 1), graph.options(position, "dilationWFactor", 1)


def _is_same(graph, position):
    return graph.options(position, "padding") == flatbuffer.schema().Padding.SAME


def _activation(graph, position):
    return flatbuffer.enumeration_name("ActivationFunctionType", graph.options(position, "fusedActivationFunction"))
