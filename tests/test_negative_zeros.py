"""What becomes zero is +0.0: a negative zero is a nonzero byte in a file, and does not zip as zeros do."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import structures
from tf_reweight.baselines import Clipping
from tf_reweight.callbacks import MultiGradient, Proximal
from tf_reweight.coupling import CoupledProximal
from tf_reweight.graph.access import all_layers
from tf_reweight.quantization import quantize, regularize_levels, snap

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 6)).astype("float32"), RNG.normal(size=(64, 3)).astype("float32")


def net():
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, activation="relu", name="a"), L.Dense(8, activation="relu", name="b"), L.Dense(3, name="c")]
    return keras.Sequential([keras.Input((6,)), *layers])


def check(*kernels):
    kernels = [ops.convert_to_numpy(kernel) for kernel in kernels]
    assert any((kernel == 0).any() for kernel in kernels)
    assert not any(np.signbit(kernel[kernel == 0]).any() for kernel in kernels)


SOLVERS = {
    "Proximal": (lambda model: tfr.regularize(model, "filter", 1.0, "lasso"), lambda: Proximal(step=0.05)),
    "MultiGradient": (lambda model: tfr.regularize(model, "unstructured", 1.0, "lasso"), lambda: MultiGradient(clip=0.1)),
    "CoupledProximal": (lambda model: tfr.regularize_coupled(model, 1.0), lambda: CoupledProximal(step=0.05)),
    "Clipping": (lambda model: None, lambda: Clipping(0.1)),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_of_solvers(name):
    if keras.backend.backend() != "tensorflow" and name == "MultiGradient":
        pytest.skip("the rule needs gradients in the step")
    put, make = SOLVERS[name]
    model = net()
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    put(model)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[make()])
    check(*(layer.kernel for layer in model.layers))


@pytest.mark.parametrize("name", ["filter", "channel", "column", "kernel", "unstructured"])
def test_of_proximal_steps(name):
    structure, kernel = structures.get(name), RNG.normal(size=(3, 3, 4, 5)).astype("float32")
    norms = ops.convert_to_numpy(structure.group_norms(kernel))
    check(structure.shrunk(ops.convert_to_tensor(kernel), np.where(norms < np.median(norms), 1e9, 0.0).astype("float32")))


def test_of_masked_layers_that_are_stripped():
    model = keras.Sequential([keras.Input((6,)), tfr.Masked(L.Dense(8), "unstructured")])
    model.layers[0].update(sparsity=0.5)
    check(tfr.strip(model).layers[0].kernel)


def test_of_kernels_that_a_normalization_with_a_negative_scale_is_folded_into():
    model = keras.Sequential([keras.Input((8, 8, 2)), L.Conv2D(4, 3, use_bias=False), L.BatchNormalization()])
    model.layers[1].gamma.assign([-1.0, 1.0, -2.0, 2.0])
    # By hand: a mask that `prune` puts on would make them zero again.
    kernel = ops.convert_to_numpy(model.layers[0].kernel)
    model.layers[0].kernel.assign(np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0.0, kernel))
    with_kernels = [layer for layer in all_layers(quantize(model)) if isinstance(layer, L.Conv2D)]
    check(*(layer.kernel for layer in with_kernels))


def test_of_weights_that_are_moved_to_levels():
    model = net()
    regularize_levels(model, bits=2)
    snap(model)
    check(*(layer.kernel for layer in model.layers))
