"""Masks of very large negative numbers: float in files whose ranges come from data, and named where that cannot be."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import export
from tf_reweight.graph.random_inputs import inputs as random_inputs
from tf_reweight.graph.randomness import random_layers

L = keras.layers
LENGTH, WIDTH = 6, 8
X = np.random.default_rng(0).normal(size=(24, LENGTH, WIDTH)).astype("float32")
SEEN = np.tril(np.ones((LENGTH, LENGTH), bool))


def attention(mask):
    """Attention written out, with the scores masked by a function."""
    keras.utils.set_random_seed(0)
    x = keras.Input((LENGTH, WIDTH))
    query, key, value = (L.Dense(WIDTH)(x) for _ in range(3))
    weights = ops.softmax(mask(ops.matmul(query, ops.transpose(key, (0, 2, 1)))))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling1D()(ops.matmul(weights, value))))


def chosen(lowest):
    return attention(lambda scores: ops.where(SEEN, scores, lowest))


def added(lowest):
    return attention(lambda scores: scores + np.where(SEEN, 0.0, lowest).astype("float32"))


def keras_own(lowest=None):
    keras.utils.set_random_seed(0)
    x = keras.Input((LENGTH, WIDTH))
    y = L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling1D()(y)))


def masked_maximum(lowest):
    keras.utils.set_random_seed(0)
    x = keras.Input((LENGTH, WIDTH))
    y = ops.max(ops.where(np.arange(LENGTH)[:, None] < 4, L.Dense(WIDTH)(x), lowest), axis=1)
    return keras.Model(x, L.Dense(4)(y))


@pytest.mark.parametrize(
    "make, lowest",
    [(chosen, -np.inf), (chosen, -65504.0), (added, -1e9), (added, -np.inf), (keras_own, None), (masked_maximum, -1e9)],
)
def test_what_a_mask_hides_takes_no_steps_from_the_rest(make, lowest, tmp_path):
    """In one range of 256 steps with -1e9 all scores were the same, and an infinite summand ended the process."""
    record = export.export_tflite(make(lowest), tmp_path / "a.tflite", "int8", X)
    assert record.verification.relative_error < 0.04
    assert {"SOFTMAX", "REDUCE_MAX"} & set(record.float_ops) and "FULLY_CONNECTED" not in record.float_ops


def test_scores_without_a_mask_stay_integers(tmp_path):
    record = export.export_tflite(attention(lambda scores: scores), tmp_path / "a.tflite", "int8", X, accelerated=False)
    assert record.float_ops == ()


def test_where_it_cannot_stay_float_it_is_named(tmp_path):
    words = 'SelectV2.* goes into a softmax .*mask with -100, choose "dynamic_int8"'
    with pytest.raises(export.VerificationError, match=words):
        export.export_tflite(keras_own(), tmp_path / "a.tflite", "int16", X)
    assert not list(tmp_path.iterdir())


def test_a_model_without_finite_outputs_is_named_and_no_better_data_asked_for(tmp_path):
    model = attention(lambda scores: ops.where(scores < 1e9, -np.inf, scores))
    with pytest.raises(export.VerificationError, match="own outputs must be finite.*mask with -1e9"):
        export.export_tflite(model, tmp_path / "a.tflite", verify_data=X)


def test_attention_on_a_padded_embedding_stays_float_and_is_nothing_random():
    """Keras gives it the mask along with the tensor, and takes it off in the call."""
    keras.utils.set_random_seed(0)
    x = keras.Input((LENGTH,), dtype="int32")
    y = L.Embedding(9, WIDTH, mask_zero=True)(x)
    model = keras.Model(x, L.Dense(4)(L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 4, name="attention")(y, y))))
    assert random_layers(model, random_inputs(model, model.inputs)) == []
    report = tfr.quantize(model, return_report=True)[1]
    assert "what a mask leaves" in {item.name: item.reason for item in report.left_out}["attention"]
