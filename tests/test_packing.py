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
from packed_nets import NETS, STRUCTURES, Written, content_of, converted, kernels, ops_of, sequential, zeroed
from rich.console import Console
from test_arm import mobile

from tf_reweight import export
from tf_reweight.cli import main
from tf_reweight.packing import arm, equivalence, pack, rewriting
from tf_reweight.tflite import constants, flatbuffer, sparse_layout
from tf_reweight.tflite.file_graph import Graph
from tf_reweight.tflite.litert import run as executed

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


def test_shapes_and_flags_that_would_not_be_looked_at_are_refused(tmp_path, monkeypatch):
    """Files of which nothing is packed took any shape, and those that are packed told it as a fault of the file."""
    monkeypatch.setattr(pack, "Emulator", lambda: None)
    for number, content in enumerate((converted("conv 3x3", "int8"), zeroed(converted("conv 3x3", "int8")))):
        source, target = tmp_path / f"{number}.tflite", tmp_path / "out.tflite"
        source.write_bytes(content)
        for shapes, words in (({"nope": (1, 2)}, "known input of `shapes`.*'nope'"), (3, "must fit"), ("abc", "must fit")):
            with pytest.raises(ValueError, match=words) as raised:
                pack.pack_tflite(source, target, shapes=shapes)
            assert str(raised.value).count("Received: ") == 1 and "another maker" not in str(raised.value)
        for how in ({"verify_arm": True}, {"shapes": (1, 2)}):
            with pytest.raises(ValueError, match="is for running both files, which verify=False leaves out.*verify=False, "):
                pack.pack_tflite(source, target, verify=False, **how)
        assert not target.exists()


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


# Files that are written operation by operation.


def fate(net, index, *outputs, **options):
    """Why a kernel is left, "" where it is packed."""
    made = {tensor.name: tensor for tensor in pack.pack(net.content(*outputs), **options).tensors}[f"t{index}"]
    assert (made.decision == "packed") == (made.reason == "")
    return made.reason


def convolved(net, weights, x=None, name="CONV_2D", dtype=None):
    """The output of a convolution that reads a kernel, on an image of one pixel."""
    if x is None:
        x = net.input((1, 1, 1, net.part.tensors[weights].shape[-1]))
    return net.op(name, [x, weights], (1, 1, 1, 16), dtype=dtype)


KERNEL = (64, 1, 1, 64)
FOREIGN = "does not read it as weights"
PASSED_ON = "DEQUANTIZE passes it on to an operation that was not tried"
GARBAGE = "LiteRT computes garbage from packed kernels that it dequantizes, beside "


READERS = [
        ("CONV_2D", 1, True), ("DEPTHWISE_CONV_2D", 1, True), ("TRANSPOSE_CONV", 1, True), ("FULLY_CONNECTED", 1, True),
        ("GATHER", 0, True), ("CONV_2D", 0, False), ("DEPTHWISE_CONV_2D", 2, False), ("TRANSPOSE_CONV", 0, False),
        ("TRANSPOSE_CONV", 2, False), ("FULLY_CONNECTED", 2, False), ("GATHER", 1, False), ("ADD", 1, False),
        ("MUL", 0, False),
    ]  # fmt: skip


def test_kernels_are_packed_where_an_operation_reads_its_weights():
    for name, slot, packed in READERS:
        for others in (0, 1):
            net = Written()
            kernel = net.weights(KERNEL)
            inputs = [net.input((1, 1, 1, 64)) for _ in range(3)]
            inputs[slot] = kernel
            outputs = [convolved(net, kernel) for _ in range(others)]
            told = fate(net, kernel, net.op(name, inputs), *outputs)
            assert told == ("" if packed else f"{name} {FOREIGN}, or was not tried with packed ones")


def test_ends_variables_and_what_nothing_reads_are_left():
    end = "it is an input, an output or a variable of the graph"
    for place in ("input", "output", "variable", "unread", "read"):
        net = Written()
        kernel = net.weights(KERNEL)
        made = [net.op("RELU", [net.input((1, 4))]) if place == "unread" else convolved(net, kernel)]
        net.part.inputs += [kernel] * (place == "input")
        net.part.tensors[kernel].isVariable = place == "variable"
        told = fate(net, kernel, *made, *[kernel] * (place == "output"))
        assert told == {"unread": "nothing reads it", "read": ""}.get(place, end)


