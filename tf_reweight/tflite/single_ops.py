"""Operations of a file on their own: each cut out with the constants it reads, and run without the others."""

import copy

import numpy as np

from tf_reweight.tflite import flatbuffer, litert

# They run other graphs of the file, which are not cut out with them.
_CONTROL = {"CALL_ONCE", "IF", "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE", "WHILE"}


class Alone:
    """One operation of a graph, with the operations that unpack its constants.

    Args:
        graph: a `file_graph.Graph`.
        position: of the operation.

    Attributes:
        slots: dict from the slots of inputs that are computed at run time to indices of tensors.
        outputs: indices of the tensors that it makes.
    """

    def __init__(self, graph, position):
        self.slots = graph.run_time_inputs(position)
        self.outputs = graph.made(position)
        self._sources = list(dict.fromkeys(self.slots.values()))
        self._content = None
        if graph.names[position] not in _CONTROL:
            self._content = cut(graph, [*_unpacking(graph, position), position], self._sources, self.outputs)
        self._interpreter = None

    def __call__(self, values):
        """Raw outputs by index of tensor, from raw inputs by index of tensor.

        Raises:
            ValueError, RuntimeError: where LiteRT cannot run it alone.
        """
        inputs = [np.asarray(values[index]) for index in self._sources]
        if self._interpreter is None:
            if self._content is None:
                raise ValueError("It runs another graph of the file.")
            self._interpreter = litert.load(self._content, False, shapes=lambda _: [array.shape for array in inputs])
        self._interpreter.reset_all_variables()
        outputs = litert.feed(self._interpreter, [array[None] for array in inputs])
        return {index: array[0] for index, array in zip(self.outputs, outputs)}


def cut(graph, positions, inputs, outputs):
    """Bytes of a file with some operations of a graph, and the constants that they read.

    Args:
        graph: a `file_graph.Graph`.
        positions: of the operations, in the order of the graph.
        inputs: indices of the tensors that are its inputs.
        outputs: indices of the tensors that are its outputs.
    """
    schema = flatbuffer.schema()
    made, part, moved = schema.ModelT(), schema.SubGraphT(), {}
    made.version, made.operatorCodes = 3, graph.model.operatorCodes
    made.buffers, made.subgraphs, part.tensors, part.operators = [schema.BufferT()], [part], [], []

    def move(index):
        if index >= 0 and index not in moved:
            tensor = copy.copy(graph.tensors[index])
            stored, tensor.buffer = graph.model.buffers[tensor.buffer], 0
            if stored.data is not None and len(stored.data):
                made.buffers.append(stored)
                tensor.buffer = len(made.buffers) - 1
            moved[index] = len(part.tensors)
            part.tensors.append(tensor)
        return moved.get(index, -1)

    def moved_all(indices):
        return None if indices is None else np.array([move(int(index)) for index in indices], "int32")

    part.inputs, part.outputs = moved_all(inputs), moved_all(outputs)
    for position in positions:
        operator = copy.copy(graph.operators[position])
        operator.inputs, operator.outputs = moved_all(operator.inputs), moved_all(operator.outputs)
        operator.intermediates = moved_all(operator.intermediates)
        part.operators.append(operator)
    return flatbuffer.write(made)


def exposed(graph, indices):
    """Bytes of the whole file with other tensors as outputs, in the order of `indices`, and without signatures."""
    made, part = copy.copy(graph.model), copy.copy(graph.model.subgraphs[0])
    part.outputs = np.array(indices, "int32")
    made.subgraphs, made.signatureDefs = [part, *graph.model.subgraphs[1:]], None
    return flatbuffer.write(made)


def _unpacking(graph, position):
    """Positions of the operations that make constants of an operation, in order."""
    found, pending = set(), graph.slots(position)
    while pending:
        maker = graph.unpacked.get(pending.pop())
        if maker is not None and maker not in found:
            found.add(maker)
            pending += graph.slots(maker)
    return sorted(found)
