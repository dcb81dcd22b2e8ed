"""Which kernel of a model loses what in which precision, and a file with a precision per kernel that fits a size."""

import dataclasses

import numpy as np
from rich.table import Table

from tf_reweight import errors
from tf_reweight.checks import check_classes, check_flags, check_number, is_sequence
from tf_reweight.data.examples import take_labelled
from tf_reweight.data.labelled import of_one_output
from tf_reweight.export import samples, verification
from tf_reweight.export.conversion import convert
from tf_reweight.export.litert_quantizer import WEIGHT_PRECISIONS, check_installed, requantize
from tf_reweight.export.precisions import TABLE
from tf_reweight.export.recurrent import check_recurrent
from tf_reweight.export.tflite import ExportRecord, facts
from tf_reweight.files import checked_path, write_whole
from tf_reweight.graph.checking import check_eager, check_model
from tf_reweight.graph.recasting import single_precision
from tf_reweight.graph.tables import check_tables
from tf_reweight.records import Report
from tf_reweight.tflite import constants, flatbuffer
from tf_reweight.tflite.comparing import compare
from tf_reweight.tflite.delegation import delegation
from tf_reweight.tflite.emulation import Emulator
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.file_graph import Graph
from tf_reweight.tflite.inspection import summarize

# From large to small, each with floating-point arithmetic: what is measured is the weights alone.
_DEFAULT = ("float16", "weight_int8", "weight_int4")
_COARSEST = "weight_int4"


@dataclasses.dataclass(frozen=True)
class OperationPrecision:
    """One operation with a kernel, alone in each precision, all others in float32.

    Attributes:
        name: of the kernel in the file.
        output: of the operation's output tensor, by which it is chosen.
        num_weights: of the kernel.
        saved: bytes that the file loses, by precision; a precision that the operation cannot have is not there.
        errors: root mean square of the change of the model's outputs relative to theirs, by precision.
        accuracies: top-1 accuracy by precision; empty without labels.
    """

    name: str
    output: str
    num_weights: int
    saved: dict
    errors: dict
    accuracies: dict


@dataclasses.dataclass(frozen=True)
class PrecisionReport(Report):
    """What `precision_sensitivity` found; the float32 file has `num_bytes` and `accuracy` (None without labels)."""

    num_bytes: int
    accuracy: float | None
    num_examples: int
    precisions: tuple[str, ...]
    operations: tuple[OperationPrecision, ...]

    def to_tables(self):
        """One rich table, the most sensitive kernel first."""
        known = "" if self.accuracy is None else f", accuracy {self.accuracy:.2%}"
        table = Table(title=f"One kernel at a time in fewer bits; float32: {self.num_bytes:,} bytes{known}")
        table.add_column("kernel")
        for heading in ("weights", *self.precisions):
            table.add_column(heading, justify="right")
        for item in sorted(self.operations, key=lambda item: -max(item.errors.values(), default=0.0)):
            table.add_row(item.name[-48:], f"{item.num_weights:,}", *[self._cell(item, name) for name in self.precisions])
        return [table]

    def _cell(self, item, precision):
        if precision not in item.errors:
            return "-"
        accuracy = f", {item.accuracies[precision]:.2%}" if item.accuracies else ""
        return f"error {item.errors[precision]:.2%}{accuracy}, -{item.saved[precision]:,} B"


@dataclasses.dataclass(frozen=True)
class MixedRecord(ExportRecord):
    """A written file with a precision per kernel: `plan` maps a kernel's name to its precision, float32 where it is missing."""

    plan: dict

    @property
    def made_by(self):
        """Who rounded the kernels that are in fewer bits."""
        return "litert-quantizer"


class DoesNotFit(ValueError):
    """Even the smallest precisions make a file that is larger than asked for."""


def precision_sensitivity(model, x, y=None, precisions=_DEFAULT):
    """Stores one kernel at a time in fewer bits, runs the file, and tells what the outputs and the accuracy lose.

    Args:
        model: a built Keras model on the TensorFlow backend, not quantized.
        x: examples of any kind that `data.examples.take` knows; some hundred, held out, not the test set.
        y: integer labels `(num,)` of a classifier, or None; then those of a source that has labels.
        precisions: of `litert_quantizer.WEIGHT_PRECISIONS`.

    Returns:
        `PrecisionReport`.

    Raises:
        ImportError: when litert-quantizer is not installed.
        ValueError: for an unknown precision, inputs that do not fit, or a model without kernels.

    Example:
        >>> rich.print(*precision_sensitivity(model, *data.validation).to_tables())
    """
    check_eager()
    check_model(model)
    _check_precisions(precisions)
    given, model = model, single_precision(model)
    arrays, found = take_labelled(given, x, "x")
    # A source's labels of several outputs tell no accuracy, and nobody asked for one.
    y = of_one_output(given, found) if y is None else y
    specs = samples.input_specs(model, arrays)
    return _report(model, specs, samples.checked(arrays, specs, "x"), y, precisions)


