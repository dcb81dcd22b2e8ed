"""Which operations XNNPACK runs, why others fall back, and files rewritten so that it runs them whole."""

import json
import re

import keras
import numpy as np
import packed_nets
import pytest

from tf_reweight.cli import main
from tf_reweight.export import check_file, export_tflite
from tf_reweight.packing import equivalence
from tf_reweight.tflite import acceleration, apart, compiled, flatbuffer, operations
from tf_reweight.tflite.acceleration import accelerate
from tf_reweight.tflite.comparing import VerificationError, differences
from tf_reweight.tflite.delegation import delegation, from_dict
from tf_reweight.tflite.execution import Runner
from tf_reweight.tflite.file_graph import Graph

L = keras.layers
NETS = {
    "softmax": lambda: packed_nets.sequential((6, 6, 8), L.Conv2D(8, 1), L.Flatten(), L.Dense(5), L.Softmax()),
    "logits": lambda: packed_nets.sequential((6, 6, 8), L.Conv2D(8, 3), L.Flatten(), L.Dense(5)),
    "in the middle": lambda: packed_nets.sequential((6, 6, 8), L.Conv2D(8, 1, activation="hard_silu"), L.Conv2D(4, 1)),
    "in a row": lambda: packed_nets.sequential((12, 8), L.Dense(8), L.Softmax(), L.Activation("hard_silu"), L.Dense(4)),
    "depthwise": lambda: packed_nets.sequential((6, 6, 128), L.DepthwiseConv2D(3), L.GlobalAveragePooling2D()),
    "twice read": lambda: twice_read(),
}
# Whether XNNPACK runs the file whole as it is converted.
WHOLE = {
    ("softmax", "float32"): True, ("softmax", "int8"): False, ("logits", "int8"): True, ("in the middle", "int8"): False,
    ("in a row", "int8"): False, ("depthwise", "dynamic_int8"): False, ("twice read", "int8"): False,
}  # fmt: skip
FILES = {}


def twice_read():
    """Probabilities that are an output and are read by a kernel as well."""
    x = keras.Input((8,))
    share = L.Softmax(name="share")(L.Dense(6)(x))
    return keras.Model(x, [share, L.Dense(3, name="score")(share)])


def file_of(kind, precision):
    """The bytes; each is converted once."""
    if (kind, precision) not in FILES:
        keras.utils.set_random_seed(0)
        FILES[kind, precision] = packed_nets.content_of(NETS[kind](), precision)
    return FILES[kind, precision]


def inputs_of(content, num=4):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(num, *item["shape"][1:])).astype("float32") for item in Runner(content).inputs.values()]


def outputs_of(content, inputs):
    """Outputs by their names' order, which is that of the nets here in every precision."""
    runner = Runner(content)
    return runner(inputs, sorted(runner.outputs))


@pytest.mark.parametrize(("kind", "precision"), WHOLE)
def test_both_runtimes_say_the_same(kind, precision):
    found = delegation(file_of(kind, precision))
    assert found.asked == "CompiledModel.is_fully_accelerated()"
    assert found.fully_accelerated is WHOLE[kind, precision]
    assert found.fully_accelerated is (not found.outside)
    assert found.num_partitions == 1 or not found.fully_accelerated


@pytest.mark.parametrize(("kind", "precision"), WHOLE)
def test_rewritten_files_run_whole_and_compute_no_worse(kind, precision):
    content = file_of(kind, precision)
    made = accelerate(content)
    assert made.whole and delegation(made.content).fully_accelerated
    if WHOLE[kind, precision]:
        assert made.content is content and made.in_float == ()
        return
    inputs = inputs_of(content, num=32)
    exact, before, after = (outputs_of(each, inputs) for each in (file_of(kind, "float32"), content, made.content))
    for first, second in zip(differences(exact, before), differences(exact, after)):
        assert second.relative_error <= 1.1 * first.relative_error + 1e-6
    assert len(made.content) - len(content) < 700
    for name, values in packed_nets.kernels(content).items():
        assert np.array_equal(packed_nets.kernels(made.content)[name], values), "weights must not change by a bit"


@pytest.mark.parametrize(("kind", "precision"), WHOLE)
def test_compiled_model_computes_what_the_interpreter_does(kind, precision):
    content = accelerate(file_of(kind, precision)).content
    runner = Runner(content)
    inputs = inputs_of(content)
    for first, second in zip(runner(inputs), runner.call_compiled(inputs), strict=True):
        assert np.array_equal(first, second)


