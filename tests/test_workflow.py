"""The main job on embedded data, small enough for a test: every stage, every figure, resumed and refused."""

import io
import json
import re
import warnings
import zipfile

import keras
import numpy as np
import pytest
from rich.console import Console

import tf_reweight as tfr
from tf_reweight import export, workflow
from tf_reweight.cli import main
from tf_reweight.reports.progress import QUIET, EpochLines

TINY = {
    "name": "tiny",
    "data": {"name": "digits"},
    "train": {"epochs": 3},
    "regularize": {"rules": [{"structure": "unstructured", "strength": 1e-4}], "rounds": 2, "every": 2},
    "retrain": {"epochs": 2},
    "export": {"precisions": ["float32", "int8"], "latency_runs": 3, "representative": 64, "verify": 64, "pack": False},
}
# For runs that are about one stage in the middle.
BRIEF = {"train": {"epochs": 1}, "retrain": {"epochs": 1}, "export": {**TINY["export"], "precisions": ["float32"]}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run, shared by the tests that look at it."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    console = Console(record=True, width=160, file=io.StringIO())
    return workflow.compress(TINY, out=out, console=console, command="tf-reweight compress"), out


def test_the_run_folder_holds_everything(finished):
    figures, out = finished
    for name in (
        "config.yaml",
        "environment.json",
        "report.json",
        "report.html",
        "dense.keras",
        "pruned.keras",
        "retrained.keras",
    ):
        assert (out / name).is_file(), name
    assert {file["name"] for file in figures["files"]} == {
        "dense_float32.tflite", "dense_int8.tflite", "pruned_float32.tflite", "pruned_int8.tflite"
    }  # fmt: skip
    assert not list(out.glob(".*"))
    with zipfile.ZipFile(out / "app.zip") as archive:
        assert archive.read("report.html") == (out / "report.html").read_bytes()
        said = json.loads(archive.read("model.json"))
    assert said["labels"] == [str(n) for n in range(10)] and said["normalization"] == {"image": {"mean": [0], "std": [16]}}
    assert all((out / file["name"]).stat().st_size == file["num_bytes"] for file in figures["files"])
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(figures))


def test_parity_of_the_chain(finished):
    """Report == Keras model == file: accuracy and zeros are the same figure wherever they are counted."""
    figures, out = finished
    model = keras.saving.load_model(out / "retrained.keras")
    data = tfr.data.load("digits")
    retrained = figures["stages"][-1]
    assert workflow.accuracy(model, *data.test) == pytest.approx(retrained["test_accuracy"])
    zeros = sum(zero for zero, _ in tfr.sparsity(model).values())
    assert figures["num_weights"] - figures["num_nonzero"] == zeros
    by_name = {file["name"]: file for file in figures["files"]}
    assert by_name["pruned_float32.tflite"]["test_accuracy"] == pytest.approx(retrained["test_accuracy"], abs=1e-6)
    assert by_name["pruned_int8.tflite"]["test_accuracy"] == pytest.approx(retrained["test_accuracy"], abs=0.02)
    assert by_name["pruned_int8.tflite"]["num_bytes"] < by_name["pruned_float32.tflite"]["num_bytes"]


def test_every_figure_of_the_table_is_in_the_report(finished):
    figures, _ = finished
    assert [stage["name"] for stage in figures["stages"]] == ["dense", "regularized", "pruned", "retrained"]
    for stage in figures["stages"]:
        assert 0 <= stage["validation_accuracy"] <= 1 and stage["num_nonzero"] <= stage["num_weights"]
    for file in figures["files"]:
        assert {"test_accuracy", "num_bytes", "gzip_bytes", "apk_bytes", "latency_ms", "top1_agreement"} <= file.keys()
        assert file["latency_low_ms"] <= file["latency_ms"] <= file["latency_high_ms"]
        assert file["speedup"] == pytest.approx(figures["files"][0]["latency_ms"] / file["latency_ms"])
    assert figures["summary"]["shipped"] == figures["files"][-1]["name"] and figures["latency"]["num_runs"] == 3
    tables = tfr.reports.tables.run_tables(figures)
    console = Console(record=True, width=160, file=io.StringIO())
    for table in tables:
        console.print(table)
    text = console.export_text()
    assert f"{figures['num_nonzero']:,}" in text and "pruned_int8" in text


