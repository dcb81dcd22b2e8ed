"""Transfer learning: a new head on a backbone whose first layers stay frozen, as with any `keras.applications` model.

    python examples/transfer.py
"""

import keras
import numpy as np

import tf_reweight as tfr

L = keras.layers


def pictures(num, seed):
    """Pictures `(num, 32, 32, 3)` of stripes in one of four directions, and the direction."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, num)
    rows, columns = np.mgrid[:32, :32]
    angle = (kind * np.pi / 4)[:, None, None]
    waves = np.sin(0.7 * (np.cos(angle) * rows + np.sin(angle) * columns) + rng.uniform(0, 6, (num, 1, 1)))
    x = waves[..., None] + rng.normal(0.0, 0.5, (num, 32, 32, 3))
    return x.astype("float32"), kind.astype("int32")


def network(backbone, num_frozen):
    """A head for four classes; the first layers of the backbone do not learn."""
    for layer in backbone.layers[:num_frozen]:
        layer.trainable = False
    image = keras.Input(backbone.input_shape[1:], name="image")
    features = L.GlobalAveragePooling2D(name="mean")(backbone(image))
    return keras.Model(image, L.Dense(4, activation="softmax", name="direction")(features), name="transfer")


def main(num=1500, epochs=8, backbone=None, num_frozen=10, out="runs/transfer", config=None):
    # With weights="imagenet" it begins where others stopped; that needs the network.
    backbone = backbone or keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
    train, validation, test = (pictures(size, seed) for seed, size in enumerate((num, num // 4, num // 4)))
    model = network(backbone, num_frozen)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return tfr.compress(model, train, validation, test, epochs=epochs, out=out, config=config)


if __name__ == "__main__":
    print(main())
