"""Packed files: never larger, the same to the last bit, safe on ARM, and whole or not there at all."""

import json
import os
import pathlib

import keras
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_nets import NETS, STRUCTURES, content_of, converted, kernels, ops_of, sequential, zeroed
from rich.console import Console

from tf_reweight import export
from tf_reweight.cli import main
from tf_reweight.packing import arm, equivalence, pack, rewriting
from tf_reweight.tflite import constants, flatbuffer, sparse_layout
from tf_reweight.tflite.file_graph import Graph

L = keras.layers


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("precision", ("float32", "float16", "dynamic_int8", "int8", "weight_int8"))
@pytest.mark.parametrize("kind", NETS)
def test_packed_files_compute_the_same_and_are_never_larger(kind, precision, structure):
    content = zeroed(converted(kind, precision), structure)
    result = export_of(content)
    assert result.num_bytes_before == len(content) and result.num_bytes_after == len(result.content) <= len(content)
    equivalence.check_same(content, result.content)
    before, after = kernels(content), kernels(result.content)
    assert all(after[name].tobytes() == values.tobytes() for name, values in before.items() if len(name) and name in after)
    assert len(result.tensors) == len(before) == len(after)
    for tensor in result.tensors:
        assert (tensor.decision == "packed") == bool(tensor.layout) != bool(tensor.reason)
        assert tensor.num_bytes_after < tensor.num_bytes_before or tensor.decision == "left"
    if precision == "dynamic_int8" and kind != "depthwise":
        # The converter leaves small kernels in float32.
        quantized = [tensor for tensor in result.tensors if before[tensor.name.encode()].dtype == "int8"]
        assert quantized and all("dynamic range" in tensor.reason for tensor in quantized)
    elif precision == "float32" or (structure in ("filter", "channel") and kind != "depthwise"):
        assert result.num_packed == len(result.tensors) and len(result.content) < 0.85 * len(content)


def export_of(content):
    result = pack.pack(content)
    assert ops_of(result.content).count("DENSIFY") == result.num_packed
    return result


def test_structured_zeros_at_75_percent_leave_a_third():
    """On kernels large enough that names and scales do not count."""
    keras.utils.set_random_seed(0)
    dense = content_of(sequential((6, 6, 128), L.Conv2D(256, 3)), "int8")
    for structure in ("filter", "channel"):
        content = zeroed(dense, structure)
        assert len(pack.pack(content).content) * 3 < len(content)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", ["conv 3x3", "dense"])
def test_packed_for_a_download_is_never_larger_in_either_measure(kind, structure):
    content = zeroed(converted(kind, "int8"), structure)
    result = pack.pack(content, zipped=True)
    equivalence.check_same(content, result.content)
    assert len(result.content) <= len(content) and export.gzip_size(result.content) <= export.gzip_size(content)
    if structure == "random" and kind == "conv 3x3":
        assert "zipped" in result.tensors[0].reason and pack.pack(content).num_packed == 2
        assert export.gzip_size(pack.pack(content).content) > export.gzip_size(content)
    if structure == "channel":
        assert result.num_packed


def test_files_without_zeros_stay_as_they_are():
    content = zeroed(converted("conv 3x3", "float32"), fraction=0.0)
    result = pack.pack(content)
    assert result.content == content and result.num_packed == 0
    assert all("does not shrink it (0% zeros)" in tensor.reason for tensor in result.tensors)


def test_many_kernels_that_are_left_for_one_reason_share_a_row():
    alike = pack.PackedTensor("k", "CONV_2D", "left", "it has too few", 10, 10, layout="")
    packed = pack.PackedTensor("p", "CONV_2D", "packed", "", 10, 4, layout="csr")
    other = pack.PackedTensor("o", "GATHER", "left", "another", 3, 3, layout="")
    for num, rows in ((pack._FEW, pack._FEW + 10 + 1), (pack._FEW + 1, 1 + 10 + 1)):
        result = pack.PackResult(b"", 200, 100, (*[alike] * num, *[packed] * 10, other))
        (table,) = result.to_tables()
        assert "200 -> 100 bytes (50.0%), 10 kernels packed" in str(table.title)
        assert table.row_count == rows and len(result.to_dict()["tensors"]) == num + 11
    names, *_, before, after, reasons = ([*column.cells] for column in table.columns)
    assert (names[0], before[0], after[0], reasons[0]) == ("9 kernels", "90", "90", "it has too few") and names[1] == "p"


