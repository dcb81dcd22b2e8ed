"""Images reach a model in the range it was made for, and the app is told the same."""

import json
import zipfile

import keras
import numpy as np
import pytest

from tf_reweight import data, workflow
from tf_reweight.data import value_range
from tf_reweight.data.augment import Shifted
from tf_reweight.graph.pixels import input_scale
from tf_reweight.reports.progress import QUIET

L = keras.layers
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 8, 8, 3)).astype("float32")


def sequential(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, L.Conv2D(4, 3), L.Flatten(), L.Dense(4)])


def functional(prepare, dtype="float32"):
    inputs = keras.Input((8, 8, 3), dtype=dtype)
    return keras.Model(inputs, L.Dense(4)(L.Flatten()(prepare(inputs))))


def adapted(x):
    layer = L.Normalization()
    layer.adapt(x)
    return layer


def fitted_batch_normalization():
    model = sequential(L.BatchNormalization(momentum=0.0))
    model(PIXELS, training=True)
    return model


class Subclassed(keras.Model):
    def __init__(self, **rescaling):
        super().__init__()
        self.prepare, self.flatten = keras.Sequential([L.RandomFlip(), L.Rescaling(**rescaling)]), L.Flatten()
        self.classify = L.Dense(4)

    def call(self, x):
        return self.classify(self.flatten(self.prepare(x)))


def subclassed(**rescaling):
    model = Subclassed(**rescaling)
    model(PIXELS)
    return model


def efficient_net():
    """The preprocessing, the stem and a first block of Keras' net, whose functions have no public names; so below."""
    make = keras.applications.EfficientNetV2B0
    blocks = make.__globals__["DEFAULT_BLOCKS_ARGS"]["efficientnetv2-b0"][:1]
    name = "efficientnetv2-b0"  # by which it is known how its pixels are prepared
    net = make.__globals__["EfficientNetV2"]
    return net(1.0, 1.0, 32, blocks_args=blocks, weights=None, input_shape=(32, 32, 3), include_top=False, name=name)


def mobile_net():
    net = keras.applications.MobileNetV3Small.__globals__["MobileNetV3"]
    options = {"weights": None, "input_shape": (32, 32, 3), "include_top": False}
    return net(lambda x, *given: x, 64, **options)


RAW, UNIT = "raw", (0.0, 1.0)
MODELS = {
    "no rescaling": (lambda: sequential(), UNIT),
    "1/255": (lambda: sequential(L.Rescaling(1 / 255)), RAW),
    "to [-1, 1]": (lambda: sequential(L.Rescaling(1 / 127.5, -1)), RAW),
    "1/64 - 2": (lambda: sequential(L.Rescaling(1 / 64, -2)), RAW),
    "mean of pixels only": (lambda: sequential(L.Rescaling(1.0, -110)), RAW),
    "from [0, 1] to [-1, 1]": (lambda: sequential(L.Rescaling(2.0, -1)), UNIT),
    "after augmentation": (lambda: sequential(L.RandomBrightness(0.3), L.RandomRotation(0.1), L.Rescaling(1 / 255)), RAW),
    "after a kernel": (lambda: sequential(L.Conv2D(3, 1), L.Rescaling(1 / 255)), UNIT),
    "Normalization of pixels": (lambda: sequential(adapted(PIXELS)), RAW),
    "Normalization of [0, 1]": (lambda: sequential(adapted(PIXELS / 255)), UNIT),
    "two in a row": (lambda: sequential(L.Rescaling(1 / 255), adapted(PIXELS / 255)), RAW),
    "BatchNormalization first": (fitted_batch_normalization, RAW),
    "new BatchNormalization": (lambda: sequential(L.BatchNormalization()), UNIT),
    "nested": (lambda: functional(sequential(keras.Sequential([keras.Input((8, 8, 3)), L.Rescaling(1 / 255)]))), RAW),
    "nested in a subclassed one": (lambda: functional(subclassed(scale=1 / 255)), RAW),
    "arithmetic": (lambda: functional(lambda x: x / 255.0 - 0.5), RAW),
    "Lambda": (lambda: functional(L.Lambda(lambda x: x / 255.0)), RAW),
    "preprocess_input": (lambda: functional(keras.applications.mobilenet_v2.preprocess_input), RAW),
    "preprocess_input of Caffe": (lambda: functional(keras.applications.resnet50.preprocess_input), RAW),
    "whole numbers": (lambda: functional(lambda x: keras.ops.cast(x, "float32"), "uint8"), RAW),
    "subclassed": (lambda: subclassed(scale=1 / 127.5, offset=-1.0), RAW),
    "subclassed, [0, 1]": (lambda: subclassed(scale=2.0, offset=-1.0), UNIT),
    "EfficientNetV2": (efficient_net, RAW),
    "MobileNetV3": (mobile_net, RAW),
    "MobileNetV2": (
        lambda: keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), include_top=False, alpha=0.35), UNIT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_range_a_model_was_made_for(name):
    make, expected = MODELS[name]
    assert value_range.made_for(make(), 255.0, (8, 8, 3)) == expected