def _check_precisions(precisions):
    check_installed()
    if not is_sequence(precisions) or not precisions:
        fix = f"Choose of {', '.join(WEIGHT_PRECISIONS)}."
        raise ValueError(errors.message("`precisions` must be a list of names, one at least.", fix, precisions=precisions))
    for precision in precisions:
        if precision not in WEIGHT_PRECISIONS:
            raise ValueError(errors.unknown("precision", precision, WEIGHT_PRECISIONS))


def _report(model, specs, arrays, y, precisions):
    """`precision_sensitivity` on checked arrays."""
    check_recurrent(model)
    check_tables(model)
    if y is not None and np.shape(y)[:1] != arrays[0].shape[:1]:
        fix = "Pass one label per example."
        received = {"x": arrays[0].shape, "y": np.shape(y)}
        raise ValueError(errors.message("`y` must have a label for each input.", fix, **received))
    outputs = getattr(model, "outputs", None) or ()
    if y is not None and len(outputs) == 1 and None not in outputs[0].shape[1:-1]:
        check_classes(y, (len(arrays[0]), *outputs[0].shape[1:-1]))  # before the seconds of a conversion, where it is known
    content = convert(model, "float32", specs)
    inputs = dict(zip(samples.identifiers([spec.name for spec in specs]), arrays))
    expected = Runner(content)(inputs)
    if y is not None:
        check_classes(y, expected[0].shape[:-1])
    operations = tuple(_measured(content, inputs, expected, y, item, precisions) for item in kernels(content))
    if not operations:
        fix = "There is nothing to store in fewer bits."
        raise ValueError(errors.message("The model must have an operation with a kernel.", fix, model=model.name))
    return PrecisionReport(len(content), _accuracy(expected, y), len(arrays[0]), tuple(precisions), operations)


def choose_precisions(report, max_bytes, keep=()):
    """A precision per kernel, so that the file fits and the outputs change as little as the report lets expect.

    Squared errors of kernels add up, roughly. From float32 on, the step that costs the least squared error per byte is taken
    until the file fits.

    Args:
        report: from `precision_sensitivity`.
        max_bytes: largest size of the file.
        keep: names of outputs of operations that stay in float32, as `explain` finds them.

    Returns:
        dict from operation output names to precisions, as `litert_quantizer.requantize` takes it.

    Raises:
        TypeError, ValueError: for what is no report, size or list of names.
        DoesNotFit: when even the smallest precisions do not fit.
    """
    if not isinstance(report, PrecisionReport):
        fix = "Pass what tf_reweight.export.precision_sensitivity returns."
        raise TypeError(errors.message("`report` must be a PrecisionReport.", fix, report=report))
    _check_limits(max_bytes, keep)
    saved, errs, plan = {}, {}, {}
    size = report.num_bytes
    while size > max_bytes:
        steps = [
            ((item.errors[name] ** 2 - errs.get(item.output, 0.0)) / (item.saved[name] - saved.get(item.output, 0)), item, name)
            for item in report.operations
            for name in item.saved
            if item.output not in keep and item.saved[name] > saved.get(item.output, 0)
        ]
        if not steps:
            fix = "Allow more, keep fewer in float32, or prune and shrink the model first."
            smallest = f"`max_bytes` must be at least {size:,} in these precisions."
            raise DoesNotFit(errors.message(smallest, fix, max_bytes=max_bytes))
        _, item, name = min(steps, key=lambda step: (step[0], step[1].name))
        size -= item.saved[name] - saved.get(item.output, 0)
        plan[item.output], saved[item.output], errs[item.output] = name, item.saved[name], item.errors[name] ** 2
    return plan


