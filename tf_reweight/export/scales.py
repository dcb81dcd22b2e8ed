"""Scales of integer tensors that hold nothing but zeros: as wide as the runtime's kernels take them.

What gave only zeros in calibration, such as a convolution whose units are all dead behind their activation, has a scale of
about 1e-8. XNNPACK takes quotients of scales up to 2 ** 8 and, for sums, down to 2 ** -10; at others it gives up and frees
memory twice (LiteRT 2.3), which ends the process. A zero is a zero in every scale, so a wider one changes nothing.
"""

import copy

import numpy as np

from tf_reweight.tflite import flatbuffer
from tf_reweight.tflite.file_graph import Graph

# Largest quotient of an operation's input and output, with room to XNNPACK's 2 ** 8, and the smallest of its sums.
_MOST, _LEAST = 2.0**7, 2.0**-9
# Operations with a kernel in the second slot and a bias in the third.
_KERNELS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
_SUMS = {"ADD", "SUB"}
_PRODUCTS = {"MUL"}
# Operations whose output follows one input.
_PLAIN = {"LEAKY_RELU", "MEAN", "SUM"}
# Operations whose output has a scale of their own.
_FIXED = {"L2_NORMALIZATION", "LOGISTIC", "LOG_SOFTMAX", "SOFTMAX", "TANH"}
# Operations whose inputs and outputs, of which there may be several, have one scale.
_SAME = {
    "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "BROADCAST_TO", "CONCATENATION", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER",
    "GATHER_ND", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MIRROR_PAD", "PACK", "PAD", "PADV2", "REDUCE_MAX", "REDUCE_MIN",
    "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH",
    "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK",
}  # fmt: skip


def endless(content):
    """Names of the tensors of a calibrated file that were infinite on some example, so that they have no range."""
    found = []
    for tensor in Graph(flatbuffer.read(content)).tensors:
        known = tensor.quantization
        ends = [] if known is None else [end for end in (known.min, known.max) if end is not None]
        if ends and not np.isfinite(np.concatenate(ends)).all():
            found.append(tensor.name.decode(errors="replace"))
    return tuple(found)


def widened(content):
    """The same file where every kernel takes the scales; else with larger ones for the tensors of zeros.

    Args:
        content: bytes of a `.tflite`.

    Returns:
        Bytes.
    """
    model = flatbuffer.read(content)
    graph = Graph(model)
    scales = {index: graph.scale(index) for index in range(len(graph.tensors)) if graph.scale(index) is not None}
    before = dict(scales)
    for _ in graph.operators:  # what one widens, another may have to follow
        if not _widen(graph, scales):
            break
    changed = {index for index, scale in scales.items() if scale != before[index]}
    if not changed:
        return content
    for index in changed:
        graph.tensors[index].quantization.scale = np.asarray([scales[index]], "float32")
    _scale_biases(graph, changed, before, scales)
    return flatbuffer.write(model)


def _widen(graph, scales):
    """One pass over the operations; returns whether a scale was raised."""
    raised = False
    for position, name in enumerate(graph.names):
        output = graph.output(position)
        inputs = [index for index in graph.read(position) if index in scales]
        if output not in scales or not inputs:
            continue
        for index, least in _least(graph, name, position, inputs, output, scales):
            if scales[index] < least and _is_free(graph, index):
                scales[index], raised = least, True
    return raised


def _is_free(graph, index):
    """Whether a tensor's scale may change: constants keep the one that their numbers are in."""
    return not graph.is_stored(index) and graph.maker(index) not in _FIXED


def _least(graph, name, position, inputs, output, scales):
    """Pairs of tensors and the smallest scales that a kernel takes of them."""
    if name in _KERNELS:
        steps = graph.tensors[graph.input(position, 1)].quantization
        if steps is not None and steps.scale is not None:
            yield output, scales[inputs[0]] * float(np.max(steps.scale)) / _MOST
    elif name in _PRODUCTS and len(inputs) == 2:
        yield output, scales[inputs[0]] * scales[inputs[1]] / _MOST
    elif name in _SUMS:
        yield output, max(scales[index] for index in inputs) / _MOST
        yield from ((index, scales[output] * _LEAST) for index in inputs)
    elif name in _PLAIN:
        yield output, scales[inputs[0]] / _MOST
        yield inputs[0], scales[output] / _MOST
    elif name in _SAME:
        outputs = [index for index in graph.operators[position].outputs if index in scales]
        alike = [index for index in (*inputs, *outputs) if graph.scale(index) == graph.scale(output)]
        widest = max(scales[index] for index in alike)
        yield from ((index, widest) for index in alike)


def _scale_biases(graph, changed, before, scales):
    """Biases are in units of input times kernel: where the input's scale grew, their numbers shrink."""
    for position, name in enumerate(graph.names):
        source, bias = graph.input(position, 0), graph.input(position, 2)
        if name not in _KERNELS or source not in changed or bias < 0:
            continue
        # A tensor of its own: operations of one layer, or biases of the same numbers, share theirs.
        tensor, factor = copy.deepcopy(graph.tensors[bias]), scales[source] / before[source]
        stored = flatbuffer.raw(graph.model, tensor)
        tensor.quantization.scale = np.asarray(tensor.quantization.scale * factor, "float32")
        tensor.buffer = len(graph.model.buffers)
        graph.model.buffers.append(flatbuffer.schema().BufferT())
        graph.model.buffers[-1].data = np.round(stored / factor).astype(stored.dtype).view("uint8")
        graph.operators[position].inputs = [*graph.slots(position)[:2], len(graph.tensors), *graph.slots(position)[3:]]
        graph.tensors.append(tensor)
