"""Layers of every kind through quantization: trained, exported, run, and what stays float is named in the report."""

import keras
import numpy as np
import pytest

import tf_reweight as tfr

L = keras.layers


def chain(shape, *layers, dtype=None):
    """Layers one behind the other, a convolution of one position or Dense before and a Dense head behind."""
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers, L.Flatten(), L.Dense(3)])


def image(*layers):
    return chain((6, 6, 3), L.Conv2D(4, 1, activation="relu"), *layers)


def sequence(*layers):
    return chain((6, 3), L.Dense(4, activation="relu"), *layers)


def steps(*layers):
    """A recurrent layer that is unrolled is as long as its sequence."""
    return chain((2, 3), L.Dense(4, activation="relu"), *layers)


def adapted():
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3)).astype("float32"))
    return layer


def several_inputs():
    a, b, unread = keras.Input((4,), name="a"), keras.Input((4,), name="b"), keras.Input((2,), name="unread")
    joined = L.Concatenate()([L.Dense(4, activation="sigmoid")(a), 8 * L.Dense(4)(b)])
    return keras.Model([a, b, unread], L.Dense(3)(joined))


def passed_through():
    x, y = keras.Input((4,), name="x"), keras.Input((3,), name="y")
    return keras.Model([x, y], [L.Dense(3)(x), y])


def nested():
    part = keras.Sequential([keras.Input((6, 6, 4)), L.Conv2D(4, 3, padding="same", activation="relu6")])
    return image(part, L.MaxPooling2D(), keras.Sequential([keras.Input((3, 3, 4)), L.DepthwiseConv2D(3)]))


def attention():
    x = keras.Input((5, 8))
    return keras.Model(x, L.Dense(3)(L.Flatten()(L.MultiHeadAttention(2, 4)(x, x))))


