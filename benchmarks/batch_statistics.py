"""When does it help to estimate BatchNorm statistics anew? An untouched and a pressed net, by the number of examples.

A small BatchNorm net on digits with Keras' default momentum, trained for 15 epochs; *untouched* is it, *pressed* is it after
three epochs of a coupled penalty at momentum 0.99, which is lowered to 0.9 meanwhile unless `--lagging` is given. For each
number of examples: validation accuracy as it is, with statistics refreshed from examples alone, and with labels deciding.

    python benchmarks/batch_statistics.py                          # two minutes
    python benchmarks/batch_statistics.py --lagging --seeds 0 1 2
"""

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits

import tf_reweight as tfr
from tf_reweight.graph import batchnorm

L = keras.layers


def build():
    layers = [keras.Input((8, 8, 1))]
    for filters, pool in ((24, False), (32, True), (48, False)):
        layers += [L.Conv2D(filters, 3, padding="same", use_bias=False), L.BatchNormalization(), L.ReLU()]
        layers += [L.MaxPooling2D()] if pool else []
    return keras.Sequential([*layers, L.GlobalAveragePooling2D(), L.Dense(10)])


def compiled(model, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def pressed(model, train, lagging):
    tfr.regularize_coupled(model, 0.7, {"name": "log_sum", "epsilon": 0.05}, relative=True)
    callbacks = [tfr.callbacks.Reweighting(1), tfr.coupling.CoupledProximal(macs=0.5), tfr.callbacks.CosineDecay(1e-3)]
    slow = [layer.momentum for layer in batchnorm.following(model)]
    if lagging:

        class Lag(keras.callbacks.Callback):
            """Puts Keras' momentum back before the step is traced."""

            def on_epoch_begin(self, epoch, logs=None):
                for layer, momentum in zip(batchnorm.following(self.model), slow):
                    layer.momentum = momentum

        callbacks.append(Lag())
    compiled(model, 1e-3).fit(*train, epochs=3, batch_size=32, verbose=0, callbacks=callbacks)
    tfr.detach(model)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--examples", type=int, nargs="+", default=[16, 64, 256, 1000])
    parser.add_argument("--lagging", action="store_true", help="momentum stays 0.99 while the penalty presses")
    options = parser.parse_args()
    digits = load_digits()
    print("seed  net        examples  as it is  refreshed  with labels")
    for seed in options.seeds:
        keras.utils.set_random_seed(seed)
        order = np.random.default_rng(seed).permutation(len(digits.target))
        x, y = (digits.images[..., None] / 16.0).astype("float32")[order], digits.target[order]
        train, held = (x[:1400], y[:1400]), (x[1400:], y[1400:])
        model = compiled(build(), 2e-3)
        model.fit(*train, epochs=15, batch_size=32, verbose=0)
        for net in ("untouched", "pressed"):
            if net == "pressed":
                pressed(model, train, options.lagging)
            weights = model.get_weights()
            before = model.evaluate(*held, verbose=0)[1]
            for num in options.examples:
                shown = []
                for labels in (None, train[1][:num]):
                    model.set_weights(weights)
                    tfr.refresh_statistics(model, train[0][:num], labels)
                    shown.append(model.evaluate(*held, verbose=0)[1])
                model.set_weights(weights)
                print(f"{seed:>4}  {net:<9}  {num:>8}  {before:>8.2%}  {shown[0]:>9.2%}  {shown[1]:>11.2%}", flush=True)


if __name__ == "__main__":
    main()
