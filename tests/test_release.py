"""What an installed package needs and carries: few dependencies, the configurations, one version everywhere."""

import configparser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml

import tf_reweight as tfr
from tf_reweight import extras
from tf_reweight.cli import main

ROOT = pathlib.Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def requirements(text):
    return {re.split(r"[<>=]", line)[0] for line in text.splitlines() if line and not line.startswith("#")}


def test_embedded_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    (x, y), names = tfr.data.sources._read_digits()[0]["train"], tfr.data.sources._read_digits()[1]
    np.testing.assert_array_equal(x[..., 0], load_digits().images)
    np.testing.assert_array_equal(y, load_digits().target)
    assert names is None and x.dtype == "float32" and y.dtype == load_digits().target.dtype


def test_what_only_some_need_is_an_extra():
    needed, parts = requirements(SETUP["options"]["install_requires"]), SETUP["options.extras_require"]
    assert not needed & {"scikit-learn", "tensorflow-datasets", "mkdocs-material"}
    for extra in ("cluster", "data", "docs", "quantizer", "tensorboard"):
        assert requirements(parts[extra]) <= requirements(parts["test"]), extra
    assert set(extras.EXTRAS.values()) <= set(parts)


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(["sklearn", "tensorflow_datasets"]))
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in ("sklearn", "tensorflow_datasets") else real(name, *a)
import json, keras, numpy as np, tf_reweight as tfr

model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
x = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
record = tfr.export_tflite(model, sys.argv[1], "int8", x, verify_data=x)
said = {"bytes": record.num_bytes, "digits": len(tfr.data.load("digits").train[1])}
for name, call in {
    "cluster": lambda: tfr.quantization.cluster(model, 4),
    "data": lambda: tfr.data.load("mnist"),
    "data_dir": lambda: tfr.data.load("mnist", "."),
    "config": lambda: tfr.workflow.config.load({"cluster": {}}),
}.items():
    try:
        call()
    except ImportError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def test_import_and_export_work_without_the_extras(tmp_path):
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "a.tflite")]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    assert said["bytes"] > 0 and said["digits"] > 1000
    for name, extra in {"cluster": "cluster", "config": "cluster", "data": "data", "data_dir": "data"}.items():
        assert f'pip install "tf-reweight[{extra}]"' in said[name], name


def test_a_run_that_clusters_is_refused_at_once(monkeypatch, capsys):
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "sklearn")
    assert main.console(["compress", "--config", str(ROOT / "configs" / "small_cnn_digits_int8.yaml"), "--dry_run"]) == 2
    assert 'Received: package=' in capsys.readouterr().err


def test_one_version_and_a_changelog_of_it():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == tfr.__version__ and cited["license"] == SETUP["metadata"]["license"]
    assert f"## {tfr.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("pattern", ["*.yaml", "*.py"])
def test_all_configurations_are_packed(pattern):
    (line,) = re.findall(r"^recursive-include configs (.*)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE)
    assert pattern in line.split() and list((ROOT / "configs").glob(pattern))
