"""Calls by keyword, with a fixed `training`, with masks and states: followed, shrunk, rewritten and rounded as any other."""

import types

import keras
import nets
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import coupling, export, quantization, shrinking
from tf_reweight.graph.call_arguments import arguments_of, inputs_of, named_arguments
from tf_reweight.graph.walking import nodes_of

L = keras.layers


def flat(x):
    return keras.Model(x, L.Dense(2)(inputs=L.Flatten()(inputs=_dense_and_norm(x))))


def _dense_and_norm(x):
    return L.BatchNormalization()(inputs=L.Dense(8, activation="silu")(inputs=x, training=False), training=False)


def merged(x):
    a, b, c = (L.Dense(8)(x) for _ in range(3))
    h = L.Multiply()(inputs=[L.Add()(inputs=[a, b, c]), ops.reshape(x=ops.add(x1=a, x2=b), newshape=(-1, 3, 8))])
    return keras.Model(x, L.Dense(2)(L.Concatenate()(inputs=[h, c])))


def attended(x):
    query, value = L.Dense(8)(x), L.Dense(8)(x)
    seen = ops.greater(x[:, :, 0], -0.5)
    h = L.MultiHeadAttention(3, 4)(key=value, value=value, query=query)
    h = h + L.MultiHeadAttention(3, 4)(query, value, None, seen)
    return keras.Model(x, L.Dense(2)(L.GroupQueryAttention(3, 4, 2)(value=h, query=h)))


def at_each_step(x):
    h = L.TimeDistributed(L.Dense(8, activation="relu"))(inputs=x, training=False)
    return keras.Model(x, L.Dense(2)(L.TimeDistributed(L.BatchNormalization())(inputs=h)))


def nested(x):
    inner = keras.Sequential([keras.Input((3, 6)), L.Dense(8, activation="relu"), L.Dropout(0.3), L.Dense(8)])
    a, b = keras.Input((3, 8), name="a"), keras.Input((3, 6), name="b")
    joined = keras.Model({"a": a, "b": b}, L.Add()([L.Dense(6)(a), b]))
    return keras.Model(x, L.Dense(2)(joined(inputs={"b": x, "a": inner(inputs=x, training=False)})))


def from_states(x):
    start = [L.Dense(4, activation="tanh")(x[:, 0]) for _ in range(4)]
    h = L.Bidirectional(L.LSTM(4, return_sequences=True))(x, start)
    return keras.Model(x, L.Dense(2)(L.Bidirectional(L.GRU(4), merge_mode="sum")(initial_state=start[:2], sequences=h)))


def masked(x):
    seen = ops.greater(x[:, :, 0], -0.5)
    h = L.LSTM(8, return_sequences=True)(x, None, seen)
    return keras.Model(x, L.Dense(2)(L.Bidirectional(L.LSTM(4))(sequences=h, mask=seen)))


def in_training(x):
    h = L.Dropout(0.4)(L.ReLU()(L.BatchNormalization()(L.Dense(8)(x), training=True), training=True), training=True)
    return keras.Model(x, L.Dense(2)(L.GaussianNoise(0.1)(inputs=L.Dense(6)(h), training=True)))


CALLED = (flat, merged, attended, at_each_step, nested, from_states, masked, in_training)


def model_and_examples(build):
    keras.utils.set_random_seed(0)
    model = nets.randomize(build(keras.Input((3, 6))))
    return model, np.random.default_rng(0).normal(size=(16, 3, 6)).astype("float32")


@pytest.mark.parametrize("build", CALLED)
def test_what_is_called_in_any_way_shrinks_to_the_masked_model_and_is_rewritten(build):
    model, x = model_and_examples(build)
    simple, _ = quantization.simplify(model)
    np.testing.assert_allclose(simple(x, training=False), model(x, training=False), atol=1e-5)
    assert quantization.quantize(model, return_report=True)[1].kernels
    assert coupling.groups(model).sets
    coupling.prune_groups(model, 0.4)
    before = [ops.convert_to_numpy(weight).copy() for weight in model.weights]
    small = shrinking.shrink(model)
    np.testing.assert_allclose(small(x, training=False), model(x, training=False), atol=1e-5)
    assert small.count_params() < model.count_params()
    for weight, old in zip(model.weights, before, strict=True):  # statistics of what trains above all
        np.testing.assert_array_equal(weight, old)


def test_files_of_models_called_by_keyword_agree(tmp_path):
    x = keras.Input((2, 6))
    start = [L.Dense(3, activation="tanh")(inputs=x[:, 0]) for _ in range(2)]
    h = L.Add()(inputs=[L.Dense(4)(x, training=False) for _ in range(2)])
    both = L.Bidirectional(L.SimpleRNN(3))(h, start)
    model = nets.randomize(keras.Model(x, [both, L.Flatten()(inputs=h)]))
    given = np.random.default_rng(0).normal(size=(32, 2, 6)).astype("float32")
    qat, report = quantization.quantize(model, data=given, return_report=True)
    assert not report.left_out
    record = export.export_tflite(qat, tmp_path / "a.tflite", "int8", verify_data=given, tolerance=0.05, accelerated=False)
    assert record.verification.relative_error <= 0.05 and record.float_ops == ()