def test_a_file_that_grew_all_the_same_stays_as_it_is(monkeypatch):
    """What packing adds is an estimate for each kernel; the file is what counts."""
    content = zeroed(content_of(sequential((4, 4, 4), L.Conv2D(4, 1)), "float32"))
    (left,) = pack.pack(content).tensors
    monkeypatch.setattr(rewriting, "added_bytes", lambda *_: 0)
    result = pack.pack(content)
    (tensor,) = result.tensors
    assert result.content == content and left.decision == tensor.decision == "left" and tensor.layout == ""
    assert tensor.reason == "the whole file would not shrink" != left.reason
    assert tensor.num_bytes_after == tensor.num_bytes_before == 64


def test_all_zero_kernels():
    content = zeroed(converted("conv 3x3", "int8"), fraction=1.0)
    result = pack.pack(content)
    equivalence.check_same(content, result.content)
    assert result.num_packed == 2 and all(not values.any() for values in kernels(result.content).values())


def test_fully_connected_becomes_a_convolution_only_where_it_is_packed():
    content = converted("dense", "int8")
    assert "CONV_2D" not in ops_of(pack.pack(content).content)
    names = ops_of(pack.pack(zeroed(content, "channel")).content)
    assert "FULLY_CONNECTED" not in names and names.count("CONV_2D") == 2 and names.count("RESHAPE") == 4


def test_large_fully_connected_kernels_list_positions_in_one_byte():
    keras.utils.set_random_seed(0)
    content = zeroed(content_of(sequential((300,), L.Dense(260)), "int8"), fraction=0.9)
    result = pack.pack(content)
    equivalence.check_same(content, result.content)
    stored = [tensor for tensor in flatbuffer.parse(result.content).subgraphs[0].tensors if tensor.sparsity is not None]
    listed = [made.arrayIndices.values for made in stored[0].sparsity.dimMetadata if made.arrayIndices is not None]
    assert stored[0].shape.tolist() == [260, 1, 2, 150] and [vector.itemsize for vector in listed] == [1]


def test_fully_connected_with_one_scale():
    model = flatbuffer.parse(zeroed(converted("dense", "int8")))
    graph = Graph(model)
    for position in [i for i, name in enumerate(graph.names) if name == "FULLY_CONNECTED"]:
        x, weights, bias = (graph.input(position, slot) for slot in range(3))
        weights = graph.tensors[weights].quantization
        weights.scale, weights.zeroPoint = weights.scale[:1], weights.zeroPoint[:1]
        if bias >= 0 and graph.tensors[bias].quantization is not None:
            scales = graph.tensors[bias].quantization
            scales.scale, scales.zeroPoint = weights.scale * graph.tensors[x].quantization.scale, weights.zeroPoint
    content = flatbuffer.write(model)
    result = pack.pack(content)
    assert result.num_packed == 2
    equivalence.check_same(content, result.content)


@pytest.mark.parametrize("zero_points", ["one", "last"])
def test_weights_with_a_zero_point_stay_fully_connected(zero_points):
    """A convolution of files has none in its kernel: it would compute something else."""
    model = flatbuffer.parse(zeroed(converted("dense", "int8")))
    graph = Graph(model)
    for position in [i for i, name in enumerate(graph.names) if name == "FULLY_CONNECTED"]:
        quantization = graph.tensors[graph.input(position, 1)].quantization
        quantization.scale, quantization.zeroPoint = quantization.scale[:1], np.array([3], "int64")
        if zero_points == "last":
            quantization.scale = np.repeat(quantization.scale, 64)
            quantization.zeroPoint = np.array([0] * 63 + [-5], "int64")
    result = pack.pack(flatbuffer.write(model))
    assert result.num_packed == 0 and "CONV_2D" not in ops_of(result.content)
    assert ops_of(result.content).count("FULLY_CONNECTED") == 2


def test_a_rewritten_file_can_still_be_resized():
    content = zeroed(converted("dense", "int8"))
    inputs, outputs = np.random.default_rng(0).normal(size=(3, 48)).astype("float32"), []
    for version in (content, pack.pack(content).content):
        interpreter = litert.Interpreter(model_content=version)
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], [3, 48])
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    assert outputs[0].shape == (3, 64) and outputs[0].tobytes() == outputs[1].tobytes()


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_one_densify_serves_all_readers(precision):
    layer, x = L.Dense(64), keras.Input((64,))
    content = zeroed(content_of(keras.Model(x, layer(L.ReLU()(layer(x)))), precision))
    result = export_of(content)
    equivalence.check_same(content, result.content)
    assert sum(tensor.decision == "packed" for tensor in result.tensors) <= 1
    assert result.num_packed == 1 or "share" in result.tensors[0].reason


