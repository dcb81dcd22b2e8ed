"""How each output of a file agrees with the Keras model it is of."""

import keras
import numpy as np

from tf_reweight.data.examples import input_specs
from tf_reweight.export.classes import classes_by
from tf_reweight.export.conversion import output_names
from tf_reweight.export.precisions import TABLE
from tf_reweight.export.samples import identifiers
from tf_reweight.export.verification import is_fragile
from tf_reweight.graph.losses import BINARY, ONE_HOT, SPARSE, loss_name, losses_of
from tf_reweight.tflite import apart
from tf_reweight.tflite.comparing import differences
from tf_reweight.tflite.delegation import delegation
from tf_reweight.tflite.execution import Runner

CLASSES, DECISIONS, NUMBERS = "classes", "decisions", "numbers"


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


def kinds_of(task, scorer):
    """What each output says: one of several classes, yes or no, or a number; by its loss, and without one by its values."""
    losses = losses_of(task.loss, scorer.names)
    return [_kind(loss_name(loss)) for loss in losses]


def classes_of(task, scorer):
    """For each output whether it chooses one of several classes; None where no loss says it."""
    if task.by_class is not None or all(loss_name(loss) is None for loss in losses_of(task.loss, scorer.names)):
        return None
    return classes_by(losses_of(task.loss, scorer.names), [np.asarray(x) for x in keras.tree.flatten(scorer.outputs)])


def _kind(loss):
    if loss in SPARSE + ONE_HOT:
        return CLASSES
    return DECISIONS if loss in BINARY else NUMBERS


def agreements(task, scorer, expected, given):
    """One dict per output: `name`, `kind`, `agreement` (share of equal classes or decisions; None for numbers), `error`.

    Args:
        task, scorer: of the run.
        expected, given: outputs of the model and of the file, a list of arrays each.
    """
    entries = zip(scorer.names, kinds_of(task, scorer), expected, given, differences(expected, given))
    return [
        {"name": name, "kind": kind, "agreement": _agreement(kind, first, second), "error": difference.relative_error}
        for name, kind, first, second, difference in entries
    ]


def _agreement(kind, first, second):
    if kind == CLASSES:
        return float(np.mean(first.argmax(-1) == second.argmax(-1)))
    if kind == DECISIONS:
        # Probabilities are cut in the middle, logits at zero.
        cut = 0.5 if first.min() >= 0 and first.max() <= 1 else 0.0
        return float(np.mean((first > cut) == (second > cut)))
    return None
