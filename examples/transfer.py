"""Transfer learning: a new head on a backbone whose first layers stay frozen, as with any `keras.applications` model.

    python examples/transfer.py
"""

import keras
import numpy as np

import tf_reweight as tfr

L = keras.layers


def pictures(num, seed, num_directions=4):
    """Pictures `(num, 32, 32, 3)` of stripes in one of some directions, and the direction."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, num_directions, num)
    rows, columns = np.mgrid[:32, :32]
    angle = (kind * np.pi / num_directions)[:, None, None]
    waves = np.sin(0.7 * (np.cos(angle) * rows + np.sin(angle) * columns) + rng.uniform(0, 6, (num, 1, 1)))
    x = waves[..., None] + rng.normal(0.0, 0.5, (num, 32, 32, 3))
    return x.astype("float32"), kind.astype("int32")


def network(backbone, num_directions, num_frozen=0):
    """A head on a backbone of which the first layers do not learn."""
    for layer in backbone.layers[:num_frozen]:
        layer.trainable = False
    image = keras.Input(backbone.input_shape[1:], name="image")
    features = L.GlobalAveragePooling2D(name="mean")(backbone(image))
    answer = L.Dense(num_directions, activation="softmax", name="direction")(features)
    model = keras.Model(image, answer, name="transfer")
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def pretrained(num=3000):
    """MobileNetV2 that tells eight directions: what somebody else has trained. `weights="imagenet"` needs the network."""
    backbone = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
    for layer in backbone.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.9  # a few hundred steps are too few for 0.999
    network(backbone, 8).fit(*pictures(num, 7, 8), epochs=5, verbose=2)
    return backbone


def main(num=1000, epochs=9, backbone=None, num_frozen=10, out="runs/transfer", config=None):
    train, validation, test = (pictures(size, seed) for seed, size in enumerate((num, num // 2, num // 2)))
    model = network(backbone or pretrained(), 4, num_frozen)
    # Frozen layers stay whole, and here they do most of the computing: half of it could only come from the few others.
    budget = tfr.Budget(parameters=0.5)
    return tfr.compress(model, train, validation, test, budget=budget, epochs=epochs, out=out, config=config)


if __name__ == "__main__":
    print(main())
