"""Coupled groups: their cost, pruning them as one, and their common penalty."""

import types
import warnings

import keras
import nets
import numpy as np
import pytest
from keras import ops

from tf_reweight import budget as budgets
from tf_reweight import coupling, shrinking
from tf_reweight.coupling import CoupledProximal, demands, gates, proximal_solver, pruning, savings, scores
from tf_reweight.coupling.floors import Floors
from tf_reweight.data import labelled
from tf_reweight.graph.counting import count_macs, count_parameters
from tf_reweight.graph.gradients import average
from tf_reweight.penalties.attachment import attach, regularize
from tf_reweight.penalties.reweighting import Reweighting
from tf_reweight.pruning.keep_zeros import KeepZeros

L = keras.layers


def sets_of(model):
    return {item.name: item for item in coupling.groups(model).sets}


# Pruning.


def test_group_norms_against_a_plain_loop():
    from tf_reweight.coupling.scores import counted_slices, group_norms

    sets = coupling.groups(nets.randomize(nets.dense_block())).sets
    assert sets and all(counted_slices(item) for item in sets)
    for item in sets:
        for criterion in ("kernel", "gamma", "kernel+gamma+next", "kernel_l1"):
            totals = np.zeros(item.num_groups)
            measure = np.abs if criterion == "kernel_l1" else np.square
            for part in counted_slices(item, criterion):
                values = ops.convert_to_numpy(part.variable.value)
                for index, group in enumerate(part.group_of):
                    if group >= 0:
                        totals[group] += measure(np.take(values, index, axis=part.axis)).sum()
            expected = totals if criterion == "kernel_l1" else np.sqrt(totals)
            np.testing.assert_allclose(group_norms(item, criterion), expected, rtol=1e-5)


def test_what_each_criterion_counts():
    """Before a BatchNorm the gammas, without one the kernels; biases, betas and statistics never."""
    conv = [L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="norm"), L.Conv2D(6, 1, name="plain"), L.Flatten()]
    sets = sets_of(keras.Sequential([keras.Input((4, 4, 2)), *conv, L.Dense(2, name="top")]))
    counted = {
        (name, criterion): sorted(part.name for part in scores.counted_slices(sets[name], criterion))
        for name in ("conv", "plain") for criterion in (*scores.CRITERIA, "kernel_l1")
    }  # fmt: skip
    assert counted == {
        ("conv", "kernel"): ["conv/kernel"], ("conv", "kernel_l1"): ["conv/kernel"], ("conv", "gamma"): ["norm/gamma"],
        ("conv", "kernel+gamma+next"): ["conv/kernel", "norm/gamma", "plain/kernel"], ("plain", "kernel"): ["plain/kernel"],
        ("plain", "kernel_l1"): ["plain/kernel"], ("plain", "gamma"): ["plain/kernel"],
        ("plain", "kernel+gamma+next"): ["plain/kernel", "top/kernel"],
    }  # fmt: skip


class OwnScale(keras.layers.Layer):
    """A gamma and slopes of an own layer, with as many axes as images have."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(1, 1, shape[-1]), initializer="ones", name="gamma")
        self.slopes = self.add_weight(shape=(1, 1, shape[-1]), initializer="ones", name="slopes")

    def call(self, inputs):
        return inputs * self.gamma * self.slopes


def own_scale(trace, layer, x):
    trace.scale(layer.gamma, -1, trace.vector(x, -1), makes=True)
    trace.scale(layer.slopes, -1, trace.vector(x, -1))
    return x


def sloped(slopes):
    """A convolution of four filters with norms 1, 0.5, 0.25, 0.01, and slopes behind it that rank them the other way round."""
    layers = [L.Conv2D(4, 1, name="made"), slopes, L.Flatten(), L.Dense(2, name="top")]
    model = keras.Sequential([keras.Input((3, 3, 1)), *layers])
    model.get_layer("made").set_weights([np.reshape([1.0, 0.5, 0.25, 0.01], (1, 1, 1, 4)), np.zeros(4)])
    slopes.alpha.assign(np.broadcast_to([0.0, 0.1, 0.2, 0.9], slopes.alpha.shape))
    return model


SLOPES = pytest.mark.parametrize("axes", [None, (1, 2)], ids=["at each place", "of channels"])


@SLOPES
@pytest.mark.parametrize("criterion", ["kernel", "gamma", "kernel_l1", "kernel+gamma+next", "lamp"])
def test_slopes_are_no_kernels(axes, criterion):
    """PReLU's slopes have several axes behind a convolution, and the channels of the largest had been kept."""
    model = sloped(L.PReLU(shared_axes=axes, name="slopes"))
    model.get_layer("top").kernel.assign(np.full((36, 2), 0.01))
    (item,) = coupling.groups(model).sets
    if criterion in ("kernel", "gamma", "kernel_l1"):
        np.testing.assert_allclose(scores.group_norms(item, criterion), [1.0, 0.5, 0.25, 0.01], rtol=1e-6)
    coupling.prune_groups(model, sparsity=0.5, criterion=criterion)
    assert shrinking_weights(model) == {"made": (1, 1, 1, 2), "slopes": (*((3, 3) if axes is None else (1, 1)), 2)}
    assert (model.get_layer("slopes").alpha.numpy()[..., 2:] == 0).all()
    np.testing.assert_allclose(model.get_layer("slopes").alpha.numpy()[0, 0, :2], [0.0, 0.1], rtol=1e-6)


def shrinking_weights(model):
    small = shrinking.shrink(model)
    return {name: tuple(small.get_layer(name).weights[0].shape) for name in ("made", "slopes")}


@SLOPES
def test_penalties_and_soft_thresholds_leave_slopes_alone(axes):
    import tensorflow as tf

    model = sloped(L.PReLU(shared_axes=axes, name="slopes"))
    (penalty,) = coupling.regularize_coupled(model, 1.0, criterion="kernel").penalties
    slopes = model.get_layer("slopes").alpha
    with tf.GradientTape() as tape:
        value = penalty(penalty.anchor.variable)
    assert tape.gradient(value, slopes.value) is None and all(variable is not slopes for variable in penalty.thresholded)
    before = slopes.numpy()
    penalty.soft_threshold(np.full(4, 0.4, "float32"))
    np.testing.assert_array_equal(slopes.numpy(), before)
    np.testing.assert_allclose(model.get_layer("made").kernel.numpy().ravel(), [0.6, 0.1, 0.0, 0.0], rtol=1e-5)


def test_what_counts_are_kernels_gammas_and_what_reads():
    """Biases of heads and of a GRU have two axes as well; a gamma of several axes counts once, and a user's other scales do."""
    coupling.register(OwnScale, own_scale)
    made = [L.Conv2D(6, 1), OwnScale(), L.GroupNormalization(3), L.DepthwiseConv2D(3), L.SeparableConv2D(4, 1), L.PReLU()]
    own = keras.Sequential([keras.Input((4, 4, 2)), *made, L.Conv2D(4, 1, groups=2), L.Conv2DTranspose(2, 1), L.Flatten()])
    for model in (own, nets.attention(), nets.gru(), nets.one_dimensional(), nets.grouped()):
        for item in coupling.groups(model).sets:
            for criterion in scores.CRITERIA:
                counted = scores.counted_slices(item, criterion)
                assert counted and len({(id(part.variable), part.axis) for part in counted}) == len(counted)
                for part in counted:
                    wanted = "kernel" in part.variable.name or part.variable.name in ("gamma", "embeddings")
                    wanted = wanted or "own_scale" in part.name
                    assert wanted and (part.kernel or criterion != "kernel"), part.name
    names = {part.name.split("/")[-1] for item in coupling.groups(own).sets for part in scores.counted_slices(item)}
    assert names >= {"kernel", "gamma", "depthwise_kernel", "pointwise_kernel"} and not names & {"bias", "beta", "alpha"}


@pytest.mark.parametrize("criterion", ["kernel", "gamma", "kernel+gamma+next", "kernel_l1"])
def test_scores_are_norms_over_their_root_mean_square(criterion):
    sets = coupling.groups(nets.randomize(nets.squeeze_excite())).sets
    for item, found in zip(sets, scores.relative_scores(sets, criterion), strict=True):
        norms = [float(norm) for norm in scores.group_norms(item, criterion)]
        root_mean_square = (sum(norm**2 for norm in norms) / len(norms)) ** 0.5
        np.testing.assert_allclose(found, [norm / root_mean_square for norm in norms], rtol=1e-6)
    for part in (part for item in sets for part in item.slices):
        part.variable.assign(ops.zeros_like(part.variable.value))
    for found in scores.relative_scores(sets, criterion):
        np.testing.assert_array_equal(found, 0.0)


@pytest.mark.parametrize("scope", ["model", "set"])
@pytest.mark.parametrize("criterion", ["kernel", "gamma", "kernel+gamma+next", "kernel_l1"])
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


@pytest.mark.parametrize("build", [nets.residual, nets.squeeze_excite, nets.dense_block, nets.grouped, nets.unet])
def test_cost_before_shrinking_is_the_cost_after(build):
    """What `Cost` says of the groups kept is what is counted on the model rebuilt without the others."""
    keras.utils.set_random_seed(3)
    model = build()
    coupled = coupling.groups(model)
    cost = coupling.Cost(coupled)
    assert cost.macs() == count_macs(model)
    report = coupling.prune_groups(model, macs=0.5)
    small = shrinking.shrink(model)
    assert count_macs(small) <= 0.5 * cost.macs()
    assert report.kept_groups < report.num_groups


@pytest.mark.parametrize("build", [nets.plain, nets.residual, nets.squeeze_excite, nets.two_headed])
@pytest.mark.parametrize("macs", [0.1, 0.35, 0.6])
def test_not_one_group_more_goes_than_the_budget_needs(build, macs):
    """The best of the groups that went, put back, breaks the budget, and no group that went is better than one that stays."""
    model = nets.randomize(build())
    coupled = coupling.groups(model)
    ranked, cost = scores.relative_scores(coupled.sets, "kernel"), coupling.Cost(coupled)
    coupling.prune_groups(model, macs=macs, criterion="kernel")
    keeps = [np.array(scores.group_norms(item, "kernel") > 0) for item in coupled.sets]
    budget = (1 - macs) * cost.macs()
    assert cost.macs(keeps) <= budget
    gone = [(score, s, g) for s, (row, keep) in enumerate(zip(ranked, keeps)) for g, score in enumerate(row) if not keep[g]]
    best, where, group = max(gone)
    alone = [keep.sum() == 1 for keep in keeps]  # the last group of a set stays whatever it is worth
    assert best < min(row[keep].min() for row, keep, only in zip(ranked, keeps, alone) if not only)
    keeps[where][group] = True
    assert cost.macs(keeps) > budget


def test_more_computing_than_channels_hold_is_refused():
    model = nets.residual()
    with pytest.raises(ValueError, match="`macs` must be at most"):
        coupling.prune_groups(model, macs=0.9999)
    with pytest.raises(ValueError, match="exclude each other"):
        coupling.prune_groups(model, sparsity=0.5, macs=0.5)
    assert not any((w.numpy() == 0).all() for w in model.weights if w.name == "kernel")


def test_a_set_is_never_emptied():
    model = nets.randomize(nets.residual())
    with pytest.warns(UserWarning, match="the best 1 were kept"):
        report = coupling.prune_groups(model, 0.95, scope="model")
    assert all(item.kept_groups >= 1 for item in report.sets)
    assert "only so that the set is not empty" in str(report)
    assert report.to_dict()["sets"][0]["num_groups"] == 8


