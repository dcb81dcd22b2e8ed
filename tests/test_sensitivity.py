"""Sensitivity prunes one kernel at a time, says what happens, and leaves no trace."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from rich.console import Console

import tf_reweight as tfr
from tf_reweight.reports.sensitivity import sensitivity

L = keras.layers


def net():
    """Reads the class off the pixel that is lit: `copy` is needed whole, `noise` not at all."""
    inputs = keras.Input((4,))
    kept = L.Dense(4, use_bias=False, name="copy")(inputs)
    noise = L.Dense(4, use_bias=False, name="noise")(inputs)
    model = keras.Model(inputs, L.Add()([kept, noise]))
    model.get_layer("copy").kernel.assign(np.diag([1.0, 2.0, 3.0, 4.0]) + 0.001)
    model.get_layer("noise").kernel.assign(np.full((4, 4), 1e-4))
    return model


@pytest.fixture
def data():
    return np.eye(4, dtype="float32"), np.arange(4)


def test_it_tells_the_kernel_that_matters_from_the_one_that_does_not(data):
    """Closed form: of 16 weights, 14 removed leave the diagonal's two largest, and two of four classes."""
    report = sensitivity(net(), data, sparsities=(0.5, 0.75, 0.875))
    assert report.baseline == 1.0
    copy, noise = report.kernels
    assert copy.name == "copy/kernel" and copy.num_weights == 16 and copy.sparsities == (0.5, 0.75, 0.875)
    # The lit pixel of a class that is cut off still has its share of noise, the same for all: the first class wins.
    assert copy.accuracies == (1.0, 1.0, 0.75) and noise.accuracies == (1.0, 1.0, 1.0)


def test_a_reference_by_hand_and_prune_agree(data):
    """Each figure equals pruning a copy of the model by `prune` and counting the hits."""
    digits = tfr.data.load("digits")
    model = tfr.data.models.build("small_cnn", digits.input_shape)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*digits.train, epochs=2, verbose=0)
    report = sensitivity(model, digits.validation, "column", (0.5, 0.9))
    for kernel in report.kernels:
        for wanted, removed, accuracy in zip(report.sparsities, kernel.sparsities, kernel.accuracies):
            copy = keras.models.clone_model(model)
            copy.set_weights(model.get_weights())
            pruned = tfr.prune(copy, sparsity=wanted, structure="column", layers=kernel.name)
            assert pruned.sparsity == pytest.approx(removed)
            hits = np.argmax(copy.predict_on_batch(digits.validation[0]), -1) == digits.validation[1]
            assert accuracy == pytest.approx(float(hits.mean()))


@pytest.mark.parametrize("structure", ["unstructured", "channel", {"name": "block", "shape": [2, 2]}])
def test_weights_are_the_same_bits_afterwards(structure, data):
    model = net()
    before = model.get_weights()
    sensitivity(model, data, structure)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_weights_are_put_back_after_an_error(data, monkeypatch):
    model, calls = net(), []
    before = model.get_weights()
    predict = model.predict_on_batch

    def fail_later(x):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return predict(x)

    monkeypatch.setattr(model, "predict_on_batch", fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        sensitivity(model, data)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_masks_and_penalties_on_the_model_stay(data):
    model = net()
    tfr.prune(model, sparsity=0.5, structure="unstructured", scope="layer")
    zeros = tfr.sparsity(model)
    tfr.regularize(model, "unstructured", 1e-3)
    sensitivity(model, data)
    assert tfr.sparsity(model) == zeros and len(tfr.penalties.attachment.attachments(model)) == 2
    assert ops.convert_to_numpy(model.get_layer("copy").kernel.constraint.mask).sum() < 16


def test_dict_tables_and_plot(data, tmp_path):
    report = sensitivity(net(), data, layers="copy")
    figures = json.loads(json.dumps(report.to_dict()))
    assert figures["kernels"][0]["accuracies"] == list(report.kernels[0].accuracies)
    assert {"name": "noise/kernel", "reason": "not selected by `layers`"} in figures["left_out"]
    console = Console(record=True, width=100, quiet=False, file=open(tmp_path / "log", "w"))
    console.print(*report.to_tables())
    text = console.export_text()
    console.file.close()
    assert "copy/kernel" in text and "75%" in text and "100.00%" in text
    for suffix in ("svg", "png"):
        report.plot(tmp_path / f"curves.{suffix}")
        assert (tmp_path / f"curves.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        {"sparsities": ()},
        {"sparsities": 0.5},
        {"sparsities": (0.5, 1.0)},
        {"sparsities": (50,)},
        {"structure": "n_of_m"},
        {"structure": "filtr"},
        {"layers": "nothing"},
        {"data": np.eye(4)[:3]},
        {"data": (np.eye(4), np.eye(4))},
        {"data": (np.eye(4), np.arange(3))},
    ],
    ids=str,
)
def test_bad_input_is_explained(arguments, data):
    with pytest.raises(ValueError, match=r"(?s)Received: .+=.+\. \S"):
        sensitivity(net(), **{"data": data, **arguments})


def test_a_model_that_is_no_classifier_is_refused(data):
    model = keras.Sequential([keras.Input((4,)), L.Dense(1)])
    with pytest.raises(ValueError, match="classifier.*Received: output_shape="):
        sensitivity(model, data)


def regression():
    """The first kernel makes the output, the second nothing."""
    x = keras.Input((4,))
    big = L.Dense(1, use_bias=False, kernel_initializer="ones", name="big")(x)
    small = L.Dense(1, use_bias=False, kernel_initializer="zeros", name="small")(x)
    model = keras.Model(x, {"y": L.Add(name="y")([big, small])})
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    return model, x, {"y": x.sum(1, keepdims=True)}


def test_any_metric_of_a_compiled_model_can_be_watched():
    model, x, y = regression()
    model.compile("sgd", {"y": "mse"}, metrics={"y": ["mae"]})
    report = sensitivity(model, (x, y), sparsities=(0.5,), monitor="mae")
    big, small = report.kernels
    assert report.metric == "mae" and report.baseline == pytest.approx(0.0, abs=1e-6)
    assert big.accuracies == (pytest.approx(float(np.abs(x[:, :2].sum(1)).mean()), rel=1e-4),) or big.accuracies[0] > 0.5
    assert small.accuracies == (pytest.approx(0.0, abs=1e-6),)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    again = sensitivity(model, batches, sparsities=(0.5,), monitor="mae")
    assert again.kernels[0].accuracies == pytest.approx(big.accuracies)
    assert "Mae with one kernel pruned" in again.to_tables()[0].title


def test_what_cannot_be_watched_is_refused_before_any_work():
    model, x, y = regression()
    with pytest.raises(ValueError, match="needs a compiled model"):
        sensitivity(model, (x, y), monitor="mae")
    model.compile("sgd", {"y": "mse"})
    with pytest.raises(TypeError, match="Received: data='generator'"):
        sensitivity(model, ((x, y) for _ in range(2)), monitor="loss")
    with pytest.raises(ValueError, match="mae"):
        sensitivity(model, (x, y), monitor="mae")
