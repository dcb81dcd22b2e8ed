"""What a copy of a model takes over from the user's own: losses, metrics, class, names of outputs."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.graph.access import schedule_of
from tf_reweight.graph.compiled import rate_of
from tf_reweight.graph.optimizers import innermost
from tf_reweight.workflow.task import of_model

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
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=[huber], run_eagerly=True)
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


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_function_as_learning_rate_comes_along(make, scaled):
    """Keras takes any callable, and cannot write it down: a lambda, a `functools.partial`."""
    model = conv_net()
    optimizer = keras.optimizers.SGD(functools.partial(max, 0.1, 0.05), momentum=0.75)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, "mse", jit_compile=False)
    assert rate_of(model.optimizer) == 0.1
    copied = innermost(make(model).optimizer)
    assert schedule_of(copied) is schedule_of(optimizer) and copied.momentum == 0.75


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_weights_that_the_optimizer_was_told_not_to_decay_do_not_decay_in_copies(make, scaled):
    """Of which Keras' configuration of the optimizer knows nothing."""
    model = conv_net()
    inner = keras.optimizers.AdamW(1e-3, weight_decay=0.3)
    inner.exclude_from_weight_decay([model.layers[-1].kernel], ["bias", "gamma"])
    model.compile(keras.optimizers.LossScaleOptimizer(inner) if scaled else inner, "mse")
    copy, same = make(model), of_model(model)
    same.compile(again := conv_net(), learning_rate=1e-3)
    head = model.layers[-1].name
    for made in (copy, again):
        optimizer = innermost(made.optimizer)
        decays = {"/".join(v.path.split("/")[-2:]): optimizer._use_weight_decay(v) for v in made.trainable_variables}
        assert any(decays.values()) and f"{head}/kernel" in decays
        assert not any(on for name, on in decays.items() if name == f"{head}/kernel" or name.endswith(("bias", "gamma")))
        assert all(on for name, on in decays.items() if name.endswith("kernel") and name != f"{head}/kernel")


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


def penalised(kind, activation, behind=None):
    x = keras.Input((8, 8, 3))
    own = keras.regularizers.L2(0.1)
    layer = {
        "conv": lambda: L.Conv2D(4, 3, activation=activation, activity_regularizer=own),
        "separable": lambda: L.SeparableConv2D(4, 3, activation=activation, activity_regularizer=own),
        "activation": lambda: L.Activation(activation, activity_regularizer=own),
        "masked": lambda: tfr.Masked(L.Conv2D(4, 3, activation=activation, activity_regularizer=own)),
    }[kind]()
    y = layer(x)
    y = behind()(y) if behind else y
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(y))))


def losses(model, x):
    model(x, training=False)
    return float(sum(ops.convert_to_numpy(loss) for loss in model.losses))


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "silu"])
@pytest.mark.parametrize("kind", ["conv", "separable", "activation"])
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_penalties_on_outputs_stay_in_the_loss(make, kind, activation, tmp_path):
    model, (x, _) = penalised(kind, activation), data()
    expected = losses(model, x)
    copy = make(model)
    assert expected > 0 and losses(copy, x) == pytest.approx(expected, rel=0.05)
    copy.save(tmp_path / "copy.keras")
    assert losses(keras.saving.load_model(tmp_path / "copy.keras"), x) == pytest.approx(losses(copy, x), rel=1e-5)


def test_penalties_on_outputs_before_a_normalization_and_inside_masks_stay():
    x, _ = data()
    model = penalised("conv", "linear", L.BatchNormalization)
    model(10 * x, training=True)  # statistics that are not those of the start
    assert losses(tfr.quantize(model), x) == pytest.approx(losses(model, x), rel=0.05)
    masked = penalised("masked", "relu")
    assert losses(masked, x) > 0 and losses(tfr.strip(masked), x) == pytest.approx(losses(masked, x), rel=1e-5)


