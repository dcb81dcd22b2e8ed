"""One form of every check of a number: what is let in, what is kept out, and the words; and nobody writes another by hand."""

import ast
import dataclasses
import importlib
import inspect
import json
import pathlib
import pkgutil

import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import checks, records
from tf_reweight.kernels.grouping import Groups
from tf_reweight.kernels.table import find
from tf_reweight.workflow import config, methods

PACKAGE = pathlib.Path(tfr.__file__).parent
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "check, good, bad, words",
    [
        (lambda v: checks.check_integer("n", v, 1), (1, 7), (0, -3, 1.0, True, "1", NAN), "an int >= 1"),
        (lambda v: checks.check_integer("n", v, 2, 16), (2, 16), (1, 17, False, 8.0), "an int in 2..16"),
        (lambda v: checks.check_number("n", v), (0, 1e9), (-1e-9, INF, -INF, NAN, True, None), "a finite number >= 0"),
        (lambda v: checks.check_number("n", v), (3.4e38,), (3.5e38, 1e300, 10**400), "a finite number >= 0 that float32 holds"),
        (lambda v: checks.check_number("n", v, exclusive=True), (1e-9, 3), (0, 0.0, -1, INF, NAN, True), "a finite number > 0"),
        (lambda v: checks.check_number("n", v, finite=False), (0, INF), (-1, NAN, False), "a number >= 0"),
        (lambda v: checks.check_number("n", v, 2.5), (2.5, 3), (2, NAN), "a finite number >= 2.5"),
        (lambda v: checks.check_fraction("n", v, "weights"), (0, 0.0, 0.99), (1, 1.0, -0.1, 80, NAN, None), r"in \[0, 1\)"),
        (lambda v: checks.check_fraction("n", v, "weights", exclusive=True), (1e-3,), (0, 0.0, 1.0, True), r"in \(0, 1\)"),
    ],
)  # fmt: skip
def test_numbers(check, good, bad, words):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match=f"`n` must be {words}. Received: n="):
            check(value)


NUMPY = ("int8", "uint8", "int64", "float16", "float32", "float64", "longdouble")


@pytest.mark.parametrize("kind", NUMPY)
def test_numbers_of_numpy_are_numbers_and_its_bools_and_times_are_none(kind):
    half, two = np.dtype(kind).type(0.5), np.dtype(kind).type(2)
    checks.check_number("n", two)
    whole = "int" in kind
    for check, value, good in (
        (lambda v: checks.check_integer("n", v, 1, 300), two, whole), (lambda v: checks.check_integer("n", v, 300), two, False),
        (lambda v: checks.check_fraction("n", v, "weights"), half, True), (checks.check_sparsity, two, False),
        (lambda v: checks.check_number("n", v), np.dtype(kind).type(0), True),
        (lambda v: checks.check_number("n", v, exclusive=True), np.dtype(kind).type(0), False),
    ):  # fmt: skip
        if good:
            check(value)
        else:
            with pytest.raises(ValueError, match="Received: "):
                check(value)
    plain = records.plain([two, (half,), "text"])
    assert type(plain[0]) is (int if whole else float) and plain == [2, (0 if whole else 0.5,), "text"]
    for value in (np.True_, np.timedelta64(2), np.datetime64(2, "s"), np.array([2])):
        assert not checks.is_number(value)
        with pytest.raises(ValueError, match="`strength` must be a finite number >= 0"):
            checks.check_number("strength", value)


def serialized():
    """What configurations hold, made of numbers of NumPy."""
    one, three, part = np.int64(1), np.int32(3), np.float32(0.5)
    yield tfr.penalties.LogSum(part).get_config()
    yield tfr.penalties.epsilons.get((part, np.float16(0.25))).serialize()
    yield tfr.structures.NOfM(one, three).serialize()
    yield tfr.structures.get({"name": "block", "shape": (one, three)}).serialize()
    yield tfr.structures.get({"name": "pattern", "positions": "natural", "entries": three, "num_patterns": one}).serialize()
    yield tfr.regularizers.Reweighted("filter", part, price=np.float16(2)).get_config()
    yield tfr.baselines.PolynomialDecay(np.float32(0), part, one, three).serialize()
    yield tfr.Budget(macs=part).to_dict()
    yield methods.get({"name": "admm", "rho": [part, np.float64(1)], "every": one}).serialize()
    yield methods.get({"name": "deadline", "until": part, "multiple_of": one}).serialize()
    yield tfr.quantization.QuantizedActivation(np.int64(8), momentum=part).get_config()
    said = {"regularize": {"learning_rate": part, "every": three, "method": {"name": "reweighted", "growth": np.float32(1)}}}
    yield config.load({**said, "prune": {"sparsity": part}}).model_dump(mode="python")
    yield tfr.prune(kernel_of(8, 4), "unstructured", threshold=part).to_dict()
    yield tfr.prune(kernel_of(8, 4), "unstructured", sparsity=part).to_dict()


def test_what_is_stored_of_numbers_of_numpy_is_json():
    for found in serialized():
        assert json.loads(json.dumps(found)), found


def test_percent_is_recognised_and_flags_are_bools():
    with pytest.raises(ValueError, match="Did you mean 0.8"):
        checks.check_sparsity(80)
    with pytest.raises(ValueError) as caught:
        checks.check_sparsity(1)
    assert "Did you mean" not in str(caught.value) and "fraction of the weights removed" in str(caught.value)
    for value in (True, False, np.True_, np.False_):
        checks.check_flag("flag", value)
    for value in (0, 1, None, "yes", np.array([True])):
        with pytest.raises(TypeError, match="`flag` must be a bool"):
            checks.check_flag("flag", value)


