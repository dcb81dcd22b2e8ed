"""Runs that survive: whole files, one process on a folder, trainings that go on as if they had not been cut off."""

import contextlib
import errno
import io
import json
import os
import pathlib
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
import types
import zipfile

import keras
import numpy as np
import pytest
from rich.console import Console

import tf_reweight as tfr
from tf_reweight import baselines, coupling, errors, files, quantization, workflow
from tf_reweight.cli import main
from tf_reweight.data import feeds
from tf_reweight.reports.curves import read_curves
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow import lock, plain
from tf_reweight.workflow.checkpoint import Checkpoint
from tf_reweight.workflow.folder import Folder
from tf_reweight.workflow.run import Run

L = keras.layers
ROOT = pathlib.Path(__file__).parent.parent
# Files are not what these runs are about.
BRIEF = {"export": {"precisions": ["float32"], "latency_runs": 1, "representative": 16, "verify": 8, "pack": False}}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_leaves_the_file_of_before_and_says_its_path(call, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    files.write_text(path, "before")

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    said = r"No space left on device\. Received: path='.*report.json'\. Nothing of this file was left"
    with pytest.raises(files.NotWritten, match=said):
        files.write_text(path, "after")
    monkeypatch.undo()
    assert path.read_text() == "before" and names(tmp_path) == ["report.json"]


def test_a_folder_that_cannot_be_opened_itself_takes_files(tmp_path, monkeypatch):
    """As one in which names cannot be listed, or any on Windows: its file is whole, though nobody waits for its name."""
    opened = os.open

    def closed(path, flags, *args, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", closed)
    files.write_text(tmp_path / "report.json", "told")
    monkeypatch.undo()
    assert (tmp_path / "report.json").read_text() == "told" and names(tmp_path) == ["report.json"]


@contextlib.contextmanager
def largest_file(size):
    """Within it the system lets no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 1, 4096, 40_000])
def test_a_disk_that_takes_so_many_bytes_and_no_more(size, tmp_path):
    """Really. Keras, h5py and zipfile say it each in their own way."""
    model = keras.Sequential([keras.Input((64,)), L.Dense(256)])
    folder = Folder(tmp_path, "name: a\n")
    with largest_file(size), pytest.raises(files.NotWritten, match="File too large.*dense.keras"):
        folder.finish("dense", model, {})
    assert names(tmp_path) == ["config.yaml"] and folder.figures("dense") is None
    folder.finish("dense", model, {})
    assert names(tmp_path) == ["config.yaml", "dense.keras", "state.json"]


@pytest.mark.parametrize("precision, size", [("float32", 1000), ("int8", 0)])
def test_a_temporary_folder_without_room_for_a_conversion_is_said(precision, size, tmp_path):
    """TensorFlow's own error had come, and a command took it for one that nobody foresaw."""
    model, x = keras.Sequential([keras.Input((64,)), L.Dense(64)]), np.ones((8, 64), "float32")
    with largest_file(size), pytest.raises(files.NotWritten, match="File too large.*Received: path=.*set TMPDIR to another"):
        tfr.export_tflite(model, tmp_path / "a.tflite", precision, x, x)
    assert names(tmp_path) == []


@pytest.mark.parametrize("inside", [".", "run"])
def test_a_folder_behind_a_link_that_leads_nowhere_is_said(inside, tmp_path):
    """The disk was said to be full."""
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(files.NotWritten, match="must lead to one.*'nowhere'"):
        files.make_folder(tmp_path / "link" / inside)
    assert names(tmp_path) == ["link"]


def test_a_symbolic_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a").symlink_to("there/b")
    for text in ("new", "again"):
        files.write_text(tmp_path / "a", text)
        assert (tmp_path / "a").is_symlink() and (tmp_path / "there" / "b").read_text() == text
    assert names(tmp_path) == ["a", "there"] and names(tmp_path / "there") == ["b"]


def test_a_folder_in_which_another_thread_is_at_work_names_the_thread(tmp_path):
    with lock.Lock(tmp_path), pytest.raises(ValueError, match="No other thread of this process may be at work"):
        with lock.Lock(tmp_path):
            pass


@pytest.mark.parametrize("suffix", ["", ".keras"])
def test_writers_of_one_file_at_once_write_whole_ones(suffix, tmp_path):
    """They wrote into one half-written file, which the first of them took away from the others."""
    path = tmp_path / "a"
    with files.whole(path, suffix) as one, files.whole(path, suffix) as two:
        one.write_text("one")
        two.write_text("two")
        assert one != two and one.match(files.PARTIAL) and two.match(files.PARTIAL)
    assert path.read_text() == "one" and names(tmp_path) == ["a"]


def test_processes_that_write_one_file_do_not_break_each_other(tmp_path):
    code = "import pathlib, sys; from tf_reweight import files\n"
    code += "for _ in range(50): files.write_whole(pathlib.Path(sys.argv[1]), sys.argv[2].encode() * 100_000)"
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a"), letter], cwd=ROOT) for letter in "xyz"]
    assert [process.wait() for process in started] == [0, 0, 0]
    content = (tmp_path / "a").read_text()
    assert content == content[0] * 100_000 and names(tmp_path) == ["a"]


def test_what_a_killed_writer_has_left_is_written_over(tmp_path):
    (tmp_path / ".a.partial").write_text("half of something longer")
    files.write_text(tmp_path / "a", "all")
    assert (tmp_path / "a").read_text() == "all" and names(tmp_path) == ["a"]


def test_what_is_no_matter_of_the_disk_stays_as_it_is(tmp_path):
    with pytest.raises(KeyError), files.whole(tmp_path / "a"):
        raise KeyError("of the writer's own")
    assert names(tmp_path) == []


def test_what_came_before_an_error_from_none_is_no_matter_of_the_disk(tmp_path):
    def write(cause):
        with files.whole(tmp_path / "a"):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise ValueError("an asset is missing") from (error if cause else None)

    with pytest.raises(ValueError, match="^an asset is missing$"):
        write(cause=False)
    with pytest.raises(files.NotWritten, match="No space left"):
        write(cause=True)


def test_paths_begin_at_home_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = [files.as_path("path", "~/a.tflite"), files.folder_path("out", "~/a.tflite"), files.checked_path("~/a.tflite")]
    assert found == [tmp_path / "a.tflite"] * 3
    with pytest.raises(ValueError, match="The home in `out` must be known. Received: out='~nobody_of_that_name/a'"):
        files.folder_path("out", "~nobody_of_that_name/a")


def test_a_line_that_was_left_half_written_costs_that_line_only(tmp_path):
    path = tmp_path / "curves.jsonl"
    records = [{"stage": "dense", "epoch": epoch} for epoch in (1, 2, 3)]
    files.append_line(path, json.dumps(records[0]))
    with open(path, "ab") as file:
        file.write(b'{"stage": "dense", "ep\xff')
    for record in records[1:]:
        files.append_line(path, json.dumps(record))
    with open(path, "ab") as file:
        file.write(b'12\n{"stage": "dense"}\n')
    assert read_curves(path) == records


def test_one_process_at_a_time_is_let_into_a_folder(tmp_path):
    folder = tmp_path / "run"
    with lock.Lock(folder):
        with pytest.raises(ValueError, match=f"No other thread of this process.*process='{os.getpid()}'"):
            with lock.Lock(folder):
                pass
        assert names(folder) == [".lock"]
    assert names(folder) == []
    (folder / ".lock").write_text("12345")  # of a process that was killed
    with lock.Lock(folder):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOTSUP, "not here")

    monkeypatch.setattr(lock, "fcntl", types.SimpleNamespace(flock=flock, LOCK_EX=1, LOCK_NB=2))
    with pytest.warns(UserWarning, match="knows no locks"), lock.Lock(tmp_path):
        pass


def test_what_a_process_killed_in_its_first_milliseconds_leaves_is_taken(tmp_path):
    given = {"model": "net", "weights": "abc"}
    Folder(tmp_path / "whole", "name: a\n", given)
    for left in ([".lock"], [".given.json.partial"], ["given.json"], ["given.json", ".config.yaml.partial", ".lock"]):
        folder = tmp_path / "-".join(left)
        folder.mkdir()
        for name in left:
            whole = name == "given.json"
            (folder / name).write_text((tmp_path / "whole" / name).read_text() if whole else "half")
        Folder(folder, "name: a\n", given)
        assert [name for name in names(folder) if name != ".lock"] == ["config.yaml", "given.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "given.json").write_text("{}\n")
    with pytest.raises(ValueError, match="run folder must be new"):
        Folder(tmp_path / "other", "name: a\n", given)


def test_a_changed_run_is_refused_with_what_differs(tmp_path):
    held = "name: a\nprune:\n  budget:\n    macs: 0.5\nseed: 0\n"
    Folder(tmp_path, held, {"model": "net", "weights": "abc", "train": 3})
    words = r"prune\.budget\.macs: 0\.5 there, 0\.4 now; extra: \(not said\) there, 1 now; train: 3 there, 4 now\. Received"
    with pytest.raises(ValueError, match=words):
        Folder(tmp_path, held.replace("0.5", "0.4") + "extra: 1\n", {"model": "net", "weights": "abc", "train": 4})
    with pytest.raises(ValueError, match="model: net there, .not said. now"):
        Folder(tmp_path, held)


def test_a_run_goes_on_only_with_the_same_model_and_examples(tmp_path):
    """Both by their paths, and their contents changed: the configuration is the same."""
    x, y = np.random.default_rng(0).random((40, 4)).astype("float32"), np.arange(40) % 2
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, activation="relu"), keras.layers.Dense(2)])

    def opened():
        config = {"data": {"name": str(tmp_path / "a.npz")}, "model": {"name": str(tmp_path / "a.keras")}}
        with Run(config, None, None, (), QUIET, None).open(tmp_path / "run"):
            pass

    np.savez(tmp_path / "a.npz", x=x, y=y)
    model.save(tmp_path / "a.keras")
    opened()
    opened()
    np.savez(tmp_path / "a.npz", x=x + (np.arange(40) == 7)[:, None], y=y)
    with pytest.raises(ValueError, match=r"the train examples \(fingerprint [0-9a-f]{8} there, [0-9a-f]{8} now\)"):
        opened()
    np.savez(tmp_path / "a.npz", x=x, y=y)
    model.layers[0].bias.assign_add([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    model.save(tmp_path / "a.keras")
    with pytest.raises(ValueError, match=r"What differs: the weights of the model \(fingerprint [0-9a-f]{8} there, "):
        opened()


def test_a_notebook_cell_that_was_stopped_goes_on_when_it_runs_again(tmp_path, monkeypatch):
    """Keras counts up the names of the model and its layers; the run is the same, and so is its folder, named or not."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(2400, 4)).astype("float32")

    def cell(where, width=16, callbacks=()):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(width, activation="relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile("adam", "mse")
        epochs, options = {"train": 2, "regularize": 2, "retrain": 1}, {"callbacks": callbacks, "config": BRIEF}
        return tfr.compress(model, (x, x[:, :1]), epochs=epochs, out=where, console=QUIET, **options)

    def cut(stage):
        stopped = keras.callbacks.LambdaCallback(on_epoch_begin=interrupted)
        return [stopped] if stage == "regularized" else []

    def interrupted(epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    whole = cell("whole")
    for runs, out in enumerate(("a", None), 2):
        with pytest.raises(KeyboardInterrupt):
            cell(out, callbacks=cut)
        again = cell(out)
        assert len(list(tmp_path.rglob("given.json"))) == runs
        assert all(map(np.array_equal, again.model.get_weights(), whole.model.get_weights()))
    with pytest.raises(ValueError, match="What differs: .*the layers of the model"):
        cell("a", width=24)
    # Where no folder is named, another model that Keras has named is another run, as before.
    with pytest.raises(KeyboardInterrupt):
        cell(None, width=24, callbacks=cut)
    assert len(list(tmp_path.rglob("given.json"))) == 4


@pytest.mark.parametrize("out", ["mine", None])
def test_a_run_stays_in_its_folder_where_code_of_the_user_goes_to_another(out, tmp_path, monkeypatch):
    """Half of the files had come into a folder of the same name there."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((40, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(1)], name="net")
    model.compile("adam", "mse")

    def batches():
        monkeypatch.chdir(elsewhere)
        yield x, x[:, :1]

    def stages(run, where):
        with run.open(where):
            return run.folder.path

    monkeypatch.setattr(workflow, "_finished", stages)
    found = tfr.compress(model, batches, (x, x[:, :1]), structure="unstructured", out=out, console=QUIET)
    assert found == tmp_path / (out or "runs/net") and (found / "config.yaml").is_file() and not (found / ".lock").exists()
    assert not list((elsewhere / "mine").iterdir()) and len(list(elsewhere.iterdir())) == 1


def test_examples_are_told_apart_by_type_shape_and_value():
    whole = np.arange(6)
    texts = [np.array(["a", "b"]), np.array(["a", "c"], object), np.array(["a", "d"], object)]
    others = [np.array([True, False]), np.zeros((0, 3)), np.array(["2026-01-01"], "datetime64[D]")]
    arrays = [whole, whole.astype("float64"), whole.reshape(2, 3), whole + 1, *texts, *others]
    marks = [feeds.Arrays({"x": array}, array).fingerprint() for array in arrays]
    assert len(set(marks)) == len(arrays) and marks[0] == feeds.Arrays({"x": whole.copy()}, np.arange(6)).fingerprint()
    assert feeds.Arrays(whole).fingerprint() != feeds.Arrays(whole, whole).fingerprint()


def test_plain_values_come_back_as_they_were():
    value = {"a": (1, [2.5, None]), 3: {"b": np.arange(3)}, "n": np.float32(0.1), "inf": float("inf"), "s": "x", "t": True}
    arrays = {}
    kept = json.loads(json.dumps(plain.packed(value, arrays)))
    again = plain.unpacked(kept, arrays)
    np.testing.assert_array_equal(again[3].pop("b"), value[3].pop("b"))
    assert again == value and type(again["n"]) is np.float32
    with pytest.raises(plain.NotPlain):
        plain.packed([object()], {})


# How a model is prepared, and the callbacks of its training; each has a state that Keras' own files do not hold.
def _gradual(model):
    return [baselines.GradualMagnitude(baselines.PolynomialDecay(0.0, 0.6, 0, 14, frequency=2))]


def _budget(model):
    coupling.regularize_coupled(model, budget="macs=0.6")
    return [tfr.callbacks.BudgetProximal(until=0.6, every=2, criterion="lamp")]


def _sparsity(model):
    tfr.regularize(model, "unstructured", budget="sparsity=0.5")
    return [tfr.callbacks.BudgetProximal(until=0.6, every=2)]


def _iterative(model):
    tfr.regularize(model, "unstructured", budget="sparsity=0.5")
    return [tfr.callbacks.IterativePruning(rounds=2)]


def _iterative_channels(model):
    return [tfr.callbacks.IterativePruning("macs=0.6", rounds=3)]


def _proximal(model):
    coupling.regularize_coupled(model, strength=20.0)
    return [tfr.callbacks.Reweighting(every=2), coupling.CoupledProximal(macs=0.2)]


def _clustered(model):
    quantization.cluster(model, 4)
    return [keras.callbacks.ReduceLROnPlateau(patience=1, monitor="loss"), tfr.callbacks.CosineDecay(0.1)]


def _stopping(model):
    return [keras.callbacks.EarlyStopping(monitor="loss", patience=1, min_delta=10.0, restore_best_weights=True)]


CASES = {"gradual": _gradual, "budget": _budget, "sparsity": _sparsity, "proximal": _proximal, "clustered": _clustered}
CASES |= {"stopping": _stopping, "iterative": _iterative, "iterative channels": _iterative_channels}
# In a compiled step: one that holds zeros, one that ranks by gradients and one of the layers together. Others are as quick as
# two dozen steps are.
COMPILED = ("gradual", "budget", "proximal")


class _Cut(Exception):
    pass


class _CutAfter(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise _Cut


def trained(case, path=None, cut=None, console=QUIET):
    """The weights after four epochs of six steps, and the callbacks; with `cut`, broken off after that epoch."""
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 4)).astype("float32")
    layers = [L.Dense(8, name="a"), L.BatchNormalization(), L.ReLU(), L.Dropout(0.2)]
    layers += [L.Dense(6, activation="relu", name="b"), L.Dense(1, name="c")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    callbacks = CASES[case](model)
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False, run_eagerly=case not in COMPILED)
    last = [] if path is None else [Checkpoint(path, "stage", callbacks, console)]
    last += [] if cut is None else [_CutAfter(cut)]
    try:
        model.fit(x, x[:, :1] * x[:, 1:2], batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=callbacks + last)
    except _Cut:
        return None
    return model.get_weights(), [getattr(callback, "history", None) for callback in callbacks]


def same(one, two):
    return all(map(np.array_equal, one[0], two[0])) and one[1] == two[1]


@pytest.mark.filterwarnings("ignore:.*training steps come before the deadline", "ignore:The groups that are zero do not free")
# Those of single weights have the state of those of channels.
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in ("sparsity", "iterative") else ()) for case in CASES]
)
def test_a_training_cut_after_any_epoch_ends_bit_identical(case, tmp_path):
    whole = trained(case)
    for cut in {"stopping": [0], "budget": [1, 2]}.get(case, [1]):  # before and after the budget is met
        path = tmp_path / f"{cut}.checkpoint"
        assert trained(case, path, cut) is None and path.is_file()
        assert same(whole, trained(case, path)), cut