def test_embeddings():
    content = zeroed(content_of(sequential((5,), L.Embedding(400, 16), L.Dense(8)), "float32"), "channel")
    result = export_of(content)
    equivalence.check_same(content, result.content)
    assert "GATHER" in [tensor.op for tensor in result.tensors if tensor.decision == "packed"]


def test_float16_beside_an_operation_outside_of_the_delegate_is_left():
    """LiteRT gives garbage there; a transposed convolution whose kernel is smaller than its stride is such an operation."""
    layers = L.Conv2D(32, 1), L.Conv2DTranspose(32, 1, strides=2, padding="same"), L.Conv2D(64, 1)
    content = zeroed(content_of(sequential((7, 7, 16), *layers), "float16"), fraction=0.9)
    result = pack.pack(content)
    assert result.content == content and all("TRANSPOSE_CONV" in tensor.reason for tensor in result.tensors)


def test_names_signatures_and_metadata_stay(tmp_path):
    keras.utils.set_random_seed(0)
    first, second = keras.Input((32,), name="left"), keras.Input((32,), name="right")
    model = keras.Model([first, second], {"sum": L.Dense(64)(first), "product": L.Dense(48)(second)})
    content = zeroed(content_of(model, "int8"))
    packed = pack.pack(content).content
    runners = [export.Runner(version) for version in (content, packed)]
    assert list(runners[0].inputs) == list(runners[1].inputs) and list(runners[0].outputs) == list(runners[1].outputs)
    inputs = {name: np.random.default_rng(1).normal(size=(4, 32)).astype("float32") for name in runners[0].inputs}
    assert all(np.array_equal(a, b) for a, b in zip(*(runner(inputs) for runner in runners)))
    models = [flatbuffer.parse(version) for version in (content, packed)]
    entries = [[(m.name, bytes(model.buffers[m.buffer].data)) for m in model.metadata] for model in models]
    assert entries[0] == entries[1] and entries[0]
    (tmp_path / "a.tflite").write_bytes(packed)
    summary = export.inspect_tflite(tmp_path / "a.tflite")
    (tmp_path / "b.tflite").write_bytes(content)
    assert summary.signatures == ("serving_default",)
    assert summary.sparsity == pytest.approx(export.inspect_tflite(tmp_path / "b.tflite").sparsity) and summary.sparsity > 0.7


def test_packing_twice_changes_nothing():
    once = pack.pack(zeroed(converted("conv 1x1", "int8"))).content
    twice = pack.pack(once)
    assert twice.content == once and {tensor.reason for tensor in twice.tensors} == {"it is packed already"}


def test_single_numbers_have_no_shape():
    """As the axis of a mean that TensorFlow's own converter wrote."""
    model = flatbuffer.parse(zeroed(converted("conv 1x1", "float32")))
    tensor, buffer = flatbuffer.schema().TensorT(), flatbuffer.schema().BufferT()
    tensor.name, tensor.type, tensor.buffer = b"axis", flatbuffer.schema().TensorType.INT32, len(model.buffers)
    buffer.data = np.asarray(7, "int32").reshape(1).view("uint8")
    model.subgraphs[0].tensors.append(tensor)
    model.buffers.append(buffer)
    written = flatbuffer.parse(flatbuffer.write(model))
    assert written.subgraphs[0].tensors[-1].shape is None
    values = constants.values(written, written.subgraphs[0].tensors[-1])
    assert values.shape == () and values == 7
    assert pack.pack(flatbuffer.write(model)).num_packed == 2


def test_values_shared_by_two_tensors_are_left():
    model = flatbuffer.parse(zeroed(converted("conv 1x1", "float32")))
    tensors = model.subgraphs[0].tensors
    kernel = next(tensor for tensor in tensors if pack._is_kernel(model, tensor))
    next(tensor for tensor in tensors if tensor is not kernel and pack._is_kernel(model, tensor)).buffer = kernel.buffer
    kernel_shape = kernel.shape
    for tensor in tensors:
        if tensor.buffer == kernel.buffer:
            tensor.shape = kernel_shape
    reasons = [tensor.reason for tensor in pack.pack(flatbuffer.write(model)).tensors]
    assert reasons == ["it shares its values with another tensor"] * 2


