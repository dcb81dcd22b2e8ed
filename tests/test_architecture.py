"""The rooms of the package: who may import whom, and how often a file asks what it was given instead of calling it."""

import ast
import pathlib
import re

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import coupling, graph, kernels, quantization

L = keras.layers
PACKAGE = pathlib.Path(tfr.__file__).parent
# From the ground up. A room imports only rooms of the floors below its own; those on one floor know nothing of each other.
FLOORS = (
    ("errors", "lazy", "records", "registration", "strict_json", "_version"),
    ("checks", "extras", "registry", "files"),
    ("budget", "graph", "structures", "tflite"),
    ("kernels", "learning_rate", "packing", "data"),
    ("batch_statistics", "penalties"),
    ("pruning", "coupling", "baselines", "regularizers"),
    ("deadline", "quantization", "shrinking", "reports"),
    ("callbacks", "export", "tfmot"),
    ("workflow", "filecost"),
    ("cli", "__init__"),
    ("__main__",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# `isinstance`, `hasattr`, `getattr` and `elif` in 1,000 lines. It may only fall: 4 to 10 in the field's best-kept code.
MOST_DISPATCH = 13.0


def modules():
    """Mapping of module names, such as `"graph.walking"`, to their syntax trees."""
    trees = {}
    for path in SOURCES:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        trees[name] = PARSED[path]
    return trees


def imports(tree, known, at_import_only=False):
    """Names of the package's modules that a module imports; `at_import_only` leaves out what functions import."""
    nodes = tree.body if at_import_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("tf_reweight.")]
            yield from (name.removeprefix("tf_reweight.") for name in names)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tf_reweight":
            base = node.module.removeprefix("tf_reweight").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                yield full if full in known else base or "__init__"


SOURCES = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
PARSED = {path: ast.parse(source) for path, source in SOURCES.items()}
TREES = modules()
# By the names of the modules.
IMPORTED = {name: list(imports(tree, TREES)) for name, tree in TREES.items()}


def room_of(name):
    return name.split(".")[0]


def test_imports_run_down():
    homeless = [name for name in TREES if room_of(name) not in FLOOR_OF]
    assert not homeless, "these rooms stand on no floor: put them into FLOORS"
    wrong = [
        f"{name} imports {imported}, which does not stand below it"
        for name, found in IMPORTED.items()
        for imported in found
        if room_of(imported) != room_of(name) and not FLOOR_OF[room_of(imported)] < FLOOR_OF[room_of(name)]
    ]
    assert not wrong


def test_rooms_stand_where_they_must():
    """No floor is higher than what it rests on demands, and none of the table's rooms is gone."""
    rests = {room: set() for room in FLOOR_OF}
    for name, found in IMPORTED.items():
        rests[room_of(name)] |= {room_of(imported) for imported in found} - {room_of(name)}
    assert set(FLOOR_OF) == {room_of(name) for name in TREES}
    assert len(FLOORS) <= 11
    for number, rooms in list(enumerate(FLOORS))[1:]:
        assert any(FLOOR_OF[below] == number - 1 for room in rooms for below in rests[room]), f"floor {number} could be lower"


def test_no_circle_of_modules():
    """What a module imports when it is imported does not lead back to it."""
    below = {name: set(imports(tree, TREES, at_import_only=True)) - {name} for name, tree in TREES.items()}
    finished, path = set(), []

    def visit(name):
        if name in finished:
            return
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name):], name])}"
        path.append(name)
        for other in sorted(below.get(name, ())):
            visit(other)
        finished.add(path.pop())

    for name in below:
        visit(name)


