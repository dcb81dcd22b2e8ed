"""How each output of a file agrees with the Keras model it is of."""

from tf_reweight.data.examples import input_specs
from tf_reweight.export.classes import agreement
from tf_reweight.export.conversion import output_names
from tf_reweight.export.precisions import TABLE
from tf_reweight.export.samples import identifiers
from tf_reweight.export.verification import is_fragile
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


def agreements(scorer, expected, given):
    """One dict per output: `name`, `kind`, `agreement` (share of equal classes or decisions; None for numbers), `error`.

    Args:
        scorer: of the run, which knows what each output says.
        expected, given: outputs of the model and of the file, a list of arrays each.
    """
    entries = zip(scorer.names, scorer.kinds, expected, given, differences(expected, given))
    return [
        {"name": name, "kind": kind, "agreement": agreement(kind, first, second), "error": difference.relative_error}
        for name, kind, first, second, difference in entries
    ]