def test_values_shared_with_a_tensor_or_metadata_are_left():
    for what in ("nothing", "tensor", "metadata"):
        net = Written()
        kernel, other = net.weights(KERNEL), net.tensor(KERNEL)
        if what == "tensor":
            net.part.tensors[other].buffer = net.part.tensors[kernel].buffer
        if what == "metadata":
            entry = net.schema.MetadataT()
            entry.name, entry.buffer = b"of somebody", net.part.tensors[kernel].buffer
            net.model.metadata = [entry]
        told = fate(net, kernel, convolved(net, kernel))
        assert told == ("" if what == "nothing" else "it shares its values with another tensor")
    counted = pack._buffer_users(net.model)
    assert counted[net.part.tensors[kernel].buffer] == 2 and counted[0] == 3


def test_types_that_are_unfolded():
    for dtype, packed in [("FLOAT32", True), ("UINT8", False), ("INT16", False)]:
        net = Written()
        kernel = net.weights((64, 1, 1, 256), dtype)
        assert fate(net, kernel, convolved(net, kernel)) == ("" if packed else f"LiteRT unfolds no {dtype}")


def test_what_counts_as_a_kernel():
    net = Written()
    smallest = net.numbers([[1]], "INT8")
    made = [net.weights((8,)), net.weights((4, 8)), net.weights((2, 2, 8)), net.numbers(np.ones((4, 4))), net.tensor((4, 8))]
    net.part.tensors[net.weights((4, 8))].shape = None
    empty = net.tensor((0, 8), values=np.zeros((0, 8), "float32"))
    found = [i for i, tensor in enumerate(net.part.tensors) if pack._is_kernel(net.model, tensor)]
    assert found == [smallest, *made[1:3]] and empty not in found


READERS_OF_UNFOLDED = [
    ("CONV_2D", 1, ""), ("FULLY_CONNECTED", 1, ""), ("CONV_2D", 0, PASSED_ON), ("ADD", 1, PASSED_ON), ("GATHER", 0, PASSED_ON)
]  # fmt: skip


def test_dequantized_kernels_are_packed_where_they_are_weights():
    for reader, slot, told in READERS_OF_UNFOLDED:
        for dtype in ["FLOAT16", "INT8"]:
            for others in (0, 1):
                net = Written()
                kernel = net.weights((64, 1, 1, 128), dtype, scale=0.1)
                unfolded = net.op("DEQUANTIZE", [kernel], dtype="FLOAT32")
                inputs = [net.input((1, 1, 1, 128)) for _ in range(2)]
                inputs[slot] = unfolded
                made = [net.op(reader, inputs), *[convolved(net, unfolded) for _ in range(others)]]
                found = fate(net, kernel, *made)
                assert found.startswith(told) and bool(found) == bool(told)


BESIDE = [
    ("FLOAT16", "computed", True), ("FLOAT16", "dequantized", True), ("INT8", "computed", False),
    ("INT8", "dequantized", True), ("INT8", "a part dequantized", True), ("FLOAT16", "nothing", False),
    ("INT8", "nothing", False),
]  # fmt: skip


def test_dequantized_kernels_beside_an_operation_outside_of_the_delegate():
    for dtype, reads, breaks in BESIDE:
        net = Written()
        kernel = net.weights((64, 1, 1, 128), dtype, scale=0.1)
        outputs = [convolved(net, net.op("DEQUANTIZE", [kernel], dtype="FLOAT32"))]
        other = net.op("DEQUANTIZE", [net.weights((2, 2), dtype, zeros=0, scale=0.1)], dtype="FLOAT32")
        if reads != "nothing":
            inputs = {"computed": outputs, "dequantized": [other], "a part dequantized": [*outputs, other]}[reads]
            outputs.append(net.op("SIN", inputs))
        expected = f"{GARBAGE}SIN #3 outside of its delegate" if breaks else ""
        assert fate(net, kernel, *outputs, other) == expected


TRANSPOSED = [
    ((2, 2), (2, 2), False), ((3, 3), (2, 2), False), ((1, 2), (2, 2), True), ((2, 1), (2, 2), True), ((1, 1), (1, 1), False),
    ((2, 3), (2, 3), False), ((3, 2), (2, 3), True), ((1, 3), (1, 3), False), ((3, 1), (1, 3), True),
]  # fmt: skip


def test_small_transposed_convolutions_are_outside_of_the_delegate():
    for size, strides, breaks in TRANSPOSED:
        net = Written()
        kernel = net.weights((64, 1, 1, 128), "FLOAT16")
        made = convolved(net, net.op("DEQUANTIZE", [kernel], dtype="FLOAT32"))
        options = {"kind": "TransposeConvOptions", "strideH": strides[0], "strideW": strides[1]}
        inputs = [net.numbers([1, 4, 4, 2]), net.weights((2, *size, 16)), made]
        up = net.op("TRANSPOSE_CONV", inputs, (1, 4, 4, 2), dtype="FLOAT32", **options)
        assert fate(net, kernel, up) == (f"{GARBAGE}TRANSPOSE_CONV #2 outside of its delegate" if breaks else "")


