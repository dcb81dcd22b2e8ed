"""A run folder whose files were damaged: each is said with its path and the way out, or the work is done again."""

import contextlib
import json
import os
import pathlib
import shutil
import types

import keras
import numpy as np
import pytest

from tf_reweight import files
from tf_reweight.cli import main
from tf_reweight.reports import curves
from tf_reweight.workflow import lock
from tf_reweight.workflow.folder import Folder

CONFIG, GIVEN = "name: a\n", {"model": "net"}
FIGURES = {"name": "dense", "seconds": 1.5, "validation": {"loss": 0.5}, "test": {"loss": 1.0}, "num_weights": 2}
FIGURES |= {"num_nonzero": 2, "num_macs": None, "keeps_zeros": False, "details": {}, "epochs": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    folder = Folder(tmp_path_factory.mktemp("whole") / "run", CONFIG, GIVEN)
    for stage in ("dense", "regularized", "pruned"):
        folder.finish(stage, net, FIGURES | {"name": stage})
    folder.checkpoint("retrained").write_bytes(b"")
    return folder.path


@pytest.fixture
def path(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def half(content):
    return content[: len(content) // 2]


def flipped(content):
    changed = bytearray(content)
    changed[len(content) // 2] ^= 255
    return bytes(changed)


@pytest.mark.parametrize("inside", [".", "run", "runs/run"])
def test_a_file_in_the_place_of_the_folder_is_said_to_be_one(inside, tmp_path):
    """The advice had been to delete it."""
    (tmp_path / "results.txt").write_text("mine")
    with pytest.raises(ValueError, match="results.txt is a file. Received: out='.*'. Choose a folder with --out"):
        Folder.check(tmp_path / "results.txt" / inside, CONFIG)
    assert (tmp_path / "results.txt").read_text() == "mine"


DAMAGES = [half, flipped, lambda content: b"", lambda content: b"\xff\xfe\x00\x80" * 99]


def without_marks(path):
    """The record of stages as older versions wrote it."""
    stages = json.loads((path / "state.json").read_text())
    stages.pop("sha256")
    (path / "state.json").write_text(json.dumps({stage: FIGURES | {"name": stage} for stage in stages}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_is_not_as_it_was_written_is_made_again(path, damage):
    """A finished run passed over it in silence; only one that went on from it said so."""
    file = path / "regularized.keras"
    file.write_bytes(damage(file.read_bytes()))
    again = Folder(path, CONFIG, GIVEN)
    assert (again.gone, again.loss) == ("regularized", "is not what was written there")
    assert again.figures("dense") == FIGURES and again.figures("regularized") is None and again.figures("pruned") is None
    assert not again.checkpoint("retrained").exists() and again.load("dense").count_params() == 3


def test_a_model_in_the_place_of_another_is_not_taken_for_it(path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path / "pruned.keras")
    again = Folder(path, CONFIG, GIVEN)
    assert again.gone == "pruned" and again.figures("regularized") is not None and again.figures("pruned") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_of_a_run_of_an_older_version_that_is_damaged_or_deleted_is_made_again(path, damage):
    without_marks(path)
    assert Folder(path, CONFIG, GIVEN).gone is None
    file = path / "regularized.keras"
    file.write_bytes(damage(file.read_bytes()))
    again = Folder(path, CONFIG, GIVEN)
    assert again.gone == "regularized" and again.loss.startswith("cannot be read (")
    assert again.figures("dense") == FIGURES and again.figures("regularized") is None and again.figures("pruned") is None
    file.unlink()
    again = Folder(path, CONFIG, GIVEN)
    assert (again.gone, again.loss) == ("regularized", "is not there any more") and not again.checkpoint("retrained").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_is_damaged_while_the_run_is_at_work_is_named(path, damage):
    folder, file = Folder(path, CONFIG, GIVEN), path / "regularized.keras"
    file.write_bytes(damage(file.read_bytes()))
    words = r"as it was written; reading it says: .*\. Received: file='.*regularized\.keras'\. Delete it, and this stage"
    with pytest.raises(ValueError, match=words):
        folder.load("regularized")


def test_a_stage_that_is_made_again_is_not_done_between_its_model_and_its_record(path, monkeypatch):
    """A process that is killed there leaves a new model, which the record of the old one does not fit."""
    (path / "pruned.keras").unlink()
    folder = Folder(path, CONFIG, GIVEN)
    monkeypatch.setattr(files, "mark_of", lambda path: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        folder.finish("pruned", folder.load("dense"), FIGURES)
    assert list(json.loads((path / "state.json").read_text())) == ["dense", "regularized", "sha256"]


def test_what_is_no_damage_of_the_file_is_said_by_whom_it_concerns(path):
    class Unknown(keras.layers.Dense):
        pass

    Folder(path, CONFIG, GIVEN).finish("dense", keras.Sequential([keras.Input((2,)), Unknown(1)]), FIGURES)
    with pytest.raises(TypeError, match="Could not locate class 'Unknown'"):
        Folder(path, CONFIG, GIVEN).load("dense")


WRONG = [{name: []} for name in FIGURES]
WRONG += [{name: 7 if isinstance(good, (dict, str, bool)) else "7"} for name, good in FIGURES.items()]
WRONG += [{"num_weights": None}, {"validation": {"loss": None}}, {"name": "pruned"}]
WRONG += [{"model_file": 7}, {"model_file": {"bytes": 7}}]
RECORDS = [json.dumps({"dense": {**FIGURES, **wrong}}) for wrong in WRONG]
RECORDS += ["[]", "", "{", "[1, 2]", "3", "null", '{"dense": 5}', '{"dense": {"name": "dense"}}', "\udcff", "[" * 100_000]


@pytest.mark.parametrize("text", RECORDS, ids=range(len(RECORDS)))
def test_a_damaged_record_of_stages_names_its_file(path, text):
    (path / "state.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    words = r"record of a run's stages must be .*Received: file='.*state\.json'\. Delete it, and the stages are run again\."
    with pytest.raises(ValueError, match=words):
        Folder(path, CONFIG, GIVEN)
    (path / "state.json").unlink()
    assert Folder(path, CONFIG, GIVEN).figures("dense") is None


def test_a_record_of_stages_in_which_any_bit_is_flipped_is_the_same_or_named(path):
    """A figure that was changed went into the report as if it had been measured."""
    content = (path / "state.json").read_bytes()
    rng = np.random.default_rng(0)
    for place, bit in zip(rng.integers(len(content), size=150), rng.integers(8, size=150)):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        (path / "state.json").write_bytes(changed)
        try:
            same = json.loads(changed) == json.loads(content)
        except ValueError:
            same = False
        with contextlib.nullcontext() if same else pytest.raises(ValueError, match=r"record of a run's stages must be as it"):
            Folder(path, CONFIG, GIVEN)


def test_figures_that_are_not_finite_and_spaces_are_no_damage(path):
    folder = Folder(path, CONFIG, GIVEN)
    figures = FIGURES | {"validation": {"loss": float("nan"), "b": float("inf")}, "details": {3: np.float32(0.1), "w": "é"}}
    folder.finish("dense", folder.load("dense"), figures)
    (path / "state.json").write_text(json.dumps(json.loads((path / "state.json").read_text())))
    assert np.isnan(Folder(path, CONFIG, GIVEN).figures("dense")["validation"]["loss"])


@pytest.mark.parametrize("name", ["config.yaml", "given.json"])
@pytest.mark.parametrize("damage", [*DAMAGES, lambda content: content[:-1], lambda content: b"- a\n"])
def test_what_says_which_run_it_is_and_was_damaged_is_no_other_run(path, name, damage):
    (path / name).write_bytes(damage((path / name).read_bytes()))
    words = rf"must be as it was written; reading it says: .*\. Received: file='.*{name}'\. Put a copy of the file back"
    with pytest.raises(ValueError, match=words):
        Folder(path, CONFIG, GIVEN)


def test_a_configuration_that_was_cut_between_two_lines_is_damaged_and_another_one_is_not(path):
    longer = CONFIG + "seed: 0\n"
    with pytest.raises(ValueError, match="it was cut off .*Received: file='.*config.yaml'"):
        Folder(path, longer, GIVEN)
    with pytest.raises(ValueError, match="What differs: name: a there, b now; seed"):
        Folder(path, "name: b\nseed: 0\n", GIVEN)


NAMES = ["config.yaml", "given.json", "state.json", "curves.jsonl", "report.json", "report.html", "app.zip", "dense.keras"]


@pytest.mark.parametrize("name", [*NAMES, "pruned_int8.tflite", ".retrained.checkpoint", ".lock", ".config.yaml.partial"])
def test_a_folder_in_the_place_of_a_file_is_named_before_any_work(path, name):
    (path / name).unlink(missing_ok=True)
    (path / name / "mine").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"must be a file\. Received: folder='.*{name}'\. Delete or move this folder"):
        Folder(path, CONFIG, GIVEN)
    assert (path / name / "mine").is_dir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["state.json", "config.yaml", ".lock"])
def test_what_a_reader_would_wait_for_in_the_place_of_a_file_is_named(path, name):
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    with pytest.raises(ValueError, match=rf"must be a file\. Received: entry='.*{name}'"):
        Folder(path, CONFIG, GIVEN)


def test_folders_that_belong_there_are_left_alone(path):
    for name in ("search", "logs", "macs_0.5", "my notes"):
        (path / name).mkdir()
    assert Folder(path, CONFIG, GIVEN).figures("pruned") == FIGURES | {"name": "pruned"}


@pytest.mark.parametrize("name", ["run", "config.yaml", "state.json"])
def test_what_the_system_does_not_let_be_read_is_named(path, name, monkeypatch):
    def refused(path):
        if pathlib.Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return real(path)

    owner, method = (os, "listdir") if name == "run" else (pathlib.Path, "read_bytes")
    real = getattr(owner, method)
    monkeypatch.setattr(owner, method, refused)
    words = rf"system says: Permission denied\. Received: path='.*{name}'\. Check the permissions"
    with pytest.raises(ValueError, match=words):
        Folder(path, CONFIG, GIVEN)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    words = r"system says: Permission denied\. Received: path='.*\.lock'"
    with pytest.raises(files.NotWritten, match=words), lock.Lock(tmp_path):
        pass


def test_the_command_line_ends_with_2_and_one_line(path, capfd):
    (path / "dense.keras").write_bytes(b"PK")

    def command(values, positional):
        Folder(path, CONFIG, GIVEN).load("dense")

    assert main._guarded(command, types.SimpleNamespace(debug=False), []) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: The model of a stage that is done must be") and said.count("\n") == 1


def test_epochs_whose_curves_were_lost_are_counted(tmp_path):
    path, trained = tmp_path / "curves.jsonl", {"dense": 2, "pruned": 0, "retrained": 3}
    lines = [{"stage": stage, "epoch": epoch + 1} for stage, number in trained.items() for epoch in range(number)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curves.lost_epochs(path, trained) == {}
    path.write_bytes(half(path.read_bytes()))
    assert curves.lost_epochs(path, trained) == {"retrained": 3}
    path.write_bytes(b"\xff\xfe\x00\x80\n" + b"[" * 100_000 + b'\n{"stage": "dense", "epoch": "x"}\n')
    assert curves.lost_epochs(path, trained) == {"dense": 2, "retrained": 3}
    path.unlink()
    assert curves.lost_epochs(path, trained) == {"dense": 2, "retrained": 3}


def test_checkpoints_of_stages_that_are_done_go_and_others_stay(path):
    """A process can be killed after a stage was recorded, and before its checkpoint is removed."""
    (path / ".pruned.checkpoint").write_bytes(b"")
    folder = Folder(path, CONFIG, GIVEN)
    assert not folder.checkpoint("pruned").exists() and folder.checkpoint("retrained").exists()
