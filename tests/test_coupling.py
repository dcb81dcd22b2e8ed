"""coupling: which channels go together, what is frozen and why, and pruning them as one."""

import keras
import numpy as np
import pytest
from keras import ops

import nets
from tf_reweight import coupling
from tf_reweight.callbacks import KeepZeros
from tf_reweight.coupling import channelwise, table
from tf_reweight.coupling.labels import Labels, aligned

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


def test_group_normalization_keeps_its_groups_whole():
    assert sets_of(nets.grouped())["after"].num_groups == 4


def test_heads_go_with_their_four_kernels():
    item = sets_of(nets.attention())["heads/value + heads/key + heads/query"]
    assert item.num_groups == 4 and item.channels_per_group == 5
    assert sum(s.role == "out" for s in item.slices) == 3 and item.paths("read") == ["heads/attention_output"]
    # 4 kernels of 12 x 4 x 5, 3 biases of 4 x 5.
    assert item.weights_per_group == (4 * 12 * 5) + 3 * 5


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


def test_softmax_inside_a_layer_and_outputs_are_frozen():
    x = keras.Input((4,))
    gate = L.Dense(5, activation="softmax", name="gate")(x)
    coupled = coupling.groups(keras.Model(x, L.Dense(2, name="last")(gate)))
    assert not coupled.sets
    assert {item.name: item.reasons[0] for item in coupled.frozen}["last"] == "output of the model"


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
    coupling.register(Twice, channelwise.passing)
    try:
        assert coupling.groups(build()).sets[0].num_groups == 6
    finally:
        del table._RULES[Twice]
    with pytest.raises(TypeError, match="layer_type"):
        coupling.register("Dense", channelwise.passing)


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


BAD = [{"sparsity": 1.0}, {"sparsity": 50}, {"scope": "layer"}, {"criterion": "gama"}, {"minimum": 0}]


@pytest.mark.parametrize("bad", BAD)
def test_bad_arguments_leave_the_model_alone(bad):
    model = nets.randomize(nets.plain())
    before = [w.copy() for w in model.get_weights()]
    with pytest.raises(ValueError):
        coupling.prune_groups(model, **{"sparsity": 0.5, **bad})
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


# Pruning.


def test_group_norms_against_a_plain_loop():
    from tf_reweight.coupling.scores import counted_slices, group_norms

    model = nets.randomize(nets.dense_block())
    for item in coupling.groups(model).sets:
        for criterion in ("kernel", "gamma", "kernel+gamma+next"):
            squares = np.zeros(item.num_groups)
            for part in counted_slices(item, criterion):
                values = ops.convert_to_numpy(part.variable.value)
                for index, group in enumerate(part.group_of):
                    if group >= 0:
                        squares[group] += np.square(np.take(values, index, axis=part.axis)).sum()
            np.testing.assert_allclose(group_norms(item, criterion), np.sqrt(squares), rtol=1e-5)


@pytest.mark.parametrize("scope", ["model", "set"])
@pytest.mark.parametrize("criterion", ["kernel", "gamma", "kernel+gamma+next"])
def test_counts_and_zeros(scope, criterion):
    model = nets.randomize(nets.squeeze_excite())
    report = coupling.prune_groups(model, 0.5, scope=scope, criterion=criterion)
    assert report.kept_groups == report.num_groups / 2 == 13
    assert report.sparsity == 0.5
    if scope == "set":
        assert [item.kept_groups / item.num_groups for item in report.sets] == [0.5] * 3
    for item, done in zip(coupling.groups(model).sets, report.sets):
        for part in item.slices:
            if part.role != "state":
                living = ops.convert_to_numpy(part.squared_norms(item.num_groups)) > 0
                assert living.sum() == done.kept_groups, part.name


def test_a_set_is_never_emptied():
    model = nets.randomize(nets.residual())
    with pytest.warns(UserWarning, match="the best 1 were kept"):
        report = coupling.prune_groups(model, 0.95, scope="model")
    assert all(item.kept_groups >= 1 for item in report.sets)
    assert "only so that the set is not empty" in str(report)
    assert report.to_dict()["sets"][0]["num_groups"] == 8


