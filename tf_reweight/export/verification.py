"""Proof that a file computes what the Keras model does: it is run in both runtimes of LiteRT and compared."""

import dataclasses
import logging

import numpy as np

from tf_reweight import errors
from tf_reweight.checks import is_number, is_sequence
from tf_reweight.data import varying
from tf_reweight.export import masks
from tf_reweight.export.classes import CLASSES, agreement, kinds_of_model
from tf_reweight.export.conversion import call, output_names
from tf_reweight.export.precisions import TABLE
from tf_reweight.export.recurrent import recurrent_layers
from tf_reweight.export.samples import identifiers
from tf_reweight.graph.randomness import named, random_layers
from tf_reweight.tflite import apart, compiled, flatbuffer, litert
from tf_reweight.tflite.comparing import VerificationError, differences, floats
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.file_graph import Graph

# Largest accepted error, as root mean square relative to the root mean square of the Keras outputs.
TOLERANCES = {name: precision.tolerance for name, precision in TABLE.items()}
# A classifier's file that chooses another class more often than in one of twenty examples is worth a look.
LEAST_AGREEMENT = 0.95
# Half precision keeps 8 to 11 bits, and deep models add up what it loses.
HALF_ROUNDING = 5e-2
_BATCH = 64
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Verification:
    """How far a file is from its Keras model, over `num_examples` inputs.

    Attributes:
        num_examples: inputs compared.
        max_abs_error: largest difference of any output.
        relative_error: root mean square of the differences over that of the Keras outputs: of the worst output, and where the
            channels of an output's last axis differ in scale, of the worst channel.
        top1_agreement: share of examples (positions) with the same largest entry, of the output that chooses among classes and
            has the lowest; None where no output does.
        delegate_difference: largest difference between the runs with and without the default delegate.
        tolerance: the bound that `relative_error` had to meet.
        arm_error: `relative_error` on an emulated ARM machine alone; None where that was not asked for. The other figures are
            the worst of all runs, these included.
        given_error: `relative_error` between the float32 copy that was exported and the half- or double-precision model that
            was given, which is rounding; None where the model itself was exported.
        worst: the output that `relative_error` is of, and its channel where it is of one, in words.
        doubts: what is worth a look although the bound was met, in sentences; a tuple, mostly empty.
        compiled_difference: largest difference between the outputs of `CompiledModel`, LiteRT's newer runtime, and those of the
            interpreter with its default delegate; None where it was not run.
        not_compiled: why it was not run in `CompiledModel`; "" where it was.
    """

    num_examples: int
    max_abs_error: float
    relative_error: float
    top1_agreement: float | None
    delegate_difference: float
    tolerance: float
    arm_error: float | None = None
    given_error: float | None = None
    worst: str = ""
    doubts: tuple[str, ...] = ()
    compiled_difference: float | None = None
    not_compiled: str = ""


def check_tolerance(tolerance):
    """Raises ValueError unless a tolerance is a number above 0, or None."""
    if tolerance is not None and not (is_number(tolerance) and 0 < tolerance < float("inf")):
        raise ValueError(errors.message("`tolerance` must be a number > 0.", "For example 0.1.", tolerance=tolerance))


