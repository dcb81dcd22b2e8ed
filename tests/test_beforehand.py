"""What Keras makes inside the first training step is made before, so that the step is traced once; nothing else changes."""

import keras
import numpy as np
import pytest

from tests import tasks
from tf_reweight.graph.beforehand import build_training


class Traced(keras.layers.Layer):
    """Counts how often it is traced in a training step."""

    traces = 0

    def call(self, inputs, training=None):
        Traced.traces += bool(training)
        return inputs


def net(loss="mse", optimizer=lambda: keras.optimizers.Adam(0.1), **options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(Traced()(inputs)))
    model.compile(optimizer(), loss, metrics=["mae", keras.metrics.R2Score()], **options)
    return model


X, Y = np.linspace(-1, 1, 32).reshape(8, 4).astype("float32"), np.arange(8.0).reshape(8, 1).astype("float32")


def fitted(model):
    before = Traced.traces
    history = model.fit(X, Y, epochs=2, batch_size=4, shuffle=False, verbose=0).history
    return Traced.traces - before, history, model.get_weights()


OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.1),
    "accumulation": lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "average": lambda: keras.optimizers.Adam(0.1, use_ema=True),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_the_step_is_traced_once_and_trains_the_same(optimizer):
    made = net(optimizer=optimizer)
    build_training(made, (X, Y, None))
    (traces, history, weights), (plain_traces, plain_history, plain) = fitted(made), fitted(net(optimizer=optimizer))
    assert (traces, plain_traces) == (1, 2) and history == plain_history
    assert all(np.array_equal(one, other) for one, other in zip(weights, plain))


@pytest.mark.parametrize("scaled", [False, True])
def test_averages_are_the_weights_before_the_first_step_and_stay_what_they_are_after_it(scaled):
    model, inner = net(), keras.optimizers.Adam(0.1, use_ema=True)
    model.compile(keras.optimizers.LossScaleOptimizer(inner) if scaled else inner, "mse")
    build_training(model, (X, Y, None))
    averages = inner._model_variables_moving_average
    assert all(np.array_equal(*pair) for pair in zip(averages, model.get_weights())) and averages[0].numpy().any()
    averages[0].assign(averages[0] + 1)
    build_training(model, (X, Y, None))
    assert not np.array_equal(averages[0], model.get_weights()[0])


def asks_for_values(y, outputs):
    return keras.ops.mean(y - outputs) if float(keras.ops.sum(y)) >= 0 else None


def test_a_loss_that_asks_for_values_is_left_to_keras():
    model = net(asks_for_values, run_eagerly=True)
    build_training(model, (X, Y, None))
    assert not model.optimizer.built
    model = net(asks_for_values)
    build_training(model, (X, Y, None))  # cannot be traced at all, which is for `fit` to say
    with pytest.raises(Exception, match="[Ss]ymbolic|float"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("make", tasks.KINDS, ids=lambda make: make.__name__)
def test_every_kind_of_task_can_be_made_ready(make):
    model, x, y = make()
    build_training(model, (x, y, None))
    assert model.optimizer.built
