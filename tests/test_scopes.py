"""Names that TensorFlow cannot use are refused before any work, and no others."""

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import export
from tf_reweight.reports.progress import QUIET

L = keras.layers
X = np.random.default_rng(0).random((32, 6)).astype("float32")


class Scaled(L.Layer):
    """Has one weight, by a name of one's own."""

    def __init__(self, weight, **options):
        super().__init__(**options)
        self.weight = weight

    def build(self, shape):
        self.scale = self.add_weight(shape=(8,), name=self.weight, initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


def net(place, name):
    """A net with a name at one place."""
    names = dict.fromkeys(("input", "dense", "bare", "weight", "inner", "inside", "model")) | {place: name}
    given, inner = keras.Input((6,), name=names["input"]), keras.Input((8,))
    x = L.ReLU(name=names["bare"])(L.Dense(8, name=names["dense"])(given))
    x = Scaled(names["weight"] or "scale")(x)
    x = keras.Model(inner, L.Dense(8, name=names["inside"])(inner), name=names["inner"])(x)
    model = keras.Model(given, L.Dense(3)(x), name=names["model"])
    model.compile("adam", "mse")
    return model


BAD = [
    *[(place, name) for place in ("dense", "bare", "weight", "inner", "inside", "model") for name in ("x y é", "a\\b", "a\n")],
    *[(place, name) for place in ("dense", "inside", "model") for name in ("_a", "-a")],
]
GOOD = [("input", "x y é"), ("bare", "_a"), ("inner", "-a"), ("weight", "_a"), ("dense", "a>b"), ("model", ".1-a")]


@pytest.mark.parametrize("place, name", BAD)
def test_a_name_that_tensorflow_cannot_use_is_refused_before_any_work(place, name, tmp_path):
    """The converter's tracing told it in twenty lines, after the training of `compress`."""
    model = net(place, name)
    path = tmp_path / "a.tflite"
    for work in (
        lambda: tfr.export_tflite(model, path), lambda: export.precision_sensitivity(model, X),
        lambda: tfr.compress(model, (X, X[:, :3]), structure="unstructured", out=tmp_path / "run", console=QUIET),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Every name in a model must be .*Received: name='.*'. Rename it") as caught:
            work()
        assert "\n" not in str(caught.value) and repr(name)[1:-1] in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("place, name", GOOD)
def test_other_names_are_taken(place, name, tmp_path):
    record = tfr.export_tflite(net(place, name), tmp_path / "a.tflite", verify_data=X)
    assert record.verification.relative_error < 1e-4 and record.num_bytes == (tmp_path / "a.tflite").stat().st_size
