"""Weights of 4, 8 or 16 bits in an otherwise float file, by way of litert-quantizer (the extra `quantizer`)."""

import contextlib
import io
import re

from tf_reweight import errors
from tf_reweight.tflite import constants, flatbuffer

# What can be asked for, per operation or for all of them.
WEIGHT_PRECISIONS = ("float16", "weight_int8", "weight_int4", "dynamic_int8", "dynamic_int4")
# litert-quantizer's own error for operations it does not know is a KeyError or ValueError, depending on where it notices; where
# it names what it has to double it is a TypeError, since it mixes text and bytes.
_FAILURES = (ValueError, KeyError, RuntimeError, TypeError)


def requantize(content, precisions):
    """A float32 file with its weights stored, and where asked for computed, in fewer bits.

    Weights are rounded symmetrically with one step per output channel, so that zeros stay exactly zero.

    Args:
        content: bytes of a float32 `.tflite`.
        precisions: one of `WEIGHT_PRECISIONS` for every operation, or a mapping of the name of an operation's output tensor to
            one of them; operations that are not named stay as they are. `weight_*` computes in floating point, `dynamic_*` in
            integers where LiteRT has the kernel. What an operation cannot have in 4 bits, it has in 8. Operations that read
            the same kernel, as the steps of a recurrent layer do, have the precision of the one that is named.

    Returns:
        Bytes, with all weights inside the flatbuffer.

    Raises:
        ImportError: when litert-quantizer is not installed.
        ValueError: for an unknown precision, two precisions for one kernel, or a file it cannot work on.

    Example:
        >>> requantize(content, "weight_int4")
    """
    named = {None: precisions} if isinstance(precisions, str) else precisions
    for precision in named.values():
        if precision not in WEIGHT_PRECISIONS:
            raise ValueError(errors.unknown("precision", precision, WEIGHT_PRECISIONS))
    quantizer = check_installed()
    work = quantizer.Quantizer(bytearray(content))
    named = named if isinstance(precisions, str) else _of_whole_kernels(content, named)
    for name, precision in named.items():
        _add_rules(quantizer, work, name, precision)
    if not named:
        return content
    try:
        # Of large files it shows a progress bar all the same.
        with contextlib.redirect_stderr(io.StringIO()):
            made = bytes(work.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)
    except _FAILURES as error:
        says = " ".join(str(error).split())[:300].rstrip(".")
        expected = f"litert-quantizer must be able to work on the file; it says: {says}."
        raise ValueError(errors.message(expected, "Choose another precision.", precision=precisions)) from error
    # It puts large weights behind the flatbuffer, where few tools look for them.
    return flatbuffer.write(flatbuffer.read(made))


def _of_whole_kernels(content, named):
    """The precisions by operation, those that read the kernel of a named one among them."""
    found = dict(named)
    for outputs in readers_of_kernels(content):
        asked = {name: named[name] for name in outputs if name in named}
        if len(set(asked.values())) > 1:
            fix = "Name one of them, or give all the same."
            raise ValueError(errors.message("Operations that read one kernel must have one precision.", fix, precisions=asked))
        found |= dict.fromkeys(outputs if asked else (), next(iter(asked.values()), None))
    return found


def readers_of_kernels(content):
    """Lists of the names of the outputs of the operations that read a kernel, one list for each kernel of a file.

    Args:
        content: bytes of a `.tflite`.
    """
    model, readers = flatbuffer.parse(content), {}
    for operator, kernel, _ in constants.kernels(model):
        output = model.subgraphs[0].tensors[operator.outputs[0]].name.decode()
        readers.setdefault(kernel.buffer, []).append(output)
    return list(readers.values())


def check_installed():
    """The module of litert-quantizer.

    Raises:
        ImportError: when it is not installed.
    """
    try:
        from litert_quantizer import quantizer
    except ImportError as error:
        fix = 'Install it with pip install "tf-reweight[quantizer]"; ai-edge-quantizer, its older name, is not used any more.'
        raise ImportError(errors.message("This precision needs litert-quantizer.", fix, litert_quantizer=None)) from error
    return quantizer


def _add_rules(quantizer, work, name, precision):
    """Adds what the recipe says of one operation, or (name None) of all of them."""
    from litert_quantizer import qtyping

    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    pattern = ".*" if name is None else f"^{re.escape(name)};$"
    if precision == "float16":
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        work.update_quantization_recipe(pattern, everything, config, quantizer.AlgorithmName.FLOAT_CASTING)
        return
    kind, bits = precision.split("_int")
    add = work.add_weight_only_config if kind == "weight" else work.add_dynamic_config
    add(pattern, everything, 8)
    if bits == "4":
        # Of two rules that fit an operation the later one holds, where it can. The same pattern would replace the first.
        add(f"(?:{pattern})", everything, 4)