def test_zero_sparsity_is_a_no_op():
    model = nets.randomize(nets.residual())
    before = [w.copy() for w in model.get_weights()]
    assert coupling.prune_groups(model, 0).sparsity == 0.0
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("build", [nets.plain, nets.attention, nets.lstm])
@pytest.mark.parametrize("optimizer", [lambda: keras.optimizers.Adam(0.01), lambda: keras.optimizers.SGD(0.01, momentum=0.9)])
def test_zeros_stay_through_retraining(build, optimizer):
    model = nets.randomize(build())
    model.compile(optimizer(), "mse")
    x = np.random.default_rng(0).normal(size=(16, *model.inputs[0].shape[1:])).astype("float32")
    y = np.random.default_rng(1).normal(size=(16, *model.outputs[0].shape[1:])).astype("float32")
    model.fit(x, y, epochs=1, verbose=0)
    coupling.prune_groups(model, 0.5)
    zeros = [w == 0 for w in model.get_weights()]
    before = [w.copy() for w in model.get_weights()]
    model.fit(x, y, epochs=2, verbose=0, callbacks=[KeepZeros()])
    for variable, zero, old in zip(model.weights, zeros, before):
        new = ops.convert_to_numpy(variable.value)
        if variable.trainable:
            assert (new[zero] == 0).all(), variable.path
    assert any((a != b).any() for a, b in zip(before, model.get_weights()))


def test_hold_groups_after_loading(tmp_path):
    model = nets.randomize(nets.plain())
    report = coupling.prune_groups(model, 0.5)
    model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    assert coupling.hold_groups(loaded) == report.num_groups - report.kept_groups
    loaded.compile("adam", "mse")
    loaded.fit(np.ones((4, 8, 8, 3)), np.zeros((4, 4)), epochs=2, verbose=0)
    for a, b in zip(model.trainable_variables, loaded.trainable_variables):
        a, b = ops.convert_to_numpy(a.value), ops.convert_to_numpy(b.value)
        if len(a.shape) > 1:
            assert (b[a == 0] == 0).all()


# The coupled penalty.


def penalty_by_hand(model, criterion, epsilon=1e-2):
    """The log-sum penalty after an update, in plain loops: sum over sets and groups of r / (r + epsilon)."""
    from tf_reweight.coupling.scores import counted_slices

    total = 0.0
    for item in coupling.groups(model).sets:
        for group in range(item.num_groups):
            square = 0.0
            for part in counted_slices(item, criterion):
                values = ops.convert_to_numpy(part.variable.value)
                square += np.square(np.compress(part.group_of == group, values, axis=part.axis)).sum()
            total += np.sqrt(square) / (np.sqrt(square) + epsilon)
    return total


@pytest.mark.parametrize("criterion", ["kernel", "gamma", "kernel+gamma+next"])
@pytest.mark.parametrize("build", [nets.plain, nets.squeeze_excite, nets.attention, nets.gru, nets.grouped])
def test_the_penalty_is_the_sum_over_coupled_groups(build, criterion):
    model = nets.randomize(build())
    made = coupling.regularize_coupled(model, 0.5, criterion=criterion)
    assert len(made.penalties) == len(coupling.groups(model).sets)
    for penalty in made.penalties:
        penalty.update(penalty.anchor.variable)
    np.testing.assert_allclose(sum(float(loss) for loss in model.losses), 0.5 * penalty_by_hand(model, criterion), rtol=1e-4)


def test_the_penalty_presses_on_every_counted_variable():
    import tensorflow as tf

    model = nets.randomize(nets.plain())
    (penalty, *_), item = coupling.regularize_coupled(model, 1.0).penalties, coupling.groups(model).sets[0]
    counted = {id(s.variable): s.variable for s in item.slices if s.role in ("out", "read") or s.variable.name == "gamma"}
    with tf.GradientTape() as tape:
        value = penalty(penalty.anchor.variable)
    gradients = tape.gradient(value, [variable.value for variable in counted.values()])
    norms = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable))
    for variable, gradient in zip(counted.values(), gradients):
        part = next(s for s in item.slices if s.variable is variable)
        shape = [-1 if axis == part.axis else 1 for axis in range(len(variable.shape))]
        np.testing.assert_allclose(gradient, variable.numpy() / norms[part.group_of].reshape(shape), rtol=1e-4, atol=1e-6)


def fit_data(model):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, *model.inputs[0].shape[1:])).astype("float32")
    y = rng.normal(size=(32, *model.outputs[0].shape[1:])).astype("float32")
    return x, y


