"""Joins of tensors of unlike scale: kept in float in an otherwise integer file.

An integer file has all inputs of a concatenation and its output in one range. Boxes in pixels beside scores in 0..1 leave the
scores one or two of the 256 values. In float each branch keeps a range of its own; the join costs next to nothing there.
"""

import numpy as np

from tf_reweight.export import features, masks, whole_numbers
from tf_reweight.quantization.rules import LIMIT_AT_OUTPUT, LIMIT_INSIDE, NOISE
from tf_reweight.tflite import flatbuffer
from tf_reweight.tflite.file_graph import Graph

# Operations whose inputs and output have one range in integer files.
_JOINS = {"CONCATENATION", "PACK", "MAXIMUM", "MINIMUM"}
# Those that choose numbers: what counts is whether the numbers chosen are small.
_CHOICES = {"MAXIMUM", "MINIMUM"}
# A sum over channels, or a fixed range: behind it there is one scale again.
_MIXING = {
    "BATCH_MATMUL", "CONV_2D", "CONV_3D", "FULLY_CONNECTED", "LOGISTIC", "LOG_SOFTMAX", "SOFTMAX", "TANH", "TRANSPOSE_CONV",
}  # fmt: skip


def hide(calibrated, quantized_io=False):
    """Takes from the quantizer what its ranges would spoil, and what reads that until scales are alike.

    That is masks, joins and features of unlike scale, and numbers of which only the whole part counts.

    Args:
        calibrated: bytes of a float32 file with the range of each tensor.
        quantized_io: whether the inputs are to be integers, which they need ranges for.

    Returns:
        `(bytes, hidden)`: the operations are custom ones, which the quantizer leaves in float; `restored` makes them what they
        were. The bytes are those given where there is no such operation.
    """
    model = flatbuffer.read(calibrated)
    graph = Graph(model)
    aside = [part.in_float(graph) for part in (masks, features, whole_numbers)]
    unlike, useless = _unlike(graph), set().union(*(tensors for _, tensors in aside))
    positions = unlike.union(*(positions for positions, _ in aside))
    if not positions:
        return calibrated, {}
    without_range = {index for position in unlike if graph.names[position] not in _MIXING for index in graph.made(position)}
    schema, hidden = flatbuffer.schema(), {}
    for position in sorted(positions):
        operator = graph.operators[position]
        name = b"tf_reweight_float_%d" % len(hidden)
        hidden[name] = (operator.opcodeIndex, operator.builtinOptionsType, operator.builtinOptions)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode, code.version = name, 1
        operator.opcodeIndex, operator.builtinOptionsType, operator.builtinOptions = len(model.operatorCodes), 0, None
        model.operatorCodes.append(code)
    for index in (without_range | useless).difference(graph.inputs if quantized_io else ()):
        graph.tensors[index].quantization = None
    codes = [model.operatorCodes[index] for index, _, _ in hidden.values()]
    return flatbuffer.write(model), {name: (code, *rest[1:]) for (name, rest), code in zip(hidden.items(), codes)}


def restored(content, hidden):
    """The quantized file with the operations of `hide` as they were, now in float."""
    if not hidden:
        return content
    model = flatbuffer.read(content)
    codes = [model.operatorCodes[operator.opcodeIndex] for operator in model.subgraphs[0].operators]
    for operator, code in zip(model.subgraphs[0].operators, codes):
        if code.customCode in hidden:
            code_before, operator.builtinOptionsType, operator.builtinOptions = hidden[code.customCode]
            operator.customOptions = None
            operator.opcodeIndex = _index(model, code_before)
    _drop_unused_codes(model)
    return flatbuffer.write(model)


def unmarked(content):
    """A file without reversals of sequences of one entry, which change nothing.

    A quantized model puts them before joins of unlike scale, so that the converter leaves these in float.
    """
    model = flatbuffer.read(content)
    graph = Graph(model)
    marks = [position for position in range(len(graph.operators)) if _is_mark(graph, position)]
    if not marks:
        return content
    for position in marks:
        made, read = graph.output(position), graph.input(position, 0)
        for reader in {reader for reader, _ in graph.readers.get(made, ())}:
            inputs = np.array(graph.operators[reader].inputs)
            graph.operators[reader].inputs = np.where(inputs == made, read, inputs)
    gone = {id(graph.operators[position]) for position in marks}
    model.subgraphs[0].operators = [operator for operator in graph.operators if id(operator) not in gone]
    _drop_unused_codes(model)
    return flatbuffer.write(model)


def _is_mark(graph, position):
    if graph.names[position] != "REVERSE_SEQUENCE" or graph.output(position) in graph.outputs:
        return False
    lengths = graph.constant(graph.input(position, 1))
    return lengths is not None and bool((lengths <= 1).all())


def _index(model, code):
    """The position of an operation's code in the file, which gets it where it has none yet."""
    known = [(item.builtinCode, item.version, item.customCode) for item in model.operatorCodes]
    wanted = (code.builtinCode, code.version, code.customCode)
    if wanted not in known:
        model.operatorCodes.append(code)
        return len(known)
    return known.index(wanted)


def _drop_unused_codes(model):
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    used = sorted({operator.opcodeIndex for operator in operators})
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[index] for index in used]


def _unlike(graph):
    """Positions of the joins of unlike scale, and of what reads their channels while these keep a scale each."""
    found = {position for position, name in enumerate(graph.names) if name in _JOINS and _is_unlike(graph, position)}
    pending = list(found)
    while pending:
        position = pending.pop()
        if graph.names[position] in _MIXING:
            continue
        more = {reader for index in _made(graph, position) for reader, _ in graph.readers.get(index, ())} - found
        found |= more
        pending += more
    return found


def _is_unlike(graph, position):
    """Whether the inputs of a join are too unlike for one range."""
    widest = max(_widths(graph, graph.operators[position].inputs), default=0.0)
    compared = graph.operators[position].outputs if graph.names[position] in _CHOICES else graph.operators[position].inputs
    alive = [width for width in _widths(graph, compared) if width > NOISE * widest]
    limit = LIMIT_AT_OUTPUT if _reaches_output(graph, position) else LIMIT_INSIDE
    return bool(alive) and widest >= limit * min(alive)


def _widths(graph, indices):
    return [width for width in (graph.width(int(index)) for index in indices) if width is not None]


def _reaches_output(graph, position):
    """Whether channels that an operation makes are an output of the file, moved around at most."""
    seen, pending = set(), [position]
    while pending:
        made = _made(graph, pending.pop())
        if set(made) & set(graph.outputs):
            return True
        readers = {reader for index in made for reader, _ in graph.readers.get(index, ())}
        pending += [reader for reader in readers - seen if graph.names[reader] not in _MIXING]
        seen |= readers
    return False


def _made(graph, position):
    """The float tensors that an operation makes."""
    return [int(index) for index in graph.operators[position].outputs if graph.dtype(int(index)) == "FLOAT32"]
