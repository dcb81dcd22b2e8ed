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
    made = {key: (flag, values[flag].value) for flag, key in _KEYS.items() if values[flag].value is not None}
    made |= {"model.custom": ("import", values["import"].value)} if values["import"].value else {}
    made |= {"export.verify_arm": ("verify_arm", True)} if values.verify_arm else {}
    # `--monitor` says such a key too, and comes into the run as an argument of its own.
    monitor = {} if values.monitor is None else {"task.monitor": ("monitor", values.monitor)}
    _check_said_once(values, made | monitor)
    return [*values.set, *(f"{key}={json.dumps(value)}" for key, (_, value) in made.items())]


def _check_said_once(values, made):
    """Raises where `--set` says something else than another `--set` or a flag, of which one would be dropped in silence.

    A configuration in a file is another matter: flags are there to override it.

    Args:
        values: the flags.
        made: `(name of the flag, its value)` by the key that it stands for.
    """
    from tf_reweight import errors, workflow

    fix, said = "Leave one of them out.", {}
    for key, _, text in (word.partition("=") for word in values.set):
        if said.setdefault(key, text) != text:
            raise ValueError(errors.message(f"`{key}` is said twice by --set.", fix, set=values.set))
    section = workflow.config.read({}, values.set)
    for key, (flag, value) in made.items():
        if _said_otherwise(section, key.split("."), value):
            expected = f"`{key}` is said twice, by --{flag} and by --set."
            raise ValueError(errors.message(expected, fix, **{flag: value}, set=values.set))
    if values.structure is not None:
        workflow.unheeded.check_structure(section, values.structure)


def _said_otherwise(node, path, value):
    """Whether nested mappings have another value in a place than this one; where they have none they do not."""
    if not path or not isinstance(node, dict):
        return node != value
    return path[0] in node and _said_otherwise(node[path[0]], path[1:], value)


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
