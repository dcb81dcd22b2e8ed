"""What is pruned stays exactly zero: through files, averages of the weights and plain training, with no call of ours."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.kernels.constraints import KeptZeros, Mask
from tf_reweight.kernels.table import find

L = keras.layers
RNG = np.random.default_rng(0)
SEQUENCES = RNG.normal(size=(32, 6, 8)).astype("float32")
IMAGES = RNG.normal(size=(32, 6, 6, 4)).astype("float32")


def attention():
    x = keras.Input((6, 8))
    return keras.Model(x, [L.MultiHeadAttention(2, 4)(x, x), L.GroupQueryAttention(4, 4, 2)(x, x)])


def dense():
    return keras.Sequential([keras.Input((6, 8)), L.Dense(8)])


def side_by_side():
    """Kernels of one matrix: written as one, inside a model, inside a wrapper, in half precision."""
    x = keras.Input((6, 8))
    inner = keras.Sequential([keras.Input((6, 8)), L.Dense(8, name="inside")], name="inner")
    einsum, half = L.EinsumDense("abc,cd->abd", (None, 8)), L.Dense(8, dtype="mixed_bfloat16")
    return keras.Model(x, [einsum(x), L.TimeDistributed(L.Dense(4))(inner(x)), half(x)])


def recurrent():
    x = keras.Input((6, 8))
    return keras.Model(x, [L.RNN(L.LSTMCell(4))(x), L.Bidirectional(L.GRU(4))(x)])


def convolutions():
    x = keras.Input((6, 6, 4))
    return keras.Model(x, [L.DepthwiseConv2D(3)(x), L.SeparableConv2D(5, 3)(x)])


# A kernel of each kind, several in one model: a compiled step takes longer to make than all that is done with it.
NETS = {
    "dense": (dense, SEQUENCES),
    "side by side": (side_by_side, SEQUENCES),
    "recurrent": (recurrent, SEQUENCES),
    "attention": (attention, SEQUENCES),
    "convolutions": (convolutions, IMAGES),
}


def pruned(build, x):
    keras.utils.set_random_seed(0)
    model = build()
    tfr.prune(model, "unstructured", sparsity=0.6, scope="layer")
    model.compile("adam", "mse")
    return model, keras.tree.map_structure(lambda y: RNG.normal(size=ops.shape(y)).astype("float32"), model(x))


def zero_sets(model):
    return [ops.convert_to_numpy(t.variable.value) == 0 for t in find(model)[0]]


def check_same_zeros(before, model):
    for old, new, target in zip(before, zero_sets(model), find(model)[0], strict=True):
        assert old.any(), target.name
        np.testing.assert_array_equal(old, new, target.name)


@pytest.mark.parametrize("net", NETS)
def test_zeros_stay_through_a_file_and_plain_training(net, tmp_path):
    build, x = NETS[net]
    model, y = pruned(build, x)
    before = zero_sets(model)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "pruned.keras")
    for eagerly in (False, True):
        loaded = keras.saving.load_model(tmp_path / "pruned.keras")
        loaded.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", run_eagerly=eagerly)
        start = loaded.get_weights()
        loaded.fit(x, y, verbose=0)
        check_same_zeros(before, loaded)
        assert any(np.abs(a - b).max() > 0 for a, b in zip(start, loaded.get_weights()))
    loaded.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    again.fit(x, y, verbose=0)
    check_same_zeros(before, again)


@pytest.mark.parametrize("net", ["side by side", "recurrent", "attention"])
def test_a_copy_that_is_given_the_weights_holds_their_zeros(net):
    build, x = NETS[net]
    model, y = pruned(build, x)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile("adam", "mse")
    copy.fit(x, y, verbose=0)
    check_same_zeros(zero_sets(model), copy)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="eager steps only know zeros from files")
def test_zeros_that_nobody_could_read_are_warned_of():
    model, y = pruned(*NETS["dense"])
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile("adam", "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="are not held: call tf_reweight.keep_zeros"):
        copy.fit(SEQUENCES, y, verbose=0)


def test_a_weights_file_brings_its_masks_into_a_model_pruned_otherwise(tmp_path):
    build, x = NETS["dense"]
    model, y = pruned(build, x)
    other = build()
    tfr.prune(other, "unstructured", sparsity=0.2)
    model.save_weights(tmp_path / "w.weights.h5")
    other.load_weights(tmp_path / "w.weights.h5")
    other.compile("adam", "mse")
    other.fit(x, y, verbose=0)
    check_same_zeros(zero_sets(model), other)
    plain = build()
    plain.load_weights(tmp_path / "w.weights.h5")  # a model that never heard of pruning can read it
    check_same_zeros(zero_sets(model), plain)


@pytest.mark.parametrize("arguments", [{}, {"ema_momentum": 0.5}, {"ema_overwrite_frequency": 2}], ids=str)
@pytest.mark.parametrize("swaps", [False, True])
def test_zeros_stay_in_averages_of_the_weights(arguments, swaps):
    build, x = NETS["dense"]
    model, y = pruned(build, x)
    model.compile(keras.optimizers.Adam(0.01, use_ema=True, **arguments), "mse", run_eagerly=bool(arguments))
    before = zero_sets(model)
    callbacks = [keras.callbacks.SwapEMAWeights()] if swaps else []
    model.fit(x, y, epochs=2, batch_size=8, verbose=0, validation_data=(x, y), callbacks=callbacks)
    check_same_zeros(before, model)


def test_averages_that_began_before_pruning_are_masked():
    keras.utils.set_random_seed(0)
    build, x = NETS["dense"]
    model = build()
    y = RNG.normal(size=ops.shape(model(x))).astype("float32")
    model.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse")
    model.fit(x, y, verbose=0)
    tfr.prune(model, "unstructured", sparsity=0.6)
    before = zero_sets(model)
    model.fit(x, y, verbose=0)
    check_same_zeros(before, model)


def test_the_layers_own_constraint_stays_inside_and_comes_back(tmp_path):
    own = keras.constraints.MaxNorm(0.5)
    model = keras.Sequential([keras.Input((8,)), L.Dense(4, kernel_constraint=own)])
    layer = model.layers[0]
    tfr.prune(model, "channel", sparsity=0.5)
    tfr.prune(model, "unstructured", sparsity=0.8)
    assert (np.asarray(ops.convert_to_numpy(layer.kernel)) == 0).sum() == 25
    model.save(tmp_path / "m.keras")
    for each in (model, keras.saving.load_model(tmp_path / "m.keras")):
        layer = each.layers[0]
        assert isinstance(layer.kernel_constraint, KeptZeros)
        each.compile(keras.optimizers.SGD(5.0), "mse")
        each.fit(RNG.normal(size=(16, 8)), RNG.normal(size=(16, 4)), verbose=0)
        kernel = ops.convert_to_numpy(layer.kernel)
        assert (kernel == 0).sum() >= 25 and np.linalg.norm(kernel, axis=0).max() <= 0.5 + 1e-6
        assert tfr.release(each) == 1
        assert layer.kernel_constraint.get_config() == own.get_config() == find(each)[0][0].variable.constraint.get_config()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_masks_add_up():
    model = keras.Sequential([keras.Input((4,)), L.Dense(4)])
    tfr.prune(model, "channel", sparsity=0.5)
    first = zero_sets(model)[0].reshape(4, 4)
    variable = find(model)[0][0].variable
    kernel = np.ones((4, 4))
    kernel[np.flatnonzero(~first.any(axis=1))[0]] = 0.5  # the next to go is one that lives
    variable.assign(kernel)
    with pytest.warns(UserWarning, match="zero again: .*/kernel"):
        tfr.prune(model, "channel", sparsity=0.75)
    mask = variable.constraint
    assert isinstance(mask, Mask) and not isinstance(mask.inner, Mask)
    assert not mask.as_numpy()[first].any() and (~mask.as_numpy()).sum() == 8 + 4


def test_copies_for_other_purposes_are_plain():
    model = keras.Sequential([keras.Input((8,)), L.Dense(8, activation="relu", kernel_constraint="non_neg"), L.Dense(2)])
    tfr.prune_groups(model, sparsity=0.5)
    small = tfr.shrink(model)
    assert isinstance(small.layers[0].kernel_constraint, keras.constraints.NonNeg)
    assert all(v.constraint is None or not isinstance(v.constraint, (Mask, KeptZeros)) for v in small.weights)


@keras.saving.register_keras_serializable("tests")
class Own(keras.layers.Layer):
    """A layer that makes its dense layer itself, without a constraint."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(8)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