def test_a_head_called_on_several_sizes_is_shrunk_quantized_and_exported(tmp_path):
    """A detector's head over a feature pyramid: one model, whose input leaves height and width open."""
    keras.utils.set_random_seed(0)
    head = keras.Sequential([keras.Input((None, None, 12)), L.Conv2D(16, 3, padding="same", activation="relu"), L.Conv2D(2, 1)])
    x = keras.Input((16, 16, 3))
    fine = L.Conv2D(12, 3, padding="same", activation="relu")(x)
    coarse = L.Conv2D(12, 3, strides=2, padding="same", activation="relu")(fine)
    model = keras.Model(x, [L.GlobalAveragePooling2D()(head(level)) for level in (fine, coarse)])
    tfr.prune_groups(model, sparsity=0.4)
    small = tfr.shrink(model)
    batch = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype("float32")
    assert small.count_params() < model.count_params()
    for given, expected in zip(small(batch), model(batch)):
        np.testing.assert_allclose(given, expected, atol=1e-5)
    quantized = tfr.quantize(small)
    tfr.quantization.calibrate(quantized, batch)
    record = tfr.export_tflite(quantized, tmp_path / "pyramid.tflite", "int8", verify_data=batch)
    assert record.verification.relative_error < 0.05


def at_each_step_and_once(layer, shape=(6,), *, first=False, behind=lambda h: h, at_once=None):
    """A layer inside `TimeDistributed` and outside; the second is called first where `first` says so."""
    steps, once = keras.Input((5, *shape)), keras.Input(shape)
    call = layer if at_once is None else at_once
    h = behind(call(once)) if first else None
    parts = [L.Flatten()(L.TimeDistributed(layer, name="each")(steps)), L.Flatten()(behind(call(once)) if h is None else h)]
    return keras.Model([steps, once], L.Dense(2, name="head")(L.Concatenate()(parts)))


def at_steps_of_two():
    layer, steps = L.Dense(8, activation="tanh", name="e"), keras.Input((5, 6))
    parts = [L.TimeDistributed(layer, name="a")(steps), L.TimeDistributed(layer, name="b")(ops.sin(steps))]
    return keras.Model(steps, L.Dense(2)(L.GlobalAveragePooling1D()(L.Concatenate()(parts))))


def in_a_nested_model():
    layer = L.Dense(8, activation="relu", name="e")
    nested = keras.Sequential([keras.Input((6,)), layer, L.Dense(4)])
    return at_each_step_and_once(layer, at_once=nested)


def nested_at_steps():
    return at_each_step_and_once(keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(4)]))


def reads_another():
    x = keras.Input((6,))
    layer = L.Dense(8, name="enc")
    return keras.Model(x, L.Dense(2, name="head")(Transposed(layer, name="tied")(L.ReLU()(layer(L.Dense(7, name="pre")(x))))))


def one_direction_alone():
    steps, both = keras.Input((5, 6)), L.Bidirectional(L.LSTM(4, return_sequences=True), name="both")
    return keras.Model(steps, L.Dense(2)(L.Concatenate()([both(steps), both.forward_layer(steps)])))


def normalized_outside():
    x, layer = keras.Input((6,)), L.Dense(8, name="e")
    return keras.Model(x, L.Dense(2)(L.Concatenate()([L.SpectralNormalization(layer)(x), layer(x)])))


@keras.saving.register_keras_serializable("tests")
class Transposed(L.Layer):
    """Computes with the kernel of another layer, as the decoder of a tied autoencoder does."""

    def __init__(self, other, **kwargs):
        super().__init__(**kwargs)
        self.other = other if isinstance(other, L.Layer) else keras.saving.deserialize_keras_object(other)

    def build(self, shape):
        self.bias = self.add_weight(shape=(self.other.kernel.shape[0],), name="bias")

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.other.kernel)) + self.bias

    def get_config(self):
        return {**super().get_config(), "other": keras.saving.serialize_keras_object(self.other)}


def with_one_activation(build):
    """`build` makes layers of a function without arguments that gives them the activation that they have in common."""
    activation = L.PReLU(name="shared")
    model = keras.Sequential([keras.Input((4, 6)), *build(lambda: activation), L.Flatten(), L.Dense(2)])
    model(np.ones((1, 4, 6), "float32"))  # Keras makes the weights of an activation at the first examples
    return model


