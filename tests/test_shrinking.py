"""shrink: a masked model and its shrunk copy are the same function, for every way channels are tied."""

import contextlib
import dataclasses
import re
import warnings

import keras
import nets
import numpy as np
import pytest
from keras import ops

from tf_reweight import coupling, quantization, shrinking
from tf_reweight.graph.recasting import RecastError, is_half, recast
from tf_reweight.penalties.attachment import attachments, regularize
from tf_reweight.pruning.prune import prune
from tf_reweight.shrinking import compact, smaller
from tf_reweight.shrinking.branches import NO_CUTS
from tf_reweight.shrinking.constants import is_uniform
from tf_reweight.shrinking.dead import Verdict

L = keras.layers


def inputs_of(model, batch=3, seed=1):
    rng = np.random.default_rng(seed)
    arrays = []
    for tensor in keras.tree.flatten(model.inputs):
        shape = (batch, *tensor.shape[1:])
        integers = "int" in tensor.dtype
        arrays.append(rng.integers(1, 10, shape).astype("int32") if integers else rng.normal(size=shape).astype("float32"))
    return arrays


def outputs_of(model, arrays):
    structure = model.input if not isinstance(model, keras.Sequential) else model.inputs[0]
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(model(keras.tree.pack_sequence_as(structure, arrays)))]


def assert_same(model, small, tolerance=1e-5):
    arrays = inputs_of(model)
    for first, second in zip(outputs_of(model, arrays), outputs_of(small, arrays), strict=True):
        assert np.abs(first).max() > 1e-3, "a vacuous comparison"
        np.testing.assert_allclose(first, second, rtol=0, atol=tolerance * np.abs(first).max())


@pytest.mark.parametrize("build", nets.NETS)
def test_masked_equals_shrunk(build):
    model = nets.randomize(build())
    before = [w.copy() for w in model.get_weights()]
    report = coupling.prune_groups(model, 0.5, scope="set")
    assert any((a != b).any() for a, b in zip(before, model.get_weights()))
    masked = [w.copy() for w in model.get_weights()]
    small, shrunk = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    for a, b in zip(masked, model.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert [s.kept_groups for s in report.sets] == [s.kept_groups for s in shrunk.sets]
    assert shrunk.parameters_after == small.count_params() < shrunk.parameters_before == model.count_params()
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    # Nothing removable is left over: the small model's sets are those kept.
    again = coupling.groups(small)
    assert sum(s.num_groups for s in again.sets) <= report.kept_groups


ATTENTION = {
    "heads": lambda query, value, key: L.MultiHeadAttention(2, 3)(query, value, key),
    "shared heads": lambda query, value, key: L.GroupQueryAttention(3, 4, 2)(query, value),
    "shared heads, key": lambda query, value, key: L.GroupQueryAttention(3, 4, 2)(query, value, key),
}


@pytest.mark.parametrize("amount", [0.3, 0.6])
@pytest.mark.parametrize("attention", ATTENTION.values(), ids=list(ATTENTION))
def test_query_value_and_key_of_layers_of_their_own_shrink_to_widths_that_keras_takes(attention, amount):
    """A query and a value of unequal widths are refused by `GroupQueryAttention`."""
    inputs = keras.Input((5, 4))
    query, value, key = (L.Dense(8, name=name)(inputs) for name in ("query", "value", "key"))
    model = nets.randomize(keras.Model(inputs, L.Dense(2)(L.Flatten()(attention(query, value, key)))))
    coupling.prune_groups(model, amount)
    small = shrinking.shrink(model)
    assert_same(model, small)
    assert small.count_params() < model.count_params()


SAVED = [nets.residual, nets.operators, nets.nested_shared, nets.two_headed, nets.attention, nets.lstm]


@pytest.mark.parametrize("build", SAVED)
def test_shrunk_model_is_saved_and_trained_like_any_other(build, tmp_path):
    model = nets.randomize(build())
    coupling.prune_groups(model, 0.4)
    small = shrinking.shrink(model)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert_same(small, loaded, 1e-6)
    arrays = inputs_of(small, 4)
    structure = small.input if not isinstance(small, keras.Sequential) else small.inputs[0]
    targets = keras.tree.map_structure(np.zeros_like, small(keras.tree.pack_sequence_as(structure, arrays)))
    small.compile("sgd", "mse")
    small.fit(keras.tree.pack_sequence_as(structure, arrays), targets, epochs=1, verbose=0)


def test_nothing_dead_is_an_exact_copy_of_its_own():
    model = nets.randomize(nets.residual())
    small, report = shrinking.shrink(model, return_report=True)
    assert report.removed_groups == 0 and report.difference == 0.0
    assert not {id(v) for v in model.variables} & {id(v) for v in small.variables}


@pytest.mark.parametrize("multiple", [4, 8])
def test_counts_are_multiples(multiple):
    model = nets.randomize(nets.squeeze_excite())
    coupling.prune_groups(model, 0.6, scope="set")
    small = shrinking.shrink(model, multiple_of=multiple)
    assert_same(model, small)
    for name in ("expand", "depthwise", "squeeze", "project"):
        channels, all_channels = small.get_layer(name).output.shape[-1], model.get_layer(name).output.shape[-1]
        assert channels % multiple == 0 or channels == all_channels


def test_multiples_count_channels_not_heads():
    model = nets.randomize(nets.grouped_query())
    coupling.prune_groups(model, 0.5, scope="set")
    _, report = shrinking.shrink(model, multiple_of=8, return_report=True)
    heads = next(item for item in report.sets if "heads/value" in item.name)
    assert heads.kept_groups == 2  # of width 4


def constant_net(padding, use_bias=True):
    return keras.Sequential([
        keras.Input((8, 8, 3)), L.Conv2D(8, 3, name="conv"), L.BatchNormalization(), L.ReLU(),
        L.Conv2D(5, 3, padding=padding, use_bias=use_bias, name="reader"), L.GlobalAveragePooling2D(), L.Dense(3),
    ])  # fmt: skip


@pytest.mark.parametrize("use_bias", [True, False])
def test_constant_of_a_pruned_filter_is_folded_into_the_next_bias(use_bias):
    model = nets.randomize(constant_net("valid", use_bias))
    prune(model, sparsity=0.5, structure="filter", layers=["conv"])
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.sets[0].kept_groups == 4
    assert small.get_layer("reader").use_bias


def test_constant_that_meets_a_border_of_zeros_stays_and_is_named():
    model = nets.randomize(constant_net("same"))
    gone = ops.convert_to_numpy(model.layers[1].beta)
    prune(model, sparsity=0.5, structure="filter", layers=["conv"])
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    zero = np.flatnonzero(np.abs(ops.convert_to_numpy(model.get_layer("conv").kernel)).sum(axis=(0, 1, 2)) == 0)
    mean, variance = (ops.convert_to_numpy(v) for v in (model.layers[1].moving_mean, model.layers[1].moving_variance))
    bias = ops.convert_to_numpy(model.get_layer("conv").bias)
    emitted = gone + ops.convert_to_numpy(model.layers[1].gamma) * (bias - mean) / np.sqrt(variance + 1e-3)
    # relu(constant) of these is zero: only they can go.
    assert report.sets[0].kept_groups == 8 - int((emitted[zero] <= 0).sum())
    assert any("cannot be folded" in note for note in report.sets[0].notes) == bool((emitted[zero] > 0).any())


def test_zero_padding_layer_before_a_valid_convolution_is_a_border_too():
    model = nets.randomize(keras.Sequential([
        keras.Input((8, 8, 3)), L.Conv2D(4, 1, activation="sigmoid", name="conv"), L.ZeroPadding2D(1), L.Conv2D(5, 3),
        L.Flatten(), L.Dense(2),
    ]))  # fmt: skip
    prune(model, sparsity=0.5, structure="filter", layers=["conv"])
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.sets[0].kept_groups == 4 and "border" in report.sets[0].notes[0]


def test_constant_before_flatten_is_folded():
    model = nets.randomize(keras.Sequential([
        keras.Input((6, 6, 2)), L.Conv2D(6, 3, activation="sigmoid", name="conv"), L.ZeroPadding2D(1), L.Flatten(), L.Dense(4),
    ]))  # fmt: skip
    prune(model, sparsity=0.5, structure="filter", layers=["conv"])
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.sets[0].kept_groups == 3


def test_a_channel_that_is_joined_to_the_one_of_the_input_goes_as_any_other():
    """The input's channel is the first of all, with the label zero."""
    x = keras.Input((6, 6, 1))
    h = L.Concatenate()([x, L.Conv2D(4, 1, name="made")(x)])
    model = nets.randomize(keras.Model(x, L.Flatten()(L.Conv2D(3, 1, name="reads")(h))))
    made = model.get_layer("made").kernel
    made.assign(ops.convert_to_numpy(made) * np.array([0, 1, 1, 1], "float32"))
    small = shrinking.shrink(model)
    assert small.get_layer("made").filters == 3
    assert_same(model, small)


def test_channels_nobody_reads_go():
    model = nets.randomize(nets.plain())
    kernel = model.layers[-1].kernel
    values = ops.convert_to_numpy(kernel).copy()
    values[:7] = 0
    kernel.assign(values)
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert small.layers[-2].units == 3


def test_constant_shared_reader_is_not_folded_twice():
    x = keras.Input((4, 4, 2))
    a = L.Conv2D(4, 1, activation="sigmoid", name="a")(x)
    b = L.Conv2D(4, 1, activation="tanh", name="b")(x)
    reader = L.Conv2D(3, 1, name="reader")
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Flatten()(L.Add()([reader(a), reader(b)])))))
    for name in "ab":
        layer = model.get_layer(name)
        kernel = ops.convert_to_numpy(layer.kernel).copy()
        kernel[..., :2] = 0
        layer.kernel.assign(kernel)
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    tied = next(item for item in report.sets if "a" in item.name.split(" + "))
    assert tied.kept_groups == 4 and "different constants" in tied.notes[0]


