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
from tf_reweight.coupling import CoupledProximal, demands, floors, gates, proximal_solver, pruning, savings, scores
from tf_reweight.coupling.floors import Floors
from tf_reweight.data import labelled
from tf_reweight.graph.counting import count_macs, count_parameters
from tf_reweight.penalties.attachment import attach, regularize
from tf_reweight.penalties.reweighting import Reweighting
from tf_reweight.pruning.keep_zeros import KeepZeros

L = keras.layers


def sets_of(model):
    return {item.name: item for item in coupling.groups(model).sets}


# Pruning.


def test_group_norms_against_a_plain_loop():
    from tf_reweight.coupling.scores import counted_slices, group_norms

    model = nets.randomize(nets.dense_block())
    for item in coupling.groups(model).sets:
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
    assert "box_conv: left out, frozen" in str(made)
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
    for price, savings in (("macs", saved), ("weights", [item.weights_per_group for item in found.sets])):
        made = coupling.regularize_coupled(nets.randomize(nets.two_headed()), 0.1, price=price).penalties
        expected = np.clip(np.divide(savings, np.mean(savings)), 0.25, 4.0)
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
        words = "multiple of 4" if multiple == 4 else "macs"
        with pytest.raises(ValueError, match=words):
            pruning.check_within_reach(model, budgets.get({"macs": 0.98 * share}), multiple)
        with pytest.raises(ValueError, match=words):
            coupling.prune_groups(model, budget={"macs": 0.98 * share}, multiple_of=multiple)
        with pytest.raises(ValueError, match=f"`macs` must be at most {1 - share:.3f}, all that"):
            coupling.prune_groups(model, macs=1.002 * (1 - share), multiple_of=multiple)
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
