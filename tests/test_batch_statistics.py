"""Moving statistics of BatchNormalization: estimated from examples where they lag behind, left alone where they do not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tf_reweight as tfr
from tf_reweight.batch_statistics import refresh_statistics
from tf_reweight.graph.batchnorm import FOLLOWING, follow_closely, following
from tf_reweight.penalties.attachment import attachments
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow.config import load
from tf_reweight.workflow.given import of_anything

L = keras.layers


def examples(num=64, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(num, 6, 6, 3)) * [1.0, 2.0, 0.5] + [0.0, 3.0, -1.0]).astype("float32")
    return x, rng.integers(0, 3, num)


def alone(**how):
    x = keras.Input((6, 6, 3))
    return keras.Model(x, L.BatchNormalization(**how)(x))


def deep():
    x = keras.Input((6, 6, 3))
    h = L.Dropout(0.5)(L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(x))))
    h = L.BatchNormalization(name="second")(L.Conv2D(8, 3)(h))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(h)))


def state(model):
    return {w.path: ops.convert_to_numpy(w).copy() for w in model.weights}


def changed(before, model):
    return {path.rsplit("/", 1)[-1] for path, value in state(model).items() if not np.array_equal(value, before[path])}


KINDS = {
    "array": lambda x, y: x,
    "list": lambda x, y: [x],
    "dataset": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
    "function": lambda x, y: lambda: ((x[i : i + 16], y[i : i + 16]) for i in range(0, len(x), 16)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_the_examples(kind):
    x, y = examples()
    model = alone()
    report = refresh_statistics(model, KINDS[kind](x, y), batch_size=16)
    layer = model.layers[1]
    assert report.refreshed == 1 and report.num_examples == 64
    assert np.allclose(layer.moving_mean, x.mean((0, 1, 2)), atol=1e-4)
    assert np.allclose(layer.moving_variance, x.var((0, 1, 2)), rtol=1e-4)
    assert layer.momentum == 0.99 and "call" not in vars(layer)
    # What is right already is left alone, to the last bit.
    before = state(model)
    assert refresh_statistics(model, x).refreshed == 0 and not changed(before, model)


def test_another_axis_and_no_scale():
    x, _ = examples()
    model = alone(axis=1, scale=False, center=False)
    refresh_statistics(model, x)
    assert np.allclose(model.layers[1].moving_mean, x.mean((0, 2, 3)), atol=1e-4)


def test_nothing_else_moves_and_dropout_is_off():
    x, y = examples()
    model = deep()
    model.compile("adam", "sparse_categorical_crossentropy")
    before = state(model)
    first = refresh_statistics(model, x)
    assert changed(before, model) == {"moving_mean", "moving_variance"} and first.refreshed == 2
    # Behind the dropout: the mean of what the second layer gets in inference.
    inner = keras.Model(model.input, model.get_layer("second").input)
    assert np.allclose(model.get_layer("second").moving_mean, inner(x).numpy().mean((0, 1, 2)), rtol=0.05, atol=0.02)


def test_frozen_layers_stay_and_nested_shared_and_wrapped_ones_do_not():
    x, _ = examples()
    inside = keras.Sequential([keras.Input((6, 6, 3)), L.BatchNormalization(), L.Conv2D(4, 3)], name="inside")
    frozen = keras.Sequential([keras.Input((6, 6, 3)), L.BatchNormalization()], name="frozen")
    frozen.trainable = False
    shared, per_row = L.BatchNormalization(name="shared"), L.TimeDistributed(L.BatchNormalization(name="row"))
    inputs = keras.Input((6, 6, 3))
    h = inside(frozen(inputs))
    model = keras.Model(inputs, L.Add()([shared(h), shared(per_row(h))]))
    assert len(following(model)) == 3
    for layer in following(model):
        layer.moving_mean.assign(layer.moving_mean + 50.0)
    before = state(model)
    assert refresh_statistics(model, x).refreshed == 3
    moved = {path for path, value in state(model).items() if not np.array_equal(value, before[path])}
    assert len(moved) >= 3 and not any("frozen" in path for path in moved)


@pytest.mark.parametrize("labelled", [False, True])
def test_channels_that_are_gone_do_not_make_statistics_stale(labelled):
    """Those of the first layer are right for what is left of it: what is behind it has other inputs, and other statistics."""
    x, y = examples(256)
    model = deep()
    model.compile("adam", "sparse_categorical_crossentropy")
    refresh_statistics(model, x)
    tfr.prune_groups(model, 0.6)
    first, second = following(model)
    assert 0 < (ops.convert_to_numpy(first.gamma) == 0).sum() < 8
    before = state(model)
    report = refresh_statistics(model, x, y if labelled else None)
    assert report.layers[0].distance < 4.0 < report.layers[1].distance and not report.layers[0].refreshed
    assert not {path for path, value in state(model).items() if path.startswith(first.path) and (value != before[path]).any()}


def test_several_inputs_by_name():
    x, _ = examples()
    left, right = keras.Input((6, 6, 3), name="left"), keras.Input((6, 6, 3), name="right")
    model = keras.Model({"left": left, "right": right}, L.BatchNormalization()(L.Subtract()([left, right])))
    refresh_statistics(model, {"right": x, "left": 3 * x})
    assert np.allclose(model.layers[-1].moving_mean, 2 * x.mean((0, 1, 2)), atol=1e-3)


def test_statistics_within_the_spread_stay_and_stale_ones_go():
    x, _ = examples(256)
    model = alone()
    layer = model.layers[1]
    small = x[:32].mean((0, 1, 2)), x[:32].var((0, 1, 2))
    for shift, refreshed in ((0.0, 0), (5.0, 1)):
        layer.moving_mean.assign(small[0] + shift)
        layer.moving_variance.assign(small[1])
        report = refresh_statistics(model, x, batch_size=32)
        assert report.refreshed == refreshed and (report.layers[0].distance > 4) == bool(refreshed)


@pytest.mark.parametrize("compiled", [True, False])
def test_labels_decide_where_the_model_has_a_loss(compiled):
    """Examples unlike those of the training would make it worse."""
    x, _ = examples(256)
    model = alone()
    refresh_statistics(model, x)
    y = ops.convert_to_numpy(model(3 * x + 7))
    if compiled:
        model.compile("sgd", "mse")
    before = state(model)
    report = refresh_statistics(model, 3 * x + 7, y)
    assert bool(report.losses) == compiled
    assert bool(changed(before, model)) != compiled
    if compiled:
        assert report.losses["before"] < report.losses["after"] and report.num_examples == 192
        y = ops.convert_to_numpy(model(x))
        model.layers[1].moving_mean.assign(model.layers[1].moving_mean + 50.0)
        assert refresh_statistics(model, x, y).refreshed == 1


def _failing(x):
    yield x[:16]
    raise RuntimeError("disk")


@pytest.mark.parametrize(
    "given, error, words",
    [
        (lambda x: x[:4], ValueError, "at least 8"),
        (lambda x: x[..., :2], ValueError, "shape"),
        (lambda x: x * np.nan, ValueError, "finite"),
        (lambda x: None, TypeError, "must hold examples"),
        (lambda x: lambda: _failing(x), RuntimeError, "disk"),
    ],
)
def test_bad_examples_leave_the_model_as_it_was(given, error, words):
    x, _ = examples()
    model = deep()
    before = state(model)
    with pytest.raises(error, match=words):
        refresh_statistics(model, given(x))
    assert not changed(before, model)


def test_bad_labels_models_and_sizes_are_refused():
    x, y = examples()
    model = deep()
    with pytest.raises(ValueError, match="a label for each"):
        refresh_statistics(model, x, y[:-1])
    with pytest.raises(TypeError, match="Received"):
        refresh_statistics("model", x)
    with pytest.raises(ValueError, match="batch_size"):
        refresh_statistics(model, x, batch_size=1)


def test_a_model_without_them_has_nothing_to_refresh():
    x = keras.Input((4,))
    assert refresh_statistics(keras.Model(x, L.Dense(2)(x)), np.zeros((8, 4), "float32")).layers == ()


def test_an_error_inside_the_model_restores_it():
    @keras.saving.register_keras_serializable("test_batch_statistics")
    class Failing(L.Layer):
        broken = False

        def call(self, inputs):
            if self.broken:
                raise RuntimeError("disk")
            return inputs

    x = keras.Input((6, 6, 3))
    model = keras.Model(x, Failing()(L.BatchNormalization()(x)))
    model.layers[-1].broken = True
    before = state(model)
    with pytest.raises(RuntimeError, match="disk"):
        refresh_statistics(model, examples()[0])
    assert not changed(before, model)
    assert model.layers[1].momentum == 0.99 and "call" not in vars(model.layers[1])


@pytest.mark.parametrize("cut", [lambda m: tfr.prune_groups(m, sparsity=0.5), lambda m: tfr.prune(m, "filter", sparsity=0.5)])
def test_a_model_that_was_cut_leaves_its_old_statistics_behind_sooner(cut):
    model = deep()
    cut(model)
    assert {layer.momentum for layer in following(model)} == {FOLLOWING}
    slower = alone(momentum=0.5)
    follow_closely(slower)
    assert slower.layers[1].momentum == 0.5


@pytest.mark.filterwarnings("ignore:Only 8 training steps come before the deadline")
@pytest.mark.parametrize(
    "put, solvers",
    [
        (lambda m: tfr.regularize_coupled(m, 1e-3), lambda: [tfr.callbacks.Reweighting(1)]),
        (
            lambda m: tfr.regularize_coupled(m, 1e-3),
            lambda: [tfr.callbacks.Reweighting(1), tfr.coupling.CoupledProximal()],
        ),
        (lambda m: tfr.regularize(m, "filter", 1e-3), lambda: [tfr.callbacks.Proximal(), tfr.callbacks.Reweighting(1)]),
        (lambda m: None, lambda: [tfr.callbacks.BudgetProximal("macs=0.5", every=1, until=0.5)]),
    ],
)
def test_statistics_follow_closely_while_weights_are_pressed_and_as_before_afterwards(put, solvers):
    x, y = examples()
    model, seen = deep(), []
    put(model)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    look = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(following(model)[0].momentum))
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[*solvers(), look])
    assert set(seen) == {FOLLOWING} and {layer.momentum for layer in following(model)} == {0.99}
    # And the next training is traced with the momentum that is back.
    layer = following(model)[0]
    before = ops.convert_to_numpy(layer.moving_mean)
    model.fit(x[:8], y[:8], batch_size=8, epochs=1, verbose=0)
    after = ops.convert_to_numpy(layer.moving_mean)
    assert np.abs(after - before).max() < 0.02 * max(1.0, np.abs(before).max())


def test_pruning_shrinking_and_quantizing_take_data():
    x, y = examples(128)
    model = deep()
    report = tfr.prune_groups(model, sparsity=0.5, data=(x, y))
    assert report.kept_groups < report.num_groups
    right = state(model)
    for layer in following(model):
        layer.moving_mean.assign(layer.moving_mean + 50.0)
    stale = state(model)
    small = tfr.shrink(model, data=x)
    assert not changed(stale, model)
    model.set_weights(list(right.values()))
    want = ops.convert_to_numpy(model(x))
    assert np.allclose(small(x), want, atol=0.1 * np.abs(want).max())
    model.set_weights(list(stale.values()))
    qat = tfr.quantize(model, data=x)
    assert not changed(stale, model)
    assert np.allclose(qat(x), want, atol=0.15 * np.abs(want).max())


@pytest.mark.parametrize("cut", [
    lambda m, data: tfr.prune_groups(m, sparsity=0.5, data=data),
    lambda m, data: tfr.prune(m, "filter", sparsity=0.5, data=data),
    lambda m, data: tfr.shrink(m, data=data), lambda m, data: tfr.quantize(m, data=data),
])  # fmt: skip
@pytest.mark.parametrize(
    "given, words",
    [
        (lambda x, y: x[:4], "`data` must hold at least 8"), (lambda x, y: x[..., :2], "`data` must have the shape"),
        (lambda x, y: (x, y[:-1]), "a label for each"),
    ],
)  # fmt: skip
def test_bad_data_are_refused_before_anything_is_cut(cut, given, words):
    x, y = examples()
    model = deep()
    before = state(model)
    with pytest.raises(ValueError, match=words):
        cut(model, given(x, y))
    assert not changed(before, model) and {layer.momentum for layer in following(model)} == {0.99}


def test_a_generator_is_read_once_for_ranking_and_for_statistics():
    x, y = examples(128)
    model = deep()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = ((x[i : i + 16], y[i : i + 16]) for i in range(0, 128, 16))
    report = tfr.prune_groups(model, budget="macs=0.5", data=batches)
    assert report.kept_groups < report.num_groups


def test_a_subclass_whose_call_knows_no_mask():
    class Plain(L.BatchNormalization):
        def call(self, inputs, training=None):
            return super().call(inputs, training=training)

    x = keras.Input((6, 6, 3))
    model = keras.Model(x, Plain()(x))
    assert refresh_statistics(model, examples()[0]).refreshed == 1


WRONG_LABELS = {
    "a class too many": lambda y: y + 9, "no numbers": lambda y: y.astype(str), "one-hot": lambda y: np.eye(4)[y],
    "by name": lambda y: {"a": y},
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_labels_that_the_loss_does_not_take_are_told_before_anything_is_cut(kind):
    """The kernels were cut and the penalties taken off, and then TensorFlow's words came."""
    x, y = examples()
    for cut in (
        lambda model, data: tfr.prune(model, "unstructured", sparsity=0.5, data=data),
        lambda model, data: tfr.prune_groups(model, 0.5, data=data),
        lambda model, data: tfr.prune_groups(model, budget="macs=0.5", data=data, criterion="lamp", reconstruct=True),
        lambda model, data: refresh_statistics(model, *data),
    ):  # fmt: skip
        model = deep()
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        tfr.regularize(model, "filter", 1e-3)
        before = state(model)
        with pytest.raises(ValueError, match="must have labels that the loss of the model takes. Received: loss_says="):
            cut(model, (x, WRONG_LABELS[kind](y)))
        assert not changed(before, model) and attachments(model)


