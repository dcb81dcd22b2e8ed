"""Readers of files that anybody may have written: configurations, arrays, models. Whatever is in them is read or explained."""

import io
import pathlib
import resource
import struct
import tempfile
import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tf_reweight as tfr
from tf_reweight import data, export
from tf_reweight.cli import main
from tf_reweight.packing.pack import pack
from tf_reweight.tflite import execution, flatbuffer, metadata
from tf_reweight.workflow import config, strict_yaml

# Milliseconds that no example may take, and bytes that no file may make of this process.
SOON, MEMORY = 5_000, 1 << 30
FUZZ = settings(
    max_examples=150, deadline=SOON, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def within_memory(read):
    """What a reader says of a file: nothing where it reads it, the message where it does not."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read()
        said = None
    except (ValueError, OSError) as error:
        said = str(error)
        assert "Received: " in said, said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY / 1024
    return said


def slips(content):
    """A file with bytes flipped, cut out, doubled or overwritten, in a few places."""
    place = st.integers(0, len(content) - 1)
    slip = st.tuples(st.sampled_from(["flip", "cut", "double", "write"]), place, st.integers(1, 255), st.integers(1, 64))

    def with_slips(chosen):
        found = bytearray(content)
        for kind, start, value, length in chosen:
            start = min(start, len(found) - 1)
            part = found[start : start + length]
            if kind == "flip":
                found[start] ^= value
            else:
                found[start : start + length] = {"cut": b"", "double": part * 2, "write": bytes([value]) * len(part)}[kind]
            found = found or bytearray(b"\0")
        return bytes(found)

    return st.lists(slip, min_size=1, max_size=4).map(with_slips)


WORDS = ["train", "epochs", "name", "prune", "sparsity", "regularize", "rules", "&a", "*a", "<<", "true", ".inf", "1e999", "-1",
         "3", "[", "]", "{", "}", ": ", ", ", "- ", "\n", "  ", "? ", "!!python/name:os.system", "!!binary", "|", ">", "'", '"',
         "#", "~", "2001-01-01", "digits", "9" * 40, "\x85", "é"]  # fmt: skip


@FUZZ
@given(st.one_of(st.lists(st.sampled_from(WORDS), max_size=40).map("".join), st.text(max_size=60)))
def test_every_configuration_is_read_or_explained(text):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "c.yaml"
        path.write_text(text, encoding="utf-8", errors="replace")
        within_memory(lambda: config.load(path))


def bomb(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)])


@pytest.mark.parametrize(
    "text, words",
    [
        (bomb(9), "more than 100,000 values"),
        ("train: &t {epochs: *t}", "a part of itself"),
        ("stages: &s [*s]", "a part of itself"),
        ("train: " + "[" * 3000 + "]" * 3000, "recursion"),
        ("# " + "x" * 2_000_000, "characters"),
        ("train: {epochs: true}", "true and false are no value"),
        ("train: {learning_rate: false}", "true and false are no value"),
        ("train: {learning_rate: 1.0e+300}", "numbers are at most 3.4e+38"),
        ("train: {learning_rate: 1e300}", "numbers are at most 3.4e+38"),
        ("task: {loss: [mse], loss_weights: [1.0e+39]}", "numbers are at most 3.4e+38"),
        ("data: {image_size: [true, 3]}", "true and false are no value"),
        ("train: {class_weight: {0: true}}", "true and false are no value"),
        ("task: {loss: mse, loss_weights: {a: false}}", "true and false are no value"),
        ("train: {class_weight: {0: 1.0e+39}}", "numbers are at most 3.4e+38"),
        ("train: {class_weight: {0: 1, '0': 5}}", "each class has one weight"),
        ("train: {class_weight: {1: 1, ' 01 ': 5}}", "each class has one weight"),
        ("train: {epochs: 4294967296}", "at most 4,294,967,295"),
        ("data: {image_size: [96, 100000000000]}", "at most 4,294,967,295"),
    ],
)
def test_what_a_configuration_may_not_be(text, words, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    assert words in within_memory(lambda: config.load(tmp_path / "c.yaml"))


def test_names_for_parts_stay_allowed():
    assert strict_yaml.load(bomb(4))["a3"][0][0][0][0] == "x"
    found = strict_yaml.load("train: &t {epochs: 1}\nretrain: {<<: *t, learning_rate: 0.1}")
    assert found["retrain"] == {"epochs": 1, "learning_rate": 0.1} and strict_yaml.load("") is None
    assert config.load({"export": {"pack": True}, "cluster": {"per_channel": True}}).cluster.per_channel is True
    with pytest.raises(yaml.YAMLError, match="twice"):
        strict_yaml.load("a: 1\na: 2")


def archive(compressed):
    stored = io.BytesIO()
    x = np.random.default_rng(0).integers(0, 255, (40, 4, 4), "uint8")
    (np.savez_compressed if compressed else np.savez)(stored, x=x, y=np.arange(40) % 4)
    return stored.getvalue()


@FUZZ
@given(st.one_of(slips(archive(True)), slips(archive(False))))
def test_every_archive_of_arrays_is_read_or_explained(content):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.npz"
        path.write_bytes(content)
        within_memory(lambda: data.load(path))


def with_header(shape, dtype, content=b"", stored=zipfile.ZIP_STORED):
    """An archive whose `x` says that it has this shape, and has this content."""
    out, header = io.BytesIO(), repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(out, "w", stored) as zipped:
        zipped.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content)
        labels = io.BytesIO()
        np.save(labels, np.arange(10) % 2)
        zipped.writestr("y.npy", labels.getvalue())
    return out.getvalue()


@pytest.mark.parametrize(
    "content, words",
    [
        (with_header((10**12, 4), "<f4"), "is whole"),
        (with_header((10, 4), "<f4", bytes(20)), "is whole"),
        (with_header((10, 4), "<f4", bytes(50_000_000), zipfile.ZIP_DEFLATED), "is whole"),
        (with_header((10, 4), "|O", bytes(80)), "arrays of numbers"),
        (with_header((-1, 4), "<f4", bytes(80)), "Received"),
        (with_header((10, 4), "no type", bytes(80)), "arrays of numbers"),
    ],
)
def test_arrays_that_are_not_what_they_say(content, words, tmp_path, capsys):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    assert words in within_memory(lambda: data.load(path))
    assert main.console(["compress", "--set", f"data.name={path}", "--config", "configs/quickstart.yaml",
                         "--out", str(tmp_path / "run")]) == 2  # fmt: skip
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("labels", [[0, 1, 2**32], [0, 1, 2**31], [0, 1, 2**40 + 1], [0, 2**33 + 1, 1]])
def test_labels_beyond_32_bits_do_not_come_round_as_others(labels, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((30, 4)), y=np.array(labels * 10))
    with pytest.raises(ValueError, match="Labels must be 0..n-1"):
        data.load(tmp_path / "a.npz")


def test_a_folder_that_is_called_like_an_image_is_no_image(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(6):
            keras.utils.save_img(tmp_path / name / f"{i}.png", np.full((4, 4, 1), i * 40), scale=False)
    (tmp_path / "a" / "x.png").mkdir()
    found = data.load(tmp_path)
    assert sum(len(y) for _, y in (found.train, found.validation, found.test)) == 12
    (tmp_path / "b" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(ValueError, match="can be decoded"):
        data.load(tmp_path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(3)])
    path = tmp_path_factory.mktemp("file") / "a.tflite"
    export.export_tflite(model, path)
    return path.read_bytes()


def test_every_file_is_read_or_explained(file):
    @FUZZ
    @given(slips(file))
    def fuzz(content):
        within_memory(lambda: pack(content))
        within_memory(lambda: flatbuffer.parse(content))

    fuzz()


def damages(content):
    """Files that are damaged where flatbuffers still read them, by what is damaged."""
    name = content.index(b"serving_default")
    yield "whole TFLite flatbuffer", content[:name] + bytes([content[name] ^ 0x80]) + content[name + 1 :]
    model = flatbuffer.read(content)
    sparse = next(tensor for tensor in model.subgraphs[0].tensors if tensor.sparsity is not None)
    sparse.sparsity.dimMetadata[0].denseSize ^= 4
    yield "sparse weights of the file must be whole", flatbuffer.write(model)
    labelled = bytearray(metadata.annotate(content, [str(number) for number in range(64)]))
    labelled[labelled.index(b"M001") - 1] ^= 0x40  # where the metadata begins
    yield "metadata of the file must be whole", bytes(labelled)


def test_damage_is_told_alike_by_all_who_read_a_file(tmp_path):
    """`pack` took what `inspect` refused."""
    layers = [keras.Input((64,)), keras.layers.Dense(64, kernel_initializer="identity")]
    model, path = keras.Sequential(layers), tmp_path / "a.tflite"
    export.export_tflite(model, path)
    assert export.pack_tflite(path, path).num_packed
    for words, content in damages(path.read_bytes()):
        path.write_bytes(content)
        readers = [lambda: export.inspect_tflite(path), lambda: export.pack_tflite(path, path)]
        readers += [] if "metadata" in words else [lambda: execution.Runner(path), lambda: export.check_file(path)]
        said = {within_memory(read) for read in readers}
        assert len(said) == 1 and words in str(said), said
        assert path.read_bytes() == content


def seen_by_litert_alone(content):
    """A damaged file that its readers in Python take: a name that points outside."""
    for start in range(16, len(content) - 40, 8):
        damaged = content[:start] + bytes(40) + content[start + 40 :]
        try:
            flatbuffer.parse(damaged)
            Interpreter(model_content=damaged)
        except ValueError as error:
            if "not a valid Flatbuffer" in str(error):
                return damaged
    raise AssertionError("none found")


def test_damage_that_litert_alone_sees_is_told_alike(file, tmp_path, capsys):
    """`inspect` showed what it had read of a file that no phone opens, and ended well."""
    path, content = tmp_path / "a.tflite", seen_by_litert_alone(file)
    path.write_bytes(content)
    assert export.inspect_tflite(path).num_bytes == len(content)
    told = flatbuffer.unfit(content, path)
    assert main.console(["inspect", str(path)]) == 2 and told in capsys.readouterr().err
    assert {within_memory(lambda: execution.Runner(path)), within_memory(lambda: export.check_file(path))} == {told}
    # What this LiteRT does not have is no damage.
    model = flatbuffer.read(file)
    model.operatorCodes[0].version = 99
    path.write_bytes(flatbuffer.write(model))
    assert main.console(["inspect", str(path)]) == 0
    assert "LiteRT refuses the file, so that where its operations run is not known" in capsys.readouterr().out


def test_a_file_that_litert_refuses_is_not_packed_where_nothing_shrinks(file, tmp_path):
    model = flatbuffer.read(file)
    model.operatorCodes[0].version = 99
    path = tmp_path / "a.tflite"
    path.write_bytes(flatbuffer.write(model))
    said = within_memory(lambda: export.pack_tflite(path, tmp_path / "b.tflite"))
    assert said == within_memory(lambda: execution.Runner(path)) is not None and not (tmp_path / "b.tflite").exists()
    assert export.pack_tflite(path, tmp_path / "b.tflite", verify=False).num_packed == 0


def test_a_model_without_a_single_input_is_told_so():
    model = keras.Sequential([keras.Input((0,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="has no weights"):
        tfr.prune(model, "unstructured", sparsity=0.5)


ERRORS = [MemoryError(), KeyError("x"), RecursionError("deep"), ValueError(), OSError(28, "No space", "f")]


@pytest.mark.parametrize("error", ERRORS)
def test_no_error_of_a_command_is_a_traceback(error, monkeypatch, capsys):
    def fails(values, positional):
        raise error

    monkeypatch.setitem(main.COMMANDS, "inspect", (lambda values: None, fails))
    assert main.console(["inspect", "a"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Received: " in said and "Traceback" not in said
    with pytest.raises(type(error)):
        main.console(["inspect", "a", "--debug"])


def with_parts(path, change):
    """The bytes of a `.keras` archive whose parts, a dict of bytes by name, a function has changed."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return made.getvalue()


def test_damage_of_a_model_file_is_told_from_custom_layers(tmp_path):
    """All were told to register their custom layers."""
    weights, path, other = "model.weights.h5", tmp_path / "a.keras", tmp_path / "other.keras"
    for file, units in ((path, 3), (other, 5)):
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)]).save(file)
    with zipfile.ZipFile(other) as archive:
        exchanged = archive.read(weights)
    whole = with_parts(path, lambda parts: None)
    flipped = bytearray(whole)
    flipped[whole.index(b"\x89HDF") + 2000] ^= 255
    for content, words in (
        (bytes(flipped), "whole, and its part model.weights.h5 is not as it was written"),
        (with_parts(path, lambda parts: parts.pop("config.json")), "whole, and it has no config.json"),
        (with_parts(path, lambda parts: parts.pop(weights)), "whole, and it has no model.weights.h5"),
        (with_parts(path, lambda parts: parts.update({weights: parts[weights][:3000]})), "model.weights.h5 cannot be read"),
        (with_parts(path, lambda parts: parts.update({weights: exchanged})), "Its weights are those of another model"),
    ):
        (tmp_path / "bad.keras").write_bytes(content)
        with pytest.raises(ValueError, match=words) as raised:
            data.models.load(str(tmp_path / "bad.keras"))
        assert str(raised.value).count("Received: ") == 1 and "must be registered" not in str(raised.value)
    (tmp_path / "good.keras").write_bytes(whole)
    assert data.models.load(str(tmp_path / "good.keras")).count_params() == 15
