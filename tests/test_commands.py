"""The commands that take a model pruned anywhere."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import keras
import nets
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import data
from tf_reweight.cli import main, starting
from tf_reweight.data import code
from tf_reweight.workflow import loading
from tf_reweight.workflow.config import load
from tf_reweight.workflow.held_out import held_out

ROOT = pathlib.Path(__file__).parent.parent


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


def test_a_file_made_elsewhere_is_packed_and_judged(tmp_path, capsys):
    """Converted by TensorFlow alone, with nothing of ours in it but the zeros."""
    import tensorflow as tf

    from tf_reweight import export

    model = keras.Sequential([keras.Input((8, 8, 16)), keras.layers.Conv2D(32, 3), keras.layers.Conv2D(32, 1)])
    tfr.prune(model, sparsity=0.9, structure="unstructured", scope="layer")
    model.export(tmp_path / "saved", verbose=False)
    given, packed = tmp_path / "given.tflite", tmp_path / "packed.tflite"
    given.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert())
    assert main.console(["pack", str(given), str(packed), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert packed.stat().st_size == figures["num_bytes_after"] < 0.4 * figures["num_bytes_before"]
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 16)).astype("float32")
    np.testing.assert_array_equal(export.Runner(packed)([x])[0], export.Runner(given)([x])[0])
    assert main.console(["pack", str(given), str(packed)]) == 0
    assert "kernels packed" in capsys.readouterr().out
    assert main.console(["arm", str(packed)]) == 0
    said = capsys.readouterr().out
    assert "Sparse weights on ARM: safe" in said and "nothing is in the way" in said
    assert main.console(["pack", str(packed), str(tmp_path / "none" / "a.tflite")]) == 2
    assert main.console(["pack", str(packed)]) == 2


def test_what_is_named_by_mistake_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "a.tflite").write_bytes(b"")
    (tmp_path / "report.json").write_text('{"name": "a", "config": {}, "stages": [], "files": [], "alarms": []}')
    assert main.console(["inspect", str(tmp_path)]) == 2
    assert "must be a file, and this is a folder. Received: file=" in (said := capsys.readouterr().err) and "a.tflite" in said
    assert main.console(["compress", "--config", str(tmp_path / "report.json")]) == 2
    said = capsys.readouterr().err
    assert "this is the report of a run" in said and "config.yaml beside it" in said and "known key" not in said


@pytest.mark.parametrize("command", ["report", "groups"])
def test_commands_take_models_that_functions_make(command, tmp_path, capsys):
    (tmp_path / "parts.py").write_text(RANDOM)
    assert main.console([command, f"{tmp_path}/parts.py:make", "--json"]) == 0
    first = capsys.readouterr().out
    assert main.console([command, f"{tmp_path}/parts.py:make", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == json.loads(first).keys()
    assert main.console([command, f"{tmp_path}/parts.py:load"]) == 2 and "Received" in capsys.readouterr().err


RANDOM = """
import random
import keras
import numpy as np
import tensorflow as tf

def load():
    x = np.random.rand(8, 4).astype("float32") + random.random() + tf.random.uniform(()).numpy()
    return (x, x[:, :1]), (x, x[:, :1]), (x, x[:, :1])

