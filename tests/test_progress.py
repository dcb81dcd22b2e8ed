"""What a run says while it works: in 80 columns, with losses that contain penalties named so."""

import io
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from rich.console import Console

import tf_reweight as tfr
from tf_reweight import export
from tf_reweight.cli import main
from tf_reweight.cli.arguments import told
from tf_reweight.reports import progress

ROOT = pathlib.Path(__file__).parent.parent

L = keras.layers


def spoken(terminal, penalised, **logs):
    stream = io.StringIO()
    lines = progress.EpochLines("regularize", Console(file=stream, force_terminal=terminal, width=200, color_system=None))
    model = keras.Sequential([keras.Input((4,)), L.Dense(8), L.Dense(2)])
    if penalised:
        tfr.regularize(model, "filter", strength=1e-3)
    lines.set_model(model)
    lines.set_params({"epochs": 40})
    for epoch in range(2):
        lines.on_epoch_begin(epoch)
        lines.on_epoch_end(epoch, logs)
    lines.on_train_end()
    return stream.getvalue()


LOGS = {"accuracy": 0.9, "loss": 0.5, "val_accuracy": 0.8, "val_loss": 0.6, "learning_rate": 1e-3}


def test_a_log_has_a_line_for_each_epoch_and_a_terminal_one_for_all():
    text = spoken(False, False, **LOGS)
    assert text.splitlines()[0] == "regularize 1/40: accuracy 0.9000, val_accuracy 0.8000, loss 0.5000, 0 s left"
    assert len(text.splitlines()) == 2 and "\r" not in text
    shown = spoken(True, False, **LOGS)
    assert shown.count("\r") == 3 and "\n" not in shown
    assert all(len(part) == progress.LINE_WIDTH - 1 for part in shown.split("\r")[:-1])


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_fit_however_many_metrics_there_are(terminal):
    many = {f"val_metric_of_output_{i}": 0.1 for i in range(9)} | {"distillation_loss": 1.0, "val_loss": 0.1}
    lines = spoken(terminal, True, **many).replace("\r", "\n").splitlines()
    assert any(line.strip() for line in lines)
    for line in lines:
        assert len(line) <= 80 and (not line.strip() or line.rstrip().endswith("s left"))


def test_losses_with_penalties_are_named_so_and_parts_come_last():
    assert "loss+penalty 0.5000" in spoken(False, True, loss=0.5, val_loss=0.6, mae=1.0)
    assert "penalty" not in spoken(False, False, loss=0.5)
    assert spoken(False, False, student_loss=1.0, loss=0.5).startswith("regularize 1/40: loss 0.5000, student_loss 1.0000")


def test_a_stage_says_what_it_changed():
    dense = {"num_nonzero": 40536, "num_parameters": 40666, "num_macs": 489600}
    assert progress.changes(None, dense) == progress.changes(dense, dense) == ""
    assert progress.changes(dense, {**dense, "num_nonzero": 2127}) == ", weights 40,536 to 2,127"
    assert progress.changes(dense, {**dense, "num_macs": 100}) == ", MACs 489,600 to 100"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["inspect", "{file}"], ["inspect", "{file}", "--json"], ["nothing"]])
def test_output_that_cannot_be_written_is_said_in_a_line(arguments, tmp_path, capsys, monkeypatch):
    """Python's traceback ended with 1, which of `check` means that the file has faults."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    export.export_tflite(model, tmp_path / "a.tflite")
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main.console([argument.format(file=tmp_path / "a.tflite") for argument in arguments]) == 2
    said = capsys.readouterr().err
    if arguments != ["nothing"]:
        assert said.count("\n") == 1 and "No space left on device. Received: output='stdout'. Make room" in said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("arguments", ["check nope.tflite", "check --nope", "nope", "--version"])
def test_errors_that_cannot_be_written_have_their_status(arguments):
    """1 means of `check` that the file has faults."""
    command = f"{sys.executable} -m tf_reweight {arguments} 2>/dev/full"
    wanted = 0 if arguments == "--version" else 2
    assert subprocess.run(command, shell=True, stdout=subprocess.DEVNULL, cwd=ROOT).returncode == wanted


def test_a_backend_that_keras_has_not_is_said_with_those_that_it_has(monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflw")
    assert main.console(["report", "a.keras"]) == 2
    assert "Received: KERAS_BACKEND='tensorflw'. Did you mean 'tensorflow'? Valid: jax" in capsys.readouterr().err
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    said = told(ModuleNotFoundError("No module named 'jax'", name="jax"))
    assert said.startswith("Keras' backend 'jax' needs the package jax, which is not installed. Received: KERAS_BACKEND='jax'.")
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    said = told(ModuleNotFoundError("No module named 'jax.numpy'", name="jax.numpy"))
    assert said.startswith("Keras must have a backend that trains: 'numpy' does not, and Python says: No module named 'jax.num")
    assert told(ModuleNotFoundError("No module named 'mine'", name="mine")) == "No module named 'mine'", "no backend needs it"


def test_a_command_whose_output_was_closed_runs_and_prints_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert progress.terminal().width == 110
    assert main.console(["--version"]) == 0
    sys.stdout.close()
