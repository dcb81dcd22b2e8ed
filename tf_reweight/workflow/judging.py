"""What a model has on validation examples as the file that ships: what a search for an accuracy judges by."""

import json
import pathlib
import tempfile

from tf_reweight import export
from tf_reweight.checks import is_number
from tf_reweight.export.classes import CLASSES
from tf_reweight.files import sealed, unsealed
from tf_reweight.strict_json import to_json
from tf_reweight.workflow.agreement import execution

_JUDGED = "judged.json"


def precision_of(config):
    """The precision whose file ships as the model is; None where a later stage learns the rounding, or moves the values."""
    if {"cluster", "quantize"} & set(config.steps):
        return None
    return config.export.precisions[-1]


def executed(run, model, precision):
    """The metric of a run on validation examples, of a file of a model that is written to be executed only.

    It is kept in the run folder: a run that goes on on another machine, whose last digits may differ, decides as it did. Where
    what is kept was changed, it is measured again.

    Args:
        run: the `Run`, opened, or a branch of it.
        model: its Keras model; it stays as it is.
        precision: of the file.

    Returns:
        A float; None where there is no such file, since it would not compute what the model does, or where outputs alone do
        not tell the metric.
    """
    known = _known(run.folder / _JUDGED)
    if known.get("precision") == precision and is_number(known.get("validation")):
        return known["validation"]
    value = _measured(run, model, precision)
    run.folder.write_json(_JUDGED, sealed(json.loads(to_json({"precision": precision, "validation": value}, default=float))))
    return value


def _known(path):
    """What was measured before; nothing where there is no such record, or it was damaged or changed."""
    try:
        return unsealed(json.loads(path.read_bytes()))
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _measured(run, model, precision):
    settings, data = run.config.export, run.data
    representative = data.inputs(model, "train", settings.representative)
    held_out = data.inputs(model, "validation", settings.verify)
    checks = {"tolerance": settings.tolerance, "accelerated": settings.accelerated}
    checks |= {"classes": [kind == CLASSES for kind in run.scorer.kinds]}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "judged.tflite"
        try:
            export.export_tflite(model, path, precision, representative, held_out, **checks)
        except (export.VerificationError, ValueError):
            return None
        execute = execution(path, model, run.scorer.arrays(held_out), precision)
        return run.scorer.of_outputs(execute, data.validation).get(run.metric["name"])
