"""Why XNNPACK leaves an operation to LiteRT's own kernels, and what would put it inside.

LiteRT does not say: its Python interface names the operations outside and nothing else. Read here is what the operation
computes on, by the rules of XNNPACK's delegate (tensorflow/lite/delegates/xnnpack).
"""

from tf_reweight.tflite.operations import described, is_foreign

_IN_FLOAT = "compute it in float beside the integers, as export_tflite with accelerated=True does"
_UNFOLDED = "keep its weights in int8 and compute in float, as export_tflite with accelerated=True and weight_int8 do"
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
# By network and machine: what it is here, a measurement alone tells.
SLOW_CONVOLUTIONS = "12 to 60 times slower than in float32 where that was measured"
_TYPES_INSIDE = ("FLOAT32", "FLOAT16", "INT8", "UINT8")


def reason_of(graph, position, outside, mended):
    """`(reason, remedy)` of one operation outside, in words.

    Args:
        graph: a `Graph`.
        position: of the operation.
        outside: positions of all operations outside.
        mended: whether it was seen to run inside once it computes in float.
    """
    name = graph.names[position]
    if is_foreign(name):
        return described(name), "replace the layer by built-in operations"
    for rule in (_open_sizes, _sixteen_bits, _four_bits, _unfolding, _hybrid, _indices):
        found = rule(graph, position, outside)
        if found:
            return found
    kinds = " and ".join(_types(graph, position)[:2])
    reason = f"XNNPACK has no kernel of {name} for {kinds}, or none with these shapes and options"
    return reason, _IN_FLOAT if mended else ""


def _open_sizes(graph, position, outside):
    open_ends = [index for index in graph.ends(position) if graph.has_open_size(index)]
    if open_ends and len(outside) == len(graph.names):
        return "sizes are not known when the file is loaded", "pass shapes (--shape), or build the model with fixed input sizes"
    return None


def _sixteen_bits(graph, position, outside):
    if "INT16" in _types(graph, position):
        slow = f", {SLOW_CONVOLUTIONS}" if "CONV" in graph.names[position] else ""
        reason = f"XNNPACK has no kernels for 16-bit activations; LiteRT's reference kernels compute them{slow}"
        return reason, "precision int8, weight_int8 or float16"
    return None


def _four_bits(graph, position, outside):
    if "INT4" in _types(graph, position) or "INT4" in _unfolded_types(graph, position):
        reason = "XNNPACK takes 4-bit weights for some fully connected kernels alone"
        return reason, "precision weight_int8, or dynamic_int4 for Dense"
    return None


def _unfolding(graph, position, outside):
    """A conversion of weights, which stays with what reads them."""
    if graph.names[position] not in ("DEQUANTIZE", "DENSIFY") or graph.constant(graph.input(position, 0)) is None:
        return None
    readers = sorted({graph.names[reader] for reader, _ in graph.readers.get(graph.output(position), []) if reader in outside})
    return (f"it unfolds weights of {', '.join(readers)} outside", "") if readers else None


def _hybrid(graph, position, outside):
    if graph.names[position] not in WEIGHTED or graph.dtype(graph.output(position)) != "FLOAT32":
        return None
    weights = graph.dtype(graph.input(position, 1))
    if weights in ("INT8", "INT4"):
        return f"XNNPACK has no kernel of {graph.names[position]} with float activations and {weights} weights", _UNFOLDED
    return None


def _indices(graph, position, outside):
    kinds = [kind for kind in _types(graph, position) if kind not in _TYPES_INSIDE]
    if graph.dtype(graph.output(position)) in kinds or graph.names[position] in ("GATHER", "GATHER_ND", "EMBEDDING_LOOKUP"):
        reason = f"it works on {' and '.join(kinds)}, such as indices, which XNNPACK leaves to LiteRT"
        return reason, "compute indices outside of the model"
    return None


def _types(graph, position):
    """Types of what an operation reads and makes, each once."""
    return list(dict.fromkeys(kind for index in graph.ends(position) if (kind := graph.dtype(index))))


def _unfolded_types(graph, position):
    """Types of the constants that reach an operation through a conversion."""
    makers = [graph.makers[index] for index in graph.ends(position) if graph.maker(index) == "DEQUANTIZE"]
    return [graph.dtype(graph.input(maker, 0)) for maker in makers]
