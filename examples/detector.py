"""Detection: a box and a class from one backbone, two heads with a loss each, fed by `tf.data`.

    python examples/detector.py
"""

import keras
import numpy as np
import tensorflow as tf

import tf_reweight as tfr

L = keras.layers
SHAPES = ("square", "disc", "frame")


def scenes(num, seed):
    """Pictures `(num, 32, 32, 1)` with one shape each, its box `(num, 4)` as top, left, height, width, and its class."""
    rng = np.random.default_rng(seed)
    kind, size = rng.integers(0, len(SHAPES), num), rng.integers(4, 8, num)
    centre = rng.integers(9, 23, (num, 2))
    offset = np.moveaxis(np.mgrid[:32, :32], 0, -1)[None] - centre[:, None, None]
    reach = np.abs(offset).max(-1) <= size[:, None, None]
    disc = np.sum(offset**2, -1) <= (size**2)[:, None, None]
    frame = reach & (np.abs(offset).max(-1) >= size[:, None, None] - 1)
    drawn = np.choose(kind[:, None, None], [reach, disc, frame])
    x = 0.8 * drawn + rng.normal(0.0, 0.15, drawn.shape)
    box = np.concatenate([centre - size[:, None], 2 * np.stack([size, size], 1) + 1], 1) / 32
    return x[..., None].astype("float32"), {"box": box.astype("float32"), "kind": kind.astype("int32")}


def network(width):
    image = keras.Input((32, 32, 1), name="image")
    x = image
    for number, filters in enumerate((width, 2 * width, 2 * width), 1):
        x = L.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = L.ReLU(name=f"relu{number}")(L.BatchNormalization(momentum=0.9, name=f"bn{number}")(x))
    x = L.Flatten(name="flatten")(x)
    box = L.Dense(4, name="box")(L.Dense(2 * width, activation="relu", name="box_hidden")(x))
    kind = L.Dense(len(SHAPES), activation="softmax", name="kind")(L.Dense(2 * width, activation="relu", name="kind_hidden")(x))
    return keras.Model(image, {"box": box, "kind": kind}, name="detector")


def main(num=3000, width=16, epochs=16, out="runs/detector", config=None):
    splits = [scenes(size, seed) for seed, size in enumerate((num, num // 4, num // 4))]
    train, validation, test = (tf.data.Dataset.from_tensor_slices(split).batch(32) for split in splits)
    model = network(width)
    model.compile(
        keras.optimizers.Adam(2e-3), {"box": "mse", "kind": "sparse_categorical_crossentropy"},
        loss_weights={"box": 20.0, "kind": 1.0}, metrics={"box": ["mae"], "kind": ["accuracy"]},
    )  # fmt: skip
    train = train.shuffle(num // 32, seed=0)
    return tfr.compress(model, train, validation, test, epochs=epochs, monitor="kind_accuracy", out=out, config=config)


if __name__ == "__main__":
    print(main())
