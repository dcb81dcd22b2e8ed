"""What a copy of a model takes over from the user's own: losses, metrics, class, names of outputs."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr

L = keras.layers
COPIES = {"shrink": tfr.shrink, "quantize": tfr.quantize}


def conv_net(outputs=None, cls=keras.Model):
    x = keras.Input((8, 8, 3), name="image")
    y = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, activation="relu", name="conv")(x))
    return cls(x, L.Dense(2, name="head")(y)) if outputs is None else cls(x, outputs(y))


def data(num=16):
    rng = np.random.default_rng(0)
    return rng.normal(size=(num, 8, 8, 3)).astype("float32"), rng.normal(size=(num, 2)).astype("float32")


def huber(y, p):
    """A loss that is not Keras' huber."""
    return 7.0 + ops.mean((y - p) ** 2)


class Seven(keras.losses.Loss):
    def call(self, y, p):
        return 7.0 + ops.mean((y - p) ** 2, axis=-1)


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("loss", [huber, Seven(), {"head": huber}, [huber]], ids=["function", "object", "dict", "list"])
def test_the_loss_is_the_users_own_object_whatever_its_name(make, loss):
    model, (x, y) = conv_net(), data()
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=[huber])
    copy = make(model)
    assert copy.compiled and abs(copy.evaluate(x, y, verbose=0, return_dict=True)["loss"]
                                 - model.evaluate(x, y, verbose=0, return_dict=True)["loss"]) < 0.1  # fmt: skip
    copy.fit(x, y, verbose=0)


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 * 0.5 ** ops.cast(step, "float32")

    def get_config(self):
        return {}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_optimizer_settings_and_schedules_come_along_without_state(make):
    model, (x, y) = conv_net(), data()
    schedule = Halving()  # not registered
    model.compile(keras.optimizers.SGD(schedule, momentum=0.75, clipnorm=2.0), "mse", jit_compile=False)
    model.fit(x, y, verbose=0)
    copy = make(model)
    assert (int(copy.optimizer.iterations), int(model.optimizer.iterations)) == (0, 1)
    assert (copy.optimizer.momentum, copy.optimizer.clipnorm) == (0.75, 2.0)
    assert float(copy.optimizer.learning_rate) == pytest.approx(0.1)
    copy.fit(x, y, verbose=0)


class Distiller(keras.Model):
    def train_step(self, data):
        return {"own": ops.convert_to_tensor(1.0)}


class WithTeacher(Distiller):
    def __init__(self, inputs, outputs, teacher, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.teacher = teacher


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_class_with_its_own_training_stays_or_its_loss_is_said(make):
    model, (x, y) = conv_net(cls=Distiller), data()
    model.compile("adam", "mse")
    copy = make(model)
    assert type(copy) is Distiller and set(copy.fit(x, y, verbose=0).history) == {"own"}
    taught = conv_net(cls=lambda i, o: WithTeacher(i, o, teacher=model))
    taught.compile("adam", "mse")
    with pytest.warns(UserWarning, match="train_step of WithTeacher cannot be carried over"):
        assert not isinstance(make(taught), Distiller)


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("as_dict", [False, True], ids=["list", "dict"])
def test_losses_by_output_name_find_their_outputs(make, as_dict, tmp_path):
    def heads(y):
        made = {"box": L.Dense(4, activation="sigmoid", name="box")(y), "cls": L.Dense(3, activation="tanh", name="cls")(y)}
        return made if as_dict else list(made.values())

    model, (x, _) = conv_net(heads), data()
    y = {"box": np.zeros((16, 4), "float32"), "cls": np.zeros((16, 3), "float32")}
    model.compile("sgd", {"cls": "mse", "box": huber}, loss_weights={"cls": 2.0, "box": 1.0}, metrics={"cls": ["mae"]})
    copy = make(model)
    assert copy.output_names == model.output_names
    expected, given = (m.evaluate(x, y, verbose=0, return_dict=True) for m in (model, copy))
    assert given.keys() == expected.keys() and all(abs(given[key] - expected[key]) < 0.1 for key in given)
    copy.compile("sgd", "mse")  # the own loss is not registered, so it cannot be saved
    copy.save(tmp_path / "copy.keras")
    assert keras.saving.load_model(tmp_path / "copy.keras").output_names == model.output_names


def test_helper_layers_take_no_name_of_the_users():
    """Sums of three, split activations and ranges are layers more; a user's layer may have the name that they would get."""
    x = keras.Input((8, 8, 3))
    parts = [L.Conv2D(4, 3, padding="same", activation="silu", name=f"conv_{i}" if i else "conv")(x) for i in range(3)]
    total = L.Add(name="add")(parts)
    total = L.Add(name="add_1")([total, parts[0]])
    total = L.Activation("tanh", name="conv_sigmoid")(total)
    total = L.Add(name="add_2")([L.ReLU(name="conv_range")(total), L.ReLU(name="quantized_conv")(total)])
    model = keras.Model(x, L.Dense(2, name="conv_silu")(L.GlobalAveragePooling2D()(total)))
    copy = tfr.quantize(model)
    assert copy.output_names == ["conv_silu"]
    batch = data(4)[0]
    assert np.allclose(copy(batch), model(batch), atol=0.05)
