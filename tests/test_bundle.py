"""The zip for an app: what it says of the file is what the file does, and the C array is its bytes."""

import json
import os
import re
import subprocess
import zipfile

import keras
import numpy as np
import pytest

from tf_reweight import export
from tf_reweight.cli import main
from tf_reweight.export.bundle import c_header
from tf_reweight.tflite import metadata


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,), name="features"), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    target = tmp_path_factory.mktemp("files") / "1 model.tflite"
    export.export_tflite(model, target, "int8", x, quantized_io=True)
    return target


def test_the_zip_holds_the_file_and_says_how_to_use_it(path, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("a report")
    said = export.bundle(path, tmp_path / "app.zip", ["a", "b", "c"], "six sizes in metres", [report], (1, 2))
    with zipfile.ZipFile(tmp_path / "app.zip") as archive:
        content = archive.read("model.tflite")
        assert archive.getinfo("model.tflite").compress_type == zipfile.ZIP_STORED
        assert archive.read("labels.txt") == b"a\nb\nc\n" and archive.read("report.html") == b"a report"
        assert json.loads(archive.read("model.json")) == said
        assert f"_len = {len(content)};" in archive.read("model.h").decode()
    assert said["inputs"][0]["name"] == "features" and said["inputs"][0]["dtype"] == "int8" and said["inputs"][0]["scale"] > 0
    assert said["outputs"][0]["shape"] == [1, 3] and said["num_bytes"] == len(content)
    assert said["normalization"] == {"features": {"mean": [1], "std": [2]}} and said["labels"] == ["a", "b", "c"]
    assert said["num_bytes"] < said["apk_bytes"] < said["apk_bytes_page_aligned"]
    found = metadata.read(content)
    assert found["outputs"][0]["labels"] == ["a", "b", "c"] and found["description"] == "six sizes in metres"
    x = np.random.default_rng(1).normal(size=(8, 6)).astype("float32")
    np.testing.assert_array_equal(export.Runner(content)([x])[0], export.Runner(path)([x])[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app.zip", "report.html"]


def test_a_file_goes_in_as_it_is_where_nothing_is_added(path, tmp_path):
    said = export.bundle(path, tmp_path / "app.zip", header=False)
    with zipfile.ZipFile(tmp_path / "app.zip") as archive:
        assert archive.read("model.tflite") == path.read_bytes() and archive.namelist() == ["model.tflite", "model.json"]
    assert said["labels"] is None and said["normalization"] is None
    described = tmp_path / "described.tflite"
    described.write_bytes(metadata.annotate(path.read_bytes(), ["a", "b", "c"]))
    assert export.bundle(described, tmp_path / "app.zip")["labels"] == ["a", "b", "c"]
    with zipfile.ZipFile(tmp_path / "app.zip") as archive:
        assert archive.read("model.tflite") == described.read_bytes() and archive.read("labels.txt") == b"a\nb\nc\n"


def test_a_c_compiler_reads_the_bytes_back(path, tmp_path):
    content = path.read_bytes()
    header = c_header(content, path.stem)
    listed = re.search(r"\{(.*?)\}", header, re.DOTALL).group(1)
    assert bytes(int(number, 16) for number in listed.split(",")) == content
    (tmp_path / "model.h").write_text(header)
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "model.h"\n'
        "int main(void) { fwrite(model_1_model, 1, model_1_model_len, stdout); return 0; }\n"
    )
    try:
        subprocess.run(["cc", "main.c", "-o", "main"], cwd=tmp_path, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no C compiler here")
    assert subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout == content


def test_bad_input(path, tmp_path, capsys):
    with pytest.raises(ValueError, match="one label per output class"):
        export.bundle(path, tmp_path / "app.zip", ["a", "b"])
    with pytest.raises(ValueError, match="must end in .zip"):
        export.bundle(path, tmp_path / "app.tar")
    with pytest.raises(FileNotFoundError, match="must exist"):
        export.bundle(path, tmp_path / "app.zip", extra=[tmp_path / "none.html"])
    with pytest.raises(ValueError, match="different names"):
        export.bundle(path, tmp_path / "app.zip", extra=[__file__, __file__])
    assert main.console(["bundle", str(path)]) == 2
    assert "Expected FILE.tflite and OUT.zip" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--labels", "none.txt"], "file of labels must exist"),
        (["--labels", "two.txt"], "one label per output class"),
        (["--labels", "empty.txt"], "one label per output class"),
        (["--labels", "binary.txt"], "Labels must be text"),
        (["--normalization", "0"], "must be (mean, std)"),
        (["--normalization", "0,x"], "takes MEAN,STD"),
        (["--normalization", "0,0"], "std > 0"),
        (["--normalization", "0,1", "--normalization", "0,2"], "names of inputs"),
        (["--normalization", "featurs=0,1"], "Did you mean 'features'"),
    ],
)
def test_bad_flags_leave_nothing_behind(path, flags, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data in (("two.txt", b"a\nb\n"), ("empty.txt", b""), ("binary.txt", b"\xff\xfe\x00a")):
        (tmp_path / name).write_bytes(data)
    before = sorted(tmp_path.iterdir())
    assert main.console(["bundle", str(path), "app.zip", *flags]) == 2
    assert words in capsys.readouterr().err and sorted(tmp_path.iterdir()) == before


def test_a_full_disk_and_a_folder_that_cannot_be_written(path, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left on device"):
            export.bundle(path, tmp_path / "app.zip", ["a", "b", "c"])
    assert not list(tmp_path.iterdir())
    if os.path.isdir("/proc/self"):
        with pytest.raises(OSError, match="must be writable"):
            export.bundle(path, "/proc/app.zip")
    # Root may write nearly anywhere, so the system is asked in words.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OSError, match="must be writable"):
        export.bundle(path, tmp_path / "app.zip")


def test_the_command(path, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("a\nb\nc\n\n")
    arguments = ["bundle", str(path), str(tmp_path / "app.zip"), "--labels", str(tmp_path / "labels.txt")]
    assert main.console([*arguments, "--normalization", "0,255", "--noheader"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["labels"] == ["a", "b", "c"] and said["normalization"]["features"]["std"] == [255]
    assert main.console(["inspect", str(path)]) == 0
    assert "serving_default" in capsys.readouterr().out
