"""The command line: `tf-reweight COMMAND ...`."""

import json
import os
import pathlib
import sys

from absl import flags

_USAGE = """\
tf-reweight: train with a regularizer, remove what it freed, ship a checked int8 .tflite

  tf-reweight compress --config FILE [--set key=value ...] [--data_dir DIR] [--out DIR] [--dry_run]
  tf-reweight report MODEL.keras
  tf-reweight inspect FILE.tflite
  tf-reweight benchmark A.tflite B.tflite ... [--runs N] [--threads N]

Every command takes --json (figures instead of tables), --debug (the traceback of an error) and --help.
"""


def console(argv=None):
    """Entry point of the `tf-reweight` script; returns the exit status: 0, 1 for an error it explains, 2 for wrong usage."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_USAGE)
        return 0 if argv else 2
    if argv[0] not in _COMMANDS:
        from tf_reweight import errors

        print(errors.unknown("command", argv[0], _COMMANDS), file=sys.stderr)
        return 2
    define, run = _COMMANDS[argv[0]]
    values = flags.FlagValues()
    flags.DEFINE_bool("json", False, "print the figures as JSON", flag_values=values)
    flags.DEFINE_bool("debug", False, "show the traceback of an error", flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    define(values)
    try:
        positional = values(argv)[1:]
    except flags.Error as error:
        print(f"{error}\n\n{_USAGE}", file=sys.stderr)
        return 2
    if values.help:
        print(f"{_USAGE}\nFlags of {argv[0]}:\n{values.get_help()}")
        return 0
    return _guarded(run, values, positional)


def _guarded(run, values, positional):
    """Runs a command with TensorFlow quiet; errors we explain are printed as their text alone."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        return run(values, positional)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        if values.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def _show(values, figures, tables):
    if values.json:
        print(json.dumps(figures, indent=1, default=str))
        return
    from tf_reweight.progress import terminal

    for table in tables:
        terminal().print(table)


def _one(positional, what):
    from tf_reweight import errors

    if len(positional) != 1:
        raise ValueError(errors.message(f"Expected one {what}.", "See tf-reweight --help.", arguments=positional))
    return pathlib.Path(positional[0])


def _define_compress(values):
    flags.DEFINE_string("config", None, "YAML file of the run", flag_values=values)
    flags.DEFINE_multi_string("set", [], "section.key=value; overrides the file; may be repeated", flag_values=values)
    flags.DEFINE_string("data_dir", None, "where tensorflow-datasets keeps its data", flag_values=values)
    flags.DEFINE_string("out", None, "run folder; default runs/<name>", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "show the plan and stop", flag_values=values)


def _compress(values, positional):
    from tf_reweight import errors, workflow

    if values.config is None or positional:
        raise ValueError(
            errors.message(
                "`compress` needs --config FILE and no other arguments.", "For example --config configs/quickstart.yaml.",
                config=values.config, arguments=positional,
            )
        )  # fmt: skip
    overrides = list(values.set)
    if values.data_dir is not None:
        overrides.append(f"data.data_dir={values.data_dir}")
    if values.dry_run:
        figures = workflow.plan(values.config, overrides=overrides)
        _show(values, figures, _plan_tables(figures))
        return 0
    from tf_reweight.progress import terminal

    progress = terminal(stderr=values.json)
    figures = workflow.compress(values.config, out=values.out, overrides=overrides, console=progress, command=_command(values))
    if values.json:
        print(json.dumps(figures, indent=1, default=str))
    return 0


def _command(values):
    import shlex

    parts = ["tf-reweight", "compress", "--config", values.config]
    for item in values.set:
        parts += ["--set", item]
    return shlex.join(parts + (["--data_dir", values.data_dir] if values.data_dir else []))


def _plan_tables(figures):
    from rich.table import Table

    from tf_reweight.report import left_out_tables

    epochs = ", ".join(f"{stage} {count}" for stage, count in figures["epochs"].items())
    table = Table(title=f"Plan of {figures['config']['name']} (epochs: {epochs})")
    for heading in ("kernel", "structure", "strength", "groups", "weights"):
        table.add_column(heading, justify="left" if heading in ("kernel", "structure") else "right")
    for kernel in figures["kernels"]:
        table.add_row(
            kernel["name"],
            kernel["structure"],
            f"{kernel['strength']:g}",
            f"{kernel['num_groups']:,}",
            f"{kernel['num_weights']:,}",
        )
    return [table, *left_out_tables(figures["left_out"])]


def _report(values, positional):
    from tf_reweight import models
    from tf_reweight import report as reports

    figures = reports.model_report(models.load(str(_one(positional, "MODEL.keras"))))
    _show(values, figures, reports.model_tables(figures))
    return 0


def _inspect(values, positional):
    from tf_reweight.export import inspect_tflite

    summary = inspect_tflite(_one(positional, "FILE.tflite"))
    _show(values, summary.to_dict(), summary.to_tables() if not values.json else [])
    return 0


def _define_benchmark(values):
    flags.DEFINE_integer("runs", 100, "measured runs of each file", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("threads", 1, "interpreter threads", lower_bound=1, flag_values=values)


def _benchmark(values, positional):
    from tf_reweight import errors
    from tf_reweight.export import benchmark

    if not positional:
        raise ValueError(errors.message("Expected at least one FILE.tflite.", "See tf-reweight --help.", arguments=positional))
    timed = benchmark([pathlib.Path(p) for p in positional], num_runs=values.runs, num_threads=values.threads)
    _show(values, timed.to_dict(), timed.to_tables() if not values.json else [])
    return 0


def _no_flags(values):
    """A command without flags of its own."""


_COMMANDS = {
    "compress": (_define_compress, _compress),
    "report": (_no_flags, _report),
    "inspect": (_no_flags, _inspect),
    "benchmark": (_define_benchmark, _benchmark),
}

if __name__ == "__main__":
    sys.exit(console())