def verify(content, model, specs, arrays, precision, tolerance=None, emulator=None, given=None, classes=None):
    """Runs a file's bytes and its Keras model on the same inputs.

    The file runs in the interpreter with and without its default delegate, and in `CompiledModel` where this LiteRT has it.

    Args:
        content: the bytes.
        model: the Keras model that was converted.
        specs: its inputs, from `samples.input_specs`.
        arrays: list of arrays `(num, ...)`, one per input.
        precision: of the file, which sets the bound.
        tolerance: another bound on the relative error.
        emulator: an `emulation.Emulator` that runs the file as well; None for this machine alone.
        given: the model as the user gave it, where `model` is a copy in another floating-point type: both are compared too.
        classes: for each output whether it chooses one of several classes, so that its largest entry counts; None asks the
            model's losses and metrics, and looks for probabilities where these do not say.

    Returns:
        `Verification`.

    Raises:
        VerificationError: when the file does not load, gives NaN, or is too far from the model in any output; when it chooses
            another class than a classifier for every single example; or when `model` is no copy of `given`.
    """
    limit = TOLERANCES[precision] if tolerance is None else float(tolerance)
    expected = keras_outputs(model, arrays)
    given_error = None if given is None or given is model else _check_copy(expected, keras_outputs(given, arrays))
    names = output_names(model, len(expected))
    if classes is None:
        classes = [kind == CLASSES for kind in kinds_of_model(model if given is None else given, expected)]
    check_classes(classes, len(expected))
    inputs = dict(zip(identifiers([spec.name for spec in specs]), arrays))
    if is_fragile(model, precision):
        runs = _run_apart(content, precision, inputs, names)
    else:
        runs = [_run_here(content, precision, inputs, names, delegate) for delegate in litert.RUNS.values()]
    compiled_run, not_compiled = _run_compiled(content, precision, inputs, names, is_fragile(model, precision))
    emulated = [] if emulator is None else _run_emulated(content, precision, inputs, names, emulator)
    here = runs + compiled_run
    results = [differences(expected, run, channels=True) for run in here + emulated]
    everything = [item for result in results for item in result]
    worst = max(everything, key=lambda item: item.relative_error)
    arm_error = max((item.relative_error for result in results[len(here) :] for item in result), default=None)
    same = _agreement(expected, [runs[0], *compiled_run, *emulated], classes)
    behind = varying.behind_offsets(names, expected, runs[0], [not chooses for chooses in classes])
    made = Verification(
        num_examples=len(arrays[0]),
        max_abs_error=max(item.max_abs_error for item in everything),
        relative_error=worst.relative_error,
        top1_agreement=same,
        delegate_difference=_largest(runs[0], runs[1]),
        tolerance=limit,
        arm_error=arm_error,
        given_error=given_error,
        worst=names[worst.output] + ("" if worst.channel is None else f", channel {worst.channel} of the last axis"),
        doubts=(*_doubts(same, len(arrays[0])), *behind),
        compiled_difference=max((_largest(runs[0], run) for run in compiled_run), default=None),
        not_compiled=not_compiled,
    )
    if not made.relative_error <= made.tolerance:
        _refuse_random(model, [array[:1] for array in arrays], made)
        _refuse_endless(expected, names)
    _refuse(made, precision, content)
    return made


def check_classes(classes, num_outputs=None):
    """Raises unless `classes` is a list or tuple of bools, and has one for each output where their number is known."""
    if not is_sequence(classes) or not all(isinstance(item, (bool, np.bool_)) for item in classes):
        fix = "For example [True, False]: whether each output chooses one of several classes."
        raise TypeError(errors.message("`classes` must be bools, one for each output.", fix, classes=classes))
    if num_outputs is not None and len(classes) != num_outputs:
        fix = f"The model has {num_outputs} outputs."
        raise ValueError(errors.message("`classes` must have one bool for each output.", fix, classes=classes))


def is_fragile(model, precision):
    """Whether LiteRT must run a model's file in a process of its own.

    Its delegate frees twice what it fails to prepare of some of these files, and takes its process along.
    """
    return TABLE[precision].needs_data and bool(recurrent_layers(model))


def say_doubts(checked):
    """Logs what is worth a look in a file that is kept."""
    for doubt in checked.doubts:
        _LOG.warning(doubt)


def _largest(first, second):
    """The largest difference between two runs, over all outputs."""
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(floats(first), floats(second)))


def _check_copy(expected, given):
    """The largest relative error between outputs of a float32 copy and those of the model it is of."""
    error = max(item.relative_error for item in differences(given, expected))
    # Written so that NaN fails.
    if not error <= HALF_ROUNDING:
        raise VerificationError(
            errors.message(
                f"The float32 copy must compute what the model does in its own type, within {HALF_ROUNDING:g} of each output.",
                "Nothing was written. A layer keeps something outside its weights and its config, or overflows in half "
                "precision: build the model under the policy float32 and load its weights there.",
                relative_error=error,
            )
        )
    return error


def _refuse_random(model, arrays, made):
    """Raises VerificationError where the model itself gives other outputs each time."""
    drawn = random_layers(model, arrays)
    if drawn:
        expected = "The model must give the same outputs each time, to be compared with its file."
        fix = f"Nothing was written. {named(drawn)}"
        raise VerificationError(errors.message(expected, fix, random=drawn, relative_error=made.relative_error))


def _refuse_endless(expected, names):
    """Raises VerificationError where the model's own outputs are infinite or no numbers: no file can agree with them."""
    endless = [name for name, values in zip(names, expected) if values.dtype.kind == "f" and not np.isfinite(values).all()]
    if endless:
        fix = "Nothing was written. A mask of -inf gives NaN where it hides everything: mask with -1e9. Bound logarithms and "
        fix += "divisions, as log(maximum(x, 1e-6))."
        expected = "The model's own outputs must be finite on the examples, to be compared with its file."
        raise VerificationError(errors.message(expected, fix, not_finite=endless))