def test_the_same_call_continues_and_another_run_is_refused(finished):
    figures, out = finished
    console = Console(record=True, width=160, file=io.StringIO())
    again = workflow.compress(TINY, out=out, console=console)
    assert "done before" in console.export_text()
    assert again["stages"] == figures["stages"]
    with pytest.raises(ValueError, match="run folder must be new"):
        workflow.compress({**TINY, "seed": 1}, out=out, console=QUIET)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(finished, tmp_path, monkeypatch):
    """Cut in the middle of a stage, after its second epoch; the moved images of each epoch come again as well."""
    moving = {**TINY, "data": {"shift": 1, "limit": 300}, "export": {**TINY["export"], "precisions": ["float32"]}}
    whole = workflow.compress(moving, out=tmp_path / "whole", console=QUIET)
    spoken, start = EpochLines.on_epoch_end, EpochLines.on_epoch_begin

    def cut(self, epoch, logs=None):
        if self.stage == "regularize" and epoch == 2:
            raise KeyboardInterrupt
        start(self, epoch, logs)

    monkeypatch.setattr(EpochLines, "on_epoch_begin", cut)
    with pytest.raises(KeyboardInterrupt):
        workflow.compress(moving, out=tmp_path / "cut", console=QUIET)
    monkeypatch.setattr(EpochLines, "on_epoch_begin", start)
    epochs = []
    monkeypatch.setattr(
        EpochLines,
        "on_epoch_end",
        lambda self, epoch, logs=None: (epochs.append((self.stage, epoch)), spoken(self, epoch, logs)),
    )
    again = workflow.compress(moving, out=tmp_path / "cut", console=QUIET)
    assert epochs == [("regularize", 2), ("regularize", 3), ("retrain", 0), ("retrain", 1)]
    first, second = (keras.saving.load_model(tmp_path / name / "retrained.keras") for name in ("whole", "cut"))
    for one, two in zip(first.weights, second.weights):
        np.testing.assert_allclose(one.numpy(), two.numpy(), atol=1e-6)
    assert again["num_nonzero"] == whole["num_nonzero"]
    # What was recorded before the cut is in the report as well.
    for figures in (whole, again):
        assert [record["epoch"] for record in figures["norms"]] == [2, 4]
        counted = [(record["stage"], record["epoch"]) for record in figures["curves"]]
        assert counted == [(s, n) for s, num in (("dense", 3), ("regularized", 4), ("retrained", 2)) for n in range(1, num + 1)]


# The proximal solver of single kernels has a run below, that of coupled ones is in `test_coupled_pruning`.
@pytest.mark.parametrize(
    "solver, precisions",
    [("gradient", ("float32", "int8")), pytest.param("proximal", ("float32",), marks=pytest.mark.slow)],
)
def test_coupled_channels_are_freed_pruned_shrunk_and_shipped(tmp_path, solver, precisions):
    """The small model's files are smaller in bytes, parameters and MACs, and their figures are the report's."""
    config = {
        **TINY,
        "regularize": {"coupled": {"strength": 5e-3, "price": "weights"}, "rounds": 2, "every": 2, "solver": solver},
        "prune": {"sparsity": 0.5},
        "shrink": {"multiple_of": 4},
        "export": {**TINY["export"], "precisions": list(precisions)},
    }
    figures = workflow.compress(config, out=tmp_path / "run", console=QUIET)
    stages = {stage["name"]: stage for stage in figures["stages"]}
    assert list(stages) == ["dense", "regularized", "pruned", "retrained", "shrunk"]
    assert stages["shrunk"]["num_parameters"] < 0.6 * stages["dense"]["num_parameters"]
    assert stages["shrunk"]["num_macs"] < 0.6 * stages["dense"]["num_macs"]
    assert stages["shrunk"]["test_accuracy"] == pytest.approx(stages["retrained"]["test_accuracy"], abs=0.003)
    assert all(item["kept_groups"] % 4 == 0 for item in figures["sets"])  # retrained as it will be
    assert figures["sets"] and sum(item["kept_groups"] for item in figures["sets"]) < 0.6 * sum(
        item["num_groups"] for item in figures["sets"]
    )
    small = keras.saving.load_model(tmp_path / "run" / "shrunk.keras")
    assert all(layer.filters % 4 == 0 for layer in small.layers if isinstance(layer, keras.layers.Conv2D))
    sizes = {file["name"]: file["num_bytes"] for file in figures["files"]}
    for precision, part in zip(precisions, (0.6, 0.7)):
        assert sizes[f"shrunk_{precision}.tflite"] < part * sizes[f"dense_{precision}.tflite"]


