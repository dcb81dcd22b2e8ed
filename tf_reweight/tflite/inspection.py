"""What is in a `.tflite`: operations, types, kernels with their zeros, sizes."""

import collections
import dataclasses
import os

import numpy as np
from rich.table import Table

from tf_reweight.records import Report
from tf_reweight.tflite import constants, flatbuffer, metadata, sizes, sparse_layout
from tf_reweight.tflite.execution import read_file

_QUANTIZERS = ("QUANTIZE", "DEQUANTIZE", "DENSIFY")
# What only turns a constant into the form that operations compute with.
_UNPACKERS = ("DEQUANTIZE", "DENSIFY")


@dataclasses.dataclass(frozen=True)
class TensorSummary:
    """A constant of two or more axes: a kernel, and the operations that compute with it."""

    name: str
    shape: tuple
    dtype: str
    num_weights: int
    num_nonzero: int
    num_bytes: int
    sparse: bool
    used_by: str


@dataclasses.dataclass(frozen=True)
class FileSummary(Report):
    """A `.tflite` in figures; `to_tables` shows them.

    Attributes:
        name: the file.
        num_bytes: its size.
        gzip_bytes: its size in a compressed download.
        apk_bytes: what it adds to an APK, where it is stored uncompressed; see `sizes.apk_size`.
        ops: mapping of operation name to how often it occurs.
        float_ops: names of operations that compute in floating point, without conversions between types.
        kernels: one `TensorSummary` per constant of two or more axes.
        inputs: list of `(name, shape, dtype)`.
        outputs: the same.
        signatures: names of the signatures.
        metadata: labels and normalisation as `metadata.read` gives them; None without.
    """

    name: str
    num_bytes: int
    gzip_bytes: int
    apk_bytes: int
    ops: dict
    float_ops: tuple[str, ...]
    kernels: tuple[TensorSummary, ...]
    inputs: tuple
    outputs: tuple
    signatures: tuple[str, ...]
    metadata: dict | None

    @property
    def num_ops(self):
        """Operations in the graph."""
        return sum(self.ops.values())

    @property
    def sparsity(self):
        """Fraction of zeros among the kernels; 0.0 without any."""
        total = sum(kernel.num_weights for kernel in self.kernels)
        return 1.0 - sum(kernel.num_nonzero for kernel in self.kernels) / total if total else 0.0

    def to_dict(self):
        """Every figure, as plain types."""
        return {**dataclasses.asdict(self), "num_ops": self.num_ops, "sparsity": self.sparsity}

    def to_tables(self):
        """The same as rich tables."""
        stored = f"{self.num_bytes:,} bytes, {self.gzip_bytes:,} zipped, {self.apk_bytes:,} in an APK"
        title = f"{self.name}: {stored}, kernels {self.sparsity:.2%} zero"
        kernels = Table(title=title)
        for heading in ("kernel", "used by", "shape", "type", "nonzero / all", "zero", "bytes"):
            kernels.add_column(heading, justify="left" if heading in ("kernel", "used by", "shape", "type") else "right")
        for kernel in self.kernels:
            kernels.add_row(
                kernel.name[-48:],
                kernel.used_by,
                "x".join(map(str, kernel.shape)),
                kernel.dtype + (", packed" if kernel.sparse else ""),
                f"{kernel.num_nonzero:,} / {kernel.num_weights:,}",
                f"{1 - kernel.num_nonzero / kernel.num_weights:.1%}",
                f"{kernel.num_bytes:,}",
            )
        ops = Table("operation", "count", "computes in float", title=f"{self.num_ops} operations")
        floats = collections.Counter(self.float_ops)
        for name, count in sorted(self.ops.items(), key=lambda item: (-item[1], item[0])):
            ops.add_row(name, str(count), str(floats[name]) if floats[name] else "")
        signed = f"signature {', '.join(self.signatures)}" if self.signatures else "no signature"
        ends = Table("", "name", "shape", "type", "meaning", title=f"Inputs and outputs, {signed}")
        for what, items in (("input", self.inputs), ("output", self.outputs)):
            described = (self.metadata or {}).get(f"{what}s") or [None] * len(items)
            for (name, shape, dtype), meaning in zip(items, described):
                ends.add_row(what, name, "x".join(map(str, shape)), dtype, _meaning(meaning))
        return [kernels, ops, ends]


