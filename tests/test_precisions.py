"""Files beyond float and int8: 16-bit activations, weights of 8 and 4 bits, per operation too; zeros stay zeros."""

import sys

import keras
import nets
import numpy as np
import pytest

from tf_reweight import data, export, quantization
from tf_reweight.data import models
from tf_reweight.export import conversion, litert_quantizer, mixed, samples
from tf_reweight.export.precisions import TABLE
from tf_reweight.pruning.prune import prune
from tf_reweight.tflite import constants, flatbuffer

L = keras.layers
NEW = ("int16", "weight_int8", "weight_int4", "dynamic_int4")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def pruned(digits):
    keras.utils.set_random_seed(0)
    model = models.build("small_cnn", digits.input_shape, digits.num_classes)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*digits.train, epochs=3, verbose=0)
    prune(model, sparsity=0.8, structure="unstructured")
    return model


def float_file(model):
    return conversion.convert(model, "float32", samples.input_specs(model))


def kernels(content):
    """Values of the kernels by type."""
    model = flatbuffer.parse(content)
    made = {}
    for tensor in model.subgraphs[0].tensors:
        values = constants.values(model, tensor)
        if values is not None and values.ndim > 1 and values.dtype != "int32":
            made.setdefault(flatbuffer.dtype_name(tensor), []).append(values)
    return made


@pytest.mark.parametrize("precision", NEW)
def test_zeros_stay_zeros(pruned, digits, precision, tmp_path):
    weights = [np.asarray(w) for w in pruned.weights if w.name == "kernel"]
    share = sum((w == 0).sum() for w in weights) / sum(w.size for w in weights)
    record = export.export_tflite(pruned, tmp_path / "a.tflite", precision, digits.representative(50), digits.validation[0])
    # Rounding makes zeros of small weights, and unmakes none.
    assert share <= record.sparsity < share + 0.06
    assert record.float_ops == record.wider == () and record.to_dict()["wider"] == []


def test_sixteen_bit_activations_are_closer_than_eight(tmp_path):
    model = nets.randomize(nets.residual())
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    errors = {
        precision: export.export_tflite(model, tmp_path / "a.tflite", precision, x).verification.relative_error
        for precision in ("int8", "int16")
    }
    assert errors["int16"] < errors["int8"]


def test_integers_in_and_out_in_sixteen_bits(pruned, digits, tmp_path):
    export.export_tflite(pruned, tmp_path / "a.tflite", "int16", digits.representative(50), quantized_io=True)
    summary = export.inspect_tflite(tmp_path / "a.tflite")
    assert {dtype for _, _, dtype in (*summary.inputs, *summary.outputs)} == {"INT16"}


def test_large_weights_lie_inside_the_file(tmp_path):
    """litert-quantizer puts more than 256 KiB of them behind the flatbuffer; zeros must be counted all the same."""
    model = nets.randomize(keras.Sequential([keras.Input((700,)), L.Dense(600), L.Dense(4)]))
    prune(model, sparsity=0.9, structure="unstructured")
    record = export.export_tflite(model, tmp_path / "a.tflite", "weight_int8")
    content = record.path.read_bytes()
    assert record.sparsity >= 0.9 and {v.shape for v in kernels(content)["INT8"]} == {(600, 700), (4, 600)}
    assert export.pack(content).num_packed


def test_one_operation_alone(pruned):
    content = float_file(pruned)
    model = flatbuffer.parse(content)
    graph = model.subgraphs[0]
    names = [graph.tensors[op.outputs[0]].name.decode() for op in graph.operators if "CONV" in flatbuffer.op_name(model, op)]
    made = kernels(litert_quantizer.requantize(content, {names[0]: "weight_int4", names[1]: "float16"}))
    sizes = {dtype: [values.size for values in arrays] for dtype, arrays in made.items()}
    shapes = [w.shape for w in pruned.weights if w.name == "kernel"]
    assert sizes["INT4"] == [np.prod(shapes[0])] and sizes["FLOAT16"] == [np.prod(shapes[1])]
    assert sorted(sizes["FLOAT32"]) == sorted(np.prod(shape) for shape in shapes[2:])
    assert litert_quantizer.requantize(content, {}) == content


