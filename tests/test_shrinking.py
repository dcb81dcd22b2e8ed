"""shrink: a masked model and its shrunk copy are the same function, for every way channels are tied."""

import keras
import numpy as np
import pytest
from keras import ops

import nets
from tf_reweight import coupling, shrinking
from tf_reweight.attachment import attachments, regularize
from tf_reweight.masking import prune
from tf_reweight.shrinking import smaller
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
    model = nets.randomize(nets.residual())
    layer = model.get_layer("inner")
    layer.kernel.assign(ops.zeros_like(layer.kernel))
    layer.bias.assign(ops.zeros_like(layer.bias))
    bn = model.layers[model.layers.index(layer) + 1]
    for variable in (bn.beta, bn.moving_mean):
        variable.assign(ops.zeros_like(variable))
    small, report = shrinking.shrink(model, return_report=True)
    assert_same(model, small)
    assert small.get_layer("inner").filters == 1
    assert "every group was dead" in " ".join(next(s for s in report.sets if s.name == "inner").notes)


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


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = nets.randomize(nets.plain())
    finally:
        keras.config.set_dtype_policy("float32")
    coupling.prune_groups(model, 0.5)
    small = shrinking.shrink(model)
    assert small.layers[0].compute_dtype == "bfloat16"


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


def test_a_wrong_verdict_is_refused(monkeypatch):
    """Removing a group that lives must never get through."""
    model = nets.randomize(nets.plain())

    def wrong(coupled, inputs):
        return Verdict({int(coupled.sets[0].labels[0])}, {}, {})

    monkeypatch.setattr(smaller, "dead_groups", wrong)
    with pytest.raises(shrinking.ShrinkError, match="large one is unchanged"):
        shrinking.shrink(model)


def test_nan_is_refused():
    model = nets.randomize(nets.plain())
    model.layers[-1].bias.assign(np.full(4, np.nan))
    with pytest.raises(shrinking.ShrinkError):
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
    with pytest.raises(ValueError, match="Pass `inputs`"):
        shrinking.shrink(model)


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
