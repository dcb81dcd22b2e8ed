"""One door for examples: every kind of source means the same arrays, everywhere."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_reweight import export, prune_groups, quantization, refresh_statistics, shrink, workflow
from tf_reweight.data import examples, feeds, labelled
from tf_reweight.reports.sensitivity import sensitivity

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 4)).astype("float32"), np.arange(20) % 3
LEFT, RIGHT = RNG.normal(size=(20, 4)).astype("float32") * 100, RNG.normal(size=(20, 2)).astype("float32")


class Batches(keras.utils.PyDataset):
    def __init__(self, *columns, size=8, **kwargs):
        super().__init__(**kwargs)
        self.columns, self.size = columns, size

    def __len__(self):
        return -(-len(keras.tree.flatten(self.columns[0])[0]) // self.size)

    def __getitem__(self, index):
        return keras.tree.map_structure(lambda a: a[index * self.size : (index + 1) * self.size], self.columns)


def one_input():
    return keras.Sequential([keras.Input((4,), name="x"), L.Dense(6, activation="relu"), L.Dense(3)])


def two_inputs(structure=dict):
    """`zeta` first in the model, `alpha` first where names are sorted; of unlike shapes and scales."""
    zeta, alpha = keras.Input((4,), name="zeta"), keras.Input((2,), name="alpha")
    made = {"zeta": zeta, "alpha": alpha} if structure is dict else [zeta, alpha]
    return keras.Model(made, L.Dense(3)(L.Concatenate()([L.Dense(4)(zeta), L.Dense(4)(alpha)])))


def tf_data(*columns):
    return tf.data.Dataset.from_tensor_slices(columns if len(columns) > 1 else columns[0])


def forever(batch):
    return itertools.repeat(batch)


ONE = {
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "list": lambda: [X],
    "dict": lambda: {"x": X},
    "numbers": lambda: X.tolist(),
    "tf.data, batched": lambda: tf_data(X).batch(8),
    "tf.data, single": lambda: tf_data(X),
    "tf.data with labels": lambda: tf_data(X, Y).batch(8),
    "tf.data with weights": lambda: tf_data(X, Y, np.ones(20)).batch(8),
    "tf.data, single, with labels": lambda: tf_data(X, Y),
    "generator": lambda: (X[i : i + 6] for i in range(0, 20, 6)),
    "generator function": lambda: lambda: ([X[i : i + 1]] for i in range(20)),
    "generator with labels": lambda: ((X[i : i + 6], Y[i : i + 6]) for i in range(0, 20, 6)),
    "generator of dicts": lambda: ({"x": X[i : i + 6]} for i in range(0, 20, 6)),
    "list of dicts": lambda: [{"x": X[:8]}, {"x": X[8:]}],
    "list of pairs": lambda: [(X[:8], Y[:8]), (X[8:], Y[8:])],
    "PyDataset": lambda: Batches(X, Y),
}


@pytest.mark.parametrize("kind", ONE)
def test_every_kind_of_source_gives_the_same_examples(kind):
    (found,) = examples.take(one_input(), ONE[kind](), "x")
    order = np.lexsort(found.T)
    np.testing.assert_allclose(found[order], X[np.lexsort(X.T)], rtol=1e-6)


TWO = {
    "dict": lambda: {"zeta": LEFT, "alpha": RIGHT},
    "dict, other order": lambda: {"alpha": RIGHT, "zeta": LEFT},
    "tf.data": lambda: tf_data({"zeta": LEFT, "alpha": RIGHT}).batch(8),
    "tf.data with labels": lambda: tf_data({"alpha": RIGHT, "zeta": LEFT}, Y).batch(8),
    "tf.data, single": lambda: tf_data({"alpha": RIGHT, "zeta": LEFT}),
    "generator": lambda: iter([{"zeta": LEFT[:8], "alpha": RIGHT[:8]}, {"alpha": RIGHT[8:], "zeta": LEFT[8:]}]),
    "PyDataset": lambda: Batches({"zeta": LEFT, "alpha": RIGHT}, Y, size=20),
}


@pytest.mark.parametrize("structure", [dict, list])
@pytest.mark.parametrize("kind", TWO)
def test_names_decide_whatever_the_order(kind, structure):
    model = two_inputs(structure)
    found = dict(zip([tensor.name for tensor in model.inputs], examples.take(model, TWO[kind](), "x")))
    np.testing.assert_array_equal(found["zeta"], LEFT)
    np.testing.assert_array_equal(found["alpha"], RIGHT)


@pytest.mark.parametrize(
    "given", [[LEFT, RIGHT], (LEFT, RIGHT), lambda: iter([(LEFT, RIGHT)]), lambda: iter([[LEFT, RIGHT]]),
              lambda: iter([((LEFT, RIGHT), Y)])]
)  # fmt: skip
def test_several_inputs_by_position(given):
    first, second = examples.take(two_inputs(list), given, "x")
    np.testing.assert_array_equal(first, LEFT)
    np.testing.assert_array_equal(second, RIGHT)


NAMED = {"alpha": RIGHT, "zeta": LEFT}
PAIRS = {
    "of one input": (one_input, X, Y),
    "of one input, numbers": (one_input, X.tolist(), Y),
    "of one input by name": (one_input, {"x": X}, np.stack([Y, Y], -1)),
    "of one input in a list": (one_input, [X], Y),
    "by name": (two_inputs, NAMED, Y),
    "by name, with labels by name": (two_inputs, NAMED, {"size": Y, "kind": Y}),
    "in a list": (lambda: two_inputs(list), [LEFT, RIGHT], Y),
    "in a tuple, with two labels": (lambda: two_inputs(list), (LEFT, RIGHT), (Y, Y)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_pair_of_inputs_and_labels(kind):
    """Of several inputs it was taken for two of them, and refused; of one by the functions that need no labels."""
    make, x, y = PAIRS[kind]
    model, plain = make(), examples.take(make(), x, "x")
    assert examples.take_labelled(model, (x, y), "x")[1] is y
    for found in (examples.take(model, (x, y), "x"), labelled.given(model, (x, y)).arrays):
        for first, second in zip(found, plain, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "make, given, num",
    [
        (lambda: two_inputs(list), (LEFT, RIGHT), 20), (two_inputs, (RIGHT, LEFT), 20),
        (one_input, ((X, Y), (X, Y)), 40), (two_inputs, (NAMED, NAMED), 40), (one_input, ([1, 2, 3, 4], [5, 6, 7, 8]), 2),
        (lambda: two_inputs(list), ((LEFT, RIGHT), (LEFT, RIGHT)), 40),
    ],
)  # fmt: skip
def test_a_tuple_of_just_the_inputs_or_of_batches_is_no_pair(make, given, num):
    model = make()
    assert examples.pair(model, given) is None and len(examples.take(model, given, "x")[0]) == num
    assert labelled.given(model, given).num == num


def test_every_function_takes_a_pair_of_several_inputs_and_labels(tmp_path):
    model, data = two_inputs(), (NAMED, Y)
    export.export_tflite(model, tmp_path / "a.tflite", "int8", representative_data=data, verify_data=data)
    assert export.explain(model, tmp_path / "a.tflite", data, num_examples=2).file_accuracy is not None
    assert export.check_file(tmp_path / "a.tflite", agrees_with=model, data=NAMED).requirements
    quantization.calibrate(quantization.quantize(model), data)
    assert refresh_statistics(model, data).layers == ()


COLUMNS = {"age": np.arange(20.0, dtype="float32"), "kind": np.arange(20, dtype="int32")}
TABLES = {
    "columns": lambda: COLUMNS,
    "columns with an axis": lambda: {name: column[:, None] for name, column in COLUMNS.items()},
    "tf.data, batched": lambda: tf_data(COLUMNS, Y).batch(8),
    "tf.data, single": lambda: tf_data(COLUMNS, Y),
    "tf.data, single with an axis": lambda: tf_data({**COLUMNS, "age": COLUMNS["age"][:, None]}, Y),
}


def table():
    """A model of a number with an axis, and of one without."""
    age, kind = keras.Input((1,), name="age"), keras.Input((), dtype="int32", name="kind")
    model = keras.Model({"age": age, "kind": kind}, L.Dense(3)(L.Dense(6)(L.Concatenate()([age, L.Embedding(20, 4)(kind)]))))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("kind", TABLES)
def test_columns_of_a_table_get_the_axes_of_their_inputs(kind):
    """Keras adds and drops a last axis of one entry; what looked at shapes did not, and took batches for examples."""
    model = table()
    age, number = examples.take(model, TABLES[kind](), "x")
    assert age.shape == (20, 1) and number.shape == (20,)
    np.testing.assert_array_equal(np.sort(age[:, 0]), np.sort(number))
    read = TABLES[kind]() if "tf.data" in kind else (TABLES[kind](), Y)
    feed = feeds.feed(model, read, "train", batch_size=8)
    assert (feed.num_batches, feed.num_examples) == (3, 20)
    model.evaluate(feed.to_fit()[0], verbose=0)
    (batch, *_), *_ = feed.batches()
    assert shrink(model, inputs=batch).count_params() == model.count_params()


def test_a_last_batch_of_one_row_of_a_column_is_a_batch():
    """Its shape is that of one example with its axis: labels got an axis that those of the other batches lack."""
    age = keras.Input((1,), name="age")
    model = keras.Model(age, L.Dense(3)(age))
    (column,), labels = examples.take_labelled(model, tf_data(COLUMNS["age"][:17], Y[:17]).batch(8), "x")
    assert column.shape == (17, 1) and labels.shape == (17,)
    np.testing.assert_array_equal(np.sort(column[:, 0]), COLUMNS["age"][:17])


def test_batches_that_lack_the_last_of_several_axes_are_batches():
    moment = keras.Input((1, 1))
    model = keras.Model(moment, L.Flatten()(moment))
    (array,) = examples.take(model, tf_data(COLUMNS["age"][:, None]).batch(8), "x")
    assert array.shape == (20, 1, 1)


@pytest.mark.parametrize("batched", [False, True])
def test_whether_a_data_set_is_in_batches_is_told_by_all_inputs_in_their_own_order(batched):
    """Sorted by name, `age` came to the place of `zeta`."""
    zeta, age = keras.Input((1,), name="zeta"), keras.Input((8,), name="age")
    model = keras.Model([zeta, age], L.Dense(1)(L.Concatenate()([zeta, age])))
    model.compile("sgd", "mse")
    data = tf_data({"age": np.zeros((20, 8), "float32"), "zeta": np.zeros((20, 1), "float32")}, np.zeros((20, 1), "float32"))
    feed = feeds.feed(model, data.batch(8) if batched else data, "train", batch_size=8)
    assert (feed.num_batches, feed.num_examples) == (3, 20)
    model.evaluate(feed.to_fit()[0], verbose=0)


def test_pictures_without_their_axis_of_one_channel_are_pictures():
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(2)])
    pictures = RNG.random((6, 4, 4)).astype("float32")
    for given in (pictures, tf_data(pictures), tf_data(pictures).batch(3), tf_data(pictures[..., None])):
        (array,) = examples.take(model, given, "x")
        assert array.shape == (6, 4, 4, 1)


def test_nested_structures_are_filled_by_name_and_position():
    a, b, c = (keras.Input((size,), name=name) for size, name in ((4, "a"), (2, "b"), (3, "c")))
    model = keras.Model({"pair": [b, a], "last": {"c": c}}, L.Concatenate()([a, b, c]))
    third = RIGHT[:, :1].repeat(3, axis=1)
    for given in (
        {"last": {"c": third}, "pair": [RIGHT, LEFT]},
        {"pair": {"a": LEFT, "b": RIGHT}, "last": {"c": third}},
        lambda: iter([({"pair": (RIGHT, LEFT), "last": {"c": third}}, Y)]),
    ):
        found = keras.tree.pack_sequence_as(model.input, examples.take(model, given, "x"))
        np.testing.assert_array_equal(found["pair"][0], RIGHT)
        np.testing.assert_array_equal(found["pair"][1], LEFT)
        np.testing.assert_array_equal(found["last"]["c"], third)


def test_a_source_without_an_end_gives_its_first_examples():
    (found,) = examples.take(one_input(), forever(X[:3]), "x", most=10)
    np.testing.assert_array_equal(found, np.concatenate([X[:3]] * 4)[:10])
    assert len(examples.take(one_input(), tf_data(X).repeat().batch(7), "x", most=30)[0]) == 30


def test_a_large_source_sorted_by_class_gives_examples_of_every_class():
    classes = np.repeat(np.arange(10), 50)
    x = np.eye(10, dtype="float32")[classes]
    model = keras.Sequential([keras.Input((10,)), L.Dense(2)])
    for source in (lambda: tf_data(x).batch(20), lambda: Batches(x, size=10)):
        (found,) = examples.take(model, source(), "x", most=100)
        counts = found.sum(0)
        assert len(found) == 100 and counts.min() >= 1
        np.testing.assert_array_equal(found, examples.take(model, source(), "x", most=100)[0])


@pytest.mark.parametrize(
    "given, words",
    [
        (lambda: iter([]), "at least one example"),
        ({"y": X}, "Did you mean|Valid: x"),
        ({}, "must name every input"),
        ([X, X], "one array per input"),
        (lambda: iter([X[:4], X[:4, :2]]), "must be alike"),
        ([[1.0, 2.0], [1.0]], "must hold arrays"),
        (X[:, :3], "must have the shape"),
        (np.where(X > 1, np.nan, X), "must be finite"),
        (X.astype("str"), "must hold numbers"),
    ],
)
def test_what_does_not_fit_is_explained(given, words, tmp_path):
    model = one_input()
    quantized = quantization.quantize(one_input())
    for call in (
        lambda: export.export_tflite(model, tmp_path / "a.tflite", "int8", representative_data=given),
        lambda: export.export_tflite(model, tmp_path / "a.tflite", verify_data=given),
        lambda: quantization.calibrate(quantized, given),
        lambda: export.precision_sensitivity(model, given),
        lambda: export.export_mixed(model, tmp_path / "a.tflite", 2000, given),
        lambda: sensitivity(model, (given, Y)),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "Received: " in str(caught.value) or "Valid: " in str(caught.value)
    assert not list(tmp_path.iterdir())
    for nothing in (None, "digits", 3):
        with pytest.raises(TypeError, match="must hold examples"):
            examples.take(model, nothing, "x")


WHOLE = [("int32", 2**32 + 3), ("int32", -(2**31) - 1), ("uint8", 300), ("uint8", -1), ("float16", 10**5)]


@pytest.mark.parametrize("dtype, value", WHOLE)
def test_whole_numbers_beyond_the_type_of_an_input_are_refused_as_floats_are(dtype, value, tmp_path):
    """They came round as others in silence: 2**32 + 3 was index 3 of an embedding, 300 was the grey value 44."""
    given = keras.Input((4,), dtype=dtype)
    model = keras.Model(given, L.Dense(3)(given))
    x = np.full((20, 4), value)
    for call in (
        lambda: export.export_tflite(model, tmp_path / "a.tflite", "int8", representative_data=x),
        lambda: quantization.quantize(model, data=x),
        lambda: workflow.accuracy(model, x, Y),
        lambda: feeds.feed(model, (x, Y), "train"),
        lambda: feeds.feed(model, lambda: iter([(x, Y)]), "train"),
    ):
        with pytest.raises(ValueError, match=rf"numbers that fit {dtype}, the type of .*Received: value={value}, dtype=.int64"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [-1, 10, 2**20])
def test_indices_that_an_embedding_does_not_have_are_refused_with_its_range(value, tmp_path):
    """Keras' traceback had said so, or LiteRT's refusal was put down to the operation and the lengths of sequences."""
    given = keras.Input((4,), dtype="int32", name="words")
    model = keras.Model(given, L.Dense(3)(L.Flatten()(L.Embedding(10, 2, name="table")(given))))
    good, x = np.full((20, 4), 9), np.full((20, 4), value)
    words = rf"must hold indices that 'table' has for 'words': 0 to 9\. Received: (batch=1, )?value={value}\. Look at what"
    for call in (
        lambda: export.export_tflite(model, tmp_path / "a.tflite", "int8", representative_data=x),
        lambda: export.export_tflite(model, tmp_path / "a.tflite", representative_data=good, verify_data=x),
        lambda: quantization.quantize(model, data=x),
        lambda: workflow.accuracy(model, x, Y),
        lambda: feeds.feed(model, (x, Y), "train"),
        lambda: feeds.feed(model, lambda: iter([(x, Y)]), "train"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert workflow.accuracy(model, good, Y) <= 1 and not list(tmp_path.iterdir())


def test_whole_numbers_that_fit_in_another_type_are_taken(tmp_path):
    given = keras.Input((4,), dtype="int32", name="x")
    model = keras.Model(given, L.Dense(3)(given))
    x = np.arange(80).reshape(20, 4)
    record = export.export_tflite(model, tmp_path / "a.tflite", verify_data=x.astype("uint64"))
    assert record.verification.num_examples == 20 and 0 <= export.evaluate_tflite(tmp_path / "a.tflite", x, Y) <= 1
    with pytest.raises(ValueError, match="`x` must hold numbers that fit int32, the type of this input of the file"):
        export.evaluate_tflite(tmp_path / "a.tflite", x + 2**32, Y)


@pytest.mark.parametrize("kind", TWO)
def test_files_are_calibrated_and_compared_by_name(kind, tmp_path):
    """Inputs of unlike scale: taken for each other, they give a file that is far off."""
    model = two_inputs()
    record = export.export_tflite(model, tmp_path / "a.tflite", "int8", TWO[kind](), TWO[kind]())
    assert record.verification.relative_error < 0.1 and record.verification.num_examples == 20
    expected = model.predict({"zeta": LEFT, "alpha": RIGHT}, verbose=0)
    (found,) = export.Runner(tmp_path / "a.tflite")({"zeta": LEFT, "alpha": RIGHT})
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("kind", TWO)
def test_ranges_are_learned_by_name(kind):
    plain, other = (quantization.quantize(two_inputs()) for _ in range(2))
    other.set_weights(plain.get_weights())
    quantization.calibrate(plain, {"zeta": LEFT, "alpha": RIGHT})
    quantization.calibrate(other, TWO[kind]())
    for first, second in zip(plain.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(first, second)


def test_examples_sorted_by_class_give_the_range_of_all_of_them():
    """Batches of one class each would have a mean range far narrower than the data."""
    x = np.repeat(np.array([0.0, 0.0, 0.0, 10.0], "float32"), 32)[:, None]
    layers = [L.Dense(4, activation="relu", kernel_initializer="ones"), L.Dense(2)]
    model = quantization.quantize(keras.Sequential([keras.Input((1,)), *layers]))
    quantization.calibrate(model, x, batch_size=32)
    first = next(layer for layer in quantization.ranges.rounders(model))
    assert float(first.maximum[0]) > 9.9


def test_sensitivity_takes_pairs_and_sources_alike():
    model = one_input()
    plain = sensitivity(model, (X, Y))
    parts = [(X[:5], Y[:5]), (X[5:], Y[5:])]
    for data in (({"x": X}, Y), tf_data(X, Y).batch(8), Batches(X, Y), lambda: iter(parts)):
        assert sensitivity(model, data) == plain
    named = two_inputs()
    assert sensitivity(named, ({"alpha": RIGHT, "zeta": LEFT}, Y)) == sensitivity(named, ([RIGHT, LEFT], Y))
    with pytest.raises(ValueError, match="integer labels"):
        sensitivity(model, tf_data(X).batch(8))


def test_precisions_are_measured_on_any_source(tmp_path):
    model = one_input()
    plain = export.precision_sensitivity(model, X, Y)
    assert export.precision_sensitivity(model, tf_data(X, Y).batch(8)) == plain
    assert plain.accuracy is not None and export.precision_sensitivity(model, X).accuracy is None
    record = export.export_mixed(model, tmp_path / "a.tflite", plain.num_bytes, (X[i : i + 5] for i in range(0, 20, 5)))
    assert record.verification.num_examples == 20


def two_outputs(structure=dict):
    x = keras.Input((4,))
    made = {"size": L.Dense(1, name="size")(x), "kind": L.Dense(3, name="kind")(L.BatchNormalization()(L.Dense(6)(x)))}
    model = keras.Model(x, made if structure is dict else [made["size"], made["kind"]])
    losses = {"size": "mse", "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    model.compile("sgd", losses if structure is dict else [losses["size"], losses["kind"]])
    return model


SIZES = X.sum(-1)
LABELS = {
    "tf.data of dicts": (dict, lambda: tf_data(X, {"size": SIZES, "kind": Y}).batch(8)),
    "tf.data of dicts, single": (dict, lambda: tf_data(X, {"size": SIZES, "kind": Y})),
    "tf.data with weights": (dict, lambda: tf_data(X, {"size": SIZES, "kind": Y}, {"size": Y, "kind": Y}).batch(8)),
    "tf.data of tuples": (list, lambda: tf_data(X, (SIZES, Y)).batch(8)),
    "as many in a batch as outputs": (list, lambda: tf_data(X, (SIZES, Y)).batch(2)),
    "tuples in sorted order for a dict": (dict, lambda: tf_data(X, (Y, SIZES)).batch(8)),
    "generator of lists": (list, lambda: iter([(X[:9], [SIZES[:9].tolist(), Y[:9].tolist()]), (X[9:], [SIZES[9:], Y[9:]])])),
    "PyDataset": (dict, lambda: Batches(X, {"size": SIZES, "kind": Y})),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_several_outputs_keep_their_structure(kind):
    """They were stacked to one array, or refused, even where only the examples were wanted."""
    structure, source = LABELS[kind]
    model = two_outputs(structure)
    (plain,), (arrays, labels) = examples.take(model, source(), "x"), examples.take_labelled(model, source(), "x")
    np.testing.assert_array_equal(plain, X)
    np.testing.assert_array_equal(arrays[0], X)
    names = ["size", "kind"] if structure is list else ["kind", "size"]
    found = dict(zip(names, labelled.in_order(labels, names, "x")))
    np.testing.assert_allclose(found["size"], SIZES, rtol=1e-6)
    np.testing.assert_array_equal(found["kind"], Y)


def test_labels_are_not_looked_at_where_they_are_not_wanted():
    (found,) = examples.take(one_input(), iter([(X, "anything"), (X, {"a": object()})]), "x")
    assert len(found) == 40


@pytest.mark.parametrize(
    "batches, words",
    [
        ([(X, Y[:3])], "`x` must yield whole batches"), ([(X, Y), X], "examples of `x` must be alike"),
        ([(X, [[1], [1, 2]])], "`x` must hold arrays"),
    ],
)  # fmt: skip
def test_labels_that_are_wanted_must_fit(batches, words):
    with pytest.raises(ValueError, match=words):
        labelled.read(one_input(), iter(batches))
    with pytest.raises(ValueError, match=words):
        export.precision_sensitivity(one_input(), iter(batches))


def test_files_are_made_and_looked_at_with_labels_of_several_outputs(tmp_path):
    model, source = two_outputs(), LABELS["PyDataset"][1]()
    export.export_tflite(model, tmp_path / "a.tflite", "int8", source, verify_data=source)
    assert export.explain(model, tmp_path / "a.tflite", source, num_examples=2).file_accuracy is None
    found = export.check_file(tmp_path / "a.tflite", agrees_with=model, data=source).requirements[-1].found
    assert "kind_accuracy" in found


def test_every_function_takes_batches_with_labels_of_several_outputs():
    model, source = two_outputs(), LABELS["PyDataset"][1]()
    assert refresh_statistics(model, source).losses
    quantization.calibrate(quantization.quantize(model), source)
    with pytest.raises(ValueError, match="must have one output with labels.*monitor"):
        sensitivity(model, source)
    assert sensitivity(model, source, sparsities=(0.5,), layers="size", monitor="loss").kernels
    prune_groups(model, sparsity=0.5, criterion="taylor", data=source)


def test_an_only_output_in_a_structure_has_its_labels():
    x = keras.Input((4,))
    output = L.Dense(3, name="kind")(x)
    for model, y in ((keras.Model(x, output), {"kind": Y}), (keras.Model(x, [output]), (Y,))):
        found = labelled.read(model, tf_data(X, y).batch(8)).labels
        np.testing.assert_array_equal(labelled.of_one_output(model, found), Y)
