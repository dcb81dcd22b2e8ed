"""Ten kinds of task as small models and data, each in the smallest form: 64 examples, a few channels."""

import keras
import numpy as np

L = keras.layers
NUM = 64
# Outputs that differ from example to example before any training: an untrained net's would be lost in rounding.
WIDE = {"kernel_initializer": keras.initializers.RandomNormal(stddev=1.0, seed=1)}


def _images(seed=0):
    return np.random.default_rng(seed).random((NUM, 8, 8, 1)).astype("float32")


def _trunk():
    """An input and features behind a convolution that can lose channels."""
    image = keras.Input((8, 8, 1), name="image")
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="conv1")(image)
    return image, L.Conv2D(8, 3, strides=2, activation="relu", name="conv2")(x)


def _head(units, activation=None, **options):
    image, features = _trunk()
    features = L.GlobalAveragePooling2D()(features)
    return keras.Model(image, L.Dense(units, activation=activation, name="out", **options)(features))


def integer_labels():
    model = _head(3, **WIDE)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    x = _images()
    return model, x, np.digitize(x.mean((1, 2, 3)), [0.49, 0.51]).astype("int32")


def one_hot():
    model = _head(3, "softmax", **WIDE)
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    _, x, y = integer_labels()
    return model, x, keras.utils.to_categorical(y, 3)


def multi_label():
    model = _head(4, "sigmoid")
    metrics = [keras.metrics.BinaryAccuracy(name="hits"), keras.metrics.AUC(name="auc")]
    model.compile("adam", "binary_crossentropy", metrics=metrics)
    x = _images()
    return model, x, (x[:, :2, :2, 0].reshape(NUM, 4) > 0.5).astype("float32")


def one_sigmoid():
    model = _head(1, "sigmoid")
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    x = _images()
    return model, x, (x.mean((1, 2, 3)) > 0.5).astype("float32")


def regression():
    model = _head(2)
    model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    x = _images()
    return model, x, np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)


def two_outputs():
    image, features = _trunk()
    pooled = L.GlobalAveragePooling2D()(features)
    boxes, kind = L.Dense(4, name="boxes")(pooled), L.Dense(3, activation="softmax", name="kind", **WIDE)(pooled)
    model = keras.Model(image, {"boxes": boxes, "kind": kind})
    model.compile(
        "adam", {"boxes": "mse", "kind": "sparse_categorical_crossentropy"}, loss_weights={"boxes": 1.0, "kind": 0.5},
        metrics={"boxes": ["mae"], "kind": ["accuracy"]},
    )  # fmt: skip
    _, x, y = integer_labels()
    return model, x, {"boxes": x[:, :2, :2, 0].reshape(NUM, 4), "kind": y}


def segmentation():
    image, features = _trunk()
    x = L.Conv2DTranspose(6, 3, strides=2, activation="relu")(features)
    x = L.ZeroPadding2D(((0, 1), (0, 1)))(x)
    model = keras.Model(image, L.Conv2D(2, 1, activation="softmax", name="pixels", **WIDE)(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = _images()
    return model, x, (x[..., 0] > 0.5).astype("int32")


KINDS = (integer_labels, one_hot, multi_label, one_sigmoid, regression, two_outputs, segmentation)
