"""`check_file`: whether a `.tflite` is what was asked for, as a gate of continuous integration asks."""

import dataclasses
import os

from rich.table import Table

from tf_reweight import errors
from tf_reweight.checks import check_flags, check_integer, check_name, check_number
from tf_reweight.export import agreeing
from tf_reweight.export.agreeing import Requirement
from tf_reweight.export.verification import say_doubts
from tf_reweight.graph.checking import check_model
from tf_reweight.records import Report
from tf_reweight.tflite import apart, compiled, constants
from tf_reweight.tflite.comparing import compare
from tf_reweight.tflite.execution import Runner, read_file
from tf_reweight.tflite.latency import benchmark, runnable_example

# Both runtimes compute with the same kernels.
_SAME = 1e-3


@dataclasses.dataclass(frozen=True)
class FileCheck(Report):
    """What was asked of a file and what was found.

    Attributes:
        file: its path.
        requirements: one `Requirement` for each thing that was asked; that it runs is always asked.
        doubts: what is worth a look although the outputs agree, in sentences; a tuple, mostly empty.
    """

    file: str
    requirements: tuple[Requirement, ...]
    doubts: tuple[str, ...] = ()

    @property
    def passed(self):
        """Whether the file is all that was asked for."""
        return all(item.passed for item in self.requirements)

    def to_dict(self):
        """Every figure, as plain types."""
        return {**dataclasses.asdict(self), "passed": self.passed}

    def to_tables(self):
        """The same as rich tables."""
        table = Table(title=f"{self.file}: {'passed' if self.passed else 'falls short'}")
        for heading in ("", "asked", "wanted", "found"):
            table.add_column(heading)
        for item in self.requirements:
            table.add_row("ok" if item.passed else "FALLS SHORT", item.name, item.wanted, item.found)
        for doubt in self.doubts:
            table.add_row("worth a look", "", "", doubt)
        return [table]


def check_file(
    path, *, max_bytes=None, max_ms=None, fully_accelerated=False, agrees_with=None, data=None, max_drop=None, num_threads=1,
    shapes=None, tolerance=None, mode=None,
):  # fmt: skip
    """Measures a `.tflite`, made by anyone, against what is asked of it.

    Args:
        path: the file. It is always run once in LiteRT's interpreter and in `CompiledModel`, which must agree.
        max_bytes: largest size.
        max_ms: longest median time of one run here, in milliseconds; the processor is named in the result.
        fully_accelerated: whether XNNPACK, LiteRT's delegate for CPUs, must run every operation.
        agrees_with: the Keras model whose outputs it must have, of `data`, and than which it must be no worse. It is a
            classifier where its losses or metrics, its labels or probabilities say so, and else gives numbers.
        data: examples of any kind that `data.examples.take` knows, or `(examples, labels)`; of a model with two inputs
            `(first, second)` are the inputs, and `([first, second], labels)` both.
        max_drop: largest loss against the model in each metric that it is compiled with and labels measure, or else in the
            accuracy of outputs that choose, or else in the loss: of a share of examples as it is, of other metrics as a part of
            the model's, and of a loss also as a part of what the model gains over constant outputs, the mean of its own. At
            least 0; None is 0.02, and 0.1 for parts of the model's metric. Where nothing is measured so, it is the largest
            share of examples for which the file chooses otherwise, and where `tolerance` is None the relative error of numbers.
        num_threads: of the interpreter that is timed.
        shapes: of inputs whose sizes the file leaves open: one whole shape, or a dict by input name.
        tolerance: largest relative error of each output against the model's. None is the bound of `export_tflite` for what is
            in the file, 0.25 with integers of 8 bits. Besides, the file may choose otherwise for 10 % of the examples, or for
            `max_drop` where that is more. With infinity metrics alone count, as against the model before it was pruned: each
            output must have one then, a loss at least.
        mode: `"max"` or `"min"`, which way metrics are better whose names and classes do not say it. Where it is None they are
            not judged, and named in what was found.

    Returns:
        `FileCheck`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that LiteRT does not load, or arguments that do not fit; before anything is measured.

    Example:
        >>> check_file("model.tflite", max_bytes=200_000, fully_accelerated=True).passed
    """
    check_flags(fully_accelerated=fully_accelerated)
    _check_arguments(max_bytes, max_ms, agrees_with, data, max_drop, tolerance, mode)
    content = read_file(path)
    constants.parse(content, path)  # which names the file
    # In a process of its own, which may die, before anything else loads the file here.
    found = apart.delegation(content, shapes, path)
    asked, doubts = [_runs(content, shapes)], ()
    if max_bytes is not None:
        asked.append(Requirement("size", f"at most {max_bytes:,} bytes", f"{len(content):,} bytes", len(content) <= max_bytes))
    if fully_accelerated:
        asked.append(Requirement("fully accelerated", "XNNPACK runs every operation", _said(found), found.fully_accelerated))
    if max_ms is not None:
        asked.append(_is_fast(path, max_ms, num_threads, shapes))
    if agrees_with is not None:
        runner = Runner(content, shapes=shapes)
        found, doubts = agreeing.requirements(runner, content, agrees_with, data, max_drop, tolerance, mode)
        asked += found
    checked = FileCheck(os.fspath(path), tuple(asked), doubts)
    say_doubts(checked)
    return checked


