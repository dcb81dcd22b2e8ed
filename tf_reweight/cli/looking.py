"""The commands that look at a finished file: `inspect` and `check`."""


from absl import flags

from tf_reweight.cli.arguments import check_needed, define_shape, one, shapes_of, show
from tf_reweight.cli.model_argument import define_import, loaded


def inspect(values, positional):
    """What is in a file, and where its operations run."""
    from tf_reweight.export import inspect_tflite
    from tf_reweight.tflite import apart, flatbuffer, operations
    from tf_reweight.tflite import shapes as input_shapes
    from tf_reweight.tflite.execution import read_file

    path, shapes = one(positional, "FILE.tflite"), shapes_of(values.shape)
    summary, content = inspect_tflite(path), read_file(path)
    figures = {**summary.to_dict(), "foreign": list(operations.foreign(summary.ops)), "delegation": None, "not_loaded": ""}
    tables = summary.to_tables()
    try:
        found = apart.delegation(content, shapes, path)
    except input_shapes.Unfit:
        raise
    except ValueError as error:
        if str(error) == flatbuffer.unfit(content, path):
            raise  # of a damaged file nothing that was read is certain
        # Everything else about the file is known all the same.
        figures["not_loaded"] = str(error)
    else:
        figures["delegation"] = found.to_dict()
        tables += found.to_tables()
    show(values, figures, tables)
    if not values.json:
        _say(figures)
    return 0


def _say(figures):
    for sentence in figures["foreign"]:
        print(f"{sentence}.")
    if figures["not_loaded"]:
        print(f"LiteRT refuses the file, so that where its operations run is not known: {figures['not_loaded']}")


# Flags of `check` that have no effect without another.
_NEEDS = {
    "agrees_with": "data", "data": "agrees_with", "data_dir": "agrees_with", "import": "agrees_with", "max_drop": "agrees_with",
    "tolerance": "agrees_with", "mode": "agrees_with", "threads": "max_ms",
}  # fmt: skip


def define_check(values):
    """Flags of `check`."""
    define_shape(values)
    flags.DEFINE_integer("max_bytes", None, "largest size of the file", lower_bound=1, flag_values=values)
    flags.DEFINE_float("max_ms", None, "longest median time of one run here, in milliseconds", flag_values=values)
    flags.DEFINE_integer("threads", 1, "interpreter threads for --max_ms", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("fully_accelerated", False, "XNNPACK must run every operation", flag_values=values)
    flags.DEFINE_string("agrees_with", None, "MODEL.keras whose outputs and metrics it must have on --data", flag_values=values)
    flags.DEFINE_string("data", None, "as of compress; the test split counts, else the validation split", flag_values=values)
    flags.DEFINE_string("data_dir", None, "where tensorflow-datasets keeps its data", flag_values=values)
    define_import(values)
    drop = "largest loss of each metric against the model, default 0.02 of a share of examples and a tenth of others; without "
    drop += "labels, largest share of examples with another class, or relative error of numbers"
    flags.DEFINE_float("max_drop", None, drop, lower_bound=0.0, flag_values=values)
    error = "largest relative error of outputs, default that of an export, 0.25 with 8 bits; inf to compare metrics alone"
    flags.DEFINE_float("tolerance", None, error, lower_bound=0.0, flag_values=values)
    way = "which way metrics are better whose names do not say it; without it they are not judged"
    flags.DEFINE_enum("mode", None, ["max", "min"], way, flag_values=values)


def check(values, positional):
    """Whether a file is what was asked for: 0 if so, 1 where it falls short. An error, as of every command, is 2."""
    found = _checked(values, positional)
    show(values, found.to_dict(), found.to_tables())
    return 0 if found.passed else 1


def _checked(values, positional):
    from tf_reweight.export import check_file

    path = one(positional, "FILE.tflite")
    check_needed(values, _NEEDS)
    model = None if values.agrees_with is None else loaded(values, values.agrees_with)
    return check_file(
        path, max_bytes=values.max_bytes, max_ms=values.max_ms, fully_accelerated=values.fully_accelerated, agrees_with=model,
        data=_data(values, model), max_drop=values.max_drop, num_threads=values.threads, shapes=shapes_of(values.shape),
        tolerance=values.tolerance, mode=values.mode,
    )  # fmt: skip


def _data(values, model):
    """What file and model are compared on; None where nothing is asked."""
    if model is None:
        return None
    from tf_reweight.workflow.held_out import held_out

    return held_out(model, values.data, values.data_dir, final=True)
