"""Laws every structure obeys, NumPy references in plain loops, and goldens written by hand."""

import dataclasses
import inspect
import itertools

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from keras import ops
from tables import PENALTIES, STRUCTURE_CASES, STRUCTURE_IDS, STRUCTURES, random_kernel

from tf_reweight import penalties, structures
from tf_reweight.kernels.layout import Layout
from tf_reweight.structures.one_pass import sum_of_squares


def cases(law):
    """A law over all structures and shapes in one test, which names each that breaks it: they are too short for one each."""

    def test(**more):
        broken = []
        for name, (structure, shape) in zip(STRUCTURE_IDS, STRUCTURE_CASES):
            try:
                law(structure, shape, **more)
            except Exception as error:
                broken.append(f"{name}: {type(error).__name__}: {error}")
        assert not broken, "\n".join([f"{len(broken)} of {len(STRUCTURE_CASES)}", *broken])

    _, _, *more = inspect.signature(law).parameters.values()
    test.__signature__, test.__name__, test.__doc__ = inspect.Signature(more), law.__name__, law.__doc__
    return test


def numpy_of(tensor):
    return ops.convert_to_numpy(tensor)


def test_every_structure_is_in_the_table():
    assert {structure.name for structure, _ in STRUCTURES.values()} == set(structures.names())


DEFAULTS = {
    "block": {"shape": [4, 4]}, "block_row": {"shape": [16, 16]}, "block_column": {"shape": [16, 16]},
    "n_of_m": {"n": 2, "m": 4, "axis": "in"}, "head": {"num_heads": None, "axis": None},
    "pattern": structures.Pattern("four", (3, 3)).get_config(),
}  # fmt: skip


@pytest.mark.parametrize("name", structures.names())
def test_defaults_are_those_documented(name):
    assert structures.get(name).get_config() == DEFAULTS.get(name, {})


@cases
def test_assemble_inverts_partition(structure, shape):
    kernel = random_kernel(shape)
    np.testing.assert_array_equal(numpy_of(structure.assemble(structure.partition(kernel), shape)), kernel)


@cases
def test_squared_norms_add_up_to_the_kernels(structure, shape):
    kernel = random_kernel(shape)
    np.testing.assert_allclose(numpy_of(structure.squared_norms(kernel)).sum(), np.square(kernel).sum(), rtol=1e-5)


