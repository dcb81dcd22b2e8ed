"""A training loop of the user's own that was traced before a model is pruned or regularized: told at once, and only then."""

import gc
import logging
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.kernels.compiled_step import compiled

L = keras.layers
tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.function is TensorFlow's", allow_module_level=True)
X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 2)).astype("float32")


def times(variable):
    return lambda steps: variable.value * steps


def test_a_graph_for_each_of_several_models_is_no_retracing():
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    try:
        for factor in range(8):
            variable = keras.Variable(float(factor))
            double = compiled(times(variable))
            for steps in (2.0, 3.0):
                assert float(double(ops.convert_to_tensor(steps, "float32"))) == factor * steps
            variable.assign(10.0)
            assert float(double(ops.convert_to_tensor(2.0, "float32"))) == 20.0
    finally:
        tf.get_logger().removeHandler(handler)
    assert heard == []


def built():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), L.Dense(16, activation="relu"), L.Dense(2)])
    model.compile("adam", "mse")
    return model


def steps(model, optimizer, **options):
    @tf.function(**options)
    def step(x, y):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean((model(x, training=True) - y) ** 2) + sum(model.losses, 0.0)
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    return step


def by_hand(model):
    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean((model(x, training=True) - y) ** 2)
        variables = [variable.value for variable in model.trainable_variables]
        for variable, gradient in zip(variables, tape.gradient(value, variables)):
            variable.assign_sub(0.1 * gradient)

    return step


def nested(model):
    inner = steps(model, keras.optimizers.SGD(0.1))

    @tf.function
    def epoch(x, y):
        for _ in tf.range(2):
            inner(x, y)

    return epoch


def looped(model):
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)

    @tf.function
    def epoch(x, y):
        for _ in tf.range(2):
            with tf.GradientTape() as tape:
                value = tf.reduce_mean((model(x, training=True) - y) ** 2)
            optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    return epoch


