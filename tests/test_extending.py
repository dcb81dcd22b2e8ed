"""The files of docs/extending.md, written as they stand there and used through public doors only."""

import importlib
import pathlib
import re
import sys

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import penalties, quantization, structures
from tf_reweight.coupling.analysis import table as channels
from tf_reweight.kernels import table as kernels
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow import methods, own_stages, stages, trainers

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "extending.md"
TABLES = (
    structures._BY_NAME, penalties.functions._BY_NAME, methods._BY_NAME, stages._STAGES, own_stages.OWN,
    trainers._BY_NAME, quantization.rules._LAYERS, channels._RULES,
)  # fmt: skip
L = keras.layers


def added_files(diff):
    """Mapping of each file of a diff to the lines it adds."""
    files, name = {}, None
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            name = line.removeprefix("+++ b/")
            files[name] = []
        elif line.startswith("+"):
            files[name].append(line[1:])
    return {name: "\n".join(lines) + "\n" for name, lines in files.items()}


DIFFS = re.findall(r"## A (?:layer that can be )?(\w+)\n.*?```diff\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory):
    """`my_project` with all that the page adds, imported; the tables are as they were afterwards."""
    folder, rows = tmp_path_factory.mktemp("project"), []
    (folder / "my_project").mkdir()
    for _, diff in DIFFS:
        for name, text in added_files(diff).items():
            if name == "my_project/__init__.py":
                rows.append(text)
            else:
                (folder / name).write_text(text)
    (folder / "my_project" / "__init__.py").write_text("\n".join(rows))
    before, known = [dict(table) for table in TABLES], list(kernels._TABLE)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("my_project")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == "my_project"]:
            del sys.modules[name]
        for table, content in zip(TABLES, before):
            table.clear()
            table.update(content)
        kernels._TABLE[:] = known


def test_each_kind_costs_one_file_and_one_row():
    assert [kind for kind, _ in DIFFS] == ["structure", "penalty", "baseline", "stage", "trainer", "quantized", "followed"]
    for _, diff in DIFFS:
        files = added_files(diff)
        assert len(files) == 2 and files.pop("my_project/__init__.py").count("register(") == 1
        assert "register(" not in re.sub(r"register_keras_serializable\(", "", *files.values())


