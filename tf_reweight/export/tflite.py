"""`export_tflite`: convert, execute, compare, and only then write."""

import dataclasses
import os
import pathlib
import typing
from collections.abc import Sequence

import keras

from tf_reweight import errors
from tf_reweight.checks import check_flags, check_name
from tf_reweight.data.fitting import check_indices
from tf_reweight.export import doubts, samples, verification
from tf_reweight.export.backend import check_backend
from tf_reweight.export.conversion import convert
from tf_reweight.export.litert_quantizer import check_installed
from tf_reweight.export.precisions import PRECISIONS, TABLE
from tf_reweight.export.recurrent import check_recurrent
from tf_reweight.export.scopes import check_scopes
from tf_reweight.files import checked_path, write_whole
from tf_reweight.graph import random_inputs
from tf_reweight.graph.access import all_layers, quantization_of
from tf_reweight.graph.checking import check_eager, check_finite, check_model
from tf_reweight.graph.counting import count_parameters
from tf_reweight.graph.emulation import as_stored
from tf_reweight.graph.recasting import single_precision
from tf_reweight.graph.tables import check_tables
from tf_reweight.graph.walking import output_structure
from tf_reweight.kernels.held import warn_of_revived
from tf_reweight.quantization.ranges import check_exportable, is_quantized
from tf_reweight.records import Report, fields_of
from tf_reweight.tflite import apart, flatbuffer
from tf_reweight.tflite.acceleration import accelerate
from tf_reweight.tflite.comparing import VerificationError
from tf_reweight.tflite.delegation import Delegation, delegation
from tf_reweight.tflite.emulation import Emulator
from tf_reweight.tflite.inspection import summarize
from tf_reweight.tflite.sizes import sizes_of

# The same rounding moves a file's error by some per cent from one set of examples to the next.
_NOISE = 1.1
# Activations with kernels for integers, which models are trained for and chips for integers alone want: in float on demand.
_TRAINED = ("HARD_SWISH", "LEAKY_RELU", "PRELU", "RELU", "RELU6", "RELU_N1_TO_1")
# Layers whose products Keras computes in int8 or float8 where it has quantized them; what it looks up is exported as it is.
_MULTIPLYING = (keras.layers.Dense, keras.layers.EinsumDense)