def test_training_frees_groups_which_prune_and_shrink_remove():
    from tf_reweight import shrinking
    from tf_reweight.attachment import attachments
    from tf_reweight.callbacks import Reweighting

    model = nets.randomize(nets.plain())
    coupling.regularize_coupled(model, 0.3)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = fit_data(model)
    callback = Reweighting(every=10, learning_rate=0.03)
    model.fit(x, y, epochs=40, batch_size=8, verbose=0, callbacks=[callback])
    first, last = (sum(k["living_groups"] for k in callback.history[i]["kernels"].values()) for i in (0, -1))
    assert first == 24 and last < first
    before = ops.convert_to_numpy(model(x))
    report = coupling.prune_groups(model)
    assert 3 <= report.kept_groups < 24
    assert not attachments(model)
    # What was freed no longer matters much.
    np.testing.assert_allclose(model(x), before, atol=0.05 * np.abs(before).max() + 0.02)
    small = shrinking.shrink(model)
    assert sum(item.num_groups for item in coupling.groups(small).sets) <= report.kept_groups


def test_penalties_are_saved_and_found_again(tmp_path):
    from tf_reweight.attachment import attach
    from tf_reweight.coupling.penalty import coupled_penalties

    model = nets.randomize(nets.two_headed())
    made = coupling.regularize_coupled(model, 0.1, {"name": "log_sum", "epsilon": 0.1}).penalties
    for penalty in made:
        penalty.update(penalty.anchor.variable)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="must be connected"):
        coupled_penalties(loaded)[0](loaded.get_layer("backbone").kernel)
    attach(loaded)
    again = coupled_penalties(loaded)
    assert [p.get_config() for p in again] == [p.get_config() for p in coupled_penalties(model)]
    for a, b in zip(coupled_penalties(model), again):
        np.testing.assert_array_equal(a.penalty_weights, b.penalty_weights)
    np.testing.assert_allclose(sum(map(float, model.losses)), sum(map(float, loaded.losses)), rtol=1e-6)


def test_pieces_of_a_split_share_an_anchor(tmp_path):
    from tf_reweight.attachment import attach
    from tf_reweight.coupling.penalty import coupled_penalties

    x = keras.Input((4, 4, 3))
    a, b = ops.split(L.Conv2D(6, 1, name="conv")(x), [2], axis=-1)
    model = nets.randomize(keras.Model(x, L.Dense(2)(L.Flatten()(ops.concatenate([b, a], axis=-1)))))
    coupling.regularize_coupled(model, 0.1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    attach(loaded)
    assert [p.num_groups for p in coupled_penalties(loaded)] == [p.num_groups for p in coupled_penalties(model)]
    np.testing.assert_allclose(sum(map(float, model.losses)), sum(map(float, loaded.losses)), rtol=1e-6)


def test_penalty_beside_another_prices_and_what_is_left_out():
    model = nets.randomize(nets.two_headed())
    backbone = model.get_layer("backbone")
    backbone.kernel_regularizer = backbone.kernel.regularizer = keras.regularizers.L2(0.1)
    model.get_layer("box_conv").trainable = False
    made = coupling.regularize_coupled(model, 0.1, price=lambda item: item.weights_per_group)
    assert [penalty.item.name for penalty in made.penalties] == ["backbone", "kind_conv"]
    assert {item.name for item in made.left_out} == {"box_conv", "box", "kind"}
    assert "box_conv: left out, frozen" in str(made)
    for penalty in made.penalties:
        np.testing.assert_array_equal(penalty.penalty_weights, penalty.item.weights_per_group)
    from tf_reweight.attachment import detach
    from tf_reweight.masking import prune

    with pytest.raises(ValueError, match="prune_groups"):
        prune(model)
    assert detach(model) == 2
    assert isinstance(backbone.kernel_regularizer, keras.regularizers.L2)
    with pytest.raises(ValueError, match="coupled penalty on it, or a `sparsity`"):
        coupling.prune_groups(model)


@pytest.mark.parametrize("bad", [{"strength": -1}, {"penalty": "logsum"}, {"criterion": "beta"}, {"price": 0.0}])
def test_bad_penalties_leave_the_model_alone(bad):
    model = nets.randomize(nets.plain())
    with pytest.raises(ValueError):
        coupling.regularize_coupled(model, **bad)
    assert all(getattr(layer, "kernel_regularizer", None) is None for layer in model.layers)