BESIDE_INTEGERS = [
    ("CONV_2D", "INT8", True), ("DEPTHWISE_CONV_2D", "INT8", True), ("TRANSPOSE_CONV", "INT8", True),
    ("CONV_2D", "FLOAT16", False),
    ("FULLY_CONNECTED", "INT8", False), ("ADD", "INT8", False),
]  # fmt: skip


def test_half_kernels_beside_dequantized_integers_are_left():
    """On ARM a convolution that reads int8 weights through DEQUANTIZE is outside of the delegate."""
    for name, dtype, breaks in BESIDE_INTEGERS:
        net = Written()
        kernel = net.weights((64, 1, 1, 128), "FLOAT16")
        made = convolved(net, net.op("DEQUANTIZE", [kernel], dtype="FLOAT32"))
        other = net.op("DEQUANTIZE", [net.weights((16, 1, 1, 16), dtype, scale=0.1)], dtype="FLOAT32")
        inputs = [net.numbers([1, 1, 1, 16]), other, made] if name == "TRANSPOSE_CONV" else [made, other]
        last = net.op(name, inputs, (1, 1, 1, 16), dtype="FLOAT32")
        assert fate(net, kernel, last) == (f"{GARBAGE}{name} #3 outside of its delegate" if breaks else "")


def test_half_kernels_that_are_read_as_they_are_count_as_dequantized():
    for name in ("SIN", "TANH"):
        net = Written()
        kernel = net.weights((64, 1, 1, 128), "FLOAT16")
        told = fate(net, kernel, net.op(name, [convolved(net, kernel)]))
        assert told == (f"{GARBAGE}SIN #1 outside of its delegate" if name == "SIN" else "")


def test_int8_kernels_in_dynamic_range_are_left_but_for_depthwise():
    for name in ["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"]:
        for computes in ["INT8", "INT16", "FLOAT32"]:
            net = Written()
            kernel = net.weights((64, 64) if name == "FULLY_CONNECTED" else KERNEL, "INT8", scale=0.1)
            x = net.input((1, 64) if name == "FULLY_CONNECTED" else (1, 1, 1, 64), computes, scale=0.1)
            inputs = [net.numbers([1, 1, 1, 64]), kernel, x] if name == "TRANSPOSE_CONV" else [x, kernel]
            options = {"kind": "FullyConnectedOptions"} if name == "FULLY_CONNECTED" else {}
            made = net.op(name, inputs, (1, 64) if options else (1, 1, 1, 64), dtype=computes, **options)
            told = fate(net, kernel, made)
            if computes == "FLOAT32" and name != "DEPTHWISE_CONV_2D":
                refused = "that computes in FLOAT32 (dynamic range)"
                assert told == f"LiteRT does not load a packed int8 kernel of a {name} {refused}"
            elif computes == "INT16" and name == "FULLY_CONNECTED":
                assert told == "only int8 throughout, a FULLY_CONNECTED can become the convolution that loads packed"
            else:
                assert told == ""


def connected(kernel=(64, 64), x="INT8", y="INT8", bias="INT32", zero_points=(0,), made=(1, 64), signature=None, twice=False,
              activation=0, **options):  # fmt: skip
    """A file with one FULLY_CONNECTED; its net, kernel and output."""
    net = Written()
    weights = net.weights(kernel, "INT8", scale=0.25, zero_points=zero_points)
    if zero_points is None:
        net.part.tensors[weights].quantization.zeroPoint = None
    inputs = [net.input((1, kernel[-1]), x, scale=0.5), weights]
    inputs += [] if bias is None else [-1 if bias == "none" else net.tensor((64,), bias, np.arange(64, dtype=bias.lower()))]
    target = net.tensor(made, y, scale=2.0)
    net.part.tensors[target].shapeSignature = None if signature is None else np.asarray(signature, "int32")
    own = {"kind": "FullyConnectedOptions", "fusedActivationFunction": activation, **options}
    outputs = [net.op("FULLY_CONNECTED", inputs, made=target, **own)]
    if twice:
        outputs.append(net.op("FULLY_CONNECTED", inputs, made, y, **own))
    return net, weights, outputs