def inspect_tflite(path: str | os.PathLike) -> FileSummary:
    """Reads a `.tflite` made by anyone.

    Args:
        path: the file.

    Returns:
        `FileSummary`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no TFLite flatbuffer, or is cut off.

    Example:
        >>> inspect_tflite("model.tflite").sparsity
    """
    return summarize(read_file(path), path)


def summarize(content, name):
    """`inspect_tflite` for bytes."""
    model, said = constants.parse(content, name), metadata.read(content)
    try:
        return _summarize(model, content, str(name), said)
    except flatbuffer.DAMAGE as error:
        raise ValueError(flatbuffer.unfit(content, name)) from error


def _summarize(model, content, name, said):
    ops, floats, kernels = collections.Counter(), [], []
    for graph in model.subgraphs:
        used_by, unpacked = {}, {}
        for operator in graph.operators:
            kind = flatbuffer.op_name(model, operator)
            ops[kind] += 1
            for index in _indices(operator.inputs):
                used_by.setdefault(int(index), []).append(kind)
                if kind in _UNPACKERS:
                    unpacked.setdefault(int(index), []).append(int(operator.outputs[0]))
            made = [graph.tensors[i] for i in _indices(operator.outputs) if i >= 0]
            if kind not in _QUANTIZERS and any(flatbuffer.dtype_name(tensor) in ("FLOAT32", "FLOAT16") for tensor in made):
                floats.append(kind)
        for index, tensor in enumerate(graph.tensors):
            summary = _kernel(model, tensor, _readers(index, used_by, unpacked))
            if summary is not None:
                kernels.append(summary)
    main = model.subgraphs[0]
    ends = [
        tuple(_end(main.tensors[i]) for i in indices) for indices in (main.inputs, main.outputs)
    ]  # fmt: skip
    signatures = tuple((s.signatureKey or b"").decode() for s in model.signatureDefs or [])
    figures = (dict(ops), tuple(floats), tuple(kernels), *ends, signatures, said)
    return FileSummary(name, *sizes.sizes_of(content).values(), *figures)


def _indices(listed):
    """A list of a file, which leaves empty ones out: an operation that assigns a variable makes nothing."""
    return () if listed is None else listed


def _readers(index, used_by, unpacked, seen=()):
    """Kinds of the operations that compute with a constant: float16 and sparse ones are unpacked first."""
    kinds = [kind for kind in used_by.get(index, []) if kind not in _UNPACKERS]
    seen = (*seen, index)  # a damaged file may go round in circles
    made = [tensor for tensor in unpacked.get(index, []) if tensor not in seen]
    return kinds + [kind for tensor in made for kind in _readers(tensor, used_by, unpacked, seen)]


def _kernel(model, tensor, used_by):
    dtype = flatbuffer.dtype_name(tensor)
    if dtype not in flatbuffer.WEIGHT_TYPES or tensor.shape is None or len(tensor.shape) < 2:
        return None
    values = constants.values(model, tensor)
    if values is None:
        return None
    size = int(np.prod(tensor.shape))
    stored = len(model.buffers[tensor.buffer].data)
    if tensor.sparsity is not None:
        stored += sparse_layout.num_index_bytes(tensor.sparsity)
    return TensorSummary(
        (tensor.name or b"").decode(errors="replace"), tuple(int(n) for n in tensor.shape), dtype, size,
        int(np.count_nonzero(values)), stored, tensor.sparsity is not None, ", ".join(dict.fromkeys(used_by)),
    )  # fmt: skip


def _end(tensor):
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else _indices(tensor.shape)
    return (tensor.name or b"").decode(errors="replace"), tuple(int(n) for n in shape), flatbuffer.dtype_name(tensor)


def _meaning(described):
    """What metadata says of an input or output, in words."""
    if described is None:
        return ""
    parts = [described["kind"] or ""]
    if described["mean"]:
        mean, std = (", ".join(f"{value:g}" for value in described[key]) for key in ("mean", "std"))
        parts.append(f"(raw - {mean}) / {std}")
    if described["labels"]:
        shown = described["labels"][:3]
        parts.append(f"{len(described['labels'])} labels: {', '.join(shown)}{', ...' if len(described['labels']) > 3 else ''}")
    return "; ".join(part for part in parts if part)
