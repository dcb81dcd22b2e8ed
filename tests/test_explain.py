"""Why a file loses accuracy: the operation that was damaged is named, and what it adds is what NumPy says."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from tf_reweight import export, quantization
from tf_reweight.cli import main
from tf_reweight.data import models
from tf_reweight.export import conversion, litert_quantizer, mixed, samples
from tf_reweight.pruning.prune import prune
from tf_reweight.tflite import constants, flatbuffer
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.file_graph import Graph
from tf_reweight.tflite.pairing import Pairs

L = keras.layers
X = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    """Two branches that read the same and have the same shapes, so that only their kernels tell which is which."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 3), name="photo")
    h = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    branches = [L.Conv2D(8, 1, name=name)(h) for name in ("left", "right")]
    h = L.Concatenate()(branches)
    return keras.Model(x, L.Dense(4, name="logits")(L.GlobalAveragePooling2D()(L.Conv2D(6, 3, name="late")(h))))


@pytest.fixture(scope="module")
def contents(model):
    specs = samples.input_specs(model)
    precisions = ("float32", "float16", "int8", "weight_int8")
    return {name: conversion.convert(model, name, specs, [X] if name == "int8" else None) for name in precisions}


def written(folder, content):
    (folder / "model.tflite").write_bytes(content)
    return folder / "model.tflite"


