"""The commands that look at a finished file: `inspect`."""

from tf_reweight.cli.arguments import one, shapes_of, show


def inspect(values, positional):
    """What is in a file, and where its operations run."""
    from tf_reweight.export import inspect_tflite
    from tf_reweight.tflite import apart, operations
    from tf_reweight.tflite.execution import read_file

    path = one(positional, "FILE.tflite")
    summary = inspect_tflite(path)
    figures = {**summary.to_dict(), "foreign": list(operations.foreign(summary.ops)), "delegation": None, "not_loaded": ""}
    tables = summary.to_tables()
    try:
        found = apart.delegation(read_file(path), shapes_of(values.shape))
    except ValueError as error:
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
        print(f"Where its operations run is not known: {figures['not_loaded']}")
