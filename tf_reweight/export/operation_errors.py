"""What each operation of a file loses, against the float file of the same model."""

import numpy as np

from tf_reweight import errors
from tf_reweight.export.explanation import OperationError
from tf_reweight.tflite import flatbuffer, litert
from tf_reweight.tflite.comparing import unlike_channels
from tf_reweight.tflite.file_graph import Graph
from tf_reweight.tflite.pairing import Pairs
from tf_reweight.tflite.real_numbers import outside, real, rounded
from tf_reweight.tflite.single_ops import Alone, exposed

# What LiteRT and this module say of an operation that does not run alone, or has inputs without a counterpart.
_ALONE_FAILURES = (ValueError, RuntimeError, KeyError)
_NUMBERS = {"FLOAT16", "FLOAT32", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL"}
_AS_IT_IS = "as it is"
# Parts of the file's error: when the trials have reached enough, and what another operation must gain.
_ENOUGH, _WORTH = 0.5, 0.1


class TwoGraphs:
    """The graphs of two files of one model, and which operation of one is which of the other.

    Args:
        reference: bytes of the float32 file.
        content: bytes of the file in question.
        name: of the latter, for errors.
        inputs: dict from its inputs to the reference's, as indices of tensors.
        outputs: the same for outputs.

    Attributes:
        unpaired: its operations without a counterpart, as `"MUL #3"`; a tuple.

    Raises:
        ValueError: where most of its operations have none.
    """

    def __init__(self, reference, content, name, inputs, outputs):
        self._reference, self._own = Graph(flatbuffer.parse(reference)), Graph(flatbuffer.parse(content, name))
        self._outputs, self._pairs = outputs, Pairs(self._own, self._reference, inputs)
        paired = len(self._pairs.operations)
        self.unpaired = tuple(f"{self._own.names[position]} #{position}" for position in self._pairs.unpaired)
        if paired <= len(self.unpaired):
            expected = "The file must have been made of this model; most of its operations have no counterpart there."
            fix = "Pass the model that was exported (shrunk, where the file's was)."
            raise ValueError(errors.message(expected, fix, file=name, operations=paired + len(self.unpaired), found=paired))
        self._alone = {position: Alone(self._own, position) for position in self._run_time(self._own)}
        self._twins = {position: Alone(self._reference, twin) for position, twin in self._pairs.operations.items()}

    def compared(self, examples):
        """One `OperationError` for each paired operation, the one that adds most first.

        Args:
            examples: list of pairs of dicts, raw inputs of both files by tensor.
        """
        wanted = {**self._pairs.operations, **dict.fromkeys(self._recoding_inputs())}
        sums = {position: _Sums() for position in wanted}
        seen = _Seen(self._reference), _Seen(self._own)
        for example in examples:
            expected, given = (look(raw) for look, raw in zip(seen, example))
            for position, found in sums.items():
                self._measure(position, found, expected, given)
        made = [self._summed(position, found) for position, found in sums.items() if found.count]
        return tuple(sorted(made, key=lambda item: (-(item.own_error or 0.0), item.position)))

    def trials(self, worst, examples):
        """Which operations the outputs gain most of, once these compute in float.

        Args:
            worst: `OperationError`s to choose from.
            examples: as for `compared`.

        Returns:
            Tuple of pairs of a name and the outputs' error once this operation and those before it compute in float, the first
            of the file as it is. It ends where the error is half of that, or no other operation gains a tenth of it. Empty
            where an operation of the file does not run alone.
        """
        left, taken = [item for item in worst if item.position in self._twins], []
        expected = [_Seen(self._reference)(raw) for raw, _ in examples]
        try:
            found = [(_AS_IT_IS, self._output_error([], examples, expected))]
            while left and found[-1][1] > _ENOUGH * found[0][1]:
                errors_with = [self._output_error([*taken, item], examples, expected) for item in left]
                if not min(errors_with) <= found[-1][1] - _WORTH * found[0][1]:
                    break
                taken.append(left.pop(int(np.argmin(errors_with))))
                found.append((taken[-1].name, min(errors_with)))
        except _ALONE_FAILURES:
            return ()
        return tuple(found)

    def _run_time(self, graph):
        return [i for i in range(len(graph.names)) if graph.output(i) >= 0 and graph.output(i) not in graph.unpacked]

    def _recoding_inputs(self):
        """Positions of operations that store the file's float inputs in integers."""
        return [i for i, kind in enumerate(self._own.names) if kind == "QUANTIZE" and self._own.input(i, 0) in self._own.inputs]

    def _tensor(self, index):
        return self._own.tensors[index]

    def _measure(self, position, sums, expected, given):
        """Adds what one example tells of an operation."""
        for index in self._own.made(position):
            reference = expected.get(self._pairs.tensors.get(index))
            if reference is None or reference.dtype.kind != "f" or index not in given:
                continue
            sums.total.add(reference, real(self._tensor(index), given[index]))
            sums.count += 1
        try:
            for index, wanted, got in self._apart(position, expected, given):
                stored = rounded(self._tensor(index), wanted, given[index].dtype)
                sums.own.add(wanted, got)
                sums.range.add(wanted, real(self._tensor(index), stored))
                sums.clipped.append(outside(self._tensor(index), wanted, given[index].dtype))
                sums.unlike |= unlike_channels(np.asarray(wanted, "float64")) is not None
        except _ALONE_FAILURES:
            sums.alone = False

    def _apart(self, position, expected, given):
        """`(tensor, float operation's output, own output)` where both read the same numbers, as the file stores them."""
        slots, raw, numbers = self._alone[position].slots, {}, {}
        for slot, index in slots.items():
            wanted = expected[self._pairs.tensors[index]]
            raw[index] = rounded(self._tensor(index), wanted, given[index].dtype)
            numbers[slot] = real(self._tensor(index), raw[index]).astype(wanted.dtype)
        made = self._alone[position](raw)
        if position in self._twins:
            twin = self._twins[position]
            outputs = list(twin({index: numbers[slot] for slot, index in twin.slots.items()}).values())
        else:  # it only stores what it reads
            outputs = [expected[self._pairs.tensors[index]] for index in slots.values()]
        for index, wanted in zip(made, outputs):
            if wanted.dtype.kind == "f":
                yield index, wanted.astype("float64"), real(self._tensor(index), made[index])

    def _summed(self, position, sums):
        own = range_error = weight_error = None
        if sums.alone:
            own, range_error = sums.own.relative(), sums.range.relative()
            weight_error = float(np.sqrt(max(own**2 - range_error**2, 0.0)))
        twin = self._pairs.operations.get(position)
        # What only stores the input is called as the input is.
        tensor = self._tensor(self._own.input(position, 0)) if twin is None else self._twin_output(twin)
        name = tensor.name.decode(errors="replace")
        clipped = float(np.mean(sums.clipped)) if sums.clipped else 0.0
        kind = self._own.names[position]
        return OperationError(
            name, kind, position, own, range_error, weight_error, sums.total.relative(), clipped, sums.unlike
        )  # fmt: skip

    def _twin_output(self, twin):
        return self._reference.tensors[self._reference.output(twin)]

    def _output_error(self, in_float, examples, expected):
        """Error of the worst output with some operations in float."""
        chosen, sums = {item.position for item in in_float}, {index: _Squares() for index in self._outputs}
        for (_, raw), wanted in zip(examples, expected):
            made, numbers = dict(raw), {}
            for position in self._alone:
                self._step(position, position in chosen, made, numbers)
            for index, reference in self._outputs.items():
                sums[index].add(wanted[reference], numbers.get(index, real(self._tensor(index), made[index])))
        return max(item.relative() for item in sums.values())

    def _step(self, position, in_float, made, numbers):
        """Runs one operation; `numbers` has what is known in float, also where the file would store it in integers."""
        slots = self._alone[position].slots
        known = {slot: numbers.get(i, real(self._tensor(i), made[i])) for slot, i in slots.items()}
        if in_float:
            twin = self._twins[position]
            inputs = {i: known[slot].astype(_kind(known[slot])) for slot, i in twin.slots.items()}
            outputs = dict(zip(self._own.made(position), twin(inputs).values()))
        elif self._own.names[position] == "DEQUANTIZE" and self._own.input(position, 0) in numbers:
            outputs = {self._own.output(position): known[0].astype("float32")}
        else:
            made |= self._alone[position]({i: made[i] for i in slots.values()})
            return
        for index, values in outputs.items():
            numbers[index] = values
            made[index] = rounded(self._tensor(index), values, _NUMPY[self._own.dtype(index)])


_NUMPY = {"FLOAT16": "float16", "FLOAT32": "float32", "INT8": "int8", "UINT8": "uint8", "INT16": "int16", "INT32": "int32"}


def _kind(array):
    return "float32" if array.dtype.kind == "f" else array.dtype


class _Seen:
    """A file with all that it computes in sight: a dict by tensor for each example."""

    def __init__(self, graph):
        found = [index for position in range(len(graph.names)) for index in graph.made(position)]
        self._indices = [i for i in dict.fromkeys(found) if i not in graph.unpacked and graph.dtype(i) in _NUMBERS]
        self._inputs = graph.inputs
        self._interpreter = litert.load(exposed(graph, self._indices), False)

    def __call__(self, raw):
        outputs = litert.feed(self._interpreter, [np.asarray(raw[index])[None] for index in self._inputs])
        return {**raw, **{index: array[0] for index, array in zip(self._indices, outputs)}}


class _Squares:
    """The root mean square of differences, relative to that of what was expected."""

    def __init__(self):
        self._error = self._scale = 0.0
        self._count = 0

    def add(self, expected, given):
        expected = np.asarray(expected, "float64")
        self._error += float(np.sum(np.square(np.asarray(given, "float64") - expected)))
        self._scale += float(np.sum(np.square(expected)))
        self._count += expected.size

    def relative(self):
        if not np.isfinite(self._error + self._scale):
            return float("inf")
        return float(np.sqrt(self._error / (self._scale or max(self._count, 1))))


class _Sums:
    """What is added up of one operation over the examples."""

    def __init__(self):
        self.total, self.own, self.range = _Squares(), _Squares(), _Squares()
        self.clipped, self.unlike, self.alone, self.count = [], False, True, 0
