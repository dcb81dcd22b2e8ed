"""The zip for an app: what it says of the file is what the file does, and the C array is its bytes."""

import json
import re
import subprocess
import zipfile

import keras
import numpy as np
import pytest

from tf_reweight import export, main
from tf_reweight.export.bundle import c_header


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
    said = export.bundle(path, tmp_path / "app.zip", ["a", "b", "c"], "divided by 255", [report])
    with zipfile.ZipFile(tmp_path / "app.zip") as archive:
        assert archive.read("model.tflite") == path.read_bytes()
        assert archive.getinfo("model.tflite").compress_type == zipfile.ZIP_STORED
        assert archive.read("labels.txt") == b"a\nb\nc\n" and archive.read("report.html") == b"a report"
        assert json.loads(archive.read("model.json")) == said
    assert said["inputs"][0]["name"] == "features" and said["inputs"][0]["dtype"] == "int8" and said["inputs"][0]["scale"] > 0
    assert said["outputs"][0]["shape"] == [1, 3] and said["num_bytes"] == path.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app.zip", "report.html"]


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
    assert main.console(["bundle", str(path)]) == 1
    assert "Expected FILE.tflite and OUT.zip" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_command(path, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    arguments = ["bundle", str(path), str(tmp_path / "app.zip"), "--labels", str(tmp_path / "labels.txt")]
    assert main.console(arguments) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["a", "b", "c"]
