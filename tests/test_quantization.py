"""Training with rounded numbers: the grid, the ranges, zeros, and that the executed int8 file is what Keras computed."""

import copy
import sys

import keras
import nets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tf_reweight import data, export, quantization
from tf_reweight.data import models
from tf_reweight.kernels import constraints
from tf_reweight.kernels.layout import Layout
from tf_reweight.penalties import attachment
from tf_reweight.pruning import masked
from tf_reweight.pruning.keep_zeros import KeepZeros
from tf_reweight.pruning.prune import keep_zeros, prune
from tf_reweight.quantization import grid, rules

L = keras.layers
ROUNDED = [
    nets.plain, nets.residual, nets.squeeze_excite, nets.unet, nets.multiplier, nets.operators,
    nets.nested_shared, nets.two_headed,
]  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def compiled(model, learning_rate=1e-3):
    model.compile(keras.optimizers.Adam(learning_rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def normalization():
    """BatchNormalization whose statistics settle within a short training."""
    return L.BatchNormalization(momentum=0.8)


def residual():
    """Kernels with and without a bias before BatchNormalization, depthwise included, a residual sum, a concatenation."""
    x = keras.Input((8, 8, 1))
    h = L.ReLU()(normalization()(L.Conv2D(16, 3, padding="same")(x)))
    r = L.ReLU(6)(normalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(h)))
    h = L.ReLU()(h + normalization()(L.Conv2D(16, 1, name="pointwise")(r)))
    h = L.Concatenate()([L.Conv2D(8, 1, activation="relu")(h), L.MaxPooling2D(3, 1, padding="same")(h)])
    h = L.Dropout(0.1)(L.Flatten()(L.Conv2D(24, 3, strides=2, activation="relu")(h)))
    return keras.Model(x, L.Dense(10, name="logits")(h))


def inception():
    """One pooling read by several branches, one of them an average, and InceptionResNetV2's scaled sum behind them."""
    scaled_sum = keras.applications.InceptionResNetV2.__globals__["CustomScaleLayer"]  # Keras gives it no public name
    x = keras.Input((12, 12, 3))
    h = L.MaxPooling2D(2)(L.Conv2D(8, 3, padding="same", activation="relu")(x))
    parts = [L.Conv2D(4, 1, activation="relu")(h), L.Conv2D(4, 3, padding="same", activation="relu")(h)]
    parts += [L.Conv2D(4, 1, activation="relu")(L.AveragePooling2D(3, 1, padding="same")(h))]
    h = L.ReLU()(scaled_sum(0.2, name="sum")([h, L.Conv2D(8, 1, name="scaled")(L.Concatenate()(parts))]))
    return keras.Model(x, L.Dense(5)(L.GlobalAveragePooling2D()(h)))


def convnext():
    """A block of ConvNeXt, whose normalization stays float while the sum behind is one of integers."""
    private = keras.applications.ConvNeXtTiny.__globals__["ConvNeXtBlock"].__globals__  # Keras gives its layers no public name
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(8, 2, strides=2)(x)
    r = L.LayerNormalization(name="norm")(L.DepthwiseConv2D(3, padding="same")(h))
    r = private["LayerScale"](0.5, 8, name="scale")(L.Dense(8)(L.Dense(16, activation="gelu")(r)))
    h = h + private["StochasticDepth"](0.2, name="depth")(r)
    return keras.Model(x, L.Dense(5)(L.GlobalAveragePooling2D()(h)))


@pytest.fixture(scope="module")
def trained(digits):
    """`(float model, its pruned and quantized one after training)`; nobody may change them."""
    keras.utils.set_random_seed(0)
    model = compiled(residual(), 4e-3)
    model.fit(*digits.train, epochs=6, batch_size=64, verbose=0)
    prune(model, sparsity=0.5, structure="unstructured")
    qat = compiled(quantization.quantize(model), 5e-4)
    qat.fit(*digits.train, epochs=3, batch_size=64, verbose=0, callbacks=[quantization.FreezeRanges(2)])
    return model, qat


def inputs(model, num=32, seed=0):
    """Random inputs in the structure the model takes."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(num, *tensor.shape[1:])).astype("float32") for tensor in keras.tree.flatten(model.inputs)]
    return keras.tree.pack_sequence_as(model._inputs_struct, arrays) if hasattr(model, "_inputs_struct") else arrays[0]


def outputs(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


def zeros(model):
    return [np.asarray(v) == 0 for v in model.weights if len(v.shape) > 1]


# The grid ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 16), st.integers(0, 2), st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_rounded_kernels_are_on_the_grid(bits, axes, seed, size):
    """Whole multiples of the step, symmetric, at most half a step away; zeros stay and the largest weight does too."""
    kernel = (np.random.default_rng(seed).normal(size=(3, 3, 4, 2)) * size).astype("float32")
    kernel[np.random.default_rng(seed + 1).random(kernel.shape) < 0.3] = 0
    rounded = np.asarray(grid.round_kernel(ops.convert_to_tensor(kernel), bits, axes))
    largest = np.abs(kernel).max(axis=tuple(range(4 - axes)), keepdims=True) if axes else np.abs(kernel).max()
    step = largest / (2 ** (bits - 1) - 1)
    multiples = rounded / step
    assert np.abs(multiples - np.round(multiples)).max() < 5e-2 and np.abs(rounded - kernel).max() <= 0.55 * np.max(step)
    assert (rounded[kernel == 0] == 0).all()
    np.testing.assert_allclose(np.abs(rounded).max(), np.abs(kernel).max(), rtol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("axes", [0, 1, 2])
def test_kernels_stored_wider_have_the_same_values(bits, axes):
    tf = pytest.importorskip("tensorflow")
    kernel = keras.Variable(np.random.default_rng(0).normal(size=(3, 3, 4, 2)).astype("float32"))
    with tf.GradientTape() as tape:
        wider = grid.round_kernel(kernel.value, bits, axes, stored_bits=8)
        total = ops.sum(wider)
    narrow = np.asarray(grid.round_kernel(kernel.value, bits, axes))
    np.testing.assert_allclose(np.asarray(wider), narrow, rtol=1e-5, atol=1e-6)
    assert (np.asarray(wider)[narrow == 0] == 0).all()
    np.testing.assert_array_equal(np.asarray(tape.gradient(total, kernel.value)), 1.0)


def test_rounding_passes_gradients_to_all_weights():
    """The largest weight sits on the border of the range, and zeros of a dead channel have no range at all."""
    kernel = keras.Variable(np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype("float32") * [0, *[1] * 7])
    tf = pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        total = ops.sum(grid.round_kernel(kernel.value, 8, 1))
    np.testing.assert_array_equal(np.asarray(tape.gradient(total, kernel.value)), 1.0)


def test_activation_learns_its_range_then_keeps_it():
    layer = quantization.QuantizedActivation(8, momentum=0.5)
    x = np.linspace(-1, 3, 401, dtype="float32")[None]
    np.testing.assert_array_equal(layer(x), x)  # nothing observed yet
    layer(x, training=True)
    rounded = np.asarray(layer(x))
    assert len(np.unique(rounded)) <= 256 and (rounded == 0).any() and np.abs(rounded - x).max() <= 0.51 * 4 / 255
    layer(2 * x, training=True)
    np.testing.assert_allclose([layer.minimum[0], layer.maximum[0]], [-2, 6], rtol=1e-6)
    layer(x, training=True)
    np.testing.assert_allclose([layer.minimum[0], layer.maximum[0]], [-1.5, 4.5], rtol=1e-6)
    layer.frozen.assign(1.0)
    layer(9 * x, training=True)
    np.testing.assert_allclose([layer.minimum[0], layer.maximum[0]], [-1.5, 4.5], rtol=1e-6)


def test_one_grid_for_several_places_is_as_wide_as_the_widest():
    layer = quantization.QuantizedActivation(places=2)
    for place, x in enumerate((np.ones((1, 4), "float32"), -2 * np.ones((1, 4), "float32"))):
        layer(x, training=True, place=place)
    x = np.array([[-3.0, 3.0]], "float32")
    np.testing.assert_allclose(np.asarray(layer(x, place=None)), [[-2, 1]], atol=0.02)


# Models --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", nets.NETS, ids=lambda build: build.__name__)
def test_simplified_models_compute_the_same(build):
    """Folding and splitting change nothing (`simplify` compares), also in models that are hardly quantizable."""
    model = nets.randomize(build())
    simple, _ = quantization.simplify(model)
    if build is nets.plain:
        assert any(isinstance(layer, L.BatchNormalization) for layer in model.layers)
        assert not any(isinstance(layer, L.BatchNormalization) for layer in simple.layers)


# Chains are trained below, multipliers of depthwise kernels are in `test_quantization_table`, and outputs of several kinds in
# `test_outputs_keep_their_names`: these nets only repeat them.
REPEATED = (nets.plain, nets.multiplier, nets.two_headed)


@pytest.mark.parametrize(
    "build", [pytest.param(build, marks=pytest.mark.slow if build in REPEATED else ()) for build in (*ROUNDED, inception)],
    ids=lambda build: build.__name__,
)  # fmt: skip
def test_every_net_becomes_integers_and_comes_back(build, tmp_path):
    """An int8 file of what Keras computes; saving, loading and stripping are exact; the model itself is unchanged."""
    model = nets.randomize(build())
    x = inputs(model)
    expected = outputs(model, x)
    qat, report = quantization.quantize(model, return_report=True)
    assert not report.left_out and report.kernels
    for first, second in zip(expected, outputs(quantization.strip_quantization(qat), x)):
        np.testing.assert_allclose(first, second, atol=1e-5 * np.abs(first).max())
    quantization.calibrate(qat, x)
    rounded = outputs(qat, x)
    qat.save(tmp_path / "qat.keras")
    for first, second in zip(rounded, outputs(keras.saving.load_model(tmp_path / "qat.keras"), x)):
        np.testing.assert_array_equal(first, second)
    record = export.export_tflite(qat, tmp_path / "qat.tflite", "int8", verify_data=x, tolerance=0.03, accelerated=False)
    assert record.float_ops == ()
    for first, second in zip(expected, outputs(model, x)):
        np.testing.assert_array_equal(first, second)


def test_sums_behind_a_layer_scale_are_integers(tmp_path):
    model = nets.randomize(convnext())
    x = inputs(model)
    qat, report = quantization.quantize(model, return_report=True)
    assert [item.name for item in report.left_out] == ["norm"]
    assert report.rewritten["scale"] == "became a 1x1 depthwise convolution"
    quantization.calibrate(qat, x)
    record = export.export_tflite(qat, tmp_path / "qat.tflite", "int8", verify_data=x, tolerance=0.03)
    # The normalization's own: mean, variance, and three sums.
    assert record.float_ops.count("ADD") == 3 and record.float_ops.count("MEAN") == 2
    assert not {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"} & set(record.float_ops)


@pytest.mark.parametrize("build", [nets.plain, nets.nested_shared], ids=lambda build: build.__name__)
def test_sixteen_bits_change_next_to_nothing(build):
    model = nets.randomize(build())
    x = inputs(model)
    fine = quantization.quantize(model, 16, 16)
    quantization.calibrate(fine, x)
    for first, second in zip(outputs(model, x), outputs(fine, x)):
        assert 0 < np.abs(first - second).max() <= 2e-3 * np.abs(first).max()


def test_trained_files_agree_with_keras(trained, digits, tmp_path):
    """The executed int8 file names the classes Keras names, is all int8, and no less accurate than the float model."""
    model, qat = trained
    x, y = (np.concatenate(parts) for parts in zip(digits.test, digits.validation, [part[:500] for part in digits.train]))
    record = export.export_tflite(qat, tmp_path / "qat.tflite", "int8", verify_data=x)
    assert record.float_ops == () and record.verification.top1_agreement >= 0.995
    accuracy = export.evaluate_tflite(tmp_path / "qat.tflite", x, y)
    assert accuracy >= 0.93 and accuracy >= np.mean(outputs(model, x)[0].argmax(-1) == y) - 0.01


def normalized():
    conv = [L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(), L.ReLU(), L.SeparableConv2D(6, 3), L.BatchNormalization()]
    return keras.Sequential([keras.Input((8, 8, 3)), *conv, L.Flatten(), L.Dense(4), L.BatchNormalization(), L.Dense(2)])


def loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def called_elsewhere(model, _):
    image = keras.Input((8, 8, 3))
    for layer in model.layers:
        image = layer(image)
    return model


def inside_another(model, tmp_path):
    image = keras.Input((8, 8, 3))
    return keras.Model(image, L.ReLU()(loaded(model, tmp_path)(image)))


@pytest.mark.parametrize("come", [lambda model, _: model, loaded, called_elsewhere, inside_another])
def test_normalization_is_folded_wherever_the_model_comes_from(come, tmp_path):
    """Calls of a layer that are no part of the model, those that Keras makes while it loads among them, change nothing."""
    model = normalized()
    nets.randomize(model)
    folded, rewritten = quantization.simplify(come(model, tmp_path))
    assert sum("folded into the layer before" in what for what in rewritten.values()) == 3
    assert [type(layer) for layer in folded.layers].count(L.DepthwiseConv2D) == 1


def test_a_layer_that_the_model_calls_again_is_not_folded_into():
    """Once inside a nested model with a normalization behind it, once outside without."""
    image = keras.Input((8, 8, 3))
    conv = L.Conv2D(4, 3)
    nested = keras.Sequential([keras.Input((8, 8, 3)), conv, L.BatchNormalization()])
    model = keras.Model(image, L.Concatenate()([nested(image), conv(image)]))
    nets.randomize(model)
    _, rewritten = quantization.simplify(model)
    assert not any("folded" in what for what in rewritten.values())


LAST = {
    "concatenate": lambda h, g, name: L.Concatenate(name=name)([h, g]), "sum": lambda h, g, name: L.Add(name=name)([h, g]),
    "sum of three": lambda h, g, name: L.Add(name=name)([h, g, h]), "resized": lambda h, g, name: L.UpSampling2D(name=name)(g),
    "softmax": lambda h, g, name: L.Softmax(name=name)(g), "silu": lambda h, g, name: L.Activation("silu", name=name)(g),
    "convolution": lambda h, g, name: L.Conv2D(3, 1, name=name, activation="silu")(g),
    "pooled": lambda h, g, name: L.GlobalAveragePooling2D(name=name)(g), "flat": lambda h, g, name: L.Flatten(name=name)(g),
}  # fmt: skip


def test_outputs_keep_their_names(tmp_path):
    """Losses are given by them, and an app asks for them, whatever operation makes an output."""
    image = keras.Input((4, 4, 3))
    made = {}
    for last, make in LAST.items():
        h = L.Conv2D(4, 3, padding="same", activation="relu")(image)
        made[last] = make(h, L.Conv2D(4, 3, padding="same")(h), last.replace(" ", "_"))
    made["side"] = L.Conv2D(1, 1, name="side")(h)
    model, names = keras.Model(image, list(made.values())), [last.replace(" ", "_") for last in made]
    model.compile("sgd", dict.fromkeys(names, "mse"))
    qat = quantization.quantize(model)
    operations = [operation.name for operation in qat.operations]
    assert len(set(operations)) == len(operations)
    wanted = {name: np.ones((4, *out.shape[1:])) for name, out in zip(names, made.values())}
    qat.fit(np.ones((4, 4, 4, 3)), wanted, verbose=0)
    again = loaded(qat, tmp_path)
    for other in (qat, again, quantization.strip_quantization(again)):
        assert other.output_names == names
    for one, two in zip(*(outputs(each, np.ones((1, 4, 4, 3))) for each in (again, qat)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_zeros_stay_through_everything(trained, digits, tmp_path):
    """Trained, saved, loaded, held, trained on, stripped, exported: the same zeros; the optimizer moves the rest."""
    model, qat = trained
    before = zeros(qat)
    folded, _ = quantization.simplify(model)
    for first, second in zip(zeros(folded), before):
        np.testing.assert_array_equal(first, second)
    qat.save(tmp_path / "qat.keras")
    again = keras.saving.load_model(tmp_path / "qat.keras")
    assert keep_zeros(again) == len(before)
    weights = [np.asarray(v) for v in again.trainable_variables]
    compiled(again).fit(*digits.train, epochs=1, batch_size=64, verbose=0)
    assert all((np.asarray(v) != old).any() for v, old in zip(again.trainable_variables, weights))
    for other in (again, quantization.strip_quantization(again)):
        for first, second in zip(before, zeros(other)):
            np.testing.assert_array_equal(first, second)
    record = export.export_tflite(again, tmp_path / "qat.tflite", "int8", verify_data=digits.test[0])
    kernels = export.inspect_tflite(tmp_path / "qat.tflite").kernels
    # Weights below half a step round to zero, too; no zero is lost.
    assert sum(k.num_weights - k.num_nonzero for k in kernels) >= sum(int(z.sum()) for z in before)
    assert record.sparsity < 0.56


def test_the_file_holds_the_kernels_keras_rounds_to(trained, digits, tmp_path):
    """Each kernel of the file, times its step, is the rounded kernel."""
    from ai_edge_litert.interpreter import Interpreter

    _, qat = trained
    export.export_tflite(qat, tmp_path / "qat.tflite", "int8", verify_data=digits.test[0])
    reader = Interpreter(str(tmp_path / "qat.tflite"))
    stored = []
    for detail in reader.get_tensor_details():
        if detail["dtype"] == np.int8 and len(detail["shape"]) >= 2:
            scales = detail["quantization_parameters"]["scales"]
            axis = detail["quantization_parameters"]["quantized_dimension"]
            try:
                values = reader.get_tensor(detail["index"]).astype("float32")
            except ValueError:  # computed at run time
                continue
            shape = [-1 if i == axis and len(scales) > 1 else 1 for i in range(values.ndim)]
            stored.append(np.sort((values * scales.reshape(shape)).reshape(-1)))
    masked = [layer for layer in qat.layers if isinstance(layer, quantization.QuantizedKernel)]
    assert masked and all(layer.changed_kernels() for layer in masked)
    for layer in masked:
        for kernel in layer.changed_kernels().values():
            kernel = np.sort(np.asarray(kernel).reshape(-1))
            atol = 1e-5 * np.abs(kernel).max()
            assert any(values.size == kernel.size and np.allclose(values, kernel, atol=atol) for values in stored), layer.name


def test_what_stays_float_is_named_and_nothing_dies(tmp_path):
    model = nets.randomize(nets.grouped())
    qat, report = quantization.quantize(model, return_report=True)
    left_out = {item.name: item.reason for item in report.left_out}
    assert any("GroupNormalization" in reason for reason in left_out.values())
    text = str(report)
    assert all(name in text and reason in text for name, reason in left_out.items()) and report.to_dict()["kernels"]
    x = inputs(model)
    quantization.calibrate(qat, x)
    assert export.export_tflite(qat, tmp_path / "qat.tflite", "int8", verify_data=x).float_ops
    chosen, report = quantization.quantize(model, layers=["grouped", "aft*"], return_report=True)
    assert {kernel.name for kernel in report.kernels} == {"grouped", "after"}
    assert [item.name for item in report.left_out if "`layers`" in item.reason][:1] == ["before"]


def test_concatenations_of_integers_and_floats_convert(tmp_path):
    """Inputs of all kinds end up in the one range: rounded, float, of fixed range, and the model's own input."""
    x = keras.Input((6, 6, 4))
    normal = L.GroupNormalization(2)(L.Conv2D(4, 1)(x))
    parts = [x, L.Conv2D(4, 1)(x), normal + normal, L.Conv2D(4, 1, activation="sigmoid")(x), L.MaxPooling2D(3, 1, "same")(x)]
    model = nets.randomize(keras.Model(x, L.Conv2D(3, 1)(L.Concatenate()(parts))))
    qat = quantization.quantize(model)
    quantization.calibrate(qat, inputs(model))
    record = export.export_tflite(qat, tmp_path / "qat.tflite", "int8", verify_data=inputs(model), tolerance=0.02)
    assert record.verification.relative_error <= 0.02 and "CONCATENATION" in export.inspect_tflite(record.path).ops


def test_dead_filters_with_a_bias_do_not_overflow(tmp_path):
    """A pruned filter's bias is stored in units of its step, which must not be tiny."""
    model = nets.randomize(keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(4, 3, name="conv"), L.Flatten(), L.Dense(3)]))
    kernel = np.asarray(model.get_layer("conv").kernel)
    kernel[..., 1] = 0
    kernel[..., 2] *= 1e-7
    model.get_layer("conv").set_weights([kernel, np.array([1.0, 5.0, -3.0, 0.1])])
    qat = quantization.quantize(model)
    x = inputs(model)
    quantization.calibrate(qat, x)
    record = export.export_tflite(qat, tmp_path / "qat.tflite", "int8", verify_data=x, tolerance=0.02)
    assert record.float_ops == ()


