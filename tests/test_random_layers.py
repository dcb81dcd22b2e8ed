"""Layers that draw random numbers outside training: a copy is compared with the same draws, else the layer is named."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import coupling, export
from tf_reweight.export.verification import VerificationError
from tf_reweight.graph.randomness import fixed_draws, random_layers
from tf_reweight.quantization.rules import AUGMENTATIONS

L = keras.layers
X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@keras.saving.register_keras_serializable("random_layers")
class Sampling(L.Layer):
    """A variational autoencoder's."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, inputs):
        mean, log_var = inputs
        return mean + ops.exp(0.5 * log_var) * keras.random.normal(ops.shape(mean), seed=self.seed_generator)


@keras.saving.register_keras_serializable("random_layers")
class AlwaysDropout(L.Dropout):
    """Monte Carlo dropout."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def autoencoder():
    x = keras.Input((6,))
    h = L.Dense(16, activation="relu", name="encode")(x)
    z = Sampling(name="sample")([L.Dense(4, name="mean")(h), L.Dense(4, name="log_var")(h)])
    return keras.Model(x, L.Dense(6, name="out")(L.Dense(16, activation="relu", name="decode")(z)))


def behind(layer, **call):
    """A model with a layer in the middle, that is called so."""

    def make():
        x = keras.Input((6,))
        h = L.Dense(16, activation="relu", name="first")(x)
        return keras.Model(x, L.Dense(2, name="out")(layer()(h, **call)))

    return make


def nested():
    x = keras.Input((6,))
    return keras.Model(x, L.Dense(2, name="out")(behind(lambda: AlwaysDropout(0.5, name="drop"))()(x)))


RANDOM = {
    "sampling": (autoencoder, "sample"),
    "dropout": (behind(lambda: AlwaysDropout(0.5, name="drop")), "drop"),
    "numpy": (behind(lambda: L.Lambda(lambda x: x + np.random.normal(), name="noise")), "noise"),
    "lambda": (behind(lambda: L.Lambda(lambda x: x + keras.random.normal(ops.shape(x)), name="own")), "own"),
    "nested": (nested, "/drop"),
}
QUIET = {
    "dropout": behind(lambda: L.Dropout(0.5, name="drop")),
    "noise": behind(lambda: L.GaussianNoise(1.0)),
    "norm": behind(L.BatchNormalization),
    # In a model that is called with training=False it drops nothing.
    "training": behind(lambda: L.Dropout(0.5, name="drop"), training=True),
}


def built(make):
    keras.utils.set_random_seed(0)
    return make()


@pytest.mark.parametrize("kind", RANDOM)
def test_they_are_found(kind):
    make, name = RANDOM[kind]
    model = built(make)
    (found,) = random_layers(model, [X])
    assert found.endswith(name)
    if kind != "numpy":
        with fixed_draws(model):
            first = model(X, training=False)
        with fixed_draws(model):
            np.testing.assert_array_equal(first, model(X, training=False))
    assert not np.array_equal(model(X, training=False), model(X, training=False))


@pytest.mark.parametrize("kind", QUIET)
def test_others_are_not(kind):
    assert not random_layers(built(QUIET[kind]), [X])


def test_in_a_subclassed_model():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.sample = L.Dense(4), Sampling(name="sample")

        def call(self, x):
            return self.sample([self.dense(x), self.dense(x)])

    model = Own()
    model(X)
    assert random_layers(model, [X]) == ["sample"]


def test_a_shrunk_model_is_compared_with_the_same_draws():
    """What is sampled keeps its size here, so that both models draw the same."""
    model = built(autoencoder)
    coupling.prune_groups(model, 0.5)
    small = tfr.shrink(model)
    assert small.count_params() < model.count_params()


@pytest.mark.parametrize("change", [tfr.shrink, tfr.quantize])
def test_a_layer_that_draws_by_itself_is_named(change):
    with pytest.raises(ValueError, match="same outputs each time.*noise gives other"):
        change(built(RANDOM["numpy"][0]))


def test_a_file_of_a_model_that_draws(tmp_path, monkeypatch):
    """The file is not called wrong: its model is random."""
    from tf_reweight.export import tflite

    quiet = built(QUIET["noise"])
    model = built(RANDOM["numpy"][0])
    convert = tflite.convert
    monkeypatch.setattr(tflite, "convert", lambda model, *arguments: convert(quiet, *arguments))
    with pytest.raises(VerificationError, match="same outputs each time.*noise gives other"):
        export.export_tflite(model, tmp_path / "m.tflite", verify_data=X)
    assert not (tmp_path / "m.tflite").exists()


AMOUNTS = {
    "RandomBrightness": (0.2,), "RandomColorDegeneration": (0.2,), "RandomContrast": (0.2,), "RandomHue": (0.2,),
    "RandomPosterization": (4,), "RandomRotation": (0.1,), "RandomSaturation": (0.2,), "RandomSharpness": (0.2,),
    "RandomTranslation": (0.1, 0.1), "RandomZoom": (0.1,),
}  # fmt: skip


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_absent_from_files_and_stay_no_float_operation(name):
    layer = getattr(keras.layers, name)(*AMOUNTS.get(name, ()))
    given = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(layer(given, training=False), given)
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(layer(pixels)))
    _, report = tfr.quantize(keras.Model(pixels, keras.layers.Dense(2)(x)), return_report=True)
    assert not report.left_out


def lasting(units=8):
    """A net on batches of four with a state that lasts, whose channels nobody reads in part."""
    keras.utils.set_random_seed(0)
    x = keras.Input(batch_shape=(4, 5, 3))
    hidden = keras.layers.Dense(units, activation="relu", name="wide")(keras.layers.LSTM(6, stateful=True)(x))
    return keras.Model(x, keras.layers.Dense(2)(hidden))


@pytest.mark.filterwarnings("ignore:The ranges of the quantized model may not hold")  # of the ones below
@pytest.mark.parametrize("given", [None, np.ones((4, 5, 3), "float32")], ids=["made up", "given"])
def test_a_state_that_lasts_is_nothing_random(given):
    model = lasting()
    model(np.full((4, 5, 3), 0.5, "float32"))  # leaves a state
    state = np.asarray(model.layers[1].states[0]).copy()
    tfr.prune_groups(model, sparsity=0.4)
    small = tfr.shrink(model, inputs=given)
    assert small.count_params() < model.count_params()
    np.testing.assert_array_equal(model.layers[1].states[0], state)
    assert tfr.quantize(model) and tfr.quantize(model, data=np.ones((6, 5, 3), "float32"))
    for each in (model, small):
        each.layers[1].reset_state()
    x = np.random.default_rng(1).normal(size=(4, 5, 3)).astype("float32")
    for _ in range(2):  # the second time from the state of the first
        np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


class Counting(keras.layers.Layer):
    """A user's own word for a state, without the attribute of recurrent layers."""

    stateful = True

    def call(self, inputs):
        return inputs


def test_a_layer_that_calls_itself_stateful_needs_no_states():
    x = keras.Input((6,))
    model = keras.Model(x, keras.layers.Dense(2)(Counting()(keras.layers.Dense(4)(x))))
    with fixed_draws(model):
        assert model(X).shape == (8, 2)


def test_integers_before_an_input_of_floats_are_looked_at_as_keras_takes_them():
    x = keras.Input((6,))
    model = keras.Model(x, AlwaysDropout(0.5, name="drop")(L.Conv1D(4, 3)(L.Reshape((6, 1))(x))))
    assert random_layers(model, [np.arange(12, dtype="int64").reshape(2, 6)]) == ["drop"]