@dataclasses.dataclass(frozen=True)
class ExportRecord(Report):
    """A written file and what is known of it.

    Attributes:
        path: the file.
        precision: how weights and activations are stored.
        num_bytes: its size.
        gzip_bytes: its size in a compressed download.
        apk_bytes: what it adds to an APK, where it is stored uncompressed; see `sizes.apk_size`.
        sparsity: fraction of zeros among the file's kernels, in [0, 1).
        num_ops: operations in the graph.
        float_ops: operations that compute in floating point although the precision is int8 or int16; a tuple of names.
        wider: names of kernels whose weights are stored in more bits than the precision says, since their operation cannot have
            them so or they are too small to gain.
        verification: how far it is from the Keras model.
        delegation: which operations LiteRT's delegate for CPUs runs, which fall back and why; `delegation.fully_accelerated`.
    """

    path: pathlib.Path
    precision: str
    num_bytes: int
    gzip_bytes: int
    apk_bytes: int
    sparsity: float
    num_ops: int
    float_ops: tuple[str, ...]
    wider: tuple[str, ...]
    verification: verification.Verification
    delegation: Delegation

    @property
    def made_by(self):
        """Who rounded the float model's numbers; why that one is in `precisions.Precision`."""
        return TABLE[self.precision].made_by

    def to_dict(self):
        """All figures in one flat dict, those of the verification included."""
        flat = {name: value for name, value in fields_of(self).items() if name not in ("verification", "delegation")}
        flat |= {"delegation": self.delegation.to_dict(), "fully_accelerated": self.delegation.fully_accelerated}
        flat |= {"made_by": self.made_by, "path": str(self.path), "float_ops": list(self.float_ops), "wider": list(self.wider)}
        return {**flat, **dataclasses.asdict(self.verification)}


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    precision: str = "float32",
    representative_data: typing.Any = None,
    verify_data: typing.Any = None,
    tolerance: float | None = None,
    quantized_io: bool = False,
    verify_arm: bool = False,
    classes: Sequence[bool] | None = None,
    accelerated: bool | None = None,
) -> ExportRecord:
    """Writes a Keras model as a `.tflite` that was run in LiteRT and gives the model's outputs.

    The very bytes that are written were executed before on `verify_data`, with and without the default delegate and in
    `CompiledModel`, LiteRT's newer runtime, and compared with the Keras model. The file is written whole or not at all. It
    takes one example at a time and has a signature `serving_default` with the names of the model's inputs and outputs, which
    its tensors have as well.

    Args:
        model: a built Keras model (any kind) on the TensorFlow backend; masks and wrappers are baked in, recurrent layers are
            written out step by step. Of a model with a half- or double-precision policy the float32 copy is exported, and
            compared with the model itself.
        path: where to write; must end in `.tflite`, in an existing folder.
        precision: `"float32"`; `"float16"` (half the size); `"dynamic_int8"` (int8 kernels, float activations, no data needed);
            `"int8"` (all int8, the fastest on phones; needs `representative_data`, unless the model comes from
            `quantization.quantize`, which learned its ranges in training); `"int16"` (int8 kernels and int16 activations, for
            models that int8 hurts; needs `representative_data`; slow, since LiteRT has reference kernels for it only: on
            convolutions 12 to 60 times slower than float32 where that was measured). With
            litert-quantizer installed also `"weight_int8"` and `"weight_int4"` (stored so, computed with in floats: the most
            accurate of their size) and `"dynamic_int4"` (int4 kernels, float activations).
        representative_data: examples that stand for real ones, to set the ranges: arrays `(num, ...)`, a list or a dict of them
            for several inputs, a `tf.data.Dataset`, a generator or a PyDataset, with or without labels; see
            `data.examples.take`. 100 to 500 do. A quantized model keeps its own int8 ranges and is only compared on them.
        verify_data: held-out examples to compare on, of the same kinds; default `representative_data`, or random numbers for
            float files.
        tolerance: largest accepted relative error of the outputs; default `verification.TOLERANCES[precision]`.
        quantized_io: whether an int8 or int16 file takes and gives these instead of float32.
        verify_arm: whether to run the file on an emulated ARM machine as well, see `emulation`.
        classes: for each output whether it chooses one of several classes, so that its largest entry must be the model's; None
            asks the losses and metrics that the model is compiled with; where they do not say, outputs that are probabilities
            count, and of a model that is not compiled outputs `(batch, n)` of like scale.
        accelerated: whether operations that XNNPACK, LiteRT's delegate for CPUs, has in float alone compute in float, such as
            the softmax of an int8 file; see `tflite.acceleration`. Each costs about 100 bytes. None does so where XNNPACK runs
            all of the file then, with outputs as close to the model's, but leaves ReLU and its like in integers; True wherever
            an operation gets inside; False leaves the file as it was converted.

    Returns:
        `ExportRecord`.

    Raises:
        ValueError: for bad arguments or a subclassed half-precision model, before any work; when an operation has no TFLite
            kernel, or no kernel the precision.
        ImportError: when the precision needs litert-quantizer, which is not installed.
        FileNotFoundError: when `path` has no folder, or `verify_arm` no emulator.
        VerificationError: when the file would not compute what the model does. Nothing is written then.
        OSError: when it cannot be written.

    Example:
        >>> record = export_tflite(model, "model.tflite", "int8", representative_data=data.representative(256))
        >>> record.num_bytes, record.verification.top1_agreement
    """
    check_flags(quantized_io=quantized_io, verify_arm=verify_arm)
    if accelerated is not None:
        check_flags(accelerated=accelerated)
    if classes is not None:
        verification.check_classes(classes)
    check_eager()
    path = checked_path(path)
    _check_arguments(model, precision, representative_data, tolerance, quantized_io)
    outputs = output_structure(model)
    if classes is not None and outputs is not None:
        verification.check_classes(classes, len(keras.tree.flatten(outputs)))
    warn_of_revived(model)
    given, model = model, single_precision(model)
    emulator = Emulator() if verify_arm else None
    specs, representative, held_out = _examples(given, model, representative_data, verify_data)
    converted = _converted(model, precision, specs, representative, quantized_io)
    described = summarize(converted, path)
    wider = _wider(described, precision)
    fragile = verification.is_fragile(model, precision)

    def check(content):
        return verification.verify(content, model, specs, held_out, precision, tolerance, emulator, given, classes)

    content, checked = _chosen(converted, False if fragile else accelerated, check)
    measured = None if verify_data is representative_data is None else held_out
    said = doubts.sentences(content, model, precision, specs, described.kernels, wider, representative, measured)
    checked = dataclasses.replace(checked, doubts=(*checked.doubts, *said))
    verification.say_doubts(checked)
    found = apart.delegation(content) if fragile else delegation(content)
    write_whole(path, content)
    summary = summarize(content, path)
    float_ops = summary.float_ops if TABLE[precision].needs_data else ()
    known = facts(path, content, summary, checked, found)
    return ExportRecord(precision=precision, float_ops=float_ops, wider=wider, **known)