def test_stages_in_an_order_of_ones_own_and_more_than_once(tmp_path):
    """Shrinking between two rounds of pruning: the second works on the small model, and the report counts from the start."""
    config = {
        **TINY,
        "stages": ["train", "regularize", "prune", "shrink", "regularize", "prune", "retrain"],
        "regularize": {"rules": [{"structure": "filter", "strength": 1e-2}], "growth": 2, "rounds": 1, "every": 2},
        "prune": {"sparsity": 0.4},
        "export": {**TINY["export"], "precisions": ["float32"]},
    }
    figures = workflow.compress(config, out=tmp_path / "run", console=QUIET)
    stages = {stage["name"]: stage for stage in figures["stages"]}
    names = ["dense", "regularized", "pruned", "shrunk", "regularized_2", "pruned_2", "retrained"]
    assert list(stages) == names and all((tmp_path / "run" / f"{name}.keras").is_file() for name in names)
    assert stages["shrunk"]["num_parameters"] < stages["pruned"]["num_parameters"]
    assert stages["shrunk"]["test_accuracy"] == pytest.approx(stages["pruned"]["test_accuracy"], abs=1e-9)
    assert stages["retrained"]["num_nonzero"] == stages["pruned_2"]["num_nonzero"] < stages["pruned"]["num_nonzero"]
    assert [record["epoch"] for record in figures["norms"]] == [2, 4]
    for kernel in figures["kernels"]:
        assert kernel["num_groups"] in (24, 32, 64) and kernel["sparsity"] == 1 - kernel["kept_weights"] / kernel["num_weights"]
    strengths = [record["strength"] for record in figures["curves"] if record["stage"].startswith("regularized")]
    assert strengths == pytest.approx([1e-2, 1e-2, 2e-2, 2e-2])
    assert figures["files"][-1]["name"] == "shrunk_float32.tflite"
    assert workflow.plan(config)["epochs"] == {"train": 3, "regularize": 4, "retrain": 2}


@pytest.mark.parametrize(
    "stages, words",
    [
        (["regularize", "prune"], "`train` comes first"),
        (["train", "prune"], "what the `regularize` just before it freed"),
        (["train", "regularize"], "followed by a `prune`"),
        (["train", "regularize", "retrain", "prune"], "followed by the `prune`"),
        (["train", "regularize", "prune", "quantize", "retrain"], "after `quantize` only `cluster`"),
        (["train", "regularize", "prune", "cluster", "retrain"], "after `cluster` only `quantize`"),
        (["train", "cluster", "quantize", "cluster"], "`cluster` comes once"),
    ],
)
def test_an_order_that_cannot_work_is_refused(stages, words):
    with pytest.raises(ValueError, match=words):
        tfr.workflow.config.load({**TINY, "stages": stages})
    with pytest.raises(ValueError, match="`shrink` is not among the stages"):
        tfr.workflow.config.load({**TINY, "stages": ["train", "regularize", "prune"], "shrink": {}})