# Name -> (model, kinds of layers or operations that stay float, those included that only move what a float one makes).
TABLE = {
    # Layers that are all computed in integers, several in one chain: one that stayed float would be named.
    "sequences": (
        lambda: chain(
            (12, 3), L.Conv1D(4, 3, activation="relu"), L.Conv1D(4, 3, padding="causal", dilation_rate=2),
            L.DepthwiseConv1D(3, depth_multiplier=2, activation="relu"), L.SeparableConv1D(5, 3, activation="relu"),
        ), ()
    ),
    "images": (
        lambda: image(
            L.Conv2D(5, 3, use_bias=False, activation="hard_sigmoid"), L.ZeroPadding2D(), L.UpSampling2D(), L.Cropping2D(2),
            L.SeparableConv2D(5, 3, depth_multiplier=2, activation="silu"),
        ), ()
    ),
    "LeakyReLU inside": (lambda: image(L.Conv2D(4, 3, activation=L.LeakyReLU(0.1))), ()),
    "Conv2DTranspose": (
        lambda: chain(
            (3, 3, 2), L.Conv2DTranspose(5, 3, strides=2, padding="same"),
            L.Conv2DTranspose(5, 3, strides=2, activation="relu"), L.Conv2DTranspose(5, 3, activation="relu6"), L.Conv2D(4, 1),
        ), ()
    ),
    "Conv2DTranspose BatchNormalization": (
        lambda: image(L.Conv2DTranspose(5, 3, strides=2, use_bias=False), L.BatchNormalization(), L.ReLU()), ()
    ),
    "Conv1DTranspose": (
        lambda: sequence(
            L.Conv1DTranspose(5, 3), L.Conv1DTranspose(5, 3, strides=2, activation="relu"), L.Conv1DTranspose(5, 3),
            L.BatchNormalization(), L.ReLU(),
        ), ()
    ),
    "Reshape Permute": (lambda: image(L.Reshape((36, 4)), L.Permute((2, 1)), L.Dense(4)), ()),
    "Conv3D": (lambda: chain((3, 3, 3, 2), L.Conv3D(4, 2)), ("conv3d", "flatten")),
    "LayerNormalization": (lambda: image(L.LayerNormalization()), ("layer_normalization", "flatten")),
    "GroupNormalization": (lambda: image(L.GroupNormalization(2)), ("group_normalization", "flatten")),
    "elu": (lambda: image(L.Conv2D(4, 3, activation="elu"), L.Conv2D(4, 1)), ("activation",)),
    "EinsumDense": (lambda: sequence(L.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d", activation="relu")), ()),
    "MultiHeadAttention": (attention, ()),
    "dropout in recurrent layers": (
        lambda: steps(
            L.GRU(3, recurrent_dropout=0.5, unroll=True, return_sequences=True), L.LSTM(3, dropout=0.5, unroll=True)
        ), ("gru", "lstm", "flatten"),
    ),
    "SimpleRNN": (lambda: steps(L.SimpleRNN(3)), ()),
    "GRU": (lambda: steps(L.GRU(3)), ()),
    "Rescaling of uint8": (lambda: chain((6, 6, 3), L.Rescaling(1 / 255), L.Conv2D(4, 3), dtype="uint8"), ("cast",)),
    "Rescaling of int32": (lambda: chain((6, 6, 3), L.Rescaling(1 / 127, -1), L.Conv2D(4, 3), dtype="int32"), ("cast",)),
    "Normalization of uint8": (lambda: chain((6, 6, 3), adapted(), L.Conv2D(4, 3), dtype="uint8"), ("cast",)),
    "Resizing of uint8": (
        lambda: chain((6, 6, 3), L.Resizing(9, 9), L.Rescaling(1 / 255), L.Conv2D(4, 3), dtype="uint8"), ("resizing", "cast")
    ),
    "MaxPooling2D of uint8": (
        lambda: chain((8, 8, 3), L.ZeroPadding2D(2), L.MaxPooling2D(), L.Rescaling(1 / 255), L.Conv2D(4, 3), dtype="uint8"),
        ("cast", "zero_padding2d", "max_pooling2d"),
    ),
    "Cropping2D of int32": (
        lambda: chain((8, 8, 3), L.Cropping2D(1), adapted(), L.Conv2D(4, 3), dtype="int32"), ("cast", "cropping2d")
    ),
    "float64": (lambda: chain((6, 6, 3), L.Conv2D(4, 3, dtype="float64"), L.BatchNormalization(dtype="float64")), ()),
    "mixed_float16": (lambda: chain((6, 6, 3), L.Conv2D(4, 3, activation="relu", dtype="mixed_float16")), ()),
    "nested": (nested, ()),
    "several inputs": (several_inputs, ()),
    "passed through": (passed_through, ()),
}  # fmt: skip


# Whose step is compiled, which takes far longer to make than to take: each kind of rounded kernel, calls of all kinds.
COMPILED = (
    "sequences", "images", "Conv2DTranspose", "Conv1DTranspose", "EinsumDense", "SimpleRNN", "nested", "several inputs",
    "float64", "mixed_float16",
)  # fmt: skip


def examples(model, num=16):
    rng, arrays = np.random.default_rng(1), []
    for tensor in model.inputs:
        shape = (num, *tensor.shape[1:])
        integers = "int" in tensor.dtype
        arrays.append((rng.integers(0, 256, shape) if integers else rng.normal(size=shape)).astype(tensor.dtype))
    return arrays if len(arrays) > 1 else arrays[0]


# Of kernels that others in the table share their rounding with, or that stay float.
REPEATED = ("Conv2DTranspose", "images", "Resizing of uint8", "Cropping2D of int32", "dropout in recurrent layers")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in REPEATED else ()) for name in TABLE])
def test_layers_train_become_files_and_are_named_where_they_stay_float(name, tmp_path):
    keras.utils.set_random_seed(0)
    build, floats = TABLE[name]
    model = build()
    given = examples(model)
    qat, report = tfr.quantize(model, return_report=True)
    left = tuple(item.name for item in report.left_out)
    assert len(left) == len(floats) and all(kind in kept for kind, kept in zip(floats, left)), left

    before = [value.copy() for value in qat.get_weights()]
    qat.compile("sgd", "mse", run_eagerly=name not in COMPILED)
    qat.fit(given, keras.tree.map_structure(np.zeros_like, keras.tree.map_structure(np.asarray, model(given))), verbose=0)
    assert all(np.isfinite(value).all() for value in qat.get_weights())
    assert any((old != new).any() for old, new in zip(before, qat.get_weights()))

    tfr.quantization.calibrate(qat, given)
    record = tfr.export_tflite(qat, tmp_path / "q.tflite", "int8", verify_data=given, accelerated=False)
    assert record.verification.relative_error < 0.05
    assert bool(record.float_ops) == bool(floats), record.float_ops