def check_convertible(model, examples):
    """Raises where a model becomes no float32 file at all, so that hours of training do not come first.

    Args:
        model: a built Keras model on the TensorFlow backend; it stays as it is.
        examples: inputs as it takes them, which tell the sizes that it leaves open.

    Raises:
        ValueError: with the operation that has no TFLite kernel, or what else keeps it from a file.
    """
    _check_arguments(model, "float32", None, None, False)
    convert(single_precision(model), "float32", samples.input_specs(model, samples.take(model, examples, "examples")))


def _chosen(content, accelerated, check):
    """`(bytes, verification)`: the file as it was converted, or rewritten so that the delegate runs more of it.

    Args:
        content: the bytes as converted.
        accelerated: as for `export_tflite`.
        check: function from bytes to a `Verification`.
    """
    made = None if accelerated is False else _accelerated(content, () if accelerated else _TRAINED)
    if made is None or not made.in_float or not (accelerated or made.whole):
        return content, check(content)
    if accelerated:
        return made.content, check(made.content)
    try:
        fast = check(made.content)
    except VerificationError:
        return content, check(content)
    try:
        plain = check(content)
    except VerificationError:
        return made.content, fast
    return (made.content, fast) if _costs_nothing(fast, plain) else (content, plain)


def _accelerated(content, spared):
    """`accelerate`; None for a file that LiteRT does not load with its delegate, of which `check` says why."""
    try:
        return accelerate(content, spared=spared)
    except ValueError:
        return None


def _costs_nothing(fast, plain):
    agree = plain.top1_agreement is None or fast.top1_agreement >= plain.top1_agreement
    return agree and fast.relative_error <= _NOISE * plain.relative_error


def _examples(given, model, representative_data, verify_data):
    """What goes into the file, and the examples for it.

    Args:
        given: the model of the user, who has the examples for it.
        model: the one that is converted.
        representative_data, verify_data: as for `export_tflite`.

    Returns:
        `(specs, representative, held_out)`: the inputs, examples that set ranges, or None, and those to compare on, which are
        random where there are no others.
    """
    representative, held_out = _taken(given, representative_data, verify_data)
    specs = samples.input_specs(model, held_out if held_out is not None else representative)
    if representative is not None:
        representative = samples.checked(representative, specs, "representative_data")
        check_indices(given, representative, "representative_data")
    if held_out is not None:
        held_out = samples.checked(held_out, specs, "verify_data")
        check_indices(given, held_out, "verify_data")
        return specs, representative, held_out
    return specs, representative, random_inputs.inputs(model, specs, num=8) if representative is None else representative


