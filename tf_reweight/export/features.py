"""Features of unlike scale: what brings them to one scale stays in float in an otherwise integer file.

An integer file has all features of an input in one range. Incomes beside ages leave the ages one or two of the 256 values, and
the `Normalization` or `BatchNormalization` that follows enlarges these steps. In float each feature keeps what it tells.
"""

import numpy as np

from tf_reweight.quantization.rules import LIMIT_AT_OUTPUT

# Operations that move features around, or make each larger by no more than itself.
_EVEN = {
    "ABS", "CAST", "EXPAND_DIMS", "GATHER", "MAXIMUM", "MINIMUM", "NEG", "PACK", "PAD", "RESHAPE", "SLICE", "SPLIT", "SPLIT_V",
    "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE", "UNPACK",
}  # fmt: skip
# By how much those enlarge that are steepest where their input is smallest, of that smallest value.
_STEEP = {"LOG": lambda x: 1.0 / x, "RSQRT": lambda x: 0.5 * x**-1.5, "SQRT": lambda x: 0.5 * x**-0.5}
# Those with a constant for each feature, and sums over features that may have taken these in.
_SCALING = {"ADD", "DIV", "MUL", "SUB"}
_KERNELS = {"CONV_2D", "FULLY_CONNECTED"}
_TINY = 1e-30


def in_float(graph):
    """What has to stay in float because it reads features of unlike scale, in a float file with the range of each tensor.

    One step of an input's range counts, after an operation, as so many of its output's range: where that is more than
    `LIMIT_AT_OUTPUT` for some feature, all operations up to there are kept in float.

    Args:
        graph: `file_graph.Graph` of a calibrated file.

    Returns:
        `(positions, tensors)`: of operations, and of the tensors between them, whose ranges are of no use.
    """
    positions = set()
    for index in graph.inputs:
        positions |= _until_alike(graph, index)
    read = {index for position in positions for index in graph.read(position) if not graph.is_stored(index)}
    return positions, {index for index in read if {reader for reader, _ in graph.readers[index]} <= positions}


def _until_alike(graph, index):
    """Positions of the operations from an input to the last that enlarges its steps too much."""
    # By tensor: what the widest value became on any way from the input, and the operations since it was last rounded.
    found, reached = set(), {index: (graph.width(index) or 0.0, frozenset())}
    for position, name in enumerate(graph.names):
        for tensor in dict.fromkeys(graph.read(position)):
            width, path = reached.get(tensor, (0.0, frozenset()))
            gain = _gain(graph, position, tensor) if tensor in reached else 0.0
            for made in graph.made(position) if gain else ():
                # What a value as large as the widest would become, were it one of the smallest feature.
                enlarged, narrow, through = width * gain, graph.width(made) or 0.0, path | {position}
                if not enlarged:  # of integers no range is known, and none is needed
                    enlarged, through = narrow, frozenset()
                elif narrow and enlarged >= LIMIT_AT_OUTPUT * narrow:
                    found |= through
                    enlarged, through = narrow, frozenset()  # rounded only here, in a range of its own
                if enlarged and name not in _KERNELS:
                    widest, others = reached.get(made, (0.0, frozenset()))
                    reached[made] = (max(widest, enlarged), others | through)
    return found


def _gain(graph, position, tensor):
    """By how much an operation enlarges the smallest feature at most; 0.0 where that is not known."""
    name = graph.names[position]
    if name in _EVEN:
        return 1.0
    if name in _STEEP:
        known = graph.tensors[tensor].quantization
        smallest = np.min(known.min) if known is not None and known.min is not None else 0.0
        return float(_STEEP[name](max(smallest, _TINY)))
    if name not in _SCALING | _KERNELS:
        return 0.0
    first = next((index for index in graph.read(position) if index != tensor), -1)
    values = graph.constant(first)
    if values is None:
        return 0.0
    if name in ("ADD", "SUB"):
        return 1.0
    if name == "DIV":
        return float(1.0 / max(np.abs(values).min(), _TINY)) if graph.input(position, 0) == tensor else 0.0
    return float(np.abs(values).max(initial=0.0))
