"""`explain`: operation by operation, a file against the float model on the same inputs, and what to keep in more precision."""

import os
import pathlib
import typing

import keras
import numpy as np

from tf_reweight.checks import check_integer
from tf_reweight.data.examples import take_labelled
from tf_reweight.data.labelled import of_one_output, parted
from tf_reweight.data.splits import class_numbers, numbered
from tf_reweight.export import samples
from tf_reweight.export.conversion import convert, output_names
from tf_reweight.export.explanation import Explanation, loses_nothing
from tf_reweight.export.operation_errors import TwoGraphs
from tf_reweight.export.recurrent import check_recurrent
from tf_reweight.graph.checking import check_eager, check_model
from tf_reweight.graph.recasting import single_precision
from tf_reweight.quantization.ranges import is_quantized
from tf_reweight.quantization.strip import strip_quantization
from tf_reweight.tflite import ends
from tf_reweight.tflite.comparing import compare, floats
from tf_reweight.tflite.execution import Runner, read_file

# How many of the worst operations are tried in float, and on how many examples.
_TRIED, _TRIED_ON = 6, 8


def explain(model: keras.Model, path: str | os.PathLike, data: typing.Any, num_examples: int = 32) -> Explanation:
    """Tells which operations of a `.tflite` lose what its float model has.

    The model is converted in float32, and both files run on the same inputs with every tensor in sight. What an operation adds
    is told from what those before it have lost: alone, it is fed with the float model's values as the file stores them, and
    compared with the float operation on the same. Of the worst, the one that helps the outputs most is then computed in float
    in the midst of the file, then a second one, until the outputs' error is half of what it was or none helps much.

    Args:
        model: the Keras model that the file was made of, on the TensorFlow backend; of a quantized one, the float model in it.
        path: the `.tflite`, in any precision, packed or not, by whomever.
        data: held-out examples of any kind that `data.examples.take` knows, or `(examples, labels)`; labels of one class each
            give accuracies. Of a model with two inputs `(first, second)` are the inputs, and `([first, second], labels)` both.
        num_examples: on which operations are compared: those on which the outputs are furthest off, up to eight, and others
            spread over the data. The outputs' error is that of all examples.

    Returns:
        `Explanation`; its `keep` is what `export_mixed` takes.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that is not of this model, data that do not fit, or a model that is not built.

    Example:
        >>> explanation = explain(model, "model.tflite", data.validation)
        >>> export_mixed(model, "mixed.tflite", 40_000, data.validation[0], keep=explanation.keep)
    """
    check_eager()
    content = read_file(path)
    check_integer("num_examples", num_examples, 1, fix="Some dozens do.")
    check_model(model)
    given, model = model, single_precision(strip_quantization(model) if is_quantized(model) else model)
    check_recurrent(model)
    x, y = parted(given, data)
    arrays, found = take_labelled(given, x, "data")
    labels = found if y is None else y
    specs = samples.input_specs(model, arrays)
    arrays = samples.checked(arrays, specs, "data")
    files = _Files(model, specs, content)
    graphs = TwoGraphs(*files.contents, str(path), files.inputs, files.outputs)
    outputs = files(arrays)
    num_tried = max(1, min(_TRIED_ON, num_examples // 2))
    chosen = _chosen(*outputs, num_examples, num_tried)
    examples = files.encoded([array[chosen] for array in arrays])
    operations = graphs.compared(examples)
    error = compare(*outputs)[1]
    accuracies = _accuracies([found[0] for found in outputs], len(arrays[0]), of_one_output(given, labels))
    worst = [item for item in operations if item.own_error][:_TRIED]
    trials = () if loses_nothing(error, *accuracies) else graphs.trials(worst, examples[:num_tried])
    name = pathlib.Path(path).name
    keep = tuple(item for item, _ in trials[1:])
    return Explanation(name, len(examples), error, *accuracies, operations, graphs.unpaired, trials, keep)


def _chosen(expected, given, num_examples, num_furthest):
    """Positions of the examples that are compared, those first that are furthest off: an error may be that of a few."""
    furthest = np.argsort(-_distances(expected, given), kind="stable")[:num_furthest]
    spread = np.unique(np.linspace(0, len(expected[0]) - 1, min(num_examples, len(expected[0]))).astype(int))
    return np.concatenate([furthest, spread[~np.isin(spread, furthest)]])[:num_examples]


def _distances(expected, given):
    """Of each example, the squares of its error in units of each output's scale; not finite is furthest."""
    total = np.zeros(len(expected[0]))
    for wanted, found in zip(floats(expected), floats(given)):
        if wanted.shape == found.shape:
            squares = np.square(found - wanted).reshape(len(wanted), -1).mean(axis=-1)
            total += squares / (np.mean(np.square(wanted[np.isfinite(wanted)])) or 1.0)
    return np.where(np.isfinite(total), total, np.inf)


class _Files:
    """The float32 file of a model and the file in question, fed alike.

    Attributes:
        contents: bytes of both.
        inputs: dict from tensors of the second that are inputs to those of the first.
        outputs: the same for outputs.
    """

    def __init__(self, model, specs, content):
        self._names = samples.identifiers([spec.name for spec in specs])
        own = Runner(content, delegate=False)
        self._twins = dict(zip(ends.matched(samples.ends(specs), own.inputs, "inputs"), self._names))
        self.contents = convert(model, "float32", specs), content
        reference = Runner(self.contents[0], delegate=False)
        self._runners, self._output_names = (reference, own), output_names(model, len(reference.outputs))
        details = [reference.outputs[name] for name in self._output_names]
        outputs = [ends.End(name, tuple(item["shape"]), item["dtype"]) for name, item in zip(self._output_names, details)]
        self._own_output_names = ends.matched(outputs, own.outputs, "outputs")
        self.inputs = {own.inputs[name]["index"]: reference.inputs[twin]["index"] for name, twin in self._twins.items()}
        pairs = zip(self._own_output_names, self._output_names)
        self.outputs = {own.outputs[name]["index"]: reference.outputs[twin]["index"] for name, twin in pairs}

    def __call__(self, arrays):
        """Outputs `(num, ...)` of both, in the order of the model's."""
        reference, own = self._named(arrays)
        return self._runners[0](reference, self._output_names), self._runners[1](own, self._own_output_names)

    def encoded(self, arrays):
        """One pair of dicts per example: what each file reads, by tensor."""
        sides = []
        for runner, inputs in zip(self._runners, self._named(arrays)):
            indices = [detail["index"] for detail in runner.input_details]
            sides.append([dict(zip(indices, example)) for example in zip(*runner.encoded(inputs))])
        return list(zip(*sides))

    def _named(self, arrays):
        reference = dict(zip(self._names, arrays))
        return reference, {name: reference[twin] for name, twin in self._twins.items()}


def _accuracies(outputs, num_examples, labels):
    """Top-1 accuracies of both; None each without labels of one class each, or without a classifier's output."""
    if labels is None or len(labels) != num_examples:
        return None, None
    if outputs[0].ndim != 2 or outputs[0].shape[1] < 2:
        return None, None
    labels = class_numbers(np.asarray(numbered(labels, outputs[0].shape)))
    if labels is None:
        return None, None
    return tuple(float(np.mean(output.argmax(-1) == labels)) for output in outputs)
