"""One-hot vectors inside of integer files: 1 is read as 1, whatever joins them, and nothing else changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_reweight as tfr
from tf_reweight.export.one_hot import compared

L = keras.layers
RNG = np.random.default_rng(0)
X = {"num": RNG.normal(size=(300, 8)).astype("float32") * 4, "cat": RNG.integers(0, 6, (300, 1)).astype("int32")}


def encoded(how, cat):
    if how == "layer":
        return L.CategoryEncoding(6, output_mode="one_hot")(cat)
    if how == "operation":
        return keras.ops.one_hot(cat[:, 0], 6)
    return L.Flatten()(keras.ops.one_hot(cat, 6, axis=1))


def net(how):
    """Numbers of a wide range beside a one-hot: one scale for both leaves 1 a few steps."""
    keras.utils.set_random_seed(1)
    num, cat = keras.Input((8,), name="num"), keras.Input((1,), name="cat", dtype="int32")
    hidden = L.Dense(32, activation="relu")(L.Concatenate()([num, encoded(how, cat)]))
    return keras.Model({"num": num, "cat": cat}, L.Dense(3)(hidden))


def of_file(path):
    run = tfr.export.Runner(path)
    return run({"num": X["num"], "cat": X["cat"]})[0]


@pytest.mark.parametrize("how", ["layer", "operation", "axis"])
def test_an_integer_file_reads_one_as_one(how, tmp_path):
    """The output had the scale of the join, its values scales of their own: 1 was 3.3, and the file off by half."""
    model = net(how)
    record = tfr.export_tflite(model, tmp_path / "a.tflite", "int8", representative_data=X)
    # The category alone moves the outputs by this much; a file that reads it wrong is off by as much.
    moved = np.abs(model.predict(X, verbose=0) - model.predict({**X, "cat": (X["cat"] + 1) % 6}, verbose=0)).mean()
    assert np.abs(of_file(tmp_path / "a.tflite") - model.predict(X, verbose=0)).mean() < 0.3 * moved
    assert record.verification.relative_error < 0.05


def test_a_quantized_model_with_one_hots_becomes_a_file(tmp_path):
    """The converter refused the operation with learned ranges, in words of its own."""
    model = tfr.quantize(net("layer"), data=X)
    assert tfr.export_tflite(model, tmp_path / "a.tflite", "int8", verify_data=X).verification.relative_error < 0.02


def test_sixteen_bits_refuse_what_they_read_wrong(tmp_path):
    """The file was kept without a word, a sigmoid off by 0.17."""
    with pytest.raises(ValueError, match='of integers it finds none in int16.*Choose "int8"'):
        tfr.export_tflite(net("layer"), tmp_path / "a.tflite", "int16", representative_data=X)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [{}, {"axis": 0}, {"axis": 1}, {"dtype": tf.float16}, {"dtype": tf.int32}, {"on_value": 2.0}])
def test_comparing_gives_what_tensorflow_gives(given):
    indices, known = np.array([[0, 5], [3, -1], [9, 2]]), tf.one_hot
    expected = tf.one_hot(indices, 6, **given)
    with compared():
        found = tf.one_hot(indices, 6, **given)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype and tf.one_hot is known


JOINS = {
    "concatenated": lambda first, second: keras.ops.concatenate([first, second], axis=-1), "the larger": keras.ops.maximum,
    "added": keras.ops.add,
}  # fmt: skip


@pytest.mark.parametrize("kind", JOINS)
def test_integers_that_are_computed_and_joined_are_on_no_grid(kind, tmp_path):
    """`quantize` ended in a KeyError with the address of a tensor."""
    num, cat = keras.Input((8,), name="num"), keras.Input((1,), name="cat", dtype="int32")
    codes = L.Flatten()(keras.ops.one_hot(JOINS[kind](cat, (cat + 1) % 6), 12))
    model = keras.Model({"num": num, "cat": cat}, L.Dense(3)(L.Concatenate()([num, codes])))
    quantized = tfr.quantize(model, data=X)
    expected = model.predict(X, verbose=0)
    assert np.abs(quantized.predict(X, verbose=0) - expected).mean() < 0.1 * np.abs(expected).mean()
    record = tfr.export_tflite(quantized, tmp_path / "a.tflite", "int8", verify_data=X)
    assert record.verification.relative_error < 0.02
