"""Attention and recurrent layers written out for integers, every optional argument set: the same function, or left alone."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops
from nets import randomize

import tf_reweight as tfr
from tf_reweight import quantization
from tf_reweight.graph.naming import Names
from tf_reweight.quantization import expandable, expansion

L = keras.layers


def sequence(layer, length=4):
    x = keras.Input((length, 6))
    return keras.Model(x, layer(x))


def with_state(layer, num, length=4):
    x, states = keras.Input((length, 6)), [keras.Input((5,), name=f"state_{i}") for i in range(num)]
    return keras.Model([x, *states], layer(x, initial_state=states))


def attended(layer, **arguments):
    query, value, key = keras.Input((4, 6)), keras.Input((3, 5)), keras.Input((3, 7))
    return keras.Model([query, value, key], layer(query, value, key, **arguments))


def causal(layer, length=4, **arguments):
    x = keras.Input((length, 6))
    return keras.Model(x, layer(x, x, **arguments))


def called_with(layer, **arguments):
    x = keras.Input((4, 6))
    return keras.Model(x, layer(x, **arguments))


@keras.saving.register_keras_serializable(package="tests")
def own(x):
    """A function of the user's."""
    return ops.tanh(x) + 0.1 * x


def both_from_states(layer, num):
    x, states = keras.Input((4, 6)), [keras.Input((5,), name=f"state_{i}") for i in range(num)]
    return keras.Model([x, *states], [layer(x, states), layer(initial_state=states, sequences=x)])


def called_twice(layer, states=(True, True)):
    x, state = keras.Input((4, 6)), keras.Input((5,), name="state")
    return keras.Model([x, state], [layer(x, initial_state=state) if with_it else layer(x) for with_it in states])


def by_keyword(layer):
    x = keras.Input((4, 6))
    return keras.Model(x, layer(sequences=x))


def by_position(layer):
    x, state = keras.Input((4, 6)), keras.Input((5,), name="state")
    return keras.Model([x, state], layer(x, state))


def on_image(layer):
    x = keras.Input((2, 4, 6))
    return keras.Model(x, layer(x, x))


def given(layer, shape, name):
    """With a mask as an input of its own."""
    x, mask = keras.Input((4, 6)), keras.Input(shape, name="mask")
    arguments = (x, x) if isinstance(layer, L.MultiHeadAttention) else (x,)
    return keras.Model([x, mask], layer(*arguments, **{name: ops.greater(mask, -9.0)}))


def masked_by_position(layer):
    x, mask = keras.Input((4, 6)), keras.Input((4,), name="mask")
    return keras.Model([x, mask], layer(x, None, ops.greater(mask, -9.0)))


class Derived(L.LSTM):
    """A layer of the user's, which may compute anything."""