def test_what_litert_does_not_take_in_float_stays_as_it_is(monkeypatch):
    content, real = file_of("softmax", "int8"), flatbuffer.write

    def broken(model):
        """An operation that LiteRT does not know."""
        model.operatorCodes[0].version = 99
        return real(model)

    monkeypatch.setattr(flatbuffer, "write", broken)
    made = accelerate(content)
    assert made.content is content and made.in_float == () and not made.whole
    assert [item.remedy for item in delegation(content).outside] == [""]


def test_sparse_weights_are_not_read_through_a_conversion():
    model = flatbuffer.parse(file_of("depthwise", "dynamic_int8"))
    graph = Graph(model)
    position = graph.names.index("DEPTHWISE_CONV_2D")
    assert acceleration._is_candidate(graph, position)
    graph.tensors[graph.input(position, 1)].sparsity = flatbuffer.schema().SparsityParametersT()
    assert not acceleration._is_candidate(graph, position)


def test_operations_in_a_row_share_floats():
    """Nothing is quantized between two operations that compute in float."""
    content = file_of("in a row", "int8")
    made = accelerate(content)
    assert sorted(made.in_float) == sorted(item.name for item in delegation(content).outside)
    names = packed_nets.ops_of(made.content)
    assert names.count("QUANTIZE") + names.count("DEQUANTIZE") <= 4, names


def test_reasons_and_remedies():
    (found,) = delegation(file_of("softmax", "int8")).outside
    assert found.name == "SOFTMAX" and "INT8" in found.reason and "accelerated=True" in found.remedy
    (found,) = delegation(file_of("depthwise", "dynamic_int8")).outside
    assert "float activations and INT8 weights" in found.reason and "accelerated=True" in found.remedy
    model = keras.Sequential([keras.Input((4,), dtype="int32"), L.Embedding(9, 8), L.Dense(3)])
    found = delegation(packed_nets.content_of(model, "float32")).outside
    assert "GATHER" in [item.name for item in found]
    assert all("INT32" in item.reason and "outside of the model" in item.remedy for item in found)


def test_sixteen_bits_are_said_to_be_slow():
    model = NETS["logits"]()
    specs = packed_nets.samples.input_specs(model, None)
    data = packed_nets.random_inputs.inputs(model, specs, num=4)
    found = delegation(packed_nets.convert(model, "int16", specs, data))
    assert found.num_partitions == 0 and len(found.outside) == found.num_ops
    convolutions = [item for item in found.outside if "CONV" in item.name]
    assert convolutions and len(convolutions) < len(found.outside)
    assert all("reference kernels" in item.reason for item in found.outside)
    assert convolutions == [item for item in found.outside if "times slower than in float32 where that was" in item.reason]
    assert accelerate(packed_nets.convert(model, "int16", specs, data)).in_float == ()


def test_packed_files_run_whole_too():
    content = packed_nets.zeroed(accelerate(file_of("softmax", "int8")).content, fraction=0.9)
    made = packed_nets.pack.pack(content).content
    assert delegation(made).fully_accelerated == delegation(content).fully_accelerated is True
    inputs = inputs_of(made)
    assert all(np.array_equal(a, b) for a, b in zip(Runner(content)(inputs), Runner(made).call_compiled(inputs)))


