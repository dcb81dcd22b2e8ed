"""Small tasks of other kinds than classifying images, each with its data, made here, and its model.

A configuration names a function as `FILE.py:FUNCTION`. One that loads data returns train, validation and test, each as `fit`
takes it; one that makes a model returns it built, compiled or not.
"""

import keras
import numpy as np

L = keras.layers


def _pictures(num, seed):
    """Pictures `(num, 16, 16, 1)` with a bright ellipse each, and its centre, size and mask."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(5, 11, (num, 2))
    short, long, is_high = rng.uniform(1.5, 2.5, num), rng.uniform(3.5, 5, num), rng.random(num) < 0.5
    radius = np.where(is_high[:, None], np.stack([long, short], 1), np.stack([short, long], 1))
    grid = np.moveaxis(np.mgrid[:16, :16], 0, -1)
    distance = np.sum(((grid - centre[:, None, None]) / radius[:, None, None]) ** 2, -1)
    mask = (distance < 1).astype("float32")
    x = 0.7 * mask + rng.normal(0.0, 0.15, mask.shape)
    return x[..., None].astype("float32"), centre / 16, radius / 16, mask


def _splits(make, sizes=(1200, 300, 600)):
    return tuple(make(num, seed) for seed, num in enumerate(sizes))


def _trunk():
    image = keras.Input((16, 16, 1), name="image")
    x = image
    for number, filters in enumerate((16, 32, 32), 1):
        x = L.Conv2D(filters, 3, strides=1 + (number == 2), padding="same", use_bias=False, name=f"conv{number}")(x)
        x = L.ReLU()(L.BatchNormalization(momentum=0.9)(x))
    return image, x


def _flat(x):
    return L.Dense(32, activation="relu", name="hidden")(L.Flatten()(L.MaxPooling2D()(x)))


def regression():
    """Where the ellipse is and how large: four numbers."""

    def make(num, seed):
        x, centre, radius, _ = _pictures(num, seed)
        return x, np.concatenate([centre, radius], 1).astype("float32")

    return _splits(make)


def regression_model():
    image, x = _trunk()
    return keras.Model(image, L.Dense(4, name="place")(_flat(x)), name="regression")


def multi_label():
    """Which quarters of the picture the ellipse touches: several may be right."""

    def make(num, seed):
        x, _, _, mask = _pictures(num, seed)
        quarters = mask.reshape(num, 2, 8, 2, 8).max((2, 4)).reshape(num, 4)
        return x, quarters

    return _splits(make)


def multi_label_model():
    image, x = _trunk()
    return keras.Model(image, L.Dense(4, activation="sigmoid", name="quarters")(_flat(x)), name="multi_label")


def binary():
    """Whether the ellipse is higher than wide: yes or no."""

    def make(num, seed):
        x, _, radius, _ = _pictures(num, seed)
        return x, (radius[:, 0] > radius[:, 1]).astype("float32")

    return _splits(make)


def binary_model():
    image, x = _trunk()
    return keras.Model(image, L.Dense(1, activation="sigmoid", name="is_high")(_flat(x)), name="binary")


def per_pixel():
    """Which pixels belong to the ellipse."""

    def make(num, seed):
        x, _, _, mask = _pictures(num, seed)
        return x, mask.astype("int32")

    return _splits(make, (600, 150, 300))


def per_pixel_model():
    image, x = _trunk()
    x = L.Conv2DTranspose(16, 2, strides=2, activation="relu", name="up")(x)
    return keras.Model(image, L.Conv2D(2, 1, activation="softmax", name="pixels")(x), name="per_pixel")


def two_heads():
    """Where the ellipse is, and whether it is higher than wide."""

    def make(num, seed):
        x, centre, radius, _ = _pictures(num, seed)
        return x, {"place": centre.astype("float32"), "kind": (radius[:, 0] > radius[:, 1]).astype("int32")}

    return _splits(make)


def two_heads_model():
    image, x = _trunk()
    x = _flat(x)
    outputs = {"place": L.Dense(2, name="place")(x), "kind": L.Dense(2, activation="softmax", name="kind")(x)}
    return keras.Model(image, outputs, name="two_heads")