def test_a_relu_that_is_rarely_active_is_not_taken_for_dead():
    model = nets.randomize(keras.Sequential([keras.Input((4,)), L.Dense(6, activation="relu", name="hidden"), L.Dense(2)]))
    bias = ops.convert_to_numpy(model.layers[0].bias).copy()
    bias[:3] = -100.0  # zero on every sample anyone would draw, but not for large inputs
    model.layers[0].bias.assign(bias)
    small, report = shrinking.shrink(model, return_report=True)
    assert report.removed_groups == 0
    assert small.layers[0].units == 6


def test_what_is_rarely_active_does_not_silence_what_it_is_multiplied_with():
    """It is zero on every input that is made up, and that is no proof."""
    x = keras.Input((6,))
    made = L.Dense(4, name="made")(x)
    gate = L.ReLU()(L.Dense(4, name="gate")(x))
    model = nets.randomize(keras.Model(x, L.Dense(2, name="reads")(L.Multiply()([made, gate]))))
    model.get_layer("gate").bias.assign(-100.0 * np.ones(4))
    small = shrinking.shrink(model)
    assert small.get_layer("made").units == 4
    arrays = [1e4 * np.random.default_rng(0).normal(size=(8, 6)).astype("float32")]
    np.testing.assert_allclose(outputs_of(small, arrays)[0], outputs_of(model, arrays)[0], rtol=1e-5)


def test_a_channel_scaled_by_a_spatial_map_is_not_taken_for_constant():
    x = keras.Input((6, 6, 3))
    h = L.Conv2D(6, 1, activation="sigmoid", name="conv")(x)
    h = L.Multiply()([h, L.Conv2D(1, 1, activation="sigmoid", name="map")(x)])
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(h))))
    prune(model, sparsity=0.5, structure="filter", layers=["conv"])
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.removed_groups == 0
    coupling.prune_groups(model, 0.5)
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.removed_groups == 3


def test_a_set_whose_groups_all_died_keeps_one():
    model = nets.randomize(nets.plain())
    layer = model.layers[4]
    for variable in (layer.kernel, layer.bias):
        variable.assign(ops.zeros_like(variable))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert small.get_layer(layer.name).filters == 1
    assert "every group was dead" in " ".join(next(s for s in report.sets if s.name == layer.name).notes)


def test_custom_and_lambda_layers_are_kept_as_they_are():
    @keras.saving.register_keras_serializable(package="test_shrinking")
    class Half(L.Layer):
        def call(self, x):
            return x[..., ::2]

    x = keras.Input((4, 4, 3))
    h = L.Conv2D(6, 3, name="before")(x)
    h = L.Lambda(lambda t: t[..., ::-1], name="turn")(Half(name="half")(h))
    h = L.Dense(8, activation="relu", name="hidden")(L.Flatten()(h))
    model = nets.randomize(keras.Model(x, L.Dense(2)(h)))
    coupling.prune_groups(model, 0.5)
    small = shrinking.shrink(model)
    assert_same(model, small)
    assert small.get_layer("hidden").units == 4 and small.get_layer("before").filters == 6


def test_penalties_masks_and_the_compiled_state():
    model = nets.randomize(nets.plain())
    model.layers[0].kernel_regularizer = model.layers[0]._kernel.regularizer = keras.regularizers.L2(1e-3)
    coupling.prune_groups(model, 0.5)
    regularize(model, "filter", 1e-3)
    coupling.regularize_coupled(model, 1e-3)
    model.compile("adam", "mse", metrics=["mae"])
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert not attachments(small) and attachments(model)
    assert isinstance(small.layers[0].kernel_regularizer, keras.regularizers.L2)
    assert small.layers[4].kernel_regularizer is None
    assert small.compiled and isinstance(small.optimizer, keras.optimizers.Adam)
    small.fit(np.zeros((4, 8, 8, 3)), np.zeros((4, 4)), verbose=0)
    assert report.parameters_after == small.count_params()


def test_adapted_normalization_and_unknown_sizes():
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(20, 8, 8, 3)))
    x = keras.Input((None, None, 3))
    h = L.Conv2D(8, 3, padding="same", activation="relu", name="conv")(normalization(x))
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(h)))
    coupling.prune_groups(model, 0.5)
    small = shrinking.shrink(model)
    image = np.random.default_rng(1).normal(size=(2, 9, 7, 3)).astype("float32")
    np.testing.assert_allclose(model(image), small(image), atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_half_precision_policies(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = nets.randomize(nets.residual())
    finally:
        keras.config.set_dtype_policy("float32")
    coupling.prune_groups(model, 0.5, scope="set")
    small, report = shrinking.shrink(model, return_report=True)
    assert report.removed_groups == 7 and small.get_layer("inner").filters == 3
    for layer in ("inner", "stem"):
        assert small.get_layer(layer).dtype_policy.name == policy
        assert small.get_layer(layer).kernel.dtype == model.get_layer(layer).kernel.dtype
    (x,) = inputs_of(model)
    first, second = (ops.convert_to_numpy(ops.cast(m(x), "float32")) for m in (model, small))
    assert 0 < np.abs(first).max() < np.inf
    np.testing.assert_allclose(first, second, rtol=0, atol=2e-2 * np.abs(first).max())


def test_channels_first_on_a_processor_is_refused(monkeypatch):
    x = keras.Input((3, 8, 8))
    h = L.Conv2D(6, 3, data_format="channels_first", name="conv", use_bias=False)(x)
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Flatten(data_format="channels_first")(h))))
    coupling.prune_groups(model, 0.5)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="channels last.*layers=.'conv'"):
        patch.setattr(keras.distribution, "list_devices", lambda kind=None: [])
        shrinking.shrink(model)
    # Elsewhere the same model is shrunk like any other; without a bias a processor gets it right too, where it has it.
    try:
        model(np.zeros((1, 3, 8, 8)))
    except Exception as error:
        assert "only supports the NHWC" in str(error)
        pytest.skip("no convolution with channels first for this processor")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind=None: ["gpu:0"])
    small = shrinking.shrink(model)
    assert_same(model, small)
    assert small.get_layer("conv").filters == 3


def test_a_custom_layer_that_cannot_be_made_again_is_named():
    class Stubborn(L.Layer):
        def __init__(self, size):
            super().__init__(name="stubborn")
            self.inner = L.Dense(size)

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return self.inner(x)

    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(2)(L.Dense(6, name="free")(Stubborn(5)(x))))
    coupling.prune_groups(model, 0.5)
    with pytest.raises(TypeError, match="stubborn must be made again from its own config.*get_config"):
        shrinking.shrink(model)


def test_models_that_are_not_built_or_hide_their_graph():
    class Hidden(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x)

    hidden = Hidden()
    hidden(np.zeros((1, 4)))
    unbuilt = keras.Sequential([L.Dense(3), L.Dense(2)])
    for act in (shrinking.shrink, coupling.prune_groups, coupling.regularize_coupled, coupling.hold_groups):
        with pytest.raises(ValueError, match="must be built.*dense"):
            act(unbuilt)
        with pytest.raises(TypeError, match="must have a graph.*Hidden.*rebuild it"):
            act(hidden)


# The check must be able to fail.


def test_a_tampered_copy_is_refused():
    model = nets.randomize(nets.residual())
    batch = inputs_of(model)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    assert shrinking.verify.check(model, copy, batch).difference == 0.0
    kernel = copy.get_layer("inner").kernel
    kernel.assign(kernel * 1.01)
    with pytest.raises(shrinking.ShrinkError, match=r"difference=.*scale="):
        shrinking.verify.check(model, copy, batch)