def test_pruned_taught_clustered_quantized_and_packed(tmp_path):
    """Every stage in one run: zeros are kept to the last file, and each figure is found again in it."""
    config = {
        **TINY,
        "prune": {"sparsity": 0.8},
        "distill": {"weight": 0.5},
        "cluster": {"clusters": 16, "epochs": 1},
        "quantize": {"epochs": 2},
        "export": {**TINY["export"], "precisions": ["int8"], "pack": True},
    }
    figures = workflow.compress(config, out=tmp_path / "run", console=QUIET)
    stages = {stage["name"]: stage for stage in figures["stages"]}
    assert list(stages) == ["dense", "regularized", "pruned", "retrained", "clustered", "quantized"]
    assert stages["quantized"]["num_nonzero"] <= stages["pruned"]["num_nonzero"] == stages["retrained"]["num_nonzero"]
    assert stages["quantized"]["num_macs"] == stages["dense"]["num_macs"]
    assert all(kernel["num_values"] <= 16 for kernel in figures["clustered"]["kernels"])
    taught = {record["stage"] for record in figures["curves"] if "distillation_loss" in str(record)}
    assert "retrained" in taught and not taught & {"dense", "regularized"}
    model = keras.saving.load_model(tmp_path / "run" / "quantized.keras")
    assert all(len(np.unique(w.numpy())) <= 16 for w in model.weights if w.name == "kernel")
    files = {file["name"]: file for file in figures["files"]}
    last, packed = files["quantized_int8.tflite"], files["quantized_int8_packed.tflite"]
    assert last["float_ops"] == [] and last["sparsity"] >= 0.79 and last["top1_agreement"] >= 0.99
    assert last["gzip_bytes"] < files["pruned_int8.tflite"]["gzip_bytes"]
    assert packed["num_bytes"] < 0.7 * last["num_bytes"] and packed["test_accuracy"] == last["test_accuracy"]
    assert export.inspect_tflite(tmp_path / "run" / "quantized_int8_packed.tflite").sparsity == last["sparsity"]


MIXED = {**TINY["export"], "precisions": ["float32"], "mixed_bytes": 60_000}


@pytest.mark.slow  # each of its stages runs in another test, in the usual order
def test_clustered_after_training_for_few_bits_and_a_file_with_a_size_limit(tmp_path):
    pytest.importorskip("litert_quantizer")
    config = {
        **TINY,
        "stages": ["train", "regularize", "prune", "retrain", "quantize", "cluster"],
        "prune": {"sparsity": 0.8},
        "cluster": {"clusters": 8, "per_channel": True, "epochs": 1},
        "quantize": {"epochs": 2, "weight_bits": {"conv*": 4}},
        "export": MIXED,
    }
    figures = workflow.compress(config, out=tmp_path / "run", console=QUIET)
    assert [stage["name"] for stage in figures["stages"]][-2:] == ["quantized", "clustered"]
    model = keras.saving.load_model(tmp_path / "run" / "clustered.keras")
    channels = [channel for w in model.weights if w.name == "kernel" for channel in w.numpy().reshape(-1, w.shape[-1]).T]
    assert all(len(np.unique(channel)) <= 8 for channel in channels)
    files = {file["name"]: file for file in figures["files"]}
    written = {"dense_float32.tflite", "pruned_mixed.tflite", "pruned_float32.tflite", "clustered_int8.tflite"}
    assert written == {name for name in files if "packed" not in name}
    assert files["pruned_mixed.tflite"]["num_bytes"] <= 60_000 and len(files["pruned_mixed.tflite"]["plan"]) > 0
    kernels = export.inspect_tflite(tmp_path / "run" / "clustered_int8.tflite").kernels
    assert {"INT4", "INT8"} <= {kernel.dtype.upper() for kernel in kernels}