def unrolled():
    """Steps of a recurrent layer, which read the same two kernels."""
    return keras.Sequential([keras.Input((3, 4)), L.LSTM(5, unroll=True), L.Dense(2)])


def test_operations_that_read_one_kernel_have_one_precision():
    """Given to one of them it holds for all; two different ones would double the kernel, which litert-quantizer cannot."""
    content = float_file(nets.randomize(unrolled()))
    readers = [outputs for outputs in litert_quantizer.readers_of_kernels(content) if len(outputs) > 1]
    assert readers and len(mixed.kernels(content)) == 3
    made = kernels(litert_quantizer.requantize(content, {readers[0][-1]: "float16"}))
    assert len(made["FLOAT16"]) == 1 and len(made["FLOAT32"]) == 2
    with pytest.raises(ValueError, match="one kernel must have one precision. Received: precisions=") as caught:
        litert_quantizer.requantize(content, {readers[0][0]: "weight_int8", readers[0][1]: "float16"})
    assert readers[0][0] in str(caught.value)


def test_sixteen_bits_of_indices_are_refused_in_our_words(tmp_path):
    model = keras.Sequential([keras.Input((6,), dtype="int32"), L.Embedding(10, 4), L.Flatten(), L.Dense(3)])
    with pytest.raises(ValueError, match="of integers it finds none in int16. Received: precision='int16', says="):
        export.export_tflite(model, tmp_path / "a.tflite", "int16", np.zeros((8, 6), "int32"))


def test_what_has_no_four_bits_has_eight_and_is_named(tmp_path):
    model = nets.randomize(nets.multiplier())
    record = export.export_tflite(model, tmp_path / "a.tflite", "weight_int4")
    assert len(record.wider) == 2 and all("depthwise" in name for name in record.wider)
    found = kernels(record.path.read_bytes())
    assert set(found) == {"INT4", "INT8"} and np.abs(found["INT4"][0]).max() <= 7


def test_bad_input_is_refused(pruned, tmp_path, monkeypatch):
    only_depthwise = nets.randomize(keras.Sequential([keras.Input((6, 6, 4)), L.DepthwiseConv2D(3)]))
    quantized = quantization.quantize(pruned)
    good = np.zeros((4, 8, 8, 1), "float32")
    cases = [
        ("At least one operation must have 4-bit", only_depthwise, "weight_int4", None),
        ("Expected a known precision", pruned, "int12", None),
        ("int16 needs `representative_data`", pruned, "int16", None),
        ("must have the shape", pruned, "int16", good[:, :4]),
        ("must be finite", pruned, "int16", good * np.nan),
        ("must hold numbers", pruned, "int16", good.astype("str")),
        *(("A model quantized like this is an int8 model", quantized, name, good) for name in TABLE if name != "int8"),
    ]
    for words, model, precision, given in cases:
        with pytest.raises(ValueError, match=words) as caught:
            export.export_tflite(model, tmp_path / "a.tflite", precision, given)
        assert "Received: " in str(caught.value)
    content = float_file(pruned)
    with pytest.raises(ValueError, match="Expected a known precision"):
        litert_quantizer.requantize(content, {"a": "int8"})
    monkeypatch.setitem(sys.modules, "litert_quantizer", None)
    with pytest.raises(ImportError, match=r"tf-reweight\[quantizer\]"):
        export.export_tflite(pruned, tmp_path / "a.tflite", "weight_int8")
    assert not list(tmp_path.iterdir())


# One precision per kernel ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(pruned, digits):
    return export.precision_sensitivity(pruned, digits.validation[0][:64], digits.validation[1][:64])