def everything_goes(model, **options):
    """What floors keep when every group of every set is to go."""
    coupled = coupling.groups(model)
    keeps = [np.zeros(item.num_groups, bool) for item in coupled.sets]
    kept, rescued = Floors(coupled, **options)(keeps, scores.relative_scores(coupled.sets, "kernel"))
    return {item.name: (int(keep.sum()), saved) for item, keep, saved in zip(coupled.sets, kept, rescued)}


def test_only_sets_with_a_bypass_may_be_emptied():
    """With minimum=0 whole residual branches go, but whatever is asked for, the output depends on the input."""
    assert everything_goes(nets.residual(), minimum=0) == {"stem + back + more": (1, 1), "inner": (0, 0)}
    assert everything_goes(nets.residual()) == {"stem + back + more": (1, 1), "inner": (1, 1)}
    assert set(everything_goes(nets.plain(), minimum=0).values()) == {(1, 1)}
    # Each of several outputs needs a way of its own.
    assert set(everything_goes(nets.two_headed(), minimum=0).values()) == {(1, 1)}
    transformer = everything_goes(nets.attention(), minimum=0)
    assert transformer == {"heads/value + heads/key + heads/query": (0, 0), "mlp_in": (0, 0)}
    # Of two branches side by side either can go, not both; a gate that is zero silences what it multiplies.
    x = keras.Input((4, 4, 3))
    a, b = (L.Conv2D(6, 1, name=f"{name}_out")(L.Conv2D(4, 1, name=name)(x)) for name in "ab")
    model = keras.Model(x, L.Dense(2)(L.GlobalMaxPooling2D()(a + b)))
    kept = everything_goes(model, minimum=0)
    assert sorted(kept.pop(name) for name in "ab") == [(0, 0), (1, 1)] and kept == {"a_out + b_out": (1, 1)}
    h = L.Conv2D(6, 1, name="conv")(x)
    model = keras.Model(x, L.Dense(2)(L.GlobalMaxPooling2D()(L.Multiply()([h, L.Conv2D(6, 1, name="gate")(x)]))))
    assert everything_goes(model, minimum=0) == {"conv + gate": (1, 1)}


def test_whole_branches_go_for_a_budget_that_one_group_of_each_would_exceed():
    cost = coupling.Cost(coupling.groups(nets.residual()))
    most, least = (cost.macs(_fewest(nets.residual(), minimum)) for minimum in (1, 0))
    assert least < most
    budget = budgets.Budget(macs=least)
    with pytest.raises(ValueError, match="macs"):
        coupling.prune_groups(nets.residual(), budget=budget)
    model = nets.randomize(nets.residual())
    inner = model.get_layer("inner").kernel
    inner.assign(1e-3 * inner)
    report = coupling.prune_groups(model, budget=budget, minimum=0, criterion="kernel")
    assert [item.kept_groups for item in report.sets] == [1, 0]
    assert count_macs(shrinking.shrink(model)) <= least
    # Where nothing leads around them the best of each stay all the same.
    fewest = _fewest(nets.plain(), 0)
    budget = budgets.Budget(macs=coupling.Cost(coupling.groups(nets.plain())).macs(fewest) + 1)
    report = coupling.prune_groups(nets.randomize(nets.plain()), budget=budget, minimum=0)
    assert all(item.kept_groups for item in report.sets)


def _fewest(model, minimum):
    coupled = coupling.groups(model)
    none = [np.zeros(item.num_groups, bool) for item in coupled.sets]
    return Floors(coupled, minimum)(none, scores.relative_scores(coupled.sets, "kernel"))[0]


def test_counts_are_multiples_of_the_best():
    model = nets.randomize(nets.squeeze_excite())
    sets = coupling.groups(model).sets
    by_score = dict(zip((item.name for item in sets), scores.relative_scores(sets, "kernel")))
    report = coupling.prune_groups(model, 0.7, criterion="kernel", multiple_of=4)
    for item, done in zip(coupling.groups(model).sets, report.sets):
        assert done.kept_groups % 4 == 0 or done.kept_groups == done.num_groups
        part = next(s for s in item.slices if s.role == "out")
        living = ops.convert_to_numpy(part.squared_norms(item.num_groups)) > 0
        ranked = np.argsort(-by_score[item.name], kind="stable")
        assert set(np.flatnonzero(living)) == set(ranked[: done.kept_groups])
    model = nets.randomize(nets.squeeze_excite())
    coupling.prune_groups(model, macs=0.4, multiple_of=4)
    small = shrinking.shrink(model)
    assert count_macs(small) <= 0.6 * count_macs(model)
    assert all(layer.filters % 4 == 0 or layer.filters == 6 for layer in small.layers if type(layer) is L.Conv2D)


def test_what_a_penalty_freed_may_be_a_whole_branch():
    model = nets.randomize(nets.residual())
    coupling.regularize_coupled(model, 1e-3)
    item = next(item for item in coupling.groups(model).sets if item.name == "inner")
    for part in item.slices:
        if part.role != "state":
            part.variable.assign(part.variable * part.mask(np.zeros(item.num_groups, bool)))
    report = coupling.prune_groups(model)
    assert next(done for done in report.sets if done.name == "inner").kept_groups == 0
    small = shrinking.shrink(model)
    assert "inner" not in [layer.name for layer in small.layers]
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(model(image), small(image), atol=1e-5)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("epsilon", [0.02, 0.5, 4.0])
def test_what_is_negligible_follows_the_epsilon_last_used(relative, epsilon):
    """A group goes when its norm is at most a tenth of epsilon, relative to the root mean square of its set's where asked."""
    model = nets.randomize(nets.plain())
    for item in coupling.groups(model).sets:
        factors = np.geomspace(1e-3, 1.0, item.num_groups).astype("float32")
        for part in item.slices:
            if part.role != "state":
                part.variable.assign(part.variable.value * part.spread(ops.convert_to_tensor(factors)))
    kept = {}
    for penalty in coupling.regularize_coupled(model, 1e-3, relative=relative).penalties:
        norms = scores.group_norms(penalty.item)
        scale = np.sqrt(np.mean(norms**2)) if relative else 1.0
        kept[penalty.item.name] = max(1, int((norms > 0.1 * epsilon * scale).sum()))
        penalty.update(penalty.anchor.variable, epsilon)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of sets that would be empty
        report = coupling.prune_groups(model)
    assert {item.name: item.kept_groups for item in report.sets} == kept


def test_zero_sparsity_is_a_no_op():
    model = nets.randomize(nets.residual())
    before = [w.copy() for w in model.get_weights()]
    assert coupling.prune_groups(model, 0).sparsity == 0.0
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def adam():
    return keras.optimizers.Adam(0.01)


def momentum():
    return keras.optimizers.SGD(0.01, momentum=0.9)


# Zeros are held after the step of whichever optimizer, so each kind of kernel meets one, and one of them both.
@pytest.mark.parametrize(
    "build, optimizer", [(nets.plain, adam), (nets.plain, momentum), (nets.attention, momentum), (lambda: nets.lstm(2), adam)],
    ids=["plain-adam", "plain-momentum", "attention-momentum", "lstm-adam"],
)  # fmt: skip
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


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e-30])
def test_what_is_not_zero_is_not_held_at_zero(value):
    """Groups with a NaN, or so small that their squares are zero, were set to zero with all that reads them."""
    model = nets.randomize(nets.plain())
    first = model.layers[0]
    first.kernel.assign(np.full(first.kernel.shape, value, "float32"))
    for layer in model.layers[1:]:
        for weight in layer.trainable_weights if abs(value) < 1 else []:
            weight.assign(np.asarray(weight) * np.float32(value))
    before = model.get_weights()
    assert coupling.hold_groups(model) == 0
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


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
    from tf_reweight.penalties.attachment import attachments
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
    from tf_reweight.coupling.penalty import coupled_penalties
    from tf_reweight.penalties.attachment import attach

    model = nets.randomize(nets.two_headed())
    made = coupling.regularize_coupled(model, 0.1, {"name": "log_sum", "epsilon": 0.1}).penalties
    for penalty in made:
        penalty.update(penalty.anchor.variable)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = coupled_penalties(loaded)
    assert [p.get_config() for p in again] == [p.get_config() for p in coupled_penalties(model)]
    for a, b in zip(coupled_penalties(model), again):
        np.testing.assert_array_equal(a.penalty_weights, b.penalty_weights)
    np.testing.assert_allclose(sum(map(float, model.losses)), sum(map(float, loaded.losses)), rtol=1e-6)
    # A copy made from the config alone has no state to load, which is when they look for their model.
    copy = keras.models.clone_model(model)
    with pytest.raises(ValueError, match="must be connected"):
        coupled_penalties(copy)[0](copy.get_layer("backbone").kernel)
    attach(copy)
    assert all(np.isfinite(float(loss)) for loss in copy.losses)


def test_pieces_of_a_split_share_an_anchor(tmp_path):
    from tf_reweight.coupling.penalty import coupled_penalties
    from tf_reweight.penalties.attachment import attach

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
    head = model.get_layer("kind_conv")
    head.kernel_regularizer = head.kernel.regularizer = keras.regularizers.L2(0.1)
    model.get_layer("box_conv").trainable = False
    # The backbone's channels are read by the frozen layer, which would lose the kernels that read them.
    with pytest.warns(UserWarning, match="backbone, box_conv are left whole: box_conv has trainable=False"):
        made = coupling.regularize_coupled(model, 0.1, price=lambda item: item.weights_per_group)
    assert [penalty.item.name for penalty in made.penalties] == ["kind_conv"]
    assert {item.name for item in made.left_out} == {"backbone", "box_conv", "box", "kind"}
    assert "box_conv: left out, box_conv: trainable=False" in str(made)
    for penalty in made.penalties:
        np.testing.assert_array_equal(penalty.penalty_weights, penalty.item.weights_per_group)
    from tf_reweight.penalties.attachment import detach
    from tf_reweight.pruning.prune import prune

    with pytest.raises(ValueError, match="prune_groups"):
        prune(model)
    assert detach(model) == 1
    assert isinstance(head.kernel_regularizer, keras.regularizers.L2)
    model.get_layer("box_conv").trainable = True
    with pytest.raises(ValueError, match="coupled penalty on it, or a `sparsity`"):
        coupling.prune_groups(model)


def test_prices_by_name_are_what_a_group_saves():
    model = nets.randomize(nets.two_headed())
    found = coupling.groups(model)
    cost = coupling.Cost(found)
    keeps = [np.ones(item.num_groups, bool) for item in found.sets]
    saved = []
    for keep in keeps:
        keep[-1] = False
        saved.append(cost.macs() - cost.macs(keeps))
        keep[-1] = True
    for price, freed in (("macs", saved), ("weights", [item.weights_per_group for item in found.sets])):
        made = coupling.regularize_coupled(nets.randomize(nets.two_headed()), 0.1, price=price).penalties
        expected = np.clip(np.divide(freed, np.mean(freed)), 0.25, 4.0)
        np.testing.assert_allclose([penalty.price for penalty in made], expected, rtol=1e-6)
    assert {p.price for p in coupling.regularize_coupled(model, 0.1, price="equal").penalties} == {1.0}


@pytest.mark.parametrize(
    "bad",
    [
        {"strength": -1}, {"penalty": "logsum"}, {"criterion": "beta"}, {"criterion": "kernel_l1"}, {"price": 0.0},
        {"price": "mac"},
    ],  # fmt: skip
)
def test_bad_penalties_leave_the_model_alone(bad):
    model = nets.randomize(nets.plain())
    with pytest.raises(ValueError):
        coupling.regularize_coupled(model, **bad)
    assert all(getattr(layer, "kernel_regularizer", None) is None for layer in model.layers)