def test_a_file_with_a_size_limit_is_written_within_it_or_refused(tmp_path):
    pytest.importorskip("litert_quantizer")
    brief = {"train": {"epochs": 0}, "regularize": {"method": "one_shot"}, "prune": {"sparsity": 0.8}, "retrain": {"epochs": 0}}
    figures = workflow.compress({**TINY, **brief, "export": MIXED}, out=tmp_path / "b", console=QUIET)
    (file,) = [file for file in figures["files"] if file["name"] == "pruned_mixed.tflite"]
    assert file["num_bytes"] <= 60_000 and len(file["plan"]) > 0 and not figures["refused"]
    brief["export"] = {**MIXED, "mixed_bytes": 100}
    figures = workflow.compress({**TINY, **brief}, out=tmp_path / "c", console=QUIET)
    assert "pruned_mixed.tflite" not in {file["name"] for file in figures["files"]}
    assert [(item["name"], item["kind"]) for item in figures["refused"]] == [("pruned_mixed.tflite", "DoesNotFit")]
    assert any("pruned_mixed.tflite was not written: `max_bytes` must" in alarm["seen"] for alarm in figures["alarms"])
    brief["retrain"] = {"epochs": 1}
    with pytest.raises(export.DoesNotFit, match="`mixed_bytes` must be at least .*Received: mixed_bytes=100") as refused:
        workflow.compress({**TINY, **brief}, out=tmp_path / "d", console=QUIET)
    least = int(re.search("at least ([0-9,]+)", str(refused.value)).group(1).replace(",", ""))
    assert not (tmp_path / "d").exists() and 100 < least < figures["files"][0]["num_bytes"] / 2
    with pytest.raises(ValueError, match="weight_bits"):
        workflow.compress({**TINY, "quantize": {"weight_bits": {"konv*": 4}}}, out=tmp_path / "b", console=QUIET)
    for wrong in ({"activation_bits": 4}, {"weight_bits": 12}, {"weight_bits": 4, "activation_bits": 16}, {"weight_bits": 1}):
        with pytest.raises(ValueError, match="bits"):
            tfr.workflow.config.load({**TINY, "quantize": wrong})


