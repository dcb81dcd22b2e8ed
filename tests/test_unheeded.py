"""What a configuration says and nothing would look at is refused before any work; what runs wrote themselves is taken."""

import json

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tests import tasks
from tf_reweight import data, workflow
from tf_reweight.cli import main
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow import differences
from tf_reweight.workflow.config import Config, load
from tf_reweight.workflow.run import Run
from tf_reweight.workflow.sections import GIVEN

X, Y = np.zeros((40, 8, 8, 1), "float32"), np.zeros((40, 2), "float32")
CODE = """
import numpy as np
def load():
    x, y = np.zeros((40, 8, 8, 1)), np.zeros((40, 2))
    return (x, y), (x, y), None
"""
SPLIT = {"validation": (X, Y)}
DIGITS = data.load(limit=100)
BAD = [
    ({"data": {"name": "digits"}}, {}, "`data.name` is for data sets by name, and `train` is given. Received: name='digits'"),
    ({"data": {"limit": 10}}, {}, "`data.limit` is for data sets by name.*Received: limit=10"),
    ({"data": {"image_size": 9}}, {}, "`data.image_size` is for data sets by name.*Leave data.image_size out"),
    ({"data": {"value_range": [0, 1]}}, {}, "`data.value_range` is for data sets by name"),
    ({"data": {"validation": 0.5}}, SPLIT, "`data.validation` is for runs without validation examples.*validation=0.5. Leave"),
    ({"data": {"limit": 10}}, {"train": DIGITS}, "`data.limit` is for data sets by name"),
    ({"data": {"validation": 0.5}}, {"train": DIGITS}, "`data.validation` is for runs without validation"),
    ({"model": {"custom": ["nope.py"]}}, {}, "`model.custom` is for models by name.*Received: custom=.*Leave model.custom out"),
    ({"model": {"name": "small_cnn"}}, {}, "`model.name` is for models by name, and a model is given"),
    ({"model": {"name": "small_cnn"}}, {"train": DIGITS}, "`model.name` is for models by name, and a model is given"),
    ({"regularize": {"every": 2, "rounds": 3}}, {"epochs": 30}, "stage `regularize` trains is said twice.*regularize.every"),
    ({"regularize": {"every": 2}}, {"epochs": {"regularize": 3}}, "said twice, by `epochs` and by regularize.every"),
    ({"train": {"epochs": 2}}, {"epochs": 3}, "`train` trains is said twice, by `epochs` and by train.epochs.*epochs=3"),
    ({"quantize": {"epochs": 2}}, {"epochs": {"quantize": 1}}, "`quantize` trains is said twice.*Leave one of them out"),
]  # fmt: skip
BAD += [
    ({"task": {"monitor": "val_loss"}}, {"monitor": "val_mae"}, "`monitor` is said twice, by the argument and by task.monitor"),
    ({"task": {"mode": "min"}}, {"monitor": "val_loss", "mode": "max"}, "`mode` is said twice, by the argument and by task"),
]
GOOD = [
    ({"data": {"limit": None, "value_range": "auto"}}, {}),
    ({"data": {"validation": 0.5}}, {}),
    ({"data": {"validation": 0.1}}, SPLIT),
    ({"train": {"epochs": 2}, "regularize": {"rounds": 1, "every": 3}}, {"epochs": {"train": 2, "regularize": 3}}),
    ({"train": {"epochs": 2}}, {"epochs": {"retrain": 3}}),
    ({"train": {"epochs": 0}}, {"epochs": 6}),
    ({"train": {"steps": 1}}, SPLIT),
]


@pytest.fixture(scope="module")
def model():
    return tasks.regression()[0]


def run_of(model, config, monkeypatch, train=(X, Y), **options):
    """The `Run` of a call of `compress`, which does nothing."""
    monkeypatch.setattr(workflow, "_finished", lambda run, out: run)
    return tfr.compress(model, train, config=config, console=QUIET, **options)


