"""What each command of `tf-reweight` does: its flags, and a function `(flag values, arguments) -> exit status`.

Everything heavy is imported inside, so that `--help` is there at once.
"""

import json
import os
import pathlib
import shlex

from absl import flags

from tf_reweight.cli import explaining, looking, phone, sweeping
from tf_reweight.cli.arguments import by_input, check_needed, define_shape, one, shapes_of, show
from tf_reweight.cli.model_argument import define_import, loaded, one_model
from tf_reweight.cli.running import command_of, define_run, define_verify_arm, overrides_of
from tf_reweight.strict_json import to_json


def _define_compress(values):
    define_run(values)
    flags.DEFINE_string("budget", None, "what may be left, as macs=0.5 or weights=0.2", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "show the plan and stop", flag_values=values)


# Flags that ask for the defaults of a model of one's own. A configuration without them runs as it stands.
_OF_A_MODEL = ("model", "structure", "budget")


def _compress(values, positional):
    from tf_reweight import errors, workflow
    from tf_reweight.reports.progress import terminal

    asked = [name for name in _OF_A_MODEL if values[name].value is not None]
    if positional or values.config is None and values.model is None:
        fix = "For example --config configs/quickstart.yaml, or --model mine.keras --data my_data.py:load."
        if any("=" in argument for argument in positional):
            fix = "Write a value of the configuration as --set train.epochs=4."
        raise ValueError(
            errors.message(
                "`compress` needs --config FILE, or --model and --data, and no other arguments.", fix,
                config=values.config, model=values.model, arguments=positional,
            )
        )  # fmt: skip
    if values.model is not None and values.data is None and values.config is None:
        fix = "For example --data my_data.py:load, digits, an .npz file or a folder of images."
        raise ValueError(errors.message("--model needs --data, or a --config that names data.", fix, model=values.model))
    overrides = overrides_of(values)
    if values.dry_run and values.out is not None:
        workflow.check_out(values.out)
    if not asked:
        if values.epochs is not None:
            expected = "--epochs are shared out over the stages of a run with --model, --structure or --budget."
            fix = "Set those of each stage that the configuration has, as --set train.epochs=4."
            raise ValueError(errors.message(expected, fix, epochs=values.epochs, config=values.config))
        overrides += [f"task.monitor={json.dumps(values.monitor)}"] if values.monitor is not None else []
        if values.dry_run:
            return _shown(values, workflow.plan(values.config, overrides=overrides))
        progress = terminal(stderr=values.json)
        how = {"out": values.out, "overrides": overrides, "console": progress, "command": command_of("compress", values)}
        figures = workflow.compress(values.config, **how)
    else:
        structure = "channels" if values.structure is None else values.structure
        how = {"structure": structure, "budget": values.budget, "epochs": values.epochs}
        how |= {"config": values.config, "overrides": overrides, "monitor": values.monitor}
        if values.dry_run:
            return _shown(values, workflow.plan_by_names(**how))
        progress = terminal(stderr=values.json)
        figures = workflow.compress_by_names(**how, out=values.out, console=progress, command=command_of("compress", values))
    if values.json:
        print(to_json(figures, indent=1, default=str))
    return 0


def _shown(values, figures):
    show(values, figures, _plan_tables(figures))
    return 0


def _plan_tables(figures):
    from rich.table import Table

    from tf_reweight.reports.tables import left_out_tables

    epochs = ", ".join(f"{stage} {count}" for stage, count in figures["epochs"].items())
    table = Table(title=f"Plan of {figures['config']['name']} (epochs: {epochs})")
    for heading in ("kernel", "structure", "strength", "groups", "weights"):
        table.add_column(heading, justify="left" if heading in ("kernel", "structure") else "right")
    for kernel in figures["kernels"]:
        table.add_row(
            kernel["name"],
            kernel["structure"],
            "-" if kernel["strength"] is None else f"{kernel['strength']:g}",
            f"{kernel['num_groups']:,}",
            f"{kernel['num_weights']:,}",
        )
    return [table, *left_out_tables(figures["left_out"])]


def _report(values, positional):
    from tf_reweight.reports.tables import model_report, model_tables

    figures = model_report(one_model(values, positional))
    show(values, figures, model_tables(figures))
    return 0


def _groups(values, positional):
    from tf_reweight import coupling

    coupled = coupling.groups(one_model(values, positional))
    if values.json:
        print(to_json(coupled.to_dict(), indent=1))
    else:
        print(coupled)
    return 0


