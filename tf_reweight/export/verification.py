"""Proof that a file computes what the Keras model does: it is run, with and without the delegate, and compared."""

import dataclasses

import numpy as np

from tf_reweight import errors
from tf_reweight.export.conversion import call, output_names
from tf_reweight.export.precisions import TABLE
from tf_reweight.export.samples import identifiers
from tf_reweight.tflite import litert
from tf_reweight.tflite.comparing import VerificationError, compare, floats
from tf_reweight.tflite.execution import Runner

# Largest accepted error, as root mean square relative to the root mean square of the Keras outputs.
TOLERANCES = {name: precision.tolerance for name, precision in TABLE.items()}
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Verification:
    """How far a file is from its Keras model, over `num_examples` inputs.

    Attributes:
        num_examples: inputs compared.
        max_abs_error: largest difference of any output.
        relative_error: root mean square of the differences over that of the Keras outputs.
        top1_agreement: share of examples (positions) with the same largest output; None where the last axis has one entry.
        delegate_difference: largest difference between the runs with and without the default delegate.
        tolerance: the bound that `relative_error` had to meet.
        arm_error: `relative_error` on an emulated ARM machine alone; None where that was not asked for. The other figures are
            the worst of all runs, these included.
    """

    num_examples: int
    max_abs_error: float
    relative_error: float
    top1_agreement: float | None
    delegate_difference: float
    tolerance: float
    arm_error: float | None = None


def verify(content, model, specs, arrays, precision, tolerance=None, emulator=None):
    """Runs a file's bytes and its Keras model on the same inputs.

    Args:
        content: the bytes.
        model: the Keras model.
        specs: its inputs, from `samples.input_specs`.
        arrays: list of arrays `(num, ...)`, one per input.
        precision: of the file, which sets the bound.
        tolerance: another bound on the relative error.
        emulator: an `emulation.Emulator` that runs the file as well; None for this machine alone.

    Returns:
        `Verification`.

    Raises:
        VerificationError: when the file does not load, gives NaN, or is too far from the model.
    """
    limit = TOLERANCES[precision] if tolerance is None else tolerance
    expected = keras_outputs(model, arrays)
    names = output_names(model, len(expected))
    inputs = dict(zip(identifiers([spec.name for spec in specs]), arrays))
    runs = [_run_here(content, precision, inputs, names, delegate) for delegate in litert.RUNS.values()]
    emulated = [] if emulator is None else _run_emulated(content, precision, inputs, names, emulator)
    results = [compare(expected, run) for run in runs + emulated]
    largest, relative = map(max, zip(*results))
    difference = max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(floats(runs[0]), floats(runs[1])))
    agreements = [_agreement(expected[0], run[0]) for run in (runs[0], *emulated)]
    agreement = None if None in agreements else min(agreements)
    arm_error = max((result[1] for result in results[len(runs) :]), default=None)
    made = Verification(len(arrays[0]), largest, relative, agreement, difference, limit, arm_error)
    # Written so that NaN fails.
    if not made.relative_error <= limit:
        raise VerificationError(
            errors.message(
                f"The {precision} file must compute what the model does, within {limit:g} of the outputs' scale.",
                "Nothing was written. More representative data, quantization-aware training or a finer precision help; "
                "tolerance= (export.tolerance in a config) moves the bound.",
                relative_error=made.relative_error,
                max_abs_error=made.max_abs_error,
                top1_agreement=made.top1_agreement,
                arm_error=made.arm_error,
            )
        )
    return made


def _run_here(content, precision, inputs, names, delegate):
    how = f"{'with' if delegate else 'without'} its default delegate"
    return _ran(lambda: Runner(content, delegate=delegate)(inputs, names), how, precision, content)


def _run_emulated(content, precision, inputs, names, emulator):
    """Outputs with and without the delegate."""
    runner = Runner(content)
    made = _ran(lambda: emulator.run(content, runner.encoded(inputs)), "on an emulated ARM machine", precision, content)
    return [runner.decoded(outputs, names) for outputs in made.values()]


def _ran(run, how, precision, content):
    try:
        return run()
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
        batches.append([np.asarray(output) for output in outputs])
    made = [np.concatenate(parts) for parts in zip(*batches)]
    return [x if x.dtype.kind in "biu" else x.astype("float32") for x in made]


def _agreement(expected, given):
    if expected.ndim < 2 or expected.shape[-1] < 2 or expected.shape != given.shape:
        return None
    return float(np.mean(expected.argmax(-1) == given.argmax(-1)))