@cases
def test_what_is_broadcast_is_what_is_repeated(structure, shape):
    """A kernel times one factor for each group, and the proximal step with it, in place of arrays of the kernel's size."""
    kernel, rng = random_kernel(shape), np.random.default_rng(1)
    norms = numpy_of(structure.group_norms(kernel))
    factors = rng.random(norms.shape).astype("float32")
    np.testing.assert_array_equal(
        numpy_of(structure.scaled(kernel, factors)), kernel * numpy_of(structure.expand(factors, shape))
    )
    thresholds = (norms * rng.choice([0.0, 0.5, 1.0, 1.5], norms.shape)).astype("float32")
    shrunk = numpy_of(structure.shrunk(ops.convert_to_tensor(kernel), thresholds))
    expected = kernel * numpy_of(structure.expand(structure.shrinkage(norms, thresholds), shape))
    np.testing.assert_allclose(shrunk, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(shrunk == 0, expected == 0)


@cases
def test_the_gradient_of_squared_norms_is_that_of_automatic_differentiation(structure, shape):
    import tensorflow as tf

    kernel = tf.Variable(random_kernel(shape))
    slope = tf.constant(np.random.default_rng(1).normal(size=structure.group_shape(shape)).astype("float32"))
    with tf.GradientTape(persistent=True) as tape:
        own = tf.reduce_sum(slope * structure.squared_norms(kernel))
        plain = tf.reduce_sum(slope * tf.reduce_sum(tf.square(structure.partition(kernel)), axis=-1))
    np.testing.assert_array_equal(numpy_of(tape.gradient(own, kernel)), numpy_of(tape.gradient(plain, kernel)))


@pytest.mark.parametrize("power", (1, 2))
@cases
def test_the_penalty_of_a_kernel_and_its_gradient_are_those_of_its_norms(structure, shape, power):
    import tensorflow as tf

    kernel = random_kernel(shape)
    kernel.flat[::5] = 0.0
    weights = np.random.default_rng(1).random(structure.group_shape(shape)).astype("float32")
    kernel = tf.Variable(kernel)
    with tf.GradientTape(persistent=True) as tape:
        own = 3.0 * structure.penalised(weights, kernel, power)
        plain = 3.0 * structure.surrogate(weights, structure.group_norms(kernel), power)
    np.testing.assert_allclose(numpy_of(own), numpy_of(plain), rtol=1e-6)
    np.testing.assert_array_equal(numpy_of(tape.gradient(own, kernel)), numpy_of(tape.gradient(plain, kernel)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_penalty_of_a_kernel_has_its_type(dtype):
    kernel = ops.cast(random_kernel((3, 4)), dtype)
    found = structures.get("unstructured").penalised(np.ones((1, 12), "float32"), kernel)
    assert found.dtype == dtype and float(found) == pytest.approx(float(ops.sum(ops.abs(kernel))), rel=1e-2)


@pytest.mark.parametrize("shape", [(7,), (48, 5), (47, 5), (3, 3, 16, 4), (1, 5, 7, 2), (2, 1, 3, 8, 3)], ids=str)
def test_sums_of_squares_are_those_of_numpy_over_any_axes(shape):
    kernel = random_kernel(shape)
    for count in range(len(shape) + 1):
        for axes in itertools.combinations(range(len(shape)), count):
            expected = np.sum(np.square(kernel.astype("float64")), axis=axes)
            np.testing.assert_allclose(numpy_of(sum_of_squares(kernel, axes)), expected, rtol=1e-5)
            assert numpy_of(sum_of_squares(np.zeros(shape, "float32"), axes)).max() == 0


@cases
def test_norms_agree_with_the_materialised_view(structure, shape):
    kernel = random_kernel(shape)
    view = numpy_of(structure.partition(kernel))
    norms = numpy_of(structure.group_norms(kernel))
    assert norms.shape == view.shape[:2] == structure.group_shape(shape)
    for scope in range(view.shape[0]):
        for group in range(view.shape[1]):
            assert norms[scope, group] == pytest.approx(sum(float(w) ** 2 for w in view[scope, group]) ** 0.5, rel=1e-4)


@cases
def test_member_counts_cover_every_weight_once(structure, shape):
    assert structure.num_members(shape).sum() == np.prod(shape)


@cases
def test_masks_are_binary_idempotent_and_remove_exactly_their_groups(structure, shape):
    kernel = random_kernel(shape) + 3.0
    keep = np.random.default_rng(1).random(structure.group_shape(shape)) < 0.5
    mask = numpy_of(structure.mask(keep, shape))
    assert set(np.unique(mask)) <= {0.0, 1.0}
    assert mask.sum() == structure.num_members(shape)[keep].sum()
    norms = numpy_of(structure.group_norms(kernel * mask))
    np.testing.assert_array_equal(norms > 0, keep & (structure.num_members(shape) > 0))
    np.testing.assert_array_equal(kernel * mask * mask, kernel * mask)


@cases
def test_norms_scale_with_the_kernel(structure, shape):
    kernel = random_kernel(shape)
    np.testing.assert_allclose(
        numpy_of(structure.group_norms(3.0 * kernel)), 3.0 * numpy_of(structure.group_norms(kernel)), rtol=1e-5
    )


@cases
def test_config_round_trip(structure, shape):
    assert structures.get(structure.serialize()) == structure


@cases
def test_surrogate_touches_the_penalty_and_is_zero_where_it_is_free(structure, shape):
    """With weights taken at a kernel, the linearised penalty there is weight * norm, and 0 on an all-zero kernel."""
    kernel, penalty = random_kernel(shape), penalties.LogSum(0.1)
    norms = structure.group_norms(kernel)
    weights = structure.penalty_weights(penalty, norms)
    assert numpy_of(weights).shape == structure.group_shape(shape)
    assert (numpy_of(weights) >= 0).all()
    assert float(structure.surrogate(weights, norms)) > 0
    assert float(structure.surrogate(weights, ops.zeros_like(norms))) == 0.0


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@cases
def test_the_surrogate_is_a_sum_over_groups_of_weights_and_powers(structure, shape, penalty):
    """`sum P_g r_g ** power` in a loop, with weights from another kernel; a pattern's is over what lies outside, as one."""
    norms = structure.group_norms(random_kernel(shape))
    weights = numpy_of(structure.penalty_weights(penalty, structure.group_norms(random_kernel(shape, seed=1))))
    expected = 0.0
    for scope, row in zip(weights, numpy_of(norms)):
        if structure.name == "pattern" and penalty.power == 1:
            expected += sum((weight * norm) ** 2 for weight, norm in zip(scope, row)) ** 0.5
        else:
            expected += sum(weight * norm**penalty.power for weight, norm in zip(scope, row))
    assert float(structure.surrogate(weights, norms, penalty.power)) == pytest.approx(expected, rel=1e-4)


@cases
def test_structures_that_choose_for_themselves_keep_what_is_largest_and_free_it(structure, shape):
    norms = structure.group_norms(random_kernel(shape))
    keep = structure.select(norms)
    if keep is None:
        assert structure.name not in ("n_of_m", "pattern")
        return
    projected = norms * ops.cast(keep, "float32")
    np.testing.assert_array_equal(numpy_of(structure.select(projected)), numpy_of(keep))
    weights = structure.penalty_weights(penalties.LogSum(), norms)
    np.testing.assert_array_equal(numpy_of(weights)[numpy_of(keep)], 0.0)
    assert float(structure.surrogate(weights, projected)) == 0.0


@st.composite
def fitted(draw):
    """A structure that decides itself, or heads, with a shape drawn to fit it."""
    kind, many = draw(st.sampled_from(["n_of_m", "pattern", "circles", "head"])), st.integers(1, 5)
    shape = draw(st.lists(many, min_size=2, max_size=4))
    if kind == "n_of_m":
        m = draw(st.integers(2, 5))
        axis = draw(st.integers(0, len(shape) - 1))
        shape[axis] *= m
        named = {len(shape) - 1: "out", len(shape) - 2: "in"}.get(axis, axis)
        return structures.NOfM(draw(st.integers(1, m - 1)), m, named), tuple(shape)
    if kind == "head":
        heads, axis = draw(many), draw(st.sampled_from(["in", "out"]))
        shape[-1 if axis == "out" else -2] *= heads
        return structures.Head(heads, axis), tuple(shape)
    size = (draw(st.integers(1, 5)), draw(st.integers(2, 5)))
    positions = st.sets(st.integers(0, size[0] * size[1] - 1), min_size=1)
    sets = "circles" if kind == "circles" else [sorted(one) for one in draw(st.lists(positions, min_size=1, max_size=4))]
    return structures.Pattern(sets, size), (*size, *shape[:2])


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(fitted())
def test_laws_hold_on_drawn_structures_and_shapes(case):
    structure, shape = case
    kernel = random_kernel(shape)
    assert structure.misfit(shape) is None and structures.get(structure.serialize()) == structure
    np.testing.assert_array_equal(numpy_of(structure.assemble(structure.partition(kernel), shape)), kernel)
    assert structure.num_members(shape).sum() == kernel.size
    norms = structure.group_norms(kernel)
    np.testing.assert_allclose(np.square(numpy_of(norms)).sum(), np.square(kernel).sum(), rtol=1e-4)
    keep = structure.select(norms)
    assert (keep is not None) == structure.decides
    if structure.decides:
        projected = kernel * numpy_of(structure.mask(keep, shape))
        np.testing.assert_array_equal(numpy_of(structure.select(structure.group_norms(projected))), numpy_of(keep))


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    name=st.sampled_from(["unstructured", "filter", "channel", "column", "kernel", "block", "block_row", "block_column"]),
    shape=st.lists(st.integers(2, 6), min_size=3, max_size=4),
    block=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_laws_hold_on_drawn_shapes(name, shape, block):
    structure = structures.get({"name": name, "shape": block} if name.startswith("block") else name)
    kernel, shape = random_kernel(shape), tuple(shape)
    np.testing.assert_array_equal(numpy_of(structure.assemble(structure.partition(kernel), shape)), kernel)
    assert structure.num_members(shape).sum() == kernel.size
    np.testing.assert_allclose(numpy_of(structure.squared_norms(kernel)).sum(), np.square(kernel).sum(), rtol=1e-4)


KERNEL = np.arange(1, 25, dtype="float32").reshape(2, 2, 2, 3)


@pytest.mark.parametrize(
    "structure, group, expected",
    [
        ("filter", 1, KERNEL[..., 1]),
        ("channel", 1, KERNEL[..., 1, :]),
        ("column", 3, KERNEL[0, 1, 1]),
        ("kernel", 4, KERNEL[:, :, 1, 1]),
        ({"name": "block", "shape": [2, 3]}, 1, KERNEL[0, 1]),
        ("unstructured", 5, KERNEL[0, 0, 1, 2]),
    ],
)
def test_golden_groups(structure, group, expected):
    """Which weights form a group, written out by hand."""
    parts = numpy_of(structures.get(structure).partition(KERNEL))
    assert sorted(parts[0, group]) == sorted(np.ravel(expected))


def test_golden_block_rows_and_columns():
    matrix = np.arange(1, 17, dtype="float32").reshape(4, 4)
    rows = numpy_of(structures.BlockRow((2, 2)).partition(matrix))
    columns = numpy_of(structures.BlockColumn((2, 2)).partition(matrix))
    np.testing.assert_array_equal(rows[1], [[3, 4], [7, 8]])
    np.testing.assert_array_equal(columns[1], [[3, 7], [4, 8]])


def test_golden_two_of_four():
    column = np.array([[1.0], [-4.0], [3.0], [2.0], [0.0], [0.0], [5.0], [0.0]], "float32")
    structure = structures.NOfM(2, 4)
    keep = structure.select(structure.group_norms(column))
    kept = column * numpy_of(structure.mask(keep, column.shape))
    np.testing.assert_array_equal(kept[:4, 0], [0, -4, 3, 0])
    assert (numpy_of(keep).sum(-1) == 2).all()


def test_pattern_sets_have_the_published_sizes():
    four, five = structures.Pattern("four"), structures.Pattern("five")
    assert len(four.positions) == 56 and all(len(p) == 4 and 4 in p for p in four.positions)
    assert len(five.positions) == 70 and all(len(p) == 5 and 4 in p for p in five.positions)
    assert all(len(p) < 25 for p in structures.Pattern("circles", (5, 5)).positions)


def test_adjacent_patterns_are_the_squares_and_the_shapes_of_a_t_among_the_four():
    def touches(positions):
        rows, columns = zip(*(divmod(position, 3) for position in positions))
        square = max(rows) - min(rows) == max(columns) - min(columns) == 1
        return square or all(abs(row - 1) + abs(column - 1) <= 1 for row, column in zip(rows, columns))

    found = structures.Pattern("four_adjacent").positions
    assert len(found) == 8
    assert set(found) == {positions for positions in structures.Pattern("four").positions if touches(positions)}


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (5, 5), (3, 5), (7, 7)])
def test_without_a_radius_the_disc_is_the_one_that_is_nearest_to_half_of_the_kernel(size):
    rows, columns = np.indices(size)
    distances = np.hypot(rows - (size[0] - 1) / 2, columns - (size[1] - 1) / 2).ravel()
    discs = [np.flatnonzero(distances <= radius + 1e-9) for radius in np.unique(distances)]
    nearest = min(abs(len(disc) - distances.size / 2) for disc in discs)
    first = structures.pattern.circles(size)[0]
    assert any(np.array_equal(first, disc) and abs(len(disc) - distances.size / 2) == nearest for disc in discs)


def test_the_smallest_numbers_of_a_pattern_are_taken():
    assert structures.Pattern("natural", entries=1, num_patterns=1).entries == 1
    assert (4,) in structures.Pattern("circles", (3, 3), radius=0).positions


def test_pattern_keeps_the_set_with_most_energy():
    kernel = np.zeros((3, 3, 1, 1), "float32")
    kernel[0, 0], kernel[0, 1], kernel[1, 0], kernel[1, 1], kernel[2, 2] = 5, 4, 3, 1, 2
    structure = structures.Pattern("four")
    mask = numpy_of(structure.mask(structure.select(structure.group_norms(kernel)), kernel.shape))[..., 0, 0]
    np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_pattern_penalty_is_the_distance_to_the_set():
    """At the update the surrogate equals penalty'(d) * d with d found by brute force over all patterns."""
    structure, penalty = structures.Pattern("four"), penalties.LogSum(0.1)
    kernel = random_kernel((3, 3, 2, 3))
    norms = structure.group_norms(kernel)
    value = float(structure.surrogate(structure.penalty_weights(penalty, norms), norms))
    expected = 0.0
    for i in range(2):
        for o in range(3):
            flat = kernel[:, :, i, o].ravel()
            outside = [sum(flat[p] ** 2 for p in range(9) if p not in pattern) for pattern in structure.positions]
            distance = min(outside) ** 0.5
            expected += distance / (distance + 0.1)
    assert value == pytest.approx(expected, rel=1e-5)


def test_natural_patterns_count_what_kernels_choose():
    kernel = np.zeros((3, 3, 1, 3), "float32")
    for output, positions in enumerate([(0, 4), (0, 4), (3, 8)]):
        kernel.reshape(9, 3)[list(positions), output] = 1.0, -2.0  # what counts is the magnitude
        kernel.reshape(9, 3)[1, output] = 0.5
    from tf_reweight.structures import pattern

    assert pattern.natural([kernel], entries=2, num_patterns=2) == ((0, 4), (3, 8))
    assert pattern.natural([kernel, kernel[..., 2:], kernel[..., 2:]], 2, 1) == ((3, 8),)
    assert pattern.natural([kernel[..., [0, 2]]], 3, 5) == ((0, 1, 4), (1, 3, 8))


@cases
def test_gradient_of_norms_is_finite_at_zero(structure, shape):
    """On an all-zero kernel every gradient is zero, not NaN: a group must be able to stay removed."""
    import tensorflow as tf

    kernel = tf.zeros(shape)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        value = structure.surrogate(ops.ones(structure.group_shape(shape)), structure.group_norms(kernel))
    np.testing.assert_array_equal(tape.gradient(value, kernel), 0.0)


@pytest.mark.parametrize(
    "identifier, error, words",
    [
        ("filtr", ValueError, "Did you mean 'filter'"),
        ({"name": "block", "shap": [2, 2]}, ValueError, "Did you mean 'shape'"),
        ({"name": "block", "shape": [0, 2]}, ValueError, "positive integers"),
        ({"name": "n_of_m", "n": 4, "m": 4}, ValueError, "counts what is KEPT"),
        ({"name": "n_of_m", "axis": "inn"}, ValueError, "Did you mean 'in'"),
        ({"name": "n_of_m", "axis": -1}, ValueError, "0 and up"),
        ({"name": "pattern", "positions": "hexagons"}, ValueError, "Valid: circles"),
        ({"name": "pattern", "positions": [[9]]}, ValueError, "0..8"),
        (3, TypeError, "must be a name"),
        ({"shape": [2, 2]}, TypeError, "must be a name"),
    ],
)
def test_bad_structures_are_explained(identifier, error, words):
    with pytest.raises(error, match="Received: ") as raised:
        structures.get(identifier)
    assert words in str(raised.value)


def test_misfits_are_named():
    assert "spatial" in structures.Kernel().misfit((4, 5))
    assert "multiple of 4" in structures.NOfM(2, 4).misfit((6, 3))
    assert "no axis 2" in structures.NOfM(1, 3, 2).misfit((6, 3))
    assert "3x3" in structures.Pattern().misfit((5, 5, 1, 2))
    assert "single input" in structures.Channel().misfit((3, 3, 1, 8))
    assert "filter" in structures.Neuron().misfit((3, 3, 2, 8))


def test_heads_come_from_the_layer_where_they_are_not_given():
    layout = dataclasses.replace(Layout.standard((6, 8)), num_heads=4)
    assert structures.Head().fit(layout) == structures.Head(4, "in")
    assert structures.Head().fit(Layout(("in", "out", "out"), (6, 4, 2), 4)) == structures.Head(4, "out")
    for given in (structures.Head(4), structures.Head(axis="in"), structures.Head(4, "in")):
        assert given.fit(layout) == structures.Head(4, "in") and given.fit(layout).fit(layout) == given.fit(layout)
    for other, reason in ((structures.Head(3), "4 attention heads and not 3"), (structures.Head(axis="out"), "axis 'in'")):
        assert reason in other.fit(layout).misfit((6, 8))
    for given in (structures.Head(), structures.Head(2, "out")):
        assert given.fit(Layout.standard((6, 8))) is given


def test_golden_circles():
    """Radius 1 in 3x3: the plus, and the four halves of six positions, which it does not lie in."""
    rows = ((0, 1, 2, 3, 4, 5), (3, 4, 5, 6, 7, 8), (0, 1, 3, 4, 6, 7), (1, 2, 4, 5, 7, 8))
    assert set(structures.pattern.circles((3, 3), 1)) == {(1, 3, 4, 5, 7), *rows}
    disc, *halves = structures.pattern.circles((5, 5), 2**0.5)
    assert disc == (6, 7, 8, 11, 12, 13, 16, 17, 18) and [len(half) for half in halves] == [9] * 4
    assert (10, 11, 12, 13, 14, 16, 17, 18, 22) in halves  # the lower half of radius 2


@pytest.mark.parametrize("size", [(3, 3), (5, 5), (4, 4), (7, 7), (3, 5), (1, 3)])
@pytest.mark.parametrize("radius", [None, 1.0, 2.0])
def test_circles_fit_every_kernel_and_none_lies_in_another(size, radius):
    sets = structures.pattern.circles(size, radius)
    assert sets and all(0 < len(one) < size[0] * size[1] for one in sets)
    assert not any(set(one) <= set(other) for one in sets for other in sets if one is not other)


def test_natural_patterns_are_counted_when_put_on_a_model():
    """Two sizes of kernels, each with sets of its own; 1x1 kernels are left out; what was counted is in the penalties."""
    import keras

    import tf_reweight as tfr

    image = keras.Input((9, 9, 2))
    x = keras.layers.Conv2D(6, 3, name="small")(image)
    x = keras.layers.Conv2D(6, 5, name="large")(keras.layers.Conv2D(4, 1, name="point")(x))
    model = keras.Model(image, keras.layers.Dense(3, name="dense")(x))
    natural = {"name": "pattern", "positions": "natural", "entries": 3, "num_patterns": 2}
    attached = tfr.regularize(model, natural, 1e-3)
    found = {item.target.path: item.regularizer.structure for item in attached.attachments}
    assert {path: structure.kernel_size for path, structure in found.items()} == {"small": (3, 3), "large": (5, 5)}
    for path, structure in found.items():
        kernel = numpy_of(model.get_layer(path).kernel)
        assert structure.positions == structures.pattern.natural([kernel], 3, 2, kernel.shape[:2])
    assert "2-D kernels" in dict((item.name, item.reason) for item in attached.left_out)["point/kernel"]
    report = tfr.prune(model)
    assert [(item.kept_weights, item.num_weights) for item in report.kernels] == [(36, 108), (72, 600)]


@pytest.mark.parametrize(
    "size, entries, reason", [((5,), 3, "2-D kernels"), ((2, 3, 2), 3, "2-D kernels"), ((2, 2), 4, "4 entries leave nothing")]
)
def test_kernels_that_cannot_have_natural_patterns_are_not_counted(size, entries, reason):
    structure = structures.Pattern("natural", entries=entries, num_patterns=2)
    learned = structure.learn(size, [random_kernel((*size, 2, 3))])
    assert learned is structure and reason in learned.misfit((*size, 2, 3))


def test_a_pattern_given_in_a_constructor_cannot_be_natural():
    import keras

    import tf_reweight as tfr

    penalty = tfr.regularizers.Reweighted({"name": "pattern", "positions": "natural", "entries": 3, "num_patterns": 2})
    model = keras.Sequential([keras.Input((9, 9, 2)), keras.layers.Conv2D(4, 3, kernel_regularizer=penalty)])
    with pytest.raises(ValueError, match="counted when the structure is put on a model.*Received: "):
        tfr.attach(model)


@pytest.mark.parametrize(
    "fields",
    [
        {"positions": "natural"},
        {"positions": "natural", "entries": 4},
        {"positions": "natural", "entries": 0, "num_patterns": 8},
        {"positions": "four", "entries": 4},
        {"positions": "circles", "num_patterns": 8},
        {"positions": "five", "radius": 1.0},
        {"positions": "circles", "radius": -1},
        {"positions": "four", "kernel_size": [5, 5]},
    ],
)
def test_fields_that_do_not_go_with_a_pattern_set_are_refused(fields):
    with pytest.raises(ValueError, match=r"Received: .+\. \S"):
        structures.get({"name": "pattern", **fields})


@pytest.mark.parametrize("axes", [(), (0,), (0, 1), (0, 3), (2, 3), (0, 1, 2, 3)])
def test_sums_are_the_same_where_the_backend_is_not_tensorflow(axes, monkeypatch):
    """The backends' own tests need an installation; the branch itself does not."""
    kernel = random_kernel((6, 8, 3, 4))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    np.testing.assert_allclose(numpy_of(sum_of_squares(kernel, axes)), np.square(kernel).sum(axes), rtol=1e-5)


@cases
def test_norms_of_a_variable_are_those_of_its_value(structure, shape):
    """Outside a training step as well, where TensorFlow's custom gradients take no variables."""
    variable = keras.Variable(random_kernel(shape))
    np.testing.assert_array_equal(numpy_of(structure.group_norms(variable)), numpy_of(structure.group_norms(variable.numpy())))