# The proximal solver.


def one_set():
    return nets.randomize(keras.Sequential([keras.Input((5,)), L.Dense(6, activation="tanh"), L.Dense(3)]))


def test_a_soft_threshold_takes_its_amount_off_each_norm():
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, 1.0).penalties
    before = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
    directions = [w / before for w in (ops.convert_to_numpy(model.layers[0].kernel),)]
    amounts = np.linspace(1.2 * before.max(), 0.0, 6).astype("float32")  # the first group is one like the others
    penalty.soft_threshold(amounts)
    after = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
    np.testing.assert_allclose(after, np.maximum(0.0, before - amounts), atol=1e-5)
    gone = before <= amounts
    assert gone.any() and not gone.all()
    assert (ops.convert_to_numpy(model.layers[0].kernel)[:, gone] == 0).all()
    assert (ops.convert_to_numpy(model.layers[1].kernel)[gone] == 0).all()
    np.testing.assert_allclose(ops.convert_to_numpy(model.layers[0].kernel), directions[0] * after, atol=1e-5)


def test_proximal_steps_in_fit_follow_the_learning_rate_and_leave_the_loss_alone():
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, 2.0).penalties
    before = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
    x, y = fit_data(model)
    model.compile(keras.optimizers.SGD(1e-12), "mse")
    with_penalty = model.evaluate(x, y, verbose=0)
    history = model.fit(x, y, epochs=3, batch_size=8, verbose=0, callbacks=[CoupledProximal(step=1e-3)])
    after = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
    # 12 steps of step * strength * 1, the weights being 1 without `Reweighting`.
    np.testing.assert_allclose(after, before - 12 * 2e-3, rtol=1e-4)
    assert history.history["loss"][0] < with_penalty - 1.0 and sum(float(loss) for loss in model.losses) > 1.0


def test_proximal_steps_free_whole_groups_where_gradients_do_not():
    """A group with a large gamma: Adam moves it by a learning rate a step, a soft threshold scales it."""
    freed = {}
    for solver in ("gradient", "proximal"):
        model = nets.randomize(nets.plain())
        coupling.regularize_coupled(model, 0.2)
        x, y = fit_data(model)
        model.compile(keras.optimizers.Adam(1e-3), "mse")
        callbacks = [Reweighting(every=5)] + ([CoupledProximal(step=0.2)] if solver == "proximal" else [])
        model.fit(x, y, batch_size=8, epochs=15, verbose=0, callbacks=callbacks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            report = coupling.prune_groups(model)
        freed[solver] = report.num_groups - report.kept_groups
    assert freed["proximal"] > freed["gradient"]


@pytest.mark.parametrize("name", ["log_sum", "arctan", "log_squared"])
def test_a_relative_penalty_takes_the_same_share_off_sets_of_any_size(name):
    made = {"name": name, "epsilon": 0.05}
    small, large = one_set(), one_set()
    penalties = [coupling.regularize_coupled(model, 1.0, made, relative=True).penalties[0] for model in (small, large)]
    for weight, other in zip(large.trainable_weights, small.trainable_weights):
        weight.assign(3.0 * other)
    norms = [ops.convert_to_numpy(p.update(p.anchor.variable.value)) for p in penalties]
    rms = np.sqrt(np.mean(norms[0] ** 2))
    power = penalties[0].penalty.power
    expected = rms ** (2 - power) * ops.convert_to_numpy(penalties[0].penalty.weight(norms[0] / rms))
    first, second = (ops.convert_to_numpy(p.penalty_weights) for p in penalties)
    np.testing.assert_allclose(first, expected, rtol=1e-5)
    np.testing.assert_allclose(second, 3.0 ** (2 - power) * first, rtol=1e-5)
    # The gradient by a norm, relative to the norm.
    shares = [power * w * n ** (power - 2) for w, n in zip((first, second), norms)]
    np.testing.assert_allclose(*shares, rtol=1e-5)
    assert penalties[1].negligible == pytest.approx(3.0 * penalties[0].negligible)
    assert penalties[0].negligible == pytest.approx(rms * penalties[0].penalty.negligible(0.05))


def test_a_relative_penalty_comes_back_after_save_and_load(tmp_path):
    from tf_reweight.coupling.penalty import coupled_penalties

    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, 1.0, relative=True).penalties
    x, y = fit_data(model)
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0, callbacks=[Reweighting(epsilon={"name": "adaptive", "keep": 0.5})])
    assert float(penalty.scale) != 1.0
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    attach(again)
    (loaded,) = coupled_penalties(again)
    assert loaded.get_config() == penalty.get_config() and loaded.negligible == penalty.negligible
    norms = ops.convert_to_numpy(loaded.norms(loaded.anchor.variable.value))
    compared = ops.convert_to_numpy(loaded.compared_norms(loaded.anchor.variable.value))
    np.testing.assert_allclose(compared * np.sqrt(np.mean(norms**2)), norms, rtol=1e-5)
    for bad, error in (({"relative": 1}, TypeError), ({"relative": True, "penalty": "lasso"}, ValueError)):
        with pytest.raises(error, match="`relative`.*Received: "):
            coupling.regularize_coupled(one_set(), **bad)


def test_proximal_steps_end_when_the_budget_is_met():
    """With a strength that would empty the net: zeros stay, the others are left alone, and `prune_groups` takes just them."""
    model = nets.randomize(nets.plain())
    penalties = coupling.regularize_coupled(model, 5.0).penalties
    cost = coupling.Cost(coupling.groups(model))
    x, y = fit_data(model)
    # So slow that only the threshold moves the norms.
    model.compile(keras.optimizers.SGD(1e-9), "mse")
    proximal = CoupledProximal(step=2e-3, macs=0.4)
    model.fit(x, y, batch_size=8, epochs=60, verbose=0, callbacks=[proximal])
    assert 0 < proximal.met_at < proximal.model.optimizer.iterations
    norms = [ops.convert_to_numpy(p.norms(p.anchor.variable.value)) for p in penalties]
    assert 0.4 <= 1 - cost.macs([n > 0 for n in norms]) / cost.macs() < 0.75
    again = CoupledProximal(step=1.0, macs=0.4)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[again])
    assert again.met_at == 0
    for penalty, before in zip(penalties, norms):
        now = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
        np.testing.assert_allclose(now, before, rtol=1e-4, atol=1e-6)
    coupling.prune_groups(model, macs=0.4)
    assert all(np.all(n[k == 0] == 0) for n, k in zip(norms, (coupling.scores.group_norms(p.item) for p in penalties)))


def test_a_budget_that_is_not_met_is_said():
    model = nets.randomize(nets.plain())
    coupling.regularize_coupled(model, 1e-6)
    model.compile(keras.optimizers.SGD(1e-9), "mse")
    proximal = CoupledProximal(macs=0.4)
    # `pytest.warns` would raise what the libraries deprecate among themselves.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model.fit(*fit_data(model), verbose=0, callbacks=[proximal])
    (said,) = [str(item.message) for item in caught if item.category is UserWarning]
    assert "do not free 40% " in said and "raise the strength" in said and proximal.met_at is None


def test_proximal_steps_do_not_empty_a_set_unless_the_network_goes_on_without_it():
    inputs = keras.Input((5,))
    hidden = L.Dense(6, activation="tanh", name="trunk")(inputs)
    branch = L.Dense(6, name="end")(L.Dense(4, activation="tanh", name="branch")(hidden))
    model = nets.randomize(keras.Model(inputs, L.Dense(3)(L.Add()([hidden, branch]))))
    penalties = coupling.regularize_coupled(model, 100.0).penalties
    largest = {p.item.name: ops.convert_to_numpy(p.norms(p.anchor.variable.value)).max() for p in penalties}
    model.compile(keras.optimizers.SGD(1e-9), "mse")
    model.fit(*fit_data(model), verbose=0, callbacks=[CoupledProximal(step=1.0)])
    left = {p.item.name: np.sort(ops.convert_to_numpy(p.norms(p.anchor.variable.value))) for p in penalties}
    branch, trunk = sorted(left, key=lambda name: left[name].max())
    assert "branch" in branch and (left[branch] == 0).all()
    assert (left[trunk][:-1] == 0).all() and left[trunk][-1] > 0 and left[trunk][-1] <= largest[trunk]


def test_the_proximal_solver_refuses_what_it_cannot_solve():
    model = one_set()
    model.compile("sgd", "mse")
    x, y = fit_data(model)
    with pytest.raises(ValueError, match="needs coupled penalties"):
        model.fit(x, y, verbose=0, callbacks=[CoupledProximal()])
    regularize(model, "filter", 1e-3)
    coupling.regularize_coupled(model, 1e-3)
    with pytest.raises(ValueError, match="and no others.*dense"):
        model.fit(x, y, verbose=0, callbacks=[CoupledProximal()])
    for bad in (0, -1.0, "x"):
        with pytest.raises((ValueError, TypeError), match="step"):
            CoupledProximal(bad)
    for bad in (1.0, -0.1, "half"):
        with pytest.raises(ValueError, match="`macs` must be in .*Received: macs="):
            CoupledProximal(macs=bad)
    inputs = keras.Input((5,))
    model = keras.Model(inputs, L.Dense(3)(L.Concatenate()([inputs, L.Dense(6)(inputs)])))
    coupling.regularize_coupled(model, 1e-3)
    model.compile("sgd", "mse")
    before = [ops.convert_to_numpy(w) for w in model.weights]
    with pytest.raises(ValueError, match="`macs` must be at most 0.762"):  # 30 + 18 of 63
        model.fit(*fit_data(model), verbose=0, callbacks=[CoupledProximal(macs=0.77)])
    for weight, value in zip(model.weights, before):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)


def test_what_a_budget_can_reach_beside_frozen_layers_is_said():
    model = nets.randomize(nets.two_headed())
    model.get_layer("box_conv").trainable = False
    with pytest.warns(UserWarning, match="They count in the budget, which can reach macs from .* to "):
        coupling.prune_groups(model, budget="macs=0.95")


# Numbers against plain loops.


def some_kept(coupled, seed=0):
    """Random keep flags, one group of each set at least."""
    rng = np.random.default_rng(seed)
    keeps = [rng.random(item.num_groups) < 0.6 for item in coupled.sets]
    for keep in keeps:
        keep[rng.integers(len(keep))] = True
    return keeps


@pytest.mark.parametrize("build", nets.NETS)
def test_what_is_left_is_what_is_counted_on_the_smaller_model(build):
    """Multiply-accumulates, weights of kernels, parameters and bytes of any groups, before the model is rebuilt."""
    model = nets.randomize(build())
    coupled = coupling.groups(model)
    keeps, cost = some_kept(coupled), coupling.Cost(coupled)
    flat = np.concatenate(keeps)
    kinds = [types.SimpleNamespace(stored_in=stored) for stored in STORED]
    found = {name: quantity.at(flat) for name, quantity in cost.quantities.items()}
    found |= {stored: cost.inner("bytes", kind).at(flat) for stored, kind in zip(STORED, kinds)}
    assert cost.macs() == count_macs(model) == cost.macs([np.ones(item.num_groups, bool) for item in coupled.sets])
    coupling.pruning.zero_groups(model, coupled, keeps)
    small = shrinking.shrink(model)
    assert found["macs"] == cost.macs(keeps) == count_macs(small)
    assert found["parameters"] == count_parameters(small)
    shapes = [(tuple(weight.shape), weight.name) for weight in small.weights]
    kernels = sum(int(np.prod(shape)) for shape, _ in shapes if len(shape) > 1)
    shifts = sum(shape[0] for shape, name in shapes if len(shape) == 1 and name in ("bias", "beta"))
    for stored, (weight, channel) in STORED.items():
        assert found[stored] == weight * kernels + channel * shifts


