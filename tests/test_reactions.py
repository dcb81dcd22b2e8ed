"""How the loss reacts ranks single kernels as well, without any training: criterion="taylor" of `prune`."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import prune
from tf_reweight.data import labelled
from tf_reweight.kernels.grouping import Groups
from tf_reweight.kernels.reactions import felt_kernels
from tf_reweight.kernels.table import find

L = keras.layers


def test_by_the_reaction_of_the_loss_goes_what_it_does_not_feel():
    """As many weights as small, but on inputs that are always zero: by norms the others would go."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype("float32") * ([1.0] * 4 + [0.0] * 4)
    y = (x[:, :4].sum(axis=1, keepdims=True) + rng.normal(size=(256, 1))).astype("float32")
    for amount in {"sparsity": 0.5}, {"budget": "sparsity=0.5"}:
        left = {}
        for criterion in ("magnitude", "taylor"):
            model = keras.Sequential([keras.Input((8,)), L.Dense(1, use_bias=False)])
            model.layers[0].kernel.assign([[0.5]] * 4 + [[1.0]] * 4)
            model.compile("adam", "mse")
            prune(model, "unstructured", criterion=criterion, data=(x, y), **amount)
            left[criterion] = ops.convert_to_numpy(model.layers[0].kernel != 0)[:, 0].tolist()
        assert left == {"magnitude": [False] * 4 + [True] * 4, "taylor": [True] * 4 + [False] * 4}


@pytest.mark.parametrize("structure", ["unstructured", "filter", {"name": "block", "shape": [2, 2]}])
def test_the_reaction_of_the_loss_is_weight_times_gradient(structure):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(96, 6, 6, 2)).astype("float32"), rng.integers(0, 3, 96)
    model = keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(4, 3), L.Flatten(), L.Dense(3), L.Softmax()])
    model.compile("adam", "sparse_categorical_crossentropy")
    target = find(model)[0][0]
    examples = labelled.read(model, x, y)
    felt = felt_kernels(model, [target], examples, batch_size=32)[target.name]
    sums, order = 0.0, np.random.default_rng(0).permutation(96)
    for rows in np.split(order, 3):
        gradient = np.zeros(target.variable.shape)
        before = ops.convert_to_numpy(target.variable.value).copy()
        for place in [(0, 0, 0, 0), (1, 2, 1, 3), (2, 1, 0, 2)]:
            losses = []
            for step in (-1e-2, 1e-2):
                moved = before.copy()
                moved[place] += step
                target.variable.assign(moved)
                losses.append(model.evaluate(x[rows], y[rows], verbose=0))
            target.variable.assign(before)
            gradient[place] = (losses[1] - losses[0]) / 2e-2
        sums = sums + np.square(gradient)
    for place in [(0, 0, 0, 0), (1, 2, 1, 3), (2, 1, 0, 2)]:
        assert np.isclose(felt[place], np.sqrt(sums[place] / 3) * before[place], rtol=2e-2, atol=1e-5)
    # Of a group it is the mean square of its weights', and the lowest go.
    scores = Groups.of(tfr.structures.get(structure).fit(target.layout), felt).scores
    prune(model, structure, sparsity=0.5, layers=[model.layers[0].name], criterion="taylor", data=(x, y))
    gone = target.groups(tfr.structures.get(structure).fit(target.layout)).norms == 0
    assert gone.any() and scores[gone].max() <= scores[~gone].min()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"sparsity": 0.5}, "labelled"),
        ({"budget": "sparsity=0.5", "data": np.zeros((16, 8), "float32")}, "labelled"),
        ({"threshold": 0.1, "data": (np.zeros((16, 8), "float32"), np.zeros((16, 1)))}, "an amount"),
    ],
)
def test_the_reaction_of_the_loss_needs_labels_and_an_amount(arguments, words):
    model = keras.Sequential([keras.Input((8,)), L.Dense(1)])
    model.compile("adam", "mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match=words):
        prune(model, "unstructured", criterion="taylor", **arguments)
    bare = keras.Sequential([keras.Input((8,)), L.Dense(1)])
    with pytest.raises(ValueError, match="gradients of a loss"):
        data = (np.zeros((16, 8), "float32"), np.zeros((16, 1)))
        prune(bare, "unstructured", sparsity=0.5, criterion="taylor", data=data)
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights()))


@pytest.mark.parametrize("cut", [lambda m, d: prune(m, "unstructured", sparsity=0.5, criterion="taylor", data=d),
                                 lambda m, d: tfr.prune_groups(m, 0.5, criterion="taylor", data=d)])  # fmt: skip
def test_gradients_that_are_no_numbers_rank_nothing(cut):
    """The square root of negative outputs is NaN, and so is every gradient: what went was where arrays begin."""
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    model = keras.Sequential([keras.Input((8,)), L.Dense(4), L.Dense(1), L.Activation(ops.sqrt)])
    model.compile("adam", "mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match="gradients that are finite.*Received: loss=nan, weights=.*kernel.*lamp"):
        cut(model, (x, x[:, :1]))
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights()))


@pytest.mark.parametrize("cut", [lambda net, **how: prune(net, "filter", **how), tfr.prune_groups])
def test_labels_that_the_loss_does_not_take_are_told(cut):
    """Keras' own words were all that was said, of structures that the caller had not named."""
    inputs = keras.Input((6,))
    hidden = L.Dense(8, activation="relu")(inputs)
    model = keras.Model(inputs, {"size": L.Dense(1, name="size")(hidden), "kind": L.Dense(3, name="kind")(hidden)})
    model.compile("sgd", {"size": "mse", "kind": "mse"})
    before, x = model.get_weights(), np.ones((16, 6), "float32")
    for labels in ({"size": np.ones((16, 1))}, {"size": np.ones((16, 1)), "kind": np.ones((16, 5))}):
        with pytest.raises(ValueError, match="labels that the loss of the model takes.*Received: loss_says=.*evaluate"):
            cut(model, budget="parameters=0.5", criterion="taylor", data=(x, labels))
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights()))