def keras_privates():
    """Private names that objects of Keras have: models, layers, tensors, calls, variables, optimizers, losses and metrics."""
    model = keras.Sequential([keras.Input((2,)), L.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.zeros((1, 2)), np.zeros((1, 1)), verbose=0)
    functional = graph.access.functional_of(model)
    tensor = functional.outputs[0]
    node = graph.access.node_of(tensor)
    parts = (model, functional, *model.layers, tensor, node, *model.weights, model.optimizer, *model.metrics)
    names = {name for part in parts for name in (*dir(part), *vars(part))}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


KERAS_PRIVATES = keras_privates()


def private_names(tree):
    """Private names that a module takes from anything but itself: `x._name`, and `getattr(x, "_name")` and the like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield node.attr
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr"):
            yield from (arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant))


def test_private_names_are_found_however_they_are_taken():
    source = "model._functional\ngetattr(layer, '_tracker', None)\nself._layers\nlayer.kernel._regularizer\nhasattr(x, 'name')"
    assert set(private_names(ast.parse(source))) & KERAS_PRIVATES == {"_functional", "_tracker", "_regularizer"}


def test_only_the_graph_room_touches_private_names_of_keras():
    touched = {name: set(private_names(tree)) & KERAS_PRIVATES for name, tree in TREES.items() if room_of(name) != "graph"}
    assert len(touched) > 200
    assert not {name: taken for name, taken in touched.items() if taken}, "ask for it in graph.access"


def dispatch(source, tree=None):
    """How often a source asks what something is."""
    tree = ast.parse(source) if tree is None else tree
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    asked = sum(call.func.id in ("isinstance", "hasattr", "getattr") for call in calls)
    return asked + len(re.findall(r"^\s*elif\b", source, re.MULTILINE))


def test_the_measure_counts():
    source = "if isinstance(x, int):\n    pass\nelif hasattr(x, 'isinstance'):\n    getattr(x, 'elif')\n"
    assert dispatch(source) == 4


def test_objects_are_asked_less_and_less():
    asked = {path.relative_to(PACKAGE): dispatch(source, PARSED[path]) for path, source in SOURCES.items()}
    num_lines = sum(source.count("\n") for source in SOURCES.values())
    figure = 1000 * sum(asked.values()) / num_lines
    print(f"{figure:.1f} of isinstance, hasattr, getattr and elif in 1,000 lines; most in:")
    for path in sorted(asked, key=asked.get, reverse=True)[:10]:
        print(f"{asked[path]:4d} {path}")
    assert figure <= MOST_DISPATCH


# Cells are seen by the other tables as the layers that run them.
RUN_BY = {L.SimpleRNNCell: L.SimpleRNN, L.LSTMCell: L.LSTM, L.GRUCell: L.GRU}
KINDS = {row.layer_type for row in kernels.table._TABLE if row.layer_type.__module__.startswith("keras.")}
KERAS_KERNELS = sorted({RUN_BY.get(kind, kind) for kind in KINDS}, key=lambda kind: kind.__name__)


def quantization_has_verdict(layer_type):
    return quantization.rules.has_verdict(layer_type) or layer_type in quantization.simplification._DEPTHWISE


@pytest.mark.parametrize("layer_type", KERAS_KERNELS, ids=lambda layer_type: layer_type.__name__)
def test_every_kernel_of_the_first_table_has_a_verdict_in_the_others(layer_type):
    """A layer whose kernel is pruned is followed by coupling and by quantization, or they say why not."""
    assert coupling.analysis.table.has_verdict(layer_type), "coupling.analysis.table has neither a rule nor a reason"
    assert quantization_has_verdict(layer_type), "quantization.rules has neither a rule nor a reason"


def said(tree):
    """The texts in a module that are no docstrings: messages above all."""
    bodies = [node.body[0] for node in ast.walk(tree) if hasattr(node, "body") and isinstance(node.body, list) and node.body]
    docstrings = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in texts if id(node) not in docstrings]


def test_messages_say_where_a_function_is_that_is_not_at_the_top():
    """`calibrate(model, inputs)` was advised, which `tf_reweight` has not: it is in `tf_reweight.quantization`."""
    own = {
        node.name
        for tree in PARSED.values()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    } - set(tfr.__all__)
    # A text that begins with the call is how an object shows itself.
    called = re.compile(r"(?<!^)(?<![\w.])(\w+)\(")
    found = [(path.name, own & set(called.findall(text))) for path, tree in PARSED.items() for text in said(tree)]
    assert not [(name, names) for name, names in found if names]
