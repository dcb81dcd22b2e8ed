"""Pruning removes exactly what was asked for, and what is zero stays zero."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight.kernels import allocation
from tf_reweight.kernels.constraints import Mask
from tf_reweight.kernels.table import find
from tf_reweight.pruning import masked

L = keras.layers


def small_net():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(8, 3, name="conv"),
            L.BatchNormalization(),
            L.ReLU(),
            L.Flatten(),
            L.Dense(12, name="hidden", activation="relu"),
            L.Dense(3, name="top", activation="softmax"),
        ]
    )


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.random((64, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 64)


def zero_sets(model):
    return {t.name: ops.convert_to_numpy(t.variable.value) == 0 for t in find(model)[0]}


def test_a_refused_prune_leaves_weights_that_were_put_into_the_model():
    model = keras.Sequential([keras.Input((6,)), L.Dense(8)])
    before = model.get_weights()
    tfr.prune(model, "unstructured", sparsity=0.5)
    model.set_weights(before)
    model.layers[0].trainable = False
    with pytest.raises(ValueError, match="must be trainable"):
        tfr.prune(model, "unstructured", sparsity=0.7)
    assert all(map(np.array_equal, before, model.get_weights()))


@pytest.mark.parametrize("sparsity", [0.3, 0.8])
def test_a_sparsity_holds_in_each_layer_after_an_earlier_structure_has_cut_some_kernels(sparsity):
    """Patterns take five ninths of the convolution's weights alone: that counts there, and less is left to take."""
    layers = [L.Conv2D(16, 3), L.GlobalAveragePooling2D(), L.Dense(64), L.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8, 8)), *layers])
    tfr.prune(model, ["pattern", "unstructured"], sparsity=sparsity, scope="layer")
    for name, (zeros, size) in tfr.sparsity(model).items():
        assert zeros / size == pytest.approx(max(sparsity, 5 / 9) if "conv" in name else sparsity, abs=2 / 640)


def test_a_sparsity_holds_in_each_scope_after_other_groups_were_removed():
    """By a plain loop: each row loses what brings it to the fraction of the weights that it had, and at least nothing."""
    rng = np.random.default_rng(0)
    dense = [np.ones((3, 20), int), np.ones((2, 10), int)]
    members = [(rng.random(count.shape) < part).astype(int) for count, part in zip(dense, (0.8, 0.3))]
    scores = [rng.random(count.shape) * count for count in members]
    keeps = allocation.by_sparsity(scores, members, 0.5, "scope", dense)
    for score, member, count, keep in zip(scores, members, dense, keeps):
        for row in range(len(count)):
            goes = max(0, count[row].sum() // 2 - (count[row] - member[row]).sum())
            real = np.flatnonzero(member[row])
            expected = set(real[np.argsort(score[row][real])][:goes])
            assert {group for group in real if not keep[row][group]} == expected


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("scope", ["model", "layer", "scope"])
def test_unstructured_counts_are_exact(sparsity, scope):
    model = small_net()
    report = tfr.prune(model, sparsity=sparsity, structure="unstructured", scope=scope)
    zeros = {name: zero for name, (zero, _) in tfr.sparsity(model).items()}
    sizes = {name: size for name, (_, size) in tfr.sparsity(model).items()}
    if scope == "model":
        assert sum(zeros.values()) == int(sparsity * sum(sizes.values()) + 1e-6)
    else:
        assert zeros == {name: int(sparsity * size + 1e-6) for name, size in sizes.items()}
    assert report.sparsity == pytest.approx(sum(zeros.values()) / sum(sizes.values()))


@pytest.mark.parametrize("structure", ["filter", "channel", "column", "kernel", {"name": "block", "shape": [4, 4]}, "n_of_m"])
def test_structured_pruning_leaves_whole_groups(structure):
    structure = tfr.structures.get(structure)
    model = small_net()
    report = tfr.prune(model, sparsity=None if structure.name == "n_of_m" else 0.5, structure=structure)
    for kernel in report.kernels:
        (target,) = [t for t in find(model)[0] if t.name == kernel.name]
        norms = ops.convert_to_numpy(structure.group_norms(target.standard_kernel()))
        assert np.count_nonzero(norms) == kernel.kept_groups
        values = ops.convert_to_numpy(target.variable.value)
        assert np.count_nonzero(values) == kernel.kept_weights
    assert report.sparsity == pytest.approx(0.5, abs=0.08)


def test_threshold_removes_groups_at_or_below_it():
    model = small_net()
    (conv,) = [t for t in find(model)[0] if t.path == "conv"]
    norms = np.sort(ops.convert_to_numpy(tfr.structures.Filter().group_norms(conv.standard_kernel()))[0])
    report = tfr.prune(model, threshold=float(norms[2]), structure="filter", layers="conv")
    assert report.kernels[0].kept_groups == 5


def test_what_the_penalty_freed_goes_and_nothing_else():
    model = small_net()
    tfr.regularize(model, "filter", 1e-3, {"name": "log_sum", "epsilon": 0.1}, layers="conv")
    (conv,) = [t for t in find(model)[0] if t.path == "conv"]
    kernel = ops.convert_to_numpy(conv.variable.value).copy()
    kernel[..., :3] *= 1e-4
    conv.variable.assign(kernel)
    report = tfr.prune(model)
    assert report.kernels[0].kept_groups == 5 and report.kernels[0].threshold == pytest.approx(0.01)
    assert not tfr.penalties.attachment.attachments(model)
    assert {item.name for item in report.left_out} == {"hidden/kernel", "top/kernel"}


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zeros_stay_exactly_zero_and_the_rest_learns(optimizer, batch):
    x, y = batch
    model = small_net()
    model.compile(OPTIMIZERS[optimizer](), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=1, verbose=0)
    tfr.prune(model, sparsity=0.8, structure="unstructured")
    before, weights = zero_sets(model), model.get_weights()
    model.fit(x, y, epochs=3, verbose=0, callbacks=[tfr.callbacks.KeepZeros()])
    for name, zeros in zero_sets(model).items():
        np.testing.assert_array_equal(zeros & before[name], before[name], err_msg=name)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(weights, model.get_weights()))


def test_zeros_survive_save_load_and_another_epoch(batch, tmp_path):
    x, y = batch
    model = small_net()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=1, verbose=0)
    tfr.prune(model, sparsity=0.75, structure="unstructured")
    before = zero_sets(model)
    model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    assert tfr.keep_zeros(loaded) == 3
    loaded.fit(x, y, epochs=1, verbose=0)
    for name, zeros in zero_sets(loaded).items():
        np.testing.assert_array_equal(zeros, before[name])


