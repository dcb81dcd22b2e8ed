"""The command `explain`."""

from absl import flags

from tf_reweight.cli.arguments import show
from tf_reweight.cli.model_argument import define_import, loaded


def define(values):
    """Its flags."""
    flags.DEFINE_string(
        "data", None, "FILE.py:FUNCTION, which returns train, validation and test; or a data set's name, an .npz, a folder",
        flag_values=values,
    )
    flags.DEFINE_string("data_dir", None, "where tensorflow-datasets keeps its data", flag_values=values)
    define_import(values)
    flags.DEFINE_integer("examples", 32, "on which operations are compared", lower_bound=1, flag_values=values)


def explain(values, positional):
    """Which operations of a file lose what its float model has."""
    from tf_reweight import errors, export
    from tf_reweight.workflow.held_out import held_out

    if len(positional) != 2 or values.data is None:
        fix = "For example: tf-reweight explain model.keras model.tflite --data my_data.py:load."
        expected = "Expected MODEL.keras, FILE.tflite and --data."
        raise ValueError(errors.message(expected, fix, arguments=positional, data=values.data))
    model = loaded(values, positional[0])
    found = export.explain(model, positional[1], held_out(model, values.data, values.data_dir), values.examples)
    show(values, found.to_dict(), found.to_tables() if not values.json else [])
    return 0
