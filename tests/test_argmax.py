"""The largest entry inside a model: a file has one operation for it, which finds the same as Keras."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.graph.plain_argmax import plain

L = keras.layers
RNG = np.random.default_rng(0)
# Small whole numbers: most rows have ties, and rows of zeros alone are among them.
TIED = RNG.integers(-1, 2, (64, 3, 5)).astype("float32")
FINDS = {
    "argmax": lambda x: ops.argmax(x, axis=-1),
    "argmin": lambda x: ops.argmin(x, axis=-1),
    "another axis": lambda x: ops.argmax(x, axis=1),
    "kept": lambda x: ops.argmin(x, axis=1, keepdims=True),
    "method of a layer": lambda x: L.Lambda(lambda h: ops.argmax(h, axis=-1), output_shape=(3,))(x),
}


@pytest.mark.parametrize("name", FINDS)
def test_a_file_finds_what_keras_finds_of_equal_entries_too(name, tmp_path):
    """`BitwiseAnd` was refused, which nobody had written."""
    x = keras.Input((3, 5))
    model = keras.Model(x, FINDS[name](x))
    tfr.export_tflite(model, tmp_path / "a.tflite", verify_data=TIED)
    np.testing.assert_array_equal(tfr.export.Runner(tmp_path / "a.tflite")([TIED])[0], model(TIED))
    operation = "ARG_MIN" if name in ("argmin", "kept") else "ARG_MAX"
    assert tfr.inspect_tflite(tmp_path / "a.tflite").ops[operation] == 1


@pytest.mark.parametrize("precision", ["float16", "dynamic_int8", "int8", "int16"])
def test_classes_are_chosen_in_every_precision(precision, tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    logits = L.Dense(4, name="logits")(L.Dense(8, activation="relu")(x))
    model = keras.Model(x, {"class_number": ops.argmax(logits, axis=-1), "logits": logits})
    data = RNG.normal(size=(128, 6)).astype("float32")
    tfr.export_tflite(model, tmp_path / "a.tflite", precision, representative_data=data, tolerance=0.5)
    runner = tfr.export.Runner(tmp_path / "a.tflite")
    found = dict(zip(runner.outputs, runner([data])))["class_number"]
    assert np.mean(found == ops.convert_to_numpy(model(data)["class_number"])) > 0.9


@pytest.mark.parametrize("given", [{}, {"axis": 0}, {"axis": -1}, {"axis": 1, "keepdims": True}, {"keepdims": True}])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "bool"])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_one_operation_gives_what_keras_gives(name, dtype, given):
    x, function = ops.cast(TIED, dtype), getattr(ops, name)
    expected = function(x, **given)
    with plain():
        found = function(x, **given)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    signed = ops.convert_to_tensor([-0.0, 0.0] if name == "argmax" else [0.0, -0.0])
    assert int(function(signed)) == 1, "what was replaced is back"
