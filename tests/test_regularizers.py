"""The penalty on a model: it equals a NumPy loop, reaches the loss and the gradient, is saved, renewed and taken off."""

import keras
import numpy as np
import pytest
from keras import ops
from tables import KERNEL_KINDS, random_kernel

import tf_reweight as tfr
from tf_reweight.penalties.attachment import attach, attachments
from tf_reweight.penalties.reweighted import Combined, Reweighted
from tf_reweight.workflow.methods.penalised import Penalised

L = keras.layers


def small_net(**kernel_arguments):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(4, 3, name="conv", activation="relu", **kernel_arguments),
            L.Flatten(),
            L.Dense(6, name="hidden", activation="relu"),
            L.Dense(3, name="top", activation="softmax"),
        ]
    )


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.random((32, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 32)


def compiled(model, **arguments):
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", **arguments)
    return model


def numpy_penalty(kernel, structure, strength, epsilon):
    """The paper's formula in a loop: strength * sum of r / (r_old + epsilon), at r = r_old."""
    total = 0.0
    for scope in ops.convert_to_numpy(tfr.structures.get(structure).partition(kernel)):
        for group in scope:
            norm = sum(float(weight) ** 2 for weight in group) ** 0.5
            total += norm / (norm + epsilon)
    return strength * total


@pytest.mark.parametrize("structure", ["unstructured", "filter", "channel", "column", {"name": "block", "shape": [2, 2]}])
@pytest.mark.parametrize("kind", ["dense", "conv2d", "conv2d_transpose", "lstm", "attention", "separable2d"])
def test_the_penalty_equals_a_numpy_loop(kind, structure):
    model = KERNEL_KINDS[kind][0]()
    named = [target.name for target in tfr.kernels.table.find(model)[0] if target.standard_shape[-2] > 1]
    attached = tfr.regularize(model, structure, 0.1, {"name": "log_sum", "epsilon": 0.05}, layers=named)
    expected = 0.0
    for item in attached.attachments:
        item.regularizer.update(item.target.variable)
        standard = ops.convert_to_numpy(item.target.standard_kernel())
        expected += numpy_penalty(standard, structure, 0.1, 0.05)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-4)


def test_the_penalty_reaches_the_loss_and_the_gradient(batch):
    """Public code for this method has forgotten either: a penalty never added, or one computed from detached weights."""
    x, y = batch
    model = compiled(small_net())
    plain = model.evaluate(x, y, verbose=0)
    tfr.regularize(model, "unstructured", 1.0, "lasso")
    total = sum(np.abs(ops.convert_to_numpy(v)).sum() for v in model.trainable_variables if len(v.shape) > 1)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(plain + total, rel=1e-4)
    before = total
    model.fit(x, y, epochs=3, verbose=0)
    after = sum(np.abs(ops.convert_to_numpy(v)).sum() for v in model.trainable_variables if len(v.shape) > 1)
    assert after < before


def test_negative_weights_are_pulled_up():
    """1 / (w + epsilon) without the absolute value would push them down."""
    import tensorflow as tf

    regularizer = Reweighted("unstructured", 1.0, layout=tfr.kernels.table.Layout.standard((1, 2)).get_config())
    kernel = tf.constant([[-0.5, 0.5]])
    regularizer.update(kernel)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        value = regularizer(kernel)
    left, right = tape.gradient(value, kernel).numpy()[0]
    assert left < 0 < right and left == -right


def test_small_groups_are_pressed_harder():
    regularizer = Reweighted("filter", 1.0, layout=tfr.kernels.table.Layout.standard((2, 3)).get_config())
    regularizer.update(np.array([[0.0, 0.1, 1.0], [0.0, 0.1, 1.0]], "float32"))
    weights = ops.convert_to_numpy(regularizer.penalty_weights)[0]
    assert weights[0] > weights[1] > weights[2] > 0
    assert weights[0] == pytest.approx(100.0)


