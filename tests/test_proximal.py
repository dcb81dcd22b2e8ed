"""The proximal solver: its step equals the closed form and the optimality condition, and training gives exact zeros."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from tables import STRUCTURE_CASES, STRUCTURE_IDS, random_kernel

import tf_reweight as tfr
from tf_reweight import structures
from tf_reweight.kernels.constraints import Mask
from tf_reweight.kernels.layout import Layout
from tf_reweight.penalties import attachment
from tf_reweight.penalties.proximal import Proximal, Silent, SoftThreshold, take_off
from tf_reweight.penalties.reweighting import Reweighting

L = keras.layers


def small_net(optimizer=None, **arguments):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            L.Dense(8, name="hidden", activation="relu"),
            L.Dense(3, name="top", activation="softmax"),
        ]
    )
    model.compile(optimizer or keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", **arguments)
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.random((64, 6)).astype("float32"), rng.integers(0, 3, 64)


def kernel_of(model, name="hidden"):
    return ops.convert_to_numpy(model.get_layer(name).kernel)


def zero_share(model):
    kernels = np.concatenate([ops.convert_to_numpy(t.variable.value).ravel() for t in tfr.kernels.table.find(model)[0]])
    return float((kernels == 0).mean())


@pytest.mark.parametrize("structure, shape", STRUCTURE_CASES, ids=STRUCTURE_IDS)
def test_the_step_equals_its_closed_form(structure, shape):
    """Group by group in a NumPy loop, for every structure of the table, thresholds from 0 to beyond the norms."""
    kernel = random_kernel(shape)
    thresholds = np.random.default_rng(1).uniform(0, 3, structure.group_shape(shape)).astype("float32")
    thresholds.flat[::3] = 0.0
    as_one = structure.name == "pattern"  # what is outside a kernel's pattern carries one threshold and shrinks by one factor
    if as_one:
        thresholds = np.where(thresholds > 0, thresholds.max(axis=1, keepdims=True), 0.0)
    kernel_parts = np.array(ops.convert_to_numpy(structure.partition(kernel)))
    kernel_parts.reshape(-1, kernel_parts.shape[-1])[::6] = 0.0  # also groups that are zero, with a threshold of zero
    kernel = ops.convert_to_numpy(structure.assemble(ops.convert_to_tensor(kernel_parts), shape))
    parts = np.array(kernel_parts)
    for scope in range(parts.shape[0]):
        for group in range(parts.shape[1]):
            members = kernel_parts[scope][thresholds[scope] > 0] if as_one else kernel_parts[scope, group]
            norm = float(np.sqrt((members.astype("float64") ** 2).sum()))
            parts[scope, group] *= max(0.0, 1.0 - thresholds[scope, group] / norm) if norm else 0.0
    expected = ops.convert_to_numpy(structure.assemble(ops.convert_to_tensor(parts), shape))
    found = ops.convert_to_numpy(SoftThreshold(structure, Layout.standard(shape), thresholds)(kernel))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found == 0, expected == 0)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["unstructured", "filter", "channel", "column"]),
    st.lists(st.floats(-4, 4, width=32), min_size=12, max_size=12),
    st.floats(0.0, 3.0),
)
def test_the_step_is_the_proximal_operator(structure, values, threshold):
    """0 is in the subdifferential of t * sum r_g(x) + ||x - w||^2 / 2: w - x = t x / r where x lives, ||w|| <= t elsewhere."""
    structure, shape = structures.get(structure), (3, 4)
    kernel = np.asarray(values, "float32").reshape(shape)
    thresholds = np.full(structure.group_shape(shape), threshold, "float32")
    found = ops.convert_to_numpy(SoftThreshold(structure, Layout.standard(shape), thresholds)(kernel))
    before = ops.convert_to_numpy(structure.partition(kernel)).astype("float64")
    after = ops.convert_to_numpy(structure.partition(found)).astype("float64")
    for w, x in zip(before[0], after[0]):
        norm = np.linalg.norm(x)
        if norm > 0:
            np.testing.assert_allclose(w - x, threshold * x / norm, atol=2e-5 + 1e-5 * np.abs(w).max() / norm)
        else:
            assert np.linalg.norm(w) <= threshold * (1 + 1e-5) + 1e-6


def test_one_step_of_fit_is_the_optimizers_step_and_then_the_threshold(data):
    """With plain SGD the new kernel is soft(w - rate * gradient of the loss alone): the penalty has left the loss."""
    plain, model = small_net(keras.optimizers.SGD(0.5)), small_net(keras.optimizers.SGD(0.5))
    model.set_weights(plain.get_weights())
    tfr.regularize(model, "channel", 0.2, {"name": "log_sum", "epsilon": 0.5})
    start = kernel_of(plain)
    plain.fit(*data, batch_size=64, epochs=1, verbose=0)
    history = model.fit(*data, batch_size=64, epochs=1, callbacks=[Proximal(0.3), Reweighting()], verbose=0)
    weights = 1.0 / (np.linalg.norm(start, axis=1) + 0.5)
    stepped = kernel_of(plain)
    norms = np.linalg.norm(stepped, axis=1)
    expected = stepped * np.maximum(0, 1 - 0.3 * 0.2 * weights / norms)[:, None]
    np.testing.assert_allclose(kernel_of(model), expected, rtol=1e-4, atol=1e-6)
    assert history.history["loss"][0] < 3.0 < float(sum(model.losses)) + 3.0


def test_thresholds_follow_the_penalty_weights_at_every_update(data):
    """The optimizer stands still, so that each norm moves by `step * strength / (norm at the last update + epsilon)` alone."""
    model = small_net(keras.optimizers.SGD(0.0))
    tfr.regularize(model, "channel", 0.2, {"name": "log_sum", "epsilon": 0.5})
    norms = np.linalg.norm(kernel_of(model), axis=1)
    model.fit(*data, batch_size=32, epochs=6, callbacks=[Reweighting(every=2), Proximal(0.3)], verbose=0)
    for _ in range(3):
        thresholds = 0.3 * 0.2 / (norms + 0.5)
        for _ in range(4):
            norms = np.maximum(0.0, norms - thresholds)
    found = np.linalg.norm(kernel_of(model), axis=1)
    np.testing.assert_allclose(found, norms, rtol=1e-4, atol=1e-6)


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zeros_are_exact_in_training_and_prune_takes_them(optimizer, data):
    model = small_net(OPTIMIZERS[optimizer](), jit_compile=False)
    tfr.regularize(model, "unstructured", 1e-2)
    model.fit(*data, epochs=10, batch_size=16, callbacks=[Reweighting(every=5), Proximal(step=0.1)], verbose=0)
    share = zero_share(model)
    assert 0.1 < share < 1.0
    report = tfr.prune(model)
    assert report.sparsity >= share - 1e-6 and not attachment.attachments(model)
    zeros = kernel_of(model) == 0
    model.fit(*data, epochs=1, verbose=0)
    assert (kernel_of(model)[zeros] == 0).all() and zero_share(model) == pytest.approx(report.sparsity)


def test_the_two_orders_of_callbacks_agree(data):
    kernels = []
    for order in (1, -1):
        keras.utils.set_random_seed(0)
        model = small_net()
        tfr.regularize(model, "channel", 1e-2)
        model.fit(*data, epochs=4, shuffle=False, callbacks=[Reweighting(every=2), Proximal(0.1)][::order], verbose=0)
        kernels.append(kernel_of(model))
    np.testing.assert_array_equal(*kernels)


def test_accumulation_shrinks_once_per_update(data):
    """Keras applies constraints at every call of the optimizer; over the calls of one update the thresholds add up to one."""
    model = small_net(keras.optimizers.SGD(0.0, gradient_accumulation_steps=4))
    tfr.regularize(model, "unstructured", 0.1, "lasso")
    start = kernel_of(model)
    model.fit(*data, batch_size=8, epochs=1, callbacks=[Proximal(0.5)], verbose=0)
    np.testing.assert_allclose(np.abs(kernel_of(model)), np.maximum(0, np.abs(start) - 2 * 0.05), atol=1e-6)


def test_zeros_may_come_back_and_a_mask_forbids_it(data):
    model = small_net(keras.optimizers.SGD(0.5))
    top = model.get_layer("top").kernel
    kernel = kernel_of(model, "top").copy()
    kernel[:4] = 0.0
    top.assign(kernel)
    tfr.regularize(model, "unstructured", 1e-7)
    model.fit(*data, epochs=1, callbacks=[Reweighting(), Proximal()], verbose=0)
    assert (kernel_of(model, "top")[:4] != 0).any()
    top.assign(kernel)
    tfr.keep_zeros(model)
    model.fit(*data, epochs=1, callbacks=[Reweighting(), Proximal()], verbose=0)
    assert (kernel_of(model, "top")[:4] == 0).all() and (kernel_of(model, "top")[4:] != 0).all()
    assert isinstance(top.constraint, Mask) and top.constraint.inner is None


def test_everything_is_put_back_and_other_regularizers_stay_in_the_loss(data):
    model = small_net(keras.optimizers.SGD(0.0))
    hidden = model.get_layer("hidden")
    hidden.kernel_regularizer = hidden.kernel.regularizer = keras.regularizers.L2(1.0)
    hidden.kernel.constraint = inner = keras.constraints.MaxNorm(100.0)
    tfr.regularize(model, "unstructured", 1e-3, layers="hidden")
    before, losses = hidden.kernel.regularizer, float(sum(model.losses))
    during = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            during.append((float(sum(self.model.losses)), float((kernel_of(self.model) ** 2).sum())))

    model.fit(*data, epochs=1, callbacks=[Proximal(1e-3), Look()], verbose=0)
    assert during[0][0] == pytest.approx(during[0][1], rel=1e-5)
    assert hidden.kernel.regularizer is before is hidden.kernel_regularizer and hidden.kernel.constraint is inner
    assert float(sum(model.losses)) == pytest.approx(losses, rel=1e-3)
    assert take_off(model) == 0


def test_an_interrupted_fit_can_be_put_right_and_a_saved_model_is_the_usual_one(data, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(tmp_path / "model.keras")
            raise KeyboardInterrupt

    model = small_net()
    tfr.regularize(model, "unstructured", 1e-3)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, epochs=2, callbacks=[Reweighting(), Proximal(), Stop()], verbose=0)
    assert isinstance(model.get_layer("hidden").kernel.regularizer, Silent) and len(attachment.attachments(model)) == 2
    assert take_off(model) == 2
    assert model.get_layer("hidden").kernel.constraint is None
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = [ops.convert_to_numpy(item.regularizer.penalty_weights) for item in attachment.attachments(loaded)]
    for one, item in zip(found, attachment.attachments(model), strict=True):
        np.testing.assert_array_equal(one, ops.convert_to_numpy(item.regularizer.penalty_weights))


def test_penalties_without_a_closed_form_are_refused(data):
    model = small_net()
    tfr.regularize(model, "unstructured", 1e-3, "log_squared")
    with pytest.raises(ValueError, match="squared.*Received: kernel="):
        model.fit(*data, callbacks=[Proximal()], verbose=0)


def test_the_step_of_a_pattern_is_the_proximal_operator_of_its_penalty():
    """No other kernel near the found one has a smaller `step * surrogate(x) + ||x - w||^2 / 2`."""
    structure, shape, rng = structures.get("pattern"), (3, 3, 2, 4), np.random.default_rng(0)
    kernel = random_kernel(shape)
    weights = structure.penalty_weights(tfr.penalties.get("log_sum"), structure.group_norms(kernel))
    thresholds = 0.3 * ops.convert_to_numpy(weights)
    found = ops.convert_to_numpy(SoftThreshold(structure, Layout.standard(shape), thresholds)(kernel))

    def cost(x):
        return float(structure.surrogate(thresholds, structure.group_norms(x))) + 0.5 * float(np.square(x - kernel).sum())

    smallest = cost(found)
    assert smallest < cost(kernel)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(10):
            assert cost(found + scale * rng.normal(size=shape).astype("float32")) > smallest - 1e-6


def test_two_structures_on_a_kernel_coupled_penalties_and_no_penalty_are_refused(data):
    model = small_net()
    with pytest.raises(ValueError, match="at least one Reweighted penalty.*Received: "):
        model.fit(*data, epochs=1, callbacks=[Proximal()], verbose=0)
    tfr.regularize(model, "unstructured", 1e-3)
    tfr.regularize(model, "channel", 1e-3)
    with pytest.raises(ValueError, match="carries 2 penalties"):
        model.fit(*data, epochs=1, callbacks=[Proximal()], verbose=0)
    tfr.detach(model)
    tfr.regularize_coupled(model, 1e-3)
    with pytest.raises(ValueError, match="coupled over several kernels"):
        model.fit(*data, epochs=1, callbacks=[Proximal()], verbose=0)
    for step in (0, -1.0, "auto", True):
        with pytest.raises(ValueError, match="`step`.*Received: step="):
            Proximal(step)


@pytest.mark.parametrize("solver", ["single", "coupled", "deadline", "iterative"])
def test_solvers_refuse_weights_that_are_no_numbers(solver, data):
    """A diverged model became one of zeros and few NaNs, without a word."""
    model = small_net()
    if solver == "single":
        tfr.regularize(model, "filter", 1e-2)
    elif solver == "coupled":
        tfr.regularize_coupled(model, 1e-2)
    callbacks = {"single": Proximal, "coupled": tfr.coupling.CoupledProximal}
    callbacks |= {"deadline": lambda: tfr.callbacks.BudgetProximal("macs=0.5")}
    callbacks |= {"iterative": lambda: tfr.callbacks.IterativePruning("macs=0.5", rounds=1)}
    kernel = kernel_of(model).copy()
    kernel[2, 3] = np.nan
    model.get_layer("hidden").kernel.assign(kernel)
    with pytest.raises(ValueError, match="Every weight must be finite.*Received: weights=.*hidden/kernel"):
        model.fit(*data, verbose=0, callbacks=[callbacks[solver]()])
    np.testing.assert_array_equal(kernel_of(model), kernel)
    model.get_layer("hidden").kernel.assign(np.nan_to_num(kernel))
    model.fit(*data, verbose=0, epochs=2)