def test_labels_are_tried_as_they_are_used():
    """Tried by 64 at a time, a model that takes fewer was refused; and one that has nothing to refresh."""
    class Small(L.Layer):
        def call(self, x):
            assert x.shape[0] is None or x.shape[0] <= 16
            return x

    x, y = examples(64)
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(Small()(L.BatchNormalization()(inputs)))))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    assert set(refresh_statistics(model, x, y, batch_size=16).losses) == {"before", "after"}
    without = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(inputs)))
    without.compile("sgd", "mse")
    assert refresh_statistics(without, x, y.astype(str)).layers == ()


class Forgetful(L.Layer):
    """Has a layer that it does not call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.used, self.unused = L.BatchNormalization(), L.BatchNormalization()

    def build(self, shape):
        self.used.build(shape)
        self.unused.build(shape)

    def call(self, x, training=None):
        return self.used(x, training=training)


def test_a_layer_that_is_not_called_stays_as_it_is():
    """It was refused, and so was every run of a model that has one."""
    x, _ = examples()
    inputs = keras.Input((6, 6, 3))
    layer = Forgetful()
    report = refresh_statistics(keras.Model(inputs, layer(inputs)), x, batch_size=16)
    assert {entry.path.rsplit("/", 1)[-1]: entry.refreshed for entry in report.layers} == {
        layer.used.name: True, layer.unused.name: False,
    }  # fmt: skip
    assert not np.any(layer.unused.moving_mean) and np.allclose(layer.used.moving_mean, x.mean((0, 1, 2)), atol=1e-4)


def images_by_brightness(num=192):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, num)
    return (rng.normal(size=(num, 8, 8, 1)) + 1.5 * y[:, None, None, None]).astype("float32"), y


def normalised_net(**how):
    x = keras.Input((8, 8, 1))
    h = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(x)))
    model = keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(h)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-2, **how), loss, metrics=["accuracy"])
    return model


SHORT = {
    "train": {"batch_size": 16}, "export": {"precisions": ["float32"], "latency_runs": 1, "pack": False},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")
def test_a_run_is_not_praised_for_statistics_that_the_dense_model_lacks(tmp_path):
    """From 51 to 99 % a run had come, of which pruning had nothing: the dense model had 98 % with statistics of its own."""
    x, y = images_by_brightness()
    model = normalised_net()
    model.fit(x, y, epochs=8, batch_size=64, verbose=0)
    how = {"epochs": 3, "config": SHORT, "console": QUIET}
    result = tfr.compress(model, (x, y), (x, y), (x, y), out=tmp_path / "given", **how)
    dense = result["stages"][0]
    assert dense["refreshed_validation"]["accuracy"] > dense["validation"]["accuracy"] + 0.2
    (alarm,) = [alarm for alarm in result["alarms"] if "statistics of weights of long ago" in alarm["seen"]]
    assert alarm["level"] == "red"
    tfr.refresh_statistics(model, x, y)
    result = tfr.compress(model, (x, y), (x, y), (x, y), out=tmp_path / "refreshed", **how)
    assert not any("long ago" in alarm["seen"] for alarm in result["alarms"])


@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")
@pytest.mark.parametrize("stage, how", [("dense", {}), ("retrained", {"use_ema": True, "ema_momentum": 0.98})])
def test_statistics_belong_to_the_weights_that_a_stage_leaves(stage, how, tmp_path):
    """A first training follows too slowly; and averages, which Keras puts in place of the weights, have none of their own."""
    x, y = images_by_brightness()
    epochs = {"train": 8, "regularize": 1, "retrain": 4}
    config = {**SHORT, "train": {"batch_size": 64}, "retrain": {"learning_rate": 0.05}}
    model = normalised_net(**how)
    tfr.compress(model, (x, y), (x, y), (x, y), out=tmp_path / "run", epochs=epochs, config=config, console=QUIET)
    kept = keras.saving.load_model(tmp_path / "run" / f"{stage}.keras")
    assert not refresh_statistics(kept, x, batch_size=48).refreshed


def test_statistics_are_of_examples_drawn_from_the_whole_of_a_source():
    """Many sources are sorted by class; the first thousand examples would be of one."""
    x = np.repeat(np.arange(40.0, dtype="float32"), 64)[:, None]
    model = keras.Sequential([keras.Input((1,)), L.BatchNormalization(), L.Dense(1)])
    model.compile("sgd", "mse")
    dataset = tf.data.Dataset.from_tensor_slices((x, x)).batch(64)
    for train in ((x, x), dataset, lambda: ((x[i : i + 64],) * 2 for i in range(0, len(x), 64))):
        splits = of_anything(model, train, (x, x), None, load({}), 0)
        (drawn,) = splits.examples(model).arrays
        assert len(drawn) == 1024 and abs(drawn.mean() - 19.5) < 1.5
