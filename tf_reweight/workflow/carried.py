"""What a model is compiled with, carried into the files of stages that do not train."""

import json

import keras

from tf_reweight.graph.compiled import can_compile_again, compiles_by_itself
from tf_reweight.graph.optimizers import build_optimizer

_KERAS = "keras"
_ARGUMENTS = ("loss", "metrics", "weighted_metrics")


def compile_for_file(model, task):
    """Compiles a model that is not, as the user's was, where whoever loads its file needs none of the user's code for that.

    Losses and metrics tell what a file of the model is judged by, see `export.check_file`. The optimizer is built, so that all
    that Keras looks for in the file is there.

    Args:
        model: of a stage, compiled in place.
        task: the `Task` of the run.

    Returns:
        Whether it was compiled here: the state of its optimizer is all zeros then.
    """
    if model.compiled or compiles_by_itself(model) or not can_compile_again(model) or not _is_of_keras(task):
        return False
    task.compile(model, task.learning_rate)
    build_optimizer(model)
    return True


def _is_of_keras(task):
    """Whether Keras alone makes all that a task compiles with."""
    if task.by_class is not None or task.loss is None:
        return False
    probe = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    try:
        task.compile(probe, task.learning_rate)
        config = probe.get_compile_config()
    except Exception:  # each part of the user's raises what it likes where it is no text
        return False
    objects, named = [], {str(part) for name in _ARGUMENTS for part in keras.tree.flatten(vars(task)[name])}
    json.loads(json.dumps(config, default=str), object_hook=objects.append)
    own = all((found.get("module") or "").split(".")[0] == _KERAS for found in objects if "class_name" in found)
    return own and not named & set(keras.saving.get_custom_objects())
