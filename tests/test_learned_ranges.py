"""TensorFlow's converter still takes the ranges that fake quantization learned, to the last step: what `quantize` rests on.

Its makers have given up quantizing in the converter after training, and said nothing of this way. Should a version stop it,
this is the test that says so. The second way, by litert-quantizer, is held against it.
"""

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import quantization
from tf_reweight.export import conversion, learned_ranges, samples
from tf_reweight.quantization.ranges import rounders
from tf_reweight.tflite import flatbuffer
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.file_graph import Graph
from tf_reweight.tflite.inspection import summarize

L = keras.layers


def test_learned_ranges_and_nothing_else_are_the_files():
    """One INT8 tensor for each learned range, with its step and its zero; no operation in float, and no data asked for."""
    keras.utils.set_random_seed(0)
    stack = [L.Conv2D(8, 3, activation="relu"), L.BatchNormalization(), L.MaxPooling2D(), L.Conv2D(6, 1), L.Flatten()]
    model = quantization.quantize(keras.Sequential([keras.Input((8, 8, 3)), *stack, L.Dense(4)]))
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    quantization.calibrate(model, x)
    content = conversion.convert(model, "int8", samples.input_specs(model))
    graph = Graph(flatbuffer.parse(content))
    made = [index for position in range(len(graph.names)) for index in graph.made(position)]
    assert {graph.dtype(index) for index in made if index not in graph.outputs} == {"INT8"}
    assert [name for name in graph.names if name.endswith("QUANTIZE")] == ["QUANTIZE", "DEQUANTIZE"]
    stored = {
        (round(float(known.scale[0]), 7), int(known.zeroPoint[0]))
        for known in (graph.tensors[index].quantization for index in made if index not in graph.outputs)
    }
    learned = set()
    for layer in rounders(model):
        low, high = float(np.min(layer.minimum)), float(np.max(layer.maximum))
        step = (high - low) / 255
        learned.add((round(step, 7), int(-128 - np.round(low / step))))
    assert len(learned) >= 4
    for step, zero in stored:
        assert any(abs(step - wanted) <= 1e-5 * wanted and zero == other for wanted, other in learned), (step, zero, learned)
    assert len(stored) == len(learned)
    # The file computes what the fake-quantized model does, but for halves of a step that are rounded the other way.
    (given,), expected = Runner(content)([x]), model.predict(x, verbose=0)
    last = float(graph.tensors[graph.input(len(graph.names) - 1, 0)].quantization.scale[0])
    assert np.abs(given - expected).max() <= 1.01 * last and np.mean(np.abs(given - expected) > 0.5 * last) < 0.05


def _convolutions():
    x = keras.Input((8, 8, 3))
    y = L.BatchNormalization()(L.Conv2D(8, 3, activation="relu")(x))
    y = L.MaxPooling2D()(L.DepthwiseConv2D(3)(y))
    return keras.Model(x, L.Dense(4)(L.Flatten()(L.Conv2D(6, 1)(y))))


def _residual():
    x = keras.Input((8, 8, 3))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(x)))
    y = L.ReLU(6.0)(L.Add()([y, L.Conv2D(8, 3, padding="same")(y)]))
    return keras.Model(x, L.Dense(4, activation="softmax")(L.GlobalAveragePooling2D()(y)))


def _joined():
    x = keras.Input((8, 8, 3))
    y = L.Concatenate()([L.Conv2D(8, 3, activation="relu")(x), L.Conv2D(8, 3, activation="tanh")(x)])
    y = L.AveragePooling2D(2)(L.Conv2DTranspose(4, 2, 2)(y) * 2.0)
    return keras.Model(x, [L.Dense(3, name="one")(L.Flatten()(y)), L.GlobalAveragePooling2D(name="other")(y)])


def _attention():
    x = keras.Input((6, 8))
    y = L.LayerNormalization()(L.MultiHeadAttention(2, 4)(x, x) + x)
    return keras.Model(x, L.Dense(3)(y))


def _time():
    x = keras.Input((16, 4))
    y = L.SeparableConv1D(8, 3)(L.Conv1D(8, 3, activation="relu")(x))
    return keras.Model(x, L.Dense(3, activation="sigmoid")(y))


def _recurrent():
    x = keras.Input((2, 4))
    return keras.Model(x, L.Dense(3)(L.GRU(4)(L.LSTM(5, return_sequences=True)(x))))


ON_REQUEST = [pytest.param(make, marks=pytest.mark.slow) for make in (_joined, _attention, _time, _recurrent)]


@pytest.mark.parametrize("make", [_convolutions, _residual, *ON_REQUEST])
def test_the_second_way_makes_the_same_numbers(make):
    """litert-quantizer with the learned ranges as a recipe over the float file; zeros of pruned kernels stay."""
    keras.utils.set_random_seed(0)
    model = make()
    tfr.prune(model, "unstructured", sparsity=0.5)
    x = np.random.default_rng(0).normal(size=(64, *model.inputs[0].shape[1:])).astype("float32")
    model = quantization.quantize(model)
    quantization.calibrate(model, x)
    specs = samples.input_specs(model)
    first, content = conversion.convert(model, "int8", specs), conversion.convert(model, "float32", specs)
    second = learned_ranges.int8_of_learned(content)
    graphs = [Graph(flatbuffer.parse(made)) for made in (first, second)]
    # Of two RESHAPEs that undo each other the converter leaves none.
    computing = [sorted(name for name in graph.names if name != "RESHAPE") for graph in graphs]
    assert computing[0] == computing[1] or make is _recurrent
    assert all(len({tensor.name for tensor in graph.tensors}) == len(graph.tensors) for graph in graphs)
    assert [graph.tensors[index].name for graph in graphs for index in graph.inputs] == [b"%b" % specs[0].name.encode()] * 2
    assert summarize(second, "b").sparsity >= summarize(first, "a").sparsity > 0.2
    ours, theirs = Runner(second), Runner(first)
    assert list(ours.outputs) == list(theirs.outputs)
    for one, other, wanted in zip(ours([x]), theirs([x]), keras.tree.flatten(model.predict(x, verbose=0))):
        # The last bit of a step may differ. Where they differ by more, in float operations between integers, the second is no
        # further from the model.
        errors = [np.sqrt(np.mean(np.square(made - wanted))) / np.std(wanted) for made in (one, other)]
        assert np.mean(np.isclose(one, other)) > 0.98 or errors[0] <= errors[1] + 1e-6


def test_a_file_without_learned_ranges_is_refused():
    model = _convolutions()
    with pytest.raises(ValueError, match="must have learned ranges.*quantize"):
        learned_ranges.int8_of_learned(conversion.convert(model, "float32", samples.input_specs(model)))


def test_a_file_that_is_cut_off_as_its_model_is_raises_a_doubt(tmp_path):
    """Both agree to the last step, and both are wrong where the examples are larger than those of the ranges."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), L.Dense(16, activation="relu"), L.Dense(3)])
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    narrow, wide = quantization.quantize(model, data=0.3 * x), quantization.quantize(model, data=x)
    record = tfr.export_tflite(narrow, tmp_path / "a.tflite", "int8", verify_data=x)
    (doubt,) = record.verification.doubts
    assert record.verification.relative_error < 0.01 and "outside of the ranges that it learned" in doubt
    assert not tfr.export_tflite(wide, tmp_path / "b.tflite", "int8", verify_data=x).verification.doubts
    assert not tfr.export_tflite(narrow, tmp_path / "c.tflite", "int8").verification.doubts  # random numbers are no examples
