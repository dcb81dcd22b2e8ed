"""Masks: very large negative numbers, as -1e9 before a softmax, for what is not to be looked at.

In the one range of an integer tensor such a number takes all 256 steps, and nothing is left of the others. So what makes the
masked tensor, and the operation that reads it, stay in float in files whose ranges come from data.
"""

import numpy as np

# Operations to which a very large negative number means: not at all.
_EXCLUDING = {"ARG_MAX", "EXP", "LOGISTIC", "LOG_SOFTMAX", "REDUCE_MAX", "SOFTMAX"}
# A range that reaches so many times as far below zero as above holds a mask. BERT's is -1e4; float16's lowest is -65504.
_FAR = 100.0
# In steps as large as this one a softmax tells nothing apart.
_COARSE = 1.0


def in_float(graph):
    """What has to stay in float because of masks, in a float file with the range of each tensor.

    Args:
        graph: `file_graph.Graph` of a calibrated file.

    Returns:
        `(positions, tensors)`: of operations, and of the tensors whose ranges mean nothing. Where an operation works in the
        memory of its input, calibration has the mask in the range of that input as well.
    """
    readers = [position for position, name in enumerate(graph.names) if name in _EXCLUDING]
    pending = [(position, index) for position in readers for index in graph.read(position) if _is_masked(graph, index)]
    positions, tensors = set(), set()
    while pending:
        reader, index = pending.pop()
        positions.add(reader)
        maker = graph.makers.get(index)
        if index in tensors or maker is None:
            continue
        tensors.add(index)
        positions.add(maker)
        pending += [(maker, source) for source in graph.read(maker) if _is_masked(graph, source)]
        pending += [(other, index) for other, _ in graph.readers[index]]
    return positions, tensors


def lost(graph):
    """Names of the tensors of an integer file that a softmax or its like reads in steps too large to tell anything apart.

    Args:
        graph: `file_graph.Graph` of a finished file.
    """
    found = []
    for position, name in enumerate(graph.names):
        for index in graph.read(position) if name in _EXCLUDING else ():
            steps = graph.tensors[index].quantization
            if steps is not None and steps.scale is not None and np.max(steps.scale, initial=0.0) > _COARSE:
                found.append(graph.tensors[index].name.decode(errors="replace"))
    return tuple(dict.fromkeys(found))


def _is_masked(graph, index):
    if graph.dtype(index) != "FLOAT32" or graph.is_stored(index):
        return False
    known = graph.tensors[index].quantization
    if known is None or known.min is None or known.max is None:
        return False
    return bool(np.min(known.min) <= -_FAR * max(1.0, float(np.max(np.abs(known.max)))))