def make():
    layers = [keras.layers.Dense(3), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.layers[0].kernel.assign_add(np.random.rand(4, 3) + keras.random.normal((4, 3)).numpy())
    return model
"""


def test_functions_that_make_data_and_models_begin_with_the_seed(tmp_path):
    """The same command could not go on: its model had other random weights each time."""
    (tmp_path / "parts.py").write_text(RANDOM)
    for name in ("seeded", "too"):
        (tmp_path / f"{name}.py").write_text(RANDOM + "\nkeras.utils.set_random_seed(42)\n")

    def loaded(file="parts", seed=0):
        np.random.rand(7)  # whatever was drawn before
        names = {"data": {"name": f"{tmp_path}/{file}.py:load"}, "model": {"name": f"{tmp_path}/{file}.py:make"}}
        config = load({"seed": seed, **names})
        splits = loading.data_of(config, {}, ())
        return splits[2][0], np.concatenate([weight.ravel() for weight in loading.model_of(config, splits).get_weights()])

    first, again, seeded = loaded(), loaded(), loaded(seed=1)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    # What a file seeds as it is imported stays in force.
    np.testing.assert_array_equal(loaded("seeded", 0)[1], loaded("too", 1)[1])
    assert not np.array_equal(first[1], seeded[1]) and not np.array_equal(first[0], seeded[0])
    np.testing.assert_array_equal(held_out(None, f"{tmp_path}/parts.py:load")[0], first[0])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["shrink", "a.keras"], "Expected IN.keras and OUT.keras"),
        (["shrink", "a.keras", "b.tflite"], "Expected IN.keras and OUT.keras"),
        (["shrink", "a.keras", "none/b.keras"], "folder of OUT.keras must exist"),
        (["shrink", "a.keras", "b.keras"], "must exist"),
        (["groups"], "Expected one MODEL.keras"),
        (["groups", "a.h5"], "end in .keras"),
        (["shrink", "a.keras", "x" * 250 + ".keras"], "names of up to 237 bytes"),
        (["arm", "a.keras", "--fix", "b.tflite"], "`--fix` takes OUT.keras alone. Received: fix='b.tflite'"),
        (["arm", "a.keras", "--fix", ""], "`--fix` takes OUT.keras alone. Received: fix=''"),
        (["inspect", "a.tflite", "--shape", "a=1,2", "--shape", "a=1,3"], "need the names of inputs, each once"),
        (["bundle", "a.tflite", "a.zip", "--normalization", "0,1", "--normalization", "0,2"], "names of inputs, each once"),
    ],
)
def test_bad_arguments(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.console(arguments) == 2
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, expected, received",
    [
        ("check a --max_bytes=0", "--max_bytes must be a whole number >= 1", "max_bytes='0'"),
        ("check a --threads=nan", "--threads must be a whole number >= 1", "threads='nan'"),
        ("check a --max_drop=true", "--max_drop must be a number >= 0", "max_drop='true'"),
        ("check a --tolerance=-1", "--tolerance must be a number >= 0", "tolerance='-1'"),
        ("check a --max_ms=x:=y", "--max_ms must be a number", "max_ms='x:=y'"),
        ("check a --mode=up", "--mode must be one of max, min", "mode='up'"),
        ("check a --fully_accelerated=maybe", "--fully_accelerated must be given alone", "fully_accelerated='maybe'"),
        ("check a --nojson=1", "--json must be given alone, as --json or --nojson", "json='1'"),
        ("check a --max_bytes", "--max_bytes must be a whole number >= 1", "max_bytes=''"),
        ("check a --shape", "--shape must be followed by a value", "shape=''"),
        ("check a --max_byte 3", "Expected a known flag", "flag='max_byte'. Did you mean 'max_bytes'"),
        ("benchmark a --runs=0", "--runs must be a whole number >= 1", "runs='0'"),
        ("benchmark a --warmup=1.5", "--warmup must be a whole number >= 0", "warmup='1.5'"),
        ("shrink a b --multiple_of=1e2", "--multiple_of must be a whole number >= 1", "multiple_of='1e2'"),
        ("explain a b --examples=-1", "--examples must be a whole number >= 1", "examples='-1'"),
        ("compress --epochs=-1", "--epochs must be a whole number >= 0", "epochs='-1'"),
    ],
)
def test_wrong_values_of_flags_are_told_in_three_parts(flags, expected, received, capsys):
    assert main.console(flags.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {expected}") and f" Received: {received}" in said
    assert f"tf-reweight {flags.split()[0]} " in said


@pytest.mark.parametrize(
    "words",
    [
        "check a.tflite --max_drop 0.01 without --agrees_with", "check a.tflite --data digits without --agrees_with",
        "check a.tflite --agrees_with a.keras without --data", "check a.tflite --data_dir d without --agrees_with",
        "check a.tflite --mode max without --agrees_with",
        "check a.tflite --import a.py without --agrees_with", "check a.tflite --threads 2 without --max_ms",
        "phone --read a.log --threads 2 without --out", "phone --read a.log --runs 9 without --out",
        "phone --read a.log --shape 1,2 without --out", "arm a.tflite --import a.py without --fix",
        "arm a.tflite --shape 1,2 without --verify_arm", "benchmark a.json --runs 9 on measurements that are read",
        "benchmark a.json --threads 1 on measurements that are read",
    ],
)  # fmt: skip
def test_flags_without_an_effect_are_refused_before_any_file_is_read(words, capsys, tmp_path, monkeypatch):
    """Also where the value is the default: it was asked for. Passed over in silence, a gate would hold nothing back."""
    monkeypatch.chdir(tmp_path)
    given, why = re.split(" (?=without|on )", words)
    assert main.console(given.split()) == 2
    said = capsys.readouterr().err
    flag = given.split()[-2]
    assert f"error: {flag} has no effect {why}" in said and "Received: " in said


@pytest.mark.parametrize("command", [["shrink"], ["arm", "--fix"]])
def test_a_model_is_written_over_no_folder_and_removes_no_other_file(command, pruned, tmp_path, capsys):
    _, path = pruned
    folder, mine = tmp_path / "folder.keras", tmp_path / ".small.keras"
    folder.mkdir()
    mine.write_text("precious")
    verb, *flag = command
    assert main.console([verb, path, *flag, str(folder)]) == 2
    assert "error: OUT.keras must not be a folder. Received: path=" in capsys.readouterr().err
    main.console([verb, path, *flag, str(tmp_path / "small.keras")])
    assert mine.read_text() == "precious" and not list(tmp_path.glob(".*partial*"))


EXITS = """
import sys
def leaves(): sys.exit(0)
"""


@pytest.mark.parametrize("code, says", [(EXITS, "must load the data; it says: SystemExit: 0."), ("exit()", "SystemExit")])
def test_code_that_ends_the_program_passes_no_gate(code, says, pruned, tmp_path, capsys):
    """A file that ends with `sys.exit(main())` ended the command with it, and with status 0."""
    model, path = pruned
    x = np.zeros((8, 8, 8, 3), "float32")
    tfr.export_tflite(model, tmp_path / "a.tflite", verify_data=x)
    (tmp_path / "code.py").write_text(code)
    named = f"{tmp_path / 'code.py'}:leaves"
    assert main.console(["check", str(tmp_path / "a.tflite"), "--agrees_with", path, "--data", named]) == 2
    said = capsys.readouterr().err
    assert says in said and "Received: " in said
    assert main.console(["compress", "--model", named, "--data", "digits", "--out", str(tmp_path / "run")]) == 2
    assert "Received: " in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_status_of_other_code_is_no_status_of_a_command(monkeypatch, capsys):
    from tf_reweight.cli import commands

    def run(values, positional):
        raise SystemExit(0)

    monkeypatch.setitem(commands.COMMANDS, "report", (lambda values: None, run))
    assert main.console(["report"]) == 2
    assert "must not end the program. Received: exit=0." in capsys.readouterr().err


def test_help_of_every_command(capsys):
    from tf_reweight.cli.commands import COMMANDS

    assert main.console(["--help"]) == 0
    usage = capsys.readouterr().out
    assert max(map(len, usage.splitlines())) <= 80
    for command in COMMANDS:
        assert f"tf-reweight {command} " in usage
        assert main.console([command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "--json" in shown.replace("--[no]json", "--json")
        # Of the usage what is about this command, and no name of a module that defines flags.
        about = {line.split()[1] for line in shown.splitlines() if line.startswith("  tf-reweight ")}
        assert about == {command} and "\ntf_reweight." not in shown


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main.console(["shrink", "never_read.keras", "out.keras"]) == 2
    assert "must be writable" in capsys.readouterr().err


def test_init_writes_what_a_first_run_needs(tmp_path, capsys):
    folder = tmp_path / "my own"
    assert main.console(["init", str(folder)]) == 0
    assert f"cd '{folder}' && tf-reweight compress --config configs/quickstart.yaml" in capsys.readouterr().out
    names = sorted(path.name for path in (folder / "configs").iterdir())
    assert names == sorted(path.name for path in starting.shipped().iterdir() if path.suffix in (".py", ".yaml"))
    # What is there and the same stays; what differs is not overwritten, and nothing else is written.
    (folder / "configs" / "binary.yaml").unlink()
    assert main.console(["init", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [str(folder / "configs" / "binary.yaml")]
    (folder / "configs" / "quickstart.yaml").write_text("name: mine")
    (folder / "configs" / "binary.yaml").unlink()
    assert main.console(["init", str(folder)]) == 2
    assert "overwrites no files of yours" in capsys.readouterr().err and not (folder / "configs" / "binary.yaml").exists()
    assert main.console(["init", str(folder / "configs" / "quickstart.yaml" / "below")]) == 2
    assert "Received: folder=" in capsys.readouterr().err
    assert main.console(["init", str(folder / "configs" / "quickstart.yaml")]) == 2
    assert "takes a folder" in capsys.readouterr().err


def test_version_and_keys(capsys):
    assert main.console(["--version"]) == 0
    assert capsys.readouterr().out == f"tf-reweight {tfr.__version__}\n"
    assert main.console(["compress", "--help"]) == 0
    assert "  learning_rate    number > 0, default 0.001" in capsys.readouterr().out


def test_noise_of_native_code_is_left_out_and_nothing_else(tmp_path):
    words = [
        "I0000 00:00:1795864471.823284   16408 port.cc:153] oneDNN custom operations are on.",
        "E0000 00:00:1795864478.341182   16408 cuda_platform.cc:52] failed call to cuInit",
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "fully_quantize: 0, inference_type: 6", "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
        "E0000 00:00:1795864478.341182   16408 flatbuffer.cc:1] broken", "the last words of an abort",
    ]  # fmt: skip
    code = "import os\nfrom tf_reweight.cli.quiet import quiet\n"
    code += f"with quiet():\n    os.write(2, {chr(10).join(words)!r}.encode() + b'\\n')\n    os.abort()"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGABRT and done.stderr.splitlines() == words[-2:]
    code = "import os, sys\nfrom tf_reweight.cli.quiet import quiet\nwith quiet():\n    print('inside', file=sys.stderr)\n"
    done = subprocess.run([sys.executable, "-c", f"{code}os.write(2, b'after')"], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.stderr == "inside\nafter"


def test_a_warning_of_a_command_is_its_words_and_one_of_a_users_file_says_where(tmp_path):
    """The line of the package, or of Keras, that a warning came from told a user of the command nothing."""
    (tmp_path / "mine.py").write_text("from tf_reweight import errors\ndef said():\n    errors.warn('of mine')\n")
    code = "import mine\nfrom tf_reweight import errors\nfrom tf_reweight.cli.quiet import quiet\n"
    code += "with quiet():\n    errors.warn('of the command')\n    mine.said()\n"
    (tmp_path / "command.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run([sys.executable, tmp_path / "command.py"], stderr=subprocess.PIPE, text=True, env=env)
    where = f"{tmp_path / 'mine.py'}:3: UserWarning: of mine"
    assert done.stderr.splitlines() == ["warning: of the command", where, "  errors.warn('of mine')"]


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "tf_reweight", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"tf-reweight {tfr.__version__}\n" and done.returncode == 0


def test_output_that_nobody_reads_to_the_end_is_no_error():
    """As with `| head`: the pipe is closed before the first line is written."""
    command = [sys.executable, "-m", "tf_reweight", "compress", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        started.stdout.close()
        assert "Traceback" not in started.stderr.read() and started.wait() == 141


@pytest.fixture(scope="module")
def own_classes(tmp_path_factory):
    """A folder with a model that has a layer of the user's own, and the Python file that it comes from."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(
        "import keras\nclass Twice(keras.layers.Layer):\n    def call(self, x):\n        return 2.0 * x\n"
    )
    twice = code.imported(str(folder / "own.py")).Twice
    keras.Sequential([keras.Input((8,)), twice(), keras.layers.Dense(4), keras.layers.Dense(2)]).save(folder / "own.keras")
    return folder


