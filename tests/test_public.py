"""What a user imports: it is light, every public class is in a table, and the shipped text names what exists."""

import ast
import inspect
import pathlib
import subprocess
import sys
import typing

import keras
import pytest

import tf_reweight as tfr
from tf_reweight import baselines, coupling, learning_rate, penalties, quantization, structures
from tf_reweight.kernels import constraints
from tf_reweight.penalties import epsilons, multi_gradient, proximal, reweighted, reweighting
from tf_reweight.pruning import keep_zeros, masked
from tf_reweight.reports import curves

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = (
    reweighting, constraints, coupling, epsilons, multi_gradient, penalties, proximal, quantization, reweighted, baselines,
    structures, curves, masked, keep_zeros, learning_rate,
)  # fmt: skip

# Where each public class has its round trip or its laws; a class missing here fails the test below.
COVERED = {
    "test_regularizers.py": ("Reweighted", "Combined"),
    "test_callbacks.py": ("Reweighting", "CosineDecay", "BorrowedRate"),
    "test_masking.py": ("KeepZeros", "Masked", "Mask"),
    "test_penalties.py": ("Penalty",),
    "test_structures.py": ("Structure",),
    "test_page.py": ("Curves", "NormSummaries"),
    "test_coupled_pruning.py": ("Cost", "Coupled", "GroupPruneReport", "PrunedSet", "CoupledPenalties", "CoupledProximal"),
    "test_budget.py": ("Budget", "Budgeted", "BudgetProximal", "CoupledBudgeted"),
    "test_iterative.py": ("IterativePruning",),
    "test_coupling.py": ("CoupledSet", "CoupledSets", "FrozenChannels", "Slice"),
    "test_multi_gradient.py": ("MultiGradient",),
    "test_proximal.py": ("Proximal", "SoftThreshold", "Silent"),
    "test_baselines.py": (
        "ADMM", "AdmmPenalty", "Adaptive", "Annealed", "Clip", "Clipping", "ConstantSparsity", "Epsilon", "Fixed",
        "GradualMagnitude", "PolynomialDecay",
    ),
    "test_quantization.py": (
        "ClusterReport", "ClusteredKernel", "FreezeRanges", "QuantizationReport", "QuantizedActivation", "QuantizedKernel",
        "QuantizedLayer", "Shared",
    ),
    "test_levels.py": ("ToLevels",),
    "test_zeros_stay.py": ("KeptZeros",),
    "test_solver_laws.py": ("Inserted",),
    "tables.py": (
        "Lasso", *(type(entry).__name__ for entry in (penalties.LogSum(), penalties.Arctan(), penalties.LogSquared())),
        *(cls.__name__ for cls in map(type, map(structures.get, structures.names()))),
    ),
}  # fmt: skip
# Records that functions return, and bases: the tests look at them by their fields and their heirs.
RECORDS = {
    "ClusterReport", "ClusteredKernel", "CoupledPenalties", "CoupledSet", "CoupledSets", "Epsilon", "FrozenChannels",
    "GroupPruneReport", "Inserted", "Penalty", "PrunedSet", "QuantizationReport", "QuantizedLayer", "Slice", "Structure",
}  # fmt: skip


def public_classes():
    for room in ROOMS:
        for name, value in vars(room).items():
            if inspect.isclass(value) and value.__module__.startswith(room.__name__) and not name.startswith("_"):
                yield name


def test_every_public_class_is_tested_where_the_table_says():
    homes = {name: home for home, names in COVERED.items() for name in names}
    for name in set(public_classes()):
        assert name in homes, f"{name} is in no test table"
        assert name in RECORDS or name in (ROOT / "tests" / homes[name]).read_text(), f"{homes[name]} does not test {name}"


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


def test_what_editors_read_is_what_is_loaded():
    """The imports for type checkers, `__all__` and the table of homes are three lists of the same names."""
    tree = ast.parse(pathlib.Path(tfr.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    read = {alias.name: node.module for node in block.body for alias in node.names}
    homes = {name: f"tf_reweight.{home}" for name, home in tfr._HOME.items()}
    assert {name: module for name, module in read.items() if module != "tf_reweight"} == homes
    assert sorted(read) == sorted(set(tfr.__all__) - {"__version__"})
    assert (pathlib.Path(tfr.__file__).parent / "py.typed").is_file()


def test_modules_inside_packages_need_no_import_of_their_own():
    """Each in a process that has imported no other: forks of one that has waited for Keras."""
    code = """
import os, sys, keras, tf_reweight as tfr
for name in sys.argv[1:]:
    if not (child := os.fork()):
        os._exit(0 if callable(eval(f"tfr.{name}")) else 1)
    assert os.waitpid(child, 0)[1] == 0, name
"""
    names = ["kernels.table.register", "reports.tables.summary", "graph.walking.walk", "data.models.names"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_package_has_no_other_modules_than_its_own():
    for package in (tfr.kernels, tfr.data, tfr.workflow):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing


def test_every_public_function_has_type_hints():
    for name in tfr.__all__:
        value = getattr(tfr, name)
        if callable(value):
            signature = inspect.signature(value)
            untyped = [parameter.name for parameter in signature.parameters.values() if parameter.annotation is parameter.empty]
            assert set(untyped) <= {"kwargs"}, f"{name} has no hint for {untyped}"
            assert inspect.isclass(value) or signature.return_annotation is not signature.empty, name
            assert typing.get_type_hints(value.__init__ if inspect.isclass(value) else value)


def test_every_public_function_has_a_docstring():
    for name in tfr.__all__:
        value = getattr(tfr, name)
        if inspect.isfunction(value) or inspect.isclass(value) or inspect.ismodule(value):
            assert value.__doc__ and value.__doc__.strip(), name


def test_serializable_classes_are_registered_under_our_name():
    for cls in (reweighted.Reweighted, reweighted.Combined, masked.Masked):
        assert keras.saving.get_registered_name(cls) == f"tf_reweight>{cls.__name__}"
