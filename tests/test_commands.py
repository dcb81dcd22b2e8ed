"""The commands that take a model pruned anywhere."""

import json

import keras
import nets
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import main


@pytest.fixture
def pruned(tmp_path):
    keras.utils.set_random_seed(0)
    model = nets.residual()
    tfr.prune_groups(model, sparsity=0.5)
    model.save(tmp_path / "pruned.keras")
    return model, str(tmp_path / "pruned.keras")


def test_groups_are_printed_for_people_and_programs(pruned, capsys):
    model, path = pruned
    assert main.console(["groups", path]) == 0
    text = capsys.readouterr().out
    assert "stem + back + more" in text and "read by" in text and "output of the model" in text
    assert main.console(["groups", path, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["num_groups"] == sum(item["num_groups"] for item in figures["sets"]) == tfr.groups(model).num_groups


def test_shrink_writes_a_smaller_model_with_the_same_outputs(pruned, tmp_path, capsys):
    model, path = pruned
    small_path = tmp_path / "small.keras"
    assert main.console(["shrink", path, str(small_path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    small = keras.saving.load_model(small_path)
    assert small.count_params() == figures["parameters_after"] < 0.7 * model.count_params()
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(small.predict_on_batch(x), model.predict_on_batch(x), atol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pruned.keras", "small.keras"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["shrink", "a.keras"], "Expected IN.keras and OUT.keras"),
        (["shrink", "a.keras", "b.tflite"], "Expected IN.keras and OUT.keras"),
        (["shrink", "a.keras", "none/b.keras"], "folder of OUT.keras must exist"),
        (["shrink", "a.keras", "b.keras"], "must exist"),
        (["groups"], "Expected one MODEL.keras"),
        (["groups", "a.h5"], "end in .keras"),
    ],
)
def test_bad_arguments(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.console(arguments) == 1
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_help_of_every_command(capsys):
    from tf_reweight.commands import COMMANDS

    assert main.console(["--help"]) == 0
    usage = capsys.readouterr().out
    for command in COMMANDS:
        assert f"tf-reweight {command} " in usage
        assert main.console([command, "--help"]) == 0
        assert "--json" in capsys.readouterr().out.replace("--[no]json", "--json")
