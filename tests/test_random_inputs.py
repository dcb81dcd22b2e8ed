"""Random inputs for checks that were given no data."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.graph import random_inputs

L = keras.layers


def inputs_of(*layers, **kwargs):
    model = keras.Sequential(layers)
    return random_inputs.inputs(model, model.inputs, **kwargs)


def test_shapes_dtypes_and_seeds():
    picture, numbers, flags, vector = (
        keras.Input((None, 7, 2)), keras.Input((4,), dtype="int32"), keras.Input((3,), dtype="bool"),
        keras.Input((5,), dtype="float16"),
    )  # fmt: skip
    model = keras.Model([picture, numbers, flags, vector], L.Embedding(9, 2)(numbers))
    made = random_inputs.inputs(model, model.inputs, num=200)
    assert [array.shape for array in made] == [(200, 32, 7, 2), (200, 4), (200, 3), (200, 5)]
    assert [array.dtype.name for array in made] == ["float32", "int32", "bool", "float16"]
    assert set(np.unique(made[1])) == set(range(9)) and set(np.unique(made[2])) == {False, True}
    again, others = (random_inputs.inputs(model, model.inputs, num=200, seed=seed) for seed in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(made, again))
    assert not any(np.array_equal(a, b) for a, b in zip(made, others))


def test_pictures_are_smooth_and_pixels_where_the_model_rescales_them():
    """Neighbours are alike, pictures are not: an average over the image still tells them apart."""
    (images,) = inputs_of(keras.Input((64, 64, 3)), L.Conv2D(2, 3), num=32)
    assert np.abs(np.diff(images, axis=1)).mean() < 0.2 * images.std()
    noise = np.random.default_rng(0).normal(size=images.shape)
    assert images.mean((1, 2)).std() / images.std() > 5 * noise.mean((1, 2)).std()
    (pixels,) = inputs_of(keras.Input((64, 64, 3)), L.Rescaling(1 / 255), L.Conv2D(2, 3), num=32)
    assert pixels.min() >= 0 and pixels.max() <= 255 and pixels.std() > 20
    (nested,) = inputs_of(keras.Input((8, 8, 1)), keras.Sequential([keras.Input((8, 8, 1)), L.Rescaling(1 / 255)]))
    assert nested.max() > 50


def test_what_cannot_be_made_up_is_refused():
    model = keras.Sequential([keras.Input((2,), dtype="string"), L.Identity()])
    with pytest.raises(ValueError, match="Inputs of numbers.*Received: dtype='string'"):
        random_inputs.inputs(model, model.inputs)


def test_what_a_normalization_reads_is_spread_as_it_was_adapted_to():
    mean, deviation = np.array([0.0, 50.0, -3e4]), np.array([1.0, 20.0, 1e3])
    layer = L.Normalization(mean=mean, variance=deviation**2)
    (made,) = inputs_of(keras.Input((3,)), layer, L.Dense(2), num=500)
    assert np.allclose((made.mean(0) - mean) / deviation, 0, atol=0.2) and np.allclose(made.std(0), deviation, rtol=0.2)
    (back,) = inputs_of(keras.Input((3,)), L.Normalization(mean=mean, variance=deviation**2, invert=True), num=500)
    assert np.abs(back).max() < 6
    unadapted = L.Normalization()
    model = keras.Sequential([keras.Input((3,)), L.Dense(3), L.Normalization(mean=mean, variance=deviation**2)])
    assert np.abs(random_inputs.inputs(model, model.inputs, num=500)[0]).max() < 6
    assert unadapted.mean is None and np.abs(inputs_of(keras.Input((3,)), unadapted, num=500)[0]).max() < 6


def test_inputs_are_positive_where_others_give_nothing_finite():
    x, numbers = keras.Input((4,)), keras.Input((2,), dtype="int32")
    model = keras.Model([x, numbers], [ops.log(x), L.Embedding(3, 2)(numbers)])
    made = random_inputs.inputs(model, model.inputs)
    assert made[0].min() > 0 and made[1].dtype == np.int32
    assert np.isfinite(ops.convert_to_numpy(model(made)[0])).all()
    (either,) = inputs_of(keras.Input((40,)), L.Dense(2))
    assert either.min() < 0


@pytest.mark.parametrize("function", [ops.log, ops.sqrt], ids=["log", "sqrt"])
def test_models_with_a_domain_are_rewritten_and_compared(function):
    x = keras.Input((6,))
    model = keras.Model(x, L.Dense(3)(L.Dense(8, activation="relu")(function(x))))
    tfr.prune_groups(model, sparsity=0.5)
    small = tfr.shrink(model)
    given = np.random.default_rng(0).uniform(0.1, 9, (16, 6)).astype("float32")
    assert small.count_params() < model.count_params()
    assert tfr.quantize(small).name
    assert np.allclose(small.predict(given, verbose=0), model.predict(given, verbose=0), atol=1e-5)