THROUGHOUT, SEVERAL = "only int8 throughout", "several FULLY_CONNECTED share it"
UNKNOWN, ASYMMETRIC = "the shape of the FULLY_CONNECTED's output is not known beforehand", "weights are not symmetric"
CONNECTED = {
    "plain": ({}, ""), "without a bias": ({"bias": None}, ""), "with a bias left out": ({"bias": "none"}, ""),
    "many scales": ({"zero_points": (0,) * 64}, ""), "rows": ({"made": (5, 64)}, ""), "sequences": ({"made": (2, 5, 64)}, ""),
    "open batch": ({"signature": (-1, 64)}, ""), "known shape": ({"signature": (1, 64)}, ""),
    "one size": ({"signature": (-1,)}, ""),
    "empty size": ({"made": (1, 0, 64), "signature": (-1, 0, 64)}, ""),
    "integers of 16 bits": ({"x": "INT16"}, THROUGHOUT), "made of 16 bits": ({"y": "INT16"}, THROUGHOUT),
    "made of floats": ({"y": "FLOAT32"}, THROUGHOUT), "float bias": ({"bias": "FLOAT32"}, THROUGHOUT),
    "long bias": ({"bias": "INT64"}, THROUGHOUT), "twice": ({"twice": True}, SEVERAL),
    "three axes": ({"kernel": (64, 1, 64)}, SEVERAL), "another width": ({"made": (1, 32, 2)}, UNKNOWN),
    "open length": ({"made": (1, 1, 64), "signature": (-1, -1, 64)}, UNKNOWN), "open width": ({"signature": (1, -1)}, UNKNOWN),
    "shuffled": ({"weightsFormat": 1}, ASYMMETRIC), "no zero points": ({"zero_points": None}, ASYMMETRIC),
    "a zero point": ({"zero_points": (1,)}, ASYMMETRIC), "one of them": ({"zero_points": (0,) * 63 + (-1,)}, ASYMMETRIC),
}  # fmt: skip


def test_which_fully_connected_become_convolutions():
    for case in CONNECTED:
        options, told = CONNECTED[case]
        if options.get("zero_points", 0) is None:
            net, weights, outputs = connected()
            net.part.tensors[weights].quantization.zeroPoint = None
        else:
            net, weights, outputs = connected(**options)
        found = fate(net, weights, *outputs)
        assert told in found and bool(found) == bool(told)


def test_without_scales_a_fully_connected_stays():
    net, weights, outputs = connected()
    net.part.tensors[weights].quantization = None
    assert ASYMMETRIC in fate(net, weights, *outputs)


def test_a_rewritten_fully_connected_field_by_field():
    for bias in ["INT32", None, "none"]:
        for num, num_inputs in [(1, 64), (1, 512), (6, 64)]:
            scales = np.linspace(0.25, 0.5, 64)
            made = {"made": (num, 64) if num == 1 else (2, 3, 64), "activation": 3, "quantizedBiasType": 2}
            net, weights, outputs = connected((64, num_inputs), bias=bias, zero_points=(0,) * 64, **made)
            net.part.tensors[weights].quantization.scale = scales.astype("float32")
            content = net.content(*outputs)
            values = constants.values(flatbuffer.parse(content), flatbuffer.parse(content).subgraphs[0].tensors[weights])
            graph = Graph(flatbuffer.parse(pack.pack(content).content))
            assert graph.names == ["DENSIFY", "RESHAPE", "CONV_2D", "RESHAPE"]
            densify, before, convolution, after = (graph.operators[i] for i in range(4))
            kernel, (_, *image) = graph.tensors[weights], graph.shape(weights)
            assert (64, *image) in rewriting.convolution_shapes((64, num_inputs)) and (image[1] == 1) == (num_inputs == 64)
            assert kernel.quantization is None and kernel.sparsity is not None and graph.shape(weights) == (64, *image)
            np.testing.assert_array_equal(graph.constant(weights), values.reshape(64, *image))
            dense, pixels, made = graph.output(0), graph.output(1), graph.output(2)
            assert list(densify.inputs) == [weights] and graph.tensors[dense].name == b"dense/%d" % weights
            np.testing.assert_allclose(graph.tensors[dense].quantization.scale, scales, rtol=1e-6)
            assert graph.tensors[dense].buffer == 0 and graph.tensors[dense].sparsity is None
            assert graph.shape(dense) == (64, *image)
            assert graph.shape(pixels) == (num, *image) and graph.shape(made) == (num, 1, 1, 64)
            assert list(before.inputs)[:1] == graph.inputs and list(after.inputs)[:1] == [made]
            assert graph.output(3) == outputs[0]
            assert list(convolution.inputs)[:2] == [pixels, dense] and len(convolution.inputs) == 3
            for operator, shape in ((before, (-1, *image)), (after, (-1, 64) if num == 1 else (-1, 3, 64))):
                assert tuple(operator.builtinOptions.newShape) == shape == tuple(graph.constant(operator.inputs[1]))
                assert graph.shape(operator.inputs[1]) == (len(shape),) and graph.dtype(operator.inputs[1]) == "INT32"
            for index, like in ((pixels, graph.inputs[0]), (made, outputs[0])):
                assert graph.scale(index) == graph.scale(like) and graph.dtype(index) == "INT8"
                assert graph.tensors[index].buffer == 0
                assert not graph.tensors[index].isVariable and graph.tensors[index].shapeSignature is None
            options = convolution.builtinOptions
            assert (options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor) == (1, 1, 1, 1)
            assert options.padding == flatbuffer.schema().Padding.VALID
            assert options.fusedActivationFunction == 3 and options.quantizedBiasType == 2
            added = graph.tensors[convolution.inputs[2]]
            stored = graph.constant(convolution.inputs[2])
            np.testing.assert_array_equal(stored, np.arange(64) if bias == "INT32" else np.zeros(64))
            if bias != "INT32":
                np.testing.assert_allclose(added.quantization.scale, 0.5 * scales, rtol=1e-6)
                assert graph.dtype(convolution.inputs[2]) == "INT32" and list(added.quantization.zeroPoint) == [0] * 64
            codes = graph.model.operatorCodes
            codes = {name: codes[operator.opcodeIndex] for name, operator in zip(graph.names, graph.operators)}
            assert {name: code.version for name, code in codes.items()} == {"DENSIFY": 1, "RESHAPE": 1, "CONV_2D": 5}
            assert all(code.builtinCode == code.deprecatedBuiltinCode for code in codes.values())