def with_half_a_kernel(content, name):
    """A file with the kernel of one layer halved."""
    read = flatbuffer.read(content)
    (tensor,) = [
        tensor for tensor in read.subgraphs[0].tensors
        if f"{name}".encode() in tensor.name and tensor.shape is not None and len(tensor.shape) > 1
        and flatbuffer.raw(read, tensor) is not None
    ]  # fmt: skip
    read.buffers[tensor.buffer].data = (flatbuffer.raw(read, tensor) // 2).view("uint8")
    return flatbuffer.write(read)


@pytest.mark.parametrize("precision", ["int8", "weight_int8"])
@pytest.mark.parametrize("name", ["right", "late"])
def test_the_operation_that_was_damaged_is_named(model, contents, precision, name, tmp_path):
    found = export.explain(model, written(tmp_path, with_half_a_kernel(contents[precision], name)), X)
    worst = found.operations[0]
    assert worst.operation == "CONV_2D" and f"/{name}" in worst.name and worst.advice == "more bits for its weights"
    assert worst.own_error == pytest.approx(0.5, abs=0.15) and worst.own_error > 5 * found.operations[1].own_error
    assert found.keep == (worst.name,) and found.unpaired == ()
    (before, now), (after, then) = found.trials
    assert before == "as it is" and after == worst.name and then < 0.5 * now
    assert now == pytest.approx(found.error, rel=1e-3)  # the file operation by operation is the file


def test_what_an_operation_adds_is_what_numpy_says(tmp_path):
    """A dense layer with weights of 4 bits, on values that the layer before, of 4 bits too, has got wrong already."""
    keras.utils.set_random_seed(0)
    stack = keras.Sequential([keras.Input((12,)), L.Dense(16, activation="relu"), L.Dense(5)])
    x = np.random.default_rng(0).normal(size=(20, 12)).astype("float32")
    content = conversion.convert(stack, "weight_int4", samples.input_specs(stack))
    read = flatbuffer.parse(content)
    kernels = {}
    for tensor in read.subgraphs[0].tensors:
        values = constants.values(read, tensor)
        if flatbuffer.dtype_name(tensor) == "INT4":
            kernels[values.shape] = (values * np.asarray(tensor.quantization.scale)[:, None]).T
    floats = [layer.get_weights() for layer in stack.layers]
    hidden = np.maximum(x @ floats[0][0] + floats[0][1], 0)
    coarse = np.maximum(x @ kernels[16, 12] + floats[0][1], 0)
    expected, alone, together = (a @ k + floats[1][1] for a, k in (
        (hidden, floats[1][0]), (hidden, kernels[5, 16]), (coarse, kernels[5, 16]),
    ))  # fmt: skip

    def relative(given):
        return np.sqrt(np.sum((given - expected) ** 2) / np.sum(expected**2))

    found = export.explain(stack, written(tmp_path, content), x)
    last = max(found.operations, key=lambda item: item.position)
    assert last.own_error == last.weight_error == pytest.approx(relative(alone), rel=1e-4)
    assert (last.error, found.error) == pytest.approx((relative(together),) * 2, rel=1e-4)
    assert last.range_error == last.clipped == 0 and last.own_error < last.error


def test_a_range_that_is_too_narrow_is_named(model, tmp_path):
    content = conversion.convert(model, "int8", samples.input_specs(model), [0.2 * X])
    found = export.explain(model, written(tmp_path, content), X)
    first = next(item for item in found.operations if item.operation == "QUANTIZE")
    scale = np.abs(0.2 * X).max()
    assert first.name == "photo" and first.clipped == pytest.approx(np.mean(np.abs(X) > scale), abs=0.1)
    assert {item.advice for item in found.operations[:3]} == {"wider range: other data"}
    assert "wider range" in str(found)


def test_an_error_of_a_few_examples_is_found_among_many(model, tmp_path):
    """One example of two hundred is out of range: it is compared, and what is tried is tried on it."""
    many = np.tile(0.2 * X, (25, 1, 1, 1))
    content = conversion.convert(model, "int8", samples.input_specs(model), [many])
    many[101] *= 5
    found = export.explain(model, written(tmp_path, content), many, num_examples=8)
    assert found.num_examples == 8 and found.operations[0].clipped > 0.02
    expected, given = model.predict(many, verbose=0), Runner(content, delegate=False)([many])[0]
    error = np.sqrt(np.sum((given - expected) ** 2) / np.sum(expected**2))
    assert found.error == pytest.approx(error, rel=1e-3)
    assert found.trials[0][1] > found.error and "furthest off" in str(found)


def test_a_float_file_loses_nothing(model, contents, tmp_path):
    found = export.explain(model, written(tmp_path, contents["float32"]), X)
    assert found.error < 1e-5 and found.keep == () and max(item.own_error for item in found.operations) < 1e-5
    assert found.float_accuracy is None and {item.advice for item in found.operations} == {""}
    # A finer precision than float32 is no advice.
    assert "nothing needs more precision" in " ".join(str(found).split()) and len(found.to_tables()) == 1
    half = export.explain(model, written(tmp_path, contents["float16"]), (X, np.arange(8) % 4))
    assert 0 < half.operations[0].own_error < 1e-2 and half.file_accuracy == half.float_accuracy
    assert half.loses_nothing and not half.trials and "more bits" not in str(half)
    # A class that is lost counts, however close the outputs are.
    assert not dataclasses.replace(half, file_accuracy=half.float_accuracy - 0.1).loses_nothing
    assert json.loads(json.dumps(half.to_dict()))["operations"][0]["advice"] == "more bits for its weights"


def test_packed_and_quantized_in_training_it_is_followed_as_well(tmp_path):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([
        keras.Input((6, 6, 3)), L.Conv2D(16, 3, activation="relu"), L.BatchNormalization(), L.Conv2D(32, 3), L.Flatten(),
        L.Dense(4),
    ])  # fmt: skip
    prune(net, sparsity=0.8, structure="unstructured")
    export.export_tflite(net, tmp_path / "a.tflite", "int8", X)
    assert export.pack_tflite(tmp_path / "a.tflite", tmp_path / "b.tflite").num_packed
    dense, packed = (export.explain(net, tmp_path / f"{name}.tflite", X) for name in "ab")
    assert packed.unpaired == () and packed.error == dense.error
    assert [item.own_error for item in packed.operations] == [item.own_error for item in dense.operations]
    trained = quantization.quantize(net)
    trained.compile("sgd", "mse")
    trained.fit(X, net.predict(X, verbose=0), verbose=0)
    export.export_tflite(trained, tmp_path / "c.tflite", "int8", verify_data=X)
    # Of the BatchNormalization the quantized net makes one operation, the float one two.
    found = export.explain(net, tmp_path / "c.tflite", X)
    assert len(found.unpaired) == 1 and [item.own_error for item in found.operations if item.operation != "QUANTIZE"]
    assert all(item.own_error is not None for item in found.operations)
    assert export.explain(trained, tmp_path / "c.tflite", X).unpaired == ()


def test_operations_are_paired_by_what_they_read_and_their_kernels(model, contents):
    """Swapped in order, two branches of one shape are still told apart."""
    graphs = [Graph(flatbuffer.parse(contents[name])) for name in ("float32", "int8")]
    left, right = [i for i, name in enumerate(graphs[1].names) if name == "CONV_2D"][1:3]
    operators = graphs[1].operators
    operators[left], operators[right] = operators[right], operators[left]
    swapped = Graph(graphs[1].model)
    pairs = Pairs(swapped, graphs[0], {swapped.inputs[0]: graphs[0].inputs[0]})
    names = {
        position: [graph.tensors[graph.output(at)].name for graph, at in ((swapped, position), (graphs[0], twin))]
        for position, twin in pairs.operations.items()
    }
    assert names[left][0] == names[left][1] and names[right][0] == names[right][1] and names[left] != names[right]


def test_what_is_kept_stays_in_float32(model, contents, tmp_path):
    found = export.explain(model, written(tmp_path, with_half_a_kernel(contents["weight_int8"], "late")), X)
    limit = len(contents["float32"]) - 300
    record = export.export_mixed(model, tmp_path / "mixed.tflite", limit, X, keep=found.keep)
    outputs = {name: output for name, output, _ in mixed.kernels(contents["float32"])}
    assert record.plan and all(outputs[name] not in found.keep for name in record.plan)
    everything = tuple(outputs.values())
    with pytest.raises(export.DoesNotFit, match="keep fewer in float32"):
        export.export_mixed(model, tmp_path / "none.tflite", limit, X, keep=everything)
    with pytest.raises(ValueError, match="Expected a known operation in `keep`"):
        export.export_mixed(model, tmp_path / "none.tflite", limit, X, keep=["no such operation"])
    with pytest.raises(TypeError, match="must be a list"):
        export.export_mixed(model, tmp_path / "none.tflite", limit, X, keep=found.keep[0])
    assert not (tmp_path / "none.tflite").exists()


def test_what_is_not_of_this_model_is_refused(model, contents, tmp_path):
    path = written(tmp_path, contents["int8"])
    another = keras.Sequential([keras.Input((6, 6, 3), name="photo"), L.Flatten(), L.Dense(4, name="logits")])
    two = [keras.Input((6, 6, 3), name=name) for name in ("a", "b")]
    cases = [
        ("must have been made of this model", another, path, X),
        ("must have the model's inputs", keras.Model(two, L.Add()(two)), path, [X, X]),
        ("must have the shape", model, path, X[:, :4]),
        ("must be a TFLite flatbuffer", model, written(tmp_path / "..", b"no file at all, no file at all"), X),
    ]
    for words, given, file, data in cases:
        with pytest.raises(ValueError, match=words) as caught:
            export.explain(given, file, data)
        assert "Received: " in str(caught.value)
    with pytest.raises(FileNotFoundError):
        export.explain(model, tmp_path / "none.tflite", X)
    with pytest.raises(ValueError, match="num_examples"):
        export.explain(model, path, X, 0)


def test_the_command(contents, model, tmp_path, capsys):
    model.save(tmp_path / "model.keras")
    path = written(tmp_path, contents["int8"])
    code = "import numpy as np\ndef load():\n    x = np.ones((8, 6, 6, 3), 'float32')\n    return (x, np.arange(8) % 4), None\n"
    (tmp_path / "my_data.py").write_text(code)
    command = ["explain", str(tmp_path / "model.keras"), str(path), "--data", f"{tmp_path / 'my_data.py'}:load"]
    assert main.console([*command, "--json", "--examples", "4"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["num_examples"] == 4 and len(figures["operations"]) == 8 and figures["file_accuracy"] is not None
    assert main.console(command) == 0 and "against the float model" in capsys.readouterr().out
    assert main.console(command[:3]) == 2 and "--data" in capsys.readouterr().err
    assert main.console([*command[:3], "--data", "digits"]) == 2
    assert "The model takes examples of shape (6, 6, 3)" in capsys.readouterr().err


def test_models_by_path_and_data_by_name(tmp_path, capsys):
    small = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), L.Dense(10)])
    small.save(tmp_path / "small.keras")
    content = conversion.convert(models.load(tmp_path / "small.keras"), "float32", samples.input_specs(small))
    content = litert_quantizer.requantize(content, "weight_int4")
    command = ["explain", str(tmp_path / "small.keras"), str(written(tmp_path, content)), "--data", "digits", "--json"]
    assert main.console(command) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["float_accuracy"] is not None and figures["keep"] == [figures["operations"][0]["name"]]
