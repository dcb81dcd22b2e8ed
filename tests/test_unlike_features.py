"""Features of unlike scale, as tables have them, keep what they tell in int8 files whose ranges come from data."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import ops

import tf_reweight as tfr
from tf_reweight.tflite.comparing import VerificationError

L = keras.layers
MEAN, DEVIATION = np.array([0.0, 40.0, 2e4, -0.03]), np.array([1.0, 15.0, 9e3, 0.01])
TABLE = np.random.default_rng(0).normal(size=(300, 4)).astype("float32")
X = (TABLE * DEVIATION + MEAN).astype("float32")
SERIES = np.stack([np.roll(X, shift, 0) for shift in range(6)], 1)
POSITIVE = np.abs(X) + 0.1


def normalized(x, of=slice(None)):
    return L.Normalization(mean=MEAN[of], variance=DEVIATION[of] ** 2)(x)


def head(x):
    return L.Dense(2)(L.Dense(8, activation="relu")(x))


def folded(x):
    """Statistics of a BatchNormalization, which the converter makes part of what follows."""
    layer = L.BatchNormalization()
    made = layer(x)
    layer.moving_mean.assign(MEAN)
    layer.moving_variance.assign(DEVIATION**2)
    return made


def table():
    return keras.Input((4,))


def integers():
    return keras.Input((4,), dtype="int32")


def series():
    return keras.Input((6, 4))


def sliced(x):
    return L.Concatenate()([normalized(x[:, number : number + 1], slice(number, number + 1)) for number in range(4)])


def logarithms(x):
    logs = np.log(POSITIVE)
    return L.Normalization(mean=logs.mean(0), variance=logs.var(0))(ops.log(x))


# Name -> (the input, the model from it, examples).
NETS = {
    "normalized": (table, lambda x: head(normalized(x)), X),
    "folded into Dense": (table, lambda x: head(folded(x)), X),
    "clipped": (table, lambda x: head(ops.clip(normalized(x), -3, 3)), X),
    "integers": (integers, lambda x: head(normalized(ops.cast(x, "float32") / 1000.0)), (X * 1000).astype("int32")),
    "sliced": (table, lambda x: head(sliced(x)), X),
    "logarithms": (table, lambda x: head(logarithms(x)), POSITIVE),
    "series": (series, lambda x: L.Dense(2)(L.Flatten()(L.Conv1D(8, 3, activation="relu")(normalized(x)))), SERIES),
    "folded into a series": (series, lambda x: L.Dense(2)(L.Flatten()(L.Conv1D(8, 3, activation="relu")(folded(x)))), SERIES),
}


def exported(name, path, **options):
    made, rest, examples = NETS[name]
    inputs = made()
    model = keras.Model(inputs, rest(inputs))
    return tfr.export_tflite(model, path, "int8", representative_data=examples, verify_data=examples, **options)


@pytest.mark.parametrize("name", NETS)
def test_each_feature_counts_in_an_int8_file(name, tmp_path):
    record = exported(name, tmp_path / "model.tflite")
    assert record.verification.relative_error < 0.05 and record.verification.top1_agreement > 0.95
    assert record.float_ops


def test_like_features_are_integers_from_the_input_on(tmp_path):
    """Pictures, one-hot vectors, and what was normalized before: nothing is gained by float."""
    pictures = np.random.default_rng(1).integers(0, 255, (40, 8, 8, 3)).astype("float32")
    x = keras.Input((8, 8, 3))
    scaled = L.Normalization(mean=[120.0, 110.0, 100.0], variance=[3000.0, 3500.0, 4000.0])(x)
    model = keras.Model(x, L.Dense(2)(L.Flatten()(L.Conv2D(4, 3, activation="relu")(scaled))))
    record = tfr.export_tflite(model, tmp_path / "a.tflite", "int8", representative_data=pictures, verify_data=pictures)
    assert record.float_ops == ()
    words = np.eye(50, dtype="float32")[np.random.default_rng(2).integers(0, 50, 200)]
    for shape, examples in ((50, words), (4, TABLE)):
        x = keras.Input((shape,))
        record = tfr.export_tflite(
            keras.Model(x, head(x)), tmp_path / "b.tflite", "int8", representative_data=examples, verify_data=examples
        )
        assert record.float_ops == ()


def test_integer_inputs_that_were_asked_for_stay_and_what_they_lose_is_told(tmp_path):
    with pytest.raises(VerificationError, match="unlike scale"):
        exported("normalized", tmp_path / "model.tflite", quantized_io=True)
    exported("normalized", tmp_path / "model.tflite", quantized_io=True, tolerance=10.0)
    file = Interpreter(str(tmp_path / "model.tflite"))
    assert file.get_input_details()[0]["dtype"] == file.get_output_details()[0]["dtype"] == np.int8


def test_many_ways_from_an_input_are_followed_together(tmp_path):
    """Two ways through each of forty operations before the first kernel: followed one by one they would have no end."""
    x = table()
    y = normalized(x)
    for _ in range(40):
        y = ops.maximum(y, -y) - 0.5
    model = keras.Model(x, head(y))
    tfr.export_tflite(model, tmp_path / "a.tflite", "int8", X, tolerance=1.0)
    assert tfr.export.inspect_tflite(tmp_path / "a.tflite").ops["MAXIMUM"] == 40