def test_operation_codes_are_taken_where_their_version_will_do():
    net = Written()
    net.op("CONV_2D", [net.input((1, 1, 1, 4)), net.weights((4, 1, 1, 4))])
    rewriter, number = rewriting.Rewriter(net.model), net.schema.BuiltinOperator.CONV_2D
    assert [rewriter._opcode(number, version) for version in (1, 2, 2, 1, 3)] == [0, 1, 1, 0, 2]
    large = net.schema.BuiltinOperator.GELU
    assert [rewriter._opcode(large, 1), rewriter._opcode(127, 1)] == [3, 4] and large > 127
    assert [(code.builtinCode, code.deprecatedBuiltinCode, code.version) for code in net.model.operatorCodes] == [
        (number, number, 1), (number, number, 2), (number, number, 3), (large, 127, 1), (127, 127, 1)
    ]  # fmt: skip
    # Files of before 2020 have the number in the older field alone.
    net.model.operatorCodes[0].builtinCode = 0
    assert rewriter._opcode(number, 1) == 0


def test_shapes_of_convolutions_against_a_plain_loop():
    for num_inputs in [1, 63, 64, 126, 127, 128, 255, 256, 512, 514, 1000, 4032, 4096, 4160, 16384, 16640]:
        expected = [(7, 1, 1, num_inputs)]
        for columns in range(2, num_inputs + 1):
            length = num_inputs // columns
            if columns * length == num_inputs and columns <= 64 and 64 <= length <= 256:
                expected.append((7, 1, columns, length))
        assert rewriting.convolution_shapes(np.array([7, num_inputs])) == expected


SHARED_BYTES = [
    ("conv 3x3", "float32", 32), ("depthwise", "int8", 32), ("transpose", "float16", 32), ("dense", "int8", 192),
    ("dense on sequences", "int8", 192),
]  # fmt: skip


def test_bytes_of_packed_kernels_add_up_to_those_of_the_file():
    """But for a few bytes of each: tables of one kind share their descriptions, and where one begins is rounded up."""
    for kind, precision, shared in SHARED_BYTES:
        content = zeroed(converted(kind, precision), "channel")
        result = pack.pack(content)
        saved = sum(tensor.num_bytes_before - tensor.num_bytes_after for tensor in result.tensors)
        assert result.num_packed and -32 <= (len(content) - len(result.content) - saved) / result.num_packed <= shared


def test_a_kernel_that_shrinks_by_nothing_is_left_and_by_one_byte_is_packed(monkeypatch):
    net = Written()
    kernel = net.weights(KERNEL, zeros=0.75)
    made = convolved(net, kernel)
    zeros = 1 - np.count_nonzero(constants.values(net.model, net.part.tensors[kernel])) / 4096
    for cost, told in ((4 * 4096, f"packing does not shrink it ({zeros:.0%} zeros)"), (4 * 4096 - 1, "")):
        monkeypatch.setattr(rewriting, "added_bytes", lambda *_: cost)
        assert fate(net, kernel, made) == told
        (tensor,) = pack.pack(net.content(made)).tensors
        assert (tensor.num_bytes_before, tensor.num_bytes_after, tensor.op) == (4 * 4096, cost, "CONV_2D")
    assert 0.7 < zeros < 0.8


