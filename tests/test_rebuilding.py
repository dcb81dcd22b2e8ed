"""Every function that builds a model again x everything that a model has besides its weights."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.graph.access import all_layers
from tf_reweight.graph.comparing import compare
from tf_reweight.graph.recasting import RecastError, recast
from tf_reweight.graph.walking import graphs_of
from tf_reweight.penalties.attachment import attachments

L = keras.layers
REBUILDERS = {
    "shrink": tfr.shrink,
    "strip": tfr.strip,
    "recast": lambda model: recast(model, "float64"),
    "quantize": tfr.quantize,
    "strip_quantization": lambda model: tfr.quantization.strip_quantization(tfr.quantize(model)),
}
KEEP_SEQUENTIAL = ("shrink", "strip", "recast")
every_rebuilder = pytest.mark.parametrize("make", REBUILDERS.values(), ids=REBUILDERS)


def inner_layer(model, name):
    """The layer of a copy, whatever it is inside of now."""
    return next(layer for layer in model._flatten_layers() if layer.name.split("/")[-1] in (name, f"block_{name}"))


def net():
    block = keras.Sequential([keras.Input((6,)), L.Dense(6, name="held"), L.Dense(6, name="free")], name="block")
    x = keras.Input((4,), name="numbers")
    unread = keras.Input((3,), name="unread")
    h = L.Dropout(0.5, seed=3, name="noise")(L.Dense(6, activation="relu", name="stem")(x))
    return keras.Model({"numbers": x, "unread": unread}, {"top": L.Dense(2, name="top")(block(h))}, name="net")


@every_rebuilder
def test_inputs_that_nobody_reads_names_and_structures_stay(make):
    model = net()
    copy = make(model)
    assert copy.name == model.name and copy.output_names == model.output_names
    assert {key: tensor.name for key, tensor in copy.input.items()} == {key: tensor.name for key, tensor in model.input.items()}
    given = {"numbers": np.ones((2, 4), "float32"), "unread": np.zeros((2, 3), "float32")}
    outputs = copy(given)
    assert outputs.keys() == {"top"}
    np.testing.assert_allclose(outputs["top"], model(given)["top"], atol=0.05)


@every_rebuilder
def test_integers_reach_a_nested_model_of_floats_as_keras_casts_them(make):
    """Inlined, its first layer was given the integers themselves."""
    block = keras.Sequential([keras.Input((4, 4, 1)), L.Conv2D(3, 3, name="conv"), L.Flatten()], name="block")
    pixels = keras.Input((4, 4, 1), dtype="uint8")
    model = keras.Model(pixels, L.Dense(2)(block(pixels)))
    given = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype("uint8")
    expected = np.asarray(model(given))
    assert np.abs(np.asarray(make(model)(given)) - expected).max() < 0.05 * np.abs(expected).max()


@every_rebuilder
def test_integers_that_a_layer_moved_reach_a_nested_model_as_keras_casts_them(make):
    """Keras says of what `Cropping2D` gives that it is float."""
    block = keras.Sequential([keras.Input((4, 4, 1)), L.Conv2D(3, 3, name="conv"), L.Flatten()], name="block")
    pixels = keras.Input((6, 6, 1), dtype="uint8")
    model = keras.Model(pixels, L.Dense(2)(block(L.Cropping2D(1)(pixels))))
    given = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 1)).astype("uint8")
    expected = np.asarray(model(given))
    assert np.abs(np.asarray(make(model)(given)) - expected).max() < 0.05 * np.abs(expected).max()


@every_rebuilder
def test_random_generators_go_on_where_they_were(make):
    model = net()
    for _ in range(2):
        model({"numbers": np.ones((2, 4)), "unread": np.ones((2, 3))}, training=True)
    state = np.asarray(inner_layer(model, "noise").seed_generator.state)
    np.testing.assert_array_equal(inner_layer(make(model), "noise").seed_generator.state, state)
    assert tuple(state) != (3, 0)


@every_rebuilder
def test_what_is_frozen_stays_frozen_model_layer_or_single_weight(make):
    model = net()
    model.get_layer("block").get_layer("held").trainable = False
    model.get_layer("stem").kernel.trainable = False
    copy = make(model)
    assert not inner_layer(copy, "held").trainable and inner_layer(copy, "free").trainable
    assert not inner_layer(copy, "stem").kernel.trainable and inner_layer(copy, "stem").bias.trainable
    assert len(copy.trainable_variables) == len(model.trainable_variables) == 5
    model.trainable = False
    assert make(model).trainable_variables == []


@pytest.mark.parametrize("make", [REBUILDERS[name] for name in KEEP_SEQUENTIAL], ids=KEEP_SEQUENTIAL)
def test_a_block_that_was_frozen_and_then_opened_in_part_keeps_both_flags(make):
    model = net()
    model.get_layer("block").trainable = False
    model.get_layer("block").get_layer("free").trainable = True
    copy = make(model).get_layer("block")
    assert isinstance(copy, keras.Sequential) and not copy.trainable
    assert [layer.trainable for layer in copy.layers] == [False, True]


class Own(keras.Sequential):
    def train_step(self, data):
        return {"own": keras.ops.convert_to_tensor(1.0)}


@every_rebuilder
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_sequential_model_of_the_users_own_class_stays_one_or_its_loss_is_said(make, request):
    model = Own([keras.Input((4,)), L.Dense(6, activation="relu"), L.Dense(2)])
    model.compile("sgd", "mse")
    if request.node.callspec.id in KEEP_SEQUENTIAL:
        assert type(make(model)) is Own
    else:
        with pytest.warns(UserWarning, match="train_step of Own cannot be carried over"):
            make(model)


def test_new_operations_have_names_beside_those_of_a_loaded_model(tmp_path):
    """What an LSTM becomes adds as well, and Keras begins to count again in each process."""
    x = keras.Input((3, 4))
    a, b, c = (L.Dense(4)(x) for _ in range(3))
    model = keras.Model(x, L.Dense(2)(L.LSTM(3)(L.Add()([L.Add()([a, b, c]), c]))))
    model.save(tmp_path / "a.keras")
    keras.backend.clear_session()
    simple, _ = tfr.quantization.simplify(keras.models.load_model(tmp_path / "a.keras"))
    given = np.ones((2, 3, 4), "float32")
    np.testing.assert_allclose(simple(given), model(given), atol=1e-5)


def test_words_that_were_learned_come_along():
    words = L.TextVectorization(output_mode="multi_hot", max_tokens=6, name="words")
    words.adapt(["a b c a", "b d"])
    x = keras.Input((1,), dtype="string")
    model = keras.Model(x, L.Dense(2)(words(x)))
    given = keras.ops.convert_to_tensor([["a d"], ["c c"]])
    with pytest.warns(UserWarning, match="The stripped model was not compared with the given one: .*dtype='string'"):
        stripped = tfr.strip(model)
    for copy in (stripped, REBUILDERS["recast"](model)):
        assert copy.get_layer("words").get_vocabulary() == words.get_vocabulary()
        np.testing.assert_allclose(copy(given), model(given), rtol=1e-5)


class Scaled(L.Layer):
    """A layer without weights and without a config; it holds another, and a function of its own."""

    def __init__(self, factor, inner, name):
        super().__init__(name=name)
        self.factor, self.inner, self.function = factor, [inner], self.scaled

    def scaled(self, inputs):
        return self.factor * inputs

    def call(self, inputs):
        return self.function(self.inner[0](inputs))


class Counted(L.Layer):
    """A layer that no twin can be made of."""

    def __new__(cls, factor, **kwargs):
        made = super().__new__(cls)
        made.factor_doubled = 2 * factor
        return made

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)

    def call(self, inputs):
        return self.factor_doubled * inputs


def behind(layer):
    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(L.Dense(4, activation="silu")(layer(x))))


def binned():
    bins = L.Discretization(num_bins=3, output_mode="one_hot", name="first")
    bins.adapt(np.arange(20.0))
    return behind(lambda x: bins(x[:, :1]))


def normalized():
    norm = L.Normalization(name="first")
    norm.adapt(np.random.default_rng(0).normal(3.0, 2.0, (64, 5)))
    return behind(lambda x: L.Dropout(0.1)(norm(x)))


def in_a_row():
    first, double = L.Rescaling(0.5, name="first"), L.Lambda(lambda t: 2.0 * t)
    return keras.Sequential([keras.Input((5,)), first, L.Dense(4), L.BatchNormalization(), L.ReLU(), double, L.Dense(2)])


def called_twice():
    block = keras.Sequential([keras.Input((5,)), L.Dense(5, activation="silu"), L.Lambda(lambda t: t + 1.0)], name="block")
    x = keras.Input((5,))
    h = L.Lambda(lambda t: 3.0 * t, name="first")(x)
    return keras.Model(x, L.Dense(2)(L.Add()([block(h), block(L.Dense(5)(h))])))


def inside_and_outside():
    """A layer that a nested Sequential model and the model around it call."""
    shared, x = L.Dense(5, name="first"), keras.Input((5,))
    block = keras.Sequential([keras.Input((5,)), shared, L.ReLU()], name="block")
    return keras.Model(x, L.Dense(2)(block(shared(x))))


KEPT = np.arange(5, dtype="float32")
BELONGING = {
    "closure": lambda: behind(L.Lambda(lambda t: t * KEPT, name="first")),
    "own": lambda: behind(Scaled(3.0, L.Activation("relu"), name="first")),
    "bins": binned,
    "normalization": normalized,
    "sequential": in_a_row,
    "called twice": called_twice,
    "inside and outside": inside_and_outside,
}
MAKERS = {
    **REBUILDERS,
    "simplify": lambda model: tfr.quantization.simplify(model)[0],
    "prune_low_magnitude": tfr.tfmot.sparsity.keras.prune_low_magnitude,
    "cluster_weights": lambda model: tfr.tfmot.clustering.keras.cluster_weights(model, 4),
}


def check_calls(model):
    """Layers have no calls but those in the model, so that `layer.output` is a tensor of it."""
    graphs = graphs_of(model)
    inside = {id(node) for graph in graphs for level in graph._nodes_by_depth.values() for node in level}
    for operation in graphs[0].operations:
        assert all(id(node) in inside for node in operation._inbound_nodes), operation.name
    wrapped = [layer.layer for layer in model.layers if isinstance(layer, tfr.quantization.QuantizedKernel)]
    assert not any(layer._inbound_nodes for layer in wrapped)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("build", BELONGING.values(), ids=BELONGING)
def test_layers_of_a_copy_belong_to_it_alone(build, make):
    model = build()
    try:
        copy = make(model)
    except RecastError:
        return  # a lambda or layer without a config has no copy in another type
    check_calls(copy)
    assert not {id(layer) for layer in all_layers(model)} & {id(layer) for layer in all_layers(copy)}
    given = np.random.default_rng(1).normal(3.0, 2.0, (4, 5)).astype("float32")
    for layer in copy.layers:
        if len(layer._inbound_nodes) == 1:
            keras.Model(copy.inputs[0], layer.output)
    if make not in (MAKERS["cluster_weights"], MAKERS["quantize"]):
        np.testing.assert_allclose(copy(given), model(given), atol=1e-4)


def test_a_model_can_be_cut_behind_its_words(tmp_path):
    words = L.TextVectorization(output_mode="tf_idf", max_tokens=6, name="words")
    words.adapt(["a b c a", "b d"])
    x = keras.Input((), dtype="string")
    model = keras.Model(x, L.Dense(2)(L.Dense(4, activation="relu")(words(x))))
    given = ops.convert_to_tensor(["a d", "c c"])
    small = tfr.shrink(model, inputs=given)
    np.testing.assert_allclose(small(given), model(given), rtol=1e-5)
    behind_words = keras.Model(small.get_layer("words").output, small.output)
    np.testing.assert_allclose(behind_words(words(given)), model(given), rtol=1e-5)
    words.adapt(["w x y z"])
    np.testing.assert_allclose(small(given), behind_words(small.get_layer("words")(given)), rtol=1e-5)
    assert small.get_layer("words").get_vocabulary() != words.get_vocabulary()
    small.save(tmp_path / "a.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "a.keras")(given), small(given), rtol=1e-5)


def test_twins_keep_what_was_set_on_the_layer_and_layers_without_a_twin_are_used_as_they_are():
    layer = Scaled(3.0, L.Activation("relu"), name="first")
    layer.trainable, layer.supports_masking = False, True
    model = behind(layer)
    layer.factor = 5.0
    copy = tfr.strip(model).get_layer("first")
    assert (copy.trainable, copy.supports_masking, copy.built, copy.factor) == (False, True, True, 5.0)
    copy.factor = 0.0
    np.testing.assert_array_equal(copy(np.ones((1, 5))), 0.0)
    np.testing.assert_array_equal(layer(np.ones((1, 5))), 5.0)
    assert len(copy._layers) == 1 and copy._layers[0] is copy.inner[0] is not layer.inner[0]
    counted = behind(Counted(3.0, name="first"))
    given = np.ones((2, 5), "float32")
    np.testing.assert_allclose(tfr.shrink(counted)(given), counted(given), rtol=1e-5)


def test_statistics_of_normalization_are_ready():
    norm = L.Normalization(name="norm")
    norm.adapt(np.random.default_rng(0).normal(3.0, 2.0, (64, 4)))
    model = keras.Sequential([keras.Input((4,)), norm, L.Dense(3)])
    given = np.random.default_rng(1).normal(3.0, 2.0, (4, 4)).astype("float32")
    for make in (tfr.shrink, tfr.strip, REBUILDERS["recast"]):
        np.testing.assert_allclose(make(model)(given), model(given), rtol=1e-5, atol=1e-6)


def test_a_bias_that_a_layer_did_not_have_starts_at_zero():
    """A normalization folded into it, or a separable convolution in two, gives a layer a bias of its own."""
    x = keras.Input((6, 6, 3))
    model = keras.Model(x, L.SeparableConv2D(4, 3, use_bias=False)(L.Conv2D(3, 3, use_bias=False, bias_initializer="ones")(x)))
    given = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    copy, _ = tfr.quantization.simplification.simplify(model)
    np.testing.assert_allclose(copy(given), model(given), atol=1e-5)


class Block(L.Layer):
    """A layer that makes its own inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = L.Dense(4, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, inputs):
        return self.inner(inputs)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.top = L.Dense(4, name="top")

    def call(self, inputs):
        return self.top(inputs)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