def test_rounding_that_a_deep_model_amplifies_is_told_from_a_mistake():
    """The same net with its units in another order: each layer makes the rounding of other sums larger."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((16,)), *[L.Dense(100, activation="tanh") for _ in range(30)], L.Dense(3)])
    shuffled, order = keras.models.clone_model(model), np.arange(16)
    for layer, other in zip(model.layers, shuffled.layers):
        layer.kernel.assign(rng.normal(scale=0.3, size=layer.kernel.shape))
        new = rng.permutation(layer.units) if layer.units == 100 else np.arange(3)
        other.kernel.assign(np.asarray(layer.kernel)[order][:, new])
        order = new
    batch = inputs_of(model)
    assert shrinking.verify.compare(model, shuffled, batch).relative > 1e-4
    result = shrinking.verify.check(model, shuffled, batch)
    assert result.in_float64 and result.relative < 1e-6
    shuffled.layers[-1].bias.assign([0.01, 0.0, 0.0])
    with pytest.raises(shrinking.ShrinkError):
        shrinking.verify.check(model, shuffled, batch)


@pytest.mark.parametrize("net", [nets.residual, nets.two_headed, nets.attention])
def test_in_float64_a_model_computes_the_same(net):
    model = nets.randomize(net())
    wide = recast(model, "float64")
    assert {layer.compute_dtype for layer in wide.layers} <= {"float64", "float32"} and not is_half(wide)
    assert shrinking.verify.compare(model, wide, inputs_of(model)).relative < 1e-5


def test_recasting_keeps_integers_and_reaches_into_nested_models():
    ids = keras.Input((5,), dtype="int32")
    inner = keras.Model(ids, L.Embedding(7, 4, dtype="mixed_float16")(ids))
    x = keras.Input((5,), dtype="int32")
    model = keras.Model(x, L.Bidirectional(L.LSTM(3, dtype="mixed_float16"), dtype="mixed_float16")(inner(x)))
    wide = recast(model, "float32")
    assert is_half(model) and not is_half(wide) and wide.layers[1].inputs[0].dtype == "int32"
    batch = np.arange(10).reshape(2, 5) % 7
    np.testing.assert_allclose(wide(batch), np.asarray(model(batch), "float32"), atol=5e-3)


def test_what_cannot_be_recast_is_refused_with_the_figures(monkeypatch):
    """A layer without a config says nothing for a shrunk model that differs: the difference stands."""
    model = nets.randomize(nets.plain())
    copy = keras.models.clone_model(model)
    copy.set_weights([weight * 1.01 for weight in model.get_weights()])

    def without(self):
        raise NotImplementedError("no config")

    with pytest.raises(shrinking.ShrinkError, match=r"difference=.*scale=.*in_float64=0\.\d"):
        shrinking.verify.check(model, copy, inputs_of(model))
    monkeypatch.setattr(type(model.layers[-1]), "get_config", without)
    with pytest.raises(RecastError, match="of Dense .*rebuilt in float64.*Received: layer='dense"):
        recast(model, "float64")
    with pytest.raises(shrinking.ShrinkError, match=r"difference=.*scale=.*in_float64=.not known"):
        shrinking.verify.check(model, copy, inputs_of(model))


def test_a_layer_whose_config_forgets_its_weights_is_named(monkeypatch):
    """What is rebuilt with other weights would take none of the old ones."""
    model = nets.plain()
    whole = L.Dense.get_config
    monkeypatch.setattr(L.Dense, "get_config", lambda self: {**whole(self), "use_bias": False})
    with pytest.raises(RecastError, match="of Dense .*rebuilt in float64.*Received: layer='dense"):
        recast(model, "float64")


def test_a_wrong_verdict_is_refused(monkeypatch):
    """Removing a group that lives must never get through."""
    model = nets.randomize(nets.plain())

    def wrong(coupled, inputs):
        return Verdict({int(coupled.sets[0].labels[0])}, {}, {}, NO_CUTS)

    monkeypatch.setattr(smaller, "dead_groups", wrong)
    with pytest.raises(shrinking.ShrinkError, match="large one is unchanged"):
        shrinking.shrink(model)


def test_nan_is_refused():
    model = nets.randomize(nets.plain())
    model.layers[-1].bias.assign(np.full(4, np.nan))
    with pytest.raises(shrinking.ShrinkError, match="Every weight must be finite"):
        shrinking.shrink(model)


@pytest.mark.parametrize("multiple", [0, -8, 2.0, True])
def test_bad_multiples(multiple):
    with pytest.raises(ValueError, match="multiple_of"):
        shrinking.shrink(nets.plain(), multiple_of=multiple)


def test_own_batch_and_inputs_that_cannot_be_made_up():
    model = nets.randomize(nets.two_headed())
    coupling.prune_groups(model, 0.5)
    image = np.random.default_rng(3).normal(size=(2, 8, 8, 3)).astype("float32")
    assert_same(model, shrinking.shrink(model, inputs={"image": image}))
    text = keras.Input((), dtype="string")
    lookup = L.StringLookup(vocabulary=["a", "b"])(text)
    model = keras.Model(text, L.Dense(2)(L.Dense(4, name="hidden")(L.Embedding(4, 5)(lookup))))
    with pytest.raises(ValueError, match="real batch of inputs"):
        shrinking.shrink(model)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64"])
def test_inputs_are_taken_in_whatever_type_and_rank_keras_takes_them(dtype):
    """Keras casts pixels where a model declares floats; a convolution that was given the pixels themselves refused them."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5, 5, 1)), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(2)])
    zero_rows(model.layers[0], -1, [1])
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5)).astype(dtype)
    small = shrinking.shrink(model, inputs=images)
    assert small.layers[0].filters == 3
    np.testing.assert_allclose(small(images[..., None]), model(images[..., None]), rtol=1e-4)


IMAGES = np.zeros((3, 8, 8, 3), "float32")


@pytest.mark.parametrize(
    "given, kind, words",
    [
        (IMAGES[:, :7], ValueError, r"must have the shape \(num >= 1, 8, 8, 3\), for 'image'"),
        (IMAGES[0], ValueError, "must have the shape"), (IMAGES[:0], ValueError, "must have the shape"),
        (IMAGES + np.nan, ValueError, "must be finite in float32"),
        (np.full(IMAGES.shape, 1e300), ValueError, "must be finite in float32"),
        (IMAGES.astype(str), ValueError, "must hold numbers that fit float32"),
        ("images", TypeError, "must hold examples"), (object(), TypeError, "must hold examples"),
        (5, TypeError, "must hold examples"), ([IMAGES, IMAGES], ValueError, "must hold one array per input, 1"),
    ],
)  # fmt: skip
def test_inputs_that_the_model_does_not_take_are_refused_as_data_are(given, kind, words):
    """Keras and TensorFlow said so in their own words, and an empty batch was compared without a word."""
    model = nets.randomize(nets.two_headed())
    coupling.prune_groups(model, 0.5)
    for name in ("inputs", "data"):
        with pytest.raises(kind, match=f"`{name}` {words}") as caught:
            shrinking.shrink(model, **{name: given})
        assert str(caught.value).count("Received: ") == 1


def test_text_is_taken_for_inputs_of_text_alone():
    text = keras.Input((), dtype="string")
    hidden = L.Dense(4, name="hidden")(L.Embedding(4, 5)(L.StringLookup(vocabulary=["a", "b"])(text)))
    model = keras.Model(text, L.Dense(2)(hidden))
    for given in (["a", "b"], np.array(["a", "b"]), np.array(["a", "b"], object), ops.convert_to_tensor(["a", "b"])):
        assert shrinking.shrink(model, inputs=given).count_params() == model.count_params()
    with pytest.raises(ValueError, match="`inputs` must hold text for .*Received: dtype='int64'"):
        shrinking.shrink(model, inputs=np.array([1, 2]))
    with pytest.raises(ValueError, match=r"must have the shape \(num >= 1\), for"):
        shrinking.shrink(model, inputs=np.array([["a", "b"]]))


def test_report_in_words_and_as_a_dict():
    model = nets.randomize(nets.two_headed())
    coupling.prune_groups(model, 0.5)
    _, report = shrinking.shrink(model, return_report=True)
    assert "parameters" in str(report) and "backbone" in str(report)
    assert report.to_dict()["removed_groups"] == report.removed_groups > 0


@pytest.mark.parametrize("build", nets.NETS)
def test_the_chain_masked_shrunk_tflite(build, tmp_path):
    """The file of the small model, executed, gives what the large masked Keras model gives."""
    from tf_reweight import export
    from tf_reweight.export.conversion import output_names

    model = nets.randomize(build())
    coupling.prune_groups(model, 0.5, scope="set")
    small = shrinking.shrink(model)
    arrays = inputs_of(model, batch=4)
    export.export_tflite(small, tmp_path / "small.tflite", verify_data=arrays)
    expected = outputs_of(model, arrays)
    found = export.Runner(tmp_path / "small.tflite")(
        dict(zip(export.samples.identifiers([tensor.name for tensor in keras.tree.flatten(small.inputs)]), arrays)),
        output_names(small, len(expected)),
    )
    for output, other in zip(expected, found):
        assert other.shape == output.shape and np.abs(other - output).max() <= 1e-4 * np.abs(output).max()


# Kernels that lose rows and columns.


def zero_rows(layer, axis, rows):
    """Zeroes rows of a kernel along a spatial axis, in place."""
    kernel = ops.convert_to_numpy(layer.kernel).copy()
    np.moveaxis(kernel, axis, 0)[list(rows)] = 0
    layer.kernel.assign(kernel)