def test_a_file_that_does_not_shrink_by_a_byte_is_the_given_one(monkeypatch):
    net = Written()
    kernel = net.weights(KERNEL)
    content = net.content(convolved(net, kernel))
    for size, decision in ((len(content), "left"), (len(content) - 1, "packed")):
        monkeypatch.setattr(pack, "attach", lambda made, files: bytes(size))
        result = pack.pack(content)
        assert [tensor.decision for tensor in result.tensors] == [decision]
        assert (result.content == content) == (decision == "left")


def test_zipped_kernels_and_files_are_compared_with_what_they_were(monkeypatch):
    import zlib

    net = Written()
    kernel = net.weights(KERNEL)
    content = net.content(made := convolved(net, kernel))
    dense = len(zlib.compress(bytes(net.model.buffers[net.part.tensors[kernel].buffer].data), 9))
    for size, told in ((dense, "packing does not shrink it in a zipped download"), (dense - 1, "")):
        with monkeypatch.context() as patch:
            patch.setattr(sparse_layout, "zipped_bytes", lambda array, layout: size)
            patch.setattr(pack.sizes, "gzip_size", len)
            assert fate(net, kernel, made, zipped=True) == told and fate(net, kernel, made) == ""
    for more, decision in ((0, "packed"), (1, "left")):
        with monkeypatch.context() as patch:
            patch.setattr(sparse_layout, "zipped_bytes", lambda array, layout: 0)
            patch.setattr(pack.sizes, "gzip_size", lambda made: 1000 + more * (made != content))
            assert [tensor.decision for tensor in pack.pack(content, zipped=True).tensors] == [decision]
            assert [tensor.decision for tensor in pack.pack(content).tensors] == ["packed"]


def test_what_a_file_is_checked_with(tmp_path, monkeypatch):
    """Sums in another order are allowed where sparse kernels may run alone, and inputs have the shapes that were given."""
    called, emulator = [], object()
    monkeypatch.setattr(equivalence, "check_same", lambda *args, **kwargs: called.append((args, kwargs)))
    monkeypatch.setattr(pack, "Emulator", lambda: emulator)
    contents = {"a stem": zeroed(content_of(mobile(), "float32")), "none": zeroed(converted("conv 3x3", "float32"))}
    contents["nothing to pack"] = converted("conv 3x3", "float32")
    for name, content in contents.items():
        (tmp_path / "a.tflite").write_bytes(content)
        for verify, verify_arm in ((True, False), (True, True), (False, False)):
            called.clear()
            shape = None if not verify else (1, 16, 16, 3) if name == "a stem" else (1, 6, 6, 8)
            result = pack.pack_tflite(tmp_path / "a.tflite", tmp_path / "b.tflite", verify, verify_arm, shapes=shape)
            assert (tmp_path / "b.tflite").read_bytes() == result.content
            if name == "nothing to pack" or not verify:
                assert not called and result.num_packed == (2 if name == "none" else 0) or name == "a stem"
            else:
                (((before, after), options),) = called
                assert (before, after) == (content, result.content) and before != after
                emulated = emulator if verify_arm else None
                assert options == {"reordered": name == "a stem", "emulator": emulated, "shapes": shape}


def test_files_are_packed_for_a_download_where_it_is_asked_for(tmp_path):
    content = zeroed(converted("conv 3x3", "int8"))
    (tmp_path / "a.tflite").write_bytes(content)
    plain, zipped = (pack.pack_tflite(tmp_path / "a.tflite", tmp_path / "b.tflite", zipped=zipped) for zipped in (False, True))
    assert plain.content == pack.pack(content).content != zipped.content == pack.pack(content, zipped=True).content
    for arguments in ({"zipped": 1}, {"verify": "yes"}, {"verify_arm": None}):
        with pytest.raises(TypeError, match="must be a bool"):
            pack.pack_tflite(tmp_path / "a.tflite", tmp_path / "b.tflite", **arguments)
    with pytest.raises(TypeError, match="`zipped` must be a bool"):
        pack.pack(content, zipped=1)