def test_sensitivity_is_that_of_each_kernel_alone(pruned, digits, report):
    """Fewer bits change the outputs more; the figures are those of a file with one kernel changed."""
    assert len(report.operations) == sum(w.name == "kernel" for w in pruned.weights)
    for item in report.operations:
        assert item.errors["float16"] <= item.errors["weight_int8"] <= item.errors["weight_int4"]
    item, x = report.operations[1], digits.validation[0][:64]
    outputs = export.Runner(litert_quantizer.requantize(float_file(pruned), {item.output: "weight_int4"}))([x])[0]
    before = export.Runner(float_file(pruned))([x])[0]
    assert item.errors["weight_int4"] == pytest.approx(np.sqrt(((outputs - before) ** 2).sum() / (before**2).sum()))
    assert item.accuracies["weight_int4"] == np.mean(outputs.argmax(-1) == digits.validation[1][:64])
    (table,) = report.to_tables()
    assert table.row_count == len(report.operations) and report.to_dict()["accuracy"] == report.accuracy


def test_chosen_precisions_are_the_best_that_fit(report):
    """Against all combinations: never over the size, at most a step away from the least possible error."""
    import itertools

    smallest = report.num_bytes - sum(max(item.saved.values()) for item in report.operations)
    options = [[None, *item.saved] for item in report.operations]
    for share in (0.2, 0.5, 0.8):
        limit = int(smallest + share * (report.num_bytes - smallest))
        plan = export.choose_precisions(report, limit)

        def size_and_error(names):
            pairs = [(item, name) for item, name in zip(report.operations, names) if name]
            return report.num_bytes - sum(i.saved[n] for i, n in pairs), sum(i.errors[n] ** 2 for i, n in pairs)

        size, error = size_and_error([plan.get(item.output) for item in report.operations])
        best = min(e for s, e in map(size_and_error, itertools.product(*options)) if s <= limit)
        assert size <= limit and best <= error <= 4 * best + 1e-12
    assert export.choose_precisions(report, report.num_bytes) == {}
    with pytest.raises(ValueError, match="must be at least"):
        export.choose_precisions(report, smallest - 1)


def test_a_file_that_came_out_larger_than_was_estimated_is_not_written(pruned, digits, tmp_path, monkeypatch):
    """The limit binds the file, to the byte."""
    size = len(float_file(pruned))
    monkeypatch.setattr(mixed, "choose_precisions", lambda report, max_bytes, keep: {})
    x = digits.validation[0][:16]
    with pytest.raises(export.DoesNotFit, match=f"it has {size:,} bytes"):
        export.export_mixed(pruned, tmp_path / "a.tflite", size - 1, x, precisions=["float16"])
    assert list(tmp_path.iterdir()) == []
    assert export.export_mixed(pruned, tmp_path / "a.tflite", size, x, precisions=["float16"]).num_bytes == size


def test_mixed_files_fit_and_run(pruned, digits, report, tmp_path):
    limit = report.num_bytes // 5
    record = export.export_mixed(pruned, tmp_path / "a.tflite", limit, digits.validation[0][:64])
    assert record.path.stat().st_size == record.num_bytes <= limit and len(set(record.plan.values())) > 1
    assert record.verification.top1_agreement > 0.9 and record.to_dict()["plan"] == record.plan
    with pytest.raises(export.DoesNotFit, match="at least"):
        export.export_mixed(pruned, tmp_path / "b.tflite", 100, digits.validation[0][:64])
    policy = "mixed_float16"
    half = keras.models.clone_model(pruned, clone_function=lambda x: type(x).from_config({**x.get_config(), "dtype": policy}))
    half.set_weights(pruned.get_weights())
    assert export.export_mixed(half, tmp_path / "c.tflite", limit, digits.validation[0][:64]).plan == record.plan
    assert not (tmp_path / "b.tflite").exists()
    with pytest.raises(ValueError, match="Expected a known precision"):
        export.precision_sensitivity(pruned, digits.validation[0][:8], precisions=["int3"])
    with pytest.raises(ValueError, match="label for each"):
        export.precision_sensitivity(pruned, digits.validation[0][:8], [1, 2])
