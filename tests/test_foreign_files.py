"""Files made elsewhere, by TensorFlow or litert-quantizer alone, go through every command; what is no file is refused."""

import json
import zipfile

import keras
import numpy as np
import pytest

from tf_reweight import export
from tf_reweight.cli import main
from tf_reweight.pruning.prune import prune
from tf_reweight.tflite import flatbuffer, metadata

VERBS = ("inspect", "pack", "arm", "bundle", "benchmark")


def classifier():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    stack = [keras.Input((8, 8, 4), name="photo"), layers.Conv2D(64, 3, activation="relu"), layers.Conv2D(64, 1)]
    model = keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax")])
    prune(model, sparsity=0.9, structure="unstructured", scope="layer")
    return model


def two_ended():
    left, right = keras.Input((16,), name="left"), keras.Input((16,), name="right")
    joined = keras.layers.Concatenate()([left, right])
    return keras.Model([left, right], [keras.layers.Dense(n, name=f"d{n}")(joined) for n in (3, 1)])


def converter_of(model, folder):
    import tensorflow as tf

    model.export(folder, verbose=False)
    return tf.lite.TFLiteConverter.from_saved_model(str(folder))


def fully_quantized(folder):
    import tensorflow as tf

    converter, rng = converter_of(classifier(), folder), np.random.default_rng(0)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([rng.random((1, 8, 8, 4), "float32")] for _ in range(8))
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def unsigned(folder):
    """Two inputs and outputs, no signature, a batch and a width that are open."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, 4)), tf.TensorSpec((1, 3))])
    def add(a, b):
        return tf.reduce_sum(tf.nn.relu(a), axis=1), b * 2.0

    return tf.lite.TFLiteConverter.from_concrete_functions([add.get_concrete_function()]).convert()


def looping(folder):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1, 4))])
    def loop(x):
        return tf.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v * 2.0), [0, x])[1]

    return tf.lite.TFLiteConverter.from_concrete_functions([loop.get_concrete_function()]).convert()


def twice_signed(folder):
    import tensorflow as tf

    module = tf.Module()
    module.double = tf.function(lambda x: {"y": x * 2.0}, input_signature=[tf.TensorSpec((1, 4), name="x")])
    module.more = tf.function(lambda x: {"y": x + 1.0}, input_signature=[tf.TensorSpec((1, 3), name="x")])
    signatures = {name: getattr(module, name).get_concrete_function() for name in ("double", "more")}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["double", "more"]).convert()


def edge_quantized(folder):
    pytest.importorskip("litert_quantizer", reason="the extra for litert-quantizer is not installed")
    from litert_quantizer import quantizer, recipe

    (folder / "float.tflite").write_bytes(converter_of(classifier(), folder / "saved").convert())
    return bytes(quantizer.Quantizer(str(folder / "float.tflite"), recipe.dynamic_wi8_afp32()).quantize().quantized_model)


def nameless(folder):
    """A signature whose name is empty: LiteRT runs none of that name."""
    file = flatbuffer.read(converter_of(two_ended(), folder).convert())
    file.signatureDefs[0].signatureKey = ""
    return bytes(flatbuffer.write(file))


MAKERS = {
    "open batch": lambda folder: converter_of(classifier(), folder).convert(),
    "int8 in and out": fully_quantized,
    "several inputs and outputs": lambda folder: converter_of(two_ended(), folder).convert(),
    "no signature, open shapes": unsigned,
    "a signature without a name": nameless,
    "two signatures": twice_signed,
    "control flow": looping,
    "litert-quantizer": edge_quantized,
}


@pytest.fixture(scope="module", params=MAKERS)
def given(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "model.tflite"
    folder = tmp_path_factory.mktemp("made")
    path.write_bytes(MAKERS[request.param](folder))
    return request.param, path


def raw_outputs(content, seed=0):
    """What LiteRT alone computes on random inputs."""
    from ai_edge_litert import interpreter as litert

    runner, rng = litert.Interpreter(model_content=content), np.random.default_rng(seed)
    runner.allocate_tensors()
    for detail in runner.get_input_details():
        value = rng.integers(-128, 128, detail["shape"]) if detail["dtype"] is np.int8 else rng.random(detail["shape"])
        runner.set_tensor(detail["index"], value.astype(detail["dtype"]))
    runner.invoke()
    return [runner.get_tensor(detail["index"]) for detail in runner.get_output_details()]


def arguments(verb, path, folder):
    more = {"pack": [folder / "out.tflite"], "bundle": [folder / "out.zip"], "benchmark": [path, "--runs", "2"]}
    return [verb, *map(str, [path, *more.get(verb, [])])]


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_works_on_it(given, verb, tmp_path, capsys):
    kind, path = given
    assert main.console([*arguments(verb, path, tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main.console(arguments(verb, path, tmp_path)) == 0
    assert capsys.readouterr().out.strip()


def test_packed_and_bundled_it_computes_the_same(given, tmp_path):
    kind, path = given
    before = raw_outputs(path.read_bytes())
    result = export.pack_tflite(path, tmp_path / "packed.tflite")
    assert (result.num_packed > 0) == (kind in ("open batch", "int8 in and out"))
    steps = {name: (0, 255) for name in export.Runner(path).inputs}
    said = export.bundle(path, tmp_path / "app.zip", normalization=steps)
    with zipfile.ZipFile(tmp_path / "app.zip") as archive:
        described = archive.read("model.tflite")
    for content in ((tmp_path / "packed.tflite").read_bytes(), described):
        for first, second in zip(before, raw_outputs(content), strict=True):
            np.testing.assert_array_equal(first, second)
    names = [item["name"] for item in metadata.read(described)["inputs"]]
    assert set(names) == {item["name"] for item in said["inputs"]} == set(said["normalization"])
    assert len(said["signatures"]) == {"no signature, open shapes": 0, "control flow": 0, "two signatures": 2}.get(kind, 1)


def test_names_and_open_sizes_are_said(tmp_path, capsys):
    (tmp_path / "a.tflite").write_bytes(unsigned(tmp_path))
    (tmp_path / "b.tflite").write_bytes(converter_of(two_ended(), tmp_path / "saved").convert())
    said = export.bundle(tmp_path / "a.tflite", tmp_path / "a.zip")
    assert [item["shape"] for item in said["inputs"]] == [[-1, -1, 4], [1, 3]]
    flags = ["--normalization", "left=0,255", "--normalization", "right=1,2"]
    assert main.console(["bundle", str(tmp_path / "b.tflite"), str(tmp_path / "b.zip"), *flags]) == 0
    assert json.loads(capsys.readouterr().out)["normalization"] == {
        "left": {"mean": [0], "std": [255]}, "right": {"mean": [1], "std": [2]}
    }  # fmt: skip
    assert main.console(["bundle", str(tmp_path / "b.tflite"), str(tmp_path / "b.zip"), "--normalization", "0,255"]) == 2
    assert "for files of one input" in capsys.readouterr().err


def test_sizes_that_a_file_leaves_open_can_be_given(tmp_path, capsys):
    """A network for images of any size takes none of one pixel: 'valid' convolutions leave nothing of it."""
    wide, narrow = keras.layers.Conv2D(64, 5), keras.layers.Conv2D(4, 3)
    model = keras.Sequential([keras.Input((None, None, 8)), wide, narrow, keras.layers.GlobalAveragePooling2D()])
    kernel = np.asarray(model.layers[0].kernel)
    model.layers[0].kernel.assign(np.where(np.random.default_rng(0).random(kernel.shape) < 0.9, 0, kernel))
    path = tmp_path / "open.tflite"
    path.write_bytes(converter_of(model, tmp_path / "saved").convert())
    with pytest.raises(ValueError, match="--shape"):
        export.Runner(path)
    runner = export.Runner(path, shapes=(1, 12, 9, 8))
    (name,) = runner.inputs
    x = np.random.default_rng(1).normal(size=(3, 12, 9, 8)).astype("float32")
    np.testing.assert_allclose(runner([x])[0], model.predict(x, verbose=0), atol=1e-5)
    result = export.pack_tflite(path, tmp_path / "packed.tflite", shapes={name: (1, 12, 12, 8)})
    assert result.num_packed > 0
    assert export.benchmark([path, tmp_path / "packed.tflite"], num_runs=2, shapes=(1, 12, 12, 8)).rows
    export.bundle(path, tmp_path / "app.zip", normalization=(0, 255), shapes=(1, 12, 12, 8))
    for verb in ("pack", "bundle", "benchmark"):
        for shape in ("1,12,12,8", f"{name}=1,12,12,8"):
            assert main.console([*arguments(verb, path, tmp_path), "--shape", shape]) == 0
        for shape, words in (
            ("1,12,12,7", "must fit"), ("1,12,12", "must fit"), ("1,0,12,8", "must fit"), ("1,a", "whole numbers"),
            ("nam=1,12,12,8", "Valid: "),
        ):  # fmt: skip
            normalized = ["--normalization", "0,255"] if verb == "bundle" else []
            assert main.console([*arguments(verb, path, tmp_path), *normalized, "--shape", shape]) == 2
            assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return converter_of(two_ended(), tmp_path_factory.mktemp("saved")).convert()


def damaged(whole):
    yield "empty", b""
    yield "text", b"this is no model at all, but a text of some length"
    yield "another flatbuffer", whole[:4] + b"XXXX" + whole[8:]
    yield "an archive", b"PK\x03\x04" + bytes(100)
    yield "its identifier alone", b"\x1c\x00\x00\x00TFL3" + bytes(24)
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        yield f"the first {share:.0%}", whole[: int(share * len(whole))]


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_whole_file_is_refused_and_leaves_nothing(whole, verb, tmp_path, capsys):
    path, folder = tmp_path / "bad.tflite", tmp_path / "out"
    folder.mkdir()
    for kind, content in damaged(whole):
        path.write_bytes(content)
        assert main.console(arguments(verb, path, folder)) == 2, kind
        text = capsys.readouterr().err
        assert text.startswith("error: ") and "Received: " in text and "Traceback" not in text, kind
        assert "bad.tflite" in text, (kind, text)
        assert not list(folder.iterdir()), kind
    path.unlink()
    assert main.console(arguments(verb, path, folder)) == 2
    assert "must exist" in capsys.readouterr().err


def test_a_plain_file_is_compared_with_its_model_whatever_it_calls_the_ends(tmp_path):
    """It calls the outputs of a list by their positions, and lists inputs by the alphabet."""
    keras.utils.set_random_seed(0)
    first, second = keras.Input((3,), name="z"), keras.Input((3,), name="a")
    joined = keras.layers.Concatenate()([first, keras.layers.ReLU()(second)])
    model = keras.Model([first, second], [keras.layers.Dense(2, name=name)(joined) for name in ("y", "b")])
    (tmp_path / "a.tflite").write_bytes(converter_of(model, tmp_path / "saved").convert())
    data = list(np.random.default_rng(0).normal(size=(2, 16, 3)).astype("float32"))
    assert list(export.Runner(tmp_path / "a.tflite").outputs) == ["output_0", "output_1"]
    assert export.check_file(tmp_path / "a.tflite", agrees_with=model, data=data).passed
    assert export.explain(model, tmp_path / "a.tflite", data).error < 1e-5