STORED = {"float32": (4, 4), "float16": (2, 2), "int8": (1, 28), "int16": (1, 32), "weight_int4": (0.5, 16)}


def test_weights_of_a_budget_are_those_of_kernels_each_once():
    x = keras.Input((6, 6, 2))
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    h = shared(L.Conv2D(4, 1, name="a")(x)) + shared(L.Conv2D(4, 1, name="b")(x))
    model = nets.randomize(keras.Model(x, L.Dense(3)(L.GlobalMaxPooling2D()(L.BatchNormalization()(h)))))
    coupled = coupling.groups(model)
    quantities = coupling.Cost(coupled).quantities
    everything = np.ones(coupled.num_groups, bool)
    kernels = 2 * (2 * 4) + 9 * 4 * 4 + 4 * 3
    assert quantities["weights"].at(everything) == kernels
    assert quantities["parameters"].at(everything) == kernels + 4 + 4 + 4 + 3 + 16
    assert quantities["macs"].at(everything) == 36 * (2 * 8 + 2 * 144) + 12
    # What comes with one group, each by itself.
    changes = quantities["macs"].changes(everything)
    for group in range(coupled.num_groups):
        without = everything.copy()
        without[group] = False
        assert changes[group] == quantities["macs"].at(everything) - quantities["macs"].at(without)


def floors_by_hand(keep, score, minimum, step):
    """One group after the other, the best first, until there are enough and they are a multiple of `step`, or all."""
    keep, best = keep.copy(), sorted(range(len(keep)), key=lambda group: -score[group])
    rescued = 0
    while keep.sum() < min(max(1, minimum), len(keep)):
        keep[next(group for group in best if not keep[group])] = True
        rescued += 1
    while keep.sum() % step and not keep.all():
        keep[next(group for group in best if not keep[group])] = True
    return keep, rescued


@pytest.mark.parametrize("minimum", [0, 1, 2, 5, 100])
@pytest.mark.parametrize("multiple", [1, 2, 4, 5])
def test_floors_give_the_best_back_and_count_what_was_rescued(minimum, multiple):
    coupled = coupling.groups(nets.squeeze_excite())  # no branch: 16, 4 and 6 channels
    rng = np.random.default_rng(minimum * 10 + multiple)
    for share in (0.0, 0.1, 0.5, 1.0):
        keeps = [rng.random(item.num_groups) < share for item in coupled.sets]
        values = [rng.permutation(item.num_groups).astype("float64") for item in coupled.sets]
        kept, rescued = Floors(coupled, minimum, multiple)(keeps, values)
        for item, keep, score, found, saved in zip(coupled.sets, keeps, values, kept, rescued, strict=True):
            wanted, given = floors_by_hand(keep, score, minimum, multiple)
            np.testing.assert_array_equal(found, wanted)
            assert saved == given
    with pytest.raises(ValueError, match="`minimum` must be"):
        Floors(coupled, -1)
    with pytest.raises(ValueError, match="`multiple_of` must be"):
        Floors(coupled, 1, 0)
    assert (Floors(coupled).minimum, Floors(coupled).multiple_of) == (1, 1)


@pytest.mark.parametrize("multiple", [1, 2, 4])
def test_what_fits_comes_back_the_sets_of_the_highest_mean_first(multiple):
    coupled = coupling.groups(nets.squeeze_excite())
    rng, floors_of = np.random.default_rng(multiple), Floors(coupled, 1, multiple)
    values = [rng.permutation(item.num_groups) / item.num_groups for item in coupled.sets]
    keeps, _ = floors_of([rng.random(item.num_groups) < 0.3 for item in coupled.sets], values)
    keeps[1][:] = False  # one that is gone whole stays gone
    for most in (sum(int(keep.sum()) for keep in keeps) + more for more in (0, 3, 8, 100)):
        wanted, changed = [keep.copy() for keep in keeps], True
        while changed:
            changed, options = False, []
            for number, (item, keep, score) in enumerate(zip(coupled.sets, wanted, values)):
                if 0 < keep.sum() < len(keep):
                    more, _ = floors_by_hand(keep, score, keep.sum() + 1, multiple)
                    options.append((score[more & ~keep].mean(), number, more))
            for _, number, more in sorted(options, key=lambda option: option[:2], reverse=True):
                if sum(keep.sum() for keep in wanted) - wanted[number].sum() + more.sum() <= most:
                    wanted[number], changed = more, True
                    break
        found = floors_of.fill(keeps, values, lambda tried: sum(int(keep.sum()) for keep in tried) <= most)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
        assert not keeps[1].any()


def test_a_few_good_groups_come_back_before_many_fair_ones():
    """Four of 16 would come back with a mean of 0.5, two of six with 0.6, and only one of both fits."""
    coupled = coupling.groups(nets.squeeze_excite())
    sizes = [item.num_groups for item in coupled.sets]
    keeps = [np.arange(size) < 4 for size in sizes]
    values = [np.where(keep, 1.0, 0.5 if size == 16 else 0.6) for size, keep in zip(sizes, keeps)]
    found = Floors(coupled, 1, 4).fill(keeps, values, lambda tried: sum(int(keep.sum()) for keep in tried) <= 16)
    assert {size: int(keep.sum()) for size, keep in zip(sizes, found)} == {16: 4, 4: 4, 6: 6}


@pytest.mark.parametrize("scope", ["model", "set"])
@pytest.mark.parametrize("sparsity", [0.0, 0.26, 0.5, 0.9])
def test_ranks_are_over_the_model_or_in_each_set(scope, sparsity):
    rng = np.random.default_rng(0)
    values = [rng.permutation(8) * 1.0, rng.permutation(5) * 2.0, rng.permutation(3) * 3.0]
    found = demands.ranked(values, sparsity, scope)
    if scope == "set":
        for score, keep in zip(values, found, strict=True):
            np.testing.assert_array_equal(np.sort(score)[int(sparsity * len(score) + 1e-9) :], np.sort(score[keep]))
    else:
        order = np.argsort(np.concatenate(values), kind="stable")[: int(sparsity * 16 + 1e-9)]
        np.testing.assert_array_equal(np.flatnonzero(~np.concatenate(found)), np.sort(order))


def test_prices_are_what_a_group_frees_of_what_is_hardest_to_meet():
    coupled = coupling.groups(nets.plain())
    cost = coupling.Cost(coupled)
    everything = np.ones(coupled.num_groups, bool)
    for name in ("macs", "weights", "parameters"):
        found = demands.prices_of(coupled.sets, demands.demands_of(coupled, budgets.get({name: 0.5})))
        freed = []
        for group in range(coupled.num_groups):
            without = everything.copy()
            without[group] = False
            freed.append(cost.quantities[name].at(everything) - cost.quantities[name].at(without))
        np.testing.assert_allclose(np.concatenate(found), freed)
        assert [len(price) for price in found] == [item.num_groups for item in coupled.sets]
        (demand,) = demands.demands_of(coupled, budgets.get({name: 0.5}))
        assert demand.name == name and demand.limit == 0.5 * cost.quantities[name].at(everything)


def test_a_group_that_frees_nothing_has_a_price_all_the_same():
    class Flat:
        def at(self, keep):
            return 200.0 + keep[0]

        def changes(self, keep):
            return np.eye(len(keep))[0]

    coupled = coupling.groups(one_set())
    prices = demands.prices_of(coupled.sets, [demands.Demand("macs", Flat(), 100.0)])
    np.testing.assert_allclose(prices[0], [1.0] + 5 * [201e-6])


@pytest.mark.parametrize("name, limit", [("macs", 0.55), ("weights", 0.57), ("parameters", 0.6)])
@pytest.mark.parametrize("options", [{}, {"multiple_of": 4}, {"minimum": 2}, {"scope": "set"}, {"criterion": "lamp"}], ids=str)
def test_a_budget_is_met_and_no_group_that_went_still_fits(name, limit, options):
    model = nets.randomize(nets.squeeze_excite())
    coupled = coupling.groups(model)
    quantity = coupling.Cost(coupled).quantities[name]
    most = limit * quantity.at(np.ones(coupled.num_groups, bool))
    report = coupling.prune_groups(model, budget={name: limit}, **options)
    keeps = [scores.group_norms(item) > 0 for item in coupled.sets]
    assert [int(keep.sum()) for keep in keeps] == [item.kept_groups for item in report.sets]
    assert quantity.at(np.concatenate(keeps)) <= most
    assert all(item.kept_groups >= options.get("minimum", 1) for item in report.sets)
    step = options.get("multiple_of", 1)
    assert all(item.kept_groups % step == 0 or item.kept_groups == item.num_groups for item in report.sets)
    if options.get("scope") == "set":
        assert len({item.kept_groups == item.num_groups for item in report.sets}) == 1
        return
    for number, keep in enumerate(keeps):
        more = min(len(keep), (int(keep.sum()) // step + 1) * step) - int(keep.sum())
        if more:
            tried = [flags.copy() for flags in keeps]
            tried[number][np.flatnonzero(~keep)[:more]] = True
            assert quantity.at(np.concatenate(tried)) > most, coupled.sets[number].name


def test_limits_that_channels_cannot_give_are_refused_with_the_least():
    model = nets.randomize(nets.squeeze_excite())
    coupled = coupling.groups(model)
    quantities = coupling.Cost(coupled).quantities
    everything, least = np.ones(coupled.num_groups, bool), np.concatenate([np.arange(i.num_groups) < 1 for i in coupled.sets])
    four = np.concatenate([np.arange(item.num_groups) < 4 for item in coupled.sets])
    found = pruning.least_left(model)
    assert found == {name: (quantity.at(least), quantity.at(everything)) for name, quantity in quantities.items()}
    assert pruning.least_left(model, 4) == {name: (q.at(four), q.at(everything)) for name, q in quantities.items()}
    for multiple, flags in ((1, least), (4, four)):
        share = quantities["macs"].at(flags) / quantities["macs"].at(everything)
        assert pruning.most_macs(model, multiple) == pytest.approx(1 - share)
        pruning.check_within_reach(model, budgets.get({"macs": 1.001 * share}), multiple)
        words = "multiple of 4" if multiple == 4 else "every set keeps a group"
        with pytest.raises(ValueError, match=words):
            pruning.check_within_reach(model, budgets.get({"macs": 0.98 * share}), multiple)
        with pytest.raises(ValueError, match=words):
            coupling.prune_groups(model, budget={"macs": 0.98 * share}, multiple_of=multiple)
        with pytest.raises(ValueError, match=f"`macs` must be at most {1 - share:.3f}, all that"):
            coupling.prune_groups(model, macs=1.002 * (1 - share), multiple_of=multiple)
    pruning.check_within_reach(model, budgets.get({"macs": 1.001 * (1 - pruning.most_macs(model))}))
    assert pruning.most_macs(model) == 1 - quantities["macs"].at(least) / quantities["macs"].at(everything)
    with pytest.raises(ValueError, match="must leave at least .* macs, where channels stay a multiple of 4"):
        pruning.check_within_reach(model, budgets.get({"macs": 0.9 * share}), 4)


def test_prices_by_name_are_between_a_quarter_and_four():
    class Set:
        def __init__(self, weights):
            self.weights_per_group = weights

    class Found:
        sets = [Set(weights) for weights in (1, 10, 40, 49, 1000)]

    assert savings.of_sets("weights", Found) == pytest.approx([0.25, 0.25, 0.25, 0.25, 4.0])
    Found.sets = [Set(weights) for weights in (30, 50, 40)]
    assert savings.of_sets("weights", Found) == pytest.approx([0.75, 1.25, 1.0])
    assert savings.of_sets("equal", Found) == [1.0, 1.0, 1.0] and savings.of_sets(2.5, Found) == [2.5, 2.5, 2.5]
    assert savings.of_sets(lambda item: item.weights_per_group / 10, Found) == [3.0, 5.0, 4.0]
    coupled = coupling.groups(nets.plain())
    cost = coupling.Cost(coupled)
    saved = []
    for number in range(3):
        keeps = [np.ones(item.num_groups, bool) for item in coupled.sets]
        keeps[number][0] = False
        saved.append(cost.macs() - cost.macs(keeps))
    assert savings._macs_per_group(coupled) == saved


# How the loss reacts to a group.


def gated_loss(model, x, y, parts, group, gate):
    """The loss with the weights that read a group multiplied by a gate."""
    before = [ops.convert_to_numpy(part.variable.value).copy() for part in parts]
    for part, values in zip(parts, before):
        changed = values.copy()
        np.moveaxis(changed, part.axis, 0)[part.group_of == group] *= gate
        part.variable.assign(changed)
    loss = float(model.compute_loss(x=x, y=y, y_pred=model(x, training=False)))
    for part, values in zip(parts, before):
        part.variable.assign(values)
    return loss


def test_reactions_are_squared_derivatives_by_a_gate_averaged_over_batches():
    model = nets.randomize(keras.Sequential([
        keras.Input((6, 6, 2)), L.Conv2D(4, 3, name="conv"), L.BatchNormalization(), L.Activation("tanh"), L.Flatten(),
        L.Dense(5, activation="tanh", name="hidden"), L.Dense(3, name="top"),
    ]))  # fmt: skip
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 6, 6, 2)).astype("float32"), rng.normal(size=(10, 3)).astype("float32")
    sets = coupling.groups(model).sets
    found = gates.reactions(model, sets, labelled.given(model, (x, y)), batch_size=4)
    order = np.random.default_rng(0).permutation(10)
    for item, reaction in zip(sets, found, strict=True):
        parts = [part for part in item.slices if part.role == "read"]
        assert reaction.shape == (item.num_groups,) and gates._parts(item) == parts
        for group in range(item.num_groups):
            wanted = 0.0
            for rows in (order[:4], order[4:8], order[8:]):
                high, low = (gated_loss(model, x[rows], y[rows], parts, group, 1.0 + step) for step in (0.01, -0.01))
                wanted += ((high - low) / 0.02) ** 2
            assert reaction[group] == pytest.approx(wanted, rel=0.02, abs=1e-5)
    whole = gates.reactions(model, sets, labelled.given(model, (x, y)))
    assert not np.allclose(whole[0], found[0], rtol=1e-3)


