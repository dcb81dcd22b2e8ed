"""Splits that never mix, whatever the source; and sources that are refused before anything is trained on them."""

import pathlib

import keras
import numpy as np
import pytest

from tf_reweight import data
from tf_reweight.data import splits
from tf_reweight.data.augment import Shifted, moved

SHARED = pathlib.Path(__file__).parent.parent.parent / "shared" / "data" / "tfds"
SPLITS = ("train", "validation", "test")


def rows(pair):
    return {x.tobytes() for x in pair[0]}


def write_images(folder, per_class, size=(6, 5), channels=1, seed=0):
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    for name, count in per_class.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (*size, channels), dtype="uint8")
            (folder / name / f"{i:03}.png").write_bytes(tf.io.encode_png(image).numpy())


def test_digits_are_split_once_and_for_all():
    one, two = data.load("digits"), data.load("digits", seed=5, validation=0.3)
    assert one.input_shape == (8, 8, 1) and one.num_classes == 10
    assert sum(len(getattr(one, split)[1]) for split in SPLITS) == 1797
    np.testing.assert_array_equal(one.test[0], two.test[0])
    assert len(two.validation[1]) > 2.5 * len(one.validation[1])
    assert all(0 <= getattr(one, split)[0].min() and getattr(one, split)[0].max() <= 1 for split in SPLITS)


