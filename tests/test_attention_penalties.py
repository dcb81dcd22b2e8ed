"""Penalties on the projections of attention layers, which Keras saves with one regularizer: each gets its own back."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.kernels.table import find
from tf_reweight.penalties.attachment import attachments
from tf_reweight.penalties.projections import PerProjection
from tf_reweight.penalties.reweighted import Combined, Reweighted

L = keras.layers
L2 = keras.regularizers.L2


def multi_head(**arguments):
    return L.MultiHeadAttention(2, 8, name="attention", **arguments)


def gated(**arguments):
    return L.MultiHeadAttention(2, 8, value_dim=6, use_gate=True, use_bias=False, name="attention", **arguments)


def grouped_query(**arguments):
    return L.GroupQueryAttention(8, 4, 2, name="attention", **arguments)


ATTENTIONS = {"multi_head": multi_head, "gated": gated, "grouped_query": grouped_query}


def flat(make, **arguments):
    x = keras.Input((6, 12))
    return keras.Model(x, L.Dense(3, name="top")(L.Flatten()(make(**arguments)(x, x))))


def nested(make, **arguments):
    """Twice the layer, inside a nested model and outside."""
    inner = keras.Input((6, 12))
    block = keras.Model(inner, L.LayerNormalization()(inner + make(**arguments)(inner, inner)), name="block")
    x = keras.Input((6, 12))
    h = L.Dense(12, name="between", kernel_regularizer=L2(0.01))(block(x))
    other = make(**arguments)
    other.name = "second"
    return keras.Model(x, L.Dense(3, name="top")(L.GlobalAveragePooling1D()(other(h, h))))


MODELS = {"flat": flat, "nested": nested}


def two_structures(model):
    tfr.regularize(model, "head", strength=1e-2)
    tfr.regularize(model, "unstructured", strength=1e-3)


PUT = {
    "unstructured": lambda model: tfr.regularize(model, "unstructured", strength=1e-3),
    "head": lambda model: tfr.regularize(model, "head", strength=1e-3),
    "some": lambda model: tfr.regularize(model, "unstructured", strength=1e-3, layers=["*query*", "*value*"]),
    "two": two_structures,
    "coupled": lambda model: tfr.regularize_coupled(model, strength=1e-3),
    "admm": lambda model: tfr.baselines.ADMM("unstructured", 0.5).attach(model),
}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 6, 12)).astype("float32"), rng.integers(0, 3, 16)


def value(model):
    return float(ops.convert_to_numpy(sum(model.losses, 0.0)))


def renew(model):
    """Makes the state of every penalty differ from that of a new one."""
    for item in attachments(model):
        if item.regularizer.renewable:
            item.regularizer.update(item.target.variable.value, 0.03)


def state(model):
    return {
        (item.target.name, number, variable.name): ops.convert_to_numpy(variable.value)
        for number, item in enumerate(attachments(model))
        for variable in item.regularizer.variables
    }


def check_same_state(model, other):
    mine, others = state(model), state(other)
    assert mine.keys() == others.keys()
    for key in mine:
        np.testing.assert_array_equal(mine[key], others[key], err_msg=str(key))


def own(model):
    return {t.name: t.regularizer.get_config() for t in find(model)[0] if t.regularizer is not None}


@pytest.mark.parametrize(
    "make, build, put",
    [
        ("multi_head", "flat", "unstructured"), ("multi_head", "flat", "coupled"), ("multi_head", "nested", "two"),
        ("multi_head", "nested", "coupled"), ("gated", "flat", "some"), ("gated", "nested", "admm"),
        ("grouped_query", "flat", "head"), ("grouped_query", "nested", "two"), ("grouped_query", "nested", "coupled"),
    ],
)  # fmt: skip
def test_they_come_back_with_plain_load_model(make, build, put, data, tmp_path):
    model = MODELS[build](ATTENTIONS[make])
    PUT[put](model)
    renew(model)
    before = value(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert before > 0 and value(loaded) == pytest.approx(before, rel=1e-5)
    check_same_state(model, loaded)
    loaded.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    assert value(again) == pytest.approx(before, rel=1e-5)
    check_same_state(model, again)
    again.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    again.fit(*data, verbose=0)  # one step
    assert value(again) != pytest.approx(before, rel=1e-6)
    assert tfr.detach(again) > 0 and attachments(again) == [] and own(again) == own(MODELS[build](ATTENTIONS[make]))


@pytest.mark.parametrize("make", ATTENTIONS)
def test_the_layers_own_regularizer_stays_through_everything(make, tmp_path):
    make = ATTENTIONS[make]
    model = flat(make, kernel_regularizer=L2(0.1))
    before, plain = value(model), own(model)
    tfr.regularize(model, "unstructured", strength=1e-3, layers=["*query*", "*output*"])
    with_penalty = value(model)
    assert with_penalty > before
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert value(loaded) == pytest.approx(with_penalty, rel=1e-5)
    for copy in (tfr.strip(loaded), keras.saving.load_model(tmp_path / "model.keras")):
        tfr.detach(copy)
        assert own(copy) == plain and value(copy) == pytest.approx(before, rel=1e-5)
    tfr.detach(loaded)
    loaded.save(tmp_path / "plain.keras")
    assert own(keras.saving.load_model(tmp_path / "plain.keras")) == plain
    assert "tf_reweight" not in str(loaded.get_config())


def test_given_in_the_constructor_each_projection_gets_its_own(data, tmp_path):
    model = flat(multi_head, kernel_regularizer=Reweighted("head", 1e-2))
    assert tfr.attach(model) == 4
    renew(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert tfr.attach(loaded) == 0 and value(loaded) == pytest.approx(value(model), rel=1e-5)
    check_same_state(model, loaded)
    tfr.detach(loaded)
    assert "tf_reweight" not in str(loaded.get_config())


@pytest.mark.parametrize("put", ["head", "coupled"])
def test_weights_alone_go_into_a_model_with_the_same_penalties_and_into_a_plain_one(put, tmp_path):
    model, other, plain = flat(multi_head), flat(multi_head), flat(multi_head)
    plain.save_weights(tmp_path / "plain.weights.h5")
    PUT[put](model)
    renew(model)
    model.save_weights(tmp_path / "some.weights.h5")
    PUT[put](other)
    other.load_weights(tmp_path / "some.weights.h5")
    check_same_state(model, other)
    assert value(other) == pytest.approx(value(model), rel=1e-6)
    plain.load_weights(tmp_path / "some.weights.h5")
    assert value(plain) == 0
    other.load_weights(tmp_path / "plain.weights.h5")  # what was saved without penalties leaves theirs as they are
    check_same_state(model, other)


@keras.saving.register_keras_serializable(package="attention_tests")
class Block(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.attention, self.top = multi_head(), L.Dense(3)

    def call(self, x):
        return self.top(ops.mean(self.attention(x, x), axis=1))


def subclassed():
    model = Block()
    model(np.zeros((1, 6, 12), "float32"))
    return model


class Cut(keras.callbacks.Callback):
    """A machine that goes down at the end of an epoch, after the backup."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "build, put",
    [
        pytest.param(lambda: flat(multi_head), "coupled", id="coupled"), pytest.param(subclassed, "head", id="subclassed"),
        pytest.param(lambda: nested(grouped_query), "head", id="nested", marks=pytest.mark.slow),
    ],  # fmt: skip
)
@pytest.mark.filterwarnings("ignore:The penalties on attention:UserWarning")  # a backup is loaded into the very model
def test_a_run_that_was_cut_off_goes_on_exactly(build, put, data, tmp_path):
    def run(cut, folder):
        keras.utils.set_random_seed(3)
        model = build()
        PUT[put](model)
        # A class of one's own calls the same layers: its few steps are quicker than the making of one that is compiled.
        options = {"run_eagerly": build is subclassed}
        model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
        callbacks = [tfr.callbacks.Reweighting(every=2), keras.callbacks.BackupAndRestore(folder)]
        model.fit(*data, epochs=4, shuffle=False, verbose=0, callbacks=callbacks + ([Cut()] if cut else []))
        return model

    whole = run(False, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(True, tmp_path / "cut")
    resumed = run(False, tmp_path / "cut")
    check_same_state(whole, resumed)
    for one, two in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one.value), ops.convert_to_numpy(two.value))