def test_reactions_are_of_32_examples_at_once():
    model, rng = one_set(), np.random.default_rng(0)
    model.compile("sgd", "mse")
    data = labelled.given(model, (rng.normal(size=(70, 5)).astype("float32"), rng.normal(size=(70, 3)).astype("float32")))
    sets = coupling.groups(model).sets
    (found,), (same,), (other,) = (gates.reactions(model, sets, data, *size) for size in ((), (32,), (33,)))
    np.testing.assert_allclose(found, same)
    assert not np.allclose(found, other, rtol=1e-3)


def test_so_much_computing_goes_to_a_thousandth():
    """A layer of 2,000 units, each a 2,000th of the computing."""
    for macs, kept in ((0.0, 2000), (0.3, 1400), (0.0001, 1998), (0.5, 1000), (0.3001, 1398)):
        model = keras.Sequential([keras.Input((2,)), L.Dense(2000), L.Dense(1)])
        coupled = coupling.groups(model)
        values = scores.ranking(coupled.sets, "kernel")
        (keep,) = demands.without_macs(Floors(coupled), values, macs, "model")
        assert keep.sum() == kept and values[0][keep].min() > values[0][~keep].max(initial=0.0)


def test_reactions_without_labels_or_a_loss_are_refused():
    model, (x, y) = one_set(), (np.zeros((4, 5), "float32"), np.zeros((4, 3), "float32"))
    sets = coupling.groups(model).sets
    with pytest.raises(ValueError, match="needs the gradients of a loss.*compiled=False"):
        gates.reactions(model, sets, labelled.given(model, (x, y)))
    model.compile("sgd", "mse")
    for examples in (None, labelled.given(model, x)):
        with pytest.raises(ValueError, match="needs labelled examples"):
            gates.reactions(model, sets, examples)


def test_a_set_that_nothing_trainable_touches_does_not_react():
    model = nets.randomize(nets.plain())
    model.compile("sgd", "mse")
    model.layers[-2].trainable = model.layers[-1].trainable = False  # the first reads the second set, and makes the last
    sets = coupling.groups(model).sets
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    found = gates.reactions(model, sets, labelled.given(model, (x, np.ones((4, 4), "float32"))))
    assert [bool(reaction.any()) for reaction in found] == [True, True, False]
    np.testing.assert_array_equal(found[2], np.zeros(sets[2].num_groups))


def test_a_set_is_measured_by_what_reads_it_or_else_by_what_makes_it():
    layers = [L.Conv2D(4, 1, name="made"), L.BatchNormalization(name="norm"), L.PReLU(), L.Flatten(), L.Dense(2)]
    (item,) = coupling.groups(keras.Sequential([keras.Input((4, 4, 3)), *layers])).sets
    expected = [("read",), ("norm/gamma", "norm/beta"), ("made/kernel", "made/bias"), ()]
    for names in expected:
        parts = gates._parts(item)
        assert all(part.role == "read" for part in parts) if names == ("read",) else {part.name for part in parts} == set(names)
        for part in parts:
            part.variable.trainable = False


def test_the_reaction_by_what_makes_groups_is_that_by_what_reads_them():
    """A gate before slopes, or behind them: they change nothing but the part that is negative."""
    model = nets.randomize(sloped(L.PReLU(shared_axes=(1, 2), name="slopes")))
    model.compile("sgd", "mse")
    sets = coupling.groups(model).sets
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3, 3, 1)).astype("float32"), random.normal(size=(8, 2)).astype("float32")
    (by_readers,) = gates.reactions(model, sets, labelled.given(model, (x, y)))
    model.get_layer("top").trainable = False
    (by_makers,) = gates.reactions(model, sets, labelled.given(model, (x, y)))
    np.testing.assert_allclose(by_makers, by_readers, rtol=1e-4)


@pytest.mark.parametrize("build", [nets.plain, nets.dense_block, nets.lstm, nets.attention])
def test_slopes_are_sums_of_weight_times_gradient(build):
    rng = np.random.default_rng(0)
    sets = coupling.groups(nets.randomize(build())).sets
    assert sets and all(item.slices for item in sets)
    for item in sets:
        for part in item.slices:
            values = ops.convert_to_numpy(part.variable.value)
            gradient = rng.normal(size=values.shape).astype("float32")
            wanted = np.zeros(item.num_groups)
            for index, group in enumerate(part.group_of):
                if group >= 0:
                    wanted[group] += (np.take(values, index, part.axis) * np.take(gradient, index, part.axis)).sum()
            np.testing.assert_allclose(gates._slopes(part, gradient, item.num_groups), wanted, rtol=1e-3, atol=1e-4)


def test_a_fraction_is_not_overshot_by_the_rounding_of_floats():
    """(1 - 0.9) * 2,000 is less than 200, so that one thousandth more went."""
    layers = [keras.layers.Dense(1000, use_bias=False), keras.layers.Dense(1, use_bias=False)]
    model = keras.Sequential([keras.Input((1,)), *layers])
    coupling.prune_groups(model, macs=0.9)
    assert np.count_nonzero(ops.convert_to_numpy(layers[0].kernel)) == 100


def test_the_average_of_reactions_is_plain_first_and_then_moves_slowly():
    (penalty,) = coupling.regularize_coupled(one_set(), budget="macs=0.5").penalties
    rng, seen = np.random.default_rng(0), []
    mean = np.zeros(6)
    for number in range(60):
        squares = rng.random(6).astype("float32")
        seen.append(squares)
        average(penalty.saliency, penalty.batches, ops.convert_to_tensor(squares))
        mean = mean + max(1 / (number + 1), 0.02) * (squares - mean)
        np.testing.assert_allclose(penalty.saliency, mean, rtol=1e-4)
        assert float(penalty.batches) == number + 1
        if number == 30:
            np.testing.assert_allclose(penalty.saliency, np.mean(seen, axis=0), rtol=1e-4)
            for bad in (np.nan, np.inf):
                values = np.where(np.arange(6) == 2, bad, squares).astype("float32")
                average(penalty.saliency, penalty.batches, ops.convert_to_tensor(values))
                np.testing.assert_allclose(penalty.saliency, mean, rtol=1e-4)
                assert float(penalty.batches) == number + 1


@pytest.mark.parametrize("eagerly", [True, False])
def test_gates_listen_to_the_gradients_that_an_optimizer_applies(eagerly):
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, budget="macs=0.5").penalties
    listening, optimizer = gates.Gates([penalty]), keras.optimizers.SGD(0.0)
    model.compile(optimizer, "mse", run_eagerly=eagerly)
    x, y = fit_data(model)
    listening.open(optimizer)
    assert "apply" in vars(optimizer)
    model.fit(x, y, batch_size=32, epochs=1, verbose=0)
    listening.close()
    assert "apply" not in vars(optimizer) and float(penalty.batches) == 1
    listening.close()  # a second time does nothing
    wanted = gates.reactions(model, [penalty.item], labelled.given(model, (x, y)))
    np.testing.assert_allclose(penalty.saliency, wanted[0], rtol=1e-3)
    assert np.asarray(wanted[0]).min() > 0


# Parts of the penalty and of its solver.


def test_what_a_penalty_with_a_budget_is():
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, budget="macs=0.5", criterion="kernel").penalties
    assert penalty.negligible == 0.0 and sum(float(loss) for loss in model.losses) == 0.0 and not penalty.renewable
    assert penalty.get_config() == {
        "num_groups": 6, "budget": budgets.get("macs=0.5").to_dict(), "criterion": "kernel", "position": 0,
    }  # fmt: skip
    assert penalty.saliency.shape == (6,) and float(ops.sum(penalty.saliency)) == 0.0 == float(penalty.batches)
    again = type(penalty).from_config(penalty.get_config())
    assert again.get_config() == penalty.get_config()
    with pytest.raises(ValueError, match="(?i)budget|renew"):
        penalty.update(penalty.anchor.variable)


@pytest.mark.parametrize("spare", [False, True, None])
def test_a_soft_threshold_spares_the_largest_group_when_told(spare):
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, 1.0).penalties
    before = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
    for amounts in (np.full(6, 0.3 * before.max()), np.full(6, 0.9 * before.max()), before.copy()):
        model.set_weights(nets.randomize(model).get_weights())
        before = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
        penalty.soft_threshold(amounts.astype("float32"), *([] if spare is None else [spare]))
        after = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
        taken = amounts.copy()
        if spare:
            largest = int(before.argmax())
            taken[largest] = min(taken[largest], before[largest] / 2)
        np.testing.assert_allclose(after, np.maximum(before - taken, 0), atol=1e-5)
        assert (after[before <= 0.999 * taken] == 0).all()
    for weight in model.weights:
        weight.assign(ops.zeros_like(weight.value))
    penalty.soft_threshold(np.ones(6, "float32"), bool(spare))
    assert all((ops.convert_to_numpy(weight.value) == 0).all() for weight in model.weights)