def export_mixed(
    model, path, max_bytes, data, precisions=_DEFAULT, tolerance=None, verify_arm=False, keep=(), classes=None
):  # fmt: skip
    """Writes a `.tflite` of at most `max_bytes` in which each kernel has the precision it can bear.

    The file is run and compared with the model before it is written, as by `export_tflite`.

    Args:
        model: a built Keras model on the TensorFlow backend, not quantized.
        path: where to write; must end in `.tflite`.
        max_bytes: largest size of the file.
        data: held-out inputs, as `precision_sensitivity` takes them.
        precisions: of `litert_quantizer.WEIGHT_PRECISIONS`.
        tolerance: largest accepted relative error of the outputs; default that of `"weight_int4"`.
        verify_arm: whether to run the file on an emulated ARM machine as well, see `emulation`.
        keep: names of outputs of operations whose kernels stay in float32, as `explain(...).keep`.
        classes: as of `export_tflite`.

    Returns:
        `MixedRecord`.

    Raises:
        ValueError: as `precision_sensitivity`; `DoesNotFit` when the size cannot be met.
        VerificationError: when the file would not compute what the model does. Nothing is written then.

    Example:
        >>> export_mixed(model, "model.tflite", 40_000, data.validation[0]).plan
    """
    check_flags(verify_arm=verify_arm)
    check_eager()
    check_model(model)
    _check_limits(max_bytes, keep)
    verification.check_tolerance(tolerance)
    if classes is not None:
        verification.check_classes(classes)
    path = checked_path(path)
    _check_precisions(precisions)
    emulator = Emulator() if verify_arm else None
    given, model = model, single_precision(model)
    taken = samples.take(given, data, "data")
    specs = samples.input_specs(model, taken)
    held_out = samples.checked(taken, specs, "data")
    content = convert(model, "float32", specs)
    _check_names(content, keep)
    report = _report(model, specs, held_out, None, precisions)
    chosen = choose_precisions(report, max_bytes, keep)
    content = requantize(content, chosen)
    if len(content) > max_bytes:
        fix = "Allow a little less: sizes of single changes do not add up exactly."
        raise DoesNotFit(errors.message(f"The file must fit; it has {len(content):,} bytes.", fix, max_bytes=max_bytes))
    checked = verification.verify(content, model, specs, held_out, _COARSEST, tolerance, emulator, given, classes)
    write_whole(path, content)
    plan = {item.name: chosen[item.output] for item in report.operations if item.output in chosen}
    verification.say_doubts(checked)
    known = facts(path, content, summarize(content, path), checked, delegation(content))
    return MixedRecord(precision="mixed", float_ops=(), wider=(), plan=plan, **known)


def check_reachable(model, max_bytes, examples):
    """Raises where no file of a model can be so small, whatever its weights are, so that hours of training do not come first.

    Args:
        model: a built Keras model on the TensorFlow backend; it stays as it is.
        max_bytes: largest size of the file.
        examples: inputs as it takes them, which tell the sizes that it leaves open.

    Raises:
        DoesNotFit: when what is no kernel, with kernels of the fewest bits, is larger.
    """
    content = convert(single_precision(model), "float32", samples.input_specs(model, samples.take(model, examples, "examples")))
    saved = 1 - min(TABLE[name].weight_bits for name in _DEFAULT) / 32
    least = len(content) - int(sum(4 * saved * num_weights for _, _, num_weights in kernels(content)))
    if max_bytes < least:
        fix = "Allow more, or let channels be removed (shrink), so that kernels become smaller."
        expected = f"`mixed_bytes` must be at least {least:,}: that is {model.name} with all of its kernels in the fewest bits."
        raise DoesNotFit(errors.message(expected, fix, mixed_bytes=max_bytes))


def _check_limits(max_bytes, keep):
    check_number("max_bytes", max_bytes, minimum=1, fix="It is the largest size of the file.")
    if not isinstance(keep, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in keep):
        fix = "As tf_reweight.export.explain(...).keep; () keeps none."
        raise TypeError(errors.message("`keep` must be a list of names.", fix, keep=keep))


def _check_names(content, keep):
    graph = Graph(flatbuffer.parse(content))
    known = [graph.tensors[graph.output(position)].name.decode() for position in range(len(graph.names))]
    for name in keep:
        if name not in known:
            raise ValueError(errors.unknown("operation in `keep`", name, known))


def kernels(content):
    """`(kernel name, output name, number of weights)` of each constant float32 kernel and the first operation that reads it."""
    model, found = flatbuffer.parse(content), {}
    for operator, kernel, values in constants.kernels(model):
        name, output = (tensor.name.decode() for tensor in (kernel, model.subgraphs[0].tensors[operator.outputs[0]]))
        found.setdefault(kernel.buffer, (name, output, values.size))
    return list(found.values())


def _measured(content, inputs, expected, y, item, precisions):
    name, output, num_weights = item
    saved, changes, accuracies = {}, {}, {}
    for precision in precisions:
        made = requantize(content, {output: precision})
        if len(made) >= len(content):  # the operation cannot have it, or is too small to gain
            continue
        outputs = Runner(made)(inputs)
        saved[precision] = len(content) - len(made)
        changes[precision] = compare(expected, outputs)[1]
        if y is not None:
            accuracies[precision] = _accuracy(outputs, y)
    return OperationPrecision(name, output, num_weights, saved, changes, accuracies)


def _accuracy(outputs, y):
    return None if y is None else float(np.mean(outputs[0].argmax(-1) == np.asarray(y)))
