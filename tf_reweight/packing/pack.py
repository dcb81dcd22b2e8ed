"""Storing zeros cheaply in a finished `.tflite`: `pack` for bytes, `pack_tflite` for files, checked by running both.

Each weight goes into the smallest sparse form that LiteRT loads, with one DENSIFY that unfolds it when the file is loaded.
That makes the file smaller. It makes nothing faster in int8, and floating-point files faster only on ARM, where
`arm_eligibility` finds a stem and nothing against it.
"""

import collections
import dataclasses
import os
import zlib

import numpy as np
from rich.table import Table

from tf_reweight import errors
from tf_reweight.checks import check_flags
from tf_reweight.files import checked_path, write_whole
from tf_reweight.packing import arm, equivalence, rewriting
from tf_reweight.records import Report
from tf_reweight.tflite import constants, flatbuffer, sizes, sparse_layout
from tf_reweight.tflite.emulation import Emulator
from tf_reweight.tflite.execution import Runner, read_file
from tf_reweight.tflite.file_graph import Graph
from tf_reweight.tflite.metadata import attach, attached_files, read

# Where each operation reads its weights.
_WEIGHT_SLOTS = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "TRANSPOSE_CONV": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 0, "GATHER": 0,
}  # fmt: skip
_ACTIVATION_SLOTS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 0, "TRANSPOSE_CONV": 2, "FULLY_CONNECTED": 0}
_CONTROL_FLOW = ("CALL", "CALL_ONCE", "IF", "WHILE", "STABLEHLO_COMPOSITE")
_TYPES = ("FLOAT32", "FLOAT16", "INT8")
# Kernels that were left for one reason and have a row each; more share one.
_FEW = 8
# LiteRT computes garbage from packed kernels that it dequantizes when certain operations run outside of XNNPACK, which splits
# the graph (see `_breaks_unpacking`); these run inside.
_DELEGATED = (
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEQUANTIZE", "FULLY_CONNECTED", "HARD_SWISH",
    "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "PAD", "RELU", "RELU6", "RESHAPE", "SOFTMAX", "SUB", "TANH", "TRANSPOSE_CONV",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PackedTensor:
    """What became of one kernel.

    Attributes:
        name: of the tensor.
        op: the operations that read it.
        decision: `"packed"` or `"left"`.
        reason: why it was left; "" where it was packed.
        num_bytes_before: its values, as they were.
        num_bytes_after: values, positions and all that unfolding them adds to the file; the same as before where it was left.
        layout: the sparse layout in words; "" where it was left.
    """

    name: str
    op: str
    decision: str
    reason: str
    num_bytes_before: int
    num_bytes_after: int
    layout: str


@dataclasses.dataclass(frozen=True)
class PackResult(Report):
    """A packed file and what was done to each kernel.

    Attributes:
        content: bytes of the `.tflite`; those that were given where nothing shrinks.
        num_bytes_before: size of the given file.
        num_bytes_after: size of this one, never larger.
        tensors: one `PackedTensor` per constant of two or more axes.
    """

    content: bytes = dataclasses.field(repr=False)
    num_bytes_before: int
    num_bytes_after: int
    tensors: tuple[PackedTensor, ...]

    @property
    def num_packed(self):
        """Kernels that are stored sparsely now and were not before."""
        return sum(tensor.decision == "packed" for tensor in self.tensors)

    def to_dict(self):
        """Every figure, as plain types; without the content."""
        return {
            "num_bytes_before": self.num_bytes_before,
            "num_bytes_after": self.num_bytes_after,
            "num_packed": self.num_packed,
            "tensors": [dataclasses.asdict(tensor) for tensor in self.tensors],
        }

    def to_tables(self):
        """The same as rich tables."""
        share = self.num_bytes_after / self.num_bytes_before
        title = f"{self.num_bytes_before:,} -> {self.num_bytes_after:,} bytes ({share:.1%}), {self.num_packed} kernels packed"
        table = Table(title=title)
        for heading in ("kernel", "read by", "decision", "bytes before", "after", "layout or reason"):
            table.add_column(heading, justify="right" if heading in ("bytes before", "after") else "left")
        for name, tensors in self._rows():
            before, after = (sum(getattr(tensor, key) for tensor in tensors) for key in ("num_bytes_before", "num_bytes_after"))
            readers = ", ".join(dict.fromkeys(tensor.op for tensor in tensors))
            first = tensors[0]
            table.add_row(name, readers, first.decision, f"{before:,}", f"{after:,}", first.layout or first.reason)
        return [table]

    def _rows(self):
        """Names and kernels of each row: those that were left for the same reason have one, where there are many."""
        alike = collections.defaultdict(list)
        for number, tensor in enumerate(self.tensors):
            alike[tensor.reason or number].append(tensor)
        for tensors in alike.values():
            if len(tensors) > _FEW:
                yield f"{len(tensors)} kernels", tensors
            else:
                yield from ((tensor.name[-48:], [tensor]) for tensor in tensors)


def pack(content, zipped=False):
    """Stores each kernel of a `.tflite` sparsely where that makes the file smaller and LiteRT loads it.

    Works on any file, whoever made it. Values do not change by a bit, but for negative zeros, which become zeros. A kernel that
    stays as it is appears in the result with the reason: it has too few zeros, LiteRT does not load it packed (dynamic-range
    int8, except depthwise), it is packed already, ARM phones would compute something else (see `arm_eligibility`), or the file
    has control flow. Operations of another maker (custom ones) are left alone, and so are their weights.

    Args:
        content: the bytes.
        zipped: whether kernels also stay as they are where packing makes them larger in a zipped download, as it does with
            random zeros in int8. The file is smaller then, or the same, both as it is and zipped.

    Returns:
        `PackResult`.

    Raises:
        TypeError: when these are no bytes.
        ValueError: when it is no TFLite flatbuffer, or is cut off or damaged, as `inspect_tflite` raises it, is over 2 GiB, or
            keeps its weights outside of itself.

    Example:
        >>> result = pack(pathlib.Path("model.tflite").read_bytes())
        >>> result.num_bytes_before, result.num_bytes_after
    """
    check_flags(zipped=zipped)
    return _packed(constants.parse(content), bytes(content), zipped)[0]


def pack_tflite(
    in_path: str | os.PathLike,
    out_path: str | os.PathLike,
    verify: bool = True,
    verify_arm: bool = False,
    zipped: bool = False,
    shapes: dict | tuple | None = None,
) -> PackResult:
    """`pack` for files: writes only what was run in LiteRT and computes the same as the given file, to the last bit.

    Both are run on random inputs, with and without the default delegate. The file is written whole or not at all, so that both
    paths may be the same.

    Args:
        in_path: a `.tflite`.
        out_path: where to write; in an existing folder.
        verify: whether to run both. Without, files can be packed that LiteRT does not run here.
        verify_arm: whether to run both on an emulated ARM machine as well, see `emulation`.
        zipped: as for `pack`.
        shapes: of inputs whose sizes the file leaves open, for running it: one whole shape, or a dict by input name.

    Returns:
        `PackResult`; where nothing shrinks, the given bytes are written.

    Raises:
        FileNotFoundError: when there is no such file or folder, or `verify_arm` finds no emulator.
        ValueError: as `pack`; for a file that LiteRT does not load where nothing shrinks, shapes that the file does not take,
            and `verify_arm` or `shapes` with `verify=False`.
        VerificationError: when one of the files does not run, or their outputs differ. Nothing is written then.
        OSError: when it cannot be written.

    Example:
        >>> pack_tflite("model.tflite", "packed.tflite").num_bytes_after
    """
    check_flags(verify=verify, verify_arm=verify_arm, zipped=zipped)
    for name, given in {"verify_arm": verify_arm or None, "shapes": shapes}.items():
        if given is not None and not verify:
            expected = f"`{name}` is for running both files, which verify=False leaves out."
            raise ValueError(errors.message(expected, "Leave one of them out.", verify=verify, **{name: given}))
    out_path = checked_path(out_path)
    emulator = Emulator() if verify_arm else None
    given = read_file(in_path)
    result, report = _packed(constants.parse(given, in_path), given, zipped)
    if shapes is not None:
        equivalence.check_shapes(given, shapes)
    if verify and result.content == given:
        Runner(given, delegate=False, shapes=shapes, name=in_path)  # LiteRT may refuse what nothing was done to
    elif verify:
        equivalence.check_same(given, result.content, reordered=report.stem_found, emulator=emulator, shapes=shapes)
    write_whole(out_path, result.content)
    return result


def _packed(model, content, zipped):
    """`(PackResult, ArmReport)`; changes the model."""
    read(content)  # a file with damaged metadata stays one
    graph = Graph(model)
    report = arm.examine(graph)
    obstacle = _file_obstacle(model, graph, report)
    rewriter = rewriting.Rewriter(model)
    kernels = [
        (number, index) for number, subgraph in enumerate(model.subgraphs) for index in range(len(subgraph.tensors))
        if _is_kernel(model, subgraph.tensors[index])
    ]  # fmt: skip
    users = _buffer_users(model)
    records = []
    for number, index in kernels:
        view = graph if number == 0 else Graph(model, number)
        records.append(_treat(view, index, rewriter, users, obstacle, zipped))
    made = content
    if any(record.decision == "packed" for record in records):
        made = attach(flatbuffer.write(rewriter.finish()), attached_files(content))
    if len(made) >= len(content) or (zipped and sizes.gzip_size(made) > sizes.gzip_size(content)):
        made = content
        records = [_unpacked(record, "the whole file would not shrink") for record in records]
    return PackResult(made, len(content), len(made), tuple(records)), report


def _treat(graph, index, rewriter, users, obstacle, zipped):
    """Packs one kernel or leaves it; its `PackedTensor`."""
    tensor = graph.tensors[index]
    positions = sorted({position for position, _ in graph.readers.get(index, [])})
    names = ", ".join(dict.fromkeys(graph.names[position] for position in positions))
    before = len(graph.model.buffers[tensor.buffer].data)
    record = PackedTensor(tensor.name.decode(errors="replace"), names, "left", "", before, before, "")
    reason = "it is packed already" if tensor.sparsity is not None else ""
    reason = reason or _without_zeros(graph.constant(index)) or obstacle
    reason = reason or _tensor_obstacle(graph, index, users) or _reader_obstacle(graph, index)
    if reason:
        return dataclasses.replace(record, reason=reason)
    array = graph.constant(index)
    rewritten = names == "FULLY_CONNECTED" and graph.dtype(index) == "INT8"
    shapes = rewriting.convolution_shapes(array.shape) if rewritten else [array.shape]
    array, layout, cost = sparse_layout.download_layout([array.reshape(shape) for shape in shapes])
    if cost < before:
        cost = rewriting.added_bytes(graph.model, index, array, layout, positions[0] if rewritten else None)
    if cost >= before:
        return dataclasses.replace(record, reason=_too_few_zeros(array))
    dense_zipped = len(zlib.compress(bytes(graph.model.buffers[tensor.buffer].data), 9)) if zipped else 0
    if zipped and sparse_layout.zipped_bytes(array, layout) >= dense_zipped:
        return dataclasses.replace(record, reason="packing does not shrink it in a zipped download")
    if rewritten:
        rewriter.fully_connected_as_convolution(positions[0], array.shape)
    rewriter.pack(index, array, layout, positions)
    return dataclasses.replace(record, decision="packed", num_bytes_after=cost, layout=str(layout))


def _without_zeros(array):
    """Why a kernel without zeros stays, whatever else is in the way; "" for others, and where its numbers are not read."""
    return _too_few_zeros(array) if array is not None and array.all() else ""


def _too_few_zeros(array):
    return f"packing does not shrink it ({1 - np.count_nonzero(array) / array.size:.0%} zeros)"


def _unpacked(record, reason):
    if record.decision == "left":
        return record
    return dataclasses.replace(record, decision="left", reason=reason, num_bytes_after=record.num_bytes_before, layout="")


def _is_kernel(model, tensor):
    if flatbuffer.dtype_name(tensor) not in flatbuffer.WEIGHT_TYPES or tensor.shape is None or len(tensor.shape) < 2:
        return False
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _buffer_users(model):
    users = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            users[tensor.buffer] = users.get(tensor.buffer, 0) + 1
    for metadata in model.metadata or []:
        users[metadata.buffer] = users.get(metadata.buffer, 0) + 1
    return users


def _file_obstacle(model, graph, report):
    """Why nothing in a file may be packed; "" where something may."""
    flow = [name for name in graph.names if name in _CONTROL_FLOW]
    if len(model.subgraphs) > 1 or flow:
        return f"the file has control flow ({', '.join(dict.fromkeys(flow)) or 'several graphs'})"
    seen = {"safe": "", "wrong": "ARM phones compute something else: ", "unverified": "ARM phones were not checked on it: "}
    return seen[report.verdict] + report.reason


def _tensor_obstacle(graph, index, users):
    """Why a kernel may not be packed, whoever reads it; "" where it may."""
    tensor = graph.tensors[index]
    if index in graph.outputs or index in graph.inputs or tensor.isVariable:
        return "it is an input, an output or a variable of the graph"
    if index not in graph.readers:
        return "nothing reads it"
    if users[tensor.buffer] > 1:
        return "it shares its values with another tensor"
    if graph.dtype(index) not in _TYPES:
        return f"LiteRT unfolds no {graph.dtype(index)}"
    return ""


def _reader_obstacle(graph, index):
    """Why one of a kernel's readers forbids packing; "" where none does."""
    for position, slot in graph.readers[index]:
        name = graph.names[position]
        if _WEIGHT_SLOTS.get(name) != slot:
            return f"{name} does not read it as weights, or was not tried with packed ones"
        if name == "DEQUANTIZE" and not _dequantized_well(graph, graph.output(position)):
            return "DEQUANTIZE passes it on to an operation that was not tried with packed weights"
        dequantized = name == "DEQUANTIZE" or graph.dtype(index) == "FLOAT16"
        if dequantized and (breaker := _breaks_unpacking(graph, graph.dtype(index))):
            return f"LiteRT computes garbage from packed kernels that it dequantizes, beside {breaker} outside of its delegate"
        if graph.dtype(index) == "INT8" and name in _ACTIVATION_SLOTS:
            computes = graph.dtype(graph.input(position, _ACTIVATION_SLOTS[name]))
            if computes not in ("INT8", "INT16") and name != "DEPTHWISE_CONV_2D":
                return f"LiteRT does not load a packed int8 kernel of a {name} that computes in {computes} (dynamic range)"
            reason = _convolution_obstacle(graph, index, position) if name == "FULLY_CONNECTED" else ""
            if reason:
                return reason
    return ""


def _dequantized_well(graph, index):
    return all(
        graph.names[position] in _ACTIVATION_SLOTS and _WEIGHT_SLOTS[graph.names[position]] == slot
        for position, slot in graph.readers.get(index, [])
    )


def _breaks_unpacking(graph, dtype):
    """Name of an operation beside which LiteRT unfolds and dequantizes packed kernels wrongly; "" where there is none.

    For float16 that may be any that XNNPACK does not run, for int8 one that reads dequantized weights, packed or not, itself.
    On ARM convolutions that read int8 weights through DEQUANTIZE are outside too.
    """
    for position, name in enumerate(graph.names):
        if dtype == "FLOAT16" and _reads_int8_dequantized(graph, position):
            return f"{name} #{position}"
        small = name == "TRANSPOSE_CONV" and any(
            size < stride for size, stride in zip(graph.shape(graph.input(position, 1))[1:3], arm.strides(graph, position))
        )
        if name in _DELEGATED and not small:
            continue
        reads = graph.operators[position].inputs
        if dtype == "FLOAT16" or any(graph.maker(int(index)) == "DEQUANTIZE" for index in reads):
            return f"{name} #{position}"
    return ""


def _reads_int8_dequantized(graph, position):
    if graph.names[position] not in _ACTIVATION_SLOTS or graph.names[position] == "FULLY_CONNECTED":
        return False
    weights = graph.input(position, _WEIGHT_SLOTS[graph.names[position]])
    return graph.maker(weights) == "DEQUANTIZE" and graph.dtype(graph.input(graph.makers[weights], 0)) == "INT8"


def _convolution_obstacle(graph, index, position):
    """Why an int8 FULLY_CONNECTED cannot become a convolution, without which LiteRT does not load it packed."""
    made, bias = graph.output(position), graph.input(position, 2)
    signature = graph.tensors[made].shapeSignature
    quantization = graph.tensors[index].quantization
    zero_points = None if quantization is None else quantization.zeroPoint
    types = (graph.dtype(graph.input(position, 0)), graph.dtype(made), graph.dtype(bias) or "INT32")
    if types != ("INT8", "INT8", "INT32"):
        return "only int8 throughout, a FULLY_CONNECTED can become the convolution that loads packed"
    if len(graph.readers[index]) > 1 or len(graph.shape(index)) != 2:
        return "several FULLY_CONNECTED share it, and each would become a convolution"
    if graph.shape(made)[-1:] != graph.shape(index)[:1] or (signature is not None and min(signature[1:], default=1) < 0):
        return "the shape of the FULLY_CONNECTED's output is not known beforehand"
    if graph.options(position, "weightsFormat") or zero_points is None or np.any(zero_points):
        return "the FULLY_CONNECTED's weights are not symmetric, which a convolution needs"
    return ""