def test_a_penalty_that_is_relative_of_a_set_that_is_gone_is_finite():
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, 1.0, relative=True).penalties
    for weight in model.weights:
        weight.assign(ops.zeros_like(weight.value))
    penalty.update(penalty.anchor.variable)
    assert float(penalty.scale) == pytest.approx(1e-12)
    assert np.isfinite(penalty.penalty_weights).all() and float(sum(model.losses)) == 0.0
    np.testing.assert_array_equal(penalty.compared_norms(penalty.anchor.variable), 0.0)


def test_compared_norms_are_raised_to_the_power_of_the_penalty():
    for relative in (False, True):
        (penalty,) = coupling.regularize_coupled(one_set(), 1.0, "log_squared", relative=relative).penalties
        norms = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable))
        scale = np.sqrt(np.mean(norms**2)) if relative else 1.0
        assert penalty.penalty.power == 2
        np.testing.assert_allclose(penalty.compared_norms(penalty.anchor.variable), (norms / scale) ** 2, rtol=1e-5)
        penalty.penalty_weights.assign(np.arange(6.0))
        np.testing.assert_allclose(penalty(penalty.anchor.variable), np.sum(np.arange(6) * norms**2), rtol=1e-5)


def test_configurations_of_coupled_penalties_hold_every_argument():
    arguments = {
        "num_groups": 7, "strength": 0.25, "penalty": {"name": "arctan", "epsilon": 0.3}, "criterion": "gamma", "price": 3.0,
        "relative": True, "position": 2,
    }  # fmt: skip
    penalty = coupling.Coupled(**arguments)
    config = penalty.get_config()
    assert {**config, "penalty": None} == {**arguments, "penalty": None} and config["penalty"] == penalty.penalty.serialize()
    assert coupling.Coupled.from_config(config).get_config() == config
    np.testing.assert_array_equal(penalty.penalty_weights, np.full(7, 3.0))
    plain = coupling.Coupled(3)
    assert (plain.strength, plain.price, plain.position, plain.relative) == (1e-3, 1.0, 0, False)
    assert plain.criterion == "kernel+gamma+next"
    assert plain.penalty.name == "log_sum" and plain.scale is None
    with pytest.raises(ValueError, match="`num_groups`"):
        coupling.Coupled(0)
    assert coupling.Coupled(1).num_groups == 1


def test_a_penalty_whose_set_has_changed_is_refused():
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, 1.0).penalties
    for wrong in ({"num_groups": 5}, {"position": 1}):
        other = type(penalty).from_config({**penalty.get_config(), **wrong})
        target = types.SimpleNamespace(variable=model.layers[0].kernel, name="dense/kernel")
        with pytest.raises(ValueError, match=r"must find its \d groups in the model again.*groups=\[6\]"):
            other.connect(model, target)
        assert other.item is None
    other = type(penalty).from_config(penalty.get_config())
    other.connect(model, target)
    assert other.item.num_groups == 6 and other.anchor.variable is model.layers[0].kernel
    item = other.item
    other.connect(one_set(), target)  # it has one already
    assert other.item is item


def test_the_penalty_of_a_copy_that_was_never_connected_is_attached_by_pruning():
    model = nets.randomize(nets.plain())
    coupling.regularize_coupled(model, 0.1)
    copy = keras.models.clone_model(model)
    for part in (part for item in coupling.groups(copy).sets for part in item.slices if part.role != "state"):
        flags = np.ones(int(part.group_of.max()) + 1, bool)
        flags[1:3] = False
        part.variable.assign(part.variable * part.mask(flags))
    report = coupling.prune_groups(copy)
    assert [item.kept_groups for item in report.sets] == [item.num_groups - 2 for item in report.sets]


class Rates(keras.callbacks.Callback):
    """Sets the learning rate of each step."""

    def __init__(self, rates):
        super().__init__()
        self.rates = list(rates)

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rates.pop(0)


@pytest.mark.parametrize("eagerly", [True, False])
def test_steps_follow_the_learning_rate_relative_to_the_largest_so_far(eagerly, monkeypatch):
    if eagerly:
        monkeypatch.setattr(proximal_solver, "compiled", lambda function: function)
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, 2.0, price=3.0).penalties
    penalty.penalty_weights.assign(np.linspace(0.5, 2.0, 6))
    before = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
    rates = [0.0, 2e-12, 4e-12, 1e-12]  # the first of all may be zero, and takes nothing
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = fit_data(model)
    solver = CoupledProximal(step=1e-2)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[Rates(rates), solver])
    after = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
    np.testing.assert_allclose(before - after, 2.0 * 1e-2 * np.linspace(0.5, 2.0, 6) * (1 + 1 + 0.25), rtol=1e-3)
    assert solver.met_at is None and solver.checkpoint_state() is None


