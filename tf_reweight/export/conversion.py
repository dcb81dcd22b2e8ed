"""The converter, with a graph phones like: one example at a time, named inputs and outputs, built-in operations only."""

import contextlib
import pathlib
import re
import tempfile

import keras

from tf_reweight import errors, files
from tf_reweight.data.examples import packed
from tf_reweight.export import converter, joins, scales
from tf_reweight.export.litert_quantizer import requantize
from tf_reweight.export.one_hot import compared
from tf_reweight.export.precisions import TABLE
from tf_reweight.export.recurrent import recurrent_layers, unrolled
from tf_reweight.export.samples import identifiers
from tf_reweight.export.scopes import check_scopes
from tf_reweight.graph import plain_argmax
from tf_reweight.graph.access import all_layers
from tf_reweight.graph.walking import output_keys
from tf_reweight.quantization.ranges import exporting
from tf_reweight.tflite import flatbuffer


# Runs of the converter's second step, of which one in ten leaves floats of some recurrent layers.
_TRIES = 6


class _Endless(ValueError):
    """A model whose values are infinite on the examples."""


def output_names(model, num_outputs):
    """The names of the outputs in the file's signature: the keys of those in a dict, else the names of their layers."""
    # A Sequential knows its output only as that of its last layer.
    names = [model.layers[-1].name] if isinstance(model, keras.Sequential) else getattr(model, "output_names", None) or []
    names = names if len(names) == num_outputs else [f"output_{i}" for i in range(num_outputs)]
    return identifiers([key or name for key, name in zip(output_keys(model, num_outputs), names)])


def call(model, arrays):
    """Runs a Keras model on a list of input tensors and returns a list of outputs, in the order of its structure."""
    return keras.tree.flatten(model(packed(model, list(arrays)), training=False))


def convert(model, precision, specs, representative=None, quantized_io=False):
    """The bytes of a `.tflite`.

    Args:
        model: a built Keras model on the TensorFlow backend.
        precision: one of `precisions.PRECISIONS`.
        specs: its inputs, from `samples.input_specs`.
        representative: list of arrays, one per input, for precisions that need data.
        quantized_io: whether an integer file takes and gives integers instead of float32.

    Raises:
        ValueError: when an operation of the model has no TFLite kernel, or a name is none for TensorFlow.
    """
    check_scopes(model)
    if TABLE[precision].by_quantizer:
        return requantize(convert(model, "float32", specs), precision)
    import tensorflow as tf

    names = identifiers([spec.name for spec in specs])
    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for spec, name in zip(specs, names)]

    module = tf.Module()
    # The variables must hang on what is saved, or the converter finds none.
    module.weights = [variable.value for variable in model.variables]

    # Without AutoGraph, which rewrites the source of all that is called: Keras keeps it from the code of layers.
    @tf.function(input_signature=signature, autograph=False)
    def serve(*inputs):
        with unrolled(model):
            outputs = call(model, inputs)
        return dict(zip(output_names(model, len(outputs)), outputs))

    module.serve = serve
    settings = {"precision": precision, "names": names, "quantized_io": quantized_io, "needs_data": TABLE[precision].needs_data}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with exporting(model), plain_argmax.plain(), compared() if TABLE[precision].needs_data else contextlib.nullcontext():
            traced = serve.get_concrete_function()
        with files.said(folder / "saved", files.OF_TEMPORARY):
            tf.saved_model.save(module, str(folder / "saved"), signatures={"serving_default": traced})
        # In integers the converter aborts on recurrent layers whose sequences are padded, and takes its process along.
        apart = TABLE[precision].needs_data and recurrent_layers(model)
        try:
            with converter.Apart() as process:
                steps = process if apart else converter
                return _named(scales.widened(_converted(folder, settings, representative, steps, process)))
        except files.NotWritten:
            raise
        except _Endless as error:
            raise ValueError(str(error)) from error
        except converter.ConverterDied as error:
            raise ValueError(_obituary(error, precision)) from error
        except Exception as error:  # The converter raises types of its own that cannot be imported.
            raise ValueError(_explain(error, precision, model)) from error