@pytest.mark.parametrize(
    "scale, white, expected",
    [(1 / 16, 16.0, RAW), (2.0, 16.0, UNIT), (1 / 65535, 65535.0, RAW), (1 / 255, 65535.0, (0.0, 255.0)), (1.0, 65535.0, UNIT)],
)
def test_other_whites_than_that_of_8_bits(scale, white, expected):
    assert value_range.made_for(sequential(L.Rescaling(scale, offset=0.1)), white) == expected


def test_the_scale_is_that_of_the_first_kernels_input():
    assert input_scale(sequential(L.Rescaling(1 / 255))) == pytest.approx(255)
    assert input_scale(sequential(L.Rescaling(1 / 64, -2))) == pytest.approx(128)
    assert input_scale(sequential(L.Rescaling(2.0, -1))) == pytest.approx(0.5)
    assert input_scale(sequential()) is None and input_scale(subclassed(scale=1 / 255)) is None


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """8-bit images of two classes, dark ones and bright ones, as an archive and a trained model that rescales them."""
    folder = tmp_path_factory.mktemp("images")
    y = np.arange(200) % 2
    x = np.clip(RNG.normal(np.where(y, 150, 90)[:, None, None, None], 20, (200, 8, 8, 3)), 0, 255).astype("uint8")
    np.savez(folder / "images.npz", x=x, y=y)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Rescaling(1 / 64, -2), L.Flatten(), L.Dense(8), L.Dense(2)])
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x.astype("float32"), y, epochs=10, verbose=0)
    model.save(folder / "model.keras")
    return folder, x, y


@pytest.mark.parametrize("given, low, high", [("raw", 0, 255), ([0, 1], 0, 1), ((-1, 1), -1, 1), ([0, 255], 0, 255)])
def test_values_are_stretched_to_the_range(stored, given, low, high):
    folder, x, _ = stored
    loaded = data.load(str(folder / "images.npz"), value_range=given)
    values = np.concatenate([getattr(loaded, split)[0].ravel() for split in ("train", "validation", "test")])
    np.testing.assert_allclose(np.sort(values), np.sort(x.ravel() / 255.0 * (high - low) + low), atol=1e-4)
    # What the app is told undoes it.
    np.testing.assert_allclose(np.sort(values * loaded.divided_by + loaded.subtracted), np.sort(x.ravel()), atol=1e-3)
    assert loaded.black == low and loaded.white == 255.0


def test_one_range_can_be_had_from_another(stored):
    whole = {given: data.load(str(stored[0] / "images.npz"), value_range=given) for given in ("raw", (0, 1), (-1, 1))}
    for start in whole.values():
        for given, expected in whole.items():
            changed = start.in_range(given)
            np.testing.assert_allclose(changed.train[0], expected.train[0], atol=1e-4)
            assert (changed.subtracted, changed.divided_by) == (expected.subtracted, expected.divided_by)


@pytest.mark.parametrize("given", ["auto", "row", [1, 0], [0, 0], [0], [0, float("inf")], 255, None])
def test_a_range_that_cannot_be(given, stored):
    with pytest.raises(ValueError, match="`value_range` must be"):
        data.load(str(stored[0] / "images.npz"), value_range=given)
    if given != "auto":
        with pytest.raises(ValueError, match="value_range"):
            workflow.config.load({"data": {"value_range": given}})