@keras.saving.register_keras_serializable("test_survival")
class Noise(L.Layer):
    """Adds to its inputs what one of the generators draws."""

    def __init__(self, kind, **options):
        super().__init__(**options)
        self.kind, self.seed_generator = kind, keras.random.SeedGenerator(5)

    def call(self, inputs):
        import tensorflow as tf

        draws = {
            "keras": lambda shape: keras.random.normal(shape, seed=self.seed_generator),
            "global": lambda shape: tf.random.get_global_generator().normal(shape),
            "operation": tf.random.normal,
            "in a function": tf.function(lambda shape: tf.random.uniform(shape)),
        }
        return inputs + draws[self.kind](keras.ops.shape(inputs))


@pytest.mark.parametrize(
    ("kind", "said", "execution"),
    [
        ("keras", None, 1), ("keras", None, 3), ("global", None, 1), ("operation", "RandomStandardNormal", 1),
        ("operation", "RandomStandardNormal", 3), ("in a function", "RandomUniform", 1),
    ],
)  # fmt: skip
def test_draws_of_a_users_layer_go_on_or_are_said(kind, said, execution, tmp_path):
    """The operations of TensorFlow hold their state in the compiled step of a process: the run ended elsewhere in silence."""
    import tensorflow as tf

    x = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
    console = Console(file=io.StringIO(), width=400)

    def fitted(more):
        keras.utils.set_random_seed(3)
        tf.random.set_global_generator(tf.random.Generator.from_seed(4))
        model = keras.Sequential([keras.Input((4,)), Noise(kind), L.Dropout(0.2), L.Dense(1)])
        model.compile("sgd", "mse", steps_per_execution=execution)
        with contextlib.suppress(_Cut):
            model.fit(x, x[:, :1], batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=more)
        return model.get_weights()

    whole, kept = fitted([]), tmp_path / "a.checkpoint"
    fitted([Checkpoint(kept, "dense", [], console), _CutAfter(1)])
    assert console.file.getvalue() == ""
    again = fitted([Checkpoint(kept, "dense", [], console)])
    assert all(map(np.array_equal, whole, again)) == (said is None)
    assert (f"by TensorFlow's {said}, whose state cannot be kept" in console.file.getvalue()) == (said is not None)