def _converted(folder, settings, representative, steps, process):
    """The bytes of the file; with ranges from data in two steps, between which joins of unlike scale are told.

    Args:
        folder, settings, representative: as of `converter.convert`.
        steps: what has both steps, `converter` or the `process`.
        process: a `converter.Apart`, for a second step that may die.
    """
    calibrate_only = settings["precision"] == "int8" and representative is not None
    settings = {**settings, "calibrate_only": calibrate_only}
    content = steps.convert(folder, settings, representative)
    if not calibrate_only:
        return joins.unmarked(content)
    calibrated, hidden = joins.hide(content, settings["quantized_io"])
    with files.said(folder / converter.CALIBRATED, files.OF_TEMPORARY):
        (folder / converter.CALIBRATED).write_bytes(calibrated)
    endless = scales.endless(calibrated)
    try:
        # The converter may die of ranges without an end.
        quantize = process.quantize if endless else steps.quantize
        return joins.restored(_in_integers(quantize, folder, settings, representative), hidden)
    except converter.ConverterDied as error:
        if not endless:
            raise
        raise _Endless(_without_end(error, endless)) from error


def _in_integers(quantize, *arguments):
    """What the converter's second step gives; of the two files that it may make of the same bytes the one in integers.

    Of 30 runs on one calibrated LSTM 3 left the first SPLIT in floats. Where a SPLIT cannot be of integers, all tries say so.
    """
    content = quantize(*arguments)
    for _ in range(_TRIES - 1):
        if not _has_float_split(content):
            break
        content = quantize(*arguments)
    return content


def _has_float_split(content):
    model = flatbuffer.read(content)
    pairs = [(graph, operator) for graph in model.subgraphs for operator in graph.operators]
    splits = [(graph, operator) for graph, operator in pairs if flatbuffer.op_name(model, operator) == "SPLIT"]
    return any(flatbuffer.dtype_name(graph.tensors[operator.outputs[0]]) == "FLOAT32" for graph, operator in splits)


def _named(content):
    """The same file with short names; inputs and outputs have the signature's also where there is no signature to ask."""
    model = flatbuffer.read(content)
    flatbuffer.name_ends(model)
    flatbuffer.shorten_names(model)
    return flatbuffer.write(model)


def _explain(error, precision, model):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("recorded during calibration" in line for line in lines):
        expected = f"The converter must find a range for every tensor, and of integers it finds none in {precision}."
        fix = 'Choose "int8", where indices stay as they are, or "dynamic_int8".'
        return errors.message(expected, fix, precision=precision, says=lines[0][:200])
    unknown = re.findall(r"^(?:TF Select|Flex|Custom) ops: (.+)$", str(error), re.MULTILINE)
    if unknown:
        operations = sorted({name for names in unknown for name in names.split(", ")})
        return errors.message(
            "Every operation of the model must have a TFLite kernel.",
            "Replace what makes these operations, or leave that part to the app and give the model its result as an input.",
            precision=precision,
            operations=operations,
            layers=_layers_named(str(error), model),
        )
    telling = [line for line in lines if "tf." in line or "Flex" in line or "custom" in line.lower()] or lines or [repr(error)]
    # Where it comes from fills most of the line, and what is wrong stands at its end.
    said = re.sub(r"^.*(?='tf\.\w+' op )", "", telling[0])[:300].rstrip(".")
    return errors.message(
        f"The converter must take every operation of the model; it says: {said}.",
        "Replace that operation; lengths of sequences must be known when the model is built, and axes of size one are a cause.",
        precision=precision,
    )


def _layers_named(text, model):
    """Names of the layers of which the converter says where its operations come from: `"<scopes>/<operation>@<function>"`."""
    known, found = {layer.name for layer in all_layers(model)}, []
    for scopes in re.findall(r'"([^"@]+)/[^"@/]+@__inference', text):
        # Keras makes the name of a scope that it opens again unique by a number.
        names = [re.sub(r"_\d+$", "", scope) for scope in scopes.split("/")]
        found += [name for name in reversed(names) if name in known][:1] or [scopes]
    return list(dict.fromkeys(found))


def _without_end(error, endless):
    return errors.message(
        f"Values between layers must be finite on the examples; the converter's process died of {error}.",
        "Bound them before a logarithm or a division, as log(maximum(x, 1e-6)), scale the inputs, or choose a precision with "
        'activations in floats, such as "dynamic_int8".',
        infinite=list(endless[:5]),
    )


def _obituary(error, precision):
    return errors.message(
        f"The converter must survive the model; its process died of {error}.",
        'Nothing was written. Recurrent layers on padded or masked sequences do this in integers: choose "dynamic_int8" or '
        '"weight_int8", which keep activations in floats, or train with `quantize` first.',
        precision=precision,
    )