# Each layer whose kernel is rounded, on images (8, 8, 4) or sequences (4, 4).
OF_IMAGES = {
    "Conv2D": lambda: L.Conv2D(4, 3), "grouped": lambda: L.Conv2D(4, 3, groups=2),
    "DepthwiseConv2D": lambda: L.DepthwiseConv2D(3),
    "SeparableConv2D": lambda: L.SeparableConv2D(4, 3), "Conv2DTranspose": lambda: L.Conv2DTranspose(4, 3, strides=2),
}  # fmt: skip
OF_SEQUENCES = {
    "Conv1D": lambda: L.Conv1D(4, 3), "DepthwiseConv1D": lambda: L.DepthwiseConv1D(3), "Dense": lambda: L.Dense(5),
    "Conv1DTranspose": lambda: L.Conv1DTranspose(4, 3, activation="relu"), "SimpleRNN": lambda: L.SimpleRNN(3),
    "EinsumDense": lambda: L.EinsumDense("abc,cd->abd", (4, 5), bias_axes="d"), "LSTM": lambda: L.LSTM(3),
    "TimeDistributed": lambda: L.TimeDistributed(L.Dense(5)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3])
@pytest.mark.parametrize("shape, kinds", [((8, 8, 4), OF_IMAGES), ((4, 4), OF_SEQUENCES)], ids=["images", "sequences"])
def test_kernels_of_few_bits_become_files_whatever_layer_has_them(shape, kinds, bits, tmp_path):
    """Transposed convolutions have no int4 in files: the converter refused what had been trained."""
    has = {type(make()) for make in (*OF_IMAGES.values(), *OF_SEQUENCES.values())}
    assert has.issuperset(tfr.quantization.rules._CHANNEL_AXES)
    _export_few(shape, kinds, bits, tmp_path)


def test_transposed_convolutions_of_few_bits_become_files(tmp_path):
    content = _export_few((4, 4), {"Conv1DTranspose": OF_SEQUENCES["Conv1DTranspose"]}, 3, tmp_path)
    (stored,) = [item for item in content.kernels if item.dtype == "INT8"]
    assert stored.num_weights == 48 and [item.dtype for item in content.kernels if item is not stored] == ["INT4"]


def _export_few(shape, kinds, bits, folder):
    """The summary of the file of a model with these layers side by side."""
    keras.utils.set_random_seed(0)
    x = keras.Input(shape)
    parts = [L.Dense(3)(L.Flatten()(make()(x))) for make in kinds.values()]
    model = keras.Model(x, parts)
    given = examples(model)
    qat = tfr.quantize(model, bits, data=given)
    path = folder / "few.tflite"
    record = tfr.export_tflite(qat, path, "int8", verify_data=given, accelerated=False)
    assert record.verification.relative_error < 0.03
    return tfr.inspect_tflite(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Resizing of uint8", "MaxPooling2D of uint8", "Cropping2D of int32"])
def test_files_of_integers_agree_with_the_keras_model(name, tmp_path):
    """The file takes the pixels as they are, whether its ends are quantized or not."""
    keras.utils.set_random_seed(0)
    model = TABLE[name][0]()
    given = examples(model)
    expected = np.asarray(model(given))
    qat = tfr.quantize(model, data=given)
    np.testing.assert_allclose(np.asarray(qat(given)), expected, atol=0.05 * np.abs(expected).max())
    for quantized_io in (False, True):
        own = {"verify_data": given, "quantized_io": quantized_io, "accelerated": False}
        assert tfr.export_tflite(qat, tmp_path / "q.tflite", "int8", **own).verification.relative_error < 0.03