def test_config_round_trip_and_what_is_not_settled():
    regularizers = {"value": Combined([L2(0.5), Reweighted("unstructured", 1e-2)]), "key": Reweighted("head", 1e-3)}
    held = PerProjection(regularizers, L2(0.25))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(held))
    assert again.get_config() == held.get_config() and again.names == ["key", "value"]
    assert again.of("query").get_config() == L2(0.25).get_config()
    assert [type(again.of(name)) for name in again.names] == [Reweighted, Combined]
    assert len(again.parts()) == 2 and again.strength == pytest.approx(1e-2)
    with pytest.raises(ValueError, match="attach.*"):
        again(np.zeros((2, 2), "float32"))


def test_a_copy_made_from_the_config_alone_is_pressed_kernel_by_kernel():
    model = flat(multi_head, kernel_regularizer=L2(0.25))
    tfr.regularize(model, "unstructured", strength=1e-2, penalty="lasso", layers=["*value*"])
    copy = keras.models.clone_model(model)
    kernels = {t.layer.name: ops.convert_to_numpy(t.variable.value) for t in find(copy)[0]}
    ridge = sum(0.25 * (kernels[name] ** 2).sum() for name in ("query", "key", "value", "attention_output"))
    assert value(copy) == pytest.approx(ridge + 1e-2 * np.abs(kernels["value"]).sum(), rel=1e-5)
    assert [item.target.layer.name for item in attachments(copy)] == ["value"]
    assert value(copy) == pytest.approx(ridge + 1e-2 * np.abs(kernels["value"]).sum(), rel=1e-5)
