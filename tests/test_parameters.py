"""Parameters are the weights that a file holds, whatever else a model keeps for its training."""

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tests import nets
from tf_reweight.coupling import Cost, groups
from tf_reweight.graph.counting import count_parameters
from tf_reweight.quantization.clustering import cluster
from tf_reweight.quantization.layers import QuantizedActivation
from tf_reweight.reports.tables import model_report
from tf_reweight.tfmot.pruning import prune_low_magnitude

L = keras.layers


def net():
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(6, 3, name="first"), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(8), L.Dropout(0.5)]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, L.Dense(5, name="last")])


NUM_WEIGHTS = 27 * 6 + 6 + 4 * 6 + 216 * 8 + 8 + 8 * 5 + 5


def fit(model):
    model.compile(keras.optimizers.Adam(use_ema=True), "mse", metrics=["mae"])
    model.fit(np.zeros((2, 8, 8, 3)), np.zeros((2, 5)), verbose=0)


KEPT = {
    "pruned": lambda model: tfr.prune(model, "unstructured", sparsity=0.5),
    "channels pruned": lambda model: tfr.prune_groups(model, sparsity=0.5),
    "zeros kept": lambda model: [tfr.prune(model, "unstructured", sparsity=0.5), tfr.release(model), tfr.keep_zeros(model)],
    "penalty": lambda model: tfr.regularize(model, "filter", 1e-3),
    "penalty on channels": lambda model: tfr.regularize_coupled(model, 1e-3),
    "budget": lambda model: tfr.regularize(model, "filter", budget="weights=0.5"),
    "budget of channels": lambda model: tfr.regularize_coupled(model, budget="macs=0.5"),
    "distance": lambda model: tfr.baselines.ADMM("unstructured", 0.5).attach(model),
    "clustered": lambda model: cluster(model, 4),
    "compiled": lambda model: model.compile("adam", "mse", metrics=["mae"]),
    "trained": fit,
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_put_on_a_model_is_none_of_its_parameters(name):
    model = net()
    KEPT[name](model)
    assert count_parameters(model) == model_report(model)["num_parameters"] == NUM_WEIGHTS
    assert Cost(groups(model)).quantities["parameters"].at(np.ones(groups(model).num_groups, bool)) == NUM_WEIGHTS


@pytest.mark.parametrize("build", [net, nets.residual, nets.squeeze_excite, nets.gru, nets.nested_shared])
def test_ranges_of_a_quantized_model_are_none_of_its_parameters(build):
    quantized = tfr.quantize(build())
    ranges = [layer for layer in quantized._flatten_layers() if isinstance(layer, QuantizedActivation)]
    assert count_parameters(quantized) == count_parameters(tfr.strip_quantization(quantized))
    assert count_parameters(quantized) == quantized.count_params() - sum(layer.count_params() for layer in ranges)


@pytest.mark.parametrize("wrap", [tfr.Masked, prune_low_magnitude])
def test_masks_in_wrappers_are_none_of_its_parameters(wrap):
    wrapped = keras.Sequential([keras.Input((8,)), wrap(L.Dense(4)), wrap(L.Dense(3))])
    assert wrapped.count_params() > count_parameters(wrapped) == 8 * 4 + 4 + 4 * 3 + 3
    assert model_report(wrapped)["num_parameters"] == count_parameters(tfr.strip(wrapped))
    copy = keras.models.clone_model(wrapped)
    assert [weight.shape for weight in copy.weights] == [weight.shape for weight in wrapped.weights]


def test_what_layers_of_keras_only_train_with_is_none_of_its_parameters():
    random = [L.RandomFlip(), L.RandomRotation(0.1), L.GaussianNoise(0.1)]
    known = L.Normalization()
    known.adapt(np.random.default_rng(0).normal(size=(4, 8, 8, 3)))
    layers = [*random, known, L.SpectralNormalization(L.Conv2D(4, 3)), L.GlobalAveragePooling2D(), L.Reshape((2, 2))]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, L.GRU(3, dropout=0.1), L.Dense(1)])
    assert count_parameters(model) == 3 + 3 + 27 * 4 + 4 + 2 * 9 + 3 * 9 + 2 * 9 + 3 + 1


def test_a_budget_of_parameters_knows_no_masks():
    """The masks of a wrapper, and the vector of a norm, were taken for weights that no budget can free."""
    model = keras.Sequential([keras.Input((8,)), tfr.Masked(L.Dense(16)), L.Dense(16, activation="relu"), L.Dense(2)])
    whole = 8 * 16 + 16 + 16 * 16 + 16 + 16 * 2 + 2
    report = tfr.prune(model, "unstructured", budget="parameters=0.5")
    kept = sum(kernel.kept_weights for kernel in report.kernels) + 16 + 16 + 2
    assert 0.49 * whole < kept <= 0.5 * whole
