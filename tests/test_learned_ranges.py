"""TensorFlow's converter still takes the ranges that fake quantization learned, to the last step: what `quantize` rests on.

Its makers have given up quantizing in the converter after training, and said nothing of this way. Should a version stop it,
this is the test that says so.
"""

import keras
import numpy as np

from tf_reweight import quantization
from tf_reweight.export import conversion, samples
from tf_reweight.quantization.ranges import rounders
from tf_reweight.tflite import flatbuffer
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.file_graph import Graph

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
