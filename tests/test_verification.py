"""A file is compared with the model that was given: each output on its own, channels of unlike scale too, and classes."""

import logging

import keras
import numpy as np
import pytest

from tf_reweight import export
from tf_reweight.data import varying
from tf_reweight.export import converter, doubts, tflite, verification
from tf_reweight.export.classes import CLASSES, DECISIONS, NUMBERS, are_distributions, kinds, kinds_of_model
from tf_reweight.tflite import apart
from tf_reweight.tflite.comparing import compare, differences, unlike_channels

L = keras.layers
X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")


def test_a_large_output_does_not_hide_a_small_one():
    rng = np.random.default_rng(0)
    pixels, score = 500 * rng.normal(size=(50, 4)), rng.random((50, 1)) + 1
    found = differences([pixels, score], [pixels, np.zeros_like(score)])
    assert [item.relative_error for item in found] == [0.0, 1.0] and found[1].max_abs_error == score.max()
    assert compare([pixels, score], [pixels, 0.5 * score]) == (pytest.approx(score.max() / 2), pytest.approx(0.5))
    assert compare([pixels, score], [pixels, score[:-1]])[1] == np.inf
    assert compare([pixels, score], [pixels, np.where(score > 1.5, np.nan, score)])[1] == np.inf
    assert compare([np.zeros((4, 1))], [np.full((4, 1), 0.25)]) == (0.25, 0.25)
    with pytest.raises(ValueError):
        compare([pixels, score], [pixels])


def test_channels_of_unlike_scale_are_compared_on_their_own():
    rng = np.random.default_rng(0)
    boxes, scores = 320 * rng.normal(size=(20, 9, 4)), rng.random((20, 9, 3))
    joined, wrong = np.concatenate([boxes, scores], -1), np.concatenate([boxes, 0 * scores], -1)
    assert differences([joined], [wrong])[0].relative_error < 0.01
    (found,) = differences([joined], [wrong], channels=True)
    assert found.relative_error == 1.0 and found.channel in (4, 5, 6)
    assert unlike_channels(boxes) is None and unlike_channels(scores * [1, 1e-3, 1e-3]) is None
    dead = np.concatenate([boxes, np.zeros((20, 9, 1))], -1)
    assert unlike_channels(dead) is None and differences([dead], [dead + 1e-9], channels=True)[0].relative_error < 1e-9


def two_heads(scale):
    x = keras.Input((8,))
    h = L.Dense(16, activation="relu")(x)
    return keras.Model(x, [L.Rescaling(scale)(L.Dense(4)(h)), L.Dense(1, name="score")(h)])