def test_a_file_of_ones_own_that_was_changed_is_imported_anew(tmp_path):
    """In a notebook the second call of `compress` ran what the file had been at the first."""
    path = tmp_path / "own.py"
    path.write_text("import keras\n@keras.saving.register_keras_serializable()\nclass A(keras.layers.Layer): number = 1\n")
    first = code.imported(path)
    assert code.imported(path) is first and first.A.number == 1
    path.write_text(path.read_text().replace("1", "2"))  # of the same length, in the same second
    assert code.imported(path).A.number == 2 and code.imported(path) is code.imported(path) and first.A.number == 1
    good = path.read_text()
    path.write_text("1 / 0")
    with pytest.raises(ValueError, match="must run; it says: ZeroDivisionError"):
        code.imported(path)
    path.write_text(good)
    assert code.imported(path).A.number == 2


@pytest.mark.parametrize("command", ["report", "groups", "shrink"])
def test_commands_load_models_with_classes_of_ones_own(command, own_classes, tmp_path, capsys):
    words = [command, str(own_classes / "own.keras"), *([str(tmp_path / "a.keras")] if command == "shrink" else [])]
    assert main.console(words) != 0 and "--import FILE.py" in capsys.readouterr().err
    assert main.console([*words, "--import", str(own_classes / "own.py")]) == 0, capsys.readouterr().err


def test_data_of_a_last_word_are_test_examples_in_the_range_of_the_model():
    plain = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    scaled = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 16), keras.layers.Flatten()])
    digits = data.load("digits")
    for model, top in ((plain, 1.0), (scaled, 16.0)):
        (x, y), (choosing, _) = held_out(model, "digits", final=True), held_out(model, "digits")
        assert x.max() == top == choosing.max() and len(x) == len(digits.test[0]) != len(choosing)
        np.testing.assert_array_equal(y, digits.test[1])