def test_release_lets_zeros_grow_back(batch):
    x, y = batch
    model = small_net()
    model.compile("adam", "sparse_categorical_crossentropy")
    tfr.prune(model, sparsity=0.75, structure="unstructured")
    assert tfr.release(model) == 3
    model.fit(x, y, epochs=1, verbose=0)
    assert sum(zero for zero, _ in tfr.sparsity(model).values()) < 0.5 * sum(size for _, size in tfr.sparsity(model).values())


def test_a_constraint_the_layer_had_is_still_applied(batch):
    x, y = batch
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), L.Flatten(), L.Dense(3, activation="softmax", kernel_constraint=keras.constraints.NonNeg())]
    )
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    tfr.prune(model, sparsity=0.5, structure="unstructured")
    model.fit(x, y, epochs=2, verbose=0)
    kernel = ops.convert_to_numpy(model.layers[-1].kernel)
    assert (kernel >= 0).all() and (kernel == 0).sum() >= 96


@pytest.mark.parametrize("saved", [False, True])
def test_release_after_two_masks_leaves_the_users_constraint(saved, batch, tmp_path):
    """The second mask adds to the first one, and what comes back is neither of them but the layer's own constraint."""
    own = {"kernel_constraint": keras.constraints.MaxNorm(0.5), "bias_constraint": keras.constraints.NonNeg()}
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), L.Dense(6, **own), L.Dense(3)])
    layer = model.layers[1]
    kept = np.ones((64, 6), bool)
    for sparsity, structure in ((0.5, "filter"), (0.75, "unstructured")):
        tfr.prune(model, structure, sparsity=sparsity, layers=layer)
        kept &= ops.convert_to_numpy(layer.kernel) != 0
    np.testing.assert_array_equal(layer.kernel.constraint.as_numpy(), kept)
    assert kept.sum() == 96 and layer.kernel.constraint.inner is own["kernel_constraint"]
    layer.kernel.assign(np.full((64, 6), 7.0))
    masked = ops.convert_to_numpy(layer.kernel.constraint(layer.kernel))
    np.testing.assert_allclose(masked, np.where(kept, 0.5 / 8, 0.0), rtol=1e-5)
    if saved:
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
        layer = model.layers[1]
    assert tfr.release(model) == 1
    for constraint, kind in zip((layer.kernel.constraint, layer.bias.constraint), own.values(), strict=True):
        assert type(constraint) is type(kind) and constraint.get_config() == kind.get_config()
    assert layer.kernel_constraint.get_config() == own["kernel_constraint"].get_config()


def test_groups_of_unlike_size_are_ranked_by_root_mean_square():
    """Not by the mean of magnitudes, nor by norms that grow with the size: a loop over the filters of two kernels."""
    conv, dense = L.Conv2D(8, 3, name="conv"), L.Dense(9, name="dense")
    model = keras.Sequential([keras.Input((6, 6, 2)), conv, L.Flatten(), dense, L.Dense(2, name="top")])
    rng, expected = np.random.default_rng(0), []
    for layer in (conv, dense):
        # Heavy tails, so that the two means rank differently.
        layer.kernel.assign(rng.normal(size=layer.kernel.shape) ** 3 * rng.uniform(0.5, 1.5, layer.kernel.shape[-1]))
        columns = ops.convert_to_numpy(layer.kernel).reshape(-1, layer.kernel.shape[-1])
        for index in range(columns.shape[1]):
            square = sum(float(w) ** 2 for w in columns[:, index]) / len(columns)
            expected.append((square**0.5, layer.name, index, len(columns)))
    budget, gone = 0.6 * sum(row[3] for row in expected), set()
    for _, name, index, size in sorted(expected):
        budget -= size
        if budget < 0:
            break
        gone.add((name, index))
    by_mean = sorted(expected, key=lambda row: np.abs(ops.convert_to_numpy(model.get_layer(row[1]).kernel)[..., row[2]]).mean())
    assert [row[1:3] for row in by_mean] != [row[1:3] for row in sorted(expected)]
    tfr.prune(model, "filter", sparsity=0.6, layers=["conv", "dense"], criterion="magnitude")
    kernels = {name: ops.convert_to_numpy(model.get_layer(name).kernel) for name in ("conv", "dense")}
    assert gone and gone == {(n, i) for n, k in kernels.items() for i in range(k.shape[-1]) if not k[..., i].any()}


