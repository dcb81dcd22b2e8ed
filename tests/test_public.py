"""What a user imports: it is light, every public class is in a table, and the shipped text names what exists."""

import inspect
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import tf_reweight as tfr
from tf_reweight import callbacks, constraints, penalties, regularizers, structures, wrappers

ROOT = pathlib.Path(__file__).parent.parent

# Where each public class of the core has its round trip or its laws; a class missing here fails the test below.
COVERED = {
    "Reweighted": "test_regularizers.py", "Combined": "test_regularizers.py", "Reweighting": "test_callbacks.py",
    "CosineDecay": "test_callbacks.py", "KeepZeros": "test_masking.py", "Masked": "test_masking.py", "Mask": "test_masking.py",
    "Penalty": "test_penalties.py", "Structure": "test_structures.py",
    **{type(entry).__name__: "tables.py" for entry in (penalties.LogSum(), penalties.Arctan(), penalties.LogSquared())},
    "Lasso": "tables.py",
    **{cls.__name__: "tables.py" for cls in map(type, map(structures.get, structures.names()))},
}  # fmt: skip


def public_classes():
    for module in (callbacks, constraints, penalties, regularizers, structures, wrappers):
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__.startswith("tf_reweight") and not name.startswith("_"):
                yield name


def test_every_public_class_is_tested_where_the_table_says():
    for name in set(public_classes()):
        assert name in COVERED, f"{name} is in no test table"
        assert name in (ROOT / "tests" / COVERED[name]).read_text()


def test_import_is_light():
    """No plotting, no data sets, no tfmot; not even Keras until something is used."""
    code = (
        "import sys, tf_reweight\n"
        "heavy = {'matplotlib', 'tensorflow_datasets', 'tensorflow_model_optimization', 'sklearn', 'tensorflow', 'keras'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_everything_promised_at_the_top_level_exists():
    for name in tfr.__all__:
        assert getattr(tfr, name) is not None
    with pytest.raises(AttributeError):
        tfr.nothing


def test_every_public_function_has_a_docstring():
    for name in tfr.__all__:
        value = getattr(tfr, name)
        if inspect.isfunction(value) or inspect.isclass(value) or inspect.ismodule(value):
            assert value.__doc__ and value.__doc__.strip(), name


def test_readme_names_configs_that_exist():
    names = set(re.findall(r"configs/([A-Za-z0-9_]+\.yaml)", (ROOT / "README.md").read_text()))
    assert names and names <= {path.name for path in (ROOT / "configs").glob("*.yaml")}
    shown = (ROOT / "README.md").read_text()
    assert all(path.name in shown for path in (ROOT / "configs").glob("*.yaml"))


def test_serializable_classes_are_registered_under_our_name():
    for cls in (regularizers.Reweighted, regularizers.Combined, wrappers.Masked):
        assert keras.saving.get_registered_name(cls) == f"tf_reweight>{cls.__name__}"
