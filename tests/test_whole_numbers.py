"""Numbers of which an int8 file takes the whole part only: they are not rounded before that."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.export import Runner

L = keras.layers
X = np.random.default_rng(0).uniform(0, 100, (300, 1)).astype("float32")


def bins():
    """A table of five rows, chosen by a bin of one number: the bins pass through a reshape on their way."""
    x = keras.Input((1,))
    hot = L.CategoryEncoding(5, output_mode="one_hot")(L.Discretization([20.0, 40.0, 60.0, 80.0])(x))
    return x, L.Dense(3)(L.Dense(8, activation="relu")(hot))


def rows():
    """Rows of an embedding, by a number in tens."""
    x = keras.Input((1,))
    return x, L.Dense(3)(L.Flatten()(L.Embedding(11, 4)(ops.cast(ops.reshape(x, (-1, 1, 1))[:, 0] * 0.1, "int32"))))


def floors():
    x = keras.Input((1,))
    return x, L.Dense(3)(L.Concatenate()([ops.floor(ops.squeeze(x[:, None] / 25.0, 1)), L.Dense(2)(x / 100.0)]))


def behind_a_kernel():
    """What an integer operation made is rounded before: its range stays."""
    x = keras.Input((1,))
    whole = ops.cast(ops.reshape(L.Dense(1, kernel_initializer="ones", name="score")(x), (-1, 1)), "int32")
    return x, L.Dense(3)(ops.cast(whole, "float32") / 100.0)


@pytest.mark.parametrize("parts", [bins, rows, floors, behind_a_kernel])
def test_an_int8_file_takes_the_whole_parts_that_its_model_takes(parts, tmp_path):
    model = keras.Model(*parts())
    record = tfr.export_tflite(model, tmp_path / "a.tflite", "int8", X, verify_data=X)
    made, expected = Runner(tmp_path / "a.tflite")([X])[0], ops.convert_to_numpy(model(X))
    # One bin further would be another row.
    off = np.abs(made - expected).max(axis=1) > 0.1 * np.abs(expected).max()
    assert not off.any() and record.verification.relative_error < 0.1