def test_other_numbers_than_images_have_no_range(tmp_path):
    x, y = RNG.random((20, 5)).astype("float32"), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    for given in ("raw", (0, 1)):
        assert set(data.load(str(tmp_path / "a.npz"), value_range=given).train[0].ravel()) <= set(x.ravel())
    with pytest.raises(ValueError, match="for images of whole numbers"):
        data.load(str(tmp_path / "a.npz"), value_range=(-1, 1))
    np.savez(tmp_path / "b.npz", x_train=(x * 255).astype("uint8"), y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match="all splits must have one range"):
        data.load(str(tmp_path / "b.npz"))


def test_the_gap_of_moved_images_is_black():
    batches = Shifted(np.ones((6, 4, 4, 1), "float32"), np.zeros(6), 6, 2, black=-1.0)
    assert set(np.unique(batches[0][0])) == {-1.0, 1.0}


def config(folder, **given):
    return {
        "data": {"name": str(folder / "images.npz"), **given},
        "model": {"name": str(folder / "model.keras")},
        "train": {"epochs": 0},
        "regularize": {"rounds": 1, "every": 1},
        "prune": {"sparsity": 0.1},
        "retrain": {"epochs": 0},
        "export": {"precisions": ["float32"], "latency_runs": 1, "pack": False},
    }


def test_a_trained_model_gets_its_pixels_and_the_app_is_told_so(stored, tmp_path):
    folder, x, y = stored
    figures = workflow.compress(config(folder), out=tmp_path / "run", console=QUIET)
    assert figures["stages"][0]["test_accuracy"] > 0.9
    assert (figures["data"]["subtracted"], figures["data"]["divided_by"]) == (0.0, 1.0)
    with zipfile.ZipFile(tmp_path / "run" / "app.zip") as archive:
        said = json.loads(archive.read("model.json"))
    (step,) = said["normalization"].values()
    assert step == {"mean": [0.0], "std": [1.0]} and "as they are, from 0 to 255" in said["preprocessing"]


def test_the_app_is_told_of_another_range(stored, tmp_path):
    given = {**config(stored[0], value_range=[-1, 1]), "model": {"name": "small_cnn"}}
    workflow.compress(given, out=tmp_path / "run", console=QUIET)
    with zipfile.ZipFile(tmp_path / "run" / "app.zip") as archive:
        said = json.loads(archive.read("model.json"))
    assert said["normalization"] == {"image": {"mean": [127.5], "std": [127.5]}}
    assert said["preprocessing"].endswith("raw values minus 127.5, divided by 127.5")


@pytest.mark.parametrize("given", [[0, 1], [-1, 1]])
def test_a_trained_model_that_guesses_stops_the_run(stored, tmp_path, given):
    with pytest.raises(ValueError, match="as guessing would") as caught:
        workflow.compress(config(stored[0], value_range=given), out=tmp_path / "run", console=QUIET)
    assert "data.value_range='raw'" in str(caught.value) and not (tmp_path / "run").exists()


def test_wrong_classes_and_new_weights_are_guessing_too(stored, tmp_path):
    folder, x, y = stored
    mixed = RNG.permutation(y)
    np.savez(tmp_path / "images.npz", x=x, y=mixed)
    (tmp_path / "model.keras").write_bytes((folder / "model.keras").read_bytes())
    with pytest.raises(ValueError, match="order of the classes") as caught:
        workflow.plan(config(tmp_path))
    assert "they are told apart" not in str(caught.value)


def test_a_rare_class_does_not_hide_guessing_nor_make_it(tmp_path, stored):
    """Nine of ten are of one class: always saying so is right nine times, and is guessing; knowing the rare ones is not."""
    folder, x, y = stored
    rare = np.flatnonzero(y)[:20]
    chosen = np.concatenate([np.flatnonzero(y == 0), rare])
    np.savez(tmp_path / "images.npz", x=x[chosen], y=y[chosen])
    (tmp_path / "model.keras").write_bytes((folder / "model.keras").read_bytes())
    workflow.plan(config(tmp_path))
    model = keras.saving.load_model(folder / "model.keras")
    model.layers[-1].kernel.assign(np.zeros((8, 2)))
    with pytest.raises(ValueError, match="as guessing would"):
        workflow.plan(config(tmp_path), model=model)