def test_states_go_with_the_units_of_both_directions():
    model, _ = model_and_examples(from_states)
    found = coupling.groups(model)
    assert len(found.sets) == 1 and found.num_groups == 4


@pytest.mark.parametrize("silent_states, kept", [(True, 3), (False, 4)])
def test_a_unit_without_weights_lives_where_its_state_does(silent_states, kept):
    """It remembers the state that it began from, and hands it on."""
    x = keras.Input((3, 4))
    start = [L.Dense(4, name=f"state_{i}")(x[:, 0]) for i in range(2)]
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.LSTM(4, name="units")(x, initial_state=start))))
    for layer in model.layers:
        silent = layer.name == "units" or silent_states and layer.name.startswith("state")
        if silent:
            weights = [np.array(weight) for weight in layer.get_weights()]
            for weight in weights:
                weight[..., ::4] = 0.0
            layer.set_weights(weights)
    assert shrinking.shrink(model).get_layer("units").units == kept


def test_what_trains_stays_as_it_is_called():
    """Statistics of the batch are no constants to fold, and shrinking takes nothing behind them for one."""
    model, x = model_and_examples(in_training)
    model.get_layer(index=1).set_weights([weight * 0 for weight in model.get_layer(index=1).get_weights()])

    def fixed(made):
        return sorted(type(node.operation).__name__ for node in nodes_of(made) if named_arguments(node).get("training") is True)

    expected = ["BatchNormalization", "Dropout", "GaussianNoise", "ReLU"]
    assert fixed(model) == fixed(quantization.simplify(model)[0]) == expected
    plain = keras.Sequential([keras.Input((3, 6)), L.Dense(8), L.BatchNormalization(), L.Dropout(0.2)])
    inside = keras.Model(model.input, L.Dense(2)(plain(model.input, training=True)))
    assert fixed(quantization.simplify(inside)[0]) == ["BatchNormalization", "Dense", "Dropout"]
    tfr.prune(model, "filter", sparsity=0.4)
    try:
        assert fixed(shrinking.shrink(model)) == expected
    except ValueError as error:
        assert "can be removed" in str(error)


def test_masks_by_keyword_keep_recurrent_layers():
    """Keras notes the mask of an embedding only where the layer is called by position."""
    x = keras.Input((7,), dtype="int32")
    h = L.Embedding(9, 6, mask_zero=True)(inputs=x)
    layers = L.LSTM(4), L.Bidirectional(L.LSTM(4))
    model = nets.randomize(keras.Model(x, [L.Dense(2)(layer(sequences=h)) for layer in layers]))
    simple, _ = quantization.simplify(model)
    given = np.random.default_rng(0).integers(0, 3, (8, 7))
    for one, other in zip(simple(given), model(given), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


class Pair(L.Layer):
    def call(self, first, *, second=None, flag=False):
        return first + second


def test_the_form_of_arguments():
    a, b = keras.KerasTensor((2, 3)), keras.KerasTensor((2, 3))

    def settled(operation, *args, **kwargs):
        call = types.SimpleNamespace(operation=operation, arguments=types.SimpleNamespace(args=args, kwargs=kwargs))
        assert inputs_of(call)[0] is a
        return arguments_of(call)

    attention = L.MultiHeadAttention(1, 1)
    assert settled(L.Dense(1), inputs=a, training=False) == ((a,), {"training": False})
    assert settled(L.LSTM(1), initial_state=[b], sequences=a) == ((a,), {"initial_state": [b]})
    assert settled(L.LSTM(1), a, None, b) == ((a,), {"mask": b})
    assert settled(L.Dense(1), a, None) == ((a,), {})
    assert settled(attention, value=b, query=a, key=b) == ((a, b), {"key": b})
    assert settled(attention, a, b, None, b) == ((a, b), {"query_mask": b})
    assert settled(Pair(), second=b, first=a) == ((a,), {"second": b})
    assert settled(L.Flatten(), a, training=True) == ((a,), {"training": True})


def test_tensors_that_a_rule_does_not_know_freeze_what_they_carry():
    x = keras.Input((4,))
    coupling.analysis.table.register(Pair, lambda t, layer, first: coupling.analysis.rules_channelwise.passing(t, layer, first))
    h = Pair()(L.Dense(8, name="a")(x), second=L.Dense(8, name="b")(x), flag=True)
    found = coupling.groups(keras.Model(x, L.Dense(2)(h)))
    assert not found.sets and any("called with 'second'" in reason for item in found.frozen for reason in item.reasons)