@pytest.mark.parametrize("make", [dict, Config])
@pytest.mark.parametrize("config, options, words", BAD, ids=map(str, range(len(BAD))))
def test_a_key_that_an_argument_stands_for_is_refused(config, options, words, make, model, monkeypatch):
    with pytest.raises(ValueError, match=words) as caught:
        run_of(model, make(**config), monkeypatch, **options)
    assert str(caught.value).count("Received: ") == 1


@pytest.mark.parametrize("make", [dict, Config])
def test_a_stage_that_is_said_not_to_train_takes_none_of_the_epochs(make, model, monkeypatch):
    """0 epochs of a model that was trained elsewhere, and a number for the others, were "said twice"."""
    run = run_of(model, make(train={"epochs": 0}), monkeypatch, epochs=6)
    assert run.config.epochs == {"train": 0, "regularize": 3, "retrain": 3}


def test_arrays_in_a_configuration_are_compared_with_a_default_too(model, monkeypatch):
    with pytest.raises(ValueError, match="`data.value_range` is for data sets by name"):
        run_of(model, {"data": {"value_range": np.array([0, 1])}}, monkeypatch)


@pytest.mark.parametrize("config, options", GOOD)
def test_a_key_that_says_the_same_or_counts_is_taken(config, options, model, monkeypatch):
    assert isinstance(run_of(model, config, monkeypatch, **options), Run)


@pytest.mark.parametrize("options", [{}, {"epochs": 3}, {"epochs": 9}, SPLIT])
def test_a_configuration_that_a_run_wrote_is_taken(options, model, monkeypatch, tmp_path):
    """It holds every default, which nobody said."""
    run = run_of(model, {}, monkeypatch, epochs=3)
    (tmp_path / "config.yaml").write_text(run.config.to_yaml())
    for config in (tmp_path / "config.yaml", run.config.model_dump(mode="json"), load(tmp_path / "config.yaml")):
        assert isinstance(run_of(model, config, monkeypatch, **options), Run)


def test_the_configuration_of_a_run_says_what_it_was_given(model, monkeypatch, tmp_path, capsys):
    """It named digits and small_cnn, the defaults, which the run had not used: `--config` went on with them without a word."""
    run, path = run_of(model, {}, monkeypatch), tmp_path / "config.yaml"
    path.write_text(run.config.to_yaml())
    written = load(path)
    assert (written.data.name, written.model.name) == (GIVEN, GIVEN)
    for flags in ([], ["--data", "digits"]):
        assert main.console(["compress", "--config", str(path), *flags, "--dry_run"]) == 2
        what = "model" if flags else "data"
        assert f"given its {what} needs the {what} again. Received: {what}.name='(given)'" in capsys.readouterr().err
    # Names stay where they load what the run uses.
    named = Run(load({}), None, None, (), QUIET, None).config
    assert (named.data.name, named.model.name) == ("digits", "small_cnn")


def test_folders_of_older_configurations_go_on(model, monkeypatch):
    asked = run_of(model, {}, monkeypatch).config
    older = asked.model_copy(deep=True)
    older.data.name, older.model.name = "digits", "small_cnn"
    assert differences.of_configurations(older.to_yaml(), asked.to_yaml()) == {}
    assert list(differences.of_configurations(asked.to_yaml(), older.to_yaml())) == ["data.name", "model.name"]
    older.train.epochs += 1
    assert list(differences.of_configurations(older.to_yaml(), asked.to_yaml())) == ["train.epochs"]


def test_flags_of_the_command_line_override_a_configuration(monkeypatch, tmp_path):
    """There a file holds for several runs, of which each flag says what is other in this one."""
    monkeypatch.chdir(tmp_path)
    tasks.regression()[0].save("mine.keras")
    (tmp_path / "mine.py").write_text(CODE)
    data, model = "data: {name: digits, limit: 300, validation: 0.2}\n", "model: {name: small_cnn, custom: []}\n"
    (tmp_path / "run.yaml").write_text(f"{data}{model}train: {{epochs: 4}}\nregularize: {{rounds: 1, every: 4}}\n")
    flags = ["--config", "run.yaml", "--model", "mine.keras", "--data", "mine.py:load", "--epochs", "3", "--dry_run"]
    assert main.console(["compress", *flags]) == 0