@pytest.mark.parametrize("executed_together", [1, 2, 3])
def test_as_much_is_taken_off_whatever_number_of_steps_is_executed_together(executed_together):
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, 2.0).penalties
    before = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
    model.compile(keras.optimizers.SGD(1e-12), "mse", steps_per_execution=executed_together)
    x, y = fit_data(model)
    solver = CoupledProximal(step=1e-3)
    model.fit(x, y, batch_size=-(-len(x) // 8), epochs=2, verbose=0, callbacks=[solver])
    after = ops.convert_to_numpy(penalty.norms(penalty.anchor.variable.value))
    assert solver._steps == int(model.optimizer.iterations) == 16
    np.testing.assert_allclose(before - after, 16 * 2.0 * 1e-3 * np.ones(6), rtol=1e-3)


@pytest.mark.parametrize("eagerly", [True, False])
def test_what_is_zero_when_the_budget_is_met_is_held_and_the_rest_is_free(eagerly, monkeypatch):
    """The look comes every ten steps; nothing is pressed from then on, and what was zero cannot come back."""
    if eagerly:
        monkeypatch.setattr(proximal_solver, "compiled", lambda function: function)
    model = one_set()
    (penalty,) = coupling.regularize_coupled(model, 1.0).penalties
    rng = np.random.default_rng(0)
    start = np.array([1.0, 1.1, 1.2, 4.0, 5.0, 6.0])
    for weight, axis in ((model.layers[0].kernel, 1), (model.layers[1].kernel, 0)):
        values = rng.normal(size=weight.shape)
        weight.assign(np.moveaxis(np.moveaxis(values, axis, -1), -1, axis))
    for weight, axis in ((model.layers[0].kernel, 1), (model.layers[1].kernel, 0)):
        values = ops.convert_to_numpy(weight).copy()
        shape = [1, 1]
        shape[axis] = 6
        weight.assign(values / np.sqrt(np.square(values).sum(1 - axis, keepdims=True)) * (start / np.sqrt(2)).reshape(shape))
    np.testing.assert_allclose(penalty.norms(penalty.anchor.variable.value), start, rtol=1e-5)
    model.compile(keras.optimizers.SGD(1e-12), "mse")
    x, y = fit_data(model)
    solver = CoupledProximal(step=0.1, macs=0.5)
    model.fit(x, y, batch_size=8, epochs=8, verbose=0, callbacks=[solver])
    # A tenth a step: three of six are zero after twelve steps, which is seen after twenty.
    assert solver.met_at == 20
    np.testing.assert_allclose(penalty.norms(penalty.anchor.variable.value), [0, 0, 0, 2.0, 3.0, 4.0], atol=2e-3)
    np.testing.assert_array_equal(solver.checkpoint_state()[0], [np.inf, np.inf, np.inf, 0, 0, 0])
    # What comes back is taken again, and no more of the others.
    solver.set_model(model)
    held = solver.checkpoint_state()
    solver = CoupledProximal(step=0.1, macs=0.5)

    class Resumed(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            solver.continue_from(held)
            kernel = ops.convert_to_numpy(self.model.layers[0].kernel).copy()
            kernel[:, 1] = 0.5
            self.model.layers[0].kernel.assign(kernel)

    model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[solver, Resumed()])
    np.testing.assert_allclose(penalty.norms(penalty.anchor.variable.value), [0, 0, 0, 2.0, 3.0, 4.0], atol=2e-3)
    assert solver.met_at == 0


def test_a_solver_for_a_budget_knows_exactly_what_its_channels_can_give():
    model = one_set()  # 5 x 6 + 6 x 3 products
    coupled = coupling.groups(model)
    made = coupling.regularize_coupled(model, 1.0).penalties
    items = [types.SimpleNamespace(regularizer=penalty) for penalty in made]
    for macs in (0.0, 1.0 / 6, 0.5):
        budget = proximal_solver._Budget(coupled, items, macs)
        for gone in range(7):
            for part in made[0].item.slices:
                flags = np.arange(6) >= gone
                part.variable.assign(np.ones(part.variable.shape) * part.mask(flags))
            assert budget.met() == (gone >= 6 * macs - 1e-9), (macs, gone)
    proximal_solver._Budget(coupled, items, 1.0)


# What `prune_groups` takes, decides and says.


@pytest.mark.parametrize("arguments, words", [
    ({"sparsity": 50}, "`sparsity` must be in"), ({"sparsity": 1.0}, "`sparsity` must be in"),
    ({"sparsity": -0.1}, "`sparsity` must be in"), ({"macs": 1.0}, "`macs` must be in"), ({"macs": -0.5}, "`macs` must be in"),
    ({"sparsity": 0.5, "macs": 0.5}, "`sparsity` and `macs` exclude each other"),
    ({"sparsity": 0.0, "budget": "macs=0.5"}, "`sparsity` and `budget` exclude each other"),
    ({"criterion": "kernel"}, "`criterion` ranks where an amount says how much goes"),
    ({"scope": "set"}, "`scope` says where an amount has to hold"),
    ({"sparsity": 0.5, "criterion": "size"}, "known criterion"), ({"sparsity": 0.5, "scope": "layer"}, "known scope"),
    ({"sparsity": 0.5, "minimum": -1}, "`minimum` must be"), ({"sparsity": 0.5, "multiple_of": 0}, "`multiple_of` must be"),
    ({"sparsity": 0.5, "criterion": "taylor"}, "needs the gradients of a loss"),
    ({}, "Expected a model with a coupled penalty on it"),
])  # fmt: skip
def test_what_cannot_be_pruned_is_said_and_nothing_changes(arguments, words):
    model = one_set()
    before = model.get_weights()
    with pytest.raises(ValueError, match=words):
        coupling.prune_groups(model, **arguments)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("flag", ["include_frozen", "reconstruct"])
def test_flags_are_bools(flag):
    for act in (coupling.prune_groups, shrinking.shrink)[: 2 if flag == "include_frozen" else 1]:
        with pytest.raises(TypeError, match=f"`{flag}` must be a bool"):
            act(one_set(), **{"multiple_of": 1, flag: 1})
    for name in ("find_groups", "return_report"):
        with pytest.raises(TypeError, match=f"`{name}` must be a bool"):
            shrinking.shrink(one_set(), **{name: 1})
    with pytest.raises(TypeError, match="`relative` must be a bool"):
        coupling.regularize_coupled(one_set(), relative=1)


def test_the_ranking_without_a_criterion():
    """By norms without a budget; with one by the loss's reactions where these can be known, else LAMP."""
    model, (x, y) = one_set(), (np.ones((4, 5), "float32"), np.ones((4, 3), "float32"))
    labelled_, bare = labelled.given(model, (x, y)), labelled.given(model, x)
    budget = budgets.get("macs=0.5")
    for compiled in (False, True):
        if compiled:
            model.compile("sgd", "mse")
        for examples in (None, bare, labelled_):
            assert pruning._default_criterion(model, None, examples) == "kernel+gamma+next"
            expected = "taylor" if compiled and examples is labelled_ else "lamp"
            assert pruning._default_criterion(model, budget, examples) == expected


@pytest.mark.parametrize("criterion", ["lamp", "taylor", "kernel", "kernel_l1", None])
def test_a_ranking_decides_which_groups_go(criterion):
    model = one_set()
    model.compile("sgd", "mse")
    x, y = fit_data(model)
    (item,) = coupling.groups(model).sets
    if criterion == "taylor":
        values = gates.reactions(model, [item], labelled.given(model, (x, y)))[0]
    else:
        norms = scores.group_norms(item, {"lamp": scores.CRITERIA[0], None: scores.CRITERIA[0]}.get(criterion, criterion))
        values = norms
    report = coupling.prune_groups(model, 0.5, criterion=criterion, data=(x, y) if criterion == "taylor" else None)
    assert report.kept_groups == 3 and report.notes == () and report.reconstructed == ()
    kept = scores.group_norms(item) > 0
    assert set(np.flatnonzero(kept)) == set(np.argsort(-values)[:3].tolist())


def test_notes_say_what_was_not_removed():
    model = one_set()
    with pytest.warns(UserWarning, match="sparsity=0.1 is less than one group, the smallest of which is 0.167"):
        report = coupling.prune_groups(model, 0.1)
    assert len(report.notes) == 1 and report.kept_groups == 6 and report.notes[0] in str(report)
    assert report.to_dict()["notes"] == list(report.notes)
    # A sixth less than asked for is what one group is.
    assert coupling.prune_groups(one_set(), 0.3).notes == ()
    short = coupling.prune_groups(one_set(), 0.8, multiple_of=4)
    assert short.kept_groups == 4 and len(short.notes) == 1
    assert "33.3% was removed where sparsity=0.8 was asked for, 46.7% less" in short.notes[0]
    with (
        pytest.warns(UserWarning, match="Nothing was removed where sparsity=0.5 was asked for"),
        pytest.warns(UserWarning, match="Too many groups"),
    ):
        assert coupling.prune_groups(one_set(), 0.5, minimum=6).kept_groups == 6
    # In each set a group may be spared, of all one.
    report = pruning.GroupPruneReport(tuple(pruning.PrunedSet(str(i), 8, 10, 0) for i in range(3)), ())
    assert pruning._short(report, 0.23, "model") is None and pruning._short(report, 0.29, "set") is None
    assert "9.0% less" in pruning._short(report, 0.29, "model") and "11.0% less" in pruning._short(report, 0.31, "set")
    assert pruning._short(report, None, "model") is None and pruning._short(report, 0.2, "model") is None
    whole = pruning.GroupPruneReport((pruning.PrunedSet("a", 10, 10, 0),), ())
    assert pruning._short(whole, 0.0, "model") is None
    assert "is less than one group" in pruning._short(whole, 0.05, "model")
    assert "was asked for" in pruning._short(whole, 0.25, "model") and pruning._short(whole, 0.1, "model") is None


def test_a_penalty_that_freed_nothing_says_so_with_its_strongest():
    model = nets.randomize(nets.plain())
    coupling.regularize_coupled(model, 0.5)
    with pytest.warns(UserWarning, match="the penalty freed none of 24 groups.* instead of 0.5"):
        report = coupling.prune_groups(model)
    assert len(report.notes) == 1 and report.kept_groups == report.num_groups == 24
    model = one_set()
    coupling.regularize_coupled(model, budget="macs=0.99999")
    with pytest.warns(UserWarning, match="do not meet"):
        assert coupling.prune_groups(model).kept_groups == 5


def test_what_a_penalty_with_a_budget_made_zero_goes_and_the_rest_only_where_it_must():
    for zero, kept, warned in ((3, 3, False), (4, 2, False), (2, 3, True)):
        model = one_set()
        (penalty,) = coupling.regularize_coupled(model, budget="macs=0.5").penalties
        for part in penalty.item.slices:
            part.variable.assign(part.variable * part.mask(np.arange(6) >= zero))
        norms = scores.group_norms(penalty.item)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            report = coupling.prune_groups(model)
        assert any("do not meet" in str(item.message) for item in caught) == warned
        assert report.kept_groups == kept
        left = scores.group_norms(penalty.item) > 0
        assert set(np.flatnonzero(left)) == set(np.argsort(-norms)[:kept].tolist())


def test_reports_add_up():
    frozen = coupling.groups(nets.plain()).frozen
    sets = (pruning.PrunedSet("a", 3, 8, 0), pruning.PrunedSet("b", 1, 2, 1))
    report = pruning.GroupPruneReport(sets, frozen, ("note",), ({"name": "x"},))
    assert (report.kept_groups, report.num_groups, report.sparsity) == (4, 10, 0.6)
    assert report.to_dict() == {
        "sparsity": 0.6,
        "sets": [
            {"name": "a", "kept_groups": 3, "num_groups": 8, "rescued": 0},
            {"name": "b", "kept_groups": 1, "num_groups": 2, "rescued": 1},
        ],
        "frozen": [{"name": item.name, "num_channels": item.num_channels, "reasons": item.reasons} for item in frozen],
        "notes": ["note"],
        "reconstructed": [{"name": "x"}],
    }


def test_zeroed_groups_are_held_in_every_variable_but_statistics():
    model = nets.randomize(nets.plain())
    coupled = coupling.groups(model)
    keeps = some_kept(coupled)
    before = {id(weight): ops.convert_to_numpy(weight.value).copy() for weight in model.weights}
    with pytest.warns(UserWarning, match="Too many groups of .* were to be removed; the best"):
        report = pruning.zero_groups(model, coupled, keeps, [0, 2, 0])
    assert [item.rescued for item in report.sets] == [0, 2, 0] and report.frozen == coupled.frozen
    assert [item.kept_groups for item in report.sets] == [int(keep.sum()) for keep in keeps]
    expected = {id(weight): np.ones(tuple(weight.shape), bool) for weight in model.weights}
    for item, keep in zip(coupled.sets, keeps, strict=True):
        for part in item.slices:
            for index, group in enumerate(part.group_of):
                if part.role != "state" and group >= 0 and not keep[group]:
                    np.moveaxis(expected[id(part.variable)], part.axis, 0)[index] = False
    for weight in model.weights:
        mask, values = expected[id(weight)], ops.convert_to_numpy(weight.value)
        np.testing.assert_array_equal(values, before[id(weight)] * mask)
        constraint = getattr(weight, "constraint", None)
        assert (constraint is not None) == (not mask.all())
        if constraint is not None:
            np.testing.assert_array_equal(np.broadcast_to(constraint.as_numpy(), mask.shape), mask)
    # A copy that is given the weights holds the same groups when told to.
    copy = nets.plain()
    copy.set_weights(model.get_weights())
    assert coupling.hold_groups(copy) == sum(int((~keep).sum()) for keep in keeps)
    for weight, other in zip(model.trainable_weights, copy.trainable_weights, strict=True):
        assert (weight.constraint is None) == (other.constraint is None)
        if weight.constraint is not None:
            np.testing.assert_array_equal(weight.constraint.as_numpy(), other.constraint.as_numpy())
    assert coupling.hold_groups(nets.randomize(nets.plain())) == 0


def test_a_group_with_one_number_left_is_not_held():
    model = one_set()
    coupling.prune_groups(model, 0.5)
    copy = one_set()
    copy.set_weights(model.get_weights())
    gone = np.flatnonzero(scores.group_norms(coupling.groups(model).sets[0]) == 0)
    bias = ops.convert_to_numpy(copy.layers[0].bias).copy()
    bias[gone[0]] = -1e-3
    copy.layers[0].bias.assign(bias)
    assert coupling.hold_groups(copy) == 2


def test_bounds_of_a_budget_beside_frozen_layers_are_counted():
    model = nets.randomize(nets.two_headed())
    model.get_layer("box_conv").trainable = False
    coupled = pruning.removable(model)
    assert [item.name for item in coupled.sets] == ["kind_conv"] and len(pruning.removable(model, True).sets) == 3
    cost = coupling.Cost(coupled)
    least, whole = np.arange(7) < 1, np.ones(7, bool)
    for name, quantity in (("macs", "macs"), ("parameters", "parameters"), ("sparsity", "weights"), ("weights", "weights")):
        low, high = (cost.quantities[quantity].at(flags) for flags in (least, whole))
        said = pruning._bounds(coupled, budgets.get({name: 0.5}))
        assert said == f" They count in the budget, which can reach {quantity} from {low:,.4g} to {high:,.4g}."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruning.warn_of_frozen(model, include_frozen=True)
    with pytest.warns(UserWarning, match="The channels of backbone, box_conv are left whole: box_conv has trainable=False"):
        report = coupling.prune_groups(model, 0.5)
    assert (report.kept_groups, report.num_groups) == (4, 7)
    assert {item.name for item in report.frozen} >= {"backbone", "box_conv"}
    told = coupling.prune_groups(model, 0.5, include_frozen=True)
    assert told.num_groups == 8 + 6 + 7


def test_penalties_of_a_model_are_found_by_their_sets():
    model = nets.randomize(nets.plain())
    made = coupling.regularize_coupled(model, 0.1).penalties
    sets = coupling.groups(model).sets
    assert pruning.penalties_of(sets, made) == list(made) and pruning.penalties_of(sets, made[1:]) == [None, *made[1:]]
    assert [penalty.item.name for penalty in made] == [item.name for item in sets]
    # Sets without a penalty stay whole; norms are those that its penalty sees.
    from tf_reweight.penalties.attachment import detach

    detach(model)
    made = coupling.regularize_coupled(model, 0.1, criterion="kernel").penalties
    values, keeps = pruning._freed(model, Floors(coupling.groups(model)))
    for item, value, keep, penalty in zip(sets, values, keeps, made, strict=True):
        np.testing.assert_allclose(value, scores.group_norms(item, "kernel"))
        np.testing.assert_array_equal(keep, value > penalty.negligible)


def test_what_carries_a_penalty_and_what_is_left_out():
    model = nets.randomize(nets.two_headed())
    made = coupling.regularize_coupled(model)
    assert [penalty.strength for penalty in made.penalties] == [1e-3] * 3 and made.penalties[0].penalty.name == "log_sum"
    assert {penalty.criterion for penalty in made.penalties} == {"kernel+gamma+next"}
    assert {(penalty.position, penalty.price, penalty.relative) for penalty in made.penalties} == {(0, 1.0, False)}
    for item in made.penalties:
        assert item.anchor.variable is next(part.variable for part in item.item.slices if part.role == "out")
    found = made.to_dict()
    assert sorted(entry["name"] for entry in found["sets"]) == ["backbone", "box_conv", "kind_conv"]
    assert {entry["name"]: entry["reason"] for entry in found["left_out"]} == {
        "box": "output of the model", "kind": "output of the model",
    }  # fmt: skip
    for words in ({"penalty": "arctan"}, {"price": 2.0}, {"relative": True}, {"strength": 0.1}):
        with pytest.raises(ValueError, match=f"`?{next(iter(words))}`?.*budget|budget.*{next(iter(words))}"):
            coupling.regularize_coupled(nets.two_headed(), budget="macs=0.5", **words)
    model = one_set()
    for layer in model.layers:
        layer.trainable = False
    with pytest.raises(ValueError, match="channels that can be removed"):
        coupling.regularize_coupled(model)
    # A budget that even one group of each set does not meet is refused, before anything changes.
    model = one_set()
    with pytest.raises(ValueError, match="macs"):
        coupling.regularize_coupled(model, budget={"macs": 1 / 6 - 0.01})
    assert not model.losses
    coupling.regularize_coupled(model, budget={"macs": 1 / 6 + 0.001})


def test_a_budget_counts_what_cannot_be_pressed_whole():
    x = keras.Input((4,))
    h = L.Dense(6, activation="tanh", name="free")(x)
    h = L.Dense(6, activation="tanh", name="held")(h)
    model = keras.Model(x, L.Dense(2, name="top")(L.Dense(5, activation="tanh", name="also")(h)))
    model.get_layer("also").trainable = False
    # 24 + 36 + 30 + 10 products, of which 4 + 6 + 30 + 10 stay.
    with pytest.raises(ValueError, match="macs"):
        coupling.regularize_coupled(model, budget={"macs": 0.49})
    with pytest.warns(UserWarning, match="can reach macs from 50 to 100"):
        made = coupling.regularize_coupled(model, budget={"macs": 0.51})
    assert [penalty.item.name for penalty in made.penalties] == ["free"]


def test_times_of_operations_are_curves_over_what_each_multiplies():
    coupled = coupling.groups(one_set())  # 5 x 6 and 6 x 3 products
    cost = coupling.Cost(coupled)
    curves = [([0.0, 30.0], [0.0, 60.0]), ([0.0, 9.0, 18.0], [1.0, 2.0, 11.0])]
    budget = types.SimpleNamespace(calibration={"latency_ms": {"operations": curves}}, stored_in="float32")
    inner = cost.inner("latency_ms", budget)
    for kept, second in ((6, 11.0), (3, 2.0), (4, 5.0)):
        assert inner.at(np.arange(6) < kept) == pytest.approx(10.0 * kept + second)
    for wrong in ([], curves[:1], [*curves, curves[0]]):
        budget.calibration = {"latency_ms": {"operations": wrong}}
        with pytest.raises(ValueError, match=f"time of each kernel's operation.*operations={len(wrong)}, kernels=2"):
            cost.inner("latency_ms", budget)
    points = ([0.0, 192.0 + 36], [100.0, 328.0])
    budget = types.SimpleNamespace(calibration={"bytes": {"points": points}}, stored_in="float32", of_files=("bytes",))
    (found,) = cost.of_files(budget).values()
    # 48 weights and 9 biases of 4 bytes each, and 100 bytes beside them.
    whole, half = np.ones(6, bool), np.arange(6) < 3
    assert found.at(whole) == pytest.approx(328.0) and found.at(half) == pytest.approx(100 + 4 * (24 + 6))


def test_a_solver_that_has_not_begun_holds_nothing():
    solver = CoupledProximal()
    assert solver.checkpoint_state() is None and solver.met_at is None and solver.macs is None
    assert solver.step == proximal_solver.STEP and CoupledProximal(2, 0.25).macs == 0.25 and CoupledProximal(2).step == 2.0


def test_a_model_without_channels_to_remove_says_why_of_five():
    x = keras.Input((4,))
    model = keras.Model(x, [L.Dense(1, name=f"head{number}")(x) for number in range(7)])
    with pytest.raises(ValueError, match="Expected a model with channels that can be removed") as caught:
        coupling.prune_groups(model, 0.5)
    assert str(caught.value).count("output of the model") == 5


@pytest.mark.parametrize("criterion", ["kernel", "gamma", "kernel+gamma+next", "kernel_l1"])
def test_norms_are_summed_in_double_precision(criterion):
    model = keras.Sequential([keras.Input((20000,)), L.Dense(3, name="made"), L.Dense(2)])
    kernel = np.random.default_rng(0).normal(size=(20000, 3)).astype("float32")
    kernel[0] = 300.0
    model.layers[0].kernel.assign(kernel)
    model.layers[1].kernel.assign(np.zeros((3, 2)))
    (item,) = coupling.groups(model).sets
    measure = np.abs(kernel) if criterion == "kernel_l1" else np.square(kernel, dtype="float64")
    totals = np.array([sum(map(float, measure[:, column])) for column in range(3)])
    expected = totals if criterion == "kernel_l1" else np.sqrt(totals)
    np.testing.assert_allclose(scores.group_norms(item, criterion), expected, rtol=1e-12)


def test_a_solver_leaves_the_model_as_it_was():
    model = nets.randomize(nets.plain())
    made = coupling.regularize_coupled(model, 0.5).penalties
    norm = model.layers[1]
    assert norm.momentum == 0.99
    model.compile(keras.optimizers.SGD(1e-12), "mse")
    seen = []

    class During(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((norm.momentum, sum(float(loss) for loss in self.model.losses), logs["loss"]))

    x, y = fit_data(model)
    bare = float(np.mean((ops.convert_to_numpy(model(x)) - y) ** 2))
    solver = CoupledProximal(step=1e-9)
    for _ in range(2):
        model.fit(x, y, batch_size=32, epochs=1, verbose=0, callbacks=[solver, During()])
        assert norm.momentum == 0.99 and sum(float(loss) for loss in model.losses) > 1.0
        assert solver._items == [] and solver._steps == 1
    assert [(momentum, losses) for momentum, losses, _ in seen] == [(0.9, 0.0)] * 2
    assert bare > 0 and all(loss < model.evaluate(x, y, verbose=0) - 1.0 for *_, loss in seen)
    assert [penalty.strength for penalty in made] == [0.5] * 3
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            assert layer.kernel.regularizer is layer.kernel_regularizer


def test_all_sets_of_a_kernel_are_told_apart_by_their_position(tmp_path):
    x = keras.Input((4,))
    a, b, c = ops.split(L.Dense(9, name="made")(x), [2, 5], axis=-1)
    h = L.Concatenate()([L.Dense(2, name="a")(a), L.Dense(3, name="b")(b), L.Dense(4, name="c")(c)])
    model = nets.randomize(keras.Model(x, L.Dense(2, name="top")(h)))
    model.get_layer("b").trainable = False
    with pytest.warns(UserWarning, match="left whole: b has trainable=False"):
        made = coupling.regularize_coupled(model, 0.1, price=lambda item: float(item.num_groups))
    on_kernel = [penalty for penalty in made.penalties if penalty.item.name == "made"]
    assert [(penalty.num_groups, penalty.position, penalty.price) for penalty in on_kernel] == [(2, 0, 2.0), (4, 2, 4.0)]
    for penalty, columns in zip(on_kernel, (slice(0, 2), slice(5, 9))):
        norms = np.square(ops.convert_to_numpy(model.get_layer("made").kernel)[:, columns]).sum(0)
        reader = model.get_layer("a" if columns.stop == 2 else "c")
        norms = np.sqrt(norms + np.square(ops.convert_to_numpy(reader.kernel)).sum(1))
        np.testing.assert_allclose(penalty.norms(penalty.anchor.variable), norms, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    attach(again)
    from tf_reweight.coupling.penalty import coupled_penalties

    loaded = [penalty for penalty in coupled_penalties(again) if penalty.item.name == "made"]
    assert [(penalty.num_groups, penalty.position) for penalty in loaded] == [(2, 0), (4, 2)]
    for penalty, other in zip(on_kernel, loaded, strict=True):
        np.testing.assert_allclose(penalty.norms(penalty.anchor.variable), other.norms(other.anchor.variable))


def test_anchors_are_the_first_kernels_that_can_carry_a_penalty():
    from tf_reweight.coupling.penalty import anchored
    from tf_reweight.kernels.table import find

    model = nets.residual()
    sets = coupling.groups(model).sets
    targets = find(model)[0]
    names = {item.name: target.name for item, target in anchored(sets, targets, trainable=True)}
    assert names == {"stem + back + more": "stem/kernel", "inner": "inner/kernel"}
    model.get_layer("stem").trainable = False
    assert {i.name: t.name for i, t in anchored(sets, targets, trainable=True)}["stem + back + more"] == "back/kernel"
    assert {i.name: t.name for i, t in anchored(sets, targets, trainable=False)}["stem + back + more"] == "stem/kernel"
    assert [target for _, target in anchored(sets, [], trainable=False)] == [None, None]
    x = keras.Input((6, 6, 4))
    h = L.Conv2D(8, 3, groups=2, name="grouped")(L.Conv2D(8, 1, name="before")(x))
    coupled = coupling.groups(keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(h))))
    ((item, target),) = anchored(coupled.sets, find(coupled.model)[0], trainable=True)
    assert (item.name, target.name) == ("before", "before/kernel")


def test_groups_change_places_until_a_budget_is_used_up():
    """By `prune_groups` and by `prune` alike: what stays is closer to the limit than the lowest that went one by one."""
    from tf_reweight.kernels.budgeted import choose

    closer = 0
    for limit in (0.35, 0.45, 0.55, 0.65):
        model = nets.randomize(nets.squeeze_excite())
        coupled = coupling.groups(model)
        wanted = demands.demands_of(coupled, budgets.get({"macs": limit}))
        values = scores.ranking(coupled.sets, "lamp", demands.prices_of(coupled.sets, wanted))
        spared = np.concatenate([score == score.max() for score in values])
        exact, plain = (choose(np.concatenate(values), wanted, spared, exact=exact).keep for exact in (True, False))
        coupling.prune_groups(model, budget={"macs": limit})
        kept = np.concatenate([scores.group_norms(item) > 0 for item in coupled.sets])
        np.testing.assert_array_equal(kept, exact)
        closer += wanted[0].room(exact) < wanted[0].room(plain)
    assert closer > 0


@pytest.mark.parametrize("options", [
    {"minimum": 0}, {"minimum": 1}, {}, {"minimum": 2}, {"multiple_of": 2}, {"scope": "set"},
], ids=str)  # fmt: skip
def test_groups_are_chosen_one_by_one_where_any_number_may_stay(options):
    """A set that may go whole, multiples, and a fraction in each set need a common sparsity instead."""
    from tf_reweight.kernels.budgeted import choose

    model = nets.randomize(nets.residual())
    coupled = coupling.groups(model)
    limit = 0.5 if "scope" in options else 0.2
    wanted = demands.demands_of(coupled, budgets.get({"macs": limit}))
    values = scores.ranking(coupled.sets, "lamp", demands.prices_of(coupled.sets, wanted))
    minimum = options.get("minimum", 1)
    spared = np.concatenate([score >= np.sort(score)[-max(1, minimum)] for score in values])
    single = demands.split(coupled.sets, choose(np.concatenate(values), wanted, spared, exact=True).keep)
    floors = Floors(coupled, minimum, options.get("multiple_of", 1))
    common = demands.within(floors, values, wanted, options.get("scope", "model"))
    report = coupling.prune_groups(model, budget={"macs": limit}, **options)
    alone = minimum > 0 and "multiple_of" not in options and "scope" not in options
    kept = [scores.group_norms(item) > 0 for item in coupled.sets]
    for found, expected in zip(kept, single if alone else common, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any((one != other).any() for one, other in zip(single, common))
    assert report.kept_groups == sum(int(keep.sum()) for keep in kept)
