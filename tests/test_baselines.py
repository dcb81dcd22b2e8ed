"""The baselines do what they are named after: ADMM projects to the nearest point, schedules are tfmot's, zeros are exact."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops
from tables import random_kernel

import tf_reweight as tfr
from tf_reweight.baselines import (
    ADMM,
    AdmmPenalty,
    Clip,
    Clipping,
    ConstantSparsity,
    GradualMagnitude,
    PolynomialDecay,
    projection,
    schedules,
)
from tf_reweight.kernels import grouping, selection
from tf_reweight.penalties import epsilons
from tf_reweight.penalties.attachment import attachments
from tf_reweight.penalties.reweighting import Reweighting

L = keras.layers


def small_net(**arguments):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            L.Conv2D(4, 3, name="conv", activation="relu"),
            L.Flatten(),
            L.Dense(3, name="top", activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", **arguments)
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.random((64, 6, 6, 1)).astype("float32"), rng.integers(0, 3, 64)


def kernels_of(model):
    return {t.name: ops.convert_to_numpy(t.variable.value) for t in tfr.kernels.table.find(model)[0]}


def zeros(model):
    return sum(count for count, _ in tfr.sparsity(model).values())


# The projection ------------------------------------------------------------------------------------------------------


def dense_net(*shapes):
    """One Dense per shape, each on an input of its own."""
    inputs = [keras.Input((rows,)) for rows, _ in shapes]
    return keras.Model(inputs, [L.Dense(units, name=f"d{i}")(x) for i, (x, (_, units)) in enumerate(zip(inputs, shapes))])


@pytest.mark.parametrize("structure", ["unstructured", "filter", "channel", "column", {"name": "block", "shape": [2, 2]}])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_the_projection_is_the_nearest_point(structure, sparsity, scope):
    """Against every choice of groups: none that removes as many weights, and leaves a group per kernel, is nearer."""
    shapes = [(3, 3), (2, 4)] if structure != "unstructured" else [(2, 3), (2, 2)]
    model = dense_net(*shapes)
    selected, _ = selection.select(model, structure, ["d0", "d1"])
    kernels = [random_kernel(shape, seed) for seed, shape in enumerate(shapes)]
    masks = projection.masks(selected, kernels, sparsity, scope, "magnitude")
    for job in [[0], [1]] if scope == "layer" else [[0, 1]]:
        pieces = [(i, group) for i in job for group in groups_of(selected[i], kernels[i].shape)]
        removed = sum((~masks[i]).sum() for i in job)
        lost = sum((kernels[i][~masks[i]] ** 2).sum() for i in job)
        assert removed <= sparsity * sum(kernels[i].size for i in job) + 1e-6
        for choice in itertools.product([False, True], repeat=len(pieces)):
            gone = [piece for piece, chosen in zip(pieces, choice) if chosen]
            cut_off = {i for i, _ in pieces} - {i for (i, _), chosen in zip(pieces, choice) if not chosen}
            if sum(group.sum() for _, group in gone) >= removed and not cut_off:
                assert sum((kernels[i][group] ** 2).sum() for i, group in gone) >= lost - 1e-5


@pytest.mark.parametrize("criterion", grouping.CRITERIA)
@pytest.mark.parametrize("structure", ["unstructured", "filter", "column", {"name": "block", "shape": [2, 2]}])
@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.filterwarnings("ignore:Every group of dense.*kernel was to be removed")
def test_the_projection_keeps_what_prune_keeps(structure, criterion, scope):
    """So that `prune` with the same amount, scope and criterion ends what ADMM began."""
    model = keras.Sequential([keras.Input((6,)), *(L.Dense(units) for units in (5, 8, 7, 2))])
    for i, layer in enumerate(model.layers):
        layer.kernel.assign(random_kernel(layer.kernel.shape, i) * 1.25**i)
    kernels = kernels_of(model)
    selected, _ = selection.select(model, structure)
    masks = projection.masks(selected, [kernels[item.target.name] for item in selected], 0.6, scope, criterion)
    tfr.prune(model, structure, sparsity=0.6, scope=scope, criterion=criterion)
    pruned = kernels_of(model)
    for item, mask in zip(selected, masks):
        np.testing.assert_array_equal(mask, pruned[item.target.name] != 0)


def groups_of(item, shape):
    """A bool array of kernel shape for each group."""
    scopes, groups = item.structure.group_shape(shape)
    for flat in range(scopes * groups):
        flags = np.zeros(scopes * groups, "float32")
        flags[flat] = 1
        yield ops.convert_to_numpy(item.structure.mask(flags.reshape(scopes, groups), shape)) != 0


def test_the_projection_is_idempotent_and_lets_n_of_m_decide():
    model = dense_net((8, 3))
    selected, _ = selection.select(model, "n_of_m")
    kernel = random_kernel((8, 3))
    (mask,) = projection.masks(selected, [kernel], None)
    assert (mask.reshape(2, 4, 3).sum(1) == 2).all()
    np.testing.assert_array_equal(projection.masks(selected, [kernel * mask], None)[0], mask)


# ADMM ----------------------------------------------------------------------------------------------------------------


def test_admm_adds_its_formula_to_the_loss_and_the_gradient(data):
    model = small_net()
    ADMM("filter", 0.5, rho=0.3, layers="conv").attach(model)
    (item,) = attachments(model)
    kernel = kernels_of(model)["conv/kernel"]
    z, u = (random_kernel(kernel.shape, seed) for seed in (1, 2))
    item.regularizer.z.assign(z)
    item.regularizer.u.assign(u)
    assert float(sum(model.losses)) == pytest.approx(0.15 * ((kernel - z + u) ** 2).sum(), rel=1e-5)
    model.compile(keras.optimizers.SGD(1.0), lambda y, outputs: 0.0 * ops.sum(outputs, axis=-1))
    model.fit(*data, batch_size=64, epochs=1, verbose=0)
    moved = kernels_of(model)["conv/kernel"] - kernel
    np.testing.assert_allclose(moved, -0.3 * (kernel - z + u), rtol=1e-4, atol=1e-6)


def test_admm_updates_are_those_of_the_textbook(data):
    """Z = project(W + U), U = U + W - Z, U rescaled when rho grows, replayed in NumPy from the recorded kernels."""
    model, seen = small_net(), []

    class Record(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(kernels_of(self.model)["conv/kernel"])

    admm = ADMM("unstructured", 0.75, rho=(1e-2, 8e-2), layers="conv")
    model.fit(*data, epochs=4, callbacks=[Record(), admm], verbose=0)

    def project(values):
        order = np.argsort(np.abs(values), axis=None, kind="stable")
        kept = values.copy()
        kept.flat[order[: int(0.75 * values.size)]] = 0
        return kept

    z, u, rho = project(seen[0]), 0 * seen[0], 1e-2
    for epoch, kernel in enumerate(seen[1:], 1):
        new_rho = 1e-2 * 8 ** (epoch / 3)
        total, z = kernel + u, project(kernel + u)
        u, rho = (total - z) * rho / new_rho, new_rho
    (item,) = attachments(model)
    np.testing.assert_allclose(ops.convert_to_numpy(item.regularizer.z), z, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(item.regularizer.u), u, atol=1e-6)
    assert float(item.regularizer.rho) == pytest.approx(8e-2, rel=1e-5)
    assert [entry["epoch"] for entry in admm.history] == [0, 1, 2, 3]


@pytest.mark.parametrize("structure, sparsity", [("filter", 0.5), ("kernel", 0.5), ({"name": "pattern"}, None)])
def test_admm_brings_kernels_near_the_sparse_set_and_prune_ends_it(structure, sparsity, data):
    model = small_net()
    admm = ADMM(structure, sparsity, rho=(1e-1, 10.0), every=4, layers="conv")
    model.fit(*data, epochs=20, batch_size=8, callbacks=[admm], verbose=0)
    assert admm.history[-1]["distance"] < 0.3 * admm.history[0]["distance"]
    report = tfr.prune(model, sparsity=sparsity)
    assert not attachments(model)
    (kernel,) = report.kernels
    assert kernel.kept_weights < kernel.num_weights
    if sparsity is not None:
        assert kernel.kept_groups == kernel.num_groups - int(sparsity * kernel.num_groups)


def test_admm_state_survives_save_and_load_and_the_run_goes_on_exactly(data, tmp_path):
    def run(model, epochs, first=0):
        model.fit(
            *data, epochs=epochs, initial_epoch=first, shuffle=False, verbose=0, callbacks=[ADMM("unstructured", 0.5, 1e-2)]
        )
        return model

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    whole = small_net()
    weights = whole.get_weights()
    run(whole, 4)
    half = small_net()
    half.set_weights(weights)
    half.fit(*data, epochs=4, shuffle=False, verbose=0, callbacks=[ADMM("unstructured", 0.5, 1e-2), Stop()])
    half.save(tmp_path / "half.keras")
    resumed = run(keras.saving.load_model(tmp_path / "half.keras"), 4, first=2)
    for one, two in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_admm_penalty_config_round_trip():
    layout = tfr.kernels.table.Layout.standard((3, 3, 2, 4))
    penalty = AdmmPenalty({"name": "block", "shape": [2, 2]}, 0.1, layout)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(penalty))
    assert again.get_config() == penalty.get_config() and again.layout == layout
    assert keras.saving.get_registered_name(AdmmPenalty) == "tf_reweight>AdmmPenalty"


def test_admm_keeps_other_regularizers_and_refuses_ours(data):
    model = small_net()
    model.layers[0].kernel.regularizer = model.layers[0].kernel_regularizer = keras.regularizers.L2(0.1)
    ADMM("filter", 0.5, layers="conv").attach(model)
    model.summary(print_fn=lambda text, **_: None)
    assert float(sum(model.losses)) > 0.1 * (kernels_of(model)["conv/kernel"] ** 2).sum()
    tfr.prune(model, sparsity=0.5)
    assert isinstance(model.layers[0].kernel.regularizer, keras.regularizers.L2)
    tfr.regularize(model, "filter", 1e-3, layers="conv")
    with pytest.raises(ValueError, match="other penalties.*Received: .*detach"):
        ADMM("filter", 0.5).attach(model)
    tfr.detach(model)
    ADMM("filter", 0.5).attach(model)
    with pytest.raises(ValueError, match="whose weights it can renew.*Received: .*AdmmPenalty"):
        model.fit(*data, epochs=1, callbacks=[Reweighting()], verbose=0)


# Schedules and gradual pruning ---------------------------------------------------------------------------------------


def test_polynomial_decay_has_tfmots_values():
    schedule = PolynomialDecay(0.2, 0.8, 100, 110)
    assert [schedule.sparsity(step) for step in (100, 102, 105, 110)] == pytest.approx([0.2, 0.4928, 0.725, 0.8])
    assert schedule.sparsity(99) == 0.0 and schedule.sparsity(1000) == pytest.approx(0.8)


@pytest.mark.parametrize(
    "schedule, step, expected",
    [
        (ConstantSparsity(0.5, 10), 9, None),
        (ConstantSparsity(0.5, 10), 10, 10),
        (ConstantSparsity(0.5, 10), 115, 110),
        (ConstantSparsity(0.5, 10, end_step=50, frequency=30), 49, 40),
        (ConstantSparsity(0.5, 10, end_step=50, frequency=30), 90, 50),
        (PolynomialDecay(0.0, 0.5, 0, 25, frequency=10), 24, 20),
        (PolynomialDecay(0.0, 0.5, 0, 25, frequency=10), 25, 25),
    ],
)
def test_when_masks_are_renewed(schedule, step, expected):
    assert schedule.last_update(step) == expected


@pytest.mark.parametrize("schedule", [ConstantSparsity(0.5, 10), PolynomialDecay(0.1, 0.9, 5, 20, power=2, frequency=7)])
def test_schedule_config_round_trip(schedule):
    assert schedules.get(schedule.serialize()) == schedule


@pytest.mark.parametrize(
    "structure, compile_arguments",
    [
        ("filter", {"jit_compile": False}),
        ("kernel", {"run_eagerly": True}),
        ("unstructured", {"steps_per_execution": 3}),
        ("unstructured", {"jit_compile": True}),
    ],
)
def test_gradual_pruning_follows_its_schedule_and_zeros_are_exact(structure, compile_arguments, data):
    """8 steps an epoch: from 0.2 at step 4 to 0.75 at step 20, per layer, and it stays there."""
    model = small_net(**compile_arguments)
    schedule = PolynomialDecay(0.2, 0.75, 4, 20, frequency=5)
    gradual = GradualMagnitude(schedule, structure, "conv")
    model.fit(*data, batch_size=8, epochs=4, callbacks=[gradual], verbose=0)
    if "steps_per_execution" not in compile_arguments:
        assert [entry["step"] for entry in gradual.history] == [4, 9, 14, 19, 20]
    assert gradual.history[-1]["step"] == 20
    kernel = kernels_of(model)["conv/kernel"]
    assert (kernel == 0).sum() == 27 and zeros(model) == 27
    found = [entry["sparsity"] for entry in gradual.history]
    assert found == sorted(found) and found[-1] == pytest.approx(0.75)
    model.fit(*data, epochs=1, verbose=0)
    assert ((kernels_of(model)["conv/kernel"] == 0) == (kernel == 0)).all()
    assert tfr.release(model) == 1


@pytest.mark.parametrize("criterion", grouping.CRITERIA)
def test_gradual_pruning_of_weights_that_do_not_move_is_pruning_at_once(criterion, data):
    model = small_net(jit_compile=False)
    model.get_layer("top").kernel.assign(model.get_layer("top").kernel * 2.0)
    once = keras.models.clone_model(model)
    once.set_weights(model.get_weights())
    tfr.prune(once, "unstructured", sparsity=0.6, criterion=criterion)
    model.optimizer.learning_rate = 0.0
    gradual = GradualMagnitude(PolynomialDecay(0.0, 0.6, 0, 12, frequency=4), scope="model", criterion=criterion)
    model.fit(*data, batch_size=8, epochs=2, callbacks=[gradual], verbose=0)
    wanted, found = kernels_of(once), kernels_of(model)
    assert wanted and found.keys() == wanted.keys()
    for name, kernel in found.items():
        np.testing.assert_array_equal(kernel, wanted[name])


@pytest.mark.parametrize("structure, own", [("pattern", 5 / 9), ({"name": "n_of_m", "n": 1, "m": 2, "axis": "out"}, 0.5)])
def test_gradual_pruning_reaches_structures_that_decide_themselves_step_by_step(structure, own, data):
    """Masks only ever shrink, and in the end each scope keeps no more than the structure would."""
    model = small_net(jit_compile=False)
    gradual = GradualMagnitude(PolynomialDecay(0.1, 0.9, 0, 12, frequency=4), structure, "conv")
    model.fit(*data, batch_size=8, epochs=2, callbacks=[gradual], verbose=0)
    found = [entry["sparsity"] for entry in gradual.history]
    assert found[0] == pytest.approx(0.1, abs=0.02) and found == sorted(found) and own <= found[-1] < own + 0.15
    (item,) = selection.select(model, structure, "conv")[0]
    norms = item.structure.group_norms(item.target.standard_kernel())
    outside = ~ops.convert_to_numpy(item.structure.select(norms))
    assert (ops.convert_to_numpy(norms)[outside] == 0).all()


def test_gradual_pruning_goes_on_in_a_second_fit_and_respects_what_was_pruned(data):
    model = small_net()
    tfr.prune(model, sparsity=0.25, structure="unstructured", scope="layer")
    before = {name: kernel == 0 for name, kernel in kernels_of(model).items()}
    schedule = PolynomialDecay(0.0, 0.5, 0, 16, frequency=4)
    for _ in range(2):
        gradual = GradualMagnitude(schedule)
        model.fit(*data, batch_size=8, epochs=1, callbacks=[gradual], verbose=0)
    assert gradual.history[-1]["step"] == 12 and 0.25 < gradual.history[-1]["sparsity"] < 0.5
    assert all((kernel[before[name]] == 0).all() for name, kernel in kernels_of(model).items())


def test_a_schedule_that_begins_too_late_is_said_so():
    gradual, model = GradualMagnitude(ConstantSparsity(0.5, 1000)), small_net()
    gradual.set_model(model)
    gradual.set_params({"steps": 2, "epochs": 3})
    with pytest.warns(UserWarning, match="nothing is pruned"):
        gradual.on_train_begin()
    assert gradual.history == [] and all((kernel != 0).all() for kernel in kernels_of(model).values())


@pytest.mark.parametrize("same", [True, False])
def test_two_of_admm_in_one_fit_are_refused(same, data):
    """U grew by the same distance twice, and the penalty with it."""
    model, admm = small_net(jit_compile=False), ADMM("unstructured", 0.5, layers="conv")
    with pytest.raises(ValueError, match="`callbacks` must hold one ADMM"):
        other = admm if same else ADMM("unstructured", 0.5, layers="conv")
        model.fit(*data, epochs=3, callbacks=[admm, other], verbose=0)
    for _ in range(2):  # one alone goes on, after a fit that was interrupted too
        model.fit(*data, epochs=2, callbacks=[admm], verbose=0)
        assert [update["epoch"] for update in admm.history] == [0, 1]


MAKERS = {
    "Clipping": lambda layers: Clipping(0.2, layers=layers),
    "GradualMagnitude": lambda layers: GradualMagnitude(ConstantSparsity(0.5, 0), layers=layers),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_two_of_a_baseline_on_one_kernel_are_refused_and_on_two_kernels_not(kind, data):
    """Of two thresholds the larger one counted without a word, of two schedules the further one."""
    model, make = small_net(jit_compile=False), MAKERS[kind]
    first = make(None)
    for other in (first, make("conv")):
        with pytest.raises(ValueError, match=f"`callbacks` must hold one {kind}"):
            model.fit(*data, epochs=1, callbacks=[first, other], verbose=0)
    model.fit(*data, epochs=1, callbacks=[make("conv"), make("top")], verbose=0)
    assert all((kernel == 0).any() for kernel in kernels_of(model).values())


# Clipping and lasso --------------------------------------------------------------------------------------------------


def test_baselines_refuse_a_model_of_which_nothing_trains(data):
    """Clipping had done nothing without a word."""
    for callback in (Clipping(0.2), ADMM("unstructured", 0.5), GradualMagnitude(ConstantSparsity(0.5, 0))):
        model = small_net(jit_compile=False)
        model.trainable = False
        callback.set_model(model)
        callback.set_params({"epochs": 3, "steps": 2})
        with pytest.raises(ValueError, match="At least one selected kernel must be trainable"):
            callback.on_train_begin()


@pytest.mark.parametrize("structure", ["unstructured", "filter"])
def test_clipping_leaves_nothing_below_its_threshold(structure, data):
    model = small_net(jit_compile=False)
    model.fit(*data, epochs=3, callbacks=[Clipping(0.2, structure, "conv")], verbose=0)
    norms = ops.convert_to_numpy(tfr.structures.get(structure).group_norms(model.layers[0].kernel))
    assert ((norms == 0) | (norms > 0.2)).all() and (structure == "filter" or (norms == 0).any())
    assert model.layers[0].kernel.constraint is None
    assert tfr.keep_zeros(model) == int((norms == 0).any())


def test_clipped_weights_may_grow_back():
    """Closed form: with plain SGD a weight grows back exactly where its step is larger than the threshold."""
    model = keras.Sequential([keras.Input((2,)), L.Dense(1, use_bias=False, name="d")])
    model.compile(keras.optimizers.SGD(0.1), "mean_squared_error")
    model.layers[0].kernel.assign([[0.05], [0.05]])
    x, y = np.eye(2, dtype="float32"), np.array([[3.0], [0.1]], "float32")
    model.fit(x, y, epochs=1, batch_size=2, callbacks=[Clipping(0.1)], verbose=0)
    # gradient of the mean of two squares: w - y; steps 0.295 and 0.005
    np.testing.assert_allclose(ops.convert_to_numpy(model.layers[0].kernel), [[0.345], [0.0]], atol=1e-6)


def test_clip_applies_what_was_there_first():
    layout = tfr.kernels.table.Layout.standard((2, 2))
    clip = Clip(tfr.structures.get("unstructured"), layout, 0.5, inner=keras.constraints.NonNeg())
    clipped = clip(np.array([[-2.0, 0.5], [0.75, 0.0]], "float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(clipped), [[0, 0], [0.75, 0]])


def test_the_static_lasso_is_a_baseline_without_code_of_its_own(data):
    """Its penalty is strength * sum of norms whatever happens, and a strong one frees groups that `prune` removes."""
    model = small_net()
    tfr.regularize(model, "filter", 3.0, "lasso", layers="conv")
    model.fit(*data, epochs=20, callbacks=[Reweighting(every=5, learning_rate=1e-2)], verbose=0)
    norms = np.sqrt((kernels_of(model)["conv/kernel"] ** 2).sum((0, 1, 2)))
    assert float(sum(model.losses)) == pytest.approx(3.0 * norms.sum(), rel=1e-4)
    assert (norms < 0.1).any()


# Epsilon -------------------------------------------------------------------------------------------------------------


def test_epsilon_rules():
    norms = np.array([[5.0, 0.1, 3.0, 0.2, 0.0]])
    assert epsilons.Fixed(0.5).at(3, None, norms) == 0.5
    assert [epsilons.Annealed(1e-1, 1e-3).at(k, 3, norms) for k in range(3)] == pytest.approx([1e-1, 1e-2, 1e-3])
    assert epsilons.Adaptive(keep=0.4).at(0, None, norms) == 3.0
    assert epsilons.Adaptive(keep=0.41).at(0, None, norms) == pytest.approx(0.2)
    assert epsilons.Adaptive(keep=0.4).at(0, None, 0 * norms) == 1e-3


@pytest.mark.parametrize("rule", [epsilons.Fixed(0.2), epsilons.Annealed(1.0, 0.1), epsilons.Adaptive(0.3, 1e-4)])
def test_epsilon_config_round_trip(rule):
    assert epsilons.get(rule.serialize()) == rule and epsilons.get(rule) is rule


def test_adaptive_epsilon_follows_each_kernel(data):
    model = small_net()
    model.layers[-1].kernel.assign(model.layers[-1].kernel.value * 10.0)
    tfr.regularize(model, "unstructured", 1e-6)
    sizes = {item.target.name: np.sort(np.abs(kernels_of(model)[item.target.name]).ravel()) for item in attachments(model)}
    model.fit(*data, epochs=1, callbacks=[Reweighting(every=1, epsilon={"name": "adaptive", "keep": 0.25})], verbose=0)
    assert len(sizes) == len(attachments(model)) > 1
    for item in attachments(model):
        size = sizes[item.target.name]
        assert float(item.regularizer.epsilon) == pytest.approx(size[-int(np.ceil(size.size / 4))], rel=1e-5)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ADMM("filter", 50),
        lambda: ADMM("filtr", 0.5),
        lambda: ADMM("filter", None),
        lambda: ADMM("n_of_m", 0.5),
        lambda: ADMM("filter", 0.5, rho=0),
        lambda: ADMM("filter", 0.5, rho=(1, 2, 3)),
        lambda: ADMM("filter", 0.5, every=0),
        lambda: ADMM("filter", 0.5, scope="layers"),
        lambda: ADMM("filter", 0.5, criterion="taylor"),
        lambda: GradualMagnitude("linear"),
        lambda: GradualMagnitude(ConstantSparsity(0.5, 0), scope="all"),
        lambda: GradualMagnitude(ConstantSparsity(0.5, 0), criterion="lampp"),
        lambda: ConstantSparsity(1.0, 0),
        lambda: ConstantSparsity(0.5, -1),
        lambda: ConstantSparsity(0.5, 10, end_step=5),
        lambda: ConstantSparsity(0.5, 0, frequency=0),
        lambda: PolynomialDecay(0.0, 0.5, 10, 10),
        lambda: PolynomialDecay(0.0, 0.5, 0, -1),
        lambda: PolynomialDecay(0.0, 0.5, 0, 10, power=0),
        lambda: Clipping(0),
        lambda: epsilons.get("adaptiv"),
        lambda: epsilons.Adaptive(keep=1.0),
        lambda: epsilons.Annealed(1.0, 0.0),
        lambda: Reweighting(epsilon="annealed"),
    ],
)
def test_bad_input_is_explained(wrong):
    with pytest.raises(ValueError, match=r"Received: .+=.+\. \S"):
        wrong()


def test_updates_that_never_fire_and_frozen_models_are_refused(data):
    model = small_net()
    with pytest.raises(ValueError, match="before training ends.*Received: every=2"):
        model.fit(*data, epochs=2, callbacks=[ADMM("filter", 0.5, every=2)], verbose=0)
    model.trainable = False
    with pytest.raises(ValueError, match="trainable.*Received: "):
        ADMM("filter", 0.5).attach(model)


def test_a_schedule_that_the_steps_before_have_used_up_is_warned_of(data):
    model = small_net()
    model.fit(*data, batch_size=8, epochs=2, verbose=0)
    steps = int(model.optimizer.iterations)
    schedule = PolynomialDecay(0.0, 0.8, 0, steps, frequency=1)
    with pytest.warns(UserWarning, match=f"and {steps} came before this fit.*sparsity of 80%.*add {steps} to"):
        model.fit(*data, epochs=1, verbose=0, callbacks=[GradualMagnitude(schedule)])
    model.fit(*data, epochs=1, verbose=0, callbacks=[GradualMagnitude(schedule)])  # goes on with what is pruned
    other = small_net()
    other.fit(*data, epochs=1, verbose=0)
    other.fit(*data, epochs=1, verbose=0, callbacks=[GradualMagnitude(ConstantSparsity(0.5, 0))])  # at once in any case


def test_admm_without_any_update_is_warned_of(data):
    model = small_net()
    with pytest.warns(UserWarning, match="No update of Z and U falls into the epochs 6 to 7 of this fit, and none came before"):
        model.fit(*data, initial_epoch=6, epochs=8, verbose=0, callbacks=[ADMM("unstructured", 0.5, every=5)])
