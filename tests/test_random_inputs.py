"""Random inputs for checks that were given no data."""

import keras
import numpy as np
import pytest

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