def one_conv(padding, strides=1, dilation=1, size=(9, 8)):
    x = keras.Input((*size, 3))
    h = L.Conv2D(6, (3, 5), strides=strides, dilation_rate=dilation, padding=padding, name="conv")(x)
    return nets.randomize(keras.Model(x, L.Conv2D(2, 1)(L.ReLU()(h))))


@pytest.mark.parametrize("gone", [((0,), ()), ((2,), (0, 1)), ((0, 2), (4,)), ((0, 2), (0, 1, 3, 4))])
@pytest.mark.parametrize("padding,strides,dilation", [
    ("same", 1, 1), ("valid", 1, 1), ("same", 2, 1), ("valid", 2, 1), ("same", 1, 2), ("same", (1, 3), 1),
])  # fmt: skip
def test_vanished_rows_and_columns_make_a_smaller_kernel(padding, strides, dilation, gone):
    strides = strides if dilation == 1 else 1
    model = one_conv(padding, (strides, strides) if isinstance(strides, int) else strides, dilation, size=(13, 12))
    layer = model.get_layer("conv")
    for axis, rows in enumerate(gone):
        zero_rows(layer, axis, rows)
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    expected = (3 - len(gone[0]), 5 - len(gone[1]))
    if gone == ((0, 2), (0, 1, 3, 4)):
        expected = (1, 1)
    assert small.get_layer("conv").kernel_size == expected
    assert dict(report.kernels)["conv"] == f"kernel 3x5 -> {expected[0]}x{expected[1]}"


def test_no_layer_is_added_where_the_padding_stays_the_same():
    model = one_conv("same")
    zero_rows(model.get_layer("conv"), 0, (0, 2))
    small = shrinking.shrink(model)
    assert_same(model, small)
    assert len(small.layers) == len(model.layers) and small.get_layer("conv").padding == "same"


def test_smaller_kernels_in_one_and_three_dimensions_in_sequence_and_of_unknown_size():
    line = nets.randomize(keras.Sequential([
        keras.Input((12, 3)), L.Conv1D(4, 5, padding="causal", name="causal"), L.ReLU(), L.Conv1D(4, 3, name="valid"),
        L.GlobalMaxPooling1D(), L.Dense(2),
    ]))  # fmt: skip
    zero_rows(line.get_layer("causal"), 0, (0, 4))
    zero_rows(line.get_layer("valid"), 0, (0,))
    small = shrinking.shrink(line)
    assert_same(line, small)
    assert small.get_layer("causal").kernel_size == (3,) and small.get_layer("valid").kernel_size == (2,)
    volume = keras.Input((6, 6, 6, 2))
    model = nets.randomize(keras.Model(volume, L.Conv3D(2, 1)(L.Conv3D(4, 3, padding="same", name="conv")(volume))))
    zero_rows(model.get_layer("conv"), 1, (0, 1))
    small = shrinking.shrink(model)
    assert_same(model, small)
    assert small.get_layer("conv").kernel_size == (3, 1, 3)
    for strides, size in ((1, (1, 3)), (2, (3, 3))):
        x = keras.Input((None, None, 2))
        h = L.Conv2D(4, 3, strides=strides, padding="same", name="conv")(x)
        model = nets.randomize(keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(h))))
        zero_rows(model.get_layer("conv"), 0, (0, 1))
        small = shrinking.shrink(model)
        assert small.get_layer("conv").kernel_size == size  # a stride pads by the size, which is unknown here
        image = np.random.default_rng(1).normal(size=(2, 9, 7, 2)).astype("float32")
        np.testing.assert_allclose(model(image), small(image), atol=1e-5)


def test_a_shared_convolution_pads_for_each_of_its_inputs():
    a, b = keras.Input((8, 8, 2)), keras.Input((7, 5, 2))
    shared = L.Conv2D(4, 3, strides=2, padding="same", name="shared")
    pooled = [L.GlobalMaxPooling2D()(shared(x)) for x in (a, b)]
    model = nets.randomize(keras.Model([a, b], L.Dense(2)(L.Concatenate()(pooled))))
    zero_rows(model.get_layer("shared"), 0, (0,))
    small = shrinking.shrink(model)
    assert_same(model, small)
    assert small.get_layer("shared").kernel_size == (2, 3)


def test_depthwise_kernels_get_smaller_only_where_no_layer_is_needed():
    for rows, size in (((0, 2), (1, 3)), ((0,), (2, 3)), ((2,), (3, 3))):
        x = keras.Input((8, 8, 3))
        h = L.DepthwiseConv2D(3, padding="same", name="depthwise")(L.Conv2D(6, 1)(x))
        model = nets.randomize(keras.Model(x, L.Conv2D(2, 1)(h)))
        zero_rows(model.get_layer("depthwise"), 0, rows)
        small = shrinking.shrink(model)
        assert_same(model, small)
        assert small.get_layer("depthwise").kernel_size == size


def test_columns_that_vanish_with_their_channels_count_too(tmp_path):
    """A row that only dead filters use vanishes with them, and the file still gives the masked model's outputs."""
    from tf_reweight import export

    model = one_conv("same")
    layer = model.get_layer("conv")
    kernel = ops.convert_to_numpy(layer.kernel).copy()
    kernel[0, :, :, :3] = 0
    kernel[:, :, :, 3:] = 0
    layer.kernel.assign(kernel)
    bias = ops.convert_to_numpy(layer.bias).copy()
    bias[3:] = 0
    layer.bias.assign(bias)
    small = shrinking.shrink(model)
    assert_same(model, small)
    assert small.get_layer("conv").kernel.shape == (2, 5, 3, 3)
    arrays = inputs_of(model)
    export.export_tflite(small, tmp_path / "small.tflite", verify_data=arrays)
    np.testing.assert_allclose(export.Runner(tmp_path / "small.tflite")(arrays)[0], outputs_of(model, arrays)[0], atol=1e-4)


@pytest.mark.parametrize("layer", [L.Conv2D(8, 3, name="conv"), L.Conv2D(8, 1, padding="same", name="conv")])
def test_block_diagonal_kernels_become_groups_when_asked(layer, tmp_path):
    from tf_reweight import export

    layer = type(layer).from_config(layer.get_config())
    x = keras.Input((6, 6, 12))
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(layer(x)))))
    blocks = np.kron(np.eye(4), np.ones((3, 2)))
    layer.kernel.assign(ops.convert_to_numpy(layer.kernel) * blocks)
    assert shrinking.shrink(model).get_layer("conv").groups == 1
    small, report = shrinking.shrink(model, find_groups=True, return_report=True)
    assert_same(model, small)
    assert small.get_layer("conv").groups == 4 and "4 groups" in str(report)
    assert small.get_layer("conv").kernel.shape[-2:] == (3, 8)
    arrays = inputs_of(model)
    export.export_tflite(small, tmp_path / "small.tflite", verify_data=arrays)
    # One weight outside the blocks, and it is no grouped convolution.
    kernel = ops.convert_to_numpy(layer.kernel).copy()
    kernel[0, 0, 0, -1] = 1e-3
    layer.kernel.assign(kernel)
    assert shrinking.shrink(model, find_groups=True).get_layer("conv").groups == 1


# Branches that fall away whole.


def two_blocks(merge, last_bias=True):
    """A stem and two residual blocks; `merge` adds."""
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    for name in "ab":
        r = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, padding="same", use_bias=False, name=f"{name}_in")(h)))
        r = L.BatchNormalization(name=f"{name}_bn")(L.Conv2D(8, 3, padding="same", use_bias=last_bias, name=f"{name}_out")(r))
        h = L.ReLU()(merge(h, r))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(h)))


MERGES = {"layer": lambda a, b: L.Add()([a, b]), "operator": lambda a, b: a + b, "turned": lambda a, b: b + a}


def empty(model, name):
    """Zeroes all groups of the set that a layer makes."""
    coupled = coupling.groups(model)
    keeps = [np.full(item.num_groups, name not in item.paths("out")) for item in coupled.sets]
    coupling.pruning.zero_groups(model, coupled, keeps)


@pytest.mark.parametrize("merge", MERGES)
def test_a_branch_whose_every_group_died_is_removed_whole(merge, tmp_path):
    from tf_reweight import export

    model = nets.randomize(two_blocks(MERGES[merge]))
    empty(model, "a_in")
    coupling.prune_groups(model, 0.5, minimum=0)
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    names = [layer.name for layer in small.layers]
    assert not any(name.startswith("a_") for name in names) and "b_in" in names
    assert {"a_in", "a_out", "a_bn"} < set(report.branches) and "removed whole" in str(report)
    assert next(item for item in report.sets if item.name == "a_in").kept_groups == 0
    # What the branch still adds, its last BatchNorm's constant, stays as one number per channel.
    offset = next(layer for layer in small.layers if isinstance(layer, L.Rescaling)).offset
    assert len(offset) == small.get_layer("stem").filters < 8
    # The small model is a model like any other: saved, analysed and shrunk again, exported.
    small.save(tmp_path / "small.keras")
    assert_same(small, keras.saving.load_model(tmp_path / "small.keras"), 1e-6)
    again = nets.randomize(small)
    coupling.prune_groups(again, 0.5, scope="set")
    smaller_still = shrinking.shrink(again)
    assert_same(again, smaller_still)
    assert smaller_still.get_layer("stem").filters == small.get_layer("stem").filters - small.get_layer("stem").filters // 2
    arrays = inputs_of(model)
    small = shrinking.shrink(model)
    export.export_tflite(small, tmp_path / "small.tflite", verify_data=arrays)
    np.testing.assert_allclose(export.Runner(tmp_path / "small.tflite")(arrays)[0], outputs_of(model, arrays)[0], atol=1e-4)


