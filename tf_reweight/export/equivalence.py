"""Whether two `.tflite` files compute the same, found by running both."""

import platform

import numpy as np

from tf_reweight import errors
from tf_reweight.export.verification import VerificationError

# Powers of two, so that images in [0, 1] as well as in [0, 255] are met.
_SCALES = (1.0, 1.0, 4.0, 64.0)
_SUMMATION = 1e-4


def check_same(before, after, reordered=False):
    """Runs two files on the same random inputs, with and without the default delegate.

    Args:
        before: bytes of the file that is known to be right.
        after: bytes of the other one.
        reordered: whether sparse kernels may run the second file on an ARM machine; they sum in another order, so that 1e-4 of
            the outputs' scale is allowed there. Everywhere else every bit must agree, but for the sign of zeros.

    Raises:
        VerificationError: when one of them does not run, or their outputs differ.
    """
    for delegate in (True, False):
        outputs = [_outputs(content, delegate, what) for content, what in ((before, "given"), (after, "packed"))]
        tolerance = _SUMMATION if reordered and delegate and platform.machine() not in ("x86_64", "AMD64") else 0.0
        for number, (first, second) in enumerate(zip(*outputs)):
            if not _agree(first, second, tolerance):
                how = "with" if delegate else "without"
                raise VerificationError(
                    errors.message(
                        f"Both files must compute the same {how} the default delegate, to the last bit.",
                        "Nothing was written. Keep the file as it is, and report it.",
                        output=number,
                    )
                )


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


def _outputs(content, delegate, what):
    """One list per output, of its raw arrays, one per random input."""
    from ai_edge_litert import interpreter as litert

    resolvers = litert.OpResolverType
    resolver = resolvers.AUTO if delegate else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    rng = np.random.default_rng(0)
    try:
        interpreter = litert.Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        made = [[] for _ in interpreter.get_output_details()]
        for scale in _SCALES:
            for detail in interpreter.get_input_details():
                interpreter.set_tensor(detail["index"], _random(detail, rng, scale))
            interpreter.invoke()
            for arrays, detail in zip(made, interpreter.get_output_details()):
                arrays.append(interpreter.get_tensor(detail["index"]))
    except (ValueError, RuntimeError, TypeError) as error:
        how = "with" if delegate else "without"
        says = " ".join(str(error).split())[:300]
        expected = f"The {what} file must run in LiteRT {how} its default delegate; it says: {says}"
        fix = "Nothing was written. Files with operations of TensorFlow or of another maker cannot be checked here."
        raise VerificationError(errors.message(expected.rstrip(".") + ".", fix, num_bytes=len(content))) from error
    return made


def _agree(first, second, tolerance):
    if tolerance == 0.0:
        return all(
            a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b) for a, b in zip(first, second, strict=True)
        )
    return all(
        np.abs(a.astype("float64") - b).max(initial=0.0) <= tolerance * max(np.abs(a.astype("float64")).max(initial=0.0), 1e-30)
        for a, b in zip(first, second, strict=True)
    )


def _bits(array):
    # Adding zero makes a negative zero positive and changes nothing else.
    return (array + array.dtype.type(0)).tobytes() if array.dtype.kind == "f" else array.tobytes()
