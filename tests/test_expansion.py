"""Attention and recurrent layers written out for integers, every optional argument set: the same function, or left alone."""

import keras
import numpy as np
import pytest
from keras import ops
from nets import randomize

from tf_reweight import quantization

L = keras.layers


def sequence(layer, length=4):
    x = keras.Input((length, 6))
    return keras.Model(x, layer(x))


def with_state(layer, num):
    x, states = keras.Input((4, 6)), [keras.Input((5,), name=f"state_{i}") for i in range(num)]
    return keras.Model([x, *states], layer(x, initial_state=states))


def attended(layer, **arguments):
    query, value, key = keras.Input((4, 6)), keras.Input((3, 5)), keras.Input((3, 7))
    return keras.Model([query, value, key], layer(query, value, key, **arguments))


def causal(layer, **arguments):
    x = keras.Input((4, 6))
    return keras.Model(x, layer(x, x, **arguments))


WRITTEN_OUT = {
    "LSTM": lambda: sequence(L.LSTM(5)),
    "LSTM backwards": lambda: sequence(L.LSTM(5, go_backwards=True, return_sequences=True, use_bias=False)),
    "LSTM states": lambda: sequence(L.LSTM(5, return_sequences=True, return_state=True, unit_forget_bias=False)),
    "LSTM other functions": lambda: sequence(L.LSTM(5, activation="relu", recurrent_activation="tanh")),
    "LSTM from states": lambda: with_state(L.LSTM(5, return_state=True), 2),
    "GRU": lambda: sequence(L.GRU(5, use_bias=False)),
    "GRU backwards": lambda: sequence(L.GRU(5, go_backwards=True, return_sequences=True, return_state=True, use_bias=False)),
    "GRU other functions": lambda: with_state(L.GRU(5, activation="relu", recurrent_activation="tanh"), 1),
    "GRU from a state": lambda: with_state(L.GRU(5, return_sequences=True), 1),
    "SimpleRNN": lambda: sequence(L.SimpleRNN(5)),
    "SimpleRNN sigmoid": lambda: sequence(L.SimpleRNN(5, activation="sigmoid", go_backwards=True, return_sequences=True)),
    "SimpleRNN from a state": lambda: with_state(L.SimpleRNN(5, use_bias=False, return_state=True), 1),
    **{
        f"Bidirectional {mode}": lambda mode=mode: sequence(
            L.Bidirectional(L.LSTM(5, return_sequences=True), merge_mode=mode, backward_layer=None)
        )
        for mode in ("concat", "sum", "mul")
    },
    "Bidirectional last": lambda: sequence(L.Bidirectional(L.SimpleRNN(5, activation="relu"))),
    "attention": lambda: attended(L.MultiHeadAttention(2, 4, value_dim=3)),
    "attention without biases": lambda: attended(L.MultiHeadAttention(2, 4, use_bias=False, output_shape=8)),
    "attention with dropout": lambda: attended(L.MultiHeadAttention(3, 4, dropout=0.5)),
    "attention axes": lambda: causal(L.MultiHeadAttention(2, 4, attention_axes=(1,))),
    "one projection for all steps": lambda: sequence(L.TimeDistributed(L.Dense(5, activation="sigmoid"))),
    "EinsumDense": lambda: sequence(L.EinsumDense("abc,cd->abd", (4, 5), bias_axes="d", activation="tanh")),
    "EinsumDense dots": lambda: sequence(L.EinsumDense("...x,xy->...y", (4, 5))),
}  # fmt: skip
LEFT_ALONE = {
    "dropout": lambda: sequence(L.LSTM(5, dropout=0.2)),
    "recurrent dropout": lambda: sequence(L.GRU(5, use_bias=False, recurrent_dropout=0.2)),
    "simple recurrent dropout": lambda: sequence(L.SimpleRNN(5, recurrent_dropout=0.2)),
    "GRU with biases from zeros": lambda: sequence(L.GRU(5)),
    "GRU reset before": lambda: sequence(L.GRU(5, use_bias=False, reset_after=False)),
    "a function that is not in the table": lambda: sequence(L.LSTM(5, recurrent_activation="softplus")),
    "dropout in one direction": lambda: sequence(
        L.Bidirectional(L.LSTM(5, name="a"), backward_layer=L.LSTM(5, go_backwards=True, dropout=0.1, name="b"))
    ),
    "average of the directions": lambda: sequence(L.Bidirectional(L.LSTM(5), merge_mode="ave")),
    "both directions apart": lambda: sequence(L.Bidirectional(L.LSTM(5), merge_mode=None)),
    "states of both directions": lambda: sequence(L.Bidirectional(L.LSTM(5, return_state=True))),
    "sequences of any length": lambda: sequence(L.LSTM(5), length=None),
    "causal attention": lambda: causal(L.MultiHeadAttention(2, 4), use_causal_mask=True),
    "attention scores": lambda: causal(L.MultiHeadAttention(2, 4), return_attention_scores=True),
    "TimeDistributed convolution": lambda: sequence(L.TimeDistributed(L.UnitNormalization())),
    "EinsumDense over two axes": lambda: sequence(L.EinsumDense("abc,bcd->ad", (5,))),
}  # fmt: skip


def numbers(model, num=3):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(num, *(size or 4 for size in x.shape[1:]))).astype("float32") for x in model.inputs]
    return arrays if len(arrays) > 1 else arrays[0]


def kinds_of(model):
    return {type(layer) for layer in model.layers}


def check_same(model, simple):
    given = numbers(model)
    expected, found = (keras.tree.flatten(one(given)) for one in (model, simple))
    for one, other in zip(expected, found, strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_what_is_written_out_is_the_same_function(name):
    model = randomize(WRITTEN_OUT[name]())
    simple, _ = quantization.simplify(model)
    known = {L.LSTM, L.GRU, L.SimpleRNN, L.Bidirectional, L.MultiHeadAttention, L.TimeDistributed, L.EinsumDense}
    assert kinds_of(model) & known and not kinds_of(simple) & known
    check_same(model, simple)


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_cannot_be_written_out_stays_the_layer_that_it_was(name):
    model = randomize(LEFT_ALONE[name]())
    simple, _ = quantization.simplify(model)
    assert kinds_of(simple) == kinds_of(model)
    for one, other in zip(model.layers, simple.layers, strict=True):
        assert {**other.get_config(), "name": one.name} == one.get_config()
    check_same(model, simple)


def test_dropout_of_attention_acts_in_training():
    model = randomize(causal(L.MultiHeadAttention(2, 4, dropout=0.5)))
    simple, _ = quantization.simplify(model)
    (dropout,) = [layer for layer in simple.layers if isinstance(layer, L.Dropout)]
    assert dropout.rate == 0.5
    x = numbers(model)
    assert np.abs(ops.convert_to_numpy(simple(x, training=True) - simple(x, training=False))).max() > 1e-2