def test_a_dead_branch_that_adds_nothing_leaves_nothing():
    model = nets.randomize(two_blocks(MERGES["layer"], last_bias=False))
    for name in "ab":
        empty(model, f"{name}_in")
        bn = model.get_layer(f"{name}_bn")
        for variable in (bn.beta, bn.moving_mean):
            variable.assign(ops.zeros_like(variable))
    small = shrinking.shrink(model)
    assert_same(model, small)
    assert [layer.name for layer in small.layers if layer.weights] == ["stem", model.layers[-1].name]
    assert not any(isinstance(layer, (L.Rescaling, L.Add)) for layer in small.layers)


def test_of_three_branches_the_living_stay():
    x = keras.Input((8, 8, 3))
    parts = [L.Conv2D(6, 3, padding="same", name=name)(x) for name in "abc"]
    model = nets.randomize(keras.Model(x, L.Conv2D(2, 1)(L.Add(name="sum")(parts))))
    layer = model.get_layer("b")
    layer.kernel.assign(ops.zeros_like(layer.kernel))
    small = shrinking.shrink(model)
    assert_same(model, small)
    names = {layer.name for layer in small.layers}
    assert names >= {"a", "c", "sum", "sum_offset"} and "b" not in names


def test_a_transformer_block_loses_its_attention_and_its_mlp():
    for gone, name in (("heads/value", "heads"), ("mlp_in", "mlp_out")):
        model = nets.randomize(nets.attention())
        empty(model, gone)
        small = shrinking.shrink(model)
        assert_same(model, small)
        assert name not in [layer.name for layer in small.layers]


def test_a_constant_with_a_border_is_no_reason_to_cut():
    x = keras.Input((8, 8, 3))
    dead = L.Conv2D(6, 1, name="dead")(x)
    back = L.Conv2D(6, 3, padding="same", name="back")(dead)
    model = nets.randomize(keras.Model(x, L.Conv2D(2, 1)(L.Conv2D(6, 1, name="other")(x) + back)))
    model.get_layer("dead").kernel.assign(ops.zeros_like(model.get_layer("dead").kernel))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert not report.branches and small.get_layer("back")


def test_branches_of_nested_and_of_shared_models():
    def block(name):
        x = keras.Input((8, 8, 6))
        r = L.Conv2D(6, 3, padding="same", name="out")(L.Conv2D(4, 3, padding="same", name="in")(x))
        return keras.Model(x, L.ReLU()(x + r), name=name)

    x = keras.Input((8, 8, 3))
    twice = block("twice")
    h = twice(twice(block("once")(L.Conv2D(6, 3, name="stem", padding="same")(x))))
    branch = keras.Sequential([keras.Input((8, 8, 6)), L.Conv2D(6, 1, name="only")], name="branch")
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.GlobalMaxPooling2D()(h + branch(h)))))
    for layer in (model.get_layer("once").get_layer("out"), twice.get_layer("out"), branch.layers[-1]):
        layer.kernel.assign(ops.zeros_like(layer.kernel))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    # A shared block is left as it is: its two calls could differ.
    assert set(report.branches) == {"in", "out", "only"} and "branch" not in [layer.name for layer in small.layers]
    assert [layer.name for layer in small.get_layer("once").layers if layer.weights] == []
    assert [layer.name for layer in small.get_layer("twice").layers if layer.weights] == ["in", "out"]


def test_a_model_that_is_all_constant_is_not_cut_to_nothing():
    model = nets.randomize(two_blocks(MERGES["layer"]))
    layer = model.get_layer("stem")
    layer.kernel.assign(ops.zeros_like(layer.kernel))
    small = shrinking.shrink(model)
    assert_same(model, small)


CONNECTIONS = {
    "batch normalization": L.BatchNormalization, "residual add": L.Add, "squeeze-excite": L.Multiply,
    "concatenation": L.Concatenate, "depthwise": L.DepthwiseConv2D, "separable": L.SeparableConv2D,
    "transposed": L.Conv2DTranspose, "up-sampling": L.UpSampling2D, "padding": L.ZeroPadding1D, "pooling": L.MaxPooling2D,
    "flatten": L.Flatten, "reshape": L.Reshape, "heads": L.MultiHeadAttention, "shared heads": L.GroupQueryAttention,
    "LSTM": L.LSTM, "GRU": L.GRU, "x + y": "Add", "split": "Split", "concatenate": "Concatenate", "transpose": "Transpose",
}  # fmt: skip