def _refuse(made, precision, content):
    """Raises VerificationError for a file that is too far from its model."""
    # Written so that NaN fails.
    if not made.relative_error <= made.tolerance:
        raise VerificationError(
            errors.message(
                f"The {precision} file must compute what the model does, within {made.tolerance:g} of each output's scale, "
                f"and of each channel's where channels differ in scale; {made.worst} does not.",
                f"Nothing was written. {_remedy(content)}; tolerance= (export.tolerance in a config) moves the bound.",
                relative_error=made.relative_error,
                max_abs_error=made.max_abs_error,
                top1_agreement=made.top1_agreement,
                arm_error=made.arm_error,
            )
        )
    if made.top1_agreement == 0.0:
        raise VerificationError(
            errors.message(
                f"The {precision} file must choose the model's class for some of the examples; it does for none.",
                "Nothing was written. Pass more `verify_data`, or choose a finer precision.",
                num_examples=made.num_examples,
                relative_error=made.relative_error,
            )
        )


def _remedy(content):
    """What makes a file better, by what is in it."""
    coarse = masks.lost(Graph(flatbuffer.read(content)))
    if not coarse:
        help_with = "More representative data, quantization-aware training or a finer precision help"
        return f"{help_with}, and outputs of their own for numbers of unlike scale"
    return (
        f"{', '.join(coarse[:3])} goes into a softmax or its like in steps too large to tell anything apart, as behind a mask "
        'of -1e9: mask with -100, choose "dynamic_int8", which computes this in float, or "int8" with representative data, '
        "which leaves masks in float"
    )


def _doubts(same, num_examples):
    if same is None or same >= LEAST_AGREEMENT:
        return ()
    said = f"The file chooses the model's class for {same:.1%} of {num_examples} examples, under {LEAST_AGREEMENT:.0%}."
    return (f"{said} Measure its accuracy on real data before you ship it.",)


def _run_here(content, precision, inputs, names, delegate):
    how = f"{'with' if delegate else 'without'} its default delegate"
    return _ran(lambda: Runner(content, delegate=delegate)(inputs, names), how, precision, content)


def _run_apart(content, precision, inputs, names):
    """Outputs with and without the delegate, in a process of its own."""
    runner = _ran(lambda: Runner(content, delegate=False), "without its default delegate", precision, content)
    made = _ran(lambda: apart.run(content, runner.encoded(inputs)), "with its default delegate", precision, content)
    return [runner.decoded(made[name], names) for name in litert.RUNS]


def _run_compiled(content, precision, inputs, names, fragile):
    """`([outputs], "")` of `CompiledModel`; `([], reason)` where it cannot be run here."""
    runner = Runner(content, delegate=False)
    run = apart.compiled_run if fragile else compiled.run
    try:
        return [_ran(lambda: runner.call_compiled(inputs, names, run), "as CompiledModel", precision, content)], ""
    except compiled.Unavailable as error:
        return [], str(error)


def _run_emulated(content, precision, inputs, names, emulator):
    """Outputs with and without the delegate."""
    runner = Runner(content)
    made = _ran(lambda: emulator.run(content, runner.encoded(inputs)), "on an emulated ARM machine", precision, content)
    return [runner.decoded(outputs, names) for outputs in made.values()]


def _ran(run, how, precision, content):
    try:
        return run()
    except compiled.Unavailable:
        raise
    except (ValueError, RuntimeError, KeyError) as error:
        raise VerificationError(
            errors.message(
                f"The {precision} file must run in LiteRT {how}; it says: {error}",
                "Nothing was written. Try another precision.",
                num_bytes=len(content),
            )
        ) from error


def keras_outputs(model, arrays):
    """List of the Keras model's outputs `(num, ...)`, float32 where they are floats."""
    batches = []
    for start in range(0, len(arrays[0]), _BATCH):
        outputs = call(model, [array[start : start + _BATCH] for array in arrays])
        given = len(arrays[0][start : start + _BATCH])
        if any(len(output.shape) == 0 or output.shape[0] is not None and output.shape[0] % given for output in outputs):
            fix = "Compute them for each example, as ops.sum(x, axis=-1)."
            raise ValueError(errors.message("Outputs must have a batch axis.", fix, shapes=[tuple(x.shape) for x in outputs]))
        batches.append([np.asarray(output) for output in outputs])
    made = [np.concatenate(parts) for parts in zip(*batches)]
    return [x if x.dtype.kind in "biu" else x.astype("float32") for x in made]


def _agreement(expected, runs, classes):
    """The lowest share of examples with the same largest entry, of all runs and outputs that choose; None where none does."""
    chosen = [number for number, found in enumerate(classes) if found]
    return min((agreement(CLASSES, expected[number], run[number]) for number in chosen for run in runs), default=None)
