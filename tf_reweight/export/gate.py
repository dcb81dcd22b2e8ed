"""`check_file`: whether a `.tflite` is what was asked for, as a gate of continuous integration asks."""

import dataclasses
import math
import os

import numpy as np
from rich.table import Table

from tf_reweight import errors
from tf_reweight.checks import check_flags, check_integer, check_number
from tf_reweight.data.labelled import read
from tf_reweight.data.splits import numbered
from tf_reweight.export.classes import CLASSES, kinds_of_model
from tf_reweight.export.conversion import output_names
from tf_reweight.export.samples import identifiers, input_specs
from tf_reweight.export.verification import keras_outputs
from tf_reweight.graph.checking import check_model
from tf_reweight.records import Report
from tf_reweight.tflite import apart, compiled, flatbuffer
from tf_reweight.tflite.comparing import compare, differences
from tf_reweight.tflite.execution import Runner, read_file
from tf_reweight.tflite.latency import benchmark, runnable_example

# Both runtimes compute with the same kernels.
_SAME = 1e-3
# Largest loss against the model where none is named.
_DROP = 0.02


@dataclasses.dataclass(frozen=True)
class Requirement:
    """One thing that was asked of a file: `name`, what was `wanted` and `found` in words, and whether that `passed`."""

    name: str
    wanted: str
    found: str
    passed: bool


@dataclasses.dataclass(frozen=True)
class FileCheck(Report):
    """What was asked of a file and what was found.

    Attributes:
        file: its path.
        requirements: one `Requirement` for each thing that was asked; that it runs is always asked.
    """

    file: str
    requirements: tuple[Requirement, ...]

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
        return [table]


def check_file(
    path, *, max_bytes=None, max_ms=None, fully_accelerated=False, agrees_with=None, data=None, max_drop=None, num_threads=1,
    shapes=None,
):  # fmt: skip
    """Measures a `.tflite`, made by anyone, against what is asked of it.

    Args:
        path: the file. It is always run once in LiteRT's interpreter and in `CompiledModel`, which must agree.
        max_bytes: largest size.
        max_ms: longest median time of one run here, in milliseconds; the processor is named in the result.
        fully_accelerated: whether XNNPACK, LiteRT's delegate for CPUs, must run every operation.
        agrees_with: the Keras model whose outputs it must have, of `data`.
        data: examples of any kind that `data.examples.take` knows, or `(examples, labels)`.
        max_drop: largest loss against the model. With integer labels, of accuracy; without, the share of examples of which the
            file chooses another class; for outputs that are no classes, the relative error. At least 0; None is 0.02.
        num_threads: of the interpreter that is timed.
        shapes: of inputs whose sizes the file leaves open: one whole shape, or a dict by input name.

    Returns:
        `FileCheck`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that LiteRT does not load, or arguments that do not fit; before anything is measured.

    Example:
        >>> check_file("model.tflite", max_bytes=200_000, fully_accelerated=True).passed
    """
    check_flags(fully_accelerated=fully_accelerated)
    _check_arguments(max_bytes, max_ms, agrees_with, data, max_drop)
    content = read_file(path)
    flatbuffer.parse(content, path)  # which names the file
    # In a process of its own, which may die, before anything else loads the file here.
    found = apart.delegation(content, shapes)
    asked = [_runs(content, shapes)]
    if max_bytes is not None:
        asked.append(Requirement("size", f"at most {max_bytes:,} bytes", f"{len(content):,} bytes", len(content) <= max_bytes))
    if fully_accelerated:
        asked.append(Requirement("fully accelerated", "XNNPACK runs every operation", _said(found), found.fully_accelerated))
    if max_ms is not None:
        asked.append(_is_fast(path, max_ms, num_threads, shapes))
    if agrees_with is not None:
        drop = _DROP if max_drop is None else max_drop
        asked.append(_agrees(Runner(content, shapes=shapes), agrees_with, data, drop))
    return FileCheck(os.fspath(path), tuple(asked))


def _check_arguments(max_bytes, max_ms, agrees_with, data, max_drop):
    if agrees_with is not None:
        check_model(agrees_with)
    if max_bytes is not None:
        check_integer("max_bytes", max_bytes, 1, fix="It counts bytes.")
    if max_ms is not None:
        check_number("max_ms", max_ms, exclusive=True, fix="It counts milliseconds.")
    if max_drop is not None:
        check_number("max_drop", max_drop, fix="For example 0.01.")
    if max_drop is not None and agrees_with is None:
        expected = "`max_drop` has no effect without `agrees_with`, the model that the file is compared with."
        raise ValueError(errors.message(expected, "Pass both, or neither.", max_drop=max_drop))
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


def _agrees(runner, model, data, max_drop):
    """Whether the file loses at most `max_drop` against its model, in the output where it loses most."""
    examples, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    given = read(model, examples, labels, "data")
    expected = keras_outputs(model, given.arrays)
    names = identifiers([spec.name for spec in input_specs(model, given.arrays)])
    inputs = dict(zip(_matched(names, runner.inputs, "inputs"), given.arrays))
    outputs = runner(inputs, _matched(output_names(model, len(expected)), runner.outputs, "outputs"))
    labels = numbered(given.labels, expected[0].shape) if len(expected) == 1 else None
    classes = [kind == CLASSES for kind in kinds_of_model(model, expected, given.labels)]
    if classes[0]:
        _check_labels(labels, expected[0], getattr(model.loss, "ignore_class", None))
    drops = [_drop(a, b, labels, chooses) for a, b, chooses in zip(expected, outputs, classes)]
    drop, said = max(drops, key=lambda item: item[0])
    found = f"{said}, on {len(given.arrays[0])} examples"
    return Requirement("agrees with its model", f"a loss of at most {max_drop:g}", found, bool(drop <= max_drop))


def _matched(names, ends, what):
    """The file's own names for those of a model: the same, or by position where names are others, as after loading a model."""
    if len(names) != len(ends):
        fix = "Pass the model that the file was made of."
        raise ValueError(errors.message(f"File and model must have as many {what}.", fix, file=list(ends), model=names))
    return names if set(names) == set(ends) else list(ends)


def _check_labels(labels, outputs, ignored):
    """Raises ValueError for labels that are none of the model's classes: no file loses accuracy on them."""
    if labels is None or np.shape(labels) != outputs.shape[:-1]:
        return
    labels, num = np.asarray(labels), outputs.shape[-1]
    strange = labels[~np.isin(labels, [*range(num), *([] if ignored is None else [ignored])])]
    if strange.size:
        fix = "Number the classes from 0, or name the class that the model's loss ignores as its `ignore_class`."
        raise ValueError(errors.message(f"Labels must be whole numbers in 0..{num - 1}.", fix, labels=strange[:5].tolist()))


def _drop(expected, given, labels, chooses):
    """`(loss, what was measured in words)` of one output, which `chooses` among classes or does not."""
    if expected.shape != given.shape:
        return math.inf, f"shape {given.shape} instead of {expected.shape}"
    if not chooses:
        error = differences([expected], [given], channels=True)[0].relative_error
        return error, f"relative error {error:.2e}"
    chosen, own = given.argmax(-1), expected.argmax(-1)
    if labels is not None and np.shape(labels) == own.shape:
        before, after = (float(np.mean(classes == np.asarray(labels))) for classes in (own, chosen))
        return before - after, f"accuracy {after:.2%}, of the model {before:.2%}"
    other = float(np.mean(chosen != own))
    return other, f"another class than the model for {other:.2%}"