def test_every_way_of_tying_channels_is_in_the_nets_of_the_chain():
    """The parity tests above run over `nets.NETS`: each connection must be there with channels on both sides."""
    operations = [step.operation for build in nets.NETS for step in coupling.groups(build()).trace.steps]
    names = {type(operation).__name__ for operation in operations if not isinstance(operation, L.Layer)}

    def there(wanted):
        return any(isinstance(each, wanted) for each in operations) if isinstance(wanted, type) else wanted in names

    assert [kind for kind, wanted in CONNECTIONS.items() if not there(wanted)] == []


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_groups_are_found_as_many_as_there_are(count, shape):
    """Blocks on the diagonal that are full, so that there are no more groups than that; one number outside joins two."""
    rng = np.random.default_rng(count)
    joined = np.kron(np.eye(count), np.ones((12 // count, 24 // count)))
    kernel = rng.uniform(0.1, 1.0, (*shape, 12, 24)) * joined
    assert compact._diagonal_blocks(kernel) == (count if count > 1 else None)
    kernel[0, 0, 0, -1] = 1.0
    assert compact._diagonal_blocks(kernel) is None


# The parts of a smaller kernel against plain loops.


@pytest.mark.parametrize("rows, window", [
    ([1, 1, 1, 1, 1], (0, 5)), ([0, 1, 0, 1, 0], (1, 3)), ([1, 0, 0, 0, 0], (0, 1)), ([0, 0, 0, 0, 1], (4, 1)),
    ([0, 0, 1, 1, 1], (2, 3)), ([0, 0, 0, 0, 0], (0, 5)),
])  # fmt: skip
def test_the_window_of_a_kernel_is_from_its_first_to_its_last_row(rows, window):
    kernel = -np.ones((5, 3, 2, 4)) * np.reshape(rows, (5, 1, 1, 1))
    kernel[..., 1:] = 0
    start, size = compact._window(kernel)
    assert (start[0], size[0]) == window and (start[1], size[1]) == (0, 3)
    start, size = compact._window(np.swapaxes(kernel, 0, 1))
    assert (start[1], size[1]) == window and (start[0], size[0]) == (0, 3)


@pytest.mark.parametrize("size, taps, stride, dilation, padding", [
    (9, 3, 1, 1, "same"), (9, 4, 1, 1, "same"), (9, 3, 2, 1, "same"), (8, 3, 2, 1, "same"), (7, 5, 3, 1, "same"),
    (8, 1, 3, 1, "same"), (9, 3, 1, 2, "same"), (9, 3, 2, 1, "valid"), (9, 3, 1, 2, "causal"), (9, 4, 1, 1, "causal"),
    (10, 3, 1, 1, "valid"),
])  # fmt: skip
@pytest.mark.parametrize("first, kept", [(0, None), (1, 1), (0, 2), (1, None)])
def test_margins_are_the_zeros_that_keras_pads_with(size, taps, stride, dilation, padding, first, kept):
    """With them a kernel of the rows kept gives, without any padding, what the whole one gives."""
    rows = min(taps - first, kept or taps)
    if first >= taps:
        return
    layer = L.Conv1D(1, taps, strides=stride, dilation_rate=dilation, padding=padding, use_bias=False)
    layer.build((None, size, 1))
    kernel = np.zeros((taps, 1, 1), "float32")
    kernel[first : first + rows] = np.random.default_rng(0).uniform(1.0, 2.0, (rows, 1, 1))
    layer.kernel.assign(kernel)
    x = np.random.default_rng(1).normal(size=(1, size, 1)).astype("float32")
    ((before, after),) = compact._margins(layer, (size,), (first,), (rows,))
    line = np.pad(x[0, :, 0], (max(0, before), max(0, after)))
    line = line[max(0, -before) : len(line) - max(0, -after)]
    found = [
        sum(line[start + tap * dilation] * kernel[first + tap, 0, 0] for tap in range(rows))
        for start in range(0, len(line) - (rows - 1) * dilation, stride)
    ]
    np.testing.assert_allclose(found, ops.convert_to_numpy(layer(x))[0, :, 0], atol=1e-5)
    # What the same padding gives a kernel of that many rows, where its size is known.
    own = compact._own_margins(layer, (size,), (taps,), padding)
    assert own == ((before + first * dilation, after + (taps - first - rows) * dilation),)
    assert (compact._own_margins(layer, (None,), (taps,), padding) is None) == (padding == "same" and stride > 1)


def test_layers_before_a_smaller_kernel_pad_and_crop_each_axis():
    def made(*margins):
        size = (5, 6, 7)[: len(margins)]
        kept = compact.Compact((0,) * len(size), (1,) * len(size), "valid", None, {size: margins})
        assert kept.layers_before("none", (9, *size[1:], 3)) == []
        before = kept.layers_before("conv_rows", (*size, 3))
        return [(type(layer).__name__, layer.name, layer.get_config()) for layer in before]

    assert made((0, 0), (0, 0)) == []
    (pad,) = made((1, 0))
    assert pad[:2] == ("ZeroPadding1D", "conv_rows_pad") and tuple(pad[2]["padding"]) == (1, 0)
    (crop,) = made((0, -2), (0, 0))
    assert crop[:2] == ("Cropping2D", "conv_rows_crop") and crop[2]["cropping"] == ((0, 2), (0, 0))
    pad, crop = made((1, -2), (-3, 0), (0, 4))
    assert pad[:2] == ("ZeroPadding3D", "conv_rows_pad") and pad[2]["padding"] == ((1, 0), (0, 0), (0, 4))
    assert crop[:2] == ("Cropping3D", "conv_rows_crop") and crop[2]["cropping"] == ((0, 2), (3, 0), (0, 0))


def test_a_kernel_of_groups_has_the_blocks_side_by_side():
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(3, 2, 2)) for _ in range(3)]
    kernel = np.zeros((3, 6, 6))
    for number, block in enumerate(blocks):
        kernel[:, 2 * number : 2 * number + 2, 2 * number : 2 * number + 2] = block
    found = compact.Compact((1,), (2,), "same", 3, {})
    np.testing.assert_array_equal(found.kernel(kernel), np.concatenate(blocks, -1)[1:])
    assert found.config() == {"kernel_size": [2], "padding": "same", "groups": 3}
    whole = compact.Compact((0,), (3,), "causal", None, {})
    np.testing.assert_array_equal(whole.kernel(kernel), kernel)
    assert whole.config() == {"kernel_size": [3], "padding": "causal"}
    layer = L.Conv1D(6, 3)
    assert (found.words(layer), whole.words(layer)) == ("kernel 3 -> 2, 3 groups", "")
    assert compact.Compact((0,), (3,), "causal", 2, {}).words(layer) == "2 groups"


def compacted(layer, shape, gone, **options):
    layer.build((None, *shape))
    kernel = np.random.default_rng(0).uniform(0.5, 1.0, layer.kernel.shape)
    kernel[gone] = 0
    return compact.compact(layer, kernel, [shape], **options)


def test_which_layers_get_smaller_kernels():
    """Only plain and depthwise convolutions with channels last, and only where rows vanish or groups are asked for."""
    first, last = np.s_[:1], np.s_[2:]
    assert compacted(L.Conv2D(4, 3), (8, 8, 2), first).size == (2, 3)
    assert compacted(L.Conv2D(4, 3, data_format="channels_first"), (2, 8, 8), first) is None
    assert compacted(L.Conv2DTranspose(4, 3), (8, 8, 2), first) is None
    assert compacted(L.Dense(4), (8,), first) is None
    assert compact.compact(L.ReLU(), None, [(8,)]) is None
    assert compacted(L.Conv2D(4, 3), (8, 8, 2), np.s_[:0]) is None
    assert compacted(L.Conv2D(4, 3), (8, 8, 2), np.s_[:]) is None  # nothing is left of it, and it stays as large
    # Where a depthwise kernel would need a layer for its padding, it stays. Two rows are padded behind.
    assert compacted(L.DepthwiseConv2D(3, padding="same"), (8, 8, 2), last) is None
    found = compacted(L.DepthwiseConv2D(3, padding="same"), (8, 8, 2), first)
    assert (found.start, found.size, found.padding, found.margins) == ((1, 0), (2, 3), "same", {})
    # A kernel cut at both ends pads as before with its smaller size; at one end by a layer.
    both = compacted(L.Conv1D(4, 3, padding="same"), (8, 2), np.s_[::2])
    assert (both.start, both.size, both.padding, both.margins) == ((1,), (1,), "same", {})
    one = compacted(L.Conv1D(4, 3, padding="same"), (8, 2), last)
    assert (one.start, one.size, one.padding, one.margins) == ((0,), (2,), "valid", {(8,): ((1, 0),)})
    none = compacted(L.Conv1D(4, 3, padding="same", strides=2), (None, 2), first)
    assert none is None
    # Groups are found where they are asked for, of a plain convolution that has none.
    blocks = np.kron(1 - np.eye(2), np.ones((2, 3))) > 0
    for layer, options, groups in ((L.Conv1D(6, 3), {"find_groups": True}, 2), (L.Conv1D(6, 3), {}, None),
                                   (L.Conv1D(6, 3, groups=1, padding="same"), {"find_groups": True}, 2)):  # fmt: skip
        found = compacted(layer, (8, 4), np.s_[:, blocks], **options)
        assert found is None if groups is None else (found.groups, found.size, found.padding) == (2, (3,), layer.padding)
    narrow = L.Conv1D(6, 3, groups=2)
    assert compacted(narrow, (8, 4), np.s_[:0], find_groups=True) is None


# Constants: what makes them, what carries them on, and what can take them into its bias.


def silent(layer, channels=(1, 4), axis=-1):
    """Zeroes slices of a layer's kernel, not its bias: what it makes there is a constant."""
    variable = layer if isinstance(layer, keras.Variable) else layer.kernel
    values = ops.convert_to_numpy(variable.value).copy()
    np.moveaxis(values, axis, 0)[list(channels)] = 0
    variable.assign(values)


def made(name="made", **options):
    return L.Conv2D(6, 1, activation="sigmoid", name=name, **options)


CARRIED = {  # what stands between the layer that makes a constant and the one that reads it, and how many channels go
    "nothing": (lambda h: h, 2),
    "relu": (lambda h: L.ReLU()(h), 2),
    "statistics": (lambda h: L.BatchNormalization()(h), 2),
    "pooling": (lambda h: L.AveragePooling2D(2)(h), 2),
    "up-sampling": (lambda h: L.UpSampling2D(2)(h), 2),
    "a border": (lambda h: L.ZeroPadding2D(1)(h), 0),
    "a number": (lambda h: 2.0 * h + 1.0, 2),
    "a reshape": (lambda h: L.Reshape((8, 2, 6))(h), 2),
    "depthwise": (lambda h: L.DepthwiseConv2D(2)(h), 2),
    "depthwise with a border": (lambda h: L.DepthwiseConv2D(3, padding="same")(h), 0),
    "groups": (lambda h: L.Conv2D(12, 1, groups=6)(h), 2),
    "another that varies": (lambda h: L.Add()([h, L.Conv2D(6, 1, name="other")(L.MaxPooling2D(2, 1, "same")(h))]), 0),
    "itself": (lambda h: L.Add()([h, ops.tanh(h)]), 2),
    "joined": (lambda h: L.Concatenate()([h, L.Conv2D(3, 1, name="other")(L.MaxPooling2D(2, 1, "same")(h))]), 2),
    "one map": (lambda h: L.Multiply()([h, L.Conv2D(1, 1, name="map")(h)]), 0),
    "statistics of places": (lambda h: L.LayerNormalization(axis=(1, 2), scale=False, center=False)(h), 2),
    "noise at rest": (lambda h: L.Dropout(0.5)(h), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CARRIED)
def test_a_constant_is_carried_by_what_acts_on_each_channel_alone(name):
    carry, gone = CARRIED[name]
    x = keras.Input((4, 4, 3))
    h = carry(made()(x))
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Flatten()(L.Conv2D(5, 1, activation="tanh", name="reader")(h)))))
    silent(model.get_layer("made"))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    item = next(item for item in report.sets if "made" in item.name)
    assert item.num_groups - item.kept_groups == gone == report.removed_groups
    assert (item.notes == ()) == (gone == 2 or name in ("another that varies", "one map"))


