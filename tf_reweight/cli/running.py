"""What `compress` and `sweep` share: the flags that say what is run, as overrides of a configuration and as typed."""

import json
import shlex

from absl import flags

from tf_reweight.cli.model_argument import define_import

# Flags that stand for keys of a configuration.
_KEYS = {"model": "model.name", "data": "data.name", "data_dir": "data.data_dir", "distribute": "distribute"}
# How a command is told again: flags of one value, of several, and those that are said last.
_ONE = ("config", "model", "data", "structure", "budget", "epochs", "monitor")
_SEVERAL = ("budgets", "import", "set")
_LAST = ("data_dir", "distribute", "out")


def define_run(values):
    """Defines the flags of a model, data and stages."""
    flags.DEFINE_string("config", None, "YAML file of the run", flag_values=values)
    flags.DEFINE_multi_string("set", [], "section.key=value; overrides the file; may be repeated", flag_values=values)
    flags.DEFINE_string("model", None, "a built .keras file, or FILE.py:FUNCTION, which returns a model", flag_values=values)
    flags.DEFINE_string(
        "data", None, "FILE.py:FUNCTION, which returns train, validation and test; or a data set's name, an .npz, a folder",
        flag_values=values,
    )
    define_import(values)
    flags.DEFINE_string("structure", None, "channels (default), unstructured, filter, block, ...", flag_values=values)
    flags.DEFINE_integer("epochs", None, "epochs of all stages together", lower_bound=0, flag_values=values)
    flags.DEFINE_string("monitor", None, "the metric that decides and heads the report", flag_values=values)
    flags.DEFINE_string("data_dir", None, "where tensorflow-datasets keeps its data", flag_values=values)
    flags.DEFINE_string("distribute", None, "mirrored: a copy of the model on each device", flag_values=values)
    flags.DEFINE_string("out", None, "run folder; default runs/<name>", flag_values=values)
    define_verify_arm(values)


def define_verify_arm(values):
    """Defines the flag that asks for runs on an emulated ARM machine."""
    flags.DEFINE_bool("verify_arm", False, "run files on an emulated ARM machine as well; see docs/arm.md", flag_values=values)


def overrides_of(values):
    """What the flags say of a configuration, as `key=value`: `--set`, and those that stand for keys."""
    made = [f"{key}={json.dumps(values[flag].value)}" for flag, key in _KEYS.items() if values[flag].value is not None]
    made += [f"model.custom={json.dumps(values['import'].value)}"] if values["import"].value else []
    return [*values.set, *made, *(["export.verify_arm=true"] if values.verify_arm else [])]


def command_of(name, values):
    """The command as it was typed, for reports."""
    parts = ["tf-reweight", name]
    for flag in _ONE:
        parts += [f"--{flag}", str(values[flag].value)] if flag in values and values[flag].value is not None else []
    for flag in _SEVERAL:
        for item in values[flag].value if flag in values else ():
            parts += [f"--{flag}", item]
    for flag in _LAST:
        parts += [f"--{flag}", values[flag].value] if values[flag].value else []
    return shlex.join([*parts, *(["--verify_arm"] if values.verify_arm else [])])
