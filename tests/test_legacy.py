"""Keras 3 to Keras 2 and back. What needs no tf_keras is tested always, the round trip where it is installed."""

import sys

import keras
import nets
import numpy as np
import pytest

from tf_reweight.baselines import tf_keras
from tf_reweight.data import models

L = keras.layers


def chain():
    return keras.Sequential([
        keras.Input((8, 8, 3)), L.ZeroPadding2D(1), L.Conv2D(6, 3, activation="relu", use_bias=False), L.BatchNormalization(),
        L.DepthwiseConv2D(3, padding="same"), L.ReLU(6), L.AveragePooling2D(2), L.Dropout(0.1), L.Flatten(),
        L.Dense(4, activation="tanh"), L.Dense(3), L.Softmax(),
    ])  # fmt: skip


@pytest.mark.parametrize("build", [chain, nets.plain, nets.residual, lambda: models.build("ds_cnn", (16, 16, 1))])
def test_there_and_back(build):
    """Same outputs in both, exact weights, for chains, residual sums and `x + y`."""
    pytest.importorskip("tf_keras", reason="needs the extra tfmot")
    model = nets.randomize(build())
    old = tf_keras.to_tf_keras(model)
    assert type(old).__module__.startswith("tf_keras") and old.count_params() == model.count_params()
    back = tf_keras.from_tf_keras(old)
    for first, second in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_what_is_not_on_the_list_is_refused_by_name():
    pytest.importorskip("tf_keras", reason="needs the extra tfmot")
    for build, words in ((nets.lstm, "TimeDistributed is not among"), (nets.squeeze_excite, "activation is not among")):
        with pytest.raises(ValueError, match=words) as caught:
            tf_keras.to_tf_keras(build())
        assert "Received: layer=" in str(caught.value)
    dense, x = L.Dense(3), keras.Input((3,))
    with pytest.raises(ValueError, match="more than once"):
        tf_keras.to_tf_keras(keras.Model(x, dense(dense(x))))
    with pytest.raises(ValueError, match="built tf_keras model"):
        tf_keras.from_tf_keras(nets.plain())


def test_without_tf_keras_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    for call in (tf_keras.to_tf_keras, tf_keras.from_tf_keras):
        with pytest.raises(ImportError, match=r"tf-reweight\[tfmot\]"):
            call(nets.plain())


@pytest.mark.parametrize("kind", sorted(tf_keras.LAYERS))
def test_every_argument_on_the_list_is_one_of_keras(kind):
    import inspect

    layer = getattr(L, kind)
    known = set(inspect.signature(layer.__init__).parameters)
    for parent in layer.__mro__[1:]:
        known |= set(inspect.signature(parent.__init__).parameters) if issubclass(parent, L.Layer) else set()
    assert set(tf_keras.LAYERS[kind]) <= known


def test_a_difference_is_noticed():
    """The check itself, on two Keras 3 models."""
    first, second = (nets.randomize(nets.plain(), seed) for seed in (0, 1))
    tf_keras._check(first, first, first.inputs)
    with pytest.raises(ValueError, match="same outputs"):
        tf_keras._check(first, second, first.inputs)