def small(seed=0):
    keras.utils.set_random_seed(seed)
    layers = [L.Conv2D(4, 3, name="conv"), L.ReLU(), L.Flatten(), L.Dense(10, name="top")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def test_a_structure_of_ones_own(tmp_path):
    structure = structures.get("position")
    kernel = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype("float32")
    parts = structure.partition(kernel)
    assert tuple(parts.shape) == (1, 6, 20)
    np.testing.assert_array_equal(structure.assemble(parts, kernel.shape), kernel)
    model = small()
    attached = tfr.regularize(model, "position", strength=1e-2)
    assert [item.target.name for item in attached.attachments] == ["conv/kernel"]
    assert {item.name: item.reason for item in attached.left_out}["top/kernel"] == "it has no window"
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    (kernel,) = tfr.prune(again, sparsity=5 / 9).kernels
    assert (kernel.structure, kernel.kept_groups, kernel.num_groups) == ("position", 4, 9)
    zero = (np.asarray(again.get_layer("conv").kernel) == 0).all(axis=(2, 3))
    assert zero.sum() == 5


def test_a_penalty_of_ones_own(tmp_path):
    penalty, norms = penalties.get({"name": "root", "epsilon": 0.25}), np.array([0.0, 0.75, 2.0], "float32")
    step = 1e-3
    slopes = (np.asarray(penalty.value(norms + step)) - np.asarray(penalty.value(norms))) / step
    np.testing.assert_allclose(slopes, penalty.weight(norms), rtol=2e-3)
    model = small()
    tfr.regularize(model, "filter", strength=1e-2, penalty="root")
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.random.default_rng(0).random((32, 8, 8, 1)).astype("float32"), np.arange(32) % 10
    model.fit(x, y, epochs=1, verbose=0, callbacks=[tfr.callbacks.Reweighting(every=1)])
    model.save(tmp_path / "model.keras")
    (item,) = tfr.penalties.attachment.attachments(keras.saving.load_model(tmp_path / "model.keras"))
    assert item.regularizer.penalty == penalties.get("root")


RUN = {
    "data": {"limit": 100},
    "train": {"epochs": 1},
    "regularize": {"rounds": 1, "every": 1},
    "prune": {"sparsity": 0.5},
    "retrain": {"epochs": 0},
    "export": {"precisions": ["float32"], "latency_runs": 1, "pack": False},
}


def test_a_baseline_of_ones_own(tmp_path, eager_steps):
    regularize = {**RUN["regularize"], "method": {"name": "lot", "seed": 3}}
    figures = tfr.compress({**RUN, "regularize": regularize}, out=tmp_path / "run", console=QUIET)
    assert figures["stages"][-1]["num_nonzero"] == pytest.approx(0.5 * figures["num_weights"], abs=5)
    assert figures["config"]["regularize"]["method"] == {"name": "lot", "seed": 3}
    with pytest.raises(ValueError, match="must be told how much goes"):
        tfr.workflow.config.load({**RUN, "regularize": regularize, "prune": {}})


def test_a_stage_of_ones_own(tmp_path):
    order = {"stages": ["train", "regularize", "prune", "retrain", "coarse"], "coarse": {"decimals": 2}}
    config = {**RUN, **order}
    assert set(tfr.workflow.plan(config)["epochs"]) == {"train", "regularize", "retrain"}
    figures = tfr.compress(config, out=tmp_path / "run", console=QUIET)
    assert [stage["name"] for stage in figures["stages"]][-1] == "coarse"
    model = keras.saving.load_model(tmp_path / "run" / "coarse.keras")
    for weight in model.weights:
        if weight.name == "kernel":
            np.testing.assert_allclose(weight, np.round(weight, 2), atol=1e-7)
    # The same call finds it done, and what the run folder holds can be given again.
    again = tfr.compress(tmp_path / "run" / "config.yaml", out=tmp_path / "run", console=QUIET)
    assert again["stages"] == figures["stages"]
    for wrong, words in (({"coarse": {"decimals": 0}}, "decimals"), ({"stages": ["train", "coarze"]}, "Did you mean 'coarse'")):
        with pytest.raises(ValueError, match=words):
            tfr.workflow.config.load({**config, **wrong})


@pytest.mark.parametrize("returned", ["figures", "model"])
def test_a_stage_that_returns_something_else_is_named(returned, tmp_path):
    wrong = {"figures": lambda model, context: {}, "model": lambda model, context: model}[returned]
    stages.register("halfway", stages.Stage("halfway", wrong, keeps_zeros=True))
    with pytest.raises(TypeError, match="'halfway' must return a model and a dict of figures"):
        tfr.compress({**RUN, "stages": ["train", "halfway"]}, out=tmp_path / "run", console=QUIET)


def test_a_trainer_of_ones_own(project, tmp_path, monkeypatch, eager_steps):
    seen = []
    monkeypatch.setattr(project.adversary.Attacked, "train_step", _seen(project.adversary.Attacked.train_step, seen))
    config = {**RUN, "trainer": {"name": "adversarial", "radius": 0.05}, "retrain": {"epochs": 1}}
    figures = tfr.compress(config, out=tmp_path / "run", console=QUIET)
    # The stage that it names trains with it and keeps its zeros, the others train plainly.
    assert seen and set(seen) == {0.05}
    stages_seen = {record["stage"]: record for record in figures["curves"]}
    assert stages_seen["retrained"]["num_weights"] == stages_seen["dense"]["num_weights"]
    assert figures["stages"][-1]["num_nonzero"] == figures["stages"][-2]["num_nonzero"] < figures["num_weights"]
    for wrong, words in ({"trainer": "adversary"}, "Did you mean 'adversarial'"), ({"distill": {}}, "leave one of them out"):
        with pytest.raises(ValueError, match=words):
            tfr.workflow.config.load({**config, **wrong})


def _seen(step, seen):
    def recorded(self, data):
        seen.append(self.radius)
        return step(self, data)

    return recorded


def test_a_quantizable_layer_of_ones_own(project, tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = project.turn.Turn(name="turn")(L.Conv2D(4, 3, activation="relu", name="conv")(inputs))
    model = keras.Model(inputs, L.Dense(3, name="top")(L.Flatten()(x)))
    qat, report = tfr.quantize(model, return_report=True)
    assert not report.left_out and [kernel.name for kernel in report.kernels] == ["conv", "top"]
    x = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
    quantization.calibrate(qat, x)
    tfr.export_tflite(qat, tmp_path / "a.tflite", "int8", verify_data=x)


@pytest.mark.parametrize(
    "register, base", [(structures.register, structures.Structure), (penalties.register, penalties.Penalty)]
)
def test_what_cannot_be_registered_is_refused(register, base):
    taken = {structures.register: structures.Filter, penalties.register: penalties.Lasso}[register]
    renamed = type("Renamed", (taken,), {"name": taken.name})
    with pytest.raises(ValueError, match="must be new"):
        register(renamed)
    with pytest.raises(TypeError, match="must have all"):
        register(type("Half", (base,), {"name": "half"}))
    for wrong in (object, "filter"):
        with pytest.raises(TypeError, match="must be a dataclass derived from"):
            register(wrong)
    assert register(taken) is taken
    with pytest.raises(TypeError, match="must be a Stage"):
        stages.register("mine", print)
    with pytest.raises(ValueError, match="must be new"):
        stages.register("prune", stages.Stage("mine", print, True))
    with pytest.raises(ValueError, match="must be new"):
        stages.register("mine", stages.Stage("pruned", print, True))
    with pytest.raises(TypeError, match="function of a model and a context"):
        stages.register("mine", stages.Stage("mine", lambda run: {}, True))
    with pytest.raises(TypeError, match="pydantic model"):
        stages.register("mine", stages.Stage("mine", print, True), dict)


@pytest.mark.filterwarnings("ignore:The zeros of gain")  # after loading: its class knows no constraints
def test_a_layer_that_can_be_followed(project, tmp_path):
    x = keras.Input((8, 8, 1))
    h = project.Gain()(L.Conv2D(8, 3, activation="relu")(x))
    h = project.Gain()(L.Conv2D(8, 3, name="second")(h))
    model = keras.Model(x, L.Dense(3)(project.Gain()(L.GlobalAveragePooling2D()(h))))
    for layer in model.layers:
        if isinstance(layer, project.Gain):
            layer.gain.assign(np.linspace(-1.0, 2.0, 8))
    tfr.prune_groups(model, macs=0.5)
    small = tfr.shrink(model)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    assert small.count_params() < 0.6 * model.count_params()
    np.testing.assert_allclose(small(images), model(images), atol=1e-5)
    assert tfr.export_tflite(small, tmp_path / "a.tflite").verification.relative_error < 1e-4