def test_one_head_that_is_wrong_is_refused(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    model = two_heads(500.0)
    export.export_tflite(model, tmp_path / "good.tflite", verify_data=X)
    convert, kernel = tflite.convert, model.get_layer("score").kernel

    def wrong(*arguments):
        right = np.asarray(kernel)
        kernel.assign(-right)
        content = convert(*arguments)
        kernel.assign(right)
        return content

    monkeypatch.setattr(tflite, "convert", wrong)
    with pytest.raises(export.VerificationError, match="score does not"):
        export.export_tflite(model, tmp_path / "bad.tflite", "int8", X)
    assert not (tmp_path / "bad.tflite").exists()


def test_classes_that_disagree_are_doubted_or_refused(tmp_path, monkeypatch, caplog):
    """Logits that hardly differ: far within the bound on the error, and yet other classes."""
    model = keras.Sequential([keras.Input((8,)), L.Dense(4)])
    model.layers[0].set_weights([np.eye(8, 4) * 1e-3, np.full(4, 10.0)])
    other = keras.models.clone_model(model)
    convert = tflite.convert

    def exported(kernel, name):
        other.layers[0].set_weights([kernel, np.full(4, 10.0)])
        monkeypatch.setattr(tflite, "convert", lambda model, *rest: convert(other, *rest))
        return export.export_tflite(model, tmp_path / name, verify_data=X, tolerance=0.01).verification

    with caplog.at_level(logging.WARNING):
        assert exported(np.eye(8, 4) * 1e-3, "good.tflite").doubts == () and not caplog.records
        rolled = np.eye(8, 4) * 1e-3
        rolled[0, 0] = 0
        found = exported(rolled, "doubtful.tflite")
    assert found.relative_error < 1e-3 and 0 < found.top1_agreement < verification.LEAST_AGREEMENT
    (doubt,) = found.doubts
    assert f"{found.top1_agreement:.1%}" in doubt and doubt in caplog.text
    with pytest.raises(export.VerificationError, match="it does for none"):
        exported(np.roll(np.eye(8, 4), 1, axis=1) * 1e-3 - np.eye(8, 4) * 1e-2, "bad.tflite")
    assert not (tmp_path / "bad.tflite").exists()


def test_a_half_precision_model_is_compared_itself(tmp_path, monkeypatch):
    norm = L.Normalization(dtype="mixed_float16")
    norm.adapt(X * 10 + 50)
    model = keras.Sequential([keras.Input((8,)), norm, L.Dense(4, activation="relu", dtype="mixed_float16"), L.Dense(3)])
    record = export.export_tflite(model, tmp_path / "a.tflite", verify_data=X * 10 + 50).verification
    assert record.relative_error < 1e-4 and 0 < record.given_error < 0.01
    single = tflite.single_precision

    def broken(model):
        copy = single(model)
        copy.layers[-1].kernel.assign(2 * copy.layers[-1].kernel)
        return copy

    monkeypatch.setattr(tflite, "single_precision", broken)
    with pytest.raises(export.VerificationError, match="float32 copy must compute"):
        export.export_tflite(model, tmp_path / "b.tflite", verify_data=X * 10 + 50)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_double_precision_model_is_exported_as_its_float32_copy(precision, tmp_path):
    kind = {"dtype": "float64"}
    model = keras.Sequential([keras.Input((8,), **kind), L.Dense(4, activation="relu", **kind), L.Dense(3, **kind)])
    record = export.export_tflite(model, tmp_path / "a.tflite", precision, X.astype("float64")).verification
    assert record.given_error < 1e-6 and record.relative_error < (1e-5 if precision == "float32" else 0.1)
    assert all(detail["dtype"] is np.float32 for detail in export.Runner(tmp_path / "a.tflite").inputs.values())


def test_weights_that_are_not_finite_are_refused_before_any_work(tmp_path):
    model = keras.Sequential([keras.Input((8,)), L.Dense(4)])
    for bad in (np.nan, np.inf):
        model.layers[0].bias.assign([0, bad, 0, 0])
        with pytest.raises(ValueError, match="Every weight must be finite.*bias"):
            export.export_tflite(model, tmp_path / "a.tflite", "int8", X)
    assert not list(tmp_path.iterdir())


def test_a_converter_that_dies_is_an_error(tmp_path, monkeypatch):
    script = tmp_path / "dies.py"
    script.write_text("import os; os.abort()")
    monkeypatch.setattr(converter, "__file__", str(script))
    model = keras.Sequential([keras.Input((3, 8)), L.GRU(4), L.Dense(2)])
    x = X[:6].reshape(2, 3, 8)
    with pytest.raises(ValueError, match="died of SIGABRT.*dynamic_int8"):
        export.export_tflite(model, tmp_path / "a.tflite", "int8", x)
    script.write_text("import pathlib, sys; pathlib.Path(sys.argv[1], 'error.txt').write_text('tf.Strange is custom')")
    with pytest.raises(ValueError, match="it says: tf.Strange is custom"):
        export.export_tflite(model, tmp_path / "a.tflite", "int8", x)
    assert list(tmp_path.iterdir()) == [script]


def test_operations_without_a_kernel_are_named_with_their_layers(tmp_path):
    x = keras.Input((4, 4, 4, 2))
    pooled = L.MaxPooling3D(name="halved")(L.MaxPooling3D(name="halved_1")(x))
    inner = keras.Model(x, pooled, name="inner")
    model = keras.Sequential([keras.Input((4, 4, 4, 2)), inner, L.Flatten(), L.Dense(1)])
    words = r"have a TFLite kernel.*operations=\['MaxPool3D'\], layers=\['halved_1', 'halved'\].*Replace"
    with pytest.raises(ValueError, match=words):
        export.export_tflite(model, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


def test_a_file_of_which_litert_dies_is_refused(tmp_path, monkeypatch):
    script = tmp_path / "dies.py"
    script.write_text("import os; os.abort()")
    model = keras.Sequential([keras.Input((3, 8)), L.LSTM(4), L.Dense(2)])
    x = X[:24].reshape(8, 3, 8)
    record = export.export_tflite(model, tmp_path / "good.tflite", "int8", x).verification
    assert record.relative_error < 0.2 and record.delegate_difference < 0.1
    monkeypatch.setattr(apart.litert, "__file__", str(script))
    with pytest.raises(export.VerificationError, match="died of SIGABRT"):
        export.export_tflite(model, tmp_path / "bad.tflite", "int8", x)
    assert not (tmp_path / "bad.tflite").exists()


def test_a_file_larger_than_the_one_in_float32_says_so(tmp_path, monkeypatch):
    """Many operations and few weights, as of recurrent layers that are written out: ranges take more than integers save."""
    model = keras.Sequential([keras.Input((2,)), *(L.Dense(2) for _ in range(8))])
    x = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    monkeypatch.setattr(doubts, "_SMALL", 0)
    plain = export.export_tflite(model, tmp_path / "plain.tflite", verify_data=x)
    record = export.export_tflite(model, tmp_path / "int8.tflite", "int8", x, tolerance=10.0)
    sizes = f"{record.num_bytes:,} bytes, more than in float32 ({plain.num_bytes:,})"
    assert any(sizes in doubt for doubt in record.verification.doubts) and not plain.verification.doubts


def head_and_box(losses):
    keras.utils.set_random_seed(0)
    x = keras.Input((8,))
    h = L.Dense(16, activation="relu")(x)
    model = keras.Model(x, {"box": L.Dense(4, name="numbers")(h), "kind": L.Dense(5, name="classes")(h)})
    if losses is not None:
        model.compile("sgd", losses)
    return model


def own(y, p):
    return keras.ops.mean(keras.ops.abs(y - p), -1)


CATEGORIES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    "losses, expected",
    [
        ({"box": "mse", "kind": CATEGORIES}, [False, True]), ({"box": own, "kind": CATEGORIES}, [False, True]),
        ({"box": "mse", "kind": "mae"}, [False, False]), ({"kind": "crossentropy"}, [False, True]),
        ({"box": "categorical_crossentropy", "kind": "binary_crossentropy"}, [True, False]),
        ({"box": own, "kind": own}, [False, False]), (None, [True, True]),
    ],
)  # fmt: skip
def test_the_loss_of_an_output_says_whether_it_chooses_among_classes(losses, expected):
    model = head_and_box(losses)
    outputs = [np.asarray(output) for output in keras.tree.flatten(model(X))]
    assert [kind == CLASSES for kind in kinds_of_model(model, outputs)] == expected


def test_numbers_beside_a_classifier_have_no_class_to_agree_on(tmp_path):
    """The largest of four coordinates changes with any rounding; the report and the gate are about the classes alone."""
    model = head_and_box({"box": own, "kind": CATEGORIES})
    model.get_layer("numbers").set_weights([np.full((16, 4), 0.1), np.zeros(4)])  # four equal numbers: ties of rounding
    record = export.export_tflite(model, tmp_path / "a.tflite", "int8", X, X)
    expected, given = model(X)["kind"], export.Runner(tmp_path / "a.tflite")([X], ["box", "kind"])[1]
    assert record.verification.top1_agreement == np.mean(np.argmax(expected, -1) == given.argmax(-1))
    checked = export.check_file(tmp_path / "a.tflite", agrees_with=model, data=X, max_drop=0.1)
    assert checked.passed and "another class" in str(checked) or "relative error" in str(checked)


def test_probabilities_count_beside_a_classifier_whatever_their_loss():
    x = keras.Input((8,))
    model = keras.Model(x, [L.Dense(3, activation="softmax", name="a")(x), L.Dense(3, name="b")(x), L.Dense(3, name="c")(x)])
    model.compile("sgd", {"a": own, "b": CATEGORIES, "c": own})
    outputs = [np.asarray(output) for output in model(X)]
    assert kinds_of_model(model, outputs) == [CLASSES, CLASSES, NUMBERS]
    assert kinds([None, "mse"], [outputs[0], outputs[1]]) == [CLASSES, NUMBERS]
    assert not are_distributions(outputs[0] * 0.5) and not are_distributions(outputs[0][..., :1])


@pytest.mark.parametrize(
    "loss, metrics, labels, expected",
    [
        (own, ["mae"], None, NUMBERS), (own, [], np.ones((8, 2)) * 0.3, NUMBERS), (None, None, None, CLASSES),
        (own, ["accuracy"], None, CLASSES), (own, [keras.metrics.SparseCategoricalAccuracy()], None, CLASSES),
        (own, ["binary_accuracy"], None, DECISIONS), ("mse", ["accuracy"], None, NUMBERS),
        (own, ["mae"], np.arange(8) % 2, NUMBERS), (own, [own], np.arange(8) % 2, CLASSES),
        (own, [], np.eye(2)[np.arange(8) % 2], CLASSES), (None, None, np.full((8, 2), 0.5), CLASSES),
        (None, None, np.ones((8, 2)), DECISIONS), (None, None, np.arange(8) / 3, CLASSES), (own, [], np.arange(8) / 3, NUMBERS),
    ],
)  # fmt: skip
def test_the_shape_of_outputs_alone_makes_no_classifier(loss, metrics, labels, expected):
    """Two outputs of a regression had a largest one, and a file of three times as large ones agreed on it."""
    model = keras.Sequential([keras.Input((8,)), L.Dense(2)])
    if loss is not None:
        model.compile("sgd", loss, metrics=metrics)
    outputs = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    assert kinds_of_model(model, [outputs], labels) == [expected]


def test_metrics_and_labels_of_several_outputs_go_by_their_names():
    model = head_and_box(None)
    model.compile("sgd", {"box": own, "kind": own}, metrics={"kind": ["accuracy"]})
    outputs = [np.asarray(output) for output in keras.tree.flatten(model(X))]
    assert kinds_of_model(model, outputs) == [NUMBERS, CLASSES]
    labels = {"kind": np.arange(len(X)) % 5, "box": outputs[0]}
    assert kinds_of_model(head_and_box(None), outputs, labels) == [NUMBERS, CLASSES]


def test_files_call_inputs_and_outputs_in_dicts_by_their_keys(tmp_path):
    picture = keras.Input((8,), name="picture")
    model = keras.Model({"picture": picture}, {"kind": L.Dense(3)(picture), "light": L.Dense(1)(picture)})
    export.export_tflite(model, tmp_path / "a.tflite", verify_data={"picture": X})
    runner = export.Runner(tmp_path / "a.tflite")
    assert list(runner.inputs) == ["picture"] and sorted(runner.outputs) == ["kind", "light"]
    for name, output in zip(("kind", "light"), runner({"picture": X}, ["kind", "light"])):
        np.testing.assert_allclose(output, model({"picture": X})[name], atol=1e-5)


@pytest.mark.parametrize(
    "loss, agrees",
    [
        ("mse", False), ("huber", False), ("categorical_hinge", True), (keras.losses.KLDivergence(), True), ("dice", True),
        (own, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_probabilities_of_one_output_choose_unless_its_loss_measures_numbers(loss, agrees, dtype, tmp_path):
    x = keras.Input((8,))
    model = keras.Model(x, L.Dense(3, activation="softmax", dtype=dtype)(x))
    model.compile("sgd", loss)
    record = export.export_tflite(model, tmp_path / "a.tflite", verify_data=X)
    assert record.verification.top1_agreement == (1.0 if agrees else None)


def test_an_error_that_an_offset_hides_is_doubted(tmp_path):
    """Eight bits of numbers around 1000 have steps of four."""
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    for offset, doubted in ((0.0, False), (1000.0, True)):
        model = keras.Sequential([keras.Input((3,)), L.Dense(1, name="price")])
        model.set_weights([np.full((3, 1), 0.5), np.full(1, offset)])
        doubts = export.export_tflite(model, tmp_path / "a.tflite", "int8", x).verification.doubts
        assert any("output price" in said and "off by" in said for said in doubts) == doubted, doubts


CONSTANT = np.ones((8, 1), "float32")
VARIES = np.linspace(-1, 1, 8, dtype="float32")[:, None]


@pytest.mark.parametrize(
    "expected, given, by_channel, words",
    [
        (100 + VARIES, 100 + VARIES, True, None),
        (100 + VARIES, 100.3 + VARIES, True, None),
        (100 + VARIES, 101 + VARIES, True, "is off by 1"),
        (100 + VARIES, 100 * CONSTANT, True, "answers almost the same to every example"),
        (VARIES, 0 * VARIES, True, None),  # its relative error says it
        (100 * CONSTANT, 101 * CONSTANT, True, None),  # nothing varies
        (np.hstack([100 * VARIES, 100 + VARIES]), 100 * np.hstack([VARIES, CONSTANT]), True, "channel 1 of the last axis"),
        (np.hstack([100 * VARIES, 100 + VARIES]), 100 * np.hstack([VARIES, CONSTANT]), False, None),
        (100 + VARIES, np.full((8, 1), np.nan, "float32"), True, None),
        (100 + VARIES, 100 + VARIES[:4], True, None),
        ((100 + VARIES)[:1], (100 * CONSTANT)[:1], True, None),
        (np.arange(8), np.zeros(8), True, None),
    ],
)
def test_what_varies_behind_an_offset_is_measured_by_itself(expected, given, by_channel, words):
    said = varying.behind_offsets(["a"], [expected], [given], [by_channel])
    assert said == () if words is None else words in said[0]