def test_no_example_is_in_two_splits():
    rng = np.random.default_rng(0)
    x, y = rng.random((200, 3)).astype("float32"), rng.integers(0, 4, 200)
    (stay_x, stay_y), (held_x, held_y) = splits.hold_out(x, y, 0.25, seed=1)
    assert len(held_y) == 50 and len(stay_y) == 150
    assert not rows((stay_x, stay_y)) & rows((held_x, held_y))
    # Each class keeps its share.
    for label in range(4):
        assert abs((held_y == label).sum() - 0.25 * (y == label).sum()) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_of_the_stratified_order_is_in_proportion(seed):
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    order = splits.stratified_order(labels, seed)
    assert sorted(order) == list(range(100))
    for length in (10, 30, 70):
        counts = np.bincount(labels[order[:length]], minlength=3)
        assert np.abs(counts - length * np.array([0.6, 0.3, 0.1])).max() <= 1.5


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("counts", [(2, 2), (9, 2, 3), (1, 7, 2), (40, 3, 1, 1, 2), (5,)])
def test_small_and_uneven_data_keep_every_class_on_both_sides(counts, fraction):
    """A class of one stays in training; every other one is held out as well, in its number where that goes."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    examples = np.arange(len(labels))
    for seed in range(3):
        (x, y), (held_x, held_y) = splits.hold_out(examples, labels, fraction, seed)
        np.testing.assert_array_equal(np.sort(np.concatenate([x, held_x])), examples)
        np.testing.assert_array_equal(labels[x], y)
        np.testing.assert_array_equal(labels[held_x], held_y)
        stays, held = np.bincount(y, minlength=len(counts)), np.bincount(held_y, minlength=len(counts))
        assert (stays >= 1).all()
        assert ((held >= 1) == (np.array(counts) > 1)).all()
        wanted = max(round(fraction * len(labels)), sum(count > 1 for count in counts))
        assert held.sum() == min(wanted, len(labels) - len(counts))
        for limit in (len(counts), len(labels) // 2 + len(counts)):
            kept, kept_y = splits.limited(examples, labels, limit, seed)
            assert len(kept) == min(limit, len(labels)) and set(kept_y) == set(labels)


def test_limit_and_representative_hold_every_class():
    limited = data.load("digits", limit=40)
    assert len(limited.train[1]) == 40 and set(limited.train[1]) == set(range(10))
    assert len(limited.test[1]) == len(data.load("digits").test[1])
    whole = data.load("digits")
    picked = whole.representative(30)
    assert picked.shape == (30, 8, 8, 1) and rows((picked, 0)) <= rows(whole.train)
    np.testing.assert_array_equal(picked, whole.representative(30))


def test_npz_with_and_without_its_own_splits(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 4, 4), dtype="uint8"), np.arange(60) % 3
    np.savez(tmp_path / "lump.npz", x=x, y=y)
    lump = data.load(tmp_path / "lump.npz")
    assert lump.input_shape == (4, 4, 1) and lump.num_classes == 3 and lump.train[0].max() <= 1.0
    np.savez(tmp_path / "own.npz", x_train=x[:30], y_train=y[:30], x_val=x[30:45], y_val=y[30:45], x_test=x[45:], y_test=y[45:])
    own = data.load(tmp_path / "own.npz")
    assert [len(getattr(own, split)[1]) for split in SPLITS] == [30, 15, 15]
    np.testing.assert_allclose(own.test[0][..., 0] * 255, x[45:], atol=1e-4)


def test_folders_of_images(tmp_path):
    write_images(tmp_path / "a", {"cat": 12, "dog": 10})
    lump = data.load(tmp_path / "a")
    assert lump.class_names == ("cat", "dog") and lump.input_shape == (6, 5, 1)
    write_images(tmp_path / "b" / "train", {"cat": 8, "dog": 8}, channels=3)
    write_images(tmp_path / "b" / "test", {"dog": 4}, channels=3, seed=1)
    own = data.load(tmp_path / "b")
    assert own.input_shape == (6, 5, 3) and len(own.test[1]) == 4 and set(own.test[1]) == {1}
    assert data.load(tmp_path / "b", image_size=4).input_shape == (4, 4, 3)


def test_tensorflow_datasets_from_a_prepared_folder():
    if not SHARED.is_dir():
        pytest.skip("no prepared data sets beside the checkout")
    mnist = data.load("mnist", data_dir=SHARED, validation=0.1, limit=100)
    assert mnist.input_shape == (28, 28, 1) and mnist.num_classes == 10
    assert [len(getattr(mnist, split)[1]) for split in SPLITS] == [100, 6000, 10_000]


def save(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


X, Y = np.zeros((6, 3), "float32"), np.array([0, 1] * 3)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"x_train": X}, "no y_train"),
        ({"images": X}, "Expected the arrays x_train and y_train"),
        ({"x": X, "y": Y[:4]}, "as many inputs as labels"),
        ({"x": X, "y": Y + 0.5}, "Labels must be integers"),
        ({"x": X, "y": np.eye(2)[Y]}, "argmax"),
        ({"x": X, "y": Y * 2}, "Labels must be 0..n-1"),
        ({"x": X, "y": Y * 0}, "at least two classes"),
        ({"x": X * np.nan, "y": Y}, "must be finite"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, "one shape"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 3}, "Labels must be in 0..1"),
        ({"x": np.array(["a"] * 6), "y": Y}, "Inputs must be numbers"),
    ],
)
def test_bad_arrays(arrays, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        data.load(save(tmp_path, **arrays))
    assert "Received: " in str(caught.value)


@pytest.mark.parametrize(
    "arguments, kind, words",
    [
        ({"name": "digit"}, ValueError, "Did you mean 'digits'"),
        ({"name": "./none.npz"}, FileNotFoundError, "The .npz file must exist"),
        ({"name": "./none"}, FileNotFoundError, "Check the path"),
        ({"name": __file__}, ValueError, r"Name the function that loads the data: .*test_data\.py:load\."),
        ({"name": 3}, TypeError, "name or a path"),
        ({"name": "mnist", "data_dir": "none"}, FileNotFoundError, "`data_dir` must be an existing folder"),
        ({"validation": 1.0}, ValueError, "`validation`"),
        ({"limit": 3}, ValueError, "each class"),
        ({"limit": 0}, ValueError, "`limit`"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"image_size": 8}, ValueError, "image folders"),
    ],
)
def test_bad_arguments(arguments, kind, words):
    with pytest.raises(kind, match=words) as caught:
        data.load(**{"name": "digits", **arguments})
    assert "Received: " in str(caught.value)


def test_bad_folders(tmp_path):
    write_images(tmp_path / "a", {"cat": 3, "dog": 3})
    write_images(tmp_path / "a", {"big": 2}, size=(9, 9))
    with pytest.raises(ValueError, match="images of one size"):
        data.load(tmp_path / "a")
    assert data.load(tmp_path / "a", image_size=[5, 5]).num_classes == 3
    (tmp_path / "a" / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="can be decoded"):
        data.load(tmp_path / "a", image_size=5)
    (tmp_path / "a" / "cat" / "broken.png").unlink()
    (tmp_path / "a" / "cat" / "gone.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match="can be decoded.*gone.png"):  # it was left out in silence
        data.load(tmp_path / "a", image_size=5)
    write_images(tmp_path / "b" / "train", {"cat": 3, "dog": 3})
    write_images(tmp_path / "b" / "test", {"dgo": 3})
    with pytest.raises(ValueError, match="Did you mean 'dog'"):
        data.load(tmp_path / "b")
    (tmp_path / "c" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="Expected images in every class folder"):
        data.load(tmp_path / "c")


def test_moved_images_against_a_plain_loop():
    rng = np.random.default_rng(0)
    images = rng.random((20, 5, 6, 2)).astype("float32")
    offsets = rng.integers(-2, 3, (20, 2))
    made = moved(images, offsets)
    for i, (down, right) in enumerate(offsets):
        for row in range(5):
            for column in range(6):
                inside = 0 <= row - down < 5 and 0 <= column - right < 6
                expected = images[i, row - down, column - right] if inside else np.zeros(2)
                np.testing.assert_array_equal(made[i, row, column], expected)
    np.testing.assert_array_equal(moved(images, np.zeros((20, 2), int)), images)


def test_shifted_batches_depend_on_the_epoch_alone():
    x, y = np.arange(50, dtype="float32").reshape(50, 1, 1, 1) + 1, np.arange(50)
    batches = Shifted(x, y, 8, shift=0, seed=3)
    first = np.concatenate([batches[i][1] for i in range(len(batches))])
    assert sorted(first) == list(range(50)) and list(first) != list(range(50))
    batches.start(4)
    fourth = [batches[i][1] for i in range(len(batches))]
    again = Shifted(x, y, 8, shift=0, seed=3)
    again.epochs_in_order().on_epoch_begin(4, None)
    assert all(np.array_equal(again[i][1], fourth[i]) for i in range(len(again)))
    assert not np.array_equal(np.concatenate(fourth), first)


def test_shifted_batches_train():
    d = data.load("digits", limit=64)
    model = keras.Sequential([keras.Input(d.input_shape), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = Shifted(*d.train, 16, shift=1)
    history = model.fit(batches, epochs=6, verbose=0, callbacks=[batches.epochs_in_order()]).history
    assert history["loss"][-1] < history["loss"][0] and batches.epoch == 5


def test_what_raw_values_were_divided_by(tmp_path):
    assert data.load("digits").divided_by == 16.0
    for dtype, white in (("uint8", 255.0), ("uint16", 65535.0), ("float32", 1.0)):
        np.savez(tmp_path / "a.npz", x=np.full((20, 16), 199, dtype), y=np.arange(20) % 2)
        found = data.load(str(tmp_path / "a.npz"))
        assert found.divided_by == white and np.all(found.train[0] == np.float32(199) / np.float32(white))


@pytest.mark.parametrize("kept, words", [("x", "no y_train.*y beside x"), ("x_val", "no y_val.*Name the missing array y_val;")])
def test_the_array_that_is_missing_is_named(kept, words, tmp_path):
    arrays = {"x_train": np.zeros((4, 2)), "y_train": np.zeros(4)} if kept == "x_val" else {}
    np.savez(tmp_path / "data.npz", **arrays, **{kept: np.zeros((4, 2)), "z": np.zeros(4)})
    with pytest.raises(ValueError, match=words):
        data.load(tmp_path / "data.npz")