def test_zeros_that_will_not_be_there_after_loading_are_named():
    model = keras.Sequential([keras.Input((8,)), Own(name="own"), L.Dense(2)])
    with pytest.warns(UserWarning, match="own/dense/kernel.*not be after the model was saved and loaded"):
        tfr.prune(model, "unstructured", sparsity=0.5)


class OwnStep(keras.optimizers.SGD):
    def apply(self, grads, trainable_variables=None):
        return super().apply(grads, trainable_variables)


def test_an_optimizer_with_a_step_of_its_own_is_warned_of():
    model = keras.Sequential([keras.Input((8,)), L.Dense(4)])
    model.compile(OwnStep(0.1), "mse")
    with pytest.warns(UserWarning, match="OwnStep has an `apply` of its own"):
        tfr.prune(model, "unstructured", sparsity=0.3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("take", ["export", "shrink"])
def test_weights_that_were_put_in_afterwards_are_said_where_a_model_is_taken_as_it_is(take, tmp_path):
    model = keras.Sequential([keras.Input((8,)), L.Dense(16, activation="relu"), L.Dense(4)])
    dense = model.get_weights()
    tfr.prune(model, "unstructured", sparsity=0.5)
    model.set_weights(dense)
    with pytest.warns(UserWarning, match="held at zero have other values now: .*/kernel"):
        tfr.export_tflite(model, tmp_path / "model.tflite") if take == "export" else tfr.shrink(model)
    with pytest.warns(UserWarning, match="zero again"):
        tfr.prune(model, "unstructured", sparsity=0.5)
    assert sum((kernel == 0).sum() for kernel in model.get_weights()[::2]) == (8 * 16 + 16 * 4) // 2