def renamed(content, code):
    """The file with its SOFTMAX as a custom operation."""
    model = flatbuffer.parse(content)
    schema = flatbuffer.schema()
    for item in model.operatorCodes:
        if max(item.builtinCode, item.deprecatedBuiltinCode) == schema.BuiltinOperator.SOFTMAX:
            item.builtinCode = item.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            item.customCode = code
    for operator in model.subgraphs[0].operators:
        if operator.builtinOptionsType == schema.BuiltinOptions.SoftmaxOptions:
            operator.builtinOptionsType, operator.builtinOptions = 0, None
    return flatbuffer.write(model)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (b"FlexRoll", "operation of TensorFlow (Flex)"), (b"MaxUnpooling2D", "of MediaPipe: it needs LiteRT with its delegate"),
        (b"TransformLandmarks", "MediaPipe's tasks and its own runtime"), (b"Mine", "name does not tell"),
    ],
)
def test_foreign_operations_are_named(code, words, tmp_path, capsys):
    path = tmp_path / "foreign.tflite"
    path.write_bytes(renamed(file_of("softmax", "float32"), code))
    assert main.console(["inspect", str(path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert words in figures["foreign"][0] and code.decode() in figures["foreign"][0]
    assert figures["delegation"] is None and code.decode() in figures["not_loaded"]
    with pytest.raises(ValueError, match=re.escape(str(path))):
        check_file(path)


@pytest.fixture(scope="module")
def classifier():
    """A net that ends in probabilities, and examples for its ranges."""
    keras.utils.set_random_seed(0)
    return NETS["softmax"](), np.random.default_rng(0).normal(size=(32, 6, 6, 8)).astype("float32")


def test_the_default_file_of_a_classifier_runs_whole(classifier, tmp_path):
    model, x = classifier
    plain = export_tflite(model, tmp_path / "plain.tflite", "int8", x, accelerated=False)
    whole = export_tflite(model, tmp_path / "whole.tflite", "int8", x)
    assert [item.name for item in plain.delegation.outside] == ["SOFTMAX"] and whole.delegation.fully_accelerated
    assert plain.float_ops == () and whole.float_ops == ("SOFTMAX",)
    assert 0 < whole.num_bytes - plain.num_bytes < 400
    assert whole.verification.relative_error <= 1.1 * plain.verification.relative_error
    assert whole.to_dict()["fully_accelerated"] and json.loads(json.dumps(whole.to_dict(), default=str))["delegation"]
    assert whole.verification.compiled_difference == 0.0 and whole.verification.not_compiled == ""
    inputs = inputs_of(file_of("softmax", "float32"))
    assert max(np.abs(Runner(whole.path)(inputs)[0] - np.asarray(model(inputs[0]))).ravel()) < 0.1


def test_a_file_that_runs_whole_stays_as_it_is(classifier, tmp_path):
    model, x = classifier
    for precision in ("float32", "dynamic_int8"):
        for name, accelerated in (("a", None), ("b", True), ("c", False)):
            export_tflite(model, tmp_path / f"{name}.tflite", precision, accelerated=accelerated)
        contents = {(tmp_path / f"{name}.tflite").read_bytes() for name in "abc"}
        assert len(contents) == 1


def test_integers_in_and_out_stay_integers(classifier, tmp_path):
    model, x = classifier
    record = export_tflite(model, tmp_path / "a.tflite", "int8", x, quantized_io=True)
    assert record.delegation.fully_accelerated
    assert all(item["dtype"] is np.int8 for item in Runner(record.path).outputs.values())


def test_int16_is_said_to_be_slow(classifier, tmp_path, caplog):
    model, x = classifier
    record = export_tflite(model, tmp_path / "a.tflite", "int16", x)
    said = "convolutions are 12 to 60 times slower than in float32 where that was measured"
    assert said in record.verification.doubts[-1] and said in caplog.text
    dense = keras.Sequential([keras.Input((6,)), L.Dense(3)])
    doubts = export_tflite(dense, tmp_path / "b.tflite", "int16", np.eye(6, dtype="float32")).verification.doubts
    assert any("reference kernels" in said for said in doubts) and "convolutions" not in str(doubts)


def test_a_file_is_not_rewritten_where_that_costs_accuracy(classifier, tmp_path, monkeypatch):
    model, x = classifier
    before = export_tflite(model, tmp_path / "plain.tflite", "int8", x, accelerated=False)
    monkeypatch.setattr("tf_reweight.export.tflite._NOISE", 0.0)
    assert export_tflite(model, tmp_path / "kept.tflite", "int8", x).num_bytes == before.num_bytes
    assert export_tflite(model, tmp_path / "forced.tflite", "int8", x, accelerated=True).delegation.fully_accelerated


def test_a_runtime_without_compiled_model_exports_and_says_so(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "missing", lambda: "this version of ai-edge-litert has no CompiledModel")
    checked = export_tflite(classifier[0], tmp_path / "a.tflite").verification
    assert checked.compiled_difference is None and "has no CompiledModel" in checked.not_compiled


def test_what_compiled_model_computes_otherwise_is_not_written(classifier, tmp_path, monkeypatch):
    real = Runner.compiled_raw
    monkeypatch.setattr(Runner, "compiled_raw", lambda self, raw, run: [array + 1 for array in real(self, raw, run)])
    with pytest.raises(VerificationError, match="must compute what the model does"):
        export_tflite(classifier[0], tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


def test_a_packed_file_is_run_in_both_runtimes(tmp_path, monkeypatch):
    content = packed_nets.zeroed(file_of("logits", "int8"), fraction=0.9)
    made = packed_nets.pack.pack(content).content
    assert made != content
    equivalence.check_same(content, made)
    ran = []
    real = Runner.compiled_raw

    def counting(self, raw):
        """Other outputs each time."""
        ran.append(raw)
        return [array + len(ran) for array in real(self, raw)]

    monkeypatch.setattr(Runner, "compiled_raw", counting)
    with pytest.raises(VerificationError, match="as CompiledModel"):
        equivalence.check_same(content, made)


def newer_schema(model):
    model.version = 4


def newer_operation(model):
    model.operatorCodes[0].version = 99


def unknown_operation(model):
    model.operatorCodes[0].builtinCode, model.operatorCodes[0].deprecatedBuiltinCode = 999, 127


@pytest.mark.parametrize("change", [newer_schema, newer_operation, unknown_operation])
def test_files_of_newer_litert_are_said_to_be_newer(change, tmp_path, capsys):
    model = flatbuffer.parse(file_of("softmax", "float32"))
    change(model)
    path = tmp_path / "newer.tflite"
    path.write_bytes(flatbuffer.write(model))
    with pytest.raises(ValueError, match="pip install -U ai-edge-litert"):
        Runner(path)
    assert main.console(["check", str(path)]) == 2
    assert "pip install -U ai-edge-litert" in capsys.readouterr().err


def test_open_sizes_are_named_and_can_be_given(tmp_path, capsys):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, 4), name="sound")])
    def filtered(sound):
        return tf.nn.conv1d(sound, tf.ones((3, 4, 2)), 1, "VALID")

    path = tmp_path / "open.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([filtered.get_concrete_function()]).convert())
    assert main.console(["check", str(path)]) == 2
    said = capsys.readouterr().err
    assert "sound" in said and "(-1, -1, 4)" in said and "--shape" in said
    assert main.console(["check", str(path), "--shape", "1,9,4"]) == 0
    assert delegation(path, (1, 9, 4)).asked.startswith("the interpreter's list")


