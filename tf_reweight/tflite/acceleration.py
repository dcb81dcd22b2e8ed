"""Rewriting a file so that XNNPACK runs it whole: what it has no integer kernel of is computed in float beside the integers.

Two rewritings, tried on the file and kept where the delegate takes the operation then. An int8 operation such as SOFTMAX reads
dequantized values and its float output is quantized again; conversions that cancel out fall away. A kernel that reads float
activations and int8 weights, which LiteRT rounds on the way, reads its weights through a DEQUANTIZE, which the delegate unfolds
once. Both are at least as accurate as what they replace, and weights do not change by a bit.
"""

import copy
import dataclasses

from tf_reweight.tflite import flatbuffer
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.fallbacks import WEIGHTED
from tf_reweight.tflite.file_graph import Graph
from tf_reweight.tflite.metadata import attach, attached_files
from tf_reweight.tflite.partitions import outside_of

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


@dataclasses.dataclass(frozen=True)
class Accelerated:
    """A rewritten file.

    Attributes:
        content: the bytes; those that were given where nothing changes.
        in_float: names of operations that compute in float now and did not before; a tuple, one entry for each.
        positions: of these operations in the given file.
        whole: whether the delegate runs every operation of the rewritten file.
    """

    content: bytes
    in_float: tuple[str, ...]
    positions: tuple[int, ...]
    whole: bool


def accelerate(content, shapes=None, spared=()):
    """Computes in float what XNNPACK does not run in integers, where it does run it in float.

    Args:
        content: the bytes of a `.tflite`.
        shapes: of inputs whose sizes the file leaves open: one whole shape, or a dict by input name.
        spared: names of operations that stay in integers all the same.

    Returns:
        `Accelerated`.

    Raises:
        ValueError: for a file that LiteRT does not load.

    Example:
        >>> accelerate(pathlib.Path("model.tflite").read_bytes()).in_float
    """
    outside, _ = outside_of(Runner(content, shapes=shapes))
    model = flatbuffer.parse(content)
    graph = Graph(model)
    chosen = {position for position in outside if graph.names[position] not in spared and _is_candidate(graph, position)}
    chosen = chosen if len(model.subgraphs) == 1 else set()
    while chosen:
        made, origins = _Rewriter(model, chosen).finish()
        made = attach(made, attached_files(content))
        try:
            still, _ = outside_of(Runner(made, shapes=shapes))
        except ValueError:
            # LiteRT has no float kernel of one of them with these options.
            break
        refused = {origins[position] for position in still} & chosen
        if not refused:
            positions = tuple(sorted(chosen))
            return Accelerated(made, tuple(graph.names[position] for position in positions), positions, not still)
        chosen -= refused
    return Accelerated(content, (), (), not outside)


def _is_candidate(graph, position):
    if any(graph.tensors[index].sparsity is not None or graph.tensors[index].isVariable for index in graph.ends(position)):
        # Sparse values must be unfolded before they are dequantized, and a state stays what it is between two runs.
        return False
    return _reads_rounded_weights(graph, position) or _computes_in_integers(graph, position)


def _reads_rounded_weights(graph, position):
    weights = graph.input(position, 1)
    return (
        graph.names[position] in WEIGHTED
        and graph.dtype(weights) == "INT8"
        and graph.dtype(graph.output(position)) == "FLOAT32"
        and graph.constant(weights) is not None
    )


def _computes_in_integers(graph, position):
    """Whether all that an operation reads and makes is quantized, but for sizes, axes and the like."""
    if graph.names[position] in WEIGHTED + _CONVERSIONS:
        return False
    made = graph.made(position)
    return bool(made) and all(graph.is_quantized(index) for index in made) and bool(_quantized_inputs(graph, position))


def _quantized_inputs(graph, position):
    return [index for index in graph.read(position) if graph.is_quantized(index)]