WRITTEN_OUT = {
    "LSTM called for inference": lambda: called_with(L.LSTM(5), training=False),
    "LSTM of two states": lambda: sequence(L.LSTM(5, return_state=True, go_backwards=True)),
    "GRU from a state by its position": lambda: by_position(L.GRU(5)),
    "GRU twice from a state": lambda: called_twice(L.GRU(5)),
    "GRU twice without biases": lambda: called_twice(L.GRU(5, use_bias=False), (True, False)),
    "SimpleRNN from a state by its position": lambda: by_position(L.SimpleRNN(5, go_backwards=True)),
    "Bidirectional GRU": lambda: sequence(L.Bidirectional(L.GRU(5, use_bias=False, return_sequences=True), merge_mode="sum")),
    "Bidirectional of unlike functions": lambda: sequence(L.Bidirectional(
        L.SimpleRNN(5, activation="relu", name="a"), backward_layer=L.SimpleRNN(5, go_backwards=True, name="b"))),
    "attention of one head": lambda: attended(L.MultiHeadAttention(1, 7, value_dim=2)),
    "attention of two tensors": lambda: causal(L.MultiHeadAttention(2, 4)),
    "attention told of no mask": lambda: causal(
        L.MultiHeadAttention(2, 4), use_causal_mask=False, return_attention_scores=False),
    "attention axes in a list": lambda: causal(L.MultiHeadAttention(2, 4, attention_axes=[1])),
    "one projection for steps of any number": lambda: sequence(L.TimeDistributed(L.Dense(5, use_bias=False)), length=None),
    "EinsumDense of any length": lambda: sequence(L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"), length=None),
    "LSTM": lambda: sequence(L.LSTM(5)),
    "LSTM backwards": lambda: sequence(L.LSTM(5, go_backwards=True, return_sequences=True, use_bias=False)),
    "LSTM states": lambda: sequence(L.LSTM(5, return_sequences=True, return_state=True, unit_forget_bias=False)),
    "LSTM other functions": lambda: sequence(L.LSTM(5, activation="relu", recurrent_activation="tanh")),
    "LSTM from states": lambda: with_state(L.LSTM(5, return_state=True), 2),
    "GRU": lambda: sequence(L.GRU(5)),
    "GRU from a state and from zeros": lambda: called_twice(L.GRU(5), (True, False)),
    "GRU without biases": lambda: sequence(L.GRU(5, use_bias=False)),
    "Bidirectional GRU with biases": lambda: sequence(L.Bidirectional(L.GRU(5, return_sequences=True))),
    "GRU reset before": lambda: sequence(L.GRU(5, reset_after=False, go_backwards=True, return_sequences=True)),
    "GRU reset before, without biases": lambda: sequence(L.GRU(5, use_bias=False, reset_after=False)),
    "GRU reset before, from a state": lambda: with_state(L.GRU(5, reset_after=False, activation="relu"), 1),
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
    "LSTM by keyword": lambda: by_keyword(L.LSTM(5)),
    "Bidirectional from states": lambda: both_from_states(L.Bidirectional(L.LSTM(5, return_sequences=True)), 4),
    "Bidirectional GRU from states": lambda: both_from_states(L.Bidirectional(L.GRU(5), merge_mode="mul"), 2),
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
    "a layer of the user's": lambda: sequence(Derived(5)),
    "sequences of any length from a state": lambda: with_state(L.SimpleRNN(5), 1, length=None),
    "a mask of steps": lambda: given(L.LSTM(5), (4,), "mask"),
    "a mask of steps by position": lambda: masked_by_position(L.LSTM(5)),
    "a mask of both directions": lambda: masked_by_position(L.Bidirectional(L.LSTM(5))),
    "a mask of attention": lambda: given(L.MultiHeadAttention(2, 4), (4, 4), "attention_mask"),
    "attention over images": lambda: on_image(L.MultiHeadAttention(2, 4)),
    "attention over columns": lambda: on_image(L.MultiHeadAttention(2, 4, attention_axes=(2,))),
    "attention over rows": lambda: on_image(L.MultiHeadAttention(2, 4, attention_axes=(1,))),
    "attention over sequences of any length": lambda: causal(L.MultiHeadAttention(2, 4), length=None),
    "a user's function": lambda: sequence(L.SimpleRNN(5, activation=own)),
    "a user's gate": lambda: sequence(L.GRU(5, use_bias=False, recurrent_activation=own)),
    "a user's function in both directions": lambda: sequence(L.Bidirectional(L.SimpleRNN(5, activation=own))),
    "a user's function for all steps": lambda: sequence(L.TimeDistributed(L.Dense(5, activation=own))),
    "a user's function behind EinsumDense": lambda: sequence(L.EinsumDense("abc,cd->abd", (4, 5), activation=own)),
    "EinsumDense that turns": lambda: sequence(L.EinsumDense("abc,cd->adb", (5, 4))),
    "dropout": lambda: sequence(L.LSTM(5, dropout=0.2)),
    "recurrent dropout": lambda: sequence(L.GRU(5, use_bias=False, recurrent_dropout=0.2)),
    "simple recurrent dropout": lambda: sequence(L.SimpleRNN(5, recurrent_dropout=0.2)),
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


# A part of the reason that holds for the layer; for those that are missing here its class has no rule.
WHY = {
    "sequences of any length from a state": "sequences of one length", "a mask of steps": "called with `mask`",
    "a mask of steps by position": "called with `mask`", "a mask of both directions": "called with `mask`",
    "a mask of attention": "called with `attention_mask`", "attention over images": "other tensors than",
    "attention over columns": "other tensors than", "attention over rows": "other tensors than",
    "attention over sequences of any length": "attention becomes integers only on sequences of one length",
    "a user's function": "the activation 'own'",
    "a user's gate": "the activation 'own'", "a user's function in both directions": "the activation 'own'",
    "a user's function for all steps": "the activation 'own'", "a user's function behind EinsumDense": "the activation 'own'",
    "EinsumDense that turns": "where it is a Dense layer", "dropout": "an LSTM with dropout",
    "recurrent dropout": "a GRU with dropout", "simple recurrent dropout": "a SimpleRNN with dropout",
    "a function that is not in the table": "the activation 'softplus'",
    "dropout in one direction": "an LSTM with dropout", "average of the directions": "merge_mode='ave'",
    "both directions apart": "merge_mode=None", "states of both directions": "returns its states",
    "sequences of any length": "sequences of one length", "causal attention": "called with `use_causal_mask`",
    "attention scores": "called with `return_attention_scores`", "TimeDistributed convolution": "around a Dense layer",
    "EinsumDense over two axes": "where it is a Dense layer", "a layer of the user's": "Derived has no rule for integers",
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_the_report_says_the_reason_that_holds(name):
    """A GRU of one length, without mask, dropout and lasting state, had been said to lack one of these."""
    model = randomize(LEFT_ALONE[name]())
    # One kernel must be there to be rounded.
    model = keras.Model(model.inputs, [*model.outputs, L.Dense(2, name="beside")(model.inputs[0])])
    _, report = quantization.quantize(model, return_report=True)
    assert any(WHY[name] in item.reason for item in report.left_out), report


def test_dropout_of_attention_acts_in_training():
    model = randomize(causal(L.MultiHeadAttention(2, 4, dropout=0.5)))
    simple, _ = quantization.simplify(model)
    (dropout,) = [layer for layer in simple.layers if isinstance(layer, L.Dropout)]
    assert dropout.rate == 0.5
    x = numbers(model)
    assert np.abs(ops.convert_to_numpy(simple(x, training=True) - simple(x, training=False))).max() > 1e-2


@pytest.mark.parametrize("name", ["LSTM", "GRU", "GRU reset before", "Bidirectional sum", "attention", "EinsumDense"])
def test_training_of_what_is_written_out_is_that_of_the_layer(name):
    for trainable in (True, False):
        model = WRITTEN_OUT[name]()
        model.layers[-1].trainable = trainable
        simple, rewritten = quantization.simplify(model)
        assert list(rewritten.values()) == ["written out in layers that have integer arithmetic"]
        assert list(rewritten) == [model.layers[-1].name]
        dense = [layer for layer in simple.layers if isinstance(layer, L.Dense)]
        assert dense and {layer.trainable for layer in dense} == {trainable}
        assert simple.count_params() == model.count_params()


def test_names_of_what_is_written_out_begin_with_that_of_the_layer():
    x = keras.Input((4, 6))
    h = L.LSTM(5, return_sequences=True, activation="relu", name="a")(x)
    h = L.Bidirectional(L.SimpleRNN(5, return_sequences=True), name="b")(h)
    h = L.MultiHeadAttention(2, 4, dropout=0.1, name="c")(h, h)
    model = keras.Model(x, L.Dense(2)(L.TimeDistributed(L.Dense(5, activation="tanh"), name="d")(h)))
    simple, _ = quantization.simplify(model)
    names = [layer.name for layer in simple.layers if not isinstance(layer, L.InputLayer)]
    assert set(names) == {
        "a", "a_recurrent", "a_activation", "a_gate", "b", "b_recurrent", "b_activation", "b_backward", "b_backward_recurrent",
        "b_backward_activation", "b_merge", "c_query", "c_key", "c_value", "c_softmax", "c_dropout", "c_output", "d",
        "d_activation", model.layers[-1].name,
    }  # fmt: skip


def test_attention_with_the_padding_of_an_embedding_is_left_alone():
    x = keras.Input((4,), dtype="int32")
    for mask_zero in (True, False):
        h = L.Embedding(9, 6, mask_zero=mask_zero)(x)
        simple, _ = quantization.simplify(keras.Model(x, L.MultiHeadAttention(2, 4)(h, h)))
        assert (L.MultiHeadAttention in kinds_of(simple)) == mask_zero


def test_lasting_states_and_dropout_are_not_written_out():
    for option, value in (("stateful", True), ("dropout", 0.1), ("recurrent_dropout", 0.1), ("units", 5)):
        for kind in (L.LSTM, L.SimpleRNN):
            assert (expandable._of_recurrent(kind(**{"units": 5, option: value})) is None) == (option == "units")
    assert expandable._of_recurrent(L.Dense(5)) is not None


def test_the_question_alone_whether_a_layer_is_written_out():
    for models, is_written in ((WRITTEN_OUT, True), (LEFT_ALONE, False)):
        for name, build in models.items():
            model = build()
            known = [layer for layer in model.layers if not isinstance(layer, (L.InputLayer, L.Dense))]
            made = [expansion.expand(layer, layer.name, Names(model)) is not None for layer in known]
            assert any(made) == is_written, name
    assert expansion.expand(L.Dense(3), "a", Names(model)) is None


class Cubes(keras.regularizers.Regularizer):
    """A user's own, whose value is a sum over entries."""

    def __call__(self, x):
        return ops.sum(ops.abs(x) ** 3)

    def get_config(self):
        return {}


class Columns(keras.regularizers.Regularizer):
    """A user's own that depends on how a kernel lies."""

    def __call__(self, x):
        return ops.sum(ops.sqrt(ops.sum(ops.square(x), axis=0) + 1e-6))

    def get_config(self):
        return {}


SUMS = {"l1": keras.regularizers.L1(0.1), "l1_l2": keras.regularizers.L1L2(0.1, 0.2)}
ACTED_ON = {
    "LSTM": lambda **k: sequence(L.LSTM(3, **k)),
    "GRU": lambda **k: with_state(L.GRU(5, **k), 1),
    "GRU reset before": lambda **k: sequence(L.GRU(5, reset_after=False, **k)),
    "SimpleRNN": lambda **k: sequence(L.SimpleRNN(3, **k)),
    "Bidirectional": lambda **k: sequence(L.Bidirectional(L.LSTM(3, **k))),
    "TimeDistributed": lambda **k: sequence(L.TimeDistributed(L.Dense(3, activation="relu", **k))),
    "EinsumDense": lambda **k: sequence(L.EinsumDense("abc,cd->abd", (4, 5), bias_axes="d", activation="relu", **k)),
    "MultiHeadAttention": lambda **k: attended(L.MultiHeadAttention(2, 4, **k)),
    "SeparableConv1D": lambda **k: sequence(L.SeparableConv1D(3, 2, **k)),
}
SLOTS = {
    **dict.fromkeys(("LSTM", "GRU", "GRU reset before", "SimpleRNN", "Bidirectional"), ("kernel", "recurrent", "bias")),
    "SeparableConv1D": ("depthwise", "pointwise", "bias"),
}


def acted_on(name, kind, thing):
    """A model whose layer has the same regularizer, or constraint, on each of its weights, and other biases than zero."""
    model = ACTED_ON[name](**{f"{slot}_{kind}": thing for slot in SLOTS.get(name, ("kernel", "bias"))})
    model.set_weights([value + 0.1 for value in model.get_weights()])
    return model


@pytest.mark.parametrize("penalty", SUMS)
@pytest.mark.parametrize("name", ACTED_ON)
def test_penalties_on_weights_of_what_is_written_out_have_the_same_value(name, penalty):
    model = acted_on(name, "regularizer", SUMS[penalty])
    made, _ = quantization.simplify(model)
    assert sum(map(float, model.losses)) > 0
    np.testing.assert_allclose(sum(map(float, made.losses)), sum(map(float, model.losses)), rtol=1e-5)


@pytest.mark.parametrize("name", ACTED_ON)
def test_penalties_on_outputs_of_what_is_written_out_have_the_same_value(name):
    model = ACTED_ON[name](activity_regularizer=keras.regularizers.L1L2(0.1, 0.2))
    made, _ = quantization.simplify(model)
    x = numbers(model)
    model(x), made(x)
    np.testing.assert_allclose(sum(map(float, made.losses)), sum(map(float, model.losses)), rtol=1e-5)


@pytest.mark.parametrize("name", ACTED_ON)
def test_constraints_of_what_is_written_out_act_as_they_did(name):
    model = acted_on(name, "constraint", keras.constraints.NonNeg())
    made, _ = quantization.simplify(model)
    held = [sum(isinstance(w.constraint, keras.constraints.NonNeg) for w in one.weights) for one in (model, made)]
    # A GRU's bias becomes two, and where a gate comes before it the kernel for the state.
    assert held[1] == held[0] + name.startswith("GRU") > 0


def test_what_acts_by_columns_comes_along_where_these_lie_as_before():
    """A user's own penalty too, where it is tried and holds; else one warning names what is left out."""
    model = acted_on("LSTM", "constraint", keras.constraints.UnitNorm())
    assert sum(isinstance(w.constraint, keras.constraints.UnitNorm) for w in quantization.simplify(model)[0].weights) == 3
    made, told = attended_with(kernel_constraint=keras.constraints.MaxNorm(2.0))
    assert len(told) == 1 and "leaves out kernel_constraint of multi_head_attention" in told[0]
    # Keys and values: the query is scaled, and the columns of the output's kernel go over heads and size.
    assert sum(isinstance(w.constraint, keras.constraints.MaxNorm) for w in made.weights) == 2
    made, told = attended_with(kernel_regularizer=Columns())
    assert len(told) == 1 and "leaves out kernel_regularizer of multi_head_attention" in told[0]
    # The query's with the factor.
    assert sum(w.regularizer is not None for w in made.weights) == 3


def test_a_users_penalty_on_a_scaled_query_has_the_same_value_in_all_copies(tmp_path):
    """Whatever it makes of single numbers, also where nobody registered it; a file holds it where one did."""
    for own in (Cubes(), lambda x: ops.sum(ops.abs(x) + x**2)):
        model = attended(L.MultiHeadAttention(2, 4, kernel_regularizer=own, bias_regularizer=own, activity_regularizer=own))
        model.set_weights([value + 0.1 for value in model.get_weights()])
        x, quantized = numbers(model), tfr.quantize(model, weight_bits=16)
        copies = (quantized, tfr.strip_quantization(quantized))
        for copy in (model, *copies):
            copy(x)
        for copy in copies:
            np.testing.assert_allclose(sum(map(float, copy.losses)), sum(map(float, model.losses)), rtol=1e-3)
    model = attended(L.MultiHeadAttention(2, 4, kernel_regularizer=Cubes()))
    simple, _ = quantization.simplify(model)
    simple.save(tmp_path / "simple.keras")
    loaded = keras.saving.load_model(tmp_path / "simple.keras", custom_objects={"Cubes": Cubes})
    np.testing.assert_allclose(sum(map(float, loaded.losses)), sum(map(float, model.losses)), rtol=1e-5)


def attended_with(**options):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        made, _ = quantization.simplify(attended(L.MultiHeadAttention(2, 4, **options)))
    return made, [str(item.message) for item in told if item.category is UserWarning]


def test_penalties_of_the_package_stay_behind_and_a_users_own_beside_them_comes_along():
    model = acted_on("LSTM", "regularizer", keras.regularizers.L2(0.1))
    before = sum(map(float, model.losses))
    tfr.regularize(model, "unstructured", 1e-3)
    assert sum(map(float, model.losses)) > before
    np.testing.assert_allclose(sum(map(float, quantization.simplify(model)[0].losses)), before, rtol=1e-5)
