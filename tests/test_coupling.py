"""coupling: which channels go together, what is frozen and why, and pruning them as one."""

import pickle

import keras
import nets
import numpy as np
import pytest
from keras import ops

from tf_reweight import coupling, shrinking
from tf_reweight.coupling import scores
from tf_reweight.coupling.analysis import rules_channelwise, table
from tf_reweight.coupling.analysis.labels import Labels, aligned

L = keras.layers


def sets_of(model):
    return {item.name: item for item in coupling.groups(model).sets}


# Labels.


def test_labels_against_a_plain_loop():
    rng = np.random.default_rng(0)
    labels, reference = Labels(), {i: {i} for i in range(30)}
    labels.fresh(30)
    for a, b in rng.integers(0, 30, (15, 2)):
        labels.tie(np.array([a]), np.array([b]))
        joined = reference[a] | reference[b]
        for member in joined:
            reference[member] = joined
    roots = labels.roots(np.arange(30))
    for i in range(30):
        assert {j for j in range(30) if roots[j] == roots[i]} == reference[i]


def test_frozen_reasons_follow_the_ties():
    labels = Labels()
    a, b = labels.fresh(3), labels.fresh(3)
    labels.freeze(a[:1], "first")
    labels.tie(a, b)
    labels.freeze(b[:1], "second")
    root = int(labels.roots(b)[0])
    assert labels.frozen() == {root: ["first", "second"]}


def test_alignment_leaves_one_varying_axis():
    labels = Labels()
    array = labels.fresh(6).reshape(2, 3)
    signal = aligned(labels, array, (2, 3))
    assert signal.varying_axis == 1 and signal.labels.shape == (1, 3)
    assert len(np.unique(labels.roots(array))) == 3
    other = aligned(labels, labels.fresh(6).reshape(2, 3), (2, 3), keep=0)
    assert other.varying_axis == 0
    # Where one alone varies there is nothing to choose from, and nothing is tied.
    single = labels.fresh(3)
    assert aligned(labels, np.stack([single, single]), (2, 3), keep=0).varying_axis == 1
    assert len(np.unique(labels.roots(single))) == 3


# What goes together.


def test_every_class_of_the_laws_over_all_nets():
    for build in nets.NETS:
        coupled = coupling.groups(build())
        assert coupled.sets, build.__name__
        for item in coupled.sets:
            for part in item.slices:
                assert part.group_of.shape == (part.variable.shape[part.axis],)
                # Every group of a set has its slice in every variable of it.
                assert set(range(item.num_groups)) <= set(part.group_of.tolist()), (build.__name__, part.name)
        # No two sets share an index of a variable's axis.
        taken = {}
        for item in coupled.sets:
            for part in item.slices:
                flags = taken.setdefault((id(part.variable), part.axis), np.zeros(len(part.group_of), int))
                flags += part.group_of >= 0
        assert all(flags.max() <= 1 for flags in taken.values())


def test_residual_adds_tie_and_the_inside_is_free():
    sets = sets_of(nets.residual())
    assert set(sets) == {"stem + back + more", "inner"}
    assert sets["stem + back + more"].num_groups == 8
    roles = {(s.name.split("/")[-1], s.role) for s in sets["inner"].slices}
    assert {("kernel", "out"), ("kernel", "read"), ("gamma", "scale"), ("moving_mean", "state")} <= roles


def test_squeeze_excite_ties_through_the_product():
    sets = sets_of(nets.squeeze_excite())
    assert set(sets) == {"expand + excite", "squeeze", "project"}
    assert sets["expand + excite"].paths("read") == ["squeeze", "project"]


def test_concatenation_keeps_its_parts_apart():
    sets = sets_of(nets.dense_block())
    assert {name: item.num_groups for name, item in sets.items()} == {"first": 6, "grow_0": 4, "grow_1": 4}
    read = next(s for s in sets["grow_0"].slices if s.name == "grow_1/kernel" and s.role == "read")
    np.testing.assert_array_equal(read.group_of, [-1] * 6 + [0, 1, 2, 3])


def test_flatten_spreads_a_channel_over_all_positions():
    sets = sets_of(nets.plain())
    convolution = next(item for item in sets.values() if item.num_groups == 6)
    read = next(s for s in convolution.slices if s.role == "read")
    np.testing.assert_array_equal(read.group_of, np.tile(np.arange(6), 4))


def test_grouped_convolutions_lose_whole_groups():
    before = sets_of(nets.grouped())["before"]
    assert before.num_groups == 6 and before.channels_per_group == 2
    kernel = next(s for s in before.slices if s.name == "grouped/kernel")
    np.testing.assert_array_equal(kernel.group_of, np.repeat(np.arange(6), 4))


def test_no_kernel_goes_unmentioned():
    """Grouped and depthwise convolutions on inputs of the model can lose nothing, and are named with that reason."""
    x, w = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
    y = L.Conv2D(8, 1, groups=2, name="read_below")(L.Conv2D(8, 3, groups=2, name="grouped")(x))
    z = L.Conv2D(6, 1, name="mixed")(L.DepthwiseConv2D(3, name="depthwise")(w))
    model = keras.Model([x, w], L.Dense(2, name="top")(L.GlobalAveragePooling2D()(L.Concatenate()([y, z]))))
    found = coupling.groups(model)
    held = {item.name: (item.num_channels, item.reasons) for item in found.frozen}
    assert held == {
        "grouped + read_below": (8, ("input of the model",)),
        "depthwise": (4, ("input of the model",)),
        "top": (2, ("output of the model",)),
    }
    assert [item.name for item in found.sets] == ["mixed"]


def test_group_normalization_keeps_its_groups_whole():
    assert sets_of(nets.grouped())["after"].num_groups == 4


def test_heads_go_with_their_four_kernels():
    item = sets_of(nets.attention())["heads/value + heads/key + heads/query"]
    assert item.num_groups == 4 and item.channels_per_group == 5
    assert sum(s.role == "out" for s in item.slices) == 3 and item.paths("read") == ["heads/attention_output"]
    # 4 kernels of 12 x 4 x 5, 3 biases of 4 x 5.
    assert item.weights_per_group == (4 * 12 * 5) + 3 * 5


def test_attention_with_outputs_of_its_own_loses_heads_and_outputs():
    """`output_shape` names a size that is not the query's: the outputs are channels of their own, and several axes stay."""
    x = keras.Input((5, 6))
    h = L.MultiHeadAttention(2, 3, output_shape=8, name="heads")(x, x)
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Flatten()(h))))
    found = {item.name: item.num_groups for item in coupling.groups(model).sets}
    assert found == {"heads/value + heads/key + heads/query": 2, "heads/attention_output": 8}
    coupling.prune_groups(model, 0.5, scope="set")
    small = shrinking.shrink(model)
    heads = small.get_layer("heads").get_config()
    assert (heads["num_heads"], tuple(heads["output_shape"])) == (1, (4,))
    given = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    np.testing.assert_allclose(small(given), model(given), atol=1e-5)
    wide = L.MultiHeadAttention(2, 3, output_shape=(4, 2), name="wide")(x, x)
    coupled = coupling.groups(keras.Model(x, L.Dense(2)(L.Dense(4, name="other")(L.Flatten()(wide)))))
    assert {item.name: item.num_groups for item in coupled.sets} == {"wide/value + wide/key + wide/query": 2, "other": 4}


def test_query_heads_go_with_the_key_value_head_they_share():
    item = sets_of(nets.grouped_query())["heads/value + heads/key + heads/query"]
    query = next(s for s in item.slices if s.name == "heads/query/kernel")
    np.testing.assert_array_equal(query.group_of, np.repeat(np.arange(4), 2))


def test_a_recurrent_unit_goes_with_all_its_gates():
    item = sets_of(nets.lstm())["first/lstm_cell"]
    kernel = next(s for s in item.slices if s.name == "first/lstm_cell/kernel" and s.role == "out")
    np.testing.assert_array_equal(kernel.group_of, np.tile(np.arange(8), 4))
    # (6 + 8) x 4 columns, a row of 32 in the recurrent kernel less the 4 counted, 4 biases, and 2 rows of 20 that read.
    assert item.weights_per_group == 14 * 4 + 28 + 4 + 2 * 20


def test_shared_layers_tie_both_calls():
    sets = sets_of(nets.nested_shared())
    assert "stem + block/inside" in sets and sets["tail/tail_conv"].num_groups == 5