def _taken(model, representative_data, verify_data):
    """Both sources of examples as lists of arrays, or None; each is read once, and one that is given twice too."""
    representative = held_out = None
    if representative_data is not None:
        representative = samples.take(model, representative_data, "representative_data")
    if verify_data is not None:
        same = verify_data is representative_data
        held_out = representative if same else samples.take(model, verify_data, "verify_data")
    return representative, held_out


def facts(path, content, summary, checked, found):
    """The fields of an `ExportRecord` that every file has, whatever its precision."""
    known = {"sparsity": summary.sparsity, "num_ops": summary.num_ops, "verification": checked, "delegation": found}
    return {"path": path, **sizes_of(content), **known}


def _converted(model, precision, specs, representative, quantized_io):
    """The file's bytes, with the ranges a quantized model learned where the converter takes them."""
    # It takes learned ranges of 8 bits only; at 16 those it finds itself are as good.
    learned = is_quantized(model) and precision == "int8"
    source = as_stored(model) if is_quantized(model) and not learned else model
    calibrate_on = representative if TABLE[precision].needs_data and not learned else None
    return convert(source, precision, specs, calibrate_on, quantized_io)


def _wider(summary, precision):
    """Names of kernels with more bits than asked for.

    Raises:
        ValueError: when no kernel has them.
    """
    wanted = TABLE[precision].weight_bits
    wider = tuple(kernel.name for kernel in summary.kernels if doubts.bits_of(kernel.dtype) > wanted)
    if summary.kernels and len(wider) == len(summary.kernels) and TABLE[precision].by_quantizer:
        fix = "4 bits fit Dense, Conv2D and Embedding, 8 bits also depthwise and transposed convolutions: choose another."
        kinds = sorted({kernel.used_by for kernel in summary.kernels})
        expected = f"At least one operation must have {wanted}-bit weights."
        raise ValueError(errors.message(expected, fix, precision=precision, operations=kinds))
    return wider


def _check_not_quantized_by_keras(model):
    """Raises for kernels that Keras itself has quantized to products the converter does not know."""
    found = {layer.name: quantization_of(layer) for layer in all_layers(model) if isinstance(layer, _MULTIPLYING)}
    found = {name: mode for name, mode in found.items() if mode in ("int8", "float8")}
    if found:
        expected = "No layer may be quantized by Keras to products of int8 or float8, which files have no operation for."
        fix = "Use the model from before `model.quantize`: `precision` makes integer files of it."
        raise ValueError(errors.message(expected, fix, layers=dict(list(found.items())[:5])))


def _check_arguments(model, precision, representative_data, tolerance, quantized_io):
    check_name("precision", precision, PRECISIONS)
    check_backend("`export_tflite`")
    check_model(model)
    _check_not_quantized_by_keras(model)
    flatbuffer.check_size(count_parameters(model) * TABLE[precision].weight_bits // 8, model.name)
    if TABLE[precision].by_quantizer:
        check_installed()
    if is_quantized(model):
        check_exportable(model, precision)
    if (precision == "int16" or not is_quantized(model)) and TABLE[precision].needs_data and representative_data is None:
        fix = "Pass some hundred real inputs, for example data.representative(256), or train with `quantize` first."
        raise ValueError(errors.message(f"{precision} needs `representative_data`.", fix, representative_data=None))
    if quantized_io and not TABLE[precision].needs_data:
        raise ValueError(errors.message("`quantized_io` is for int8 and int16 files.", "Leave it out.", precision=precision))
    verification.check_tolerance(tolerance)
    check_recurrent(model)
    check_tables(model)
    check_scopes(model)
    check_finite(model)