def test_flags_that_name_no_budget_leave_a_configuration_its_method(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("data: {name: digits, limit: 300}\nregularize: {rounds: 1, every: 4}\n")
    plans = []
    for flags in ([], ["--monitor", "val_loss"], ["--budget", "macs=0.5", "--epochs", "9"]):
        assert main.console(["compress", "--config", "run.yaml", *flags, "--dry_run", "--json"]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    (plain, monitored, budgeted), methods = plans, [plan["config"]["regularize"]["method"]["name"] for plan in plans]
    assert methods[:2] == ["reweighted", "reweighted"] and monitored["config"]["task"]["monitor"] == "val_loss"
    assert monitored["epochs"] == plain["epochs"] and sum(budgeted["epochs"].values()) == 9
    assert main.console(["compress", "--config", "run.yaml", "--epochs", "9", "--dry_run"]) == 2
    assert "Received: epochs=9" in (said := capsys.readouterr().err) and "--set train.epochs" in said


def test_a_configuration_first_takes_a_model_and_data_in_the_place_of_its_own(monkeypatch):
    """So its page says: both are used instead of what it names."""
    monkeypatch.setattr(workflow, "_finished", lambda run, out: run)
    net = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    config = {"data": {"name": "digits", "limit": 50}, "model": {"name": "small_cnn"}}
    assert len(tfr.compress(config, net, DIGITS, console=QUIET).data.train.x) == 100
    with pytest.raises(ValueError, match="`train.steps` is for sources of batches"):
        tfr.compress({**config, "train": {"steps": 3}}, net, DIGITS, console=QUIET)


@pytest.fixture
def code_of_data(tmp_path, monkeypatch):
    """A folder with data as code, with validation examples and without, and a model for them."""
    monkeypatch.chdir(tmp_path)
    tasks.regression()[0].save("mine.keras")
    (tmp_path / "mine.py").write_text(CODE + "\n\ndef alone():\n    return [load()[0]]\n")
    return {"data": {"name": "mine.py:load"}, "model": {"name": "mine.keras"}, "regularize": {"coupled": {}}}


def test_keys_of_data_by_name_are_refused_for_data_from_a_function(code_of_data):
    """Only `shift` had been: the others were passed over."""
    for key, value in {"image_size": 3, "data_dir": "d", "validation": 0.5, "limit": 10, "value_range": "raw"}.items():
        inside = {**code_of_data, "data": {"name": "mine.py:load", key: value}}
        for config, overrides in ((inside, ()), (code_of_data, [f"data.{key}={value}"])):
            with pytest.raises(ValueError, match=f"`data.{key}` is for .*Received: {key}={value!r}. Leave data.{key} out"):
                workflow.plan(config, overrides=overrides)
    with pytest.raises(ValueError, match="`data.data_dir` is where tensorflow-datasets keeps.*Leave data.data_dir out"):
        workflow.plan({"data": {"data_dir": "d"}})
    alone = {**code_of_data, "data": {"name": "mine.py:alone", "validation": 0.5}}
    assert workflow.plan(alone)["config"]["data"]["validation"] == 0.5
    assert workflow.plan(workflow.config.load(code_of_data).model_dump(mode="json"))


def test_keys_that_have_no_effect_beside_another_are_refused(code_of_data):
    for more, words in (
        ({"regularize": {"coupled": {}, "rules": [{"structure": "block"}]}}, "one counts.*Received: rules=.*Leave the"),
        ({"distill": {"weight": 0.5}, "retrain": {"epochs": 0}}, "`distill` needs epochs of `retrain`, or `quantize`"),
        ({"stages": ["retrain", "train"]}, r"`train` comes first.*Received: stages=\['retrain', 'train'\]. Put them in order"),
    ):
        with pytest.raises(ValueError, match=words) as raised:
            workflow.plan({**code_of_data, **more})
        assert str(raised.value).count("Received: ") == 1
    # A configuration holds for several methods.
    config = {**code_of_data, "regularize": {"coupled": {}, "method": "one_shot", "rounds": 2}, "prune": {"budget": "macs=0.5"}}
    assert workflow.plan(config)["epochs"]["regularize"] == 0
    assert workflow.plan({**code_of_data, "distill": {}, "retrain": {"epochs": 0}, "quantize": {}})


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--epochs", "4", "--set", "train.epochs=9"], "`train` trains is said twice, by `epochs` and by train.epochs"),
        (["--set", "model.name=lenet5"], "`model.name` is said twice, by --model and by --set. Received: model='mine.k"),
        (["--set", "model={name: lenet5}"], "`model.name` is said twice"),
        (["--set", "data.name=digits"], "`data.name` is said twice, by --data and by --set"),
        (["--set", "data=7"], "`data.name` is said twice, by --data and by --set"),
        (["--monitor", "val_loss", "--set", "task.monitor=val_mae"], "`task.monitor` is said twice, by --monitor and by"),
        (["--import", "a.py", "--set", "model.custom=[b.py]"], "`model.custom` is said twice, by --import and by --set"),
        (["--verify_arm", "--set", "export.verify_arm=false"], "`export.verify_arm` is said twice, by --verify_arm and by"),
        (["--distribute", "mirrored", "--set", "distribute=null"], "`distribute` is said twice"),
        (["--structure", "block", "--set", "regularize.rules=[{structure: filter}]"], "The structure is said twice"),
        (["--structure", "block", "--set", "regularize.coupled={}"], "The structure is said twice, by `structure` and by"),
        (["--set", "seed=1", "--set", "seed=2"], "`seed` is said twice by --set. Received: set=['seed=1', 'seed=2']"),
        (["--set", "model.name=mine.keras", "--set", "data={name: 'mine.py:load'}", "--structure", "channels"], None),
        (["--epochs", "4", "--set", "seed=1", "--set", "seed=1", "--set", "regularize.coupled={}"], None),
    ],
)
@pytest.mark.parametrize("command", ["compress", "sweep"])
def test_a_flag_and_set_that_contradict_each_other_are_refused(command, flags, words, code_of_data, capsys, monkeypatch):
    """`--set` was dropped without a word."""
    monkeypatch.setattr(workflow.sweeps, "trace", lambda run, wanted, out, code: workflow.fronts.Front({"name": "m"}, ()))
    more = ["--dry_run"] if command == "compress" else ["--json"]
    status = main.console([command, "--model", "mine.keras", "--data", "mine.py:load", *flags, *more])
    said = capsys.readouterr().err
    assert (status, said) == (0, "") if words is None else status == 2 and words in said and said.count("Received: ") == 1


def test_flags_that_are_given_twice_and_empty_paths_are_refused(code_of_data, tmp_path, capsys):
    """The last of two values won, and the empty path was the working folder."""
    compress = ["compress", "--model", "mine.keras", "--data", "mine.py:load", "--dry_run"]
    for flags, words in (
        ([*compress, "--budget", "macs=0.5", "--budget", "macs=0.2"], "--budget must be given once. Received: budget=['macs"),
        ([*compress, "--model", "b.keras"], "--model must be given once. Received: model=['mine.keras', 'b.keras']. Leave one"),
        ([*compress, "--epochs", "3", "--epochs", "4"], "--epochs must be given once. Received: epochs=['3', '4']"),
        ([*compress, "--out", ""], "`out` must be a path. Received: out=''"),
        ([*compress, "--out", "mine.py"], "The run folder must be a folder, and mine.py is a file"),
        (["init", ""], "No argument may be empty. Received: arguments=['']"),
        (["benchmark", "a.tflite", "--runs", "1", "--runs", "2"], "--runs must be given once"),
    ):
        assert main.console(flags) == 2
        assert words in (said := capsys.readouterr().err), (flags, said)
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.keras", "mine.py", "__pycache__"}