def flags():
    """`(function, the name of an argument that is a bool)` for all that a module says is public."""
    found = {}
    for info in pkgutil.walk_packages(tfr.__path__, "tf_reweight."):
        module = None if info.name.endswith("__main__") else importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            parameters = inspect.signature(value).parameters.values() if takes_arguments(value) else ()
            for parameter in parameters:
                if isinstance(parameter.default, bool) or parameter.annotation == bool | None:
                    found[value, parameter.name] = parameter.default
    return found


def takes_arguments(value):
    """Whether users call it: not records, which functions return, and not errors, whose arguments are Python's."""
    ours = callable(value) and value.__module__.startswith("tf_reweight")
    return ours and not dataclasses.is_dataclass(value) and not (inspect.isclass(value) and issubclass(value, Exception))


def test_every_public_flag_is_a_bool_and_checked_before_anything_else():
    """A string would count as True, "no" and "False" included. All other arguments are useless here: flags come first."""
    found = flags()
    assert (tfr.prune, "include_frozen") in found and (tfr.export_tflite, "accelerated") in found and len(found) >= 20
    for (function, name), default in found.items():
        parameters = inspect.signature(function).parameters.values()
        needed = {p.name: None for p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD}
        for value in ("no", 2, np.array([True]), *([] if default is None else [None])):
            with pytest.raises(TypeError, match=f"`{name}` must be a bool. Received: {name}=") as caught:
                function(**{**needed, name: value})
            assert len(str(caught.value).split(". ")) >= 3, function


def test_no_other_file_tells_bools_from_numbers_itself():
    """The mark of a number check written by hand is that it asks for bools beside ints."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BoolOp) and path.name != "checks.py":
                kinds = [name for call in ast.walk(node) for name in _kinds(call)]
                if "bool" in kinds and {"int", "float"} & set(kinds):
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    allowed = "structures/elementwise.py"  # an axis: a name or a number, told apart in one error
    assert [place for place in found if not place.startswith(allowed)] == []


def _kinds(node):
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "isinstance":
        return [leaf.id for leaf in ast.walk(node.args[1]) if isinstance(leaf, ast.Name)]
    return []


def kernel_of(*shape):
    import keras

    return keras.Sequential([keras.Input(shape[:1]), keras.layers.Dense(shape[1])])


def test_scores_are_root_mean_squares_and_masks_have_the_kernels_order():
    """Ragged blocks: the smaller ones at the edge are at no disadvantage, and a mask is that of the rows as they are stored."""
    model = kernel_of(5, 3)
    (target,), _ = find(model)
    weights = np.arange(1.0, 16.0, dtype="float32").reshape(5, 3)
    target.variable.assign(weights)
    structure = tfr.structures.get({"name": "block", "shape": [2, 2]})
    blocks = [(slice(r, r + 2), slice(c, c + 2)) for r in (0, 2, 4) for c in (0, 2)]
    groups = target.groups(structure)
    np.testing.assert_allclose(groups.norms, [[np.sqrt((weights[b] ** 2).sum()) for b in blocks]], rtol=1e-6)
    np.testing.assert_array_equal(groups.members, [[4, 2, 4, 2, 2, 1]])
    np.testing.assert_allclose(target.scores(structure), [[np.sqrt((weights[b] ** 2).mean()) for b in blocks]], rtol=1e-6)
    keep = np.array([[True, False, False, True, True, False]])
    expected = np.zeros((5, 3), bool)
    for kept, block in zip(keep[0], blocks):
        expected[block] |= kept
    np.testing.assert_array_equal(target.own_mask(keep, structure), expected)
    assert groups.decided() is None


def test_groups_of_what_a_mask_leaves_and_groups_that_decide_themselves():
    structure = tfr.structures.get("filter")
    kernel = np.array([[3.0, 1.0], [4.0, -2.0], [12.0, 2.0]], "float32")
    mask = np.array([[True, False], [True, True], [False, True]])
    groups = Groups.of(structure, kernel, mask)
    np.testing.assert_allclose(groups.norms, [[5.0, np.sqrt(8.0)]], rtol=1e-6)
    np.testing.assert_array_equal(groups.members, [[2, 2]])
    np.testing.assert_allclose(groups.scores, [[5 / np.sqrt(2), 2.0]], rtol=1e-6)
    emptied = Groups.of(structure, kernel, np.array([[True, False]] * 3))
    np.testing.assert_array_equal(emptied.scores, [[13 / np.sqrt(3), 0.0]])
    two_of_four = Groups.of(tfr.structures.NOfM(2, 4), np.array([[1.0], [-3.0], [0.5], [2.0]], "float32"))
    assert two_of_four.decided().sum() == 2 and np.ravel(two_of_four.decided()).tolist() == [False, True, False, True]


def test_a_transposed_convolutions_mask_is_in_its_own_order():
    import keras

    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2DTranspose(3, 2)])
    (target,), _ = find(model)
    mask = target.own_mask(np.array([[True, False, True]]), tfr.structures.get("filter").fit(target.layout))
    assert mask.shape == (2, 2, 3, 2) and mask.dtype == bool
    np.testing.assert_array_equal(mask.all(axis=(0, 1, 3)), [True, False, True])