READERS = {
    "dense": (lambda: L.Dense(5), 2), "dense without bias": (lambda: L.Dense(5, use_bias=False), 2),
    "a place": (lambda: L.Conv2D(5, 1, padding="same"), 2), "places": (lambda: L.Conv2D(5, 2, use_bias=False), 2),
    "steps": (lambda: L.Conv2D(5, 2, strides=2), 2), "far places": (lambda: L.Conv2D(5, 2, dilation_rate=2), 2),
    "a border": (lambda: L.Conv2D(5, 3, padding="same"), 0),
    "a row with a border": (lambda: L.Conv2D(5, (1, 3), padding="same"), 0),
    "transposed": (lambda: L.Conv2DTranspose(5, 1), 0), "separable": (lambda: L.SeparableConv2D(5, 1), 0),
    "einsum": (lambda: L.EinsumDense("abcd,de->abce", (4, 4, 5), bias_axes="e"), 2),
    "einsum without bias": (lambda: L.EinsumDense("abcd,de->abce", (4, 4, 5)), 0),
    "each row": (lambda: L.TimeDistributed(L.Conv1D(5, 2)), 2), "each row, dense": (lambda: L.TimeDistributed(L.Dense(5)), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_constant_goes_into_the_bias_of_what_reads_it_where_that_is_exact(name):
    make, gone = READERS[name]
    reader, x = make(), keras.Input((4, 4, 3))
    h = L.Activation("tanh")(reader(made()(x)))
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Flatten()(h))))
    silent(model.get_layer("made"))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    item = next(item for item in report.sets if item.name == "made")
    assert item.num_groups - item.kept_groups == gone and any("cannot be folded" in note for note in item.notes) == (gone == 0)
    if gone == 0:
        # A constant of zero goes from anything that reads it.
        model.get_layer("made").activation = keras.activations.tanh
        bias = model.get_layer("made").bias
        bias.assign(ops.where(np.isin(np.arange(6), (1, 4)), 0.0, bias.value))
        small, report = shrinking.shrink(model, return_report=True)
        assert_same(model, small)
        assert report.removed_groups == 2 and next(item for item in report.sets if item.name == "made").notes == ()


MAKERS = {  # a layer in the middle whose slices are zero, and the variable that says so
    "dense": (lambda: L.Dense(6), "kernel", -1), "convolution": (lambda: L.Conv2D(6, 2), "kernel", -1),
    "transposed": (lambda: L.Conv2DTranspose(6, 2), "kernel", -2), "depthwise": (lambda: L.DepthwiseConv2D(2), "kernel", -2),
    "separable": (lambda: L.SeparableConv2D(6, 2), "pointwise_kernel", -1),
    "statistics": (lambda: L.BatchNormalization(), "gamma", 0),
    "groups of one": (lambda: L.GroupNormalization(-1), "gamma", 0),
    "einsum": (lambda: L.EinsumDense("abcd,de->abce", (4, 4, 6), bias_axes="e"), "kernel", -1),
    "groups": (lambda: L.Conv2D(6, 2, groups=6), "kernel", -1),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_each_layer_whose_slices_are_zero_makes_a_constant(name):
    make, variable, axis = MAKERS[name]
    layer, x = make(), keras.Input((4, 4, 3))
    h = layer(L.Dense(6, name="before")(x))
    h = L.Dense(4, activation="tanh", name="after")(L.Activation("tanh")(h))
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Flatten()(h))))
    assert shrinking.shrink(model, return_report=True)[1].removed_groups == 0
    silent(getattr(layer, variable), axis=axis)
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.removed_groups == 2
    assert small.get_layer(layer.name).output.shape[-1] == 4


def test_a_zero_silences_what_it_is_multiplied_with():
    for multiply in (lambda a, b: L.Multiply()([a, b]), lambda a, b: a * b):
        x = keras.Input((4, 4, 3))
        one, other = L.Conv2D(6, 1, use_bias=False, name="one"), L.Conv2D(6, 1, name="other")
        model = nets.randomize(keras.Model(x, L.Conv2D(2, 3, padding="same")(multiply(one(x), other(x)))))
        silent(one)
        small, report = shrinking.shrink(model, return_report=True)
        assert_same(model, small)
        assert report.removed_groups == 2 and small.get_layer("other").filters == 4
        added = nets.randomize(keras.Model(x, L.Conv2D(2, 3, padding="same")(one(x) + other(x))))
        silent(one)
        assert shrinking.shrink(added, return_report=True)[1].removed_groups == 0


