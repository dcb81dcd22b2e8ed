"""tfmot's names on Keras 3: what its public tutorials call runs with the import line changed, and says what differs."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_reweight as tfr
from tf_reweight import tfmot

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.random((96, 12, 12)).astype("float32")
Y = (X[:, :6].mean((1, 2)) > X[:, 6:].mean((1, 2))).astype("int64")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
prune_low_magnitude = tfmot.sparsity.keras.prune_low_magnitude


def net():
    """The net of tfmot's pruning tutorial, on small images."""
    keras.utils.set_random_seed(0)
    layers = [L.Reshape((12, 12, 1)), L.Conv2D(6, (3, 3), activation="relu", name="conv"), L.MaxPooling2D((2, 2)), L.Flatten()]
    return keras.Sequential([keras.Input((12, 12)), *layers, L.Dense(10, name="top")])


def one_layer(layer):
    return keras.Sequential([keras.Input((4, 4, 2)), layer])


def zeros(model):
    counts = tfr.sparsity(model)
    return sum(n for n, _ in counts.values()) / sum(size for _, size in counts.values())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tutorial: wrap, compile, fit with its two callbacks."""
    folder, model = tmp_path_factory.mktemp("logs"), net()
    end_step = np.ceil(len(X) / 16).astype(np.int32) * 2
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.50, final_sparsity=0.80, begin_step=0, end_step=end_step - 1, frequency=1
    )
    pruned = prune_low_magnitude(model, pruning_schedule=schedule)
    pruned.compile(optimizer="adam", loss=LOSS, metrics=["accuracy"])
    callbacks = [
        tfmot.sparsity.keras.UpdatePruningStep(),
        tfmot.sparsity.keras.PruningSummaries(log_dir=str(folder)),
    ]
    pruned.fit(X, Y, batch_size=16, epochs=2, validation_split=0.0, callbacks=callbacks, verbose=0)
    return model, pruned, folder


def test_the_pruning_tutorial_from_wrapping_to_a_file(trained, tmp_path):
    model, pruned, folder = trained
    assert [layer.name for layer in tfmot.pruning.wrappers(pruned)] == ["prune_low_magnitude_conv", "prune_low_magnitude_top"]
    assert list(folder.glob("events.*"))
    plain = tfmot.sparsity.keras.strip_pruning(pruned)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    assert plain.count_params() == model.count_params() and zeros(plain) == pytest.approx(0.8, abs=0.01)
    np.testing.assert_allclose(plain.predict(X, verbose=0), pruned.predict(X, verbose=0), atol=1e-6)
    path = tmp_path / "model.keras"
    keras.models.save_model(plain, path, include_optimizer=False)
    record = tfr.export_tflite(keras.models.load_model(path), tmp_path / "a.tflite", "int8", X, verify_data=X)
    assert record.sparsity == pytest.approx(0.8, abs=0.05)
    # The tutorial's own conversion works as well.
    assert tf.lite.TFLiteConverter.from_keras_model(plain).convert()


def test_a_wrapped_model_computes_the_same_before_training_and_is_independent(trained):
    model = net()
    pruned = prune_low_magnitude(model)
    np.testing.assert_array_equal(pruned.predict(X[:8], verbose=0), model.predict(X[:8], verbose=0))
    pruned.get_layer("prune_low_magnitude_conv").update(sparsity=0.5)
    assert zeros(model) < 0.01


def test_a_wrapped_model_goes_on_after_save_and_load(trained, tmp_path):
    _, pruned, _ = trained
    pruned.save(tmp_path / "pruned.keras")
    with tfmot.sparsity.keras.prune_scope():
        again = keras.models.load_model(tmp_path / "pruned.keras")
    layer, before = (model.get_layer("prune_low_magnitude_top") for model in (again, pruned))
    assert layer.last_step == before.last_step > 0
    assert layer.pruning_schedule.serialize() == before.pruning_schedule.serialize()
    again.fit(X, Y, batch_size=16, epochs=1, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()], verbose=0)
    assert zeros(tfmot.sparsity.keras.strip_pruning(again)) == pytest.approx(0.8, abs=0.01)


def test_single_layers_lists_and_clone_model():
    """tfmot's comprehensive guide: some layers only, by a function for clone_model."""

    def only_dense(layer):
        return prune_low_magnitude(layer) if isinstance(layer, L.Dense) else layer

    model = keras.models.clone_model(net(), clone_function=only_dense)
    assert [type(layer).__name__ for layer in model.layers][-1] == "PruneLowMagnitude"
    several, one = prune_low_magnitude([L.Dense(8), L.Dense(2)]), prune_low_magnitude(L.Dense(2), name="mine")
    made = keras.Sequential([keras.Input((4,)), *several, one])
    assert made.layers[-1].name == "mine" and len(tfmot.pruning.wrappers(made)) == 3


