"""What had passed in silence: examples that do not vary, thresholds above all norms, names that look like globs."""

import warnings

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import baselines, shrinking
from tf_reweight.data import varying

L = keras.layers
X = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")


def net(*names):
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(4, 3, activation="relu", bias_initializer="ones", name=name) for name in names or ("first", "second")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, L.GlobalAveragePooling2D(), L.Dense(4, name="top")])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("scale, said", [(0.0, "one and the same, and zero"), (1e-6, "differ from one example")])
def test_examples_that_tell_nothing_are_said(scale, said):
    with pytest.warns(UserWarning, match=said):
        tfr.quantize(net(), data=scale * X)


def test_examples_that_vary_are_taken_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tfr.quantize(net(), data=X)


def test_outputs_that_vary_by_less_than_a_step():
    base = np.ones((8, 3), "float32")
    change = np.where(np.arange(8) % 2, 1.0, -1.0)[:, None]
    assert varying.of_outputs("x", [base + 1.01 / 256 * change]) is None
    assert "0.004" in varying.of_outputs("x", [base + 0.99 / 256 * change])
    # One output that varies is enough, and integers do not count.
    assert varying.of_outputs("x", [base, X]) is None
    assert varying.of_outputs("x", [np.ones((8, 3), "int32")]) is None
    assert varying.of_outputs("x", [0 * base]) is not None


@pytest.mark.parametrize("structure", ["unstructured", "filter"])
def test_clipping_above_all_norms_keeps_the_largest(structure):
    model = net()
    with pytest.warns(UserWarning, match=r"No group of first/kernel, .*threshold=1e\+09: the largest one of each was kept"):
        model.fit(X, np.arange(16) % 4, epochs=1, verbose=0, callbacks=[baselines.Clipping(1e9, structure)])
    for layer in ("first", "second"):
        kernel = np.asarray(model.get_layer(layer).kernel.value)
        assert np.any(kernel, axis=(0, 1, 2)).sum() == 1
        assert np.count_nonzero(kernel) == (1 if structure == "unstructured" else kernel[..., 0].size)


@pytest.mark.parametrize(
    "selector, expected", [("a[b]", {"a[b]"}), ("[ac][bd]", {"ab", "cd"}), (["a[b]", "c*"], {"a[b]", "cd"})]
)
def test_a_name_goes_before_a_glob(selector, expected):
    model = net("ab", "a[b]", "cd")
    pruned = tfr.prune(model, "unstructured", sparsity=0.1, layers=selector)
    assert {item.name.split("/")[0] for item in pruned.kernels} == expected


def test_compare_takes_examples_of_any_kind():
    model = net()
    for inputs in (X, [X], (X,), {model.inputs[0].name: X}):
        assert shrinking.compare(model, model, inputs).difference == 0


@pytest.mark.parametrize("inputs", [[], X[:0], X[:, :4], np.nan * X, [X, X], "text", 3])
def test_compare_refuses_what_does_not_fit(inputs):
    with pytest.raises((TypeError, ValueError), match="(?s)inputs.*Received: "):
        shrinking.compare(net(), net(), inputs)


def test_compare_refuses_models_of_other_outputs():
    model = net()
    both = keras.Model(model.inputs, [model.outputs[0], model.layers[0].output])
    with pytest.raises(ValueError, match="as many outputs. Received: model=1, other=2"):
        shrinking.compare(model, both, X)
