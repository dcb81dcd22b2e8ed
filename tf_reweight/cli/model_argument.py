"""A Keras model as an argument of a command, with the Python files that its own classes come from."""

from absl import flags

from tf_reweight.cli.arguments import one


def define_import(values):
    """The flag that names those files."""
    custom = "Python file with layers, losses and metrics of the model; may be repeated"
    flags.DEFINE_multi_string("import", [], custom, flag_values=values)


def loaded(values, path):
    """The model of a `.keras` file, which may have classes of the files named by `--import`."""
    from tf_reweight.data import code, models

    parts = {}
    for file in values["import"].value:
        parts |= code.parts_of(code.imported(file))
    return models.load(str(path), custom_objects=parts or None)


def one_model(values, positional):
    """The model that is the only argument."""
    return loaded(values, one(positional, "MODEL.keras"))
