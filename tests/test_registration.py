"""Every kind of model that this package makes is saved, and loaded by a new process that has only imported the package."""

import ast
import importlib
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import registration
from tf_reweight.quantization.levels import regularize_levels

ROOT = pathlib.Path(tfr.__file__).parent
L = keras.layers


def net():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(8, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(2)]
    )


def quantized():
    return tfr.quantize(net())


def clustered():
    model = tfr.quantize(net())
    tfr.quantization.cluster(model, 4)
    return model


def masked():
    conv = tfr.Masked(L.Conv2D(4, 3), "filter")
    model = keras.Sequential([keras.Input((8, 8, 3)), conv, L.GlobalAveragePooling2D(), L.Dense(2)])
    conv.update(sparsity=0.5)
    return model


def pruned_while_training():
    model = tfr.tfmot.sparsity.keras.prune_low_magnitude(net())
    tfr.tfmot.pruning.wrappers(model)[0].advance(0)
    return model


def penalised(put):
    def build():
        model = net()
        put(model)
        return model

    return build


def combined(model):
    tfr.regularize(model, "filter", 1e-3)
    tfr.regularize(model, "unstructured", 1e-4)


MODELS = {
    "regularized": penalised(lambda model: tfr.regularize(model, "filter", strength=1e-3)),
    "pruned while training": pruned_while_training,
    "combined": penalised(combined),
    "coupled": penalised(lambda model: tfr.regularize_coupled(model, strength=1e-3)),
    "admm": penalised(lambda model: tfr.baselines.ADMM("filter", 0.5).attach(model)),
    "levels": penalised(lambda model: regularize_levels(model, 4)),
    "pruned": penalised(lambda model: tfr.prune(model, "unstructured", sparsity=0.5)),
    "masked": masked,
    "quantized": quantized,
    "clustered": clustered,
}
ORDERS = {
    "package_first": "import tf_reweight, keras",
    "keras_first": "import keras, tf_reweight",
    "tensorflow_first": "import tensorflow, tf_reweight, keras",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    np.save(folder / "x.npy", x)
    for name, build in MODELS.items():
        model = build()
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.npy", model(x).numpy())
    return folder


# Keras before or after the package is the difference; TensorFlow alone does not load it.
@pytest.mark.parametrize(
    "order", [pytest.param(order, marks=pytest.mark.slow if order == "tensorflow_first" else ()) for order in ORDERS]
)
def test_models_load_in_a_new_process_in_whatever_order_one_imports(order, saved):
    code = f"""
import sys
{ORDERS[order]}
import numpy as np
lazy = [name for name in sys.modules if name.startswith("tf_reweight.")]
assert set(lazy) <= {{"tf_reweight._version", "tf_reweight.registration"}}, lazy
x = np.load(sys.argv[1] + "/x.npy")
for name in sys.argv[2:]:
    model = keras.saving.load_model(f"{{sys.argv[1]}}/{{name}}.keras")
    np.testing.assert_allclose(model(x).numpy(), np.load(f"{{sys.argv[1]}}/{{name}}.npy"), rtol=1e-5, err_msg=name)
print("loaded", len(sys.argv) - 2)
"""
    run = subprocess.run([sys.executable, "-c", code, str(saved), *MODELS], capture_output=True, text=True)
    assert run.stdout.strip().endswith(f"loaded {len(MODELS)}"), run.stderr


def test_keras_is_found_as_ever_while_its_import_is_awaited():
    code = """
import importlib.util, inspect, sys
import tf_reweight
before = list(sys.meta_path)
assert importlib.util.find_spec("keras").origin.endswith("__init__.py") and "keras" not in sys.modules
assert sys.meta_path == before
import keras
assert type(keras.__loader__).__module__ != "tf_reweight.registration" and keras.__spec__.loader is keras.__loader__
assert inspect.getsource(keras) and not any(finder in sys.meta_path for finder in before if "tf_reweight" in str(type(finder)))
assert sorted(tf_reweight.registration.HOMES) == sorted(
    name.split(">")[1] for name in keras.saving.get_custom_objects() if name.startswith("tf_reweight>")
)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_registered_class_is_in_the_table():
    """A class that is forgotten here loads only where its module happens to be imported."""
    homes = {}
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any("register_keras" in ast.unparse(item) for item in node.decorator_list):
                homes[node.name] = module
    assert registration.HOMES == homes
    for name, module in homes.items():
        cls = getattr(importlib.import_module(f"tf_reweight.{module}"), name)
        assert keras.saving.get_registered_object(f"tf_reweight>{name}") is cls