def test_constants_of_many_groups_and_readers_are_added_up():
    x = keras.Input((4, 4, 3))
    h = made()(x)
    a, b = L.Dense(3, name="a")(h), L.Conv2D(3, 2, name="b")(h)
    model = nets.randomize(keras.Model(x, [L.Dense(2)(L.Activation("tanh")(a)), L.Dense(2)(L.Activation("tanh")(b))]))
    layer = model.get_layer("made")
    silent(layer, (0, 2, 3))
    constants = 1 / (1 + np.exp(-ops.convert_to_numpy(layer.bias)[[0, 2, 3]].astype("float64")))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.removed_groups == 3
    for name in "ab":
        kernel, bias = (ops.convert_to_numpy(w) for w in (model.get_layer(name).kernel, model.get_layer(name).bias))
        wanted = bias + constants @ kernel.reshape(-1, 6, 3).sum(0)[[0, 2, 3]]
        np.testing.assert_allclose(small.get_layer(name).bias, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("multiple, kept", [(1, 3), (2, 4), (4, 4), (3, 3), (8, 8)])
def test_the_largest_of_the_dead_come_back_for_a_multiple_and_no_more(multiple, kept):
    """Dead by their reader, so that what makes them still has norms to rank by."""
    model = nets.randomize(keras.Sequential([keras.Input((5,)), L.Dense(8, activation="tanh", name="made"), L.Dense(2)]))
    silent(model.layers[-1], range(5), axis=0)
    norms = np.linalg.norm(ops.convert_to_numpy(model.get_layer("made").kernel)[:, :5], axis=0)
    small, report = shrinking.shrink(model, multiple_of=multiple, return_report=True)
    assert_same(model, small)
    assert small.get_layer("made").units == kept == report.sets[0].kept_groups and report.removed_groups == 8 - kept
    best = set(np.argsort(-norms)[: kept - 3].tolist()) | {5, 6, 7}
    kernel = ops.convert_to_numpy(model.get_layer("made").kernel)
    np.testing.assert_array_equal(small.get_layer("made").kernel, kernel[:, sorted(best)])
    assert report.sets[0].notes == (() if kept == 3 else (f"{kept - 3} dead groups kept for a multiple of {multiple}",))


@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_of_a_set_that_is_wholly_dead_the_largest_stays(multiple):
    model = nets.randomize(keras.Sequential([keras.Input((5,)), L.Dense(8, activation="tanh", name="made"), L.Dense(2)]))
    silent(model.layers[-1], range(8), axis=0)
    norms = np.linalg.norm(ops.convert_to_numpy(model.get_layer("made").kernel), axis=0)
    small, report = shrinking.shrink(model, multiple_of=multiple, return_report=True)
    assert small.get_layer("made").units == min(8, multiple) == report.sets[0].kept_groups
    kernel = ops.convert_to_numpy(model.get_layer("made").kernel)
    np.testing.assert_array_equal(small.get_layer("made").kernel, kernel[:, np.sort(np.argsort(-norms)[:multiple])])
    assert report.sets[0].notes == ("every group was dead: the best one is kept",)


def test_a_report_of_what_was_shrunk_holds_the_figures():
    model = nets.randomize(two_blocks(MERGES["layer"]))
    empty(model, "a_in")
    zero_rows(model.get_layer("b_in"), 0, (0, 2))
    small, report = shrinking.shrink(model, return_report=True)
    assert report.parameters_before == model.count_params() and report.parameters_after == small.count_params()
    sets = {item.name: (item.kept_groups, item.num_groups) for item in report.sets}
    assert sets["a_in"] == (0, 6) and sets["b_in"] == (6, 6) and report.removed_groups == 6
    assert dict(report.kernels) == {"b_in": "kernel 3x3 -> 1x3"} and set(report.branches) >= {"a_in", "a_out", "a_bn"}
    assert not set(report.branches) & {layer.name for layer in small.layers}
    assert all(model.get_layer(name).weights for name in report.branches)
    assert report.frozen == coupling.groups(model).frozen and not report.in_float64 and 0 <= report.difference < 1e-4
    found = report.to_dict()
    assert {name: found[name] for name in ("parameters_before", "removed_groups", "difference", "in_float64")} == {
        "parameters_before": report.parameters_before, "removed_groups": 6, "difference": report.difference,
        "in_float64": False,
    }  # fmt: skip
    assert found["kernels"] == {"b_in": "kernel 3x3 -> 1x3"} and found["branches"] == list(report.branches)


@contextlib.contextmanager
def told(words):
    """One warning with these words; `pytest.warns` would raise what the libraries deprecate among themselves."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    (said,) = [str(item.message) for item in caught if item.category is UserWarning]
    assert re.search(words, said), said


def test_dead_channels_of_frozen_layers_stay_unless_told_otherwise():
    model = nets.randomize(nets.plain())
    coupling.prune_groups(model, 0.5, scope="set")
    names = [layer.name for layer in model.layers if layer.weights]
    frozen = model.get_layer(names[2])
    frozen.trainable = False
    with told(f"What is dead in .*{names[2]}.* stays: .*trainable=False"):
        small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    # The set that the frozen convolution reads and the one it makes stay whole, the third loses half.
    kept = [(item.kept_groups, item.num_groups) for item in report.sets]
    assert kept == [(5, 10)] and report.removed_groups == 5 and len(report.frozen) == 3
    whole, report = shrinking.shrink(model, return_report=True, include_frozen=True)
    assert_same(model, whole)
    assert report.removed_groups == 12 and not whole.get_layer(names[2]).trainable


def test_rows_of_frozen_kernels_stay_unless_told_otherwise():
    model = one_conv("valid")
    zero_rows(model.get_layer("conv"), 0, (0,))
    model.get_layer("conv").trainable = False
    assert shrinking.shrink(model).get_layer("conv").kernel_size == (3, 5)
    small = shrinking.shrink(model, include_frozen=True)
    assert small.get_layer("conv").kernel_size == (2, 5)
    assert_same(model, small)


def test_a_branch_with_a_frozen_layer_stays_and_is_named():
    model = nets.randomize(two_blocks(MERGES["layer"]))
    empty(model, "a_in")
    model.get_layer("a_bn").trainable = False
    with told("a_bn.* stays"):
        small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.branches == () and "a_bn" in [layer.name for layer in small.layers]
    assert shrinking.shrink(model, return_report=True, include_frozen=True)[1].branches


def test_a_constant_of_a_layer_that_is_used_elsewhere_cuts_nothing():
    x, y = keras.Input((4, 4, 3)), keras.Input((4, 4, 3))
    shared = L.Conv2D(6, 1, name="shared")
    added = L.Add(name="sum")([L.Conv2D(6, 1, name="stem")(x), shared(x)])
    model = nets.randomize(keras.Model([x, y], [L.Dense(2)(added), L.Dense(2)(L.Activation("tanh")(shared(y)))]))
    shared.kernel.assign(ops.zeros_like(shared.kernel))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.branches == () and {"sum", "shared"} <= {layer.name for layer in small.layers}


def test_a_constant_output_of_a_nested_model_that_is_needed_cuts_nothing():
    inner = keras.Input((4, 4, 3))
    nested = keras.Model(inner, [L.Conv2D(6, 1, name="used")(inner), L.Conv2D(6, 1, name="silent")(inner)], name="nested")
    x = keras.Input((4, 4, 3))
    used, constant = nested(x)
    added = L.Add(name="sum")([L.Conv2D(6, 1, name="stem")(x), constant])
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Concatenate()([added, used]))))
    layer = nested.get_layer("silent")
    layer.kernel.assign(ops.zeros_like(layer.kernel))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.branches == () and len(small.get_layer("nested").outputs) == 2 and small.get_layer("sum")


def test_additions_of_other_shapes_are_left_alone():
    x = keras.Input((4, 4, 3))
    wide, narrow = L.Conv2D(6, 1, name="wide"), L.Conv2D(6, (4, 4), name="narrow")
    h = L.Add(name="sum")([wide(x), narrow(x)])
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Flatten()(h))))
    wide.kernel.assign(ops.zeros_like(wide.kernel))
    small, report = shrinking.shrink(model, return_report=True)  # what is left is one place, to be spread over all
    assert_same(model, small)
    assert report.branches == () and small.get_layer("sum")
    narrow.kernel.assign(ops.zeros_like(narrow.kernel))
    nets.randomize(model)
    narrow.kernel.assign(ops.zeros_like(narrow.kernel))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.branches == ("narrow",)


def test_each_call_of_a_smaller_kernel_pads_by_layers_of_its_own():
    a, b = keras.Input((8, 8, 2)), keras.Input((7, 5, 2))
    shared = L.Conv2D(4, 3, strides=2, padding="same", name="shared")
    outputs = [L.GlobalMaxPooling2D()(shared(x)) for x in (a, b, a)]
    model = nets.randomize(keras.Model([a, b], L.Dense(2)(L.Concatenate()(outputs))))
    zero_rows(model.get_layer("shared"), 0, (0,))
    zero_rows(model.get_layer("shared"), 1, (2,))
    small = shrinking.shrink(model)
    assert_same(model, small)
    names = {layer.name for layer in small.layers}
    assert any(name.startswith("shared_rows_pad") or name.startswith("shared_rows_crop") for name in names)
    for number in (2, 3):
        assert any(name.startswith(f"shared_rows_{number}_") for name in names)
    assert not any(name.startswith("shared_rows_1") for name in names)


def test_a_check_that_differs_by_exactly_the_noise_passes(monkeypatch):
    model = nets.randomize(nets.plain())
    verify = shrinking.verify
    found = verify.compare(model, model, inputs_of(model))
    limit = verify.tolerance_of(model)
    for relative, passes in ((limit, True), (1.01 * limit, False)):
        result = dataclasses.replace(found, difference=relative, scale=1.0)
        monkeypatch.setattr(verify, "compare", lambda *_, result=result: result)
        if passes:
            assert not verify.check(model, model, inputs_of(model)).in_float64
        else:
            with pytest.raises(shrinking.ShrinkError):
                verify.check(model, model, inputs_of(model))
    results = [dataclasses.replace(found, difference=1.0, scale=1.0)]
    monkeypatch.setattr(verify, "compare", lambda *_: results.pop(0))
    results.append(dataclasses.replace(found, difference=verify.FLOAT64_NOISE, scale=1.0))
    assert verify.check(model, model, inputs_of(model)).in_float64


def test_constants_are_one_number_up_to_float_noise():
    for low, high, same in ((1.0, 1.0, True), (0.0, 1e-6, True), (0.0, 1.1e-6, False), (100.0, 100.00009, True),
                            (100.0, 100.00011, False), (-100.00009, -100.0, True), (-100.00011, -100.0, False)):  # fmt: skip
        assert is_uniform(np.array([2.0, low]), np.array([2.0, high])) == same


def test_one_example_is_enough_to_read_constants_off():
    x = keras.Input((4,))
    dead = L.Dense(6, name="dead")
    h = L.Add(name="sum")([L.Dense(6, name="stem")(x), dead(x)])
    hidden = L.Dense(5, activation="sigmoid", name="hidden")
    model = nets.randomize(keras.Model(x, L.Dense(2)(hidden(h))))
    dead.kernel.assign(ops.zeros_like(dead.kernel))
    silent(hidden, (1, 3))
    small, report = shrinking.shrink(model, inputs=np.ones((1, 4), "float32"), return_report=True)
    assert_same(model, small)
    assert report.branches == ("dead",) and small.get_layer("hidden").units == 3


def test_of_what_is_added_all_that_stays_must_have_the_outputs_shape():
    x = keras.Input((4, 4, 3))
    dead, wide, narrow = L.Conv2D(6, 1, name="dead"), L.Conv2D(6, 1, name="wide"), L.Conv2D(6, (4, 4), name="narrow")
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Add(name="sum")([dead(x), wide(x), narrow(x)]))))
    dead.kernel.assign(ops.zeros_like(dead.kernel))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.branches == () and "dead" in [layer.name for layer in small.layers]


def test_a_constant_that_one_nested_model_makes_and_another_adds_stays():
    inner = keras.Input((4, 4, 3))
    makes = keras.Model(inner, [L.Conv2D(6, 1, name="used")(inner), L.Conv2D(6, 1, name="silent")(inner)], name="makes")
    first, second = keras.Input((4, 4, 6)), keras.Input((4, 4, 6))
    adds = keras.Model([first, second], L.ReLU()(L.Add(name="sum")([first, second])), name="adds")
    x = keras.Input((4, 4, 3))
    used, constant = makes(x)
    model = nets.randomize(keras.Model(x, L.Dense(2)(adds([used, constant]))))
    layer = makes.get_layer("silent")
    layer.kernel.assign(ops.zeros_like(layer.kernel))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert report.branches == () and small.get_layer("adds").get_layer("sum")


@pytest.mark.parametrize("remove", [shrinking.shrink, coupling.prune_groups, coupling.regularize_coupled])
def test_a_quantized_model_has_no_channels_to_remove_and_says_what_has(remove):
    model = keras.Sequential([keras.Input((8,)), L.Dense(16, activation="relu"), L.Dense(4)])
    coupling.prune_groups(model, sparsity=0.5)
    with pytest.raises(ValueError, match="not be quantized yet.*Received.*strip_quantization"):
        remove(quantization.quantize(model))


@pytest.mark.parametrize("inputs", [None, np.ones((2, 6), "float32")])
def test_outputs_that_are_not_finite_are_named_whatever_pruned_them(inputs):
    cuts = (lambda model: coupling.prune_groups(model, sparsity=0.5), lambda model: prune(model, "filter", sparsity=0.5))
    for cut in cuts:
        layers = [keras.layers.Dense(8), keras.layers.Dense(8), keras.layers.Dense(2, name="top")]
        model = keras.Sequential([keras.Input((6,)), *layers])
        cut(model)
        for layer in layers:
            layer.kernel.assign(layer.kernel * 1e30)
        words = r"own outputs must be finite on the inputs.*Received: not_finite=\['top'\]. Mask.*or pass `inputs`"
        with pytest.raises(shrinking.ShrinkError, match=words):
            shrinking.shrink(model, inputs=inputs)
