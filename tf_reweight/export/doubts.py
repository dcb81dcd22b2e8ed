"""What is doubtful about a file that computes what its model does, in sentences for its user."""

from tf_reweight.data import varying
from tf_reweight.export.conversion import convert
from tf_reweight.export.precisions import TABLE
from tf_reweight.export.verification import TOLERANCES, keras_outputs
from tf_reweight.graph.counting import count_parameters
from tf_reweight.graph.emulation import as_stored
from tf_reweight.quantization import small_channels
from tf_reweight.quantization.ranges import is_quantized
from tf_reweight.tflite import fallbacks
from tf_reweight.tflite.comparing import compare

_SLOW = "LiteRT has reference kernels alone for int16"
# Bytes of a file of whose size nobody complains.
_SMALL = 16_384
# Kernels of fewer weights stay in floats where ranges are measured while the file runs.
_LEAST_WEIGHTS = 1024
# What "weight_int8" takes, however small; it wants one such kernel, and leaves others as they are.
_STORED_IN_8_BITS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"}


def sentences(content, model, precision, specs, kernels, wider, representative, held_out):
    """All that is doubtful, a tuple of sentences.

    Args:
        content: the file's bytes.
        model, precision, specs: what it was made of, and its inputs.
        kernels: what is stored of each kernel.
        wider: names of those that have more bits than was asked for.
        representative, held_out: examples as lists of arrays; None where there were none, random numbers included.
    """
    return (
        *_slow(precision, kernels),
        *_alike(precision, representative, held_out),
        *_still(precision, model, representative),
        *_lost(model, held_out),
        *(_all_wider(kernels, wider) if precision == "dynamic_int8" else ()),
        *(_in_float(kernels, wider, content) if TABLE[precision].needs_data else ()),
        *_cut_off(model, precision, held_out),
        *_larger(content, model, precision, specs),
    )


def is_of_time(sentence):
    """Whether a sentence guesses at the time that a file takes, which whoever measured it need not."""
    return sentence.startswith(_SLOW)


def _slow(precision, kernels):
    """A sentence about the time of an `int16` file."""
    if precision != "int16":
        return ()
    convolves = any("CONV" in kernel.used_by for kernel in kernels)
    much = f", and convolutions are {fallbacks.SLOW_CONVOLUTIONS}" if convolves else ", slower than those for float32"
    return (f"{_SLOW}{much}: `benchmark` tells it of this file here.",)


def bits_of(dtype):
    """Bits of a file's type of numbers: 4 of `"INT4"`."""
    return int(dtype.lstrip("UINTFLOA"))


def _alike(precision, representative, held_out):
    """A sentence where the examples of an integer file are one and the same: they tell nothing of others.

    One alone to compare on is what was wanted; ranges of one are those of no other.
    """
    if not TABLE[precision].needs_data:
        return ()
    given = {"representative_data": representative, "verify_data": held_out}
    alike = [name for name, arrays in given.items() if arrays is not None and varying.are_alike(arrays)]
    if alike == ["verify_data"] and len(held_out[0]) == 1:
        return ()
    if not alike:
        return ()
    return (
        f"All examples in {' and '.join(alike)} are one and the same: what the file computes for others was neither measured "
        "nor compared. Pass a hundred real ones.",
    )


def _lost(model, held_out):
    """A sentence where small channels are lost in the quantized model itself, which the file is compared with."""
    said = small_channels.of_outputs(model, held_out) if is_quantized(model) and held_out is not None else None
    return () if said is None else (said,)


def _still(precision, model, representative):
    """A sentence where the model's outputs hardly differ over the examples that set the ranges of a file."""
    if not TABLE[precision].needs_data or representative is None or is_quantized(model) or varying.are_alike(representative):
        return ()
    said = varying.of_outputs("representative_data", keras_outputs(model, varying.some(representative)))
    return () if said is None else (said,)


def _all_wider(kernels, wider):
    """A sentence where no kernel of a `dynamic_int8` file has the bits that were asked for."""
    if not wider or len(wider) < len(kernels):
        return ()
    if all(kernel.num_weights < _LEAST_WEIGHTS for kernel in kernels):
        instead = '. Try "weight_int8"' if {kernel.used_by for kernel in kernels} & _STORED_IN_8_BITS else ""
        why = f"the converter leaves kernels of less than {_LEAST_WEIGHTS:,} weights in floats{instead}"
    else:
        why = f"the converter leaves {', '.join(sorted({kernel.used_by for kernel in kernels}))} in floats"
    return (f"No kernel has the bits of dynamic_int8: {why}.",)


def _in_float(kernels, wider, content):
    """A sentence where kernels that stay in floats are most of an integer file."""
    left = sorted((kernel for kernel in kernels if kernel.name in wider), key=lambda kernel: -kernel.num_weights)
    num_bytes = sum(kernel.num_weights * bits_of(kernel.dtype) // 8 for kernel in left)
    if len(content) <= _SMALL or 2 * num_bytes < len(content):
        return ()
    return (
        f"{num_bytes:,} of its {len(content):,} bytes are kernels in floats, the largest {left[0].name}. Where branches of "
        "unlike scale are joined before them, a trained BatchNormalization in each branch brings them to integers; "
        "dynamic_int8 stores most kernels in integers whatever they read.",
    )


def _cut_off(model, precision, held_out):
    """A sentence where the learned ranges of a quantized model do not hold what it computes for the examples.

    A file is compared with the model that rounds and cuts off as it does, so that both may be wrong together.
    """
    if held_out is None or precision != "int8" or not is_quantized(model):
        return ()
    error = compare(keras_outputs(as_stored(model), held_out), keras_outputs(model, held_out))[1]
    if error <= TOLERANCES[precision]:
        return ()
    return (
        f"Rounded activations move the model's outputs by {error:.0%} of their scale on the examples: values may lie outside "
        "of the ranges that it learned. Train on with examples like these, or set them by "
        "`tf_reweight.quantization.calibrate(model, examples)`.",
    )


def _larger(content, model, precision, specs):
    """A sentence where a file is larger than the one in float32, as of layers that are written out step by step."""
    # Small files are mostly descriptions of their graph; others are converted again only where they may well be larger.
    if precision == "float32" or len(content) <= max(_SMALL, 4 * count_parameters(model)):
        return ()
    plain = len(convert(as_stored(model) if is_quantized(model) else model, "float32", specs))
    if len(content) <= plain:
        return ()
    return (
        f"In {precision} the file has {len(content):,} bytes, more than in float32 ({plain:,}): it describes more operations "
        "and ranges than it saves in weights. Ship the float32 file where size counts.",
    )
