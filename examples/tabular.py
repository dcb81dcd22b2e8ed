"""Tabular regression: one number from a dozen columns of very different scale, which `Normalization` brings to one.

    python examples/tabular.py
"""

import keras
import numpy as np

import tf_reweight as tfr

L = keras.layers
COLUMNS = 12


def table(num, seed):
    """Rows `(num, 12)`, in the units a spreadsheet would have them, and a price `(num, 1)`."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num, COLUMNS))
    price = 3 * rows[:, 0] + np.sin(2 * rows[:, 1]) + rows[:, 2] * rows[:, 3] + 0.1 * rng.normal(size=num)
    scale = 10.0 ** np.linspace(-2, 3, COLUMNS)
    return (scale * (rows + 1)).astype("float32"), price[:, None].astype("float32")


def network(rows, width):
    """A net that knows the columns' means and spreads from the training rows."""
    normalization = L.Normalization(name="scale")
    normalization.adapt(rows)
    columns = keras.Input((COLUMNS,), name="columns")
    x = normalization(columns)
    for number in (1, 2, 3):
        x = L.Dense(width, activation="relu", name=f"hidden{number}")(x)
    return keras.Model(columns, L.Dense(1, name="price")(x), name="tabular")


def main(num=6000, width=64, epochs=30, out="runs/tabular", config=None):
    train, validation, test = (table(size, seed) for seed, size in enumerate((num, num // 4, num // 4)))
    model = network(train[0], width)
    model.compile(keras.optimizers.Adam(2e-3), "mse", metrics=["mae", "r2_score"])
    # int8 inputs have one scale for all columns, in which the small ones would be lost: the weights alone are int8 here.
    config = config or {"export": {"precisions": ["float32", "dynamic_int8"]}}
    return tfr.compress(model, train, validation, test, epochs=epochs, out=out, config=config)


if __name__ == "__main__":
    print(main())