def test_results_print_and_serialize():
    result = pack.pack(zeroed(converted("conv 3x3", "float16")))
    flat = json.loads(json.dumps(result.to_dict()))
    assert flat["num_bytes_after"] == result.num_bytes_after and len(flat["tensors"]) == len(result.tensors)
    report = arm.arm_eligibility(result.content)
    assert json.loads(json.dumps(report.to_dict()))["eligible"] is True
    console = Console(record=True, width=200, file=open(os.devnull, "w", encoding="utf-8"))
    with console.file:
        console.print(*result.to_tables(), *report.to_tables())
    assert f"{result.num_bytes_after:,}" in console.export_text()


# Bad input, and nothing half-done.


def test_what_is_no_tflite_is_refused(tmp_path):
    content = converted("conv 3x3", "int8")
    for cut in (0, 3, 15, 16, 40, 1000, len(content) // 2, len(content) - 20):
        for function in (pack.pack, arm.arm_eligibility):
            with pytest.raises(ValueError, match="(?s)must be a.* TFLite flatbuffer.*Received"):
                function(content[:cut])
    with pytest.raises(ValueError, match="Received"):
        pack.pack(b"\x89PNG" + bytes(100))
    with pytest.raises(TypeError, match="bytes"):
        pack.pack("model.tflite")
    with pytest.raises(FileNotFoundError, match="must exist"):
        pack.pack_tflite(tmp_path / "none.tflite", tmp_path / "b.tflite")
    (tmp_path / "a.tflite").write_bytes(content[:2000])
    with pytest.raises(ValueError, match="a.tflite"):
        pack.pack_tflite(tmp_path / "a.tflite", tmp_path / "b.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tflite"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_damaged_files_are_refused_or_packed_but_never_break(seed):
    content, rng = bytearray(converted("depthwise", "int8")), np.random.default_rng(seed)
    for _ in range(rng.integers(1, 30)):
        # Half of them in the tables at the beginning, which say where everything is.
        content[rng.integers(len(content) if rng.random() < 0.5 else 2000)] = rng.integers(256)
    try:
        pack.pack(bytes(content))
    except ValueError as error:
        assert "Received" in str(error)


def test_files_without_a_graph_are_refused():
    model = flatbuffer.parse(converted("depthwise", "int8"))
    model.subgraphs = []
    for function in (pack.pack, arm.arm_eligibility):
        with pytest.raises(ValueError, match="(?s)must be a whole TFLite flatbuffer.*Received"):
            function(flatbuffer.write(model))


def test_files_over_two_gibibytes_are_refused_before_they_are_read(tmp_path, capsys, monkeypatch):
    path = tmp_path / "large.tflite"
    with open(path, "wb") as file:
        file.write(b"\x1c\0\0\0TFL3")
        file.truncate(2**31)
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: pytest.fail("it was read"))
    for command in (["pack", str(path), str(tmp_path / "b.tflite")], ["arm", str(path)], ["inspect", str(path)]):
        assert main.console(command) == 2
        assert "smaller than 2 GiB" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_weights_outside_the_flatbuffer_are_refused():
    model = flatbuffer.parse(converted("conv 3x3", "float32"))
    model.buffers[1].offset = 4096
    with pytest.raises(ValueError, match="must lie inside the file"):
        pack.pack(flatbuffer.write(model))


@pytest.mark.parametrize("case", ["two graphs", "WHILE"])
def test_control_flow_is_left_alone(case):
    model = flatbuffer.parse(zeroed(converted("conv 3x3", "float32")))
    if case == "two graphs":
        model.subgraphs.append(model.subgraphs[0])
    else:
        model.operatorCodes[0].builtinCode = flatbuffer.schema().BuiltinOperator.WHILE
    content = flatbuffer.write(model)
    result = pack.pack(content)
    assert result.content == content and all("control flow" in tensor.reason for tensor in result.tensors) and result.tensors


def test_operations_of_another_maker_are_left_alone(tmp_path):
    keras.utils.set_random_seed(0)
    model = flatbuffer.parse(zeroed(content_of(sequential((6, 6, 8), L.Conv2D(64, 3), L.Softmax()), "float32")))
    code = next(code for code in model.operatorCodes if code.builtinCode == flatbuffer.schema().BuiltinOperator.SOFTMAX)
    code.builtinCode = code.deprecatedBuiltinCode = flatbuffer.schema().BuiltinOperator.CUSTOM
    code.customCode = b"Mine"
    source, target = tmp_path / "a.tflite", tmp_path / "b.tflite"
    source.write_bytes(flatbuffer.write(model))
    with pytest.raises(export.VerificationError, match="given file must run"):
        pack.pack_tflite(source, target)
    assert not target.exists()
    result = pack.pack_tflite(source, target, verify=False)
    assert result.num_packed == 1 and "CUSTOM Mine" in ops_of(target.read_bytes())


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    source = tmp_path / "a.tflite"
    source.write_bytes(zeroed(converted("conv 3x3", "int8")))
    encode = sparse_layout.encode

    def broken(array, layout):
        values, sparsity = encode(array, layout)
        return values[::-1].copy(), sparsity

    monkeypatch.setattr(sparse_layout, "encode", broken)
    before = source.read_bytes()
    for target in (tmp_path / "b.tflite", source):
        with pytest.raises(export.VerificationError, match="to the last bit"):
            pack.pack_tflite(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tflite"] and source.read_bytes() == before


def test_other_machines_may_sum_in_another_order_and_no_more(monkeypatch):
    """Only where ARM's sparse kernels run, and then only by rounding."""
    content = zeroed(converted("conv 3x3", "float32"))
    model = flatbuffer.parse(content)
    for buffer in model.buffers:
        if buffer.data is not None and len(buffer.data) > 1000:
            buffer.data = (buffer.data.view("float32") * np.float32(1 + 1e-6)).view("uint8")
    with pytest.raises(export.VerificationError):
        equivalence.check_same(content, flatbuffer.write(model))
    monkeypatch.setattr(equivalence.platform, "machine", lambda: "aarch64")
    with pytest.raises(export.VerificationError, match="without the default delegate"):
        equivalence.check_same(content, flatbuffer.write(model), reordered=True)


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    source, target = tmp_path / "a.tflite", tmp_path / "b.tflite"
    source.write_bytes(zeroed(converted("conv 3x3", "int8")))

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            pack.pack_tflite(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tflite"]
    with pytest.raises(FileNotFoundError, match="folder of `path` must exist"):
        pack.pack_tflite(source, tmp_path / "none" / "b.tflite")


def test_a_disk_that_is_full_half_way_leaves_no_half_file(tmp_path):
    """The system itself cuts the write off."""
    import resource

    source = tmp_path / "a.tflite"
    content = zeroed(converted("conv 3x3", "int8"))
    source.write_bytes(content)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for target in (tmp_path / "b.tflite", source):
            with pytest.raises(OSError, match="too large"):
                pack.pack_tflite(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [source] and source.read_bytes() == content


def test_a_read_only_folder_is_refused_before_any_work(tmp_path, monkeypatch):
    source = tmp_path / "a.tflite"
    source.write_bytes(converted("conv 3x3", "int8"))
    # Root may write everywhere, so the answer is the system's only for others.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr(pack, "_packed", lambda *arguments: pytest.fail("it was packed"))
    with pytest.raises(OSError, match="writable folder"):
        pack.pack_tflite(source, tmp_path / "b.tflite")


def test_in_place(tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(zeroed(converted("conv 3x3", "int8")))
    before = path.stat().st_size
    result = pack.pack_tflite(str(path), path)
    assert path.read_bytes() == result.content and len(result.content) < before
    assert pack.pack_tflite(path, path).content == result.content
    assert list(pathlib.Path(tmp_path).iterdir()) == [path]


def test_what_counts_as_the_same_outputs():
    values = np.array([[1.0, -2.0], [1e-3, 0.0]], "float32")
    near = np.nextafter(values, 9, dtype="float32")
    small = values + np.array([[0, 0], [1e-4, 0]], "float32")
    assert equivalence._agree(values, values.copy(), 0.0)
    assert equivalence._agree(values, np.where(values == 0, np.float32(-0.0), values), 0.0)
    assert not equivalence._agree(values, near, 0.0) and equivalence._agree(values, near, 1e-6)
    # A tenth of a small example is not made up for by a large one beside it.
    assert not equivalence._agree(values, small, 1e-2) and equivalence._agree(values, small, 0.11)
    assert not equivalence._agree(values, values.astype("float64"), 0.0) and not equivalence._agree(values, values[0], 0.0)
    assert not equivalence._agree(np.zeros((1, 2)), np.full((1, 2), 1e-6), 1e-6)
    assert equivalence._agree(np.zeros((1, 2)), np.zeros((1, 2)), 1e-6)