def test_blocks_and_n_of_m():
    model = net()
    blocks = prune_low_magnitude(model, block_size=(2, 2))
    layer = blocks.get_layer("prune_low_magnitude_top")
    layer.update(sparsity=0.5)
    mask = np.asarray(layer.masks[0]).reshape(75, 2, 5, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    assert set(mask.sum(1)) == {0, 4}
    with pytest.warns(UserWarning, match="root mean square"):
        prune_low_magnitude(L.Dense(4), block_size=(1, 4), block_pooling_type="MAX")
    dense = prune_low_magnitude(L.Dense(3), sparsity_m_by_n=(3, 4))
    dense.build((None, 8))
    dense.update(sparsity=0.75)
    assert (np.asarray(dense.masks[0]).reshape(2, 4, 3).sum(1) == 1).all()


def test_depthwise_kernels_stay_dense_and_a_policy_decides():
    stack = [L.DepthwiseConv2D(3, name="depth"), L.Conv2D(4, 1, name="point"), L.Flatten(), L.Dense(2, name="top")]
    model = keras.Sequential([keras.Input((8, 8, 2)), *stack])

    class Points(tfmot.sparsity.keras.PruningPolicy):
        def allow_pruning(self, layer):
            return layer.name == "point"

    def names(pruned):
        return [layer.layer.name for layer in tfmot.pruning.wrappers(pruned)]

    assert names(prune_low_magnitude(model)) == ["point", "top"]
    assert names(prune_low_magnitude(model, pruning_policy=Points())) == ["point"]


def test_attention_and_recurrent_layers():
    sequence = keras.Input((4, 8))
    attended = L.MultiHeadAttention(2, 4, name="attention")(sequence, sequence)
    model = keras.Model(sequence, L.Dense(2, name="top")(L.LSTM(4, name="lstm")(attended)))
    pruned = prune_low_magnitude(model, tfmot.sparsity.keras.ConstantSparsity(0.5, 0, frequency=1))
    x = RNG.random((16, 4, 8)).astype("float32")
    np.testing.assert_allclose(pruned.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    pruned.compile("adam", "mse")
    pruned.fit(x, x[:, 0, :2], verbose=0, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    plain = tfmot.sparsity.keras.strip_pruning(pruned)
    assert plain.output_names == model.output_names and [layer.name for layer in plain.layers] == [x.name for x in model.layers]
    assert len(tfr.sparsity(plain)) == 7 and zeros(plain) == pytest.approx(0.5, abs=0.01)


def test_what_did_not_happen_is_said():
    pruned = prune_low_magnitude(net(), tfmot.sparsity.keras.PolynomialDecay(0.5, 0.8, 0, 1000))
    with pytest.warns(UserWarning, match="No weight was pruned"):
        tfmot.sparsity.keras.strip_pruning(pruned)
    pruned.compile("sgd", LOSS)
    pruned.fit(X, Y, batch_size=96, verbose=0, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    with pytest.warns(UserWarning, match="50% of 80% are pruned, by the masks of step 0"):
        tfmot.sparsity.keras.strip_pruning(pruned)


def test_clustering_and_quantization_under_their_old_names(tmp_path):
    model = net()
    model.compile("adam", LOSS)
    tfr.prune(model, "unstructured", sparsity=0.5)
    clustered = tfmot.clustering.keras.cluster_weights(
        model, number_of_clusters=4, cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.LINEAR
    )
    clustered.fit(X, Y, verbose=0)
    plain = tfmot.clustering.keras.strip_clustering(clustered)
    kernel = np.asarray(plain.get_layer("top").kernel)
    assert len(np.unique(kernel)) <= 4 and (kernel == 0).mean() > 0.3
    assert len(np.unique(model.get_layer("top").kernel.numpy())) > 4
    qat = tfmot.quantization.keras.quantize_model(plain)
    qat.compile("adam", LOSS)
    qat.fit(X, Y, verbose=0)
    with tfmot.quantization.keras.quantize_scope():
        tfr.export_tflite(qat, tmp_path / "a.tflite", "int8", verify_data=X)
    for options, words in (({"preserve_sparsity": False}, "Zeros stay"), ({"cluster_centroids_init": "RANDOM"}, "k-means")):
        # Not pytest.warns, which would hand on a warning of NumPy's that is no matter here.
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            tfmot.clustering.keras.cluster_weights(model, 4, **options)
        assert any(words in str(item.message) for item in said)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: prune_low_magnitude("model"), TypeError, "Keras 3 layer or model"),
        (lambda: prune_low_magnitude(keras.Sequential([L.Dense(2)])), ValueError, "must be built"),
        (lambda: prune_low_magnitude(one_layer(L.ReLU())), ValueError, "No kernel of the model"),
        (lambda: prune_low_magnitude(one_layer(L.DepthwiseConv2D(2))), ValueError, "stay dense"),
        (lambda: prune_low_magnitude(L.Dense(2), block_pooling_type="SUM"), ValueError, "block_pooling_type"),
        (lambda: prune_low_magnitude(L.Dense(2), block_size=(1, 4), sparsity_m_by_n=(2, 4)), ValueError, "Pass one of"),
        (lambda: prune_low_magnitude(L.Dense(2), 0.5), TypeError, "schedule"),
        (lambda: prune_low_magnitude(L.Dense(2), block_size=4), ValueError, "two whole numbers"),
        (lambda: prune_low_magnitude(L.Dense(2), sparsity_m_by_n="2:4"), ValueError, "two whole numbers"),
        (lambda: prune_low_magnitude([L.Dense(2), 3]), TypeError, "Keras 3 layer or model"),
        (lambda: prune_low_magnitude(net(), pruning_policy=3), TypeError, "must be a PruningPolicy"),
        (lambda: prune_low_magnitude(net(), name="mine"), TypeError, "for single layers"),
        (lambda: tfmot.sparsity.keras.PolynomialDecay(0.5, 0.8, 0, 10.5), ValueError, "end_step"),
        (lambda: tfmot.sparsity.keras.ConstantSparsity(True, 0), ValueError, "sparsity"),
        (lambda: tfmot.sparsity.keras.PruningSummaries("logs", update_freq=10), ValueError, "'epoch'"),
        (lambda: tfmot.clustering.keras.cluster_weights(L.Dense(2), 4), TypeError, "Sequential or functional"),
        (lambda: prune_low_magnitude(L.Dense(2), block_pooling_type=np.array(["AVG"] * 2)), ValueError, "block_pooling_type"),
        (lambda: prune_low_magnitude(L.Dense(2), block_size=(0, 4)), ValueError, "`block_size` must be two whole numbers > 0"),
        (lambda: prune_low_magnitude(L.Dense(2), sparsity_m_by_n=(4, 4)), ValueError, "`sparsity_m_by_n` must leave weights"),
        (lambda: prune_low_magnitude([]), ValueError, "at least one layer"),
        (lambda: prune_low_magnitude(L.Dense(2), pruning_policy=3), TypeError, "must be a PruningPolicy"),
        (lambda: prune_low_magnitude(L.Dense(2), structure="filter"), TypeError, "Options of the wrapper are name"),
        (lambda: tfmot.sparsity.keras.PolynomialDecay(0.5, 0.8, 0, 9, power=np.inf), ValueError, "`power` must be a finite"),
        (lambda: tfmot.sparsity.keras.PolynomialDecay(0.5, 0.8, 0, 9, power=10**400), ValueError, "`power` must be a finite"),
        (lambda: tfmot.sparsity.keras.PolynomialDecay(0.5, 80, 0, 9), ValueError, "`final_sparsity`.*Did you mean 0.8"),
        (lambda: tfmot.sparsity.keras.PruningSummaries(None), TypeError, "`log_dir` must be a path"),
        (lambda: tfmot.sparsity.keras.PruningSummaries("logs", np.array(["epoch", "x"])), ValueError, "'epoch'"),
        (lambda: tfmot.clustering.keras.cluster_weights(net(), 4, np.array(["RANDOM", "x"])), ValueError, "Valid: DENSITY"),
        (lambda: tfmot.clustering.keras.cluster_weights(net(), 4, "linear"), ValueError, "cluster_centroids_init"),
        (lambda: tfmot.sparsity.keras.PrunableLayer, AttributeError, "kernels.table.register"),
        (lambda: tfmot.quantization.keras.quantize_apply, AttributeError, r"quantize\(model, layers="),
        (lambda: tfmot.quantization.keras.nothing, AttributeError, "has no attribute"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_what_is_wrapped_or_spared_by_the_policy_stays_as_it_is():
    class Spares(tfmot.sparsity.keras.PruningPolicy):
        def allow_pruning(self, layer):
            return layer.name != "spared"

    wrapped, spared, other = prune_low_magnitude(L.Dense(2)), L.Dense(2, name="spared"), L.Dense(2)
    made = prune_low_magnitude([wrapped, spared, other], pruning_policy=Spares())
    assert made[0] is wrapped and made[1] is spared and made[2].layer is other
    assert prune_low_magnitude(wrapped) is wrapped


def test_the_callback_needs_wrapped_layers():
    model = net()
    model.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="prune_low_magnitude first"):
        model.fit(X, Y, verbose=0, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