def test_a_second_structure_ranks_what_the_first_left():
    """Of two filters the larger one lost more to two of four, and is the smaller one then."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="hidden"), L.Dense(2)])
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(np.array([[3.0, 3.0, -3.0, -3.0], [0.1, -5.0, 0.1, 1.0], [9.0, 9.0, 9.0, -9.0]]).T)
    report = tfr.prune(model, [{"name": "n_of_m", "n": 2, "m": 4}, "filter"], sparsity=0.67, layers="hidden")
    kernel = ops.convert_to_numpy(hidden.kernel)
    np.testing.assert_array_equal((kernel != 0).sum(0), [0, 2, 2])
    assert report.sparsity == pytest.approx(8 / 12)
    assert [(entry.kept_groups, entry.kept_weights) for entry in report.kernels] == [(6, 6), (2, 4)]


@pytest.mark.parametrize("minimum", [1, 2, 4, 6])
def test_what_is_given_back_is_counted_with_exact_zeros(minimum):
    scores = np.array([[0.0, 0.0, 2.0, 0.0, 1.0, 9.0]])
    members = np.array([[3, 3, 3, 3, 3, 0]])
    keep, rescued = allocation.keep_at_least(np.zeros((1, 6), bool), scores, members, minimum)
    order = [2, 4, 0, 1, 3]  # the best first, ties by position; one without members is none
    assert rescued == min(minimum, 5) and set(np.flatnonzero(keep)) == set(order[:minimum])
    kept = np.array([[False, True, True, False, False, True]])
    keep, rescued = allocation.keep_at_least(kept, scores, members, minimum)
    assert rescued == max(0, min(minimum, 5) - 2) and (keep & kept == kept).all()
    assert int((keep & (members > 0)).sum()) == max(2, min(minimum, 5))


def test_two_structures_prune_one_after_the_other():
    """Filters first, then single weights inside the survivors: both hold at the end."""
    model = small_net()
    tfr.prune(model, sparsity=0.5, structure="filter", layers="hidden")
    tfr.prune(model, sparsity=0.8, structure="unstructured", layers="hidden")
    kernel = ops.convert_to_numpy(model.get_layer("hidden").kernel)
    assert (np.abs(kernel).sum(0) == 0).sum() >= 6
    assert (kernel == 0).mean() == pytest.approx(0.8, abs=1e-3)


def test_a_layer_is_never_cut_off():
    model = small_net()
    with pytest.warns(UserWarning, match="the largest one was kept"):
        report = tfr.prune(model, threshold=1e9, structure="filter", layers="conv")
    assert report.kernels[0].kept_groups == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"sparsity": 80, "structure": "filter"}, "Did you mean 0.8"),
        ({"sparsity": "macs=0.5", "structure": "filter"}, "Did you mean budget='macs=0.5'"),
        ({"sparsity": 1.0, "structure": "filter"}, "in \\[0, 1\\)"),
        ({"sparsity": 0.5, "threshold": 0.1, "structure": "filter"}, "not both"),
        ({"threshold": -1, "structure": "filter"}, "`threshold` must be"),
        ({"structure": "filter"}, "pass `sparsity` or `threshold`"),
        ({}, "a penalty on it, or a `structure`"),
        ({"sparsity": 0.5, "layers": "conv"}, "`layers` goes with `structure`"),
        ({"sparsity": 0.5, "structure": "filter", "scope": "world"}, "Valid: layer, model, scope"),
    ],
)
def test_bad_input_is_explained_and_nothing_changes(arguments, words):
    model = small_net()
    before = model.get_weights()
    with pytest.raises(ValueError, match=words):
        tfr.prune(model, **arguments)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_ranking_takes_the_smallest_first_and_breaks_ties_by_position():
    scores, members = [np.array([[3.0, 1.0, 1.0, 2.0]])], [np.ones((1, 4), int)]
    (keep,) = allocation.by_sparsity(scores, members, 0.5)
    np.testing.assert_array_equal(keep, [[True, False, False, True]])
    (keep,) = allocation.by_sparsity(scores, members, 0.25)
    np.testing.assert_array_equal(keep, [[True, False, True, True]])


# The wrapper -----------------------------------------------------------------------------------------------------------


def masked_net():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            tfr.Masked(L.Conv2D(8, 3, kernel_regularizer="l2"), "filter", name="conv"),
            L.BatchNormalization(),
            L.Flatten(),
            tfr.Masked(L.Dense(12, activation="relu"), {"name": "block", "shape": [4, 4]}, name="hidden"),
            L.Dense(3, activation="softmax", kernel_regularizer=tfr.regularizers.Reweighted()),
        ]
    )


def test_the_wrapper_changes_nothing_before_its_first_mask(batch):
    inner = L.Dense(4)
    wrapped = tfr.Masked(inner)
    x = batch[0].reshape(64, 64)
    np.testing.assert_array_equal(ops.convert_to_numpy(wrapped(x)), ops.convert_to_numpy(inner(x)))


def test_the_wrapper_masks_forward_and_backward_under_momentum(batch):
    x, y = batch
    model = masked_net()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=1, verbose=0, callbacks=[tfr.callbacks.Reweighting(every=1)])
    model.layers[0].update(sparsity=0.5)
    model.layers[3].update(threshold=0.3)
    model.fit(x, y, epochs=1, verbose=0)
    plain = tfr.strip(model)
    assert [type(layer).__name__ for layer in plain.layers] == ["Conv2D", "BatchNormalization", "Flatten", "Dense", "Dense"]
    np.testing.assert_allclose(plain.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    norms = np.abs(ops.convert_to_numpy(plain.layers[0].kernel)).sum((0, 1, 2))
    assert (norms == 0).sum() == 4
    assert not tfr.penalties.attachment.attachments(plain)


def test_the_wrapper_round_trips_with_its_masks(batch, tmp_path):
    x, _ = batch
    model = masked_net()
    model.layers[0].update(sparsity=0.5)
    model.save(tmp_path / "masked.keras")
    loaded = keras.saving.load_model(tmp_path / "masked.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert loaded.layers[0].structure == model.layers[0].structure


def test_strip_handles_nested_models(batch):
    x, _ = batch
    inner = keras.Sequential([keras.Input((6, 6, 8)), tfr.Masked(L.Conv2D(4, 3))], name="inner")
    inner.layers[0].update(sparsity=0.7)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Flatten()(inner(L.Conv2D(8, 3)(inputs))))
    plain = tfr.strip(model)
    np.testing.assert_allclose(plain.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    assert tfr.sparsity(plain)["inner/conv2d/kernel"][0] == 201 or any(zero == 201 for zero, _ in tfr.sparsity(plain).values())


def test_strip_compares_what_it_made(monkeypatch):
    model = masked_net()
    model.layers[0].update(sparsity=0.5)
    monkeypatch.setattr(masked._Unmasked, "fill", masked.Copied.fill)  # the masks are forgotten
    with pytest.raises(ValueError, match="must give the same outputs, within 0.0001 of their scale. Received: difference="):
        tfr.strip(model)


@pytest.mark.parametrize(
    "dtype, compute, reason",
    [("string", lambda x: ops.ones((1, 4)), "others not"), ("float32", lambda x: ops.log(-ops.abs(x)), "not finite")],
)
def test_strip_says_where_nothing_can_be_compared(dtype, compute, reason):
    x = keras.Input((4,), dtype=dtype)
    model = keras.Model(x, tfr.Masked(L.Dense(3))(L.Lambda(compute, output_shape=(4,), dtype="float32")(x)))
    with pytest.warns(UserWarning, match=f"not compared with the given one: .*{reason}"):
        assert {type(layer).__name__ for layer in tfr.strip(model).layers} >= {"Lambda", "Dense"}


def test_bad_wrapper_input_is_explained():
    with pytest.raises(ValueError, match="must have a kernel"):
        tfr.Masked(L.ReLU()).build((None, 4))
    layer = tfr.Masked(L.Dense(3))
    layer.build((None, 4))
    with pytest.raises(ValueError, match="exactly one"):
        layer.update()
    with pytest.raises(ValueError, match="only 0 and 1"):
        layer.set_mask(np.full((4, 3), 0.5))
    with pytest.raises(ValueError, match="the shape .*Received: shape="):
        layer.set_mask(np.ones((3, 4)))
    for threshold in (-1.0, float("nan"), True):
        with pytest.raises(ValueError, match="`threshold`.*Received: threshold="):
            layer.update(threshold=threshold)
    decides = tfr.Masked(L.Dense(4), "n_of_m")
    decides.build((None, 4))
    for each in (layer, decides):
        with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)"):
            each.update(sparsity=7.0)


def test_no_negative_zeros():
    """In a file they are bytes that are not zero, and neither zip nor pack."""
    rng = np.random.default_rng(0)
    held = np.asarray(Mask(np.zeros((20, 3), bool))(ops.convert_to_tensor(rng.normal(size=(20, 3)).astype("float32"))))
    assert (held == 0).all() and not np.signbit(held).any()


PAIRS = [
    ("pattern", "kernel"), ("kernel", "pattern"), ("filter", "unstructured"), ("column", "unstructured"),
    ("channel", {"name": "block", "shape": [4, 4]}), ({"name": "n_of_m", "n": 1, "m": 2, "axis": "out"}, "kernel"),
]  # fmt: skip


def conv_net():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((9, 9, 4)), L.Conv2D(8, 3, name="conv"), L.Conv2D(6, 3, name="more")])


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_two_structures_cut_one_after_the_other_and_the_sparsity_counts_both(pair):
    model, sparsity = conv_net(), 0.75
    report = tfr.prune(model, sparsity=sparsity, structure=list(pair), layers=["conv", "more"])
    counts = tfr.sparsity(model)
    reached = sum(zeros for zeros, _ in counts.values()) / sum(size for _, size in counts.values())
    # Whole groups only, and never more than was asked for; a group has at most 4 x 4 weights here.
    assert sparsity - 16 / 504 <= reached <= sparsity + 1e-9 and report.sparsity == pytest.approx(reached)
    assert [entry.structure for entry in report.kernels] == [tfr.structures.get(s).name for s in pair for _ in range(2)]
    for target in find(model)[0]:
        entries = [entry for entry in report.kernels if entry.name == target.name]
        assert min(entry.kept_weights for entry in entries) == entries[0].num_weights - counts[target.name][0]
        mask = np.array(ops.convert_to_numpy(target.standard_kernel()) != 0)
        for structure in map(tfr.structures.get, pair):  # the zeros are whole groups of the one in what the other left
            if structure.decides:
                norms = structure.group_norms(target.standard_kernel())
                assert not (mask & (ops.convert_to_numpy(structure.mask(structure.select(norms), mask.shape)) == 0)).any()


def test_filters_then_single_weights_of_those_that_are_left():
    """By penalties: each removes what it freed; the report says what was left after each."""
    model = conv_net()
    kernel = np.array(ops.convert_to_numpy(model.layers[0].kernel))
    kernel[..., :3] *= 1e-6
    kernel[0, 0, :, 3:] = 1e-6
    model.layers[0].kernel.assign(kernel)
    tfr.regularize(model, "filter", 1e-3, layers="conv")
    tfr.regularize(model, "unstructured", 1e-5, layers="conv")
    filters, weights = tfr.prune(model).kernels
    small = int((np.abs(kernel[..., 3:]) <= weights.threshold).sum())
    assert (filters.kept_groups, filters.kept_weights) == (5, 5 * 36)
    assert (weights.kept_groups, weights.kept_weights) == (5 * 36 - small,) * 2 and small >= 20
    assert tfr.sparsity(model)["conv/kernel"] == (288 - weights.kept_weights, 288)


def test_two_penalties_on_a_kernel_add_up_and_survive_save_and_load(tmp_path):
    model = conv_net()
    tfr.regularize(model, "pattern", 1e-2)
    alone = float(sum(model.losses))
    tfr.regularize(model, "kernel", 1e-3)
    both = float(sum(model.losses))
    tfr.detach(model)
    tfr.regularize(model, "kernel", 1e-3)
    assert both == pytest.approx(alone + float(sum(model.losses)), rel=1e-5)
    tfr.detach(model)
    tfr.regularize(model, "pattern", 1e-2)
    tfr.regularize(model, "kernel", 1e-3)
    model.save(tmp_path / "both.keras")
    loaded = keras.saving.load_model(tmp_path / "both.keras")
    assert float(sum(loaded.losses)) == pytest.approx(both, rel=1e-5)
    assert tfr.prune(loaded, sparsity=0.8).to_dict()["kernels"] == tfr.prune(model, sparsity=0.8).to_dict()["kernels"]


# What is decided, told and refused, by its numbers.


BOTH = ["first", "second"]


def two_kernels():
    """A kernel of 6 x 8 and one of 8 x 5, whose columns have norms of very unlike scale, before one that is not looked at."""
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, name="first"), L.Dense(5, name="second"), L.Dense(2, name="top")])
    rng = np.random.default_rng(0)
    for layer, scale in zip(model.layers[:2], (1.0, 30.0)):
        layer.kernel.assign(scale * rng.normal(size=layer.kernel.shape) ** 3 * rng.uniform(0.3, 2.0, layer.kernel.shape[-1]))
    return model


def kernels_of(model):
    return {name: ops.convert_to_numpy(model.get_layer(name).kernel).copy() for name in BOTH}


def lamp_by_hand(values):
    return np.array([v**2 / (np.square(values)[values**2 >= v**2]).sum() for v in values])


RANKED = {  # structure, criterion given, what ranks: per kernel the scores of the groups, columns or single weights
    ("filter", None): "lamp", ("filter", "relative"): "relative", ("filter", "magnitude"): "magnitude",
    ("filter", "lamp"): "lamp", ("unstructured", None): "lamp", ("unstructured", "relative"): "relative",
    ("unstructured", "magnitude"): "magnitude", ("unstructured", "lamp"): "lamp",
}  # fmt: skip


@pytest.mark.parametrize("structure, criterion", RANKED)
def test_a_sparsity_takes_the_lowest_of_its_ranking(structure, criterion):
    model = two_kernels()
    scored = []
    for name, kernel in kernels_of(model).items():
        groups = kernel.T if structure == "filter" else kernel.reshape(-1, 1)
        norms = np.linalg.norm(groups, axis=1)
        kind = RANKED[structure, criterion]
        score = {"relative": norms / np.sqrt(np.mean(norms**2)), "magnitude": norms / np.sqrt(groups.shape[1]),
                 "lamp": lamp_by_hand(norms)}[kind]  # fmt: skip
        scored += [(value, name, index, groups.shape[1]) for index, value in enumerate(score)]
    budget, gone = 0.4 * 88, {"first": [], "second": []}
    for _, name, index, size in sorted(scored):
        if budget < size:
            break
        budget -= size
        gone[name].append(index)
    report = tfr.prune(model, structure, sparsity=0.4, criterion=criterion, layers=BOTH)
    for name, kernel in kernels_of(model).items():
        groups = kernel.T if structure == "filter" else kernel.reshape(-1, 1)
        assert np.flatnonzero(~groups.any(1)).tolist() == sorted(gone[name]), name
    entries = {entry.name: entry for entry in report.kernels}
    for name, size in (("first", 8), ("second", 5)):
        entry = entries[f"{name}/kernel"]
        assert entry.num_groups == (size if structure == "filter" else {"first": 48, "second": 40}[name])
        assert entry.kept_groups == entry.num_groups - len(gone[name]) and entry.structure == structure
        zeros = int((kernels_of(model)[name] == 0).sum())
        assert entry.kept_weights == entry.num_weights - zeros and entry.sparsity == pytest.approx(zeros / entry.num_weights)


@pytest.mark.parametrize("structure", ["unstructured", "filter"])
@pytest.mark.parametrize("limit", [0.35, 0.7])
def test_a_budget_of_zeros_ranks_single_weights_by_lamp(structure, limit):
    model = two_kernels()
    before = kernels_of(model)
    tfr.prune(model, structure, budget={"weights": limit}, layers=BOTH)
    after = kernels_of(model)
    kept = sum(int((kernel != 0).sum()) for kernel in after.values())
    assert kept <= limit * 88
    if structure == "unstructured":
        scores = np.concatenate([lamp_by_hand(kernel.ravel()) for kernel in before.values()])
        flags = np.concatenate([kernel.ravel() != 0 for kernel in after.values()])
        assert kept == int(limit * 88) and scores[flags].min() > scores[~flags].max()
    assert all(kernel.any() for kernel in after.values())


def test_of_two_structures_the_amount_is_for_the_last():
    """The first takes nothing but what is zero, since no penalty freed more; the last counts what is gone."""
    model = two_kernels()
    kernel = kernels_of(model)["first"]
    kernel[:, :2] = 0
    model.layers[0].kernel.assign(kernel)
    report = tfr.prune(model, ["filter", "unstructured"], sparsity=0.5, layers=["first"])
    filters, weights = report.kernels
    assert (filters.structure, filters.kept_groups, filters.num_groups, filters.kept_weights) == ("filter", 6, 8, 36)
    assert (weights.structure, weights.kept_groups, weights.num_groups, weights.kept_weights) == ("unstructured", 24, 48, 24)
    assert report.sparsity == 0.5 and filters.threshold == 0.0 and weights.threshold is None
    now = kernels_of(model)["first"]
    assert (now == 0).sum() == 24
    magnitudes = np.abs(kernel[:, 2:])
    np.testing.assert_array_equal(now[:, 2:] != 0, magnitudes > np.sort(magnitudes.ravel())[11])
    # More gone already than was asked for: nothing more goes.
    model = two_kernels()
    model.layers[0].kernel.assign(np.where(np.arange(8) < 5, 0.0, kernel))
    report = tfr.prune(model, ["filter", "unstructured"], sparsity=0.5, layers=["first"])
    assert report.sparsity == 5 / 8 and report.kernels[1].kept_weights == 18


def test_structures_by_threshold_cut_each_kernel_alone():
    model = two_kernels()
    norms = {name: np.linalg.norm(kernel, axis=0) for name, kernel in kernels_of(model).items()}
    limit = float(np.sort(np.concatenate(list(norms.values())))[6])
    report = tfr.prune(model, "filter", threshold=limit, layers=BOTH)
    for name, entry in zip(norms, report.kernels, strict=True):
        np.testing.assert_array_equal(kernels_of(model)[name].any(0), norms[name] > limit * (1 + 1e-6))
        assert entry.threshold == limit and entry.kept_groups == int((norms[name] > limit * (1 + 1e-6)).sum())
    assert sum(entry.kept_groups for entry in report.kernels) == 13 - 7 and report.notes == ()


def test_reports_of_kernels_add_up():
    from tf_reweight.pruning import PrunedKernel, PruneReport

    kernels = (
        PrunedKernel("a", "filter", 3, 4, 30, 40, 0.5), PrunedKernel("a", "unstructured", 20, 40, 20, 40, None),
        PrunedKernel("b", "filter", 1, 2, 10, 60, None), PrunedKernel("a", "kernel", 5, 6, 25, 40, None),
    )  # fmt: skip
    report = PruneReport(kernels, (), ("note",))
    assert [kernel.sparsity for kernel in kernels] == [0.25, 0.5, 1 - 10 / 60, 0.375]
    assert report.sparsity == 1 - 30 / 100
    found = report.to_dict()
    assert found["sparsity"] == report.sparsity and found["notes"] == ["note"] and found["left_out"] == []
    assert found["kernels"][0] == {
        "name": "a", "structure": "filter", "kept_groups": 3, "num_groups": 4, "kept_weights": 30, "num_weights": 40,
        "threshold": 0.5, "sparsity": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize("arguments, error, words", [
    ({"structure": 0.5}, TypeError, "second argument of `prune` is a structure"),
    ({"structure": [], "sparsity": 0.5}, ValueError, "`structure` must name one at least"),
    ({"structure": "filter", "sparsity": 0.5, "budget": "weights=0.5"}, ValueError, "not both"),
    ({"structure": "filter", "threshold": 0.5, "budget": "weights=0.5"}, ValueError, "not both"),
    ({"structure": "filter", "budget": "weights=0.5", "scope": "layer"}, ValueError, "A budget holds over the whole model"),
    ({"structure": "filter", "threshold": 0.5, "scope": "layer"}, ValueError, "`scope` says where a `sparsity` has to hold"),
    ({"structure": "filter", "threshold": 0.5, "criterion": "lamp"}, ValueError, "`criterion` ranks where an amount"),
    ({"structure": "filter", "sparsity": 0.5, "criterion": "lump"}, ValueError, "known criterion"),
    ({"structure": "filter", "sparsity": -0.1}, ValueError, "sparsity"), ({"sparsity": 1.5}, ValueError, "sparsity"),
    ({"structure": "filter", "threshold": float("nan")}, ValueError, "`threshold` must be"),
    ({"structure": ["n_of_m", "filter"]}, ValueError, "pass `sparsity` or `threshold`"),
    ({"structure": "n_of_m", "budget": "weights=0.5"}, ValueError, "budget|amount|chooses|decides"),
    ({"structure": "n_of_m", "sparsity": 0.9}, ValueError, "No amount goes with 'n_of_m', which itself says.*sparsity=0.9"),
    ({"structure": "n_of_m", "threshold": 0.5}, ValueError, "No amount goes with 'n_of_m', which itself says.*threshold=0.5"),
    ({"include_frozen": 1}, TypeError, "`include_frozen` must be a bool"),
])  # fmt: skip
def test_what_pruning_cannot_take_is_said_and_nothing_changes(arguments, error, words):
    model = two_kernels()
    before = kernels_of(model)
    with pytest.raises(error, match=words):
        tfr.prune(model, **arguments)
    for name, kernel in kernels_of(model).items():
        np.testing.assert_array_equal(kernel, before[name])
    assert all(layer.kernel.constraint is None for layer in model.layers)


def test_a_threshold_of_zero_goes_with_every_structure():
    """It asks for the zeros that are there, and is how what some methods of `compress` made is taken over."""
    report = tfr.prune(two_kernels(), "n_of_m", threshold=0.0)
    assert {kernel.sparsity for kernel in report.kernels} == {0.5}


def test_kernels_of_frozen_layers_are_left_out_unless_told_otherwise():
    model = two_kernels()
    model.layers[0].trainable = False
    before = kernels_of(model)
    with pytest.warns(UserWarning, match=r"1 kernels of layers with trainable=False are left as they are \(first/kernel\)"):
        report = tfr.prune(model, "unstructured", sparsity=0.5, layers=BOTH)
    np.testing.assert_array_equal(kernels_of(model)["first"], before["first"])
    assert [entry.name for entry in report.kernels] == ["second/kernel"] and report.kernels[0].kept_weights == 20
    assert {item.name for item in report.left_out} == {"first/kernel", "top/kernel"}
    (reason,) = [item.reason for item in report.left_out if item.name == "first/kernel"]
    assert reason.startswith("its layer has trainable=False")
    report = tfr.prune(model, "unstructured", sparsity=0.5, layers=BOTH, include_frozen=True)
    assert len(report.kernels) == 2 and len(report.left_out) == 1 and tfr.sparsity(model)["first/kernel"][0] > 0
    model.layers[1].trainable = False
    with pytest.raises(ValueError, match="At least one kernel to prune must be trainable"):
        tfr.prune(model, "unstructured", sparsity=0.5, layers=BOTH)


def test_what_is_left_out_is_left_out_of_every_structure():
    model = keras.Sequential([keras.Input((6, 6, 4)), L.Conv2D(4, 3, name="conv"), L.Flatten(), L.Dense(2, name="top")])
    report = tfr.prune(model, ["kernel", "unstructured"], sparsity=0.5)
    found = {(entry.name, entry.structure) for entry in report.kernels}
    assert found == {("conv/kernel", "kernel"), ("conv/kernel", "unstructured"), ("top/kernel", "unstructured")}
    assert report.left_out == ()
    report = tfr.prune(model, ["kernel"], sparsity=0.5, layers=["conv"])
    assert {item.name for item in report.left_out} == {"top/kernel"}


def test_zeros_are_counted_held_and_released_one_by_one():
    model = two_kernels()
    kernel = kernels_of(model)["first"]
    kernel[0, :3] = 0
    model.layers[0].kernel.assign(kernel)
    assert tfr.sparsity(model) == {"first/kernel": (3, 48), "second/kernel": (0, 40), "top/kernel": (0, 10)}
    assert tfr.keep_zeros(model) == 1 and model.layers[1].kernel.constraint is None
    np.testing.assert_array_equal(model.layers[0].kernel.constraint.as_numpy(), kernel != 0)
    assert tfr.release(model) == 1 and model.layers[0].kernel.constraint is None and tfr.release(model) == 0
    # What `prune_groups` holds besides kernels is released too, and counts no kernel.
    tfr.prune_groups(model, 0.5)
    assert model.layers[0].bias.constraint is not None
    assert tfr.release(model) == 3 and all(weight.constraint is None for weight in model.trainable_weights)


def test_the_callback_holds_zeros_that_were_put_in_by_hand_through_one_fit():
    for optimizer in (keras.optimizers.Adam(0.1), keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5)):
        model = two_kernels()
        model.compile(optimizer, "mse")
        x, y = np.random.default_rng(0).normal(size=(8, 6)), np.ones((8, 2))
        model.fit(x, y, epochs=2, batch_size=4, verbose=0)
        kernel = kernels_of(model)["second"]
        kernel[2:4] = 0
        model.layers[1].kernel.assign(kernel)
        model.fit(x, y, epochs=2, batch_size=4, verbose=0, callbacks=[tfr.callbacks.KeepZeros()])
        now = kernels_of(model)["second"]
        np.testing.assert_array_equal(now == 0, kernel == 0)
        assert np.abs(now - kernel).max() > 0


def test_the_last_group_of_a_kernel_is_kept_and_said():
    model = two_kernels()
    norms = np.linalg.norm(kernels_of(model)["first"], axis=0)
    with pytest.warns(UserWarning, match="Every group of first/kernel was to be removed; the largest one was kept"):
        report = tfr.prune(model, "filter", threshold=float(2 * norms.max()), layers=["first"])
    assert report.kernels[0].kept_groups == 1
    np.testing.assert_array_equal(np.flatnonzero(kernels_of(model)["first"].any(0)), [norms.argmax()])


def test_penalties_say_what_goes_by_threshold_sparsity_or_themselves():
    def penalised():
        model = two_kernels()
        kernel = kernels_of(model)["first"]
        kernel[:, :3] *= 1e-6
        model.layers[0].kernel.assign(kernel)
        tfr.regularize(model, "filter", 1e-3, {"name": "log_sum", "epsilon": 0.1}, layers=BOTH)
        return model

    assert [entry.kept_groups for entry in tfr.prune(penalised()).kernels] == [5, 5]
    model = penalised()
    norms = [np.linalg.norm(kernel, axis=0) for kernel in kernels_of(model).values()]
    limit = float(np.sort(norms[0])[4]) * 1.001
    report = tfr.prune(model, threshold=limit)
    assert [entry.kept_groups for entry in report.kernels] == [int((norm > limit).sum()) for norm in norms]
    assert [entry.threshold for entry in report.kernels] == [limit] * 2
    model = penalised()
    report = tfr.prune(model, sparsity=0.25)
    assert sum(entry.num_weights - entry.kept_weights for entry in report.kernels) <= 22
    assert report.kernels[0].kept_groups < 8 and not tfr.penalties.attachment.attachments(model)
    assert [entry.threshold for entry in report.kernels] == [None] * 2


def test_zeros_that_meet_the_budget_of_a_penalty_go_alone():
    for gone, warned in ((4, False), (5, False), (3, True)):
        model = two_kernels()
        tfr.regularize(model, "filter", budget={"weights": 0.5}, layers=["first"])
        kernel = kernels_of(model)["first"]
        kernel[:, :gone] = 0
        model.layers[0].kernel.assign(kernel)
        norms = np.linalg.norm(kernel, axis=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            report = tfr.prune(model)
        assert any("do not meet" in str(item.message) for item in caught) == warned
        kept = 8 - max(gone, 4)
        assert report.kernels[0].kept_groups == kept
        assert set(np.flatnonzero(kernels_of(model)["first"].any(0))) == set(np.argsort(-norms)[:kept].tolist())


def test_notes_of_pruned_kernels():
    model = two_kernels()
    with pytest.warns(UserWarning, match="sparsity=0.05 is less than one group, the smallest of which is 0.0682 of all"):
        (note,) = tfr.prune(model, "filter", sparsity=0.05, layers=BOTH).notes
    assert "sparsity=0.069 removes the first" in note
    with pytest.warns(UserWarning, match="sparsity=0.1 is less than one group, the smallest of which is 0.125 of all"):
        tfr.prune(model, "filter", sparsity=0.1, scope="layer", layers=BOTH)
    smallest = min(np.linalg.norm(kernel, axis=0).min() for kernel in kernels_of(model).values())
    with pytest.warns(UserWarning, match=f"the smallest of 13 group norms is {smallest:.3g}, above threshold=1e-05"):
        tfr.prune(model, "filter", threshold=1e-5, layers=BOTH)
    for amount in ({"sparsity": 0.0}, {"sparsity": 0.5}, {"budget": "weights=0.9"}):
        assert tfr.prune(two_kernels(), "filter", layers=BOTH, **amount).notes == ()
    model = two_kernels()
    tfr.regularize(model, "filter", 1e-3, {"name": "log_sum", "epsilon": 1e-6}, layers=["first"])
    tfr.regularize(model, "filter", 2e-3, {"name": "log_sum", "epsilon": 1e-5}, layers=["second"])
    with pytest.warns(UserWarning, match="the penalty freed none of 13 groups.* instead of 0.002"):
        (note,) = tfr.prune(model).notes
    ratios = []
    for (name, kernel), epsilon in zip(kernels_of(model).items(), (1e-6, 1e-5)):
        ratios += [(norm / (0.1 * epsilon), norm) for norm in np.linalg.norm(kernel, axis=0)]
    assert f"The smallest norm is {min(ratios)[1]:.3g}" in note


@pytest.mark.parametrize("dtype", [bool, int, float])
def test_a_mask_set_by_hand_is_what_the_wrapper_computes_with(dtype):
    inner = L.Dense(4, use_bias=False)
    layer = tfr.Masked(inner)
    x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    layer.build((None, 5))
    mask = np.arange(20).reshape(5, 4) % 3 != 0
    layer.set_mask(mask.astype(dtype))
    np.testing.assert_array_equal(layer.masks[0], mask)
    np.testing.assert_allclose(layer(x), x @ (ops.convert_to_numpy(inner.kernel) * mask), rtol=1e-5)
    layer.set_mask(np.zeros((5, 4)))
    np.testing.assert_array_equal(layer(x), np.zeros((3, 4)))
    layer.set_mask(np.ones((5, 4)), index=0)
    np.testing.assert_allclose(layer(x), inner(x), rtol=1e-6)
    for bad in (-1.0, 2.0, np.nan):
        wrong = mask.astype("float32")
        wrong[1, 1] = bad
        with pytest.raises(ValueError, match="only 0 and 1"):
            layer.set_mask(wrong)
    with pytest.raises(IndexError):
        layer.set_mask(mask, index=1)


def test_the_wrapper_chooses_by_sparsity_threshold_or_its_structure():
    kernel = np.random.default_rng(0).normal(size=(6, 8)) * np.arange(1, 9)[::-1]
    kernel = kernel.astype("float32")
    norms = np.linalg.norm(kernel, axis=0)

    def updated(structure="filter", **amount):
        layer = tfr.Masked(L.Dense(8), structure)
        layer.build((None, 6))
        layer.layer.kernel.assign(kernel)
        np.testing.assert_array_equal(layer.masks[0], np.ones((6, 8)))
        layer.update(**amount)
        (mask,) = layer.masks
        assert mask.dtype == "float32" and not mask.trainable
        (masked_kernel,) = layer.changed_kernels().values()
        np.testing.assert_array_equal(masked_kernel, kernel * ops.convert_to_numpy(mask))
        return ops.convert_to_numpy(mask)

    for sparsity, kept in ((0.0, 8), (0.25, 6), (0.3, 6), (0.9, 1), (0.99, 1)):
        np.testing.assert_array_equal(updated(sparsity=sparsity), np.tile(norms >= np.sort(norms)[8 - kept], (6, 1)))
    limit = float(np.sort(norms)[2])
    np.testing.assert_array_equal(updated(threshold=limit * 1.0001), np.tile(norms > limit, (6, 1)))
    np.testing.assert_array_equal(updated(threshold=1e9), np.tile(norms == norms.max(), (6, 1)))
    np.testing.assert_array_equal(updated(threshold=0.0), np.ones((6, 8)))
    two = updated({"name": "n_of_m", "n": 1, "m": 2}, sparsity=0.9)
    assert (two.reshape(3, 2, 8).sum(1) == 1).all() or (two.reshape(6, 4, 2).sum(2) == 1).all()


def test_the_wrapper_hands_on_training_state_and_regularizers():
    """A layer with statistics inside updates them; its activity regularizer counts once; its config comes back."""
    inner = L.Dense(3, activity_regularizer=keras.regularizers.L2(1.0), kernel_regularizer="l2")
    layer = tfr.Masked(inner, "filter", name="it")
    x = np.ones((2, 4), "float32")
    y = ops.convert_to_numpy(layer(x))
    inner = ops.convert_to_numpy(layer.layer.kernel)
    expected = float(np.square(y).sum() / 2 + 0.01 * np.square(inner).sum())
    assert float(sum(layer.losses)) == pytest.approx(expected, rel=1e-4)
    again = tfr.Masked.from_config(layer.get_config())
    assert again.name == "it" and again.structure == layer.structure and isinstance(again.layer, L.Dense)
    recurrent = tfr.Masked(L.LSTM(3))
    recurrent.build((None, 4, 2))
    cell = recurrent.layer.cell
    assert set(recurrent.changed_kernels()) == {id(cell.kernel), id(cell.recurrent_kernel)} and len(recurrent.masks) == 2
    recurrent.set_mask(np.zeros(recurrent.masks[1].shape), index=1)
    sequence = np.random.default_rng(0).normal(size=(2, 4, 2)).astype("float32")
    with_mask = ops.convert_to_numpy(recurrent(sequence))
    cell.recurrent_kernel.assign(ops.zeros_like(cell.recurrent_kernel))
    np.testing.assert_allclose(with_mask, recurrent.layer(sequence), rtol=1e-5)


def test_the_wrapper_never_writes_masked_kernels_back():
    sequence = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    for trainable in (True, False):
        inner = L.Dense(4)
        layer = tfr.Masked(inner)
        layer.build((None, 3))
        layer.trainable = trainable
        kernel = ops.convert_to_numpy(inner.kernel).copy()
        layer.set_mask(np.arange(12).reshape(3, 4) % 2)
        y = ops.convert_to_numpy(layer(sequence))
        np.testing.assert_allclose(y, sequence @ (kernel * (np.arange(12).reshape(3, 4) % 2)), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(inner.kernel, kernel)


def test_strip_leaves_what_was_no_wrapper_and_its_own_models_alone():
    model = keras.Sequential([keras.Input((6,)), tfr.Masked(L.Dense(4), name="it"), L.Identity(name="kept"), L.Dense(2)])
    model.layers[0].update(sparsity=0.5)
    before = [weight.copy() for weight in model.get_weights()]
    plain = tfr.strip(model)
    assert [type(layer).__name__ for layer in plain.layers] == ["Dense", "Identity", "Dense"]
    assert plain.layers[1].name == "kept" and (ops.convert_to_numpy(plain.layers[0].kernel) == 0).sum() == 12
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    again = tfr.strip(plain)
    assert again is not plain
    for old, new in zip(plain.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(2)

        def call(self, x):
            return self.dense(x)

    own = Own()
    own(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="rebuilds Sequential and functional models"):
        tfr.strip(own)
    with pytest.raises(TypeError):
        tfr.strip("model.keras")


def test_strip_carries_the_state_of_random_numbers():
    inner = L.GRU(3, dropout=0.5, seed=1)
    model = keras.Sequential([keras.Input((4, 2)), tfr.Masked(inner, name="it"), L.Dense(2)])
    inner.cell.seed_generator.state.assign([7, 11])
    plain = tfr.strip(model)
    np.testing.assert_array_equal(plain.layers[0].cell.seed_generator.state, [7, 11])


@pytest.mark.parametrize("kind", ["LSTM", "Bidirectional", "TimeDistributed"])
def test_the_wrapper_gives_its_layer_the_masks_of_sequences_and_passes_them_on(kind):
    """Masks were lost on the way: padding counted as part of the sequence."""
    make = {
        "LSTM": lambda: keras.layers.LSTM(5),
        "Bidirectional": lambda: keras.layers.Bidirectional(keras.layers.GRU(3, return_sequences=True)),
        "TimeDistributed": lambda: keras.layers.TimeDistributed(keras.layers.Dense(3)),
    }[kind]
    after = [] if kind == "LSTM" else [keras.layers.GRU(2)]

    def net(wrap):
        embedding = keras.layers.Embedding(5, 3, mask_zero=True)
        return keras.Sequential([keras.Input((4,)), embedding, wrap(make()), *[type(layer)(2) for layer in after]])

    plain, wrapped = net(lambda layer: layer), net(tfr.Masked)
    for old, new in zip(plain.weights, [w for w in wrapped.weights if not w.name.startswith("mask_")], strict=True):
        new.assign(old)
    x = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
    np.testing.assert_allclose(wrapped(x), plain(x), atol=1e-6)
    assert np.abs(ops.convert_to_numpy(plain(x)) - ops.convert_to_numpy(plain(np.maximum(x, 1)))).max() > 1e-3


def test_the_wrapper_drops_out_in_training_and_carries_the_state_on():
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    dropping = keras.Sequential([keras.Input((4, 3)), tfr.Masked(keras.layers.GRU(5, dropout=0.5))])
    first, second, still, again = (ops.convert_to_numpy(dropping(x, training=flag)) for flag in (True, True, False, False))
    assert np.abs(first - second).max() > 1e-3 and np.array_equal(still, again)
    stateful = keras.Sequential([keras.Input(batch_shape=(2, 4, 3)), tfr.Masked(keras.layers.GRU(5, stateful=True))])
    plain = keras.Sequential([keras.Input(batch_shape=(2, 4, 3)), keras.layers.GRU(5, stateful=True)])
    values = [ops.convert_to_numpy(w) for w in stateful.weights if not w.name.startswith("mask_")]
    plain.set_weights(values[: len(plain.weights)])
    for _ in range(3):
        np.testing.assert_allclose(stateful(x), plain(x), atol=1e-6)


def test_strip_adds_low_rank_updates_to_the_kernels():
    tokens = keras.Input((8,), dtype="int32")
    x = keras.layers.Conv1D(6, 3, activation="relu")(keras.layers.Embedding(20, 8)(tokens))
    x = keras.layers.EinsumDense("abc,cd->abd", (6, 6), bias_axes="d")(x)
    model = keras.Model(tokens, keras.layers.Dense(3, use_bias=False)(keras.layers.Flatten()(x)))
    layers = [layer for layer in model.layers if hasattr(layer, "enable_lora")]
    for layer in layers:
        layer.enable_lora(2)
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    with pytest.raises(ValueError, match=r"strip\(model\)"):
        tfr.quantize(model)
    plain = tfr.strip(model)
    assert len(layers) == 4 and not any(getattr(layer, "lora_enabled", False) for layer in plain.layers)
    given = rng.integers(0, 20, (5, 8))
    np.testing.assert_allclose(ops.convert_to_numpy(plain(given)), ops.convert_to_numpy(model(given)), rtol=1e-4)
    assert len(plain.trainable_weights) == len(plain.weights) == 6
    assert tfr.groups(plain).sets and tfr.quantize(plain)


def test_low_rank_updates_inside_other_layers_are_refused_by_name():
    x = keras.Input((5, 4))
    inner = keras.layers.Dense(3, name="inside")
    model = keras.Model(x, keras.layers.TimeDistributed(inner)(x))
    inner.enable_lora(2)
    with pytest.raises(ValueError, match="cannot be merged. Received: layers=.'inside'"):
        tfr.strip(model)


def test_a_kernel_that_is_zero_already_has_a_note_and_no_error():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False), keras.layers.Dense(2)])
    model.layers[0].set_weights([np.zeros((4, 1))])
    with pytest.warns(UserWarning) as said:
        tfr.prune(model, "filter", threshold=1e-3)
    assert any("Nothing was removed" in str(warning.message) for warning in said)
