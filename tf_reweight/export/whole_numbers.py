"""Numbers of which only the whole part counts, such as the bin of a `Discretization`: in float until they are cut off.

In one of the 256 values of an integer tensor a 3 may be 2.996, of which the whole part is another: that is an error of one bin,
or of one row of a table, however fine the range is.
"""

# Operations that give another number for one that is smaller by any amount.
_CUTTING = {"BUCKETIZE", "CEIL", "FLOOR", "FLOOR_DIV", "FLOOR_MOD", "ROUND"}
_WHOLE = {"BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32"}
# Operations that move numbers around.
_MOVING = {
    "BROADCAST_TO", "CONCATENATION", "EXPAND_DIMS", "GATHER", "PACK", "PAD", "RESHAPE", "REVERSE_V2", "SLICE", "SPLIT",
    "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK",
}  # fmt: skip
# Those that scale them, by a constant.
_SCALING = {"ADD", "DIV", "MUL", "NEG", "SUB"}


def in_float(graph):
    """What has to stay in float up to where whole parts are taken, in a float file with the range of each tensor.

    Args:
        graph: `file_graph.Graph` of a calibrated file.

    Returns:
        `(positions, tensors)`: of operations, and of the tensors between them, whose ranges are of no use.
    """
    cutting = [position for position, name in enumerate(graph.names) if _cuts(graph, position, name)]
    positions, pending = set(), list(cutting)
    while pending:
        for index in graph.read(pending.pop()):
            maker = graph.makers.get(index)
            if maker is not None and maker not in positions and _keeps(graph, maker) and graph.dtype(index) == "FLOAT32":
                positions.add(maker)
                pending.append(maker)
    aside = positions | set(cutting)
    read = {index for position in aside for index in graph.read(position) if not graph.is_stored(index)}
    # What an integer operation makes needs its range.
    free = {index for index in read if graph.makers.get(index) in {None, *aside} or graph.maker(index) == "CAST"}
    free = {index for index in free if {reader for reader, _ in graph.readers[index]} <= aside}
    return positions, free if positions else set()


def _cuts(graph, position, name):
    if name == "CAST":
        return graph.dtype(graph.input(position, 0)) == "FLOAT32" and graph.dtype(graph.output(position)) in _WHOLE
    return name in _CUTTING


def _keeps(graph, position):
    """Whether an operation gives the numbers that it reads, moved around or scaled."""
    if graph.names[position] in _MOVING:
        return True
    return graph.names[position] in _SCALING and len([i for i in graph.read(position) if not graph.is_stored(i)]) == 1
