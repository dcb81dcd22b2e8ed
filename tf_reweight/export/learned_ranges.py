"""The second way from learned ranges to an int8 file: litert-quantizer, with the ranges as a recipe over the float file.

`export_tflite` goes the first: TensorFlow's converter folds the rounding that `quantize` trains with into integers. Its makers
have given up quantizing there after training, and said nothing of this. Converted as a float file, the same model keeps every
rounding as a pair of operations, QUANTIZE and DEQUANTIZE, whose scales are the ranges; here they become ranges of tensors and
weights on their grid, and the rest is litert-quantizer's. `tests/test_learned_ranges.py` holds the two against each other.
"""

import re
import warnings

import numpy as np

from tf_reweight import errors
from tf_reweight.export.litert_quantizer import check_installed
from tf_reweight.tflite import constants, flatbuffer
from tf_reweight.tflite.file_graph import Graph

# They move numbers without computing: what they make has the range of what they read, and the other way round. Of SPLIT and
# UNPACK litert-quantizer makes what LiteRT refuses where a part of the outputs has a range; these stay float.
_MOVES = ("EXPAND_DIMS", "MAX_POOL_2D", "RESHAPE", "SLICE", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE")
# Their outputs have one range in integers, whatever was learned.
_FIXED = {"LOGISTIC": (0.0, 255 / 256), "SOFTMAX": (0.0, 255 / 256), "TANH": (-1.0, 127 / 128)}


def int8_of_learned(content):
    """An int8 file from the float32 file of a model that learned its ranges.

    Args:
        content: bytes of the file that `conversion.convert(model, "float32", specs)` makes of a model from `quantize`.

    Returns:
        Bytes of a file that takes and gives float32. Operations of which a range is not known stay float.

    Raises:
        ImportError: when litert-quantizer is not installed.
        ValueError: for a file without learned ranges, or a tensor that is rounded in two ways.
    """
    quantizer = check_installed()
    model = flatbuffer.read(content)
    ranges, by_channel = _taken(model)
    _drop_unused(model, ranges)
    graph = Graph(model)
    ranges = {index: ends for index, ends in enumerate(ranges) if ends is not None}
    _spread(graph, ranges)
    work = quantizer.Quantizer(bytearray(flatbuffer.write(model)))
    _add_rules(work, graph, ranges, by_channel)
    known = {
        graph.tensors[index].name.decode(): {
            "min": np.full((1, 1), low, "float32"), "max": np.full((1, 1), high, "float32")
        } for index, (low, high) in ranges.items()
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an interpreter that keeps all tensors
        made = work.quantize(known, enable_progress_bar=False, enable_progress_report=False).quantized_model
    model = flatbuffer.read(bytes(made))
    # The float output takes over the name of the tensor before it.
    graph = model.subgraphs[0]
    flatbuffer.name_ends(model)
    ends = {int(index) for index in (*graph.inputs, *graph.outputs)}
    names = {graph.tensors[index].name for index in ends}
    for index, tensor in enumerate(graph.tensors):
        if index not in ends and tensor.name in names:
            tensor.name += b"_integer"
    return flatbuffer.write(model)


def _taken(model):
    """Takes the pairs of QUANTIZE and DEQUANTIZE out of a file, in place.

    Returns:
        `(ranges, by_channel)`: for each tensor its smallest and largest number, or None; and the names of the tensors whose
        kernels have one scale per output channel.
    """
    graph, ranges, by_channel, stands_for, gone = Graph(model), [None] * len(model.subgraphs[0].tensors), set(), {}, set()
    for position, name in enumerate(graph.names):
        readers = graph.readers.get(graph.output(position), [])
        if name != "QUANTIZE" or not readers or any(graph.names[reader] != "DEQUANTIZE" for reader, _ in readers):
            continue
        source, quantization = graph.input(position, 0), graph.tensors[graph.output(position)].quantization
        values = constants.values(model, graph.tensors[source])
        if values is not None:
            _round(model, graph.tensors[source], values, quantization)
            if len(quantization.scale) > 1:
                by_channel.add(source)
        else:
            scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0])
            lowest = int(np.iinfo(graph.dtype(graph.output(position)).lower()).min)
            ends = ((lowest - zero) * scale, (lowest + 255 - zero) * scale)
            if ranges[source] not in (None, ends):
                fix = "Export it by way of the converter."
                expected = "Every tensor must be rounded in one way."
                raise ValueError(errors.message(expected, fix, tensor=graph.tensors[source].name.decode()))
            ranges[source] = ends
        stands_for |= {graph.output(reader): source for reader, _ in readers}
        gone |= {position, *(reader for reader, _ in readers)}
    if not any(ranges):
        fix = "Convert a model from `quantize` in float32."
        raise ValueError(errors.message("The file must have learned ranges.", fix, operations=graph.names[:5]))
    _rewire(model, stands_for, gone)
    _fold_kernels(model, by_channel)
    return ranges, {graph.tensors[index].name for index in by_channel}