# What is shared, and the functions that keep it one; the others refuse it.
SHARED = {
    "a Dense": (lambda: at_each_step_and_once(L.Dense(8, activation="relu")), ("shrink", "quantize", "strip")),
    "a Dense, once first": (lambda: at_each_step_and_once(L.Dense(8, "tanh"), first=True), ("shrink", "quantize", "strip")),
    "a Dense, normalized once": (
        lambda: at_each_step_and_once(L.Dense(8), behind=L.BatchNormalization()), ("shrink", "quantize", "strip"),
    ),
    "a Dense in two": (at_steps_of_two, ("shrink", "quantize", "strip")),
    "a Dense of a nested model": (in_a_nested_model, ("shrink", "quantize", "strip")),
    "a convolution": (lambda: at_each_step_and_once(L.Conv1D(8, 3), (7, 6)), ("shrink", "strip")),
    "a nested model": (nested_at_steps, ("shrink", "strip")),
    "the kernel of another": (reads_another, ()),
    "one direction": (one_direction_alone, ()),
    "a layer in another wrapper": (normalized_outside, ()),
    "an activation": (
        lambda: with_one_activation(lambda shared: [L.Dense(6, activation=shared()) for _ in range(2)]), ("quantize",)
    ),
    "an activation that is called": (lambda: with_one_activation(lambda shared: [L.Dense(6, shared()), shared()]), ()),
    "an activation at steps": (
        lambda: with_one_activation(lambda shared: [L.TimeDistributed(L.Dense(6, activation=shared())) for _ in range(2)]), ()
    ),
    "an activation inside of one layer": (
        lambda: with_one_activation(
            lambda shared: [L.RNN([L.SimpleRNNCell(3, activation=shared()) for _ in range(2)], return_sequences=True)]
        ), (),
    ),
}  # fmt: skip
MAKES = {
    "shrink": tfr.shrink, "quantize": lambda model: tfr.strip_quantization(tfr.quantize(model)), "strip": tfr.strip,
}  # fmt: skip


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("shared", SHARED)
def test_layers_that_share_weights_share_them_in_copies_or_are_refused(shared, make):
    build, kept = SHARED[shared]
    model = build()
    model.compile("sgd", "mse")
    if make in kept:
        copy = MAKES[make](model)
        assert copy.count_params() == model.count_params() and len(copy.trainable_weights) == len(model.trainable_weights)
    else:
        with pytest.raises(ValueError, match=f"Each weight must belong to one layer.*`{make}`.*Received: weights=.*Give each"):
            MAKES[make](model)


def test_a_convolution_at_steps_and_once_can_be_quantized_as_calls_at_steps():
    with pytest.raises(ValueError, match="`each` takes a single input too, as a sequence of one step"):
        tfr.quantize(SHARED["a convolution"][0]())
    each, steps, once = L.TimeDistributed(L.Conv1D(8, 3), name="each"), keras.Input((5, 7, 6)), keras.Input((7, 6))
    parts = [L.Flatten()(each(steps)), L.Flatten()(each(L.Reshape((1, 7, 6))(once)))]
    model = keras.Model([steps, once], L.Dense(2)(L.Concatenate()(parts)))
    assert len(tfr.quantize(model).trainable_weights) == len(model.trainable_weights)


@pytest.mark.parametrize("make", [tfr.tfmot.sparsity.keras.prune_low_magnitude, tfr.tfmot.clustering.keras.cluster_weights])
def test_copies_of_tfmots_functions_share_weights_too(make):
    with pytest.raises(ValueError, match=f"Each weight must belong to one layer.*`{make.__name__}`.*Received: weights="):
        make(reads_another(), *([4, "LINEAR"] if make.__name__ == "cluster_weights" else []))


def test_a_shared_layer_loses_its_channels_once():
    model = at_each_step_and_once(L.Dense(8, activation="relu", name="e"))
    tfr.prune_groups(model, sparsity=0.5)
    small = tfr.shrink(model)
    (kernel,) = [variable for variable in small.trainable_weights if variable.path.endswith("e/kernel")]
    assert kernel.shape == (6, 4) and small.get_layer("e").kernel is small.get_layer("each").layer.kernel is kernel


def test_channels_of_a_kernel_that_an_unknown_layer_reads_stay():
    model = reads_another()
    found = {item.name: item.reasons for item in tfr.groups(model).frozen}
    assert "enc/kernel is also used by tied" in found["enc"] and "enc/kernel is also used by tied" in found["pre"]
    with pytest.raises(ValueError, match="enc/kernel is also used by tied"):
        tfr.prune_groups(model, sparsity=0.5)


class Incomplete(L.Layer):
    """Has no get_config that makes it again."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, inputs):
        return inputs * self.scale


@pytest.mark.parametrize("make", [*MAKES.values(), tfr.quantization.simplify], ids=[*MAKES, "simplify"])
def test_a_layer_without_a_config_is_named(make):
    model = keras.Sequential([keras.Input((6,)), L.Dense(4), Incomplete(np.ones(3), name="own"), L.Dense(2)])
    with pytest.raises(TypeError, match="The layer own must be made again from its own config.*Received: layer='Incomplete'"):
        make(model)
