"""How each output of a file agrees with the Keras model it is of."""

import keras
import numpy as np

from tf_reweight.data.examples import input_specs
from tf_reweight.data.labelled import in_order
from tf_reweight.export.classes import agreement, kinds
from tf_reweight.export.conversion import output_names
from tf_reweight.export.precisions import TABLE
from tf_reweight.export.samples import identifiers
from tf_reweight.export.verification import is_fragile
from tf_reweight.graph.losses import losses_of, metrics_of
from tf_reweight.tflite import apart
from tf_reweight.tflite.comparing import differences
from tf_reweight.tflite.delegation import delegation
from tf_reweight.tflite.execution import Runner


def execution(path, model, arrays, precision):
    """A function from a list of arrays, one per input of a model, to those of its outputs, as its file computes them.

    Args:
        path: the file.
        model: the Keras model it is of.
        arrays: inputs, from which open sizes are read.
        precision: of the file.
    """
    runner = Runner(path, delegate=not (precision in TABLE and is_fragile(model, precision)))
    inputs = identifiers([spec.name for spec in input_specs(model, arrays)])
    outputs = output_names(model, len(runner.outputs))
    return lambda given: runner(dict(zip(inputs, given)), outputs)


def where_it_runs(path, model, precision):
    """`delegation` and `fully_accelerated` of a file, as in an export's record."""
    content = path.read_bytes()
    fragile = precision in TABLE and is_fragile(model, precision)
    found = apart.delegation(content) if fragile else delegation(content)
    return {"delegation": found.to_dict(), "fully_accelerated": found.fully_accelerated}


def kinds_of(task, scorer, feed):
    """What each output says: one of several classes, yes or no, or numbers, as `export.classes.kinds` tells it.

    Args:
        task, scorer: of the run.
        feed: the training examples, whose labels count where the loss and the metrics say nothing.
    """
    names, arrays = scorer.names, [np.asarray(output) for output in keras.tree.flatten(scorer.outputs)]
    y = None if scorer.by_class else feed.first()[1]
    labels = None if y is None else in_order(y, names, "train")
    return kinds(losses_of(task.loss, names), arrays, metrics_of(task.metrics, names), labels)


def agreements(kinds, scorer, expected, given):
    """One dict per output: `name`, `kind`, `agreement` (share of equal classes or decisions; None for numbers), `error`.

    Args:
        kinds: of the outputs, from `kinds_of`.
        scorer: of the run.
        expected, given: outputs of the model and of the file, a list of arrays each.
    """
    entries = zip(scorer.names, kinds, expected, given, differences(expected, given))
    return [
        {"name": name, "kind": kind, "agreement": agreement(kind, first, second), "error": difference.relative_error}
        for name, kind, first, second, difference in entries
    ]
