"""Models made eligible for sparse kernels on ARM: the same outputs, what was changed, and what cannot be."""

import json

import keras
import nets
import numpy as np
import pytest
from packed_nets import content_of, zeroed
from test_arm import WRONG_ON_ARM, mobile
from test_emulation import emulated

from tf_reweight import export
from tf_reweight.cli import main
from tf_reweight.export import arm_eligible
from tf_reweight.packing import arm, equivalence, pack
from tf_reweight.tflite import emulation

L = keras.layers


def keras_style(head="dense", kernel=3):
    """As `keras.applications` builds them: 'same' or one-sided padding at stride 2."""
    inputs = keras.Input((32, 48, 3))
    x = L.Rescaling(2.0, offset=-1.0)(inputs)
    x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)))
    x = L.Conv2D(16, 1, activation="relu6")(x)
    block_in = keras.Input(x.shape[1:])
    y = L.ZeroPadding2D(((0, 1), (0, 1)))(block_in)
    y = L.Conv2D(24, 1)(L.DepthwiseConv2D(3, strides=2, use_bias=False, name="one_sided")(y))
    x = keras.Model(block_in, y, name="block")(x)
    x = L.Add()([x, L.SeparableConv2D(24, 3, padding="same", name="separable")(x)])
    x = L.DepthwiseConv2D(kernel, strides=2, padding="same", activation="relu", name="both_sided")(x)
    gate = L.Conv2D(24, 1, activation="sigmoid")(L.Conv2D(4, 1, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(x)))
    x = L.Conv2D(16, 1)(L.Multiply()([x, gate]))
    if head == "dense":
        x = L.Dense(5)(L.GlobalAveragePooling2D()(x))
    elif head == "convolution":
        x = L.Dropout(0.1)(L.GlobalAveragePooling2D(keepdims=True, name="mean")(x))
        x = L.BatchNormalization()(L.Conv2D(12, 1, activation="relu", name="hidden")(x))
        x = L.Softmax()(L.Reshape((5,))(L.Conv2D(5, 1, name="last")(x)))
    else:
        x = L.Dense(5)(L.Flatten()(L.AveragePooling2D(x.shape[1:3], name="mean")(x)))
    model = nets.randomize(keras.Model(inputs, x))
    for weight in model.weights:
        if len(weight.shape) == 4 and weight.shape[-1] == 1:
            # A depthwise kernel adds up one channel, not all of them: without this, outputs hardly depend on the image.
            weight.assign(weight * weight.shape[-2] ** 0.5)
    return model


def colours(num):
    """Images of large patches, which pooling does not average away."""
    return np.random.default_rng(5).normal(size=(num, 2, 3, 3)).repeat(16, axis=1).repeat(16, axis=2).astype("float32")


@pytest.mark.parametrize("head, kernel", [("dense", 3), ("convolution", 5), ("pooling", 3)])
def test_the_same_outputs_and_eligible(head, kernel):
    """On other images than those that the function compares on itself, and no two outputs alike."""
    model = keras_style(head, kernel=kernel)
    before = [weight.numpy() for weight in model.weights]
    made, fix = export.make_arm_eligible(model)
    images = colours(4)
    expected, given = (np.asarray(m(images, training=False)) for m in (model, made))
    assert expected.std(axis=0).max() > 1e-2 * np.abs(expected).max()
    np.testing.assert_allclose(given, expected, atol=1e-5 * np.abs(expected).max())
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(before, model.weights))
    assert fix.difference <= 1e-4 * fix.scale
    # By the check that packing goes by, which finds nothing in the model as it was.
    assert fix.report.stem_found and fix.report.eligible
    assert head != "dense" or not arm.arm_eligibility(content_of(model, "float32")).stem_found
    text = str(fix)
    assert "turned by 180 degrees" in text and "both_sided is padded" in text and "one_sided is padded" in text
    assert ("mean gives two axes" in text) == (head != "dense") and ("last is a Dense layer" in text) == (head == "convolution")


def test_an_eligible_model_stays_as_it_is_and_fixing_twice_changes_nothing():
    model = nets.randomize(mobile(full=True))
    made, fix = export.make_arm_eligible(model)
    assert fix.changes == () and "nothing had to be changed" in str(fix) and fix.report.eligible
    assert [type(layer) for layer in made.layers] == [type(layer) for layer in model.layers]
    once, _ = export.make_arm_eligible(keras_style())
    assert export.make_arm_eligible(once)[1].changes == ()


@pytest.mark.parametrize("case", sorted(set(WRONG_ON_ARM) - {"DEPTHWISE_CONV_2D", "MEAN"}))
def test_what_stands_in_the_way_is_named(case):
    with pytest.raises(ValueError, match=f"(?s)cannot be made eligible.*Received: reasons='{case.split()[0]}"):
        export.make_arm_eligible(WRONG_ON_ARM[case]())


def test_padding_of_both_kinds_cannot_be_turned():
    model = mobile(middle=[L.DepthwiseConv2D(3, strides=2, padding="same", name="same_sided")])
    with pytest.raises(ValueError, match="same_sided pads at the bottom and right alone.*no turning of the image suits both"):
        export.make_arm_eligible(model)


def test_other_models_are_refused():
    dense = keras.Sequential([keras.Input((8,)), L.Dense(3)])
    open_size = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 3), L.GlobalAveragePooling2D()])
    for model in (dense, open_size, nets.nested_shared()):
        with pytest.raises(ValueError, match="one image of known size"):
            export.make_arm_eligible(model)
    gray = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3), L.GlobalAveragePooling2D(), L.Dense(2)])
    with pytest.raises(ValueError, match="does not begin with a padded 3x3 convolution"):
        export.make_arm_eligible(gray)


def test_a_fix_that_changes_the_outputs_is_refused(monkeypatch):
    """Kernels that are not turned with the image."""
    flip = keras.ops.flip
    monkeypatch.setattr(arm_eligible.ops, "flip", lambda x, axis: x if axis == (0, 1) else flip(x, axis))
    with pytest.raises(export.VerificationError, match="must give the same outputs"):
        export.make_arm_eligible(keras_style())


def test_command(tmp_path, capsys):
    model = keras_style("convolution")
    model.save(tmp_path / "a.keras")
    assert main.console(["arm", str(tmp_path / "a.keras"), "--fix", str(tmp_path / "b.keras"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["report"]["eligible"] and figures["changes"]
    made = keras.saving.load_model(tmp_path / "b.keras")
    images = colours(2)
    np.testing.assert_allclose(made(images), model(images), atol=1e-5)
    assert main.console(["arm", str(tmp_path / "a.keras"), "--fix", "b.tflite"]) == 2
    assert main.console(["arm", str(tmp_path / "a.keras"), "--fix", str(tmp_path / "none" / "b.keras")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.keras", "b.keras"]


@emulated
def test_sparse_kernels_run_on_arm_and_are_right():
    made, _ = export.make_arm_eligible(keras_style())
    content = zeroed(content_of(made, "float32"), fraction=0.9)
    packed = pack.pack(content).content
    emulator = emulation.Emulator()
    equivalence.check_same(content, packed, reordered=True, emulator=emulator)
    with pytest.raises(export.VerificationError, match="with the default delegate on an emulated ARM machine"):
        # Another order of sums is the trace that sparse kernels leave.
        equivalence.check_same(content, packed, emulator=emulator)
