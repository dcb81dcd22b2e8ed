"""Metadata in a file: it comes back as written, zip tools read the labels, and the file computes what it did."""

import io
import zipfile

import keras
import numpy as np
import packed_nets
import pytest

from tf_reweight import export
from tf_reweight.export import samples
from tf_reweight.export.conversion import convert
from tf_reweight.graph import random_inputs
from tf_reweight.packing import pack
from tf_reweight.tflite import flatbuffer, metadata, sizes

LABELS = ["cat", "dog", "Käfer"]


def classifier(channels=3):
    photo, layers = keras.Input((8, 8, channels), name="photo"), keras.layers
    return keras.Sequential([photo, layers.Conv2D(48, 3), layers.Flatten(), layers.Dense(3, name="scores")])


@pytest.fixture(scope="module")
def content():
    return packed_nets.content_of(classifier(), "int8")


def two_ended():
    first, second = keras.Input((6,), name="left"), keras.Input((4,), name="right")
    joined = keras.layers.Concatenate()([first, second])
    heads = [keras.layers.Dense(n, name=name)(joined) for n, name in ((3, "kind"), (1, "size"))]
    return packed_nets.content_of(keras.Model([first, second], heads), "float32")


def test_what_is_written_comes_back_and_the_file_computes_the_same(content):
    annotated = metadata.annotate(content, LABELS, ([1, 2, 3], [4, 5, 6]), "pets", "which pet it is")
    found = metadata.read(annotated)
    assert (found["name"], found["description"]) == ("pets", "which pet it is")
    (photo,), (scores,) = found["inputs"], found["outputs"]
    assert photo == {
        "name": "photo", "description": None, "kind": "image", "mean": [1, 2, 3], "std": [4, 5, 6], "labels": None
    }  # fmt: skip
    assert scores["labels"] == LABELS and scores["kind"] == "features" and scores["mean"] is None
    with zipfile.ZipFile(io.BytesIO(annotated)) as archive:
        assert archive.read("labels.txt").decode() == "cat\ndog\nKäfer\n" and archive.testzip() is None
        info = archive.getinfo("labels.txt")
        # Readers on phones look the entry up from the file's first byte, and do not decompress.
        assert annotated[info.header_offset :][:4] == b"PK\x03\x04" and info.compress_type == zipfile.ZIP_STORED
    x = np.random.default_rng(0).random((4, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(export.Runner(annotated)([x])[0], export.Runner(content)([x])[0])
    assert metadata.annotate(content, LABELS, ([1, 2, 3], [4, 5, 6]), "pets", "which pet it is") == annotated


def test_fields_lie_where_the_public_schema_has_them(content):
    """Read here by slot numbers, without the reader under test: a shifted slot would be unreadable for every other tool."""
    from flatbuffers import number_types, table

    annotated = metadata.annotate(content, LABELS, (0, 255))
    model = flatbuffer.parse(annotated)
    entry = next(item for item in model.metadata if item.name == b"TFLITE_METADATA")
    data = bytearray(model.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"

    def field(parent, slot):
        return parent.Offset(4 + 2 * slot) + parent.Pos

    def first(parent, slot):
        return table.Table(data, parent.Indirect(parent.Vector(parent.Offset(4 + 2 * slot))))

    root = table.Table(data, int.from_bytes(data[:4], "little"))
    assert root.String(field(root, 7)) == b"1.0.0"
    graph = first(root, 3)
    step = first(first(graph, 2), 4)
    assert step.Get(number_types.Uint8Flags, field(step, 0)) == 1
    options = table.Table(data, step.Indirect(field(step, 1)))
    assert options.VectorLen(options.Offset(6)) == 1 and options.Get(
        number_types.Float32Flags, options.Vector(options.Offset(6))
    ) == 255.0  # fmt: skip
    file = first(first(graph, 3), 6)
    assert file.String(field(file, 0)) == b"labels.txt" and file.Get(number_types.Int8Flags, field(file, 2)) == 2


def test_files_without_metadata_and_metadata_written_twice(content):
    assert metadata.read(content) is None and metadata.attached_files(content) == {}
    once = metadata.annotate(content, LABELS, (0, 255))
    again = metadata.annotate(once, name="other")
    assert metadata.read(again)["outputs"][0]["labels"] == LABELS and metadata.read(again)["inputs"][0]["std"] == [255]
    assert len(flatbuffer.parse(again).metadata) == len(flatbuffer.parse(once).metadata)
    renamed = metadata.annotate(once, ["a", "b", "c"])
    assert metadata.read(renamed)["outputs"][0]["labels"] == ["a", "b", "c"]
    assert list(metadata.attached_files(renamed)) == ["labels.txt"]


def test_files_attached_by_others_stay(content):
    theirs = metadata.attach(content, {"vocabulary.txt": b"words"})
    assert metadata.attached_files(metadata.annotate(theirs, LABELS)) == {
        "vocabulary.txt": b"words", "labels.txt": "cat\ndog\nKäfer\n".encode()
    }  # fmt: skip


def test_packing_and_inspection_keep_it(content, tmp_path):
    given, packed = tmp_path / "given.tflite", tmp_path / "packed.tflite"
    given.write_bytes(metadata.annotate(packed_nets.zeroed(content, fraction=0.9), LABELS, (0, 255)))
    assert pack.pack_tflite(given, packed).num_packed
    summary = export.inspect_tflite(packed)
    assert summary.metadata == metadata.read(given.read_bytes()) and summary.metadata["outputs"][0]["labels"] == LABELS
    with zipfile.ZipFile(packed) as archive:
        assert archive.read("labels.txt").decode().split() == LABELS


def test_several_inputs_and_outputs():
    content = two_ended()
    annotated = metadata.annotate(content, LABELS, {"right": (1, 2)})
    found = metadata.read(annotated)
    by_name = {item["name"]: item for item in found["inputs"] + found["outputs"]}
    assert by_name["kind"]["labels"] == LABELS and by_name["size"]["labels"] is None
    assert by_name["right"]["mean"] == [1] and by_name["left"]["mean"] is None
    with pytest.raises(ValueError, match="for files of one input"):
        metadata.annotate(content, normalization=(0, 1))
    with pytest.raises(ValueError, match="Did you mean 'right'"):
        metadata.annotate(content, normalization={"rigt": (0, 1)})


@pytest.mark.parametrize("labels", [["a", "b"], ["a", 2, "b"], ["a", "b", "c\nd"], ["a", "b", " "], []])
def test_labels_that_do_not_fit(content, labels):
    with pytest.raises(ValueError, match="label"):
        metadata.annotate(content, labels)


@pytest.mark.parametrize("step", [(0, 0), (0, -1), (0, float("nan")), ([0, 0], [1, 1]), (0,), 255, "ab", ([0] * 3, 1)])
def test_normalisations_that_cannot_be(content, step):
    with pytest.raises(ValueError, match=r"must be \(mean, std\)"):
        metadata.annotate(content, normalization=step)


def test_damage_is_named(content):
    annotated = bytearray(metadata.annotate(content, LABELS))
    place = annotated.index(b"M001")
    annotated[place : place + 4] = b"M999"
    with pytest.raises(ValueError, match="metadata of the file must be whole"):
        metadata.read(bytes(annotated))
    with pytest.raises(ValueError, match="must be a TFLite flatbuffer"):
        metadata.annotate(b"nothing of the kind", LABELS)


def test_tensors_have_the_names_of_the_signature():
    """For those who take a file without asking for its signature."""
    model = classifier(channels=1)
    specs = samples.input_specs(model, None)
    content = convert(model, "int8", specs, random_inputs.inputs(model, specs, num=8), quantized_io=True)
    graph = flatbuffer.parse(content).subgraphs[0]
    names = [graph.tensors[i].name for i in (*graph.inputs, *graph.outputs)]
    assert names == [b"photo", b"scores"] and list(export.Runner(content).inputs) == ["photo"]


@pytest.mark.parametrize("alignment", [4, 16384])
def test_what_a_file_adds_to_an_apk(alignment):
    """Against archives built here, over every offset at which the entry can begin."""
    content, worst = bytes(999), 0
    for before in range(0, alignment, max(1, alignment // 64)):
        stream = io.BytesIO(bytes(before))
        stream.seek(0, io.SEEK_END)
        with zipfile.ZipFile(stream, "w") as archive:
            info = zipfile.ZipInfo("assets/model.tflite")
            start = before + 30 + len(info.filename)
            # zipalign pads in the extra field of the local header alone; Python repeats it in the directory.
            info.extra = bytes(-start % alignment)
            archive.writestr(info, content)
            info.extra = b""
        worst = max(worst, len(stream.getvalue()) - before - 22)
    counted = sizes.apk_size(len(content), alignment)
    assert worst <= counted <= worst + max(1, alignment // 64)