def test_three_ways_in_give_the_same_penalty(batch):
    """In a constructor, on a built model, on a loaded model: same weights, same loss."""
    x, y = batch
    built = small_net(kernel_regularizer=Reweighted("filter", 1e-2))
    in_place, path_weights = small_net(), built.get_weights()
    in_place.set_weights(path_weights)
    tfr.regularize(in_place, "filter", 1e-2, layers="conv")
    attach(built)
    for model in (built, in_place):
        for item in attachments(model):
            item.regularizer.update(item.target.variable)
    losses = [compiled(model).evaluate(x, y, verbose=0) for model in (built, in_place)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_every_way_in_has_the_same_strength_where_none_is_given():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    (item,) = tfr.regularize(model).attachments
    assert item.regularizer.strength == Reweighted().strength == Penalised.of_rule["strength"]


def test_one_instance_given_to_two_layers_becomes_two():
    shared = Reweighted("unstructured", 1e-3)
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, kernel_regularizer=shared), L.Dense(2, kernel_regularizer=shared)])
    assert attach(model) == 2 and attach(model) == 0
    first, second = attachments(model)
    assert first.regularizer is not second.regularizer


def test_a_structure_the_kernel_cannot_have_is_refused_at_binding():
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, kernel_regularizer=Reweighted("kernel", 1e-3))])
    with pytest.raises(ValueError, match="must be able to have the structure"):
        attach(model)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_subclassed_model_trains_and_is_pruned(batch):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.flat, self.hidden, self.top = L.Flatten(), L.Dense(16, "relu"), L.Dense(3, "softmax")

        def call(self, x):
            return self.top(self.hidden(self.flat(x)))

    x, y = batch
    model = compiled(Net())
    model(x[:1])
    with pytest.warns(UserWarning, match="penalties on dense.* will not be there after the model was saved and loaded"):
        tfr.regularize(model, "unstructured", 1e-3)
    model.fit(x, y, epochs=2, callbacks=[tfr.callbacks.Reweighting(every=1)], verbose=0)
    with pytest.warns(UserWarning, match="will not be after the model was saved and loaded"):
        report = tfr.prune(model, sparsity=0.5)
    model.fit(x, y, epochs=1, verbose=0)
    assert report.sparsity == pytest.approx(0.5, abs=1e-3)
    assert sum(zeros for zeros, _ in tfr.sparsity(model).values()) >= 0.5 * sum(n for _, n in tfr.sparsity(model).values()) - 1


def test_attached_models_round_trip_with_their_penalty_weights(batch, tmp_path):
    x, y = batch
    model = compiled(small_net(kernel_regularizer="l2"))
    tfr.regularize(model, "filter", 1e-2, layers="conv")
    tfr.regularize(model, "unstructured", 1e-3, {"name": "arctan", "epsilon": 0.05}, layers="conv")
    model.fit(x, y, epochs=2, callbacks=[tfr.callbacks.Reweighting(every=1)], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    for mine, other in zip(attachments(model), attachments(loaded), strict=True):
        assert mine.regularizer.get_config() == other.regularizer.get_config()
        np.testing.assert_array_equal(
            ops.convert_to_numpy(mine.regularizer.penalty_weights), ops.convert_to_numpy(other.regularizer.penalty_weights)
        )


def test_pretrained_weights_load_into_an_attached_model(tmp_path):
    plain = small_net()
    plain.save(tmp_path / "plain.keras")
    model = small_net()
    tfr.regularize(model, "unstructured", 1e-3)
    model.load_weights(tmp_path / "plain.keras")
    kernels = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    for kernel, expected in zip(kernels, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(kernel, expected)


def test_detach_gives_back_what_was_there(batch):
    x, y = batch
    model = compiled(small_net(kernel_regularizer="l2"))
    before, count = model.evaluate(x, y, verbose=0), len(model.weights)
    tfr.regularize(model, "filter", 1.0)
    tfr.regularize(model, "unstructured", 1.0)
    assert model.evaluate(x, y, verbose=0) > before
    assert tfr.detach(model) == 3
    assert model.evaluate(x, y, verbose=0) == before
    assert len(model.weights) == count and not attachments(model)


def test_combined_adds_up():
    kernel = random_kernel((4, 3))
    one, two = Reweighted("filter", 0.5, "lasso"), Reweighted("unstructured", 0.25, "lasso")
    with pytest.warns(UserWarning, match="not attached"):
        total = float(Combined([one, two, "l2"])(ops.convert_to_tensor(kernel)))
    expected = 0.5 * np.sqrt(np.square(kernel).sum(0)).sum() + 0.25 * np.abs(kernel).sum() + 0.01 * np.square(kernel).sum()
    assert total == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "regularizer",
    [
        Reweighted("filter", 1e-3, {"name": "log_sum", "epsilon": 0.5}, price=2.0),
        Reweighted({"name": "block", "shape": [2, 2]}, 1e-3, layout=tfr.kernels.table.Layout.standard((4, 4)).get_config()),
        Combined([Reweighted("filter"), "l2"]),
    ],
)
def test_config_round_trip(regularizer):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(regularizer))
    assert type(copy) is type(regularizer) and copy.get_config() == regularizer.get_config()