@pytest.fixture(scope="module")
def stopping(tmp_path_factory):
    """The checkpoint of a training that was cut off, and what the whole one gives."""
    path = tmp_path_factory.mktemp("stopping") / "a.checkpoint"
    trained("stopping", path, 0)
    return path.read_bytes(), trained("stopping")


@pytest.mark.parametrize("damage", ["flipped", "short", "foreign", "other name", "nothing"])
def test_an_unreadable_checkpoint_is_said_and_the_training_begins_anew(damage, stopping, tmp_path):
    path, console = tmp_path / "a.checkpoint", Console(file=io.StringIO(), width=400)
    content, whole = bytearray(stopping[0]), stopping[1]
    if damage == "flipped":
        content[len(content) // 3] ^= 4
    if damage in ("flipped", "short", "nothing"):
        path.write_bytes(content[: {"flipped": None, "short": 2000, "nothing": 0}[damage]])
    else:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        said = json.loads(members["training.json"])
        said |= {"name": "other"} if damage == "other name" else {"variables": [[[3], "float32"]]}
        members["training.json"] = json.dumps(said).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, member in members.items():
                archive.writestr(name, member)
    assert same(whole, trained("stopping", path, console=console))
    assert console.file.getvalue().count("the stage begins anew") == 1


class Destroyed:
    """Whose destructor runs while a signal comes: Python forgets what is raised in it."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)
        time.sleep(0)  # where the handler runs


def in_a_destructor(number):
    Destroyed(number)
    for _ in range(200):
        time.sleep(0.05)


@pytest.mark.parametrize("send", [lambda number: os.kill(os.getpid(), number), in_a_destructor], ids=["sent", "destructor"])
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_ended_says_that_the_same_one_goes_on(number, status, send, monkeypatch, capfd):
    def command(values, positional):
        send(number)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(main, "_RESUMED", (command,))
    # A shell's job in the background ignores Ctrl-C, and so does what it starts: this suite may be one.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main._guarded(command, types.SimpleNamespace(debug=True), []) == status
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert capfd.readouterr().err == "\nended: the same command goes on from here.\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_is_exit_code_2(capfd):
    def command(values, positional):
        raise files.NotWritten(errors.message("The file must be writable.", "Make room.", path="a"))

    assert main._guarded(command, types.SimpleNamespace(debug=False), []) == 2
    assert capfd.readouterr().err == "error: The file must be writable. Received: path='a'. Make room.\n"


@pytest.mark.skipif(shutil.which("cc") is None or os.uname().sysname != "Linux", reason="needs Linux and a C compiler")
def test_a_run_killed_inside_its_file_operations_ends_bit_identical(tmp_path):
    """A few of those that benchmarks/kills.py goes through one by one: each half through a write, a rename, a removal."""
    kills = types.SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "kills.py")))
    server = kills.Server(tmp_path)
    try:
        found = kills.check(server, "gradual", tmp_path, every=110)
    finally:
        server.close()
    assert found["killed"] >= 3 and not found["others"]
