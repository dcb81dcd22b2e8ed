"""Whether two `.tflite` files compute the same, found by running both in both runtimes of LiteRT."""

import platform

import numpy as np

from tf_reweight import errors
from tf_reweight.tflite import litert
from tf_reweight.tflite.comparing import VerificationError, compare
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.shapes import Unfit

# Powers of two, so that images in [0, 1] as well as in [0, 255] are met.
_SCALES = (1.0, 1.0, 4.0, 64.0)
_ARM = " on an emulated ARM machine"
_SUMMATION = 1e-4
# Between machines: kernels round int8 in ways of their own, while files that ARM computes wrongly are off by a fifth or more.
_MACHINES = 5e-2


def check_shapes(content, shapes):
    """Raises ValueError where a file does not take these shapes of inputs; a file that does not run is for `check_same`."""
    try:
        Runner(content, delegate=False, shapes=shapes)
    except Unfit:
        raise
    except (ValueError, RuntimeError):
        pass


def check_same(before, after, reordered=False, emulator=None, shapes=None):
    """Runs two files on the same random inputs: with and without the default delegate, and in `CompiledModel` where the first
    runs there.

    Args:
        before: bytes of the file that is known to be right.
        after: bytes of the other one.
        reordered: whether sparse kernels may run the second file on an ARM machine; they sum in another order, so that 1e-4 of
            the outputs' scale is allowed there. Everywhere else every bit must agree, but for the sign of zeros.
        emulator: an `emulation.Emulator` that runs both as well; None for this machine alone.
        shapes: of inputs whose sizes the files leave open, see `shapes.checked`; those are 1 otherwise.

    Raises:
        VerificationError: when one of them does not run, or their outputs differ.
    """
    arm_here = platform.machine() not in ("x86_64", "AMD64")
    inputs = _ran("given", len(before), "", lambda: random_inputs(before, shapes))
    for machine, run, arm in (("", _run_here, arm_here), (_ARM, emulator and emulator.run, True)):
        if run is None:
            continue
        outputs = [
            _ran(what, len(content), machine, lambda content=content: run(content, inputs))
            for what, content in (("given", before), ("packed", after))
        ]
        for name, delegate in litert.RUNS.items():
            tolerance = _SUMMATION if reordered and delegate and arm else 0.0
            _check_equal(outputs[0][name], outputs[1][name], tolerance, f"{name} the default delegate{machine}")
    _check_compiled(before, after, inputs, _SUMMATION if reordered and arm_here else 0.0, shapes)


def _check_compiled(before, after, inputs, tolerance, shapes):
    try:
        expected = Runner(before, delegate=False, shapes=shapes).compiled_raw(inputs)
    except RuntimeError:
        # This LiteRT has none, or it does not take the given file: there is nothing to compare with.
        return
    runner = Runner(after, delegate=False, shapes=shapes)
    _check_equal(expected, _ran("packed", len(after), " as CompiledModel", lambda: runner.compiled_raw(inputs)), tolerance,
                 "as CompiledModel")  # fmt: skip


def _check_equal(expected, given, tolerance, how):
    for number, (first, second) in enumerate(zip(expected, given, strict=True)):
        if not _agree(first, second, tolerance):
            raise VerificationError(
                errors.message(
                    f"Both files must compute the same {how}, to the last bit.",
                    "Nothing was written. Keep the file as it is, and report it.",
                    output=number,
                )
            )


def check_on_arm(content, emulator, shapes=None):
    """Compares what a file computes on an emulated ARM machine with what it computes here without the default delegate.

    Args:
        content: the bytes.
        emulator: an `emulation.Emulator`.
        shapes: as for `check_same`.

    Returns:
        The larger relative error (root mean square) of the runs with and without the default delegate.

    Raises:
        VerificationError: when it does not run here or there, or computes something else there.
    """
    inputs = _ran("given", len(content), "", lambda: random_inputs(content, shapes))
    here = _ran("given", len(content), "", lambda: litert.run(content, inputs, False))
    there = _ran("given", len(content), _ARM, lambda: emulator.run(content, inputs))
    found = {name: compare(here, outputs)[1] for name, outputs in there.items()}
    wrong = [name for name, error in found.items() if not error <= _MACHINES]
    if wrong:
        expected = f"The file must compute the same{_ARM} {wrong[0]} its default delegate as here."
        fix = "Store its weights densely: tf-reweight pack leaves such files as they are."
        raise VerificationError(errors.message(expected, fix, relative_error=found[wrong[0]]))
    return max(found.values())


def _run_here(content, inputs):
    return {name: litert.run(content, inputs, delegate) for name, delegate in litert.RUNS.items()}


def random_inputs(content, given=None):
    """One array `(num, ...)` per input of a file."""
    rng = np.random.default_rng(0)
    runner = Runner(content, delegate=False, shapes=given)
    wanted = {detail["index"]: detail["shape"] for detail in runner.inputs.values()}
    details = [{**item, "shape": wanted[item["index"]]} for item in runner.input_details]
    examples = [[_random(detail, rng, scale) for detail in details] for scale in _SCALES]
    return [np.stack(arrays) for arrays in zip(*examples)]


def _ran(what, num_bytes, machine, run):
    """What `run` returns; a `VerificationError` where LiteRT refuses the file."""
    try:
        return run()
    except Unfit:
        raise  # no fault of the file
    except (ValueError, RuntimeError, TypeError) as error:
        says = " ".join(str(error).split())[:300]
        expected = f"The {what} file must run in LiteRT{machine}, with and without its default delegate; it says: {says}"
        fix = "Nothing was written. Files with operations of TensorFlow or of another maker cannot be checked here."
        raise VerificationError(errors.message(expected.rstrip(".") + ".", fix, num_bytes=num_bytes)) from error


def _random(detail, rng, scale):
    shape, dtype = tuple(int(size) for size in detail["shape"]), np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return (rng.normal(size=shape) * scale).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    quantized = bool(detail["quantization"][0])
    if quantized:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    # Plain integers are indices, mostly; every table has these.
    return rng.integers(0, 2, shape).astype(dtype)


def _agree(first, second, tolerance):
    if tolerance == 0.0:
        return first.dtype == second.dtype and first.shape == second.shape and _bits(first) == _bits(second)
    # One scale per example: inputs differ in size by design.
    return all(
        np.abs(a.astype("float64") - b).max(initial=0.0) <= tolerance * max(np.abs(a.astype("float64")).max(initial=0.0), 1e-30)
        for a, b in zip(first, second, strict=True)
    )


def _bits(array):
    # Adding zero makes a negative zero positive and changes nothing else.
    return (array + array.dtype.type(0)).tobytes() if array.dtype.kind == "f" else array.tobytes()