def test_split_pieces_are_sets_of_their_own():
    x = keras.Input((4, 4, 3))
    a, b = ops.split(L.Conv2D(6, 1, name="conv")(x), [2], axis=-1)
    model = keras.Model(x, L.Dense(2)(L.Flatten()(ops.concatenate([b, a], axis=-1))))
    assert sorted(item.num_groups for item in coupling.groups(model).sets) == [2, 4]


def test_channels_first_is_followed():
    x = keras.Input((3, 8, 8))
    h = L.Conv2D(6, 3, data_format="channels_first", name="conv")(x)
    h = L.BatchNormalization(axis=1)(h)
    h = L.GlobalAveragePooling2D(data_format="channels_first")(L.MaxPooling2D(data_format="channels_first")(h))
    item = sets_of(keras.Model(x, L.Dense(2)(h)))["conv"]
    assert item.num_groups == 6 and len(item.slices) == 7


def test_channel_shuffle_ties_along_the_groups():
    x = keras.Input((4, 4, 3))
    h = L.Conv2D(6, 1, name="conv")(x)
    h = L.Reshape((4, 4, 6))(L.Permute((1, 2, 4, 3))(L.Reshape((4, 4, 2, 3))(h)))
    item = sets_of(keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(h))))["conv"]
    assert item.num_groups == 3 and item.channels_per_group == 2


# What is frozen.


def _custom(x):
    class Own(L.Layer):
        def call(self, inputs):
            return inputs * 2

    return Own(name="own")(x)


class _OwnDense(L.Dense):
    """A subclass may compute something else: it is not taken for its parent."""


