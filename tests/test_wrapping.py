"""The two layers that compute another with changed kernels: where they stand, and what they refuse."""

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight.quantization.layers import QuantizedKernel

L = keras.layers
WRAPPERS = (tfr.Masked, QuantizedKernel)


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_they_are_called_for_each_step_of_a_sequence_as_the_layer_inside_is(wrap):
    layer = wrap(L.Dense(3, activation="relu"))
    x = keras.Input((5, 4))
    model = keras.Model(x, L.TimeDistributed(layer)(x))
    values = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    assert model.output_shape == (None, 5, 3)
    steps = np.stack([layer(values[:, step]) for step in range(5)], axis=1)
    np.testing.assert_allclose(model(values), steps, atol=1e-6)


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_outputs_keep_the_types_of_the_layer_inside(wrap):
    inner = L.Dense(3, dtype="float16")
    layer = wrap(inner)
    symbolic, values = layer(keras.Input((4,))), layer(np.ones((1, 4), "float16"))
    assert symbolic.dtype == inner(keras.Input((4,))).dtype == "float16" == keras.backend.standardize_dtype(values.dtype)
    assert tuple(values.shape) == layer.compute_output_shape((1, 4))


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("layer", [None, "dense", 3, L.Dense])
def test_what_is_no_layer_is_refused(wrap, layer):
    with pytest.raises(TypeError, match=rf"`{wrap.__name__}` wraps a Keras layer.*Received: layer=.*For example"):
        wrap(layer)
