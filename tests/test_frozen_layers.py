"""Layers with `trainable=False` stay as they are unless told otherwise, and layers with a `call` of their own are named."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import coupling, quantization
from tf_reweight.kernels import table
from tf_reweight.workflow import defaults

L = keras.layers
# TensorFlow's own, which `pytest.warns` would raise again.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def block(x, name, filters=8):
    x = L.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return L.ReLU(name=f"{name}_relu")(L.BatchNormalization(name=f"{name}_norm")(x))


def plain():
    x = keras.Input((8, 8, 3))
    h = block(block(block(x, "a"), "b"), "c")
    return keras.Model(x, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(h)))


def nested():
    """A backbone that is a model of its own, frozen as a whole."""
    image = keras.Input((8, 8, 3))
    backbone = keras.Model(image, block(block(image, "a"), "b"), name="backbone")
    x = keras.Input((8, 8, 3))
    return keras.Model(x, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(block(backbone(x), "c"))))


def freeze_first(model):
    model.get_layer("a_conv").trainable = False


def freeze_norm(model):
    model.get_layer("a_norm").trainable = False


def freeze_backbone(model):
    model.get_layer("backbone").trainable = False


# What is frozen, and which convolutions' channels stay whole: those that a frozen layer makes, scales or reads.
CASES = [
    (plain, freeze_first, {"a_conv"}),
    (plain, freeze_norm, {"a_conv"}),
    (plain, lambda model: setattr(model.get_layer("b_conv"), "trainable", False), {"a_conv", "b_conv"}),
    (nested, freeze_backbone, {"backbone/a_conv", "backbone/b_conv"}),
]


def built(make, freeze):
    keras.utils.set_random_seed(0)
    model = make()
    freeze(model)
    return model


def numbers(weight):
    return ops.convert_to_numpy(weight.value).copy()


def frozen_weights(model):
    return [numbers(weight) for weight in model.non_trainable_weights]


@pytest.mark.parametrize("make, freeze, whole", CASES)
def test_coupled_sets_that_touch_frozen_layers_stay_whole(make, freeze, whole):
    model = built(make, freeze)
    before = frozen_weights(model)
    with pytest.warns(UserWarning, match="trainable=False"):
        report = coupling.prune_groups(model, 0.5)
    names = {item.name for item in report.sets}
    assert names and not names & whole and {item.name for item in report.frozen} >= whole
    assert any("trainable=False" in item.reasons[0] for item in report.frozen) and "trainable=False" in str(report)
    for old, new in zip(before, frozen_weights(model), strict=True):
        np.testing.assert_array_equal(old, new)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        small = tfr.shrink(model)
    assert small.count_params() < model.count_params()


@pytest.mark.parametrize("make, freeze, whole", CASES)
def test_told_otherwise(make, freeze, whole):
    model = built(make, freeze)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = coupling.prune_groups(model, 0.5, include_frozen=True, scope="set")
    assert {item.name for item in report.sets} >= whole
    with pytest.warns(UserWarning, match="stays.*trainable=False"):
        spared, told = tfr.shrink(model, return_report=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        small = tfr.shrink(model, include_frozen=True)
    assert small.count_params() < spared.count_params() <= model.count_params()
    assert {item.name for item in told.frozen} >= whole


@pytest.mark.parametrize("make, freeze, whole", CASES)
def test_coupled_penalties(make, freeze, whole, tmp_path):
    model = built(make, freeze)
    with pytest.warns(UserWarning, match="trainable=False"):
        made = coupling.regularize_coupled(model, 1e-3)
    assert not {penalty.item.name for penalty in made.penalties} & whole
    assert {item.name for item in made.left_out} >= whole
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    names = [penalty.item.name for penalty in coupling.penalty.coupled_penalties(again)]
    assert names == [penalty.item.name for penalty in made.penalties]


def test_pruned_kernels():
    model = built(plain, freeze_first)
    frozen = numbers(model.get_layer("a_conv").kernel)
    with pytest.warns(UserWarning, match="a_conv.*include_frozen=True"):
        report = tfr.prune(model, "unstructured", sparsity=0.5)
    assert report.sparsity == pytest.approx(0.5, abs=1e-3)
    assert "a_conv/kernel" in {item.name for item in report.left_out}
    np.testing.assert_array_equal(frozen, model.get_layer("a_conv").kernel)
    told = tfr.prune(model, "unstructured", sparsity=0.5, include_frozen=True)
    assert "a_conv/kernel" in {item.name for item in told.kernels}
    assert (numbers(model.get_layer("a_conv").kernel) == 0).any()


@pytest.mark.parametrize(
    "change", [lambda m: tfr.prune(m, "unstructured", sparsity=0.5), lambda m: coupling.prune_groups(m, 0.5)]
)
def test_a_model_that_is_frozen_whole(change):
    model = built(plain, lambda model: setattr(model, "trainable", False))
    before = [numbers(weight) for weight in model.weights]
    with pytest.raises(ValueError, match="include_frozen=True"):
        change(model)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new)


# Layers with a `call` of their own ------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("own_calls")
class Standardized(L.Conv2D):
    def call(self, inputs):
        kernel = self.kernel - ops.mean(self.kernel, (0, 1, 2), keepdims=True)
        return ops.conv(inputs, kernel, 1, "same")


@keras.saving.register_keras_serializable("own_calls")
class StandardizedHook(L.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - ops.mean(kernel, (0, 1, 2), keepdims=True))


class Heir(Standardized):
    pass


class OwnDense(L.Dense):
    def call(self, inputs, training=None):
        return ops.matmul(inputs, ops.tanh(self.kernel))


class OwnCell(L.GRUCell):
    def call(self, inputs, states, training=False):
        return super().call(inputs, states, training)


class OnlyBuilds(L.Conv2D):
    def build(self, input_shape):
        super().build(input_shape)
        self.built_here = True

    def get_config(self):
        return super().get_config()


class Known(L.Conv2D):
    def call(self, inputs):
        return 2.0 * super().call(inputs)


table.register(Known)


def with_layer(layer):
    x = keras.Input((8, 8, 3))
    h = layer(x) if isinstance(layer, L.Conv2D) else L.Conv2D(8, 3, name="plain")(x)
    h = h if isinstance(layer, L.Conv2D) else L.Reshape((-1, 8))(h)
    h = L.GlobalAveragePooling2D()(h) if isinstance(layer, L.Conv2D) else layer(h)
    return keras.Model(x, L.Dense(2)(h))


OWN = {
    "call": lambda: Standardized(8, 3, padding="same", name="own"),
    "convolution_op": lambda: StandardizedHook(8, 3, name="own"),
    "heir": lambda: Heir(8, 3, padding="same", name="own"),
    "dense": lambda: OwnDense(8, name="own"),
    "cell": lambda: L.RNN(OwnCell(8), name="own"),
}
CHANGES = {
    "prune": lambda model: tfr.prune(model, "unstructured", sparsity=0.5),
    "regularize": lambda model: tfr.regularize(model),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", OWN)
def test_a_call_of_its_own_is_warned_of(kind, change):
    model = with_layer(OWN[kind]())
    with pytest.warns(UserWarning, match="own.*overrides how Keras' layer computes"):
        CHANGES[change](model)


@pytest.mark.parametrize("make", [lambda: OnlyBuilds(8, 3), lambda: Known(8, 3), lambda: L.LSTM(8), lambda: L.Conv2D(8, 3)])
def test_no_false_alarm(make):
    model = with_layer(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for change in CHANGES.values():
            change(model)


def test_channels_of_an_own_call_are_never_removed():
    x = keras.Input((8, 8, 3))
    h = Standardized(8, 3, padding="same", name="own")(L.Conv2D(8, 3, name="before")(x))
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(8, 3)(h))))
    report = coupling.prune_groups(model, 0.5)
    (held,) = [item for item in report.frozen if item.name == "before"]
    assert "Standardized" in held.reasons[0] and "own" in held.reasons[0]
    assert (numbers(model.get_layer("own").kernel) != 0).all()


@pytest.mark.filterwarnings("ignore:The channels of backbone")
def test_what_holds_a_budget_up_is_named():
    """A frozen backbone and a layer that channels are not followed through, with a default that is out of reach and without."""
    x = keras.Input((8, 8, 3))
    backbone = keras.Model(x, keras.layers.Conv2D(16, 3)(keras.layers.Conv2D(16, 3)(x)), name="backbone")
    backbone.trainable = False
    strange = keras.layers.Lambda(lambda t: t[..., ::-1], name="strange")
    hidden = keras.layers.Dense(8, name="head")(keras.layers.GlobalAveragePooling2D()(backbone(x)))
    hidden = keras.layers.Dense(6, name="unknown")(hidden)
    model = keras.Model(x, keras.layers.Dense(2, name="out")(strange(hidden)))
    for ask in (
        lambda: tfr.prune_groups(model, budget="macs=0.5"), lambda: coupling.regularize_coupled(model, budget="macs=0.5")
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Whole stay, among others: .*backbone.*trainable=False") as refused:
            ask()
        assert "unknown (" in str(refused.value) and "out (" not in str(refused.value)
    with pytest.warns(UserWarning, match=r"50% of the MACs cannot go.*Whole stay.*backbone.*Budget\(macs=0\.9\d+\) instead"):
        made = defaults.configuration(model, None, "channels", None, None, {}, None, None)
    assert 0.9 < made["prune"]["budget"]["macs"] < 1.0


def _levels(model, **arguments):
    attached = quantization.regularize_levels(model, 4, **arguments)
    quantization.snap(model, **arguments)
    return attached.left_out


# In place, with what was left out.
MOVING = {
    "cluster": lambda model, **arguments: quantization.cluster(model, 4, **arguments).left_out,
    "levels": _levels,
}


@pytest.mark.parametrize("name", MOVING)
def test_values_of_kernels(name):
    move, model = MOVING[name], plain()
    freeze_first(model)
    frozen, other = (ops.convert_to_numpy(model.get_layer(layer).kernel) for layer in ("a_conv", "b_conv"))
    with pytest.warns(UserWarning, match=r"1 kernels of layers with trainable=False are left as they are \(a_conv/kernel\)"):
        left_out = move(model)
    assert any(item.name == "a_conv/kernel" and "trainable=False; include_frozen=True" in item.reason for item in left_out)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.get_layer("a_conv").kernel), frozen)
    assert (ops.convert_to_numpy(model.get_layer("b_conv").kernel) != other).any()
    move(model, include_frozen=True)
    assert (ops.convert_to_numpy(model.get_layer("a_conv").kernel) != frozen).any()
    model.trainable = False
    with pytest.raises(ValueError, match="must be trainable. Received: frozen=.*include_frozen=True"):
        move(model)


def test_a_kernel_that_was_frozen_after_its_penalty_towards_levels_is_not_moved():
    model = plain()
    quantization.regularize_levels(model, 4)
    freeze_first(model)
    before = ops.convert_to_numpy(model.get_layer("a_conv").kernel)
    with pytest.warns(UserWarning, match="pass include_frozen=True to snap them too"):
        moved = quantization.snap(model)
    assert "a_conv/kernel" not in moved and "b_conv/kernel" in moved
    np.testing.assert_array_equal(ops.convert_to_numpy(model.get_layer("a_conv").kernel), before)
    assert not model.losses