def test_inspect_says_where_operations_run(tmp_path, capsys):
    path = tmp_path / "model.tflite"
    path.write_bytes(file_of("softmax", "int8"))
    assert main.console(["inspect", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "What XNNPACK leaves" in shown and "not tried on a device" in shown
    assert "SOFTMAX" in shown and "accelerated=True" in shown


def test_apart_tells_the_same():
    content = file_of("in the middle", "int8")
    assert apart.delegation(content) == delegation(content)
    assert from_dict(json.loads(json.dumps(delegation(content).to_dict()))) == delegation(content)
    inputs = dict(zip(Runner(content).inputs, (array[:, None] for array in inputs_of(content))))
    there, here = apart.compiled_run(content, inputs), compiled.run(content, inputs)
    assert there.keys() == here.keys() and all(np.array_equal(there[name], here[name]) for name in here)


def test_a_runtime_without_compiled_model_is_said(monkeypatch):
    monkeypatch.setattr(compiled, "missing", lambda: "this version of ai-edge-litert has no CompiledModel")
    for kind, precision in (("softmax", "int8"), ("logits", "int8")):
        found = delegation(file_of(kind, precision))
        assert found.fully_accelerated is WHOLE[kind, precision] and "has no CompiledModel" in found.asked
    with pytest.raises(compiled.Unavailable):
        Runner(file_of("logits", "int8")).call_compiled(inputs_of(file_of("logits", "int8")))


def test_nothing_is_written_where_litert_fails():
    """CompiledModel's own words reach the user, and no list of what it did not find reaches the terminal."""
    with pytest.raises(RuntimeError, match="flatbuffer"):
        compiled.is_fully_accelerated(b"\0" * 64)


def test_known_makers_are_spelt_as_operations_are():
    assert all(operations.is_foreign(f"CUSTOM {name}") for name in operations._MAKERS)
    assert not operations.is_foreign("CONV_2D") and operations.foreign(["CONV_2D", "ADD"]) == ()


def test_graphs_tell_what_is_quantized():
    graph = Graph(flatbuffer.parse(file_of("softmax", "int8")))
    position = graph.names.index("SOFTMAX")
    assert graph.is_quantized(graph.output(position))
    graph = Graph(flatbuffer.parse(file_of("softmax", "float32")))
    assert not any(graph.is_quantized(index) for index in range(len(graph.tensors)))
