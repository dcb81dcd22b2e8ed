"""A Keras model as an argument of a command, with the Python files that its own classes come from."""

from absl import flags

from tf_reweight.cli.arguments import one


def define_import(values):
    """The flag that names those files."""
    custom = "Python file with layers, losses and metrics of the model; may be repeated"
    flags.DEFINE_multi_string("import", [], custom, flag_values=values)


def loaded(values, path):
    """The model of a `.keras` file, which may have classes of the files named by `--import`; or of `FILE.py:FUNCTION`."""
    import keras

    from tf_reweight.data import code, models
    from tf_reweight.graph.checking import check_model
    from tf_reweight.workflow.config import Config

    if code.is_code(path):
        # Random weights are those of a run with the default seed.
        keras.utils.set_random_seed(Config.model_fields["seed"].default)
        model = code.called(str(path), "model")
        check_model(model)
        return model
    parts = {}
    for file in values["import"].value:
        parts |= code.parts_of(code.imported(file))
    return models.load(str(path), custom_objects=parts or None)


def one_model(values, positional):
    """The model that is the only argument."""
    return loaded(values, one(positional, "MODEL.keras or FILE.py:FUNCTION"))
