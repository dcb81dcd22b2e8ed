"""Where sparse weights are safe on ARM phones.

As soon as one weight is stored sparsely, XNNPACK on ARM tries to run the convolutions between a certain stem and a mean over
the image on sparse kernels. That is fast where it fits, and silently wrong where the stem fits and a later operation does
not. A test on another machine shows neither, so this module decides by a list of operations that were executed on ARM: right
there, wrong there, or not yet looked at.
"""

import collections
import dataclasses

import numpy as np
from rich.table import Table

from tf_reweight.records import Report
from tf_reweight.tflite import constants, flatbuffer
from tf_reweight.tflite.file_graph import Graph

_CLAMPS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
# Right whatever their options are; RESIZE_BILINEAR was executed with each way to place corners, larger and smaller.
_RIGHT_THERE = (
    "ABS", "CEIL", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG", "RELU", "RELU6",
    "RESIZE_BILINEAR", "ROUND", "SQRT", "SQUARE", "TANH",
)  # fmt: skip
# They were executed as outputs; a mean that is one keeps its axes.
_ENDS = ("DEPTH_TO_SPACE", "MEAN")
_WRONG_THERE = ("AVERAGE_POOL_2D", "MAX_POOL_2D", "PRELU", "TRANSPOSE_CONV")
_REDUCTIONS = ("MEAN", "SUM", "DEPTH_TO_SPACE")
_IMAGE = (1, 2)
# So many places of one kind are shown.
_PLACES = 5


@dataclasses.dataclass(frozen=True)
class OpVerdict:
    """One operation: `verdict` is `"stem"`, `"verified"`, `"mean"`, `"wrong"`, `"unverified"` or `"outside"`, and why."""

    name: str
    index: int
    verdict: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ArmReport(Report):
    """What sparse weights would do to a file on ARM.

    Attributes:
        stem_found: whether the file has the floating-point stem that switches XNNPACK's sparse kernels on.
        eligible: whether weights may be stored sparsely: nothing is wrong, and nothing unverified.
        ops: one `OpVerdict` per operation, in order.
    """

    stem_found: bool
    eligible: bool
    ops: tuple[OpVerdict, ...]

    @property
    def verdict(self):
        """`"safe"`; `"wrong"` where an operation gave wrong results on ARM; `"unverified"` where one was not executed there."""
        found = {op.verdict for op in self.ops}
        return "wrong" if "wrong" in found else "unverified" if "unverified" in found else "safe"

    @property
    def reason(self):
        """The first operation that forbids it, in words, one that is wrong before one that is unverified; "" without any."""
        bad = [op for op in self.ops if op.verdict == self.verdict]
        return "" if self.verdict == "safe" else f"{bad[0].name} #{bad[0].index}: {bad[0].reason}"

    def to_dict(self):
        """Every figure, as plain types."""
        ops = [dataclasses.asdict(op) for op in self.ops]
        return {**dataclasses.asdict(self), "ops": ops, "verdict": self.verdict, "reason": self.reason}

    def to_tables(self):
        """What is in the way, each kind once; `to_dict` has every operation."""
        stem = "with" if self.stem_found else "without"
        words = {"safe": "safe", "wrong": "not safe", "unverified": "unverified, so they stay dense"}[self.verdict]
        counts = collections.Counter(op.verdict for op in self.ops)
        said = {"outside": "outside of the part that a sparse stem begins"}
        kinds = ", ".join(f"{count} {said.get(name, name)}" for name, count in counts.items())
        caption = f"{len(self.ops)} operations: {kinds}"
        table = Table(title=f"Sparse weights on ARM: {words}, {stem} a sparse stem", caption=caption)
        for heading in ("operation", "verdict", "why", "where"):
            table.add_column(heading)
        places = {}
        for op in self.ops:
            if op.verdict in ("wrong", "unverified"):
                places.setdefault((op.name, op.verdict, op.reason), []).append(f"#{op.index}")
        for kind, where in places.items():
            more = f" and {len(where) - _PLACES} more" if len(where) > _PLACES else ""
            table.add_row(*kind, ", ".join(where[:_PLACES]) + more)
        if not places:
            table.add_row("all of them", "safe", "nothing is in the way", "")
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
    return examine(Graph(constants.parse(content)))


def examine(graph):
    """`arm_eligibility` for a `Graph`."""
    stems = [position for position in range(len(graph.names)) if _is_stem(graph, position)]
    verdicts = {position: "stem" for position in stems}
    reached = {graph.output(position) for position in stems}
    waiting = sorted(reached)
    while waiting:
        index = waiting.pop(0)
        for position, _ in graph.readers.get(index, []):
            if _is_mean(graph, position, keep_dims=False):
                verdicts[position] = "mean"
            elif graph.output(position) not in reached:
                reached.add(graph.output(position))
                waiting.append(graph.output(position))
                verdicts.setdefault(position, "verified")
    found = {position: (verdict, "") for position, verdict in verdicts.items()}
    for position, verdict in verdicts.items():
        obstacle = _stem_obstacle(graph, position) if verdict == "stem" else None
        obstacle = obstacle or (None if verdict == "mean" else _obstacle(graph, position, reached))
        found[position] = obstacle or found[position]
    for position in _mixed(graph):
        found[position] = _wrong("it computes in floating point beside quantized kernels")
    ops = tuple(
        OpVerdict(name, position, *found.get(position, ("outside", ""))) for position, name in enumerate(graph.names)
    )
    return ArmReport(bool(stems), all(op.verdict not in ("wrong", "unverified") for op in ops), ops)