@pytest.mark.filterwarnings("ignore:The zeros of .* are held now:UserWarning")  # a subclassed model; see test_zeros_stay
@pytest.mark.filterwarnings("ignore:The penalties on .* act now:UserWarning")
def test_stages_that_cannot_work_are_refused_before_any_training(tmp_path):
    """A stage at the end of a run must not fail after hours: its needs are looked at when the run is made."""

    @keras.saving.register_keras_serializable(package="test_workflow")
    class Hidden(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.flat, self.dense, self.out = keras.layers.Flatten(), keras.layers.Dense(8), keras.layers.Dense(10)

        def call(self, x):
            return self.out(self.dense(self.flat(x)))

    hidden = Hidden(name="hidden")
    hidden(np.zeros((1, 8, 8, 1), "float32"))
    single = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    for model, wish, kind, words in (
        (hidden, {"shrink": {}}, TypeError, "must have a graph"),
        (hidden, {"quantize": {}}, TypeError, "must have a graph"),
        (single, {"regularize": {"coupled": {}}}, ValueError, "channels that can be removed"),
    ):
        with pytest.raises(kind, match=words):
            workflow.compress({**TINY, **wish}, model=model, out=tmp_path / "a", console=QUIET)
    assert not (tmp_path / "a").exists()
    # The same model, asked for what it can do, goes all the way.
    figures = workflow.compress({**TINY, **BRIEF}, model=hidden, out=tmp_path / "b", console=QUIET)
    assert figures["files"][-1]["name"] == "pruned_float32.tflite" and (tmp_path / "b" / "report.html").is_file()


def test_the_proximal_solver_and_a_rule_for_epsilon(tmp_path):
    rules = {"rules": [{"structure": "filter", "strength": 1e-3}], "rounds": 2, "every": 1, "solver": "proximal", "step": 1.0}
    config = {**TINY, **BRIEF, "regularize": {**rules, "epsilon": [0.5, 0.05]}}
    config["prune"] = {"sparsity": 0.5}  # so few steps free nothing
    figures = workflow.compress(config, out=tmp_path / "run", console=QUIET)
    assert figures["config"]["regularize"]["method"]["epsilon"] == {"name": "annealed", "first": 0.5, "last": 0.05}
    assert figures["norms"][-1]["num_groups"] == 24 + 32 + 64


def test_dry_run_names_kernels_and_reasons(capsys):
    plan = workflow.plan({"regularize": {"rules": [{"structure": "filter"}]}})
    assert plan["kernels"] and any("output layer" in item["reason"] for item in plan["left_out"])
    overrides = ["--set", "regularize.rules=[{structure: filter}]"]
    assert main.console(["compress", "--config", "configs/quickstart.yaml", "--dry_run", *overrides]) == 0
    assert "output layer" in capsys.readouterr().out


def test_a_plan_counts_no_epochs_where_nothing_is_trained():
    plan = workflow.plan({"regularize": {"method": "one_shot"}, "prune": {"sparsity": 0.5}, "retrain": {"epochs": 2}})
    assert plan["epochs"] == {"train": 10, "regularize": 0, "retrain": 2}


def test_command_line_on_a_finished_run(finished, capsys):
    _, out = finished
    assert main.console(["report", str(out / "retrained.keras")]) == 0
    assert "kernels" in capsys.readouterr().out
    assert main.console(["report", str(out / "retrained.keras"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_nonzero"] > 0
    assert main.console(["inspect", str(out / "pruned_int8.tflite")]) == 0
    assert "CONV_2D" in capsys.readouterr().out
    assert main.console(["benchmark", str(out / "dense_float32.tflite"), str(out / "pruned_int8.tflite"), "--runs", "3"]) == 0
    assert "pruned_int8" in capsys.readouterr().out


def test_your_own_model_and_data(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random((120, 5)).astype("float32")
    y = (x.sum(1) > 2.5).astype("int32")
    data = tfr.data.Dataset("mine", (x[:80], y[:80]), (x[80:100], y[80:100]), (x[100:], y[100:]), 2, ("low", "high"))
    layers = [keras.Input((5,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(2)]
    figures = workflow.compress(
        {
            **TINY, **BRIEF, "name": "mine", "regularize": {"rules": [{"structure": "neuron"}], "rounds": 1, "every": 2},
            "prune": {"sparsity": 0.5},
        },
        model=keras.Sequential(layers), data=data, out=tmp_path / "mine", console=QUIET,
    )  # fmt: skip
    assert [kernel["structure"] for kernel in figures["kernels"]] == ["neuron"]


@pytest.mark.parametrize(
    "arguments, status, words",
    [
        (["comprss"], 2, "Did you mean 'compress'"),
        (["compress"], 2, "needs --config FILE"),
        (["compress", "--config", "configs/quickstart.yaml", "train.epochs=1"], 2, "--set train.epochs=4"),
        (["compress", "--config", "none.yaml"], 2, "existing YAML file"),
        (["compress", "--config", "configs/quickstart.yaml", "--set", "train.epoch=1"], 2, "Did you mean 'train.epochs'"),
        (["compress", "--config", "configs/quickstart.yaml", "--set", "data.name=none.npz"], 2, "Received: "),
        (["compress", "--config", "configs/quickstart.yaml", "--set", "model.name=none.keras"], 2, "Received: "),
        (["compress", "--config", "configs/quickstart.yaml", "--set", "regularize.rules=[{layers: cnv}]"], 2, "Received: "),
        (["compress", "--confg", "a"], 2, "confg"),
        (["report"], 2, "Expected one MODEL.keras"),
        (["report", "none.keras"], 2, "none.keras"),
        (["inspect", "none.tflite"], 2, "none.tflite"),
        (["benchmark"], 2, "at least one FILE.tflite"),
    ],
)
def test_bad_input_is_explained_before_any_training(arguments, status, words, capsys, monkeypatch, tmp_path):
    import pathlib

    (tmp_path / "configs").symlink_to(pathlib.Path(__file__).parent.parent / "configs")
    monkeypatch.chdir(tmp_path)
    assert main.console(arguments) == status
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_a_model_that_does_not_fit_the_data_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="one output per class, 10 for digits"):
        workflow.compress(TINY, model=model, out=tmp_path / "a", console=QUIET)
    wrong = keras.Sequential([keras.Input((9,)), keras.layers.Dense(10)])
    with pytest.raises(ValueError, match="must take the data's inputs"):
        workflow.compress(TINY, model=wrong, out=tmp_path / "a", console=QUIET)
    assert not (tmp_path / "a").exists()


def test_a_model_of_which_no_file_can_be_made_is_refused_before_any_training(tmp_path):
    """MaxPool3D has no TFLite kernel."""
    layers = [keras.layers.Conv3D(4, 2), keras.layers.MaxPooling3D(name="halved"), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((4, 4, 4, 1)), *layers, keras.layers.Dense(2)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).random((24, 4, 4, 4, 1)).astype("float32")
    with pytest.raises(ValueError, match=r"operations=\['MaxPool3D'\], layers=\['halved'\]"):
        tfr.compress(model, (x, x[:, 0, 0, :2, 0]), epochs=3, out=tmp_path / "a", console=QUIET)
    assert not (tmp_path / "a").exists()


@pytest.mark.filterwarnings("ignore:Only . training steps come before")
def test_a_precision_that_a_model_cannot_have_costs_that_file_alone(tmp_path):
    """The converter finds no range for indices in int16, and says so after all the training."""
    layers = [keras.layers.Embedding(9, 8), keras.layers.Flatten(), keras.layers.Dense(8, activation="relu")]
    model = keras.Sequential([keras.Input((6,), dtype="int32"), *layers, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).integers(0, 9, (64, 6))
    config = {"export": {**TINY["export"], "precisions": ["float32", "int16"]}}
    epochs = {"train": 1, "regularize": 1, "retrain": 1}
    found = tfr.compress(model, (x, x.mean(1)), epochs=epochs, config=config, out=tmp_path / "a", console=QUIET)
    assert [file["name"] for file in found["files"]] == ["dense_float32.tflite", "shrunk_float32.tflite"]
    assert {item["name"] for item in found["refused"]} == {"dense_int16.tflite", "shrunk_int16.tflite"}
    assert all('Choose "int8"' in item["reason"] for item in found["refused"])
    assert not [alarm for alarm in found["alarms"] if "does not compute what its model does" in alarm["seen"]]


@pytest.mark.filterwarnings("ignore:Nothing was removed")
def test_coupled_channels_are_pruned_by_what_the_penalty_freed(tmp_path):
    """The criterion of the section was handed on as one to rank by, and refused after the training."""
    config = {**TINY, **BRIEF, "regularize": {"coupled": {"strength": 2e-2}, "rounds": 1, "every": 1}, "prune": {}}
    config["data"] = {"name": "digits", "limit": 300}
    figures = workflow.compress(config, out=tmp_path / "run", console=QUIET)
    assert [stage["name"] for stage in figures["stages"]][:3] == ["dense", "regularized", "pruned"]


@keras.saving.register_keras_serializable("workflow")
class TwoDense(keras.layers.Layer):
    """A layer of a user's own that makes its layers itself: what is put on them is not in a file."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = keras.layers.Dense(units, activation="relu")
        self.second = keras.layers.Dense(units)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], self.units))
        super().build(shape)

    def call(self, inputs):
        return inputs + self.second(self.first(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_a_budget_is_met_once_where_layers_hold_layers(tmp_path):
    """The penalties inside are lost in the stage's file: pruning then cut what they had left a second time."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 12)).astype("float32")
    y = (x[:, :4].sum(-1) > 0).astype("int32")
    inputs = keras.Input((12,))
    model = keras.Model(inputs, keras.layers.Dense(2)(TwoDense(16)(keras.layers.Dense(16, activation="relu")(inputs))))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(x, y, epochs=2, verbose=0)
    epochs = {"train": 0, "regularize": 10, "retrain": 1}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        report = tfr.compress(
            model, (x, y), structure="unstructured", budget="sparsity=0.8", epochs=epochs, out=tmp_path / "run", console=QUIET,
            config={"export": {"precisions": ["float32"], "latency_runs": 2}},
        )
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert stages["regularized"]["num_nonzero"] == stages["pruned"]["num_nonzero"] == stages["retrained"]["num_nonzero"]
    assert stages["pruned"]["num_nonzero"] == pytest.approx(0.2 * stages["pruned"]["num_weights"], abs=1)
    assert len(report["kernels"]) == 4
    assert not [warning for warning in said if "BudgetProximal" in str(warning.message)]
