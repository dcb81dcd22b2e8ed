"""Which operations of a file XNNPACK runs, LiteRT's delegate for CPUs, and which fall back to LiteRT's own kernels, and why.

An operation outside is computed by a kernel that may be ten times slower, and cuts the graph in parts between which tensors are
written out. Nothing else says so: the outputs are the same.
"""

import collections
import dataclasses
import json
import pathlib
import sys

from rich.table import Table

from tf_reweight.records import Report
from tf_reweight.tflite import compiled, flatbuffer, published_rules
from tf_reweight.tflite.acceleration import accelerate
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.fallbacks import reason_of
from tf_reweight.tflite.file_graph import Graph
from tf_reweight.tflite.partitions import outside_of


@dataclasses.dataclass(frozen=True)
class Fallback:
    """One operation outside of the delegate.

    Attributes:
        index: its position in the file.
        name: `"SOFTMAX"` and the like.
        reason: why it is outside.
        remedy: what would put it inside; "" where nothing here does.
    """

    index: int
    name: str
    reason: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Delegation(Report):
    """Where the operations of a file run.

    Attributes:
        fully_accelerated: what `CompiledModel.is_fully_accelerated()` says for the CPU; where this LiteRT has none, or the file
            cannot be loaded there, whether the interpreter's delegate takes all operations.
        asked: who said so.
        num_ops: operations of the first graph.
        num_partitions: parts of it that the delegate runs, 1 at best.
        outside: one `Fallback` per operation outside; a tuple.
        gpu: names of operations that are not on the GPU delegate's published list; a tuple. Never tried on a device.
        npu: the same for the published list of Qualcomm's NPU compiler.
    """

    fully_accelerated: bool
    asked: str
    num_ops: int
    num_partitions: int
    outside: tuple[Fallback, ...]
    gpu: tuple[str, ...]
    npu: tuple[str, ...]

    @property
    def summary(self):
        """The same in one sentence."""
        if self.fully_accelerated and not self.outside:
            return f"XNNPACK runs all {self.num_ops} operations"
        named = counted(item.name for item in self.outside) or "not known which"
        return f"XNNPACK runs {self.num_ops - len(self.outside)} of {self.num_ops} operations; outside: {named}"

    def reasons(self):
        """Names of the operations outside by `(reason, remedy)`; a dict of lists."""
        found = {}
        for item in self.outside:
            found.setdefault((item.reason, item.remedy), []).append(item.name)
        return found

    def to_dict(self):
        """Every figure, as plain types."""
        return {**dataclasses.asdict(self), "summary": self.summary}

    def to_tables(self):
        """The same as rich tables."""
        where = Table("processor", "operations", "who says so", title="Where the operations run")
        where.add_row("CPU", f"{self.summary}, in {self.num_partitions} part(s)", self.asked)
        for processor, names, source in (
            ("GPU", self.gpu, published_rules.GPU_SOURCE), ("NPU", self.npu, published_rules.NPU_SOURCE)
        ):  # fmt: skip
            said = f"not on the list: {', '.join(names)}" if names else "all are on the list"
            where.add_row(processor, said, f"{source}; not tried on a device")
        if not self.outside:
            return [where]
        table = Table("outside", "why", "what would mend it", title="What XNNPACK leaves to LiteRT's own kernels")
        for (reason, remedy), names in self.reasons().items():
            table.add_row(counted(names), reason, remedy)
        return [where, table]


def counted(names):
    """`"2 CONV_2D, SOFTMAX"` of names, the most frequent first."""
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in collections.Counter(names).most_common())


def delegation(path, shapes=None):
    """Where the operations of a `.tflite` run: in XNNPACK, LiteRT's delegate for CPUs, or outside, and why.

    The file is loaded in LiteRT here; another version, or another kind of processor, may take other operations. What would mend
    it is tried on the file as well: LiteRT is asked where the rewritten operation runs.

    Args:
        path: the file, or its bytes.
        shapes: of inputs whose sizes the file leaves open: one whole shape as `(1, 224, 224, 3)`, or a dict by input name.

    Returns:
        `Delegation`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that LiteRT does not load, or shapes that it does not take.

    Example:
        >>> delegation("model.tflite").fully_accelerated
    """
    return _delegation(Runner(path, shapes=shapes), shapes)


def _delegation(runner, shapes):
    graph = Graph(flatbuffer.parse(runner.content))
    outside, num_partitions = outside_of(runner)
    whole, asked = _whole(runner.content, outside, shapes)
    mended = accelerate(runner.content, shapes).positions if outside else ()
    found = tuple(
        Fallback(index, graph.names[index], *reason_of(graph, index, outside, index in mended)) for index in outside
    )
    return Delegation(
        whole, asked, len(graph.names), num_partitions, found, published_rules.gpu(graph), published_rules.npu(graph)
    )


def _whole(content, outside, shapes):
    """`(whether all operations are inside, who says so)`."""
    interpreter = "the interpreter's list of operations"
    if shapes is not None:
        return not outside, f"{interpreter} (with sizes that the file leaves open)"
    try:
        return compiled.is_fully_accelerated(content), "CompiledModel.is_fully_accelerated()"
    except compiled.Unavailable as error:
        return not outside, f"{interpreter} ({error})"
    except RuntimeError as error:
        return not outside, f"{interpreter} (CompiledModel does not load the file: {' '.join(str(error).split())[:200]})"


def from_dict(figures):
    """The `Delegation` whose `to_dict` gave the figures."""
    known = {name: value for name, value in figures.items() if name != "summary"}
    known |= {name: tuple(known[name]) for name in ("gpu", "npu")}
    return Delegation(**{**known, "outside": tuple(Fallback(**item) for item in figures["outside"])})


def main(folder, name):
    """Writes `delegation.json` for the `model.tflite` in a folder, with the sizes in `shapes.json` where there are some.

    Args:
        folder: a path.
        name: what messages call the file.
    """
    shapes = folder / "shapes.json"
    given = json.loads(shapes.read_text(encoding="utf-8")) if shapes.exists() else None
    runner = Runner((folder / "model.tflite").read_bytes(), shapes=given, name=name)
    found = _delegation(runner, given)
    (folder / "delegation.json").write_text(json.dumps(found.to_dict()), encoding="utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