class _Rewriter:
    """Writes one file in which chosen operations compute in float.

    Args:
        model: a `ModelT`, which stays as it is.
        chosen: positions of the operations.
    """

    def __init__(self, model, chosen):
        self.model = copy.copy(model)
        self.model.operatorCodes = list(model.operatorCodes)
        self.model.subgraphs = [copy.copy(model.subgraphs[0])]
        self.main = self.model.subgraphs[0]
        self.main.tensors = list(self.main.tensors)
        self.graph, self.chosen = Graph(model), chosen
        self.floats = {}  # the float tensor that has the values of a quantized one
        self.dropped = set()
        self.written = []  # (operator, position in the given file)

    def finish(self):
        """`(bytes, origins)`: the position in the given file that each operation stands for."""
        for position in self.chosen:
            if _computes_in_integers(self.graph, position):
                for index in self.graph.made(position):
                    self._merge_reader(index)
        for position, operator in enumerate(self.graph.operators):
            if position in self.dropped:
                continue
            if position not in self.chosen:
                self.written.append((operator, position))
            elif _reads_rounded_weights(self.graph, position):
                self._with_unfolded_weights(position, operator)
            else:
                self._in_float(position, operator)
        self._drop_unread()
        self.main.operators = [operator for operator, _ in self.written]
        return flatbuffer.write(self.model), [position for _, position in self.written]

    def _merge_reader(self, index):
        """Lets an operation write the float tensor that a DEQUANTIZE behind it makes, which falls away."""
        readers = [reader for reader, _ in self.graph.readers.get(index, []) if self.graph.names[reader] == "DEQUANTIZE"]
        if readers:
            self.floats[index] = self.graph.output(readers[0])
            self.dropped.add(readers[0])

    def _with_unfolded_weights(self, position, operator):
        weights = self.graph.input(position, 1)
        made = copy.copy(operator)
        made.inputs = [self._float_of(weights, position) if index == weights else index for index in operator.inputs]
        self.written.append((made, position))

    def _in_float(self, position, operator):
        made = copy.copy(operator)
        quantized = set(_quantized_inputs(self.graph, position))
        made.inputs = [self._float_of(index, position) if index in quantized else index for index in operator.inputs]
        made.outputs = [self._float_output(index) for index in self.graph.made(position)]
        self.written.append((made, position))
        for index, value in zip(self.graph.made(position), made.outputs):
            if self._is_needed(index):
                self._convert("QUANTIZE", value, index, position)

    def _float_output(self, index):
        if index not in self.floats:
            self.floats[index] = self._new_tensor(index)
        return self.floats[index]

    def _is_needed(self, index):
        """Whether anything reads a quantized tensor that is left as it is."""
        if index in self.graph.outputs:
            return True
        readers = [reader for reader, _ in self.graph.readers.get(index, [])]
        return any(
            reader not in self.dropped and not (reader in self.chosen and _computes_in_integers(self.graph, reader))
            for reader in readers
        )

    def _float_of(self, index, position):
        """The float tensor with the values of a quantized one, converted here where there is none yet."""
        if index not in self.floats:
            source = self._before_rounding(index)
            self.floats[index] = self._new_tensor(index) if source is None else source
            if source is None:
                self._convert("DEQUANTIZE", index, self.floats[index], position)
        return self.floats[index]

    def _before_rounding(self, index):
        """The float tensor that a QUANTIZE makes a quantized one of; None for those that are computed in integers."""
        if self.graph.maker(index) != "QUANTIZE":
            return None
        source = self.graph.input(self.graph.makers[index], 0)
        return source if self.graph.dtype(source) == "FLOAT32" else None

    def _new_tensor(self, index):
        made = copy.copy(self.graph.tensors[index])
        made.type, made.quantization, made.sparsity = flatbuffer.schema().TensorType.FLOAT32, None, None
        made.name, made.buffer = (made.name or b"") + b"_float", self._empty_buffer()
        self.main.tensors.append(made)
        return len(self.main.tensors) - 1

    def _empty_buffer(self):
        """Buffer 0 is empty by the format; files whose buffer 0 is not get another."""
        if self.model.buffers[0].data is None or not len(self.model.buffers[0].data):
            return 0
        self.model.buffers = [*self.model.buffers, flatbuffer.schema().BufferT()]
        return len(self.model.buffers) - 1

    def _convert(self, name, source, target, position):
        schema = flatbuffer.schema()
        made = schema.OperatorT()
        made.opcodeIndex = self._code(name)
        made.inputs, made.outputs = [source], [target]
        kinds = {"QUANTIZE": (schema.BuiltinOptions.QuantizeOptions, schema.QuantizeOptionsT),
                 "DEQUANTIZE": (schema.BuiltinOptions.DequantizeOptions, schema.DequantizeOptionsT)}  # fmt: skip
        made.builtinOptionsType, options = kinds[name]
        made.builtinOptions = options()
        self.written.append((made, position))

    def _code(self, name):
        number = vars(flatbuffer.schema().BuiltinOperator)[name]
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
                return index
        code = flatbuffer.schema().OperatorCodeT()
        # Version 2 of both knows int8, and unfolding per channel is version 5 of DEQUANTIZE.
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = 5 if name == "DEQUANTIZE" else 2
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def _drop_unread(self):
        """Takes away conversions whose output nothing reads any more."""
        read = {int(index) for operator, _ in self.written for index in operator.inputs} | set(self.graph.outputs)
        kept = []
        for operator, position in self.written:
            name = flatbuffer.op_name(self.model, operator)
            if name not in _CONVERSIONS or int(operator.outputs[0]) in read:
                kept.append((operator, position))
        self.written = kept