def _wrong(reason):
    """The verdict on what gave wrong results on ARM."""
    return "wrong", reason


def _unverified(reason):
    """The verdict on what was not executed on ARM so."""
    return "unverified", reason


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
        return _unverified("its padding is not known beforehand")
    if any(size % 2 for size in graph.shape(graph.input(padding, 0))[1:3]):
        return _unverified("only images of even height and width were executed")
    return None


def _obstacle(graph, position, reached):
    """`(verdict, reason)` on an operation behind the stem; None where it is on the list of those that are right."""
    name, made = graph.names[position], graph.output(position)
    if made in graph.outputs and name not in _ENDS:
        return _unverified("it is an output that no mean over the image leads to")
    if made not in graph.readers and made not in graph.outputs:
        return _unverified("no mean over the image follows")
    if graph.dtype(made) != "FLOAT32":
        return _unverified(f"it computes in {graph.dtype(made)}")
    if name in _WRONG_THERE:
        return _wrong("it gives wrong results there")
    if _activation(graph, position) not in _CLAMPS:
        return _unverified(f"its activation {_activation(graph, position)} was not executed")
    if name in _RIGHT_THERE:
        return None
    return _CHECKS[name](graph, position, reached) if name in _CHECKS else _unverified("it was not executed there")


def _convolution(graph, position, reached):
    weights = graph.input(position, 1)
    if graph.dtype(weights) != "FLOAT32":
        return _unverified("its weights are quantized and its input is not")
    if _is_stem(graph, position):
        return None
    if graph.shape(weights)[1:3] != (1, 1):
        return _wrong("convolutions other than 1x1 give wrong results")
    if strides(graph, position) != (1, 1) or _dilations(graph, position) != (1, 1):
        return _wrong("strided and dilated 1x1 convolutions give wrong results")
    if graph.shape(weights)[3] != graph.shape(graph.input(position, 0))[3]:
        return _wrong("grouped convolutions give wrong results")
    return None


def _depthwise(graph, position, reached):
    source, weights = graph.input(position, 0), graph.input(position, 1)
    size, steps = graph.shape(weights)[1:3], strides(graph, position)
    if graph.dtype(weights) != "FLOAT32":
        return _unverified("its weights are quantized and its input is not")
    if size not in ((3, 3), (5, 5)) or graph.options(position, "depthMultiplier", 1) != 1:
        return _unverified("only depthwise 3x3 and 5x5 with one filter per channel were executed")
    if steps not in ((1, 1), (2, 2)) or _dilations(graph, position) != (1, 1):
        return _unverified("only strides 1 and 2 without dilation were executed")
    if _is_same(graph, position):
        return None if steps == (1, 1) else _wrong("stride 2 with 'same' padding gives wrong results")
    if graph.maker(source) != "PAD" or not _around(graph, graph.makers[source], size[0] // 2):
        return _unverified("without padding it was not executed")
    if steps == (2, 2) and any(n % 2 for n in graph.shape(graph.input(graph.makers[source], 0))[1:3]):
        return _unverified("stride 2 was executed on even heights and widths only")
    return None


def _pad(graph, position, reached):
    readers = graph.readers.get(graph.output(position), [])
    if len(readers) != 1 or graph.names[readers[0][0]] != "DEPTHWISE_CONV_2D":
        return _unverified("only padding of one depthwise convolution was executed")
    return None


def _binary(graph, position, reached):
    first, second = (graph.input(position, slot) for slot in (0, 1))
    if not {first, second} <= reached:
        return _unverified("one of its operands does not come from the stem")
    shapes = (graph.shape(first), graph.shape(second))
    gate = graph.names[position] == "MUL" and any(shape[1:3] == (1, 1) for shape in shapes)
    return None if shapes[0] == shapes[1] or gate else _unverified("operands of different shapes were not executed")


def _kept_mean(graph, position, reached):
    if not _is_mean(graph, position, keep_dims=True):
        return _unverified("only means over height and width were executed")
    readers = graph.readers.get(graph.output(position), [])
    squeezed = readers and all(graph.names[reader] == "CONV_2D" for reader, _ in readers)
    return None if squeezed else _wrong("a mean that keeps its axes gives wrong results outside of squeeze-and-excite")


def _depth_to_space(graph, position, reached):
    return None if graph.options(position, "blockSize") == 2 else _unverified("only blocks of 2 were executed")


_CHECKS = {
    "CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _depthwise, "PAD": _pad, "ADD": _binary, "MUL": _binary, "MEAN": _kept_mean,
    "DEPTH_TO_SPACE": _depth_to_space,
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
