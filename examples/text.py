"""Text: whether a sequence of words contains an order, with an embedding and attention.

    python examples/text.py
"""

import keras
import numpy as np

import tf_reweight as tfr

L = keras.layers
WORDS, LENGTH = 64, 16


def sentences(num, seed):
    """Sequences `(num, 16)` of word numbers, and 1 where word 1 comes somewhere before word 2, else 0."""
    rng = np.random.default_rng(seed)
    words = rng.integers(3, WORDS, (num, LENGTH))
    places = np.argsort(rng.random((num, LENGTH)), 1)[:, :2]
    words[np.arange(num), places[:, 0]], words[np.arange(num), places[:, 1]] = 1, 2
    return words.astype("int32"), (places[:, 0] < places[:, 1]).astype("float32")


class Places(L.Layer):
    """Adds a learned vector for each place."""

    def build(self, shape):
        self.places = self.add_weight(name="places", shape=shape[1:], initializer="random_normal")

    def call(self, x):
        return x + self.places


def network(width):
    words = keras.Input((LENGTH,), dtype="int32", name="words")
    x = Places(name="places")(L.Embedding(WORDS, width, name="embedding")(words))
    attended = L.MultiHeadAttention(4, width // 4, name="attention")(x, x)
    x = L.LayerNormalization(name="norm")(L.Add(name="add")([x, attended]))
    x = L.Dense(2 * width, activation="relu", name="expand")(x)
    x = L.GlobalMaxPooling1D(name="pool")(x)
    x = L.Dense(width, activation="relu", name="hidden")(x)
    return keras.Model(words, L.Dense(1, activation="sigmoid", name="in_order")(x), name="text")


def main(num=4000, width=32, epochs=16, out="runs/text", config=None):
    train, validation, test = (sentences(size, seed) for seed, size in enumerate((num, num // 4, num // 4)))
    model = network(width)
    model.compile(keras.optimizers.Adam(2e-3), "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])
    return tfr.compress(model, train, validation, test, epochs=epochs, out=out, config=config)


if __name__ == "__main__":
    print(main())
