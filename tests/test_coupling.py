"""coupling: which channels go together, what is frozen and why, and pruning them as one."""

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
