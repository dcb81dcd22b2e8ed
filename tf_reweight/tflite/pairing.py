"""Which operation of one file is which of another that was made of the same model."""

import difflib

import numpy as np

from tf_reweight.tflite import real_numbers

# They change how numbers are stored, and not what they are.
RECODING = ("QUANTIZE", "DEQUANTIZE")


class Pairs:
    """Operations and tensors of a graph, and what they are in a reference.

    Two operations are one where they have the same kind, read the same tensors and make the same shapes. Of several such the
    one with the closest constants is taken. Where graphs differ, as where one has a BatchNormalization folded, the order of
    kinds and shapes shows where they agree again.

    Args:
        graph: a `file_graph.Graph`.
        reference: another one.
        inputs: dict from the graph's inputs to the reference's, as indices of tensors.

    Attributes:
        operations: dict from positions to positions in the reference.
        tensors: dict from indices of tensors to indices in the reference.
        unpaired: positions of operations without a counterpart; recoding and unpacking are none.
    """

    def __init__(self, graph, reference, inputs):
        self._graph, self._reference = graph, reference
        self._used = set()
        self.operations, self.tensors, self.unpaired = {}, dict(inputs), []
        aligned = _aligned(graph, reference)
        for position, kind in enumerate(graph.names):
            if graph.output(position) in graph.unpacked:
                continue
            if kind in RECODING:
                source = graph.input(position, 0)
                self.tensors |= {graph.output(position): self.tensors[source]} if source in self.tensors else {}
                continue
            found = self._counterpart(position, aligned)
            if found is None:
                self.unpaired.append(position)
            else:
                self._pair(position, found)

    def _pair(self, position, found):
        self._used.add(found)
        self.operations[position] = found
        # Behind a place where the graphs differ, what the operations read shows which tensors are one again.
        slots = self._reference.run_time_inputs(found)
        for slot, index in self._graph.run_time_inputs(position).items():
            if slot in slots and self._graph.shape(index) == self._reference.shape(slots[slot]):
                self.tensors.setdefault(index, slots[slot])
        self.tensors |= dict(zip(self._graph.made(position), self._reference.made(found)))

    def _counterpart(self, position, aligned):
        token = _token(self._graph, position)
        reads = [self.tensors.get(index) for index in self._graph.run_time_inputs(position).values()]
        candidates = []
        if reads and None not in reads:
            readers = dict.fromkeys(reader for reader, _ in self._reference.readers.get(reads[0], ()))
            candidates = [
                reader for reader in readers
                if reader not in self._used and _token(self._reference, reader) == token
                and list(self._reference.run_time_inputs(reader).values()) == reads
            ]  # fmt: skip
        if len(candidates) > 1:
            return min(candidates, key=lambda reader: _distance(self._graph, position, self._reference, reader))
        found = candidates[0] if candidates else aligned.get(position)
        return None if found in self._used else found


def _aligned(graph, reference):
    """Dict from positions to positions in the reference, by the order of kinds and shapes alone."""
    own, other = _sequence(graph), _sequence(reference)
    tokens = [[_token(item, position) for position in sequence] for item, sequence in ((graph, own), (reference, other))]
    blocks = difflib.SequenceMatcher(None, *tokens, autojunk=False).get_matching_blocks()
    return {own[block.a + i]: other[block.b + i] for block in blocks for i in range(block.size)}


def _sequence(graph):
    return [
        position for position, kind in enumerate(graph.names)
        if kind not in RECODING and graph.output(position) not in graph.unpacked
    ]  # fmt: skip


def _token(graph, position):
    return graph.names[position], *map(graph.shape, graph.made(position))


def _distance(graph, position, reference, other):
    """How far the constants of two operations of one kind are apart, relative to their size."""
    total = 0.0
    for slot in range(len(graph.slots(position))):
        values = [_constant(item, item.input(place, slot)) for item, place in ((graph, position), (reference, other))]
        if any(value is None for value in values) or values[0].shape != values[1].shape or values[1].ndim < 2:
            continue
        total += float(np.sqrt(np.sum(np.square(values[0] - values[1])) / max(np.sum(np.square(values[1])), 1e-30)))
    return total


def _constant(graph, index):
    """The real numbers of a constant, of one that is unpacked as well; None for what is computed."""
    while index in graph.unpacked:
        index = graph.input(graph.unpacked[index], 0)
    values = graph.constant(index)
    return None if values is None else real_numbers.real(graph.tensors[index], values)