def with_own_layer():
    x = keras.Input((4,))
    return keras.Model(x, L.Dense(3, name="plain")(Block(name="block")(x)))


PUT = {
    "reweighted": lambda model: tfr.regularize(model, "unstructured", strength=1e-3),
    "admm": lambda model: tfr.baselines.ADMM("unstructured", 0.5).attach(model),
    "levels": lambda model: tfr.quantization.regularize_levels(model, 4),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("put", PUT.values(), ids=PUT)
@pytest.mark.parametrize("make, lost", [(subclassed, "top/kernel"), (with_own_layer, "block/inner/kernel")])
def test_penalties_that_will_not_come_back_are_warned_of(make, lost, put, tmp_path):
    """Keras makes a class of the user's own again by its `__init__`, which knows nothing of penalties."""
    model = make()
    with pytest.warns(UserWarning, match=f"penalties on {lost} act now, but"):
        put(model)
    names = {item.target.name for item in attachments(model)}
    assert lost in names
    model.save(tmp_path / "model.keras")
    with keras.saving.custom_object_scope({"Block": Block, "Subclassed": Subclassed}):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {item.target.name for item in attachments(loaded)} == names - {lost}


def two_scales(factor=1.0):
    """Scores between 0 and 1 beside boxes in pixels; the scores are `factor` times what they were."""
    x = keras.Input((4,))
    scores = L.Rescaling(factor, name="scores")(L.Activation("sigmoid")(x))
    return keras.Model(x, {"boxes": L.Rescaling(1000.0, name="boxes")(x), "scores": scores})


def test_models_are_compared_output_by_output_each_in_its_own_scale():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    result = compare(two_scales(), two_scales(0.98), [x])
    assert result.relative == pytest.approx(0.02, rel=1e-3) and result.scale <= 1
    assert compare(two_scales(), two_scales(), [x]).relative == 0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_in_one_output_is_never_close(wrong):
    x = np.ones((2, 4), "float32")
    for first, second in ((two_scales(), two_scales(wrong)), (two_scales(wrong), two_scales())):
        assert compare(first, second, [x]).relative == float("inf")