def test_long_names_are_cut_in_the_table_and_rows_without_a_reason_are_apart():
    packed = pack.PackedTensor("x" * 20 + "y" * 47, "CONV_2D, ADD", "packed", "", 1000, 400, "axes 0 [1]")
    (table,) = pack.PackResult(b"", 2000, 1500, (packed, packed)).to_tables()
    rows = list(zip(*([*column.cells] for column in table.columns)))
    assert rows == [("x" + "y" * 47, "CONV_2D, ADD", "packed", "1,000", "400", "axes 0 [1]")] * 2
    assert [column.justify for column in table.columns] == ["left", "left", "left", "right", "right", "left"]


def test_names_that_are_no_text_and_results_in_short():
    net = Written()
    kernel = net.weights(KERNEL)
    net.part.tensors[kernel].name = b"a\xff"
    result = pack.pack(net.content(convolved(net, kernel)))
    assert [tensor.name for tensor in result.tensors] == ["a\ufffd"] and result.num_packed == 1
    assert "content" not in repr(result) and f"num_bytes_after={len(result.content)}" in repr(result)


def test_control_flow_is_named_once():
    for names in (["WHILE"], ["IF", "WHILE", "IF"], ["CALL"], ["CALL_ONCE"], ["STABLEHLO_COMPOSITE"]):
        net = Written()
        kernel = net.weights(KERNEL)
        made = convolved(net, kernel)
        for name in names:
            made = net.op(name, [made])
        assert fate(net, kernel, made) == f"the file has control flow ({', '.join(dict.fromkeys(names))})"


# Running both.


def test_random_inputs_reach_every_number_of_their_type():
    rng = np.random.default_rng(0)

    def drawn(dtype, scale=0.0, size=1.0):
        return equivalence._random({"shape": np.array([40, 50]), "dtype": dtype, "quantization": (scale, 0)}, rng, size)

    for dtype in ("int8", "uint8"):
        made, limits = drawn(dtype, 0.5), np.iinfo(dtype)
        assert made.dtype == dtype and made.shape == (40, 50) and (made.min(), made.max()) == (limits.min, limits.max)
    plain = drawn("int32", size=64.0)
    assert plain.dtype == "int32" and set(np.unique(plain)) == {0, 1}
    truth = drawn("bool")
    assert truth.dtype == bool and 0.4 < truth.mean() < 0.6
    for size in (1.0, 64.0):
        made = drawn("float32", size=size)
        assert made.dtype == "float32" and abs(made.mean()) < 0.1 * size and 0.9 * size < made.std() < 1.1 * size


def test_random_inputs_are_of_several_sizes_and_of_the_shapes_that_were_given():
    net = Written()
    x, y = net.input((1, 4096)), net.input((1, 2))
    net.part.tensors[y].shapeSignature = np.array([1, -1], "int32")
    content = net.content(net.op("RELU", [x]), net.op("RELU", [y]))
    first, second = equivalence.random_inputs(content)
    assert first.shape == (4, 1, 4096) and second.shape == (4, 1, 2)
    np.testing.assert_allclose(first.std(axis=(1, 2)), [1, 1, 4, 64], rtol=0.1)
    assert not np.array_equal(first[0], first[1])
    again, _ = equivalence.random_inputs(content)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "aarch64"])
@pytest.mark.parametrize("reordered", [False, True])
@pytest.mark.parametrize("where", ["with", "without", "CompiledModel", "with on ARM", "without on ARM", "nowhere"])
def test_where_sums_in_another_order_are_allowed(machine, reordered, where, monkeypatch):
    """With the delegate of an ARM machine alone, and up to a ten thousandth."""
    expected = [np.array([[1.0, -2.0]])]

    class Runs:
        def __init__(self, content, **options):
            self.off = options["off"] if "off" in options else content != b"before" and where == "CompiledModel"
            assert options == {"delegate": False, "shapes": (1, 2)}

        def compiled_raw(self, inputs):
            assert inputs == ["inputs"]
            return [x + size * self.off for x in expected]

    def run(content, inputs, suffix=""):
        assert inputs == ["inputs"]
        return {name: [x + size * (content == b"after" and where == name + suffix) for x in expected] for name in litert_runs}

    litert_runs = equivalence.litert.RUNS
    emulator = type("Emulated", (), {"run": staticmethod(lambda content, inputs: run(content, inputs, " on ARM"))})
    monkeypatch.setattr(equivalence.platform, "machine", lambda: machine)
    monkeypatch.setattr(equivalence, "random_inputs", lambda content, shapes: ["inputs"])
    monkeypatch.setattr(equivalence, "_run_here", run)
    monkeypatch.setattr(equivalence, "Runner", Runs)
    arm_here = machine == "aarch64"
    allowed = reordered and (where == "with on ARM" or arm_here and where in ("with", "CompiledModel")) or where == "nowhere"
    for size in (1.9e-4, 2.1e-4):
        if where == "nowhere" or allowed and size < 2e-4:
            equivalence.check_same(b"before", b"after", reordered, emulator, (1, 2))
            continue
        told = "as CompiledModel" if where == "CompiledModel" else f"{where.split()[0]} the default delegate"
        told += " on an emulated ARM machine" if "ARM" in where else ""
        told = f"must compute the same {told}, to the last bit.*Received: output=0"
        with pytest.raises(export.VerificationError, match=told):
            equivalence.check_same(b"before", b"after", reordered, emulator, (1, 2))