def test_price_multiplies_the_penalty(batch):
    model = small_net()
    attached = tfr.regularize(model, "unstructured", 1e-3, "lasso", price=lambda target: 2.0 if "conv" in target.name else 1.0)
    prices = {item.target.path: item.regularizer.price for item in attached.attachments}
    assert prices == {"conv": 2.0, "hidden": 1.0, "top": 1.0}
    attached.attachments[0].regularizer.update(attached.attachments[0].target.variable)
    assert (ops.convert_to_numpy(attached.attachments[0].regularizer.penalty_weights) == 2.0).all()


def test_price_by_size_is_the_root_of_the_weights_of_a_group_and_one_on_average():
    model = small_net()
    attached = tfr.regularize(model, "column", price="size").attachments
    sizes = [a.regularizer.structure.num_members(a.target.standard_shape).ravel() for a in attached]
    roots = [size.mean() ** 0.5 for size in sizes]
    prices = [a.regularizer.price for a in attached]
    np.testing.assert_allclose(np.divide(prices, prices[0]), np.divide(roots, roots[0]), rtol=1e-6)
    assert np.concatenate([np.full(len(size), price) for size, price in zip(sizes, prices)]).mean() == pytest.approx(1.0)
    assert len(set(prices)) > 1
    assert {a.regularizer.price for a in tfr.regularize(small_net(), "unstructured", price="size").attachments} == {1.0}
    with pytest.raises(ValueError, match="Did you mean 'size'"):
        tfr.regularize(small_net(), "column", price="sise")


def test_an_unbound_penalty_says_so():
    with pytest.warns(UserWarning, match="Reweighting"):
        value = Reweighted("filter", 1e-3)(ops.ones((2, 2)))
    # All weights 1: the static penalty of two columns of norm sqrt(2).
    assert float(value) == pytest.approx(1e-3 * 2 * 2**0.5)


def test_bad_arguments_are_explained():
    for arguments in ({"strength": -1}, {"strength": float("nan")}, {"price": 0}, {"strength": "much"}):
        with pytest.raises(ValueError, match="must be a finite number .* Received: "):
            Reweighted("filter", **arguments)
    frozen = small_net()
    frozen.trainable = False
    with pytest.raises(ValueError, match="must be trainable"):
        tfr.regularize(frozen, "filter")
    regularizer = Reweighted("filter", layout=tfr.kernels.table.Layout.standard((4, 4)).get_config())
    with pytest.raises(ValueError, match="bound to a kernel of shape"):
        regularizer(ops.ones((3, 4)))