def _define_shrink(values):
    define_import(values)
    flags.DEFINE_integer("multiple_of", 1, "keep channel counts at multiples of this", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("find_groups", False, "make grouped convolutions of block-diagonal kernels", flag_values=values)


def _shrink(values, positional):
    from tf_reweight import errors, shrinking

    if len(positional) != 2 or not positional[1].endswith(".keras"):
        fix = "For example: tf-reweight shrink pruned.keras small.keras."
        raise ValueError(errors.message("Expected IN.keras and OUT.keras.", fix, arguments=positional))
    target = pathlib.Path(positional[1])
    _check_target(target)
    model = loaded(values, positional[0])
    small, report = shrinking.shrink(model, values.multiple_of, find_groups=values.find_groups, return_report=True)
    _save_whole(small, target)
    print(to_json(report.to_dict(), indent=1) if values.json else report)
    return 0


def _check_target(target):
    """Raises unless a model can be saved there, so that no work is done for nothing."""
    from tf_reweight import errors, files

    files.folder_path("path", target)
    if target.is_dir():
        raise IsADirectoryError(errors.message("OUT.keras must not be a folder.", "Choose another name.", path=str(target)))
    if not target.parent.is_dir():
        raise FileNotFoundError(errors.message("The folder of OUT.keras must exist.", "Create it first.", path=str(target)))
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(errors.message("The folder of OUT.keras must be writable.", "Choose another.", path=str(target)))


def _save_whole(model, target):
    """Writes all of a model or nothing."""
    from tf_reweight import files

    with files.whole(target, ".keras") as temporary:
        model.save(temporary)


def _define_pack(values):
    define_shape(values)
    define_verify_arm(values)
    flags.DEFINE_bool("zipped", False, "pack only what is smaller in a zipped download as well", flag_values=values)


def _pack(values, positional):
    from tf_reweight import errors
    from tf_reweight.export import pack_tflite

    if len(positional) != 2:
        fix = "For example: tf-reweight pack model.tflite packed.tflite."
        raise ValueError(errors.message("Expected IN.tflite and OUT.tflite.", fix, arguments=positional))
    result = pack_tflite(*positional, verify_arm=values.verify_arm, zipped=values.zipped, shapes=shapes_of(values.shape))
    show(values, result.to_dict(), result.to_tables() if not values.json else [])
    return 0


def _define_arm(values):
    define_shape(values)
    define_verify_arm(values)
    define_import(values)
    fix = "OUT.keras: write the model eligible, with the same outputs; the argument is a .keras then"
    flags.DEFINE_string("fix", None, fix, flag_values=values)


def _fix_for_arm(values, positional):
    from tf_reweight import errors
    from tf_reweight.export import make_arm_eligible

    source, target = one(positional, "MODEL.keras"), pathlib.Path(values.fix)
    if target.suffix != ".keras" or values.verify_arm:
        fix = "For example: tf-reweight arm model.keras --fix eligible.keras; --verify_arm is for .tflite files."
        raise ValueError(errors.message("`--fix` takes OUT.keras alone.", fix, fix=values.fix, verify_arm=values.verify_arm))
    _check_target(target)
    made, report = make_arm_eligible(loaded(values, source))
    _save_whole(made, target)
    print(to_json(report.to_dict(), indent=1) if values.json else report)
    return 0


def _arm(values, positional):
    check_needed(values, {"import": "fix", "shape": "verify_arm"})
    if values.fix is not None:
        return _fix_for_arm(values, positional)
    from tf_reweight.export import arm_eligibility
    from tf_reweight.packing import equivalence
    from tf_reweight.tflite import constants
    from tf_reweight.tflite.emulation import Emulator
    from tf_reweight.tflite.execution import read_file

    path = one(positional, "FILE.tflite")
    content = read_file(path)
    constants.parse(content, path)  # which names the file
    report = arm_eligibility(content)
    figures = report.to_dict()
    if values.verify_arm:
        figures["emulated_error"] = equivalence.check_on_arm(content, Emulator(), shapes_of(values.shape))
    show(values, figures, report.to_tables() if not values.json else [])
    if values.verify_arm and not values.json:
        print(f"Executed on an emulated ARM machine: within {figures['emulated_error']:.1e} of the outputs' scale.")
    return 0


def _define_bundle(values):
    define_shape(values)
    flags.DEFINE_string("labels", None, "text file with one class name per line", flag_values=values)
    flags.DEFINE_string("preprocessing", None, "how an input is made of raw data, in words", flag_values=values)
    flags.DEFINE_multi_string(
        "normalization", [], "MEAN,STD: the input is (raw - MEAN) / STD, as 0,255 for pixels divided by 255; or "
        "INPUT=MEAN,STD, which may be repeated", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("header", None, "write a C header; default for files up to 1 MiB", flag_values=values)
    flags.DEFINE_multi_string("extra", [], "a further file to put in; may be repeated", flag_values=values)


def _bundle(values, positional):
    from tf_reweight import errors
    from tf_reweight.export import bundle

    if len(positional) != 2:
        fix = "For example: tf-reweight bundle model.tflite app.zip --labels labels.txt."
        raise ValueError(errors.message("Expected FILE.tflite and OUT.zip.", fix, arguments=positional))
    labels = _lines(values.labels) if values.labels is not None else None
    normalization = by_input("normalization", values.normalization, _numbers, "MEAN,STD", "0,255")
    shapes = shapes_of(values.shape)
    description = bundle(*positional, labels, values.preprocessing, values.extra, normalization, values.header, shapes)
    print(to_json(description, indent=1))
    return 0


def _lines(path):
    """The lines of a text file, without empty ones at its end."""
    from tf_reweight import errors, files

    path = pathlib.Path(path).expanduser()
    files.check_is_file(path, "The file of labels", labels=str(path))
    try:
        return path.read_text(encoding="utf-8").rstrip().splitlines()
    except UnicodeDecodeError as error:
        fix = "Save it as UTF-8."
        raise ValueError(errors.message("Labels must be text, one a line.", fix, labels=str(path))) from error


def _numbers(text):
    return [float(number) for number in text.split(",")]


def _define_benchmark(values):
    define_shape(values)
    flags.DEFINE_integer("runs", 100, "measured runs of each file", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("threads", 1, "threads of the runtime", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("warmup", 10, "runs of each file before measuring", lower_bound=0, flag_values=values)
    flags.DEFINE_string("runtime", "interpreter", '"interpreter", or "compiled" for CompiledModel', flag_values=values)


def _benchmark(values, positional):
    from tf_reweight import errors
    from tf_reweight.export import benchmark
    from tf_reweight.tflite import latency

    if not positional:
        raise ValueError(errors.message("Expected at least one FILE.tflite.", "See tf-reweight --help.", arguments=positional))
    if any(path.endswith(".json") for path in positional):
        _check_unset(values, ("runs", "threads", "warmup", "shape", "runtime"))
        timed = latency.reopen(positional)
    else:
        shapes = shapes_of(values.shape)
        timed = benchmark(positional, values.runs, values.threads, values.warmup, shapes, values.runtime)
    show(values, timed.to_dict(), timed.to_tables() if not values.json else [])
    return 0


def _check_unset(values, names):
    """Raises ValueError for a flag of a measurement that is given where none is made."""
    from tf_reweight import errors

    for name in names:
        if values[name].present:
            expected = f"--{name} has no effect on measurements that are read from .json files."
            raise ValueError(errors.message(expected, "Leave it out, or name .tflite files.", **{name: values[name].value}))


def _no_flags(values):
    """A command without flags of its own."""


def _init(values, positional):
    from tf_reweight.cli import starting

    folder = one(positional or ["."], "FOLDER")
    written = starting.write(folder)
    if values.json:
        print(to_json([str(path) for path in written], indent=1))
        return 0
    print(f"{len(written)} files written to {folder / 'configs'}. Next:")
    there = f"cd {shlex.quote(str(folder))} && " if folder != pathlib.Path(".") else ""
    print(f"  {there}tf-reweight compress --config configs/quickstart.yaml")
    return 0


def notes(command):
    """What the help of a command says besides its flags."""
    if command != "compress":
        return ""
    from tf_reweight.workflow import keys

    return f"\n{keys.listing()}\n"


COMMANDS = {
    "init": (_no_flags, _init),
    "compress": (_define_compress, _compress),
    "sweep": (sweeping.define, sweeping.sweep),
    "report": (define_import, _report),
    "groups": (define_import, _groups),
    "shrink": (_define_shrink, _shrink),
    "inspect": (define_shape, looking.inspect),
    "check": (looking.define_check, looking.check),
    "pack": (_define_pack, _pack),
    "arm": (_define_arm, _arm),
    "bundle": (_define_bundle, _bundle),
    "benchmark": (_define_benchmark, _benchmark),
    "explain": (explaining.define, explaining.explain),
    "phone": (phone.define, phone.phone),
}