FROZEN = {
    "lambda": (lambda x: L.Lambda(lambda t: t)(x), "Lambda"),
    "custom": (_custom, "Own"),
    "subclass": (lambda x: _OwnDense(5)(x), "_OwnDense"),
    "layer normalization": (L.LayerNormalization(), "statistics over the channels"),
    "RMS normalization": (L.RMSNormalization(), "statistics over the channels"),
    "softmax": (L.Softmax(), "softmax mixes"),
    "softmax activation": (L.Activation("softmax"), "mixes channels"),
    "mean over channels": (lambda x: ops.mean(x, axis=-1, keepdims=True), "reduces over the channels"),
    "slice of channels": (lambda x: x[..., :3], "slices the channels"),
    "constants per channel": (lambda x: x * np.arange(6.0), "array of constants"),
    "dot": (lambda x: L.Dot(axes=-1)([x, x]), "Dot"),
    "permuted": (lambda x: L.Dense(4)(L.Permute((2, 1))(x)), "another axis"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_unknown_things_freeze_with_a_reason_and_the_rest_goes_on(name):
    apply, reason = FROZEN[name]
    x = keras.Input((5, 3))
    h = apply(L.Dense(6, name="frozen")(L.Dense(7, name="free")(x)))
    coupled = coupling.groups(keras.Model(x, L.Dense(2, name="last")(L.Flatten()(h))))
    assert coupled.find("free")[0].num_groups == 7
    assert not coupled.find("frozen")
    held = next(item for item in coupled.frozen if item.name == "frozen")
    assert held.num_channels == 6 and any(reason in text for text in held.reasons)
    assert "frozen: 6 channels" in str(coupled)


class Own(L.Layer):
    """A layer of a user's with layers inside."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = L.Dense(5)

    def call(self, inputs):
        return self.inner(inputs)


@pytest.mark.parametrize(
    "build, reason",
    [
        (lambda: Own(name="inside"), "what Own does to channels is unknown"),
        (lambda: L.TimeDistributed(keras.Sequential([L.Dense(7), L.Dense(5)]), name="inside"), "a model in TimeDistributed"),
        (lambda: L.RNN(L.StackedRNNCells([L.LSTMCell(5), L.LSTMCell(5)]), True, name="inside"), "what RNN does"),
    ],
)
def test_layers_with_kernels_that_no_rule_follows_are_named(build, reason):
    """They may hold most of a model, and nothing else of the result says that they keep all their channels."""
    x = keras.Input((4, 6))
    coupled = coupling.groups(keras.Model(x, L.Dense(2, name="top")(build()(x))))
    held = {item.name: item for item in coupled.frozen}
    assert set(held) == {"inside", "top"} and held["inside"].num_channels == 5 and reason in held["inside"].reasons[0]


def test_softmax_inside_a_layer_and_outputs_are_frozen():
    x = keras.Input((4,))
    gate = L.Dense(5, activation="softmax", name="gate")(x)
    coupled = coupling.groups(keras.Model(x, L.Dense(2, name="last")(gate)))
    assert not coupled.sets
    assert {item.name: item.reasons[0] for item in coupled.frozen}["last"] == "output of the model"


def test_constants_of_a_rescaling_go_with_their_channels():
    x = keras.Input((4, 4, 3))
    h = L.Rescaling([1.0, 2.0, 3.0, 4.0], [0.5, 0.0, -0.5, 1.0], name="scaled")(L.Conv2D(4, 1, name="conv")(x))
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.GlobalMaxPooling2D()(L.ReLU()(h)))))
    assert sets_of(model)["conv"].num_groups == 4
    coupling.prune_groups(model, 0.5)
    keep = np.abs(ops.convert_to_numpy(model.get_layer("conv").kernel)).sum(axis=(0, 1, 2)) > 0
    small = shrinking.shrink(model)
    assert small.get_layer("scaled").scale == np.array([1.0, 2.0, 3.0, 4.0])[keep].tolist()
    image = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    np.testing.assert_allclose(model(image), small(image), atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_channels_joined_in_time_with_the_inputs_stay(first):
    x = keras.Input((5, 6))
    h = L.Dense(6, name="tied")(x)
    h = L.Concatenate(axis=1)([x, h] if first else [h, x])
    model = keras.Model(x, L.Dense(2)(L.Dense(4, name="free")(L.GlobalAveragePooling1D()(h))))
    coupled = coupling.groups(model)
    assert [item.name for item in coupled.sets] == ["free"]
    assert any("input of the model" in reason for item in coupled.frozen if item.name == "tied" for reason in item.reasons)


def test_one_channel_spread_over_many_stays():
    x = keras.Input((4, 4, 3))
    h = L.Conv2D(6, 1, name="conv")(x) * L.Conv2D(1, 1, name="map")(x)
    coupled = coupling.groups(keras.Model(x, L.Dense(2)(L.Flatten()(h))))
    assert [item.name for item in coupled.sets] == ["conv"]
    assert "spread over many" in next(item for item in coupled.frozen if item.name == "map").reasons[0]


def test_register_teaches_a_layer():
    class Twice(L.Layer):
        def call(self, inputs):
            return inputs * 2

    def build():
        x = keras.Input((4,))
        return keras.Model(x, L.Dense(2)(Twice()(L.Dense(6, name="hidden")(x))))

    assert not coupling.groups(build()).sets
    coupling.register(Twice, rules_channelwise.passing)
    try:
        assert coupling.groups(build()).sets[0].num_groups == 6
    finally:
        del table._RULES[Twice]
    with pytest.raises(TypeError, match="layer_type"):
        coupling.register("Dense", rules_channelwise.passing)


def test_refusals():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    model(np.zeros((1, 4)))
    with pytest.raises(TypeError, match="must have a graph"):
        coupling.groups(model)
    with pytest.raises(ValueError, match="must be built"):
        coupling.groups(keras.Sequential([L.Dense(3)]))
    with pytest.raises(TypeError, match="Keras 3 model"):
        coupling.groups("model.keras")
    alone = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    with pytest.raises(ValueError, match="channels that can be removed.*output of the model"):
        coupling.prune_groups(alone, 0.5)


BAD = [{"sparsity": 1.0}, {"sparsity": 50}, {"scope": "layer"}, {"criterion": "gama"}, {"minimum": -1}, {"multiple_of": 0}]


@pytest.mark.parametrize("bad", BAD)
def test_bad_arguments_leave_the_model_alone(bad):
    model = nets.randomize(nets.plain())
    before = [w.copy() for w in model.get_weights()]
    with pytest.raises(ValueError):
        coupling.prune_groups(model, **{"sparsity": 0.5, **bad})
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


# What a report says, and what a rule refuses.


def test_held_channels_are_counted_and_long_lists_are_cut():
    model = nets.grouped()
    model.get_layer("before").trainable = False
    held = coupling.groups(model).without_frozen_layers().frozen[-1]
    assert (held.name, held.num_channels) == ("before", 12)
    x = keras.Input((4,))
    y = L.Dense(3, name="made")(x)
    wide = keras.Model(x, [L.Dense(1, name=f"reader{number}")(y) for number in range(8)])
    (line,) = [line for line in str(coupling.groups(wide)).splitlines() if "read by" in line]
    assert line.count("reader") == 6 and line.endswith(" and 2 more")
    short = keras.Model(x, [L.Dense(1, name=f"reader{number}")(y) for number in range(6)])
    (line,) = [line for line in str(coupling.groups(short)).splitlines() if "read by" in line]
    assert line.count("reader") == 6 and "more" not in line


def test_what_moves_the_examples_around_freezes():
    x = keras.Input((4, 6))
    y = L.Dense(6, name="made")(x)
    moved = keras.Model(x, L.Dense(2)(ops.transpose(y, (1, 0, 2))))
    reasons = {item.name: item.reasons for item in coupling.groups(moved).frozen}
    assert any("moves the batch axis" in reason for reason in reasons["made"])
    kept = keras.Model(x, L.Dense(2)(ops.transpose(y, (0, 2, 1))))
    assert [item.name for item in coupling.groups(kept).sets] == []  # read one by one, by position
    # A bias for each position as well is more than a matrix over the last axis.
    for axes, found in (("c", ["made"]), ("bc", [])):
        inner = L.EinsumDense("abc,cd->abd", (4, 5), bias_axes=axes.replace("c", "d"), name="made")
        model = keras.Model(x, L.Dense(2)(L.ReLU()(inner(x))))
        assert [item.name for item in coupling.groups(model).sets] == found


def test_scores_by_what_a_group_frees():
    """LAMP over the root of the price, the loss's reaction over the price."""
    found = coupling.groups(nets.plain()).sets
    prices = [np.arange(1.0, item.num_groups + 1) ** 2 for item in found]
    plain = scores.ranking(found, "lamp")
    for one, other, price in zip(plain, scores.ranking(found, "lamp", prices), prices):
        np.testing.assert_allclose(other, one / np.sqrt(price), rtol=1e-12)
        assert len(np.unique(price)) > 1
    reactions = [np.full(item.num_groups, 3.0) for item in found]
    for other, price in zip(scores.ranking(found, "taylor", prices, reactions), prices):
        np.testing.assert_allclose(other, 3.0 / price)
    for other in scores.ranking(found, "taylor", None, reactions):
        np.testing.assert_allclose(other, 3.0)


# Each rule by its axes, pruned and shrunk: what is followed, how many groups there are, and what is frozen and why.


def follow(model, expected, reason=None, made="made"):
    """Asserts how many groups the layer `made` has, or why it has none, and that the shrunk model computes the same."""
    coupled = coupling.groups(model)
    found = [item.num_groups for item in coupled.sets if made in item.name.replace("/", " ").split(" ")]
    assert found == ([] if expected is None else [expected])
    if expected is None:
        (held,) = [item for item in coupled.frozen if made in item.name.replace("/", " ").split(" ")]
        assert any(reason in said for said in held.reasons), held.reasons
    nets.randomize(model)
    report = coupling.prune_groups(model, 0.5, scope="set")
    small, shrunk = shrinking.shrink(model, return_report=True)
    assert [item.kept_groups for item in shrunk.sets] == [item.kept_groups for item in report.sets]
    if expected is not None:
        sizes = [keras.tree.flatten(net.get_layer(made).output)[0].shape[-1] for net in (model, small)]
        kept = expected - int(0.5 * expected)
        assert sizes[1] * expected == sizes[0] * kept
    rng = np.random.default_rng(3)
    given = [rng.normal(size=(2, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]
    given = given if len(given) > 1 else given[0]
    for one, other in zip(keras.tree.flatten(model(given)), keras.tree.flatten(small(given)), strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(one, other, atol=1e-5 * float(np.abs(one).max()))
    return small


MIXED = {
    "norm": "statistics over the channels", "softmax": "softmax mixes", "axis": "along another axis", "batch": "the batch",
}  # fmt: skip
ALONG = {
    "batch normalization": (lambda h: L.BatchNormalization()(h), 6, None),
    "batch normalization, counted from the front": (lambda h: L.BatchNormalization(axis=2)(h), 6, None),
    "batch normalization of nothing": (lambda h: L.BatchNormalization(scale=False, center=False)(h), 6, None),
    "batch normalization of places": (lambda h: L.BatchNormalization(axis=1)(h), None, MIXED["axis"]),
    "layer normalization over places": (lambda h: L.LayerNormalization(axis=1)(h), 6, None),
    "layer normalization over places, from the end": (lambda h: L.LayerNormalization(axis=-2)(h), 6, None),
    "layer normalization": (lambda h: L.LayerNormalization(axis=2)(h), None, MIXED["norm"]),
    "layer normalization over both": (lambda h: L.LayerNormalization(axis=[1, 2])(h), None, MIXED["norm"]),
    "unit normalization over places": (lambda h: L.UnitNormalization(axis=1)(h), 6, None),
    "unit normalization": (lambda h: L.UnitNormalization()(h), None, MIXED["norm"]),
    "groups of two": (lambda h: L.GroupNormalization(groups=3)(h), 3, None),
    "groups of three, from the front": (lambda h: L.GroupNormalization(groups=2, axis=2)(h), 2, None),
    "groups of one": (lambda h: L.GroupNormalization(groups=-1)(h), 6, None),
    "groups of one without numbers": (lambda h: L.GroupNormalization(groups=6, scale=False, center=False)(h), 6, None),
    "groups, turned": (lambda h: L.GroupNormalization(groups=3, axis=1)(L.Permute((2, 1))(h)), 3, None),
    "one group": (lambda h: L.GroupNormalization(groups=1)(h), None, "all of its channels go together"),
    "softmax over places": (lambda h: L.Softmax(axis=1)(h), 6, None),
    "softmax over places, from the end": (lambda h: L.Softmax(axis=-2)(h), 6, None),
    "softmax": (lambda h: L.Softmax(axis=2)(h), None, MIXED["softmax"]),
    "softmax over both": (lambda h: L.Softmax(axis=(1, 2))(h), None, MIXED["softmax"]),
    "slopes for all": (lambda h: L.PReLU()(h), 6, None),
    "slopes for channels": (lambda h: L.PReLU(shared_axes=[1])(h), 6, None),
    "slopes for places": (lambda h: L.PReLU(shared_axes=[2])(h), 6, None),
    "one slope": (lambda h: L.PReLU(shared_axes=[1, 2])(h), 6, None),
    "an activation": (lambda h: L.Activation("tanh")(h), 6, None),
    "a layer as activation": (lambda h: L.Activation(L.LeakyReLU(0.2))(h), 6, None),
    "an activation that mixes": (lambda h: L.Activation("log_softmax")(h), None, "mixes channels"),
    "rescaled alike": (lambda h: L.Rescaling(2.0, 0.5)(h), 6, None),
    "rescaled each": (lambda h: L.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.5)(h), 6, None),
    "rescaled by a list of one": (lambda h: L.Rescaling([2.0])(h), 6, None),
    "rescaled by place": (lambda h: L.Rescaling([[1.0], [2.0], [3.0], [4.0]])(h), None, "along other axes than the last"),
    "pooled": (lambda h: L.AveragePooling1D(2)(h), 6, None),
    "padded": (lambda h: L.ZeroPadding1D(2)(h), 6, None),
    "pooled along the channels": (
        lambda h: L.MaxPooling1D(2, data_format="channels_first")(h), None, "works along the channels' axis"),
    "mean of places": (lambda h: L.GlobalAveragePooling1D()(h), 6, None),
    "mean of places, axis kept": (lambda h: L.GlobalMaxPooling1D(keepdims=True)(h), 6, None),
    "mean of channels": (
        lambda h: L.GlobalAveragePooling1D(data_format="channels_first")(h), None, "reduces over the channels"),
    "repeated": (lambda h: L.RepeatVector(3)(L.GlobalAveragePooling1D()(h)), 6, None),
    "turned and normalized": (lambda h: L.BatchNormalization(axis=1)(L.Permute((2, 1))(h)), 6, None),
    "turned and pooled": (lambda h: L.GlobalAveragePooling1D(data_format="channels_first")(L.Permute((2, 1))(h)), 6, None),
    "turned twice": (lambda h: ops.transpose(ops.transpose(h, (0, -1, 1)), (0, 2, -2)), 6, None),
    "turned and read": (lambda h: L.Dense(3)(ops.transpose(h, (0, 2, 1))), None, MIXED["axis"]),
    "all axes turned": (lambda h: ops.transpose(ops.transpose(h)), None, MIXED["batch"]),
    "flat": (lambda h: L.Flatten()(h), 6, None),
    "flat from channels first": (lambda h: L.Flatten(data_format="channels_first")(h), 6, None),
    "reshaped and back": (lambda h: L.Reshape((4, 6))(L.Reshape((2, 2, 6))(h)), 6, None),
    "reshaped, sizes not named": (lambda h: ops.reshape(ops.reshape(h, (-1, 2, 2, 6)), (-1, 4, 6)), 6, None),
    "halves of channels": (lambda h: L.Reshape((4, 2, 3))(h), 3, None),
    "channels among places": (lambda h: L.Dense(3)(L.Reshape((3, 8))(h)), 2, None),
    "joined in time": (lambda h: L.Concatenate(axis=1)([h, ops.tanh(h)]), 6, None),
    "joined in time, from the end": (lambda h: ops.concatenate([h, ops.tanh(h), h], axis=-2), 6, None),
    "joined": (lambda h: L.Concatenate(axis=2)([h, ops.tanh(h)]), 6, None),
    "joined, from the end": (lambda h: ops.concatenate([ops.relu(h), h], axis=-1), 6, None),
    "joined with numbers": (lambda h: ops.concatenate([h, np.ones((2, 4, 1), "float32")], axis=-1), None, "with constants"),
    "split in time": (lambda h: L.Add()(ops.split(h, 2, axis=1)), 6, None),
    "split in time, from the end": (lambda h: ops.concatenate(ops.split(h, [1, 2], axis=-2)[::2], axis=1), 6, None),
    "split and added": (lambda h: L.Add()(ops.split(h, 2, axis=2)), 3, None),
    "axis put first": (lambda h: ops.squeeze(ops.expand_dims(h, 1), 1), 6, None),
    "axis put last": (lambda h: ops.squeeze(ops.expand_dims(h, -1), -1), 6, None),
    "axes put between": (lambda h: ops.squeeze(ops.expand_dims(h, (1, -2)), (1, 3)), 6, None),
    "axes of one taken": (lambda h: ops.squeeze(ops.expand_dims(h, (2, 4))), 6, None),
    "axis put before the batch": (lambda h: ops.squeeze(ops.expand_dims(h, 0), 0), None, MIXED["batch"]),
    "mean": (lambda h: ops.mean(h, axis=1), 6, None),
    "sum from the end, axis kept": (lambda h: ops.sum(h, axis=-2, keepdims=True), 6, None),
    "largest channel": (lambda h: ops.max(h, axis=2), None, "reduces over the channels"),
    "smallest channel": (lambda h: ops.min(h, axis=-1, keepdims=True), None, "reduces over the channels"),
    "mean of both": (lambda h: ops.mean(h, axis=(1, 2), keepdims=True), None, "reduces over the channels"),
    "mean of the examples": (lambda h: h - ops.mean(h, axis=0, keepdims=True), None, "reduces over the batch"),
    "places": (lambda h: h[:, 1:3], 6, None),
    "every second place": (lambda h: h[:, ::2, :], 6, None),
    "the first place": (lambda h: h[:, 0], 6, None),
    "the last place, an axis more": (lambda h: h[:, None, -1], 6, None),
    "all examples": (lambda h: h[:, :], 6, None),
    "places before an ellipsis": (lambda h: h[:, 1:, ...], 6, None),
    "an axis before the channels": (lambda h: h[..., None, :], 6, None),
    "an axis after the channels": (lambda h: ops.squeeze(h[..., None], 3), 6, None),
    "some channels": (lambda h: h[:, :, :4], None, "slices the channels"),
    "one channel": (lambda h: h[..., 0], None, "slices the channels"),
    "times a number": (lambda h: 1.0 + h * 2.0, 6, None),
    "times numbers": (lambda h: h * np.arange(1.0, 7.0, dtype="float32"), None, "an array of constants"),
    "times one number in an array": (lambda h: h * np.full((1, 1), 2.0, "float32"), 6, None),
    "spread over places": (lambda h: L.Multiply()([h, ops.mean(h, axis=1, keepdims=True)]), 6, None),
    "added to channels along places": (
        lambda h: h + L.Permute((2, 1))(L.Dense(4)(L.RepeatVector(6)(L.GlobalAveragePooling1D()(h)))), None, "different axes"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONG)
def test_each_axis_is_followed_or_frozen_with_its_reason(name):
    apply, expected, reason = ALONG[name]
    x = keras.Input((4, 5))
    h = apply(L.Dense(6, activation="tanh", name="made")(L.Dense(4, activation="tanh")(x)))
    h = L.Dense(4, activation="tanh", name="after")(L.Flatten()(h))
    follow(keras.Model(x, L.Dense(2, name="top")(h)), expected, reason)


# Kernels: the layer that makes channels, the one in the middle, and what of it is followed.

IMAGE, LINE = (6, 6, 4), (9, 4)
KERNELS = {
    "dense": (LINE, lambda h: L.Dense(5, use_bias=False)(h), 8, None),
    "dense that mixes": (LINE, lambda h: L.Dense(5, activation="softmax")(h), 8, None),
    "one dimension": (LINE, lambda h: L.Conv1D(5, 3, padding="causal", dilation_rate=2, use_bias=False)(h), 8, None),
    "two dimensions": (IMAGE, lambda h: L.Conv2D(5, (3, 2), strides=2, padding="same")(h), 8, None),
    "three dimensions": ((4, 4, 4, 2), lambda h: L.Conv3D(5, 2)(h), 8, None),
    "groups": (LINE, lambda h: L.Conv1D(12, 3, groups=4)(h), 4, None),
    "groups without bias": (IMAGE, lambda h: L.Conv2D(8, 3, groups=2, use_bias=False)(h), 2, None),
    "transposed, one dimension": (LINE, lambda h: L.Conv1DTranspose(5, 3, strides=2)(h), 8, None),
    "transposed": (IMAGE, lambda h: L.Conv2DTranspose(5, (2, 3), strides=2, padding="same", use_bias=False)(h), 8, None),
    "transposed, three dimensions": ((3, 3, 3, 2), lambda h: L.Conv3DTranspose(5, 2)(h), 8, None),
    "depthwise, one dimension": (LINE, lambda h: L.DepthwiseConv1D(3, depth_multiplier=2)(h), 8, None),
    "depthwise": (IMAGE, lambda h: L.DepthwiseConv2D(3, depth_multiplier=3, use_bias=False)(h), 8, None),
    "depthwise that mixes": (IMAGE, lambda h: L.DepthwiseConv2D(3, activation="softmax")(h), None, "mixes channels"),
    "separable, one dimension": (LINE, lambda h: L.SeparableConv1D(5, 3, depth_multiplier=2)(h), 8, None),
    "separable": (IMAGE, lambda h: L.SeparableConv2D(5, 3, use_bias=False)(h), 8, None),
    "einsum": (LINE, lambda h: L.EinsumDense("abc,cd->abd", (9, 5), bias_axes="d")(h), 8, None),
    "einsum without bias": (LINE, lambda h: L.EinsumDense("...c,cd->...d", 5)(h), 8, None),
    "einsum over one axis": (LINE, lambda h: L.EinsumDense("ac,cd->ad", 5, bias_axes="d")(L.GlobalMaxPooling1D()(h)), 8, None),
    "einsum over places": (LINE, lambda h: L.EinsumDense("abc,bd->adc", (5, 8))(h), None, "more than a matrix"),
    "einsum of three axes": (LINE, lambda h: L.EinsumDense("abc,cde->abde", (9, 5, 2))(h), None, "more than a matrix"),
    "einsum that turns": (LINE, lambda h: L.EinsumDense("abc,cd->adb", (5, 9))(h), None, "more than a matrix"),
    "einsum, outputs first": (LINE, lambda h: L.EinsumDense("abc,dc->abd", (9, 5))(h), None, "more than a matrix"),
    "each step": (LINE, lambda h: L.TimeDistributed(L.Dense(5))(h), 8, None),
    "each step without bias": (LINE, lambda h: L.TimeDistributed(L.Dense(5, use_bias=False))(h), 8, None),
    "each step normalized": (LINE, lambda h: L.TimeDistributed(L.BatchNormalization())(h), 8, None),
    "each row": (IMAGE, lambda h: L.TimeDistributed(L.Conv1D(5, 3))(h), 8, None),
    "each row, turned": (IMAGE, lambda h: L.TimeDistributed(L.Permute((2, 1)))(h), 8, None),
    "each channel": (IMAGE, lambda h: L.TimeDistributed(L.Dense(5))(L.Permute((3, 1, 2))(h)), None, "another axis"),
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_in_the_middle_lose_what_is_made_before_and_their_own(name):
    shape, apply, expected, reason = KERNELS[name]
    x = keras.Input(shape)
    h = L.Dense(8, activation="tanh", name="made")(x)
    y = apply(h)
    h = L.Dense(4, activation="tanh", name="after")(L.Flatten()(y))
    model = keras.Model(x, L.Dense(2, name="top")(h))
    small = follow(model, expected, reason)
    if expected is not None and "turned" not in name:
        # Filters go by halves, those of a grouped convolution with whole groups; what is mixed stays.
        sizes = [net.layers[net.layers.index(net.get_layer("after")) - 2].output.shape[-1] for net in (model, small)]
        whole = "softmax" in str(getattr(y._keras_history.operation, "activation", ""))
        assert sizes[1] == (sizes[0] if whole else sizes[0] - sizes[0] // 2)


SEQUENCES = {
    "units": (lambda h: L.SimpleRNN(6, name="made")(h), 6, None),
    "units without bias": (lambda h: L.SimpleRNN(6, use_bias=False, go_backwards=True, name="made")(h), 6, None),
    "units that stay at one": (lambda h: L.SimpleRNN(6, activation="exponential", name="made")(0.1 * h), 6, None),
    "units that mix": (lambda h: L.SimpleRNN(6, activation="softmax", name="made")(h), None, "mixes units"),
    "long memory": (lambda h: L.LSTM(6, return_sequences=True, name="made")(h), 6, None),
    "long memory without bias": (lambda h: L.LSTM(6, use_bias=False, name="made")(h), 6, None),
    "gates that mix": (lambda h: L.LSTM(6, recurrent_activation="softmax", name="made")(h), None, "mixes units"),
    "gates": (lambda h: L.GRU(6, name="made")(h), 6, None),
    "gates, reset before": (lambda h: L.GRU(6, reset_after=False, name="made")(h), 6, None),
    "all states": (lambda h: L.Concatenate()(list(L.LSTM(6, return_state=True, name="made")(h))), 6, None),
    "a state given": (lambda h: L.GRU(6, name="made")(h, initial_state=L.Dense(6, name="state")(h[:, 0])), 6, None),
    "two states given": (
        lambda h: L.LSTM(6, name="made")(h, initial_state=[L.Dense(6)(h[:, 0]), L.Dense(6)(h[:, 1])]), 6, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_units_go_with_their_gates_states_and_biases(name):
    apply, expected, reason = SEQUENCES[name]
    x = keras.Input((4, 5))
    h = L.Dense(4, activation="tanh", name="after")(L.Flatten()(apply(L.Dense(8, activation="tanh", name="before")(x))))
    small = follow(keras.Model(x, L.Dense(2)(h)), expected, reason)
    sizes = tuple(small.get_layer(layer).units for layer in ("made", "before"))
    assert sizes == ((3, 4) if expected else (6, 8))


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
def test_unit_i_of_both_directions_goes_together(mode, sequences):
    x = keras.Input((4, 5))
    h = L.Dense(8, activation="tanh", name="before")(x)
    both = L.Bidirectional(L.GRU(6, return_sequences=sequences, name="each"), merge_mode=mode, name="made")(h)
    both = both if mode else L.Concatenate()(both)
    model = keras.Model(x, L.Dense(2, name="top")(L.Dense(4, activation="tanh", name="after")(both)))
    (item,) = [item for item in coupling.groups(model).sets if "made" in item.name]
    assert item.num_groups == 6 and {"made/forward_each/gru_cell", "made/backward_each/gru_cell"} <= set(item.paths("out"))
    nets.randomize(model)
    coupling.prune_groups(model, 0.5, scope="set")
    small = shrinking.shrink(model)
    assert small.get_layer("made").forward_layer.units == small.get_layer("made").backward_layer.units == 3
    assert small.get_layer("before").units == 4
    given = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    np.testing.assert_allclose(small(given), model(given), atol=1e-5)


BIDIRECTIONAL = {
    "states": (lambda: L.Bidirectional(L.LSTM(3, return_state=True), name="made"), "returns its states"),
    "a memory forward": (lambda: L.Bidirectional(L.LSTM(3, stateful=True), name="made"), "keeps its state"),
    "mixed backward": (
        lambda: L.Bidirectional(
            L.GRU(3), backward_layer=L.GRU(3, activation="softmax", go_backwards=True), name="made"), "mixes units"),
    "a memory": (lambda: L.LSTM(3, stateful=True, name="made"), "keeps its state between batches"),
    "of the own": (lambda: L.Bidirectional(L.RNN(L.LSTMCell(3)), name="made"), "what RNN does"),
}  # fmt: skip


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_sequences_that_are_not_followed_are_frozen_with_the_reason(name):
    make, reason = BIDIRECTIONAL[name]
    x = keras.Input(batch_shape=(2, 4, 5))
    h = keras.tree.flatten(make()(L.Dense(8, name="before")(x)))[0]
    coupled = coupling.groups(keras.Model(x, L.Dense(2, name="top")(L.Dense(4, name="after")(h))))
    assert [item.name for item in coupled.sets] == ["after"]
    held = {item.name: (item.num_channels, " ".join(item.reasons)) for item in coupled.frozen}
    assert held["before"][0] == 8 and reason in held["before"][1] and reason in held["made"][1]


UNTOUCHABLE = {
    "dense": lambda: L.Dense(5), "convolution": lambda: L.Conv1D(5, 3), "transposed": lambda: L.Conv1DTranspose(5, 3),
    "depthwise": lambda: L.DepthwiseConv1D(3), "separable": lambda: L.SeparableConv1D(5, 3), "units": lambda: L.LSTM(5),
    "einsum": lambda: L.EinsumDense("abc,cd->abd", (9, 5)), "grouped": lambda: L.Conv1D(8, 3, groups=2),
    "both ways": lambda: L.Bidirectional(L.LSTM(5)), "heads": lambda: L.MultiHeadAttention(2, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTOUCHABLE)
def test_kernels_with_lora_freeze_what_they_read_and_make(name):
    layer = UNTOUCHABLE[name]()
    x = keras.Input((9, 4))
    h = L.Dense(8, name="before")(x)
    h = layer(h, h) if name == "heads" else layer(h)
    model = keras.Model(x, L.Dense(2, name="top")(L.Dense(4, name="after")(L.Flatten()(h))))
    inner = {"both ways": "backward_layer", "heads": "_key_dense"}.get(name)
    inner = getattr(layer, inner) if inner else layer
    inner.lora_enabled = True
    coupled = coupling.groups(model)
    assert [item.name for item in coupled.sets] == ["after"]
    (held,) = [item for item in coupled.frozen if item.name == "before"]
    assert held.num_channels == 8 and any("LoRA is enabled" in said or "quantized" in said for said in held.reasons)


@pytest.mark.parametrize("make", [lambda: L.Dense(5), lambda: L.EinsumDense("abc,cd->abd", (9, 5))])
def test_kernels_that_keras_quantized_freeze_what_they_read(make):
    layer = make()
    x = keras.Input((9, 4))
    h = layer(L.Dense(8, name="before")(x))
    model = keras.Model(x, L.Dense(2, name="top")(L.Dense(4, name="after")(L.Flatten()(h))))
    layer.quantize("int8")
    coupled = coupling.groups(model)
    assert [item.name for item in coupled.sets] == ["after"]
    (held,) = [item for item in coupled.frozen if item.name == "before"]
    assert any("already quantized (int8)" in said for said in held.reasons)


def test_tables_with_lora_are_frozen():
    x = keras.Input((9,), dtype="int32")
    table_of = L.Embedding(5, 8, name="table")
    model = keras.Model(x, L.Dense(2, name="top")(L.Dense(4, name="after")(L.Flatten()(table_of(x)))))
    assert {item.name: item.num_groups for item in coupling.groups(model).sets} == {"table": 8, "after": 4}
    table_of.enable_lora(2)
    assert [item.name for item in coupling.groups(model).sets] == ["after"]


def heads_of(*inputs, **options):
    return L.MultiHeadAttention(4, 3, value_dim=2, name="heads", **options)(*inputs)


ATTENTION = {
    "of itself": (lambda a, b, c, d: heads_of(a, a), 4),
    "of another": (lambda a, b, c, d: heads_of(a, b), 4),
    "of two others": (lambda a, b, c, d: heads_of(a, b, c), 4),
    "keys by name": (lambda a, b, c, d: L.MultiHeadAttention(4, 3, name="heads")(a, b, key=c), 4),
    "without biases": (lambda a, b, c, d: heads_of(a, b, use_bias=False), 4),
    "with outputs of its own": (lambda a, b, c, d: heads_of(a, b, output_shape=6), 4),
    "with a cause": (lambda a, b, c, d: L.MultiHeadAttention(4, 3, name="heads")(a, a, use_causal_mask=True), 4),
    "a mask": (lambda a, b, c, d: L.MultiHeadAttention(4, 3, name="heads")(
        a, b, attention_mask=L.Dense(7, activation="sigmoid", name="mask")(a)), 4),
    "in groups": (lambda a, b, c, d: L.GroupQueryAttention(3, 4, 2, name="heads")(a, a), 2),
    "in groups, of others": (lambda a, b, c, d: L.GroupQueryAttention(3, 6, 3, name="heads")(a, d, key=ops.tanh(d)), 3),
    "in groups, without biases": (lambda a, b, c, d: L.GroupQueryAttention(3, 6, 2, use_bias=False, name="heads")(a, d), 2),
    "scores": (lambda a, b, c, d: L.MultiHeadAttention(4, 3, name="heads")(a, a, return_attention_scores=True)[0], None),
    "a gate": (lambda a, b, c, d: L.GroupQueryAttention(3, 4, 2, use_gate=True, name="heads")(a, a), None),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENTION)
def test_heads_go_with_what_makes_and_reads_them(name):
    apply, expected = ATTENTION[name]
    x, y = keras.Input((5, 4), name="x"), keras.Input((7, 4), name="y")
    a, b, c, d = L.Dense(8, name="a")(x), *(L.Dense(size, name=name)(y) for size, name in ((6, "b"), (10, "c"), (8, "d")))
    h = L.Dense(4, activation="tanh", name="after")(L.Flatten()(apply(a, b, c, d)))
    model = nets.randomize(keras.Model([x, y], L.Dense(2, name="top")(h)))
    coupled = coupling.groups(model)
    found = [item for item in coupled.sets if "heads/value" in item.name]
    assert [item.num_groups for item in found] == ([] if expected is None else [expected])
    read = {reader for item in coupled.sets for reader in item.paths("read")}
    assert ("heads/attention_output" in read) == (expected is not None)
    if name == "a mask":
        (held,) = [item for item in coupled.frozen if item.name == "mask"]
        assert any("used as a mask" in said for said in held.reasons)
    coupling.prune_groups(model, 0.5, scope="set")
    small, report = shrinking.shrink(model, return_report=True)
    assert all(item.kept_groups == item.num_groups - item.num_groups // 2 for item in report.sets)
    config = small.get_layer("heads").get_config()
    if expected is not None:
        (item,) = found
        heads = model.get_layer("heads").get_config()
        for field in ("num_heads", "num_query_heads", "num_key_value_heads"):
            assert config.get(field) == (None if field not in heads else heads[field] * (expected - expected // 2) // expected)
        assert item.channels_per_group == (heads.get("value_dim") or heads.get("key_dim") or heads["head_dim"])
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(2, *shape)).astype("float32") for shape in ((5, 4), (7, 4))]
    np.testing.assert_allclose(small(given), model(given), atol=1e-5)


@pytest.mark.parametrize("activation, dead", [("tanh", True), ("relu", True), ("sigmoid", False), ("softplus", False)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_units_without_weights_go_where_they_stay_at_zero(activation, dead, use_bias):
    """A unit whose kernels and bias are zero is zero from step to step, unless its activation makes another number of it."""
    model = keras.Sequential([
        keras.Input((4, 5)), L.SimpleRNN(6, activation=activation, use_bias=use_bias, name="made"), L.Dense(2),
    ])  # fmt: skip
    nets.randomize(model)
    cell = model.get_layer("made").cell
    for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
        if variable is not None:
            values = ops.convert_to_numpy(variable).copy()
            values[..., 1:3] = 0
            variable.assign(values)
    small, report = shrinking.shrink(model, return_report=True)
    assert small.get_layer("made").units == (4 if dead else 6) and report.removed_groups == (2 if dead else 0)
    given = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    np.testing.assert_allclose(small(given), model(given), atol=1e-5)
    if use_bias:
        # Of three variables that make a unit each is looked at.
        for number, variable in enumerate((cell.kernel, cell.recurrent_kernel, cell.bias)):
            before = ops.convert_to_numpy(variable).copy()
            values = before.copy()
            values[..., 1] = 0.3
            variable.assign(values)
            assert shrinking.shrink(model).get_layer("made").units == (5 if dead else 6), number
            variable.assign(before)


def test_units_of_gates_go_only_where_every_gate_is_zero():
    for make in (L.LSTM, L.GRU):
        model = nets.randomize(keras.Sequential([keras.Input((4, 5)), make(6, name="made"), L.Dense(2)]))
        cell = model.get_layer("made").cell
        gates = 4 if make is L.LSTM else 3
        for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
            values = ops.convert_to_numpy(variable).copy().reshape(*variable.shape[:-1], gates, 6)
            values[..., :, :2] = 0
            values[..., 0, 4] = 0  # of one gate alone
            variable.assign(values.reshape(variable.shape))
        small = shrinking.shrink(model)
        assert small.get_layer("made").units == 4
        given = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
        np.testing.assert_allclose(small(given), model(given), atol=1e-5)


UNKNOWN_SIZES = {
    "flat places": ((None, 3), lambda h: L.Reshape((-1, 6))(L.Reshape((-1, 2, 6))(h)), 6, None),
    "halves": ((None, 3), lambda h: L.Reshape((-1, 2, 3))(h), 3, None),
    "places to channels": ((None, 3), lambda h: L.Reshape((-1, 12))(h), 6, None),
    "channels to places": ((None, 3), lambda h: ops.reshape(h, (-1, 6, 1)), None, "input of"),
    "two sizes": ((None, None, 3), lambda h: L.Reshape((-1, 6))(h), None, "unknown sizes"),
    "flat": ((None, 3), lambda h: L.Reshape((-1,))(h)[:, :6], None, "unknown size"),
    "pooled": ((None, None, 3), lambda h: L.GlobalAveragePooling2D()(h), 6, None),
    "joined": ((None, 3), lambda h: L.Concatenate(axis=1)([h, ops.tanh(h)]), 6, None),
    "joined along places": ((None, 3), lambda h: ops.concatenate([h, h[:, :1]], axis=1), 6, None),
    "added to its mean": ((None, 3), lambda h: h + ops.mean(h, axis=1, keepdims=True), 6, None),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in UNKNOWN_SIZES if name not in ("channels to places", "flat")])
def test_sizes_that_are_not_known_are_followed_where_they_can_be(name):
    shape, apply, expected, reason = UNKNOWN_SIZES[name]
    x = keras.Input(shape)
    h = apply(L.Dense(6, activation="tanh", name="made")(x))
    for axis in range(len(h.shape) - 2):
        h = ops.mean(h, axis=1)
    model = nets.randomize(keras.Model(x, L.Dense(2, name="top")(L.Dense(4, activation="tanh", name="after")(h))))
    coupled = coupling.groups(model)
    found = {item.name: item.num_groups for item in coupled.sets}
    assert found == {"after": 4} | ({} if expected is None else {"made": expected})
    if expected is None:
        (held,) = [item for item in coupled.frozen if item.name == "made"]
        assert any(reason in said for said in held.reasons)
    coupling.prune_groups(model, 0.5, scope="set")
    given = np.random.default_rng(0).normal(size=(2, *(4 if size is None else size for size in shape))).astype("float32")
    small = shrinking.shrink(model, inputs=given)
    assert small.get_layer("made").units == (6 if expected is None else 3 if expected == 6 else 4)
    np.testing.assert_allclose(small(given), model(given), atol=1e-5)


def test_channels_on_an_axis_of_unknown_size_stay():
    x = keras.Input((None, 3))
    h = ops.reshape(L.Dense(6, name="made")(x), (-1, 6, 1))
    y = L.Reshape((-1, 1))(L.Dense(6, name="spread")(x))
    model = keras.Model(x, [L.Dense(2, name="top")(h), L.Dense(2, name="other")(y)])
    reasons = {item.name: " ".join(item.reasons) for item in coupling.groups(model).frozen}
    assert "axis of unknown size" in reasons["spread"] and "unknown sizes" in reasons["made"]


def test_channels_are_followed_where_frames_become_examples_and_back():
    x = keras.Input((5, 4, 4, 3))
    h = L.Conv2D(6, 3, activation="tanh", name="made")(ops.reshape(x, (-1, 4, 4, 3)))
    h = ops.reshape(h, (-1, 5, 2, 2, 6))
    apart = ops.reshape(L.Dense(6, name="spread")(x), (-1, 3))
    model = nets.randomize(keras.Model(x, [L.Dense(2, name="top")(h), L.Dense(2, name="other")(apart)]))
    coupled = coupling.groups(model)
    assert [item.name for item in coupled.sets] == ["made"]
    (held,) = [item for item in coupled.frozen if item.name == "spread"]
    assert any("over several" in reason for reason in held.reasons)
    coupling.prune_groups(model, 0.5)
    given = np.random.default_rng(0).normal(size=(2, 5, 4, 4, 3)).astype("float32")
    small = shrinking.shrink(model, inputs=given)
    assert small.get_layer("made").filters == 3
    for one, other in zip(small(given), model(given)):
        np.testing.assert_allclose(one, other, atol=1e-5)


def union_of(item, group):
    """How many weights one group spans, each counted once however many slices it lies in."""
    total = 0
    for variable in {id(part.variable): part.variable for part in item.slices if part.role != "state"}.values():
        inside = np.zeros(tuple(variable.shape), bool)
        for part in item.slices:
            if part.variable is variable:
                np.moveaxis(inside, part.axis, 0)[part.group_of == group] = True
        total += int(inside.sum())
    return total


@pytest.mark.parametrize("build", nets.NETS)
def test_figures_of_a_set_against_plain_loops(build):
    model = nets.randomize(build())
    coupled = coupling.groups(model)
    assert coupled.num_groups == sum(item.num_groups for item in coupled.sets)
    for item in coupled.sets:
        assert item.weights_per_group == round(np.mean([union_of(item, group) for group in range(item.num_groups)]))
        assert item.labels.shape == (item.num_groups,) and len(set(item.labels.tolist())) == item.num_groups
        keep = np.arange(item.num_groups) % 3 != 1
        factors = np.linspace(0.5, 2.0, item.num_groups).astype("float32")
        for part in item.slices:
            values = ops.convert_to_numpy(part.variable.value)
            rows = np.moveaxis(values, part.axis, 0)
            groups = [rows[part.group_of == group] for group in range(item.num_groups)]
            squares = [float(np.square(group, dtype="float64").sum()) for group in groups]
            np.testing.assert_allclose(part.squared_norms(item.num_groups), squares, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(part.squared_norms(item.num_groups, 2.0 * values), np.multiply(squares, 4), rtol=1e-5)
            mask, spread = np.ones(values.shape, bool), np.ones(values.shape, "float32")
            for index, group in enumerate(part.group_of):
                if group >= 0:
                    np.moveaxis(mask, part.axis, 0)[index] = keep[group]
                    np.moveaxis(spread, part.axis, 0)[index] = factors[group]
            np.testing.assert_array_equal(np.broadcast_to(part.mask(keep), values.shape), mask)
            np.testing.assert_allclose(ops.convert_to_numpy(part.spread(factors) * ops.ones(values.shape)), spread, rtol=1e-6)


def test_counts_are_rounded_up_to_multiples_of_channels():
    item = sets_of(nets.grouped())["before"]  # six groups of two channels
    wanted = {1: [0, 1, 2, 3, 4, 5, 6], 2: [0, 1, 2, 3, 4, 5, 6], 4: [0, 2, 2, 4, 4, 6, 6], 3: [0, 3, 3, 3, 6, 6, 6],
              6: [0, 3, 3, 3, 6, 6, 6], 8: [0, 4, 4, 4, 4, 6, 6], 64: [0, 6, 6, 6, 6, 6, 6]}  # fmt: skip
    assert {multiple: [item.rounded_up(kept, multiple) for kept in range(7)] for multiple in wanted} == wanted


def test_the_report_of_an_analysis_names_what_makes_scales_and_reads():
    model = keras.Sequential([
        keras.Input((6, 6, 2)), L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="norm"), L.Conv2D(1, 1, name="one"),
        L.Conv2D(3, 1, name="last"), L.GlobalMaxPooling2D(), L.Dense(2, name="top"),
    ])  # fmt: skip
    coupled = coupling.groups(model)
    found = coupled.to_dict()
    assert found == {
        "model": model.name,
        "num_groups": 7,
        "sets": [
            # 18 of the kernel, bias, gamma, beta, and one weight that reads; 1 and 1 and 2.
            {"name": "conv", "num_groups": 4, "weights_per_group": 22, "out": ["conv"], "scale": ["conv", "norm"],
             "read": ["one"]},
            {"name": "last", "num_groups": 3, "weights_per_group": 4, "out": ["last"], "scale": ["last"], "read": ["top"]},
        ],
        "frozen": [
            {"name": "top", "num_channels": 2, "reasons": ("output of the model",)},
            {"name": "one", "num_channels": 1, "reasons": ("all of its channels go together, and one group always stays",)},
        ],
    }  # fmt: skip
    assert [item.name for item in coupled.find("conv")] == ["conv"] and coupled.find("norm") == coupled.find("top") == []
    assert coupled.without_frozen_layers().sets == coupled.sets
    model.get_layer("norm").trainable = False
    held = coupling.groups(model)
    assert [item.frozen_layers for item in held.sets] == [["norm"], []]
    assert [item.name for item in held.without_frozen_layers().sets] == ["last"]
    assert held.without_frozen_layers().frozen[-1].reasons == (
        "norm has trainable=False; include_frozen=True changes frozen layers too",)  # fmt: skip
    model.get_layer("one").trainable = False
    assert coupling.groups(model).sets[0].frozen_layers == ["norm", "one"]
    assert "norm, one have trainable=False" in coupling.groups(model).without_frozen_layers().frozen[-1].reasons[0]


def test_labels_that_are_tied_frozen_or_mixed_are_told_by_their_roots():
    labels = Labels()
    a, b = labels.fresh(4), labels.fresh(3)
    assert a.tolist() == [0, 1, 2, 3] and b.tolist() == [4, 5, 6]
    labels.tie(b, a[:1])  # one of four with all of three
    assert labels.roots(np.array([[4, 5], [6, 1]])).tolist() == [[0, 0], [0, 1]]
    labels.freeze(b[1:], "held")
    labels.freeze(a[:2], "held")
    labels.mark_mixed(a[2:])
    assert labels.frozen() == {0: ["held"], 1: ["held"]} and labels.mixed() == {2, 3}
    labels.tie(a[3:], b[:1])
    assert labels.mixed() == {0, 2} and labels.frozen() == {0: ["held"], 1: ["held"]}


def test_alignment_ties_all_but_one_axis():
    labels = Labels()
    first = labels.fresh(12).reshape(2, 3, 2)
    signal = aligned(labels, first, (2, 3, 2), keep=1)
    assert signal.varying_axis == 1 and signal.labels.shape == (1, 3, 1) and signal.shape == (2, 3, 2)
    roots = labels.roots(first)
    assert all((roots[:, place] == roots[0, place, 0]).all() for place in range(3)) and len(np.unique(roots)) == 3
    second = labels.fresh(12).reshape(2, 3, 2)
    assert aligned(labels, second, (2, 3, 2)).labels.shape == (1, 1, 2)
    same = np.broadcast_to(labels.fresh(1), (2, 3))
    assert aligned(labels, same, (2, 3)).labels.shape == (1, 1) and aligned(labels, same, (2, 3)).varying_axis is None


JOINED = {  # of what is made by `made` and what comes in: which sets are left
    "added to the input": (lambda x, h: L.Add()([x, h]), "input of the model"),
    "the input added": (lambda x, h: h + x, "input of the model"),
    "beside the input": (lambda x, h: L.Concatenate()([x, h]), None),
    "the input beside": (lambda x, h: L.Concatenate()([h, x]), None),
    "the larger": (lambda x, h: ops.maximum(x, h), "input of the model"),
    "scaled by one of the input": (lambda x, h: h * x[..., :1], None),
    "one that is spread": (lambda x, h: h + L.Dense(1, name="one")(x), None),
    "spread from before": (lambda x, h: L.Dense(1, name="one")(x) * h, None),
    "of another rank": (lambda x, h: h + ops.mean(h, axis=1), "broadcasts tensors of different rank"),
    "of another rank, turned": (lambda x, h: L.Multiply()([ops.mean(h, axis=1), h]), "broadcasts tensors of different rank"),
    "joined along the batch": (lambda x, h: ops.concatenate([h, h], axis=0), "joins along the batch"),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_what_is_joined_with_inputs_or_spread(name):
    apply, reason = JOINED[name]
    x = keras.Input((4, 6))
    h = L.Dense(6, activation="tanh", name="made")(x)
    model = keras.Model(x, L.Dense(2)(L.Dense(3, activation="tanh", name="after")(apply(x, h))))
    coupled = coupling.groups(model)
    assert {item.name: item.num_groups for item in coupled.sets} == {"after": 3} | ({} if reason else {"made": 6})
    held = {item.name: " ".join(item.reasons) for item in coupled.frozen}
    if reason:
        assert reason in held["made"]
    if "spread" in name:
        assert "one channel is spread over many" in held["one"]
    if "batch" not in name and "rank" not in name:
        nets.randomize(model)
        coupling.prune_groups(model, 0.5, scope="set")
        small = shrinking.shrink(model)
        given = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")
        np.testing.assert_allclose(small(given), model(given), atol=1e-5)
        # What is spread reaches every channel: a constant one is no constant there.
        layer = model.get_layer("made")
        kernel = ops.convert_to_numpy(layer.kernel).copy()
        kernel[:, :] = 0
        layer.kernel.assign(kernel)
        np.testing.assert_allclose(shrinking.shrink(model)(given), model(given), atol=1e-5)


def test_a_layer_called_twice_has_one_size():
    """Reshape, split and rescaling that two calls share follow the channels of both, which are tied by that."""
    for shared, groups in (
        (L.Reshape((2, 2, 6)), 6), (L.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 6), (L.Reshape((4, 2, 3)), 3),
        (L.PReLU(shared_axes=[1]), 6), (L.GroupNormalization(3), 3), (L.BatchNormalization(), 6),
    ):  # fmt: skip
        x = keras.Input((4, 5))
        read = [L.Dense(2)(L.Flatten()(shared(L.Dense(6, name=name)(x)))) for name in "ab"]
        model = nets.randomize(keras.Model(x, read))
        coupled = coupling.groups(model)
        found = [(set(item.name.split(" + ")), item.num_groups) for item in coupled.sets]
        assert found == [({"a", "b"}, groups)], type(shared).__name__
        coupling.prune_groups(model, 0.5)
        small = shrinking.shrink(model)
        given = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
        for one, other in zip(small(given), model(given), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_no_piece_of_a_split_becomes_empty():
    x = keras.Input((4, 5))
    first, second = ops.split(L.Dense(6, name="made")(x), [2], axis=-1)
    h = L.Concatenate()([ops.tanh(first), ops.relu(second)])
    model = nets.randomize(keras.Model(x, L.Dense(2)(h)))
    coupled = coupling.groups(model)
    assert sorted(item.num_groups for item in coupled.sets) == [2, 4]
    spans = [entry for entry in coupled.trace.axes.values() if entry.role == "span"]
    assert [len(entry.labels) for entry in spans] == [2, 4] and all(entry.variable is None for entry in spans)
    assert all(part.variable is not None for item in coupled.sets for part in item.slices)
    with pytest.warns(UserWarning, match="were to be removed"):
        report = coupling.prune_groups(model, 0.9)
    assert [item.kept_groups for item in report.sets] == [1, 1]
    small = shrinking.shrink(model)
    given = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    np.testing.assert_allclose(small(given), model(given), atol=1e-5)
    # Equal pieces by their number, of which each loses as many.
    parts = ops.split(L.Dense(6, name="made")(x), 3, axis=2)
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Concatenate()([ops.tanh(part) for part in parts]))))
    assert [item.num_groups for item in coupling.groups(model).sets] == [2, 2, 2]


@pytest.mark.parametrize("constants", [np.array([[1.0], [2.0]]), np.ones((2, 1)), np.ones((1, 6))])
def test_an_array_of_constants_freezes_whatever_its_axis(constants):
    x = keras.Input((2, 3))
    h = L.Dense(6, name="made")(x) + constants.astype("float32")
    coupled = coupling.groups(keras.Model(x, L.Dense(2)(L.Dense(4, name="after")(h))))
    assert [item.name for item in coupled.sets] == ["after"]
    (held,) = [item for item in coupled.frozen if item.name == "made"]
    assert any("an array of constants" in said for said in held.reasons)


def test_what_the_table_knows():
    for kind, known in ((L.Dense, True), (L.ConvLSTM2D, True), (L.Lambda, False), (_OwnDense, False), (L.Dropout, True)):
        assert table.has_verdict(kind) == known
    rule, reason = table.rule_of(L.ConvLSTM2D(2, 3))
    assert rule is None and "convolutional recurrent" in reason
    assert table.rule_of(L.Dense(2)) == (table._RULES[L.Dense], None)
    assert table.rule_of(_OwnDense(2)) == (None, "what _OwnDense does to channels is unknown")
    with pytest.raises(TypeError, match="`rule` must be a function"):
        coupling.register(_OwnDense, "dense")
    with pytest.raises(TypeError, match="`layer_type` must be a Layer class"):
        coupling.register(int, rules_channelwise.passing)


def test_layers_that_are_not_followed_count_the_channels_they_make():
    class Mixer(L.Layer):
        """A layer of a user's own with a kernel, and outputs of any shape."""

        def __init__(self, shape, **options):
            super().__init__(**options)
            self.shape, self.kernel = shape, self.add_weight(shape=(6, 2), name="kernel")

        def call(self, inputs):
            return ops.zeros((ops.shape(inputs)[0], *(2 if size is None else size for size in self.shape)))

        def compute_output_shape(self, shape):
            return (shape[0], *self.shape)

        def compute_output_spec(self, inputs):
            return keras.KerasTensor((inputs.shape[0], *self.shape), dtype="float32")

    class Plain(Mixer):
        def __init__(self, shape, **options):
            L.Layer.__init__(self, **options)
            self.shape = shape
            self.scale = self.add_weight(shape=(6,), name="scale")

    x = keras.Input((4,))
    made = L.Dense(6, name="made")
    for kind, shape, channels in ((Mixer, (3, 5), 5), (Mixer, (), 1), (Mixer, (3, None), 1), (Plain, (3, 5), None)):
        model = keras.Model(x, kind(shape, name="own")(made(x)))
        held = {item.name: item.num_channels for item in coupling.groups(model).frozen}
        assert held == {"made": 6} | ({} if channels is None else {"own": channels})


@pytest.mark.parametrize("units", [2, 3])
def test_slopes_of_few_channels_are_cut_as_well(units):
    x = keras.Input((4, 5))
    h = L.PReLU(name="slopes")(L.Dense(units, name="made")(x))
    small = follow(keras.Model(x, L.Dense(2, name="top")(L.Flatten()(h))), units)
    assert small.get_layer("slopes").alpha.shape == (4, units - units // 2)


def test_groups_go_through_pickle():
    """A flattened map of features left a lambda in them."""
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Dense(2)]
    groups = coupling.groups(keras.Sequential([keras.Input((6, 6, 1)), *layers]))
    assert pickle.loads(pickle.dumps(groups)).to_dict() == groups.to_dict()