@pytest.mark.parametrize("errors, wrong", [
    ((0.0, 0.0), None), ((0.01, 0.04), None), ((0.04, 0.01), None), ((0.06, 0.0), "with"), ((0.0, 0.06), "without"),
    ((0.06, 0.07), "with"), ((np.nan, 0.0), "with"),
])  # fmt: skip
def test_files_on_arm_are_as_near_as_rounding(errors, wrong, monkeypatch):
    here = [np.array([[3.0, -4.0]])]
    runs = {name: [x * (1 + error) for x in here] for name, error in zip(("with", "without"), errors)}
    monkeypatch.setattr(equivalence, "random_inputs", lambda content, shapes: [shapes])

    def run(content, inputs, delegate):
        assert (content, inputs, delegate) == (b"file", [(1, 2)], False)
        return here

    monkeypatch.setattr(equivalence.litert, "run", run)
    emulator = type("Emulated", (), {"run": staticmethod(lambda content, inputs: runs)})
    if wrong is None:
        assert equivalence.check_on_arm(b"file", emulator, (1, 2)) == pytest.approx(max(errors), abs=1e-9)
    else:
        with pytest.raises(export.VerificationError, match=f"on an emulated ARM machine {wrong} its default delegate as here"):
            equivalence.check_on_arm(b"file", emulator, (1, 2))


def test_what_litert_says_is_cut_and_told_in_one_line():
    def refuse():
        raise RuntimeError("a\n  b. " + "c" * 400)

    with pytest.raises(export.VerificationError) as caught:
        equivalence._ran("packed", 7, " there", refuse)
    said = str(caught.value)
    assert "The packed file must run in LiteRT there, with and without" in said and f"it says: a b. {'c' * 295}." in said
    assert "num_bytes=7" in said and "c" * 296 not in said


def test_bounds_of_the_same_outputs():
    ones, zeros = np.ones((2, 3)), np.zeros((2, 3))
    assert equivalence._agree(ones, ones + 0.25, 0.25) and not equivalence._agree(ones, ones + 0.26, 0.25)
    assert equivalence._agree(-ones, 0.25 - ones, 0.25) and not equivalence._agree(ones, ones - 0.26, 0.25)
    assert equivalence._agree(zeros, zeros + 0.9e-36, 1e-6) and not equivalence._agree(zeros, zeros + 1.1e-36, 1e-6)
    assert equivalence._agree(np.zeros((2, 0)), np.zeros((2, 0)), 1e-6) and equivalence._agree(ones[:, :0], ones[:, :0], 0.0)
    integers = np.array([[1, 2]], "int8")
    assert equivalence._agree(integers, integers.copy(), 0.0) and not equivalence._agree(integers, integers + np.int8(1), 0.0)
    for one, other in ((1e-10, 2e-10), (1e8, 1.0000001e8)):
        for dtype in ("float32", "float64", "float16"):
            arrays = [np.array([[number]], "float64").astype(dtype) for number in (min(one, 6e4), min(other, 6e4))]
            assert equivalence._agree(*arrays, 0.0) == (arrays[0] == arrays[1]).all()
    # The difference of two numbers of 8 bits is no number of 8 bits.
    far = np.array([[-128]], "int8"), np.array([[127]], "int8")
    assert not equivalence._agree(*far, 0.5) and equivalence._agree(*far, 2.0)


def test_an_operation_without_a_table_of_options_is_packed():
    """LiteRT takes the defaults then; it ended in an AttributeError."""
    net = Written()
    x, w = net.input((1, 64), "INT8", scale=0.5), net.weights((64, 64), "INT8", scale=0.25)
    y = net.op("FULLY_CONNECTED", [x, w], made=net.tensor((1, 64), "INT8", scale=2.0))
    content = net.content(y)
    x = [np.ones((1, 1, 64), "int8")]
    packed = pack.pack(content).content
    np.testing.assert_array_equal(executed(packed, x, False)[0], executed(content, x, False)[0])