def _round(model, tensor, values, quantization):
    """Puts a kernel on its grid, symmetric and narrow as in training."""
    scale, shape = np.asarray(quantization.scale, "float32"), [1] * values.ndim
    if len(scale) > 1:
        shape[int(quantization.quantizedDimension)] = -1
    scale = scale.reshape(shape)
    rounded = (np.clip(np.round(values / scale), -127, 127) * scale).astype("float32")
    model.buffers[tensor.buffer].data = np.frombuffer(rounded.tobytes(), "uint8")


def _rewire(model, stands_for, gone):
    """Lets operations, outputs and signatures read what was rounded; outputs keep their names."""
    graph = model.subgraphs[0]

    def source(index):
        while int(index) in stands_for:
            index = stands_for[int(index)]
        return int(index)

    for index in graph.outputs:
        before, after = graph.tensors[index], graph.tensors[source(index)]
        before.name, after.name = after.name, before.name
    graph.operators = [operator for position, operator in enumerate(graph.operators) if position not in gone]
    for operator in graph.operators:
        operator.inputs = np.array([source(index) for index in operator.inputs], "int32")
    graph.outputs = np.array([source(index) for index in graph.outputs], "int32")
    for signature in model.signatureDefs or []:
        for end in signature.outputs:
            end.tensorIndex = source(end.tensorIndex)


def _fold_kernels(model, by_channel):
    """Kernels that the file would move each time, as those of transposed convolutions, are stored as they are read; in place.

    Args:
        by_channel: set of indices of kernels with one scale per channel, which is completed.
    """
    graph, done = Graph(model), set()
    for position, name in enumerate(graph.names):
        source, made = graph.input(position, 0), graph.output(position)
        values = graph.constant(source) if name in ("EXPAND_DIMS", "RESHAPE", "SQUEEZE", "TRANSPOSE") else None
        if values is None or values.dtype != "float32":
            continue
        values = np.transpose(values, graph.constant(graph.input(position, 1))) if name == "TRANSPOSE" else values
        buffer = type(model.buffers[0])()
        buffer.data = np.frombuffer(values.tobytes(), "uint8")
        model.buffers.append(buffer)
        # What follows in the file finds a constant here.
        graph.tensors[made].buffer = len(model.buffers) - 1
        if source in by_channel:
            by_channel.add(made)
        done.add(position)
    model.subgraphs[0].operators = [operator for position, operator in enumerate(graph.operators) if position not in done]


def _drop_unused(model, ranges):
    """Drops tensors that no operation reads or makes, from a list beside them as well."""
    graph = model.subgraphs[0]
    lists = [graph.inputs, graph.outputs]
    for operator in graph.operators:
        lists += [operator.inputs, operator.outputs]
    used = sorted({int(index) for indices in lists for index in indices if index >= 0})
    place = {index: number for number, index in enumerate(used)}

    def moved(indices):
        return np.array([place.get(int(index), -1) for index in indices], "int32")

    graph.tensors, ranges[:] = [graph.tensors[index] for index in used], [ranges[index] for index in used]
    graph.inputs, graph.outputs = moved(graph.inputs), moved(graph.outputs)
    for operator in graph.operators:
        operator.inputs, operator.outputs = moved(operator.inputs), moved(operator.outputs)
    for signature in model.signatureDefs or []:
        for end in [*signature.inputs, *signature.outputs]:
            end.tensorIndex = place[int(end.tensorIndex)]
    kept = {tensor.buffer for tensor in graph.tensors} | {item.buffer for item in model.metadata or []}
    for number, buffer in enumerate(model.buffers):
        if number not in kept:
            buffer.data = None


def _spread(graph, ranges):
    """Gives ranges to what is only moved, and to outputs that have one range in integers; in place."""
    before = None
    while before != len(ranges):
        before = len(ranges)
        for position, name in enumerate(graph.names):
            if name in _FIXED:
                ranges.setdefault(graph.output(position), _FIXED[name])
            if name in _MOVES:
                ends = _computed(graph, position)
                known = [ranges[index] for index in ends if index in ranges]
                for index in ends if known else ():
                    ranges.setdefault(index, known[0])


def _computed(graph, position):
    """Indices of the float tensors that an operation reads and makes, without constants."""
    return [index for index in graph.ends(position) if graph.dtype(index) == "FLOAT32" and graph.constant(index) is None]


def _add_rules(work, graph, ranges, by_channel):
    """The recipe: integers where every range is known, kernels with one scale or one per channel, ends in floats."""
    from litert_quantizer import qtyping, recipe
    from litert_quantizer.quantizer import AlgorithmName

    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    whole = qtyping.TensorQuantizationConfig(num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.TENSORWISE)
    one_scale = qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(num_bits=8, symmetric=False),
        weight_tensor_config=whole,
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )
    for position in range(len(graph.names)):
        outputs = "".join(f"{graph.tensors[index].name.decode()};" for index in graph.made(position))
        pattern = f"^{re.escape(outputs)}$"
        computed, names = _computed(graph, position), {graph.tensors[index].name for index in graph.ends(position)}
        if any(index not in ranges for index in computed):
            work.update_quantization_recipe(pattern, everything, algorithm_key=AlgorithmName.NO_QUANTIZE)
        elif not names & by_channel:
            work.update_quantization_recipe(pattern, everything, one_scale)
    # Of two rules that fit the later one holds; one with a pattern that was there before takes its place.
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        work.update_quantization_recipe("(?:.*)", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
