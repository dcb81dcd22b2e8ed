"""What two processes of `MultiWorkerMirroredStrategy` give, each against one device of its own; run by test_distribution.py.

`python tests/workers.py INDEX PORT PORT`, once for each index, at the same time. Keras' `fit` does not support the strategy, so
training is a loop of the user's own around `strategy.run`, which calls the hooks of callbacks itself.
"""

import json
import os
import sys

INDEX, PORTS = int(sys.argv[1]), sys.argv[2:]
CLUSTER = {"cluster": {"worker": [f"localhost:{port}" for port in PORTS]}, "task": {"type": "worker", "index": INDEX}}
os.environ["TF_CONFIG"] = json.dumps(CLUSTER)

import tensorflow as tf  # noqa: E402

STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()  # must come before anything else uses the devices

import keras  # noqa: E402
import numpy as np  # noqa: E402

import tf_reweight as tfr  # noqa: E402
from tf_reweight import callbacks  # noqa: E402

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 4))).argmax(1)


def net():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="relu", name="b")(L.Dense(8, activation="relu", name="a")(inputs))
    model = keras.Model(inputs, L.Dense(4, name="c")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(5e-2, momentum=0.9), loss)
    return model


def train(model, strategy, epochs, *given):
    """Epochs of batches of 8, of which each worker takes its part; the losses of all steps."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).with_options(options)
    batches = strategy.experimental_distribute_dataset(batches)
    model.optimizer.build(model.trainable_variables)

    def of_replica(x, y):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))  # penalties included, and each replica's share of it
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    @tf.function  # anew in each call: zeros are held by a step that was traced after they were made
    def step(x, y):
        return strategy.reduce("SUM", strategy.run(of_replica, args=(x, y)), axis=None)

    hooks, losses = keras.callbacks.CallbackList(list(given), model=model), []
    hooks.on_train_begin()
    for epoch in range(epochs):
        hooks.on_epoch_begin(epoch)
        losses += [float(step(x, y)) for x, y in batches]
        hooks.on_epoch_end(epoch)
    hooks.on_train_end()
    return losses


def single(model, strategy):
    tfr.regularize(model, "filter", 1e-1)
    losses = train(model, strategy, 2, callbacks.Reweighting(every=1))
    tfr.prune(model, sparsity=0.5)
    return model, losses + train(model, strategy, 1)


def coupled(model, strategy):
    tfr.regularize_coupled(model, strength=1e-1)
    losses = train(model, strategy, 2, callbacks.Reweighting(every=1))
    tfr.prune_groups(model, sparsity=0.4)
    small = tfr.shrink(model)
    return small, losses + train(small, strategy, 1)


def compared(do):
    alone, losses = do(net(), tf.distribute.get_strategy())
    with STRATEGY.scope():
        model, together = do(net(), STRATEGY)
        weights = [weight.numpy() for weight in model.weights]
    pairs = list(zip([*losses, *(weight.numpy() for weight in alone.weights)], [*together, *weights]))
    same_shapes = all(np.shape(one) == np.shape(other) for one, other in pairs)
    difference = max(float(np.max(np.abs(one - other))) for one, other in pairs) if same_shapes else float("inf")
    zeros = [int((weight == 0).sum()) for weight in weights]
    return {"difference": difference, "zeros": zeros, "sizes": [weight.size for weight in weights], "losses": together}


def refusal_of_keras():
    """What plain `fit` says, without anything of ours: when it says nothing, the loop above is no longer needed."""
    with STRATEGY.scope():
        model = net()
    try:
        model.fit(X, Y, batch_size=8, verbose=0)
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    found = {do.__name__: compared(do) for do in (single, coupled)}
    print(json.dumps({"replicas": STRATEGY.num_replicas_in_sync, **found, "fit": refusal_of_keras()}))
