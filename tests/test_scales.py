"""Integer files of nets in which something is always zero: LiteRT's process has to survive them, and they have to be right."""

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight.export import scales
from tf_reweight.tflite import flatbuffer
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.file_graph import Graph

L = keras.layers


def test_values_without_an_end_are_told_and_take_no_process_along(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.ops.log(keras.ops.relu(L.Dense(8)(inputs)))
    model = keras.Model(inputs, L.Dense(3)(keras.ops.tanh(hidden)))
    x = np.random.default_rng(0).random((16, 6), "float32")
    with pytest.raises(ValueError, match="Values between layers must be finite on the examples.*Received: infinite="):
        tfr.export_tflite(model, tmp_path / "log.tflite", "int8", x)
    assert not list(tmp_path.iterdir())
    # To an exponential, as of a softmax, minus infinity means nothing at all: that stays in float, as masks do.
    masked = keras.Model(inputs, L.Dense(3)(keras.ops.exp(hidden)))
    assert "LOG" in tfr.export_tflite(masked, tmp_path / "exp.tflite", "int8", x).float_ops


@pytest.mark.parametrize("precision", [["int8"], np.zeros(2), {}, None])
def test_a_precision_that_is_no_name_is_an_unknown_one(tmp_path, precision):
    model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
    with pytest.raises(ValueError, match="Expected a known precision. Received: precision="):
        tfr.export_tflite(model, tmp_path / "a.tflite", precision)


@pytest.mark.parametrize("path", [None, 7, b"a.tflite", [], "a\0.tflite", "y" * 300 + ".tflite"])
def test_paths_that_cannot_be_are_told_before_any_work(path):
    model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
    with pytest.raises((TypeError, ValueError), match="(?s)`path` must be .*Received: path="):
        tfr.export_tflite(model, path, "float32")
    told = "(?s)(must be a path|must exist).*Received: |File name too long"
    with pytest.raises((TypeError, ValueError, OSError), match=told):
        tfr.inspect_tflite(path)


@pytest.mark.parametrize("flag", ["yes", [], np.nan, 2, None])
def test_integer_ends_are_asked_for_by_a_flag(tmp_path, flag):
    model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
    with pytest.raises(TypeError, match="`quantized_io` must be a bool"):
        tfr.export_tflite(model, tmp_path / "a.tflite", "int8", np.ones((4, 6)), quantized_io=flag)


def test_examples_too_large_for_the_type_of_the_input_are_not_finite(tmp_path):
    model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
    with pytest.raises(ValueError, match="must be finite in float32.*Received: example=3"):
        tfr.export_tflite(model, tmp_path / "a.tflite", "int8", np.where(np.arange(8)[:, None] == 3, 1e39, np.ones((8, 6))))


def dead(layer):
    """A layer whose units are all below zero, so that its activation gives zeros alone."""
    layer.bias_initializer = keras.initializers.Constant(-100.0)
    return layer


def dense():
    x = keras.Input((6,))
    return x, L.Dense(3)(dead(L.Dense(4, activation="relu"))(x))


def convolutions():
    x = keras.Input((6, 6, 3))
    h = dead(L.Conv2D(4, 3, activation="relu"))(L.Conv2D(4, 1)(x))
    h = L.MaxPooling2D()(dead(L.DepthwiseConv2D(3, padding="same", activation="relu"))(h))
    return x, L.Dense(3)(L.Flatten()(L.Conv2D(5, 1)(h)))


def added():
    x = keras.Input((6, 6, 3))
    return x, L.Conv2D(3, 1)(L.Add()([L.Conv2D(4, 1)(x), L.ReLU()(dead(L.Conv2D(4, 1))(x))]))


def gated():
    x = keras.Input((6,))
    return x, L.Dense(3)(L.Multiply()([L.Dense(4)(x), dead(L.Dense(4, activation="relu"))(x)]))


def averaged():
    x = keras.Input((6, 6, 3))
    return x, L.Dense(3)(L.GlobalAveragePooling2D()(dead(L.Conv2D(4, 1, activation="relu"))(x)))


def called_twice():
    """One layer behind zeros of two scales: its operations have one bias in the file until the scales change."""
    x = keras.Input((6,))
    last = L.Dense(3)
    return x, L.Concatenate()([last(dead(L.Dense(4, activation="relu"))(x)), last(dead(L.Dense(4, activation="relu"))(x))])


def net(parts):
    model = keras.Model(*parts())
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None and not float(layer.bias[0]):
            layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    x = np.random.default_rng(0).normal(size=(16, *model.input_shape[1:])).astype("float32")
    return model, x


@pytest.mark.filterwarnings("ignore:The ranges of the quantized model may not hold")  # outputs are those of biases alone
@pytest.mark.parametrize("parts", [dense, convolutions, added, gated, averaged, called_twice])
@pytest.mark.parametrize("trained", [False, True], ids=["after training", "in training"])
def test_what_is_always_zero_ends_no_process(parts, trained, tmp_path):
    model, x = net(parts)
    source = tfr.quantize(model) if trained else model
    if trained:
        tfr.quantization.calibrate(source, x)
    tfr.export_tflite(source, tmp_path / "a.tflite", "int8", None if trained else x, verify_data=x)
    made = Runner(tmp_path / "a.tflite")([x])[0]
    np.testing.assert_allclose(made, model(x), atol=0.05 * np.abs(model(x)).max())


def test_files_with_scales_that_kernels_take_keep_their_bytes(tmp_path):
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), L.Dense(4, activation="relu"), L.Dense(3)])
    tfr.export_tflite(model, tmp_path / "a.tflite", "int8", x)
    content = (tmp_path / "a.tflite").read_bytes()
    assert scales.widened(content) is content


def test_a_bias_behind_zeros_is_the_same_number_in_the_wider_scale(tmp_path):
    model, x = net(dense)
    tfr.export_tflite(model, tmp_path / "a.tflite", "int8", x)
    graph = Graph(flatbuffer.read((tmp_path / "a.tflite").read_bytes()))
    last = max(i for i, name in enumerate(graph.names) if name == "FULLY_CONNECTED")
    bias = graph.tensors[graph.input(last, 2)]
    real = flatbuffer.raw(graph.model, bias) * bias.quantization.scale
    np.testing.assert_allclose(real, model.layers[-1].bias, atol=1e-3)
    kernel = graph.tensors[graph.input(last, 1)].quantization.scale
    np.testing.assert_allclose(bias.quantization.scale, graph.scale(graph.input(last, 0)) * kernel, rtol=1e-5)


def test_all_parts_of_what_is_split_have_one_scale(tmp_path):
    """The gates of a GRU come from one product, which is zero where a sequence is padded."""
    x = np.random.default_rng(0).normal(size=(16, 2, 3)).astype("float32")
    x[:, 1:] = 0
    i = keras.Input((2, 3))
    model = keras.Model(i, L.Dense(2)(L.GRU(4)(i)))
    tfr.export_tflite(model, tmp_path / "a.tflite", "int8", x, verify_data=x)
    graph = Graph(flatbuffer.read((tmp_path / "a.tflite").read_bytes()))
    split = [(graph.input(i, 1), *operator.outputs) for i, operator in enumerate(graph.operators) if graph.names[i] == "SPLIT"]
    assert split and all(len({graph.scale(index) for index in tensors}) == 1 for tensors in split)
    made = Runner(tmp_path / "a.tflite")([x])[0]
    np.testing.assert_allclose(made, model(x), atol=0.1 * np.abs(model(x)).max())