def test_a_quantized_model_keeps_the_compilation_and_trains_in_mixed_precision():
    with_loss = compiled(nets.plain())
    assert quantization.quantize(with_loss).compiled
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = nets.plain()
    finally:
        keras.config.set_dtype_policy("float32")
    qat = compiled(quantization.quantize(model))
    losses = qat.fit(inputs(model), np.arange(32) % 4, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("name", ["small_cnn", "ds_cnn"])
def test_our_models_are_all_integer(name):
    _, report = quantization.quantize(models.build(name, (16, 16, 1)), return_report=True)
    assert not report.left_out


def test_bits_and_layers_by_name_type_and_function(tmp_path):
    """Kernels of 4 bits and fewer are stored in int4, the rest in int8; the file computes what Keras does."""
    model = nets.randomize(nets.residual())
    bits = {"stem": 2, L.Dense: 6, lambda layer: layer.name == "back": 4}
    chosen = [L.Conv2D, lambda layer: isinstance(layer, L.Dense)]
    qat, report = quantization.quantize(model, bits, layers=chosen, return_report=True)
    found = {kernel.name: kernel.bits for kernel in report.kernels}
    assert [found[name] for name in ("stem", "inner", "back", "more")] == [2, 8, 4, 8] and 6 in found.values()
    x = inputs(model)
    quantization.calibrate(qat, x)
    record = export.export_tflite(qat, tmp_path / "a.tflite", "int8", verify_data=x, tolerance=0.05)
    kinds = [kernel.dtype for kernel in export.inspect_tflite(record.path).kernels if kernel.num_weights > 12]
    assert kinds.count("INT4") == 2 and kinds.count("INT8") == 3
    with pytest.raises(ValueError, match="int8 needs|is an int8 model"):
        export.export_tflite(qat, tmp_path / "b.tflite", "int16", x)


def test_sixteen_bit_activations_reach_a_file(tmp_path):
    """Beside the 8-bit file of the same model, that of 16 is closer to Keras; its kernels are those of the training."""
    model = nets.randomize(nets.squeeze_excite())
    x = inputs(model)
    qat = quantization.quantize(model, activation_bits=16)
    quantization.calibrate(qat, x)
    with pytest.raises(ValueError, match="needs `representative_data`"):
        export.export_tflite(qat, tmp_path / "a.tflite", "int16")
    with pytest.raises(ValueError, match="is an int16 model"):
        export.export_tflite(qat, tmp_path / "a.tflite", "int8")
    record = export.export_tflite(qat, tmp_path / "a.tflite", "int16", x, tolerance=5e-3)
    assert record.float_ops == ()


@pytest.mark.parametrize("build", [nets.attention, nets.lstm, nets.gru], ids=lambda build: build.__name__)
def test_attention_and_recurrent_layers_are_written_out(build, tmp_path):
    """`simplify` compares outputs; what cannot be written out stays float, named with the reason, and runs."""
    # Two steps: each is written out, and all that is done here takes as long again for each.
    model = nets.randomize(build() if build is nets.attention else build(2))
    rng = np.random.default_rng(0)
    tensor = model.inputs[0]
    x = rng.normal(size=(16, *tensor.shape[1:])) if "float" in tensor.dtype else rng.integers(1, 10, (16, *tensor.shape[1:]))
    x = x.astype(tensor.dtype)
    qat, report = quantization.quantize(model, return_report=True)
    left_out = {item.name: item.reason for item in report.left_out}
    expected = {"attention": ["layer_normalization"], "lstm": [], "gru": ["embedding", "not_equal", "encoder"]}[build.__name__]
    assert [name.rstrip("_0123456789") for name in left_out] == expected
    assert build is not nets.gru or "called with `mask`" in left_out["encoder"]
    quantization.calibrate(qat, x)
    record = export.export_tflite(qat, tmp_path / "a.tflite", "int8", verify_data=x, tolerance=0.05, accelerated=False)
    assert not {"BATCH_MATMUL", "FULLY_CONNECTED", "TANH"} & set(record.float_ops) or build is nets.gru


# Bad input -----------------------------------------------------------------------------------------------------------


class Shuffle(L.Layer):
    """A layer of the user's, which moves channels around."""

    def call(self, x):
        return ops.flip(x, axis=-1)


def test_a_layer_of_the_users_can_be_registered(monkeypatch):
    monkeypatch.setattr(rules, "_LAYERS", dict(rules._LAYERS))
    model = keras.Sequential([keras.Input((8, 8, 2)), L.Conv2D(4, 3), Shuffle(), L.Conv2D(4, 3)])
    _, report = quantization.quantize(model, return_report=True)
    assert [item.reason for item in report.left_out] == ["Shuffle has no rule for integers"]
    rules.register(Shuffle, rules.SAME)
    _, report = quantization.quantize(model, return_report=True)
    assert not report.left_out


def test_penalties_stay_behind():
    model = nets.plain()
    attachment.regularize(model, "filter", strength=1e-3)
    qat = quantization.quantize(model)
    assert not attachment.attachments(qat) and attachment.attachments(model)
    x = inputs(model)
    np.testing.assert_allclose(outputs(quantization.strip_quantization(qat), x), outputs(model, x), atol=1e-5)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_bad_input_is_refused_in_three_parts(tmp_path):
    model = nets.plain()
    subclassed = Subclassed()
    subclassed(np.zeros((1, 3), "float32"))
    lora = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    lora.layers[0].enable_lora(2)
    qat = quantization.quantize(model)
    other = quantization.quantize(model, weight_bits=9)
    cases = [
        *((ValueError, lambda bits=bits: quantization.quantize(model, bits)) for bits in (1, 17, 8.0, True, "8")),
        (ValueError, lambda: quantization.quantize(model, 8, 1)),
        (ValueError, lambda: quantization.quantize(qat)),
        (ValueError, lambda: quantization.quantize(keras.Sequential([L.Dense(2)]))),
        (TypeError, lambda: quantization.quantize(subclassed)),
        (TypeError, lambda: quantization.quantize("model.keras")),
        (ValueError, lambda: quantization.quantize(lora)),
        (ValueError, lambda: quantization.quantize(keras.Sequential([keras.Input((3,)), masked.Masked(L.Dense(2))]))),
        (ValueError, lambda: quantization.quantize(model, layers="convv*")),
        (TypeError, lambda: quantization.quantize(model, layers=[])),
        (TypeError, lambda: quantization.quantize(model, {})),
        (TypeError, lambda: quantization.quantize(model, {3: 8})),
        (ValueError, lambda: quantization.quantize(model, {"convv": 4})),
        (ValueError, lambda: quantization.quantize(model, {"*": 1})),
        (ValueError, lambda: quantization.quantize(keras.Sequential([keras.Input((3,)), L.LayerNormalization()]))),
        (ValueError, lambda: quantization.QuantizedActivation(fixed_range=(1.0, 2.0))),
        (ValueError, lambda: quantization.QuantizedActivation(momentum=1)),
        (ValueError, lambda: quantization.FreezeRanges(-1)),
        (ValueError, lambda: quantization.calibrate(model, np.zeros((2, 8, 8, 3)))),
        (ValueError, lambda: quantization.calibrate(qat, np.zeros((0, 8, 8, 3)))),
        (ValueError, lambda: export.export_tflite(qat, tmp_path / "a.tflite", "int8")),
        (ValueError, lambda: export.export_tflite(qat, tmp_path / "a.tflite", "float16")),
        (ValueError, lambda: export.export_tflite(other, tmp_path / "a.tflite", "int8")),
        (ValueError, lambda: rules.register(Subclassed, "sideways")),
        (TypeError, lambda: rules.register(3, rules.SAME)),
        (ValueError, lambda: quantization.cluster(model, 1)),
        (TypeError, lambda: quantization.cluster(model, 4, per_channel="yes")),
    ]
    for kind, call in cases:
        with pytest.raises(kind, match=r"Received: ") as caught:
            call()
        assert str(caught.value).rstrip().endswith(".")
    assert not list(tmp_path.iterdir())


# Clusters ------------------------------------------------------------------------------------------------------------


def few(digits):
    """Ten batches, where weights only have to move."""
    return [part[:320] for part in digits.train]


def test_clusters_are_kept_with_their_zeros(digits, tmp_path):
    model = compiled(models.build("small_cnn", digits.input_shape, digits.num_classes))
    model.fit(*few(digits), epochs=1, verbose=0)
    prune(model, sparsity=0.6, structure="unstructured")
    before = zeros(model)
    report = quantization.cluster(model, 8)
    assert all(2 <= kernel.num_values <= 8 for kernel in report.kernels) and "values" in str(report)
    values = [np.unique(v) for v in model.trainable_variables if len(v.shape) > 1]
    model.fit(*few(digits), epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert quantization.keep_clusters(again) == len(before)
    again.fit(*few(digits), epochs=1, verbose=0)
    for old, first, variable in zip(values, before, [v for v in again.trainable_variables if len(v.shape) > 1]):
        now = np.unique(np.asarray(variable))
        assert len(now) <= 8 and not np.array_equal(now, old)
        np.testing.assert_array_equal(first, np.asarray(variable) == 0)


def test_centroids_are_those_of_a_plain_loop():
    """Lloyd's iterations written out."""
    weights = np.random.default_rng(0).normal(size=400).astype("float32")
    values = np.linspace(weights.min(), weights.max(), 5)
    for _ in range(300):
        nearest = np.abs(weights[:, None] - values).argmin(-1)
        values = np.array([weights[nearest == i].mean() for i in range(5)])
    np.testing.assert_allclose(quantization.clustering.centroids(weights, 5), values, atol=2e-2)


@pytest.mark.parametrize(
    "layer", [quantization.QuantizedActivation(4, 0.9, places=3), quantization.QuantizedKernel(L.Conv2D(4, 3), 6, 1)]
)
def test_layers_have_configs_that_make_them_again(layer):
    config = layer.get_config()
    assert type(layer).from_config(copy.deepcopy(config)).get_config() == config
    assert keras.saving.get_registered_name(type(layer)) == f"tf_reweight>{type(layer).__name__}"


@pytest.mark.parametrize("axes, channels", [(("in", "out"), 1), (("in", "out"), 6), (("out", "in"), 5)])
def test_shared_values_against_a_plain_loop(axes, channels):
    """Two steps: hidden weights move, each takes the value nearest to it, values become the means of those that took them."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 6)).astype("float32")
    start[rng.random(start.shape) < 0.3] = 0
    values = np.sort(rng.normal(size=(channels, 3)).astype("float32"))
    held = quantization.Shared(start, values, Layout(axes, start.shape))
    places = np.arange(30).reshape(5, 6)
    rows = places.reshape(1, -1) if channels == 1 else places.T if axes[1] == "out" else places
    hidden, kept, shared = start.reshape(-1).copy(), start.reshape(-1) != 0, held.numpy()
    for _ in range(2):
        moved = shared + rng.normal(size=start.shape).astype("float32") * 0.3
        hidden += (moved - shared).reshape(-1)
        expected = np.zeros(30, "float32")
        for row, row_values in zip(rows, values):
            row = row[kept[row]]
            nearest = np.abs(hidden[row, None] - row_values).argmin(-1)
            for i in set(nearest):
                row_values[i] = hidden[row[nearest == i]].mean()
            expected[row] = row_values[nearest]
        shared = np.asarray(held(moved))
        np.testing.assert_allclose(shared, expected.reshape(5, 6), atol=1e-5)


def test_weights_pruned_after_clustering_leave_the_values_alone():
    """A value would else be drawn towards the zeros that a mask holds: there would be one more, next to zero."""
    layout = Layout(("in", "out"), (2, 2))
    variable = keras.Variable([[1.0, 1.2], [2.0, 2.2]])
    variable.constraint = quantization.Shared(variable.numpy(), [[1.1, 2.1]], layout)
    variable.assign(variable.constraint.numpy())
    constraints.hold(variable, np.array([[True, False], [True, True]]))
    for _ in range(5):
        variable.assign(variable.constraint(variable.value + 0.01))
    np.testing.assert_allclose(variable.numpy(), [[1.05, 0.0], [2.15, 2.15]], atol=1e-5)


def test_on_jax_weights_stay_with_the_value_they_started_with(monkeypatch):
    """A constraint keeps nothing from step to step there, so each value moves by the mean of its weights' moves."""
    start = np.array([[1.0, 1.2], [2.0, 0.0]], "float32")
    held = quantization.Shared(start, [[1.1, 2.1]], Layout(("in", "out"), (2, 2)))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    shared = held.numpy()
    for _ in range(3):
        shared = np.asarray(held(shared + np.array([[0.0, 2.0], [0.5, 0.3]], "float32")))
    np.testing.assert_allclose(shared, [[4.1, 4.1], [3.6, 0.0]], atol=1e-5)


def test_averages_of_clustered_weights_go_to_the_shared_values(digits):
    model = models.build("small_cnn", digits.input_shape, digits.num_classes)
    quantization.cluster(model, 8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9), loss)
    model.fit(*few(digits), epochs=1, verbose=0, callbacks=[KeepZeros()])
    kernels = [variable for variable in model.trainable_variables if len(variable.shape) > 1]
    assert kernels and all(len(np.unique(kernel)) <= 8 for kernel in kernels)


def test_clusters_per_channel_are_closer_to_the_weights(digits, tmp_path):
    errors = {}
    for per_channel in (False, True):
        keras.utils.set_random_seed(0)
        model = compiled(models.build("small_cnn", digits.input_shape, digits.num_classes))
        prune(model, sparsity=0.5, structure="unstructured")
        before = zeros(model)
        report = quantization.cluster(model, 4, per_channel=per_channel)
        errors[per_channel] = sum(kernel.error for kernel in report.kernels)
        assert all(kernel.num_values <= 4 for kernel in report.kernels)
    assert errors[True] < errors[False]
    model.fit(*few(digits), epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert quantization.keep_clusters(again, 4, per_channel=True)
    again.fit(*few(digits), epochs=1, verbose=0)
    for first, variable in zip(before, [v for v in again.trainable_variables if len(v.shape) > 1]):
        kernel = np.asarray(variable)
        np.testing.assert_array_equal(first, kernel == 0)
        assert all(len(np.unique(channel)) <= 4 for channel in kernel.reshape(-1, kernel.shape[-1]).T)


def test_weights_move_from_one_shared_value_to_another():
    """Else a weight that k-means put on the wrong side stays there for ever."""
    layout = Layout(("in", "out"), (2, 2))
    held = quantization.Shared([[1.0, 1.1], [2.0, 2.1]], [[1.05, 2.05]], layout)
    shared = held.numpy()
    for _ in range(10):
        shared = np.asarray(held(shared + np.array([[0.0, 0.1], [0.0, 0.0]], "float32")))
    np.testing.assert_allclose(shared, [[1.0, 2.1], [2.1, 2.1]], atol=0.05)


def test_a_graph_deeper_than_pythons_recursion():
    """Keras builds models by recursion, and rounding makes graphs deeper: EfficientNetV2L is such a one.

    A lower limit makes a shorter graph as deep; what pytest and Keras need themselves stays below it.
    """
    before, limit = sys.getrecursionlimit(), 400
    x = inputs = keras.Input((2,))
    for _ in range(140):
        x = L.ReLU()(L.Dense(2)(x))
    model = keras.Model(inputs, x)
    sys.setrecursionlimit(limit)
    try:
        quantized, report = quantization.quantize(model, return_report=True)
        assert len(report.kernels) == 140 and len(quantized._nodes_by_depth) > limit
        stripped = quantization.strip_quantization(quantized)
        assert sys.getrecursionlimit() == limit
    finally:
        sys.setrecursionlimit(before)
    np.testing.assert_allclose(stripped(np.ones((1, 2))), model(np.ones((1, 2))), atol=1e-6)
