"""The shipped models are what they are called, and a user's file is loaded or refused with a reason."""

import math
import pathlib
import zipfile

import keras
import numpy as np
import pytest

from tf_reweight.data import models

L = keras.layers


def num_weights(model):
    return sum(math.prod(w.shape) for w in model.weights if w.name == "kernel")


def test_the_classical_counts():
    """LeNet-5-Caffe and LeNet-300-100 as every pruning paper counts them, without biases."""
    assert num_weights(models.build("lenet5")) == 430_500
    assert num_weights(models.build("lenet300_100")) == 266_200
    assert 30_000 < num_weights(models.build("small_cnn")) < 60_000


def test_resnet20_has_twenty_layers_and_its_shortcuts():
    model = models.build("resnet20")
    convolutions = [layer for layer in model.layers if isinstance(layer, L.Conv2D)]
    shortcuts = [layer for layer in convolutions if "shortcut" in layer.name]
    assert len(convolutions) - len(shortcuts) + 1 == 20 and len(shortcuts) == 2
    assert sum(isinstance(layer, L.Add) for layer in model.layers) == 9


@pytest.mark.parametrize("name", models.names())
def test_every_model_gives_logits_of_any_image(name):
    keras.utils.set_random_seed(0)
    model = models.build(name, (32, 30, 3), 7)
    outputs = model.predict_on_batch(np.random.default_rng(0).normal(size=(4, 32, 30, 3)).astype("float32"))
    assert outputs.shape == (4, 7) and np.isfinite(outputs).all() and model.name == name
    assert not np.allclose(outputs.sum(-1), 1.0)
    names = [layer.name for layer in model.layers]
    assert len(set(names)) == len(names) and names[-1] == "logits"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("lenet",), "Did you mean 'lenet5'"),
        (("lenet5", (8, 8, 1)), "at least 16 x 16"),
        (("lenet5", (28, 28)), "takes images"),
        (("lenet5", None, 1), "`num_classes`"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        models.build(*arguments)
    assert "Received: " in str(caught.value)


def test_files_are_loaded_as_they_were_saved(tmp_path):
    model = models.build("small_cnn")
    model.save(tmp_path / "mine.keras")
    loaded = models.load(str(tmp_path / "mine.keras"), (8, 8, 1), 10)
    x = np.ones((2, 8, 8, 1), "float32")
    np.testing.assert_array_equal(model.predict_on_batch(x), loaded.predict_on_batch(x))
    assert models.load("lenet5").name == "lenet5"


def test_bad_files(tmp_path):
    models.build("small_cnn").save(tmp_path / "mine.keras")
    (tmp_path / "broken.keras").write_bytes((tmp_path / "mine.keras").read_bytes()[:5000])
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("notes.txt", "no model")
    (tmp_path / "link.keras").symlink_to("nowhere.keras")
    for path, kind, words in (
        ("none.keras", FileNotFoundError, "must exist"),
        ("link.keras", FileNotFoundError, "must be a file, and this is none"),
        ("mine.h5", ValueError, "end in .keras"),
        ("broken.keras", ValueError, "whole .keras archive"),
        ("other.keras", ValueError, "must be whole, and it has no config.json"),
    ):
        with pytest.raises(kind, match=words):
            models.load(tmp_path / path)
    with pytest.raises(ValueError, match="output must have the data's shape"):
        models.load(tmp_path / "mine.keras", (8, 8, 1), 3)
    with pytest.raises(ValueError, match="input must have the data's shape"):
        models.load(tmp_path / "mine.keras", (9, 9, 1), 10)
    with pytest.raises(ValueError, match="Valid: "):
        models.load("small_cn")
    assert pathlib.Path(tmp_path / "mine.keras").is_file()


SIZE = 2


def doubled(x):
    return SIZE * x


def test_a_lambda_that_reads_from_its_module_is_refused_by_what_it_reads():
    """A file holds its code alone: the copy would fail when it is called, hours later."""
    x = keras.Input((4,))
    lost = keras.Model(x, keras.layers.Lambda(lambda t: SIZE * t + len(t.shape), output_shape=(4,), name="twice")(x))
    with pytest.raises(ValueError, match=r"module \(SIZE\).*layers=\['twice'\].*`def`"):
        models.copied(lost)
    given = np.ones((2, 4), "float32")
    for function in (doubled, lambda t: 2 * t):
        model = keras.Model(x, keras.layers.Lambda(function, output_shape=(4,))(x))
        np.testing.assert_array_equal(models.copied(model)(given), 2 * given)


class Unsaid(keras.layers.Layer):
    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = {"a": size}["a"]

    def call(self, inputs):
        return inputs

    def get_config(self):
        return {**super().get_config(), "size": {"b": 1}["a"]}


def test_what_keras_says_of_a_model_that_cannot_be_copied_is_quoted_to_its_beginning():
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="saves and loads again; it says: .*'a'.*Received: model="):
        models.copied(keras.Model(x, Unsaid(3)(x)))


def test_what_is_read_inside_a_function_of_the_lambda_is_found_too():
    x = keras.Input((4,))
    for function in (lambda t: (lambda u: SIZE * u)(t), lambda t: sum([SIZE * t for _ in range(2)])):
        with pytest.raises(ValueError, match=r"module \(SIZE\)"):
            models.copied(keras.Model(x, keras.layers.Lambda(function, output_shape=(4,))(x)))