FUNCTIONS = {
    "keras": lambda model: steps(model, keras.optimizers.Adam()),
    "compiled": lambda model: steps(model, keras.optimizers.SGD(0.1), jit_compile=True),
    "by hand": by_hand,
    "nested": nested,
    "looped": looped,
}
CHANGES = {
    "prune": lambda model: tfr.prune(model, "unstructured", sparsity=0.5),
    "prune_groups": lambda model: tfr.coupling.prune_groups(model, 0.5),
    "regularize": lambda model: tfr.regularize(model),
    "regularize_coupled": lambda model: tfr.coupling.regularize_coupled(model),
    "regularize_levels": lambda model: tfr.quantization.regularize_levels(model),
    "cluster": lambda model: tfr.quantization.cluster(model, 4),
    "keep_clusters": lambda model: tfr.quantization.keep_clusters(model, small_kernels=True),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_step_traced_before_is_warned_of(kind):
    model = built()
    step = FUNCTIONS[kind](model)
    step(X, Y)
    with pytest.warns(UserWarning, match="tf.function .*traced before"):
        CHANGES["prune"](model)
    # Made anew it keeps the zeros, and nothing is said; where constraints are not asked for, they cannot be kept.
    if kind != "by hand":
        held = [np.asarray(weight) == 0 for weight in model.trainable_weights]
        step = FUNCTIONS[kind](model)
        step(X, Y)
        assert all((np.asarray(weight)[zero] == 0).all() for weight, zero in zip(model.trainable_weights, held))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_change_warns(change):
    model = built()
    step = steps(model, keras.optimizers.SGD(0.1))
    step(X, Y)
    with pytest.warns(UserWarning, match="tf.function .*traced before"):
        CHANGES[change](model)


REMOVALS = {
    "detach": (lambda model: tfr.regularize(model), tfr.detach, "the penalty goes on acting"),
    "snap": (tfr.quantization.regularize_levels, tfr.quantization.snap, "the penalty goes on acting"),
    "release": (CHANGES["prune"], tfr.release, "the zeros stay zero"),
    "release of groups": (CHANGES["prune_groups"], tfr.release, "the zeros stay zero"),
}


@pytest.mark.parametrize("kind", REMOVALS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_takes_something_off_warns_too(kind):
    put, take_off, words = REMOVALS[kind]
    model = built()
    put(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        take_off(model)  # nothing was traced yet
    put(model)
    step = steps(model, keras.optimizers.SGD(0.1))
    step(X, Y)
    with pytest.warns(UserWarning, match=f"tf.function .*traced before .*: {words} in it") as heard:
        take_off(model)
    assert len(heard) == 1
    kept.append(step)  # nothing is taken off any more
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert kind == "snap" or take_off(model) == 0
    kept.clear()


def gone(model):
    step = steps(model, keras.optimizers.SGD(0.1))
    step(X, Y)


def another(model):
    other = built()
    other.fit(X, Y, verbose=0)
    kept.append((other, steps(other, keras.optimizers.SGD(0.1))))
    kept[-1][1](X, Y)


def inference(model):
    kept.append(tf.function(lambda x: model(x, training=False)))
    kept[-1](X)


def inference_in_loops_and_calls(model):
    inner = tf.function(lambda x: tf.reduce_sum(model(x, training=False)))

    @tf.function
    def outer(x):
        total = inner(x)
        for _ in tf.range(2):
            if total > 0:
                total += tf.reduce_sum(model(x, training=False))
        return total

    outer(X)
    kept.append(outer)


def fitted(model):
    for _ in range(2):
        model.compile(keras.optimizers.Adam(), "mse", jit_compile=False)
        model.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    model.train_on_batch(X, Y)


def not_called(model):
    kept.append(steps(model, keras.optimizers.SGD(0.1)))


def only_others(model):
    """A function that trains a layer behind the model."""
    head = L.Dense(1)
    head.build((None, 2))
    optimizer = keras.optimizers.SGD(0.1)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            value = ops.mean(head(model(x)) ** 2)
        optimizer.apply(tape.gradient(value, head.trainable_variables), head.trainable_variables)

    step(X)
    kept.append(step)


kept: list = []


@pytest.mark.parametrize("before", [gone, another, inference, inference_in_loops_and_calls, fitted, not_called, only_others])
def test_no_false_alarm(before):
    model = built()
    before(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for change in ("regularize", "prune", "cluster"):
            CHANGES[change](model)
    kept.clear()
    gc.collect()


def test_zeros_stay_in_a_compiled_model_that_shares_the_layers():
    """Keras' own step of another model is made anew."""
    model = built()
    whole = keras.Sequential([keras.Input((8,)), *model.layers, L.Dense(2)])
    whole.compile("sgd", "mse")
    whole.fit(X, Y, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CHANGES["prune"](model)
    zero = np.asarray(model.layers[0].kernel) == 0
    whole.fit(X, Y, verbose=0)
    assert zero.any() and (np.asarray(model.layers[0].kernel)[zero] == 0).all()


INSIDE = CHANGES | {
    "release": tfr.release,
    "cluster": lambda model: tfr.quantization.cluster(model, 4),
    "detach": lambda model: (tfr.regularize(model), tfr.detach(model)),
}


@pytest.mark.parametrize("event", ["on_epoch_begin", "on_train_batch_end", "on_test_batch_end"])
@pytest.mark.parametrize("change", ["prune", "cluster"])
def test_a_callback_changes_the_model_in_training_and_what_it_changed_holds(change, event):
    """`fit` asks for its step once, and found none at the next batch."""
    model, wanted = built(), {}

    def act(*_, **__):
        if model.optimizer.iterations.numpy() == 2 and not wanted:
            INSIDE[change](model)
            wanted["values"] = [len(np.unique(layer.kernel)) for layer in model.layers]
            wanted["weights"] = model.get_weights()

    callback = keras.callbacks.Callback()
    setattr(callback, event, act)
    model.fit(X, Y, validation_data=(X, Y), epochs=2, batch_size=8, verbose=0, callbacks=[callback])
    weights = model.get_weights()
    assert all((after != before).any() for after, before in zip(weights, wanted["weights"]))
    assert [len(np.unique(layer.kernel)) for layer in model.layers] == wanted["values"]
    if change == "prune":
        assert all((after[before == 0] == 0).all() for after, before in zip(weights[::2], wanted["weights"][::2]))


@pytest.mark.parametrize("change", sorted(INSIDE.keys() - {"prune", "cluster"}))
def test_training_goes_on_after_any_other_change(change):
    model = built()
    callback = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epoch == 1 and INSIDE[change](model))
    history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[callback]).history
    assert len(history["loss"]) == 2
