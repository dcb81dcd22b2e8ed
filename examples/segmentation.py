"""Segmentation: which pixels belong to an object. A small U-Net on pictures made here, from training to a checked int8 file.

    python examples/segmentation.py
"""

import keras
import numpy as np

import tf_reweight as tfr

L = keras.layers


def pictures(num, seed):
    """Noisy pictures `(num, 32, 32, 3)` with a coloured disc each, and its pixels `(num, 32, 32)` as 0 and 1."""
    rng = np.random.default_rng(seed)
    centre, radius = rng.uniform(8, 24, (num, 1, 1, 2)), rng.uniform(4, 9, (num, 1, 1))
    grid = np.moveaxis(np.mgrid[:32, :32], 0, -1)[None]
    mask = np.sum((grid - centre) ** 2, -1) < radius**2
    x = rng.normal(0.3, 0.2, (num, 32, 32, 3)) + mask[..., None] * rng.uniform(0.1, 0.5, (num, 1, 1, 3))
    return x.astype("float32"), mask.astype("int32")


def unet(width):
    """A U-Net of two levels; its output are probabilities of background and object."""
    image = keras.Input((32, 32, 3), name="image")
    fine = _conv(image, width, "fine")
    coarse = _conv(_conv(fine, 2 * width, "down", strides=2), 2 * width, "coarse")
    up = L.UpSampling2D(name="up")(coarse)
    x = _conv(L.Concatenate(name="join")([fine, up]), width, "joined")
    return keras.Model(image, L.Conv2D(2, 1, activation="softmax", name="pixels")(x), name="unet")


def _conv(x, filters, name, strides=1):
    x = L.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=name)(x)
    return L.ReLU(name=f"{name}_relu")(L.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x))


def main(num=1200, width=16, epochs=12, out="runs/segmentation", config=None):
    train, validation, test = (pictures(size, seed) for seed, size in enumerate((num, num // 4, num // 4)))
    model = unet(width)
    # Accuracy of pixels is high for a picture without object: intersection over union is what counts.
    overlap = keras.metrics.MeanIoU(2, sparse_y_pred=False, name="overlap")
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=[overlap, "accuracy"])
    return tfr.compress(model, train, validation, test, epochs=epochs, out=out, config=config)


if __name__ == "__main__":
    print(main())