def _check_arguments(max_bytes, max_ms, agrees_with, data, max_drop, tolerance, mode):
    if agrees_with is not None:
        check_model(agrees_with)
    if max_bytes is not None:
        check_integer("max_bytes", max_bytes, 1, fix="It counts bytes.")
    if max_ms is not None:
        check_number("max_ms", max_ms, exclusive=True, fix="It counts milliseconds.")
    if max_drop is not None:
        check_number("max_drop", max_drop, fix="For example 0.01.")
    if tolerance is not None:
        check_number("tolerance", tolerance, fix="For example 0.1.", finite=False)
    if mode is not None:
        check_name("mode", mode, ("max", "min"))
    for name, limit in (("max_drop", max_drop), ("tolerance", tolerance), ("mode", mode)):
        if limit is not None and agrees_with is None:
            expected = f"`{name}` has no effect without `agrees_with`, the model that the file is compared with."
            raise ValueError(errors.message(expected, "Pass both, or neither.", **{name: limit}))
    if (agrees_with is None) != (data is None):
        expected = "`agrees_with` and `data` belong together: the file and the model are compared on the data."
        raise ValueError(errors.message(expected, "Pass both, or neither.", agrees_with=agrees_with, data=type(data).__name__))


def _said(found):
    reasons = [f"{name}: {reason}" for (reason, _), names in found.reasons().items() for name in dict.fromkeys(names)]
    return "; ".join([found.summary, *reasons])


def _runs(content, shapes):
    """Whether both runtimes compute the same on a random example."""
    runner = Runner(content, shapes=shapes)
    wanted = "the interpreter and CompiledModel compute the same"
    for name, detail in runner.inputs.items():
        if tuple(detail["shape"])[:1] != (1,):
            return Requirement("runs", wanted, f"loaded, not run: {name} takes {tuple(detail['shape'])}, not one example", True)
    arrays = runnable_example(runner)
    here = runner(arrays)
    try:
        there = runner.call_compiled(arrays)
    except compiled.Unavailable as error:
        return Requirement("runs", wanted, f"run in the interpreter alone: {error}", True)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        return Requirement("runs", wanted, f"CompiledModel does not run it: {said}", False)
    error = compare(here, there)[1]
    return Requirement("runs", wanted, f"relative difference {error:.1e}", bool(error <= _SAME))


def _is_fast(path, max_ms, num_threads, shapes):
    timed = benchmark([path], num_threads=num_threads, shapes=shapes)
    median, how = timed.rows[0]["median_ms"], timed.measurement
    where = f"{num_threads} thread(s) of {how['processor']}, {how['runtime']}"
    said = f"{median:.3f} ms, median of {timed.num_runs} runs on {where}"
    return Requirement("time", f"at most {max_ms:g} ms", said, bool(median <= max_ms))
