"""Joins of tensors of unlike scale, as a detector's boxes beside its scores: float in integer files, each channel right."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import export
from tf_reweight.export.conversion import output_names
from tf_reweight.quantization import calibrate, rules
from tf_reweight.quantization.links import Links
from tf_reweight.tflite.execution import Runner

L = keras.layers
X = np.random.default_rng(0).random((48, 8, 8, 3)).astype("float32")


def features():
    x = keras.Input((8, 8, 3))
    return x, L.Conv2D(8, 3, strides=2, activation="relu")(x)


def boxes(h, channels=4, scale=320.0):
    return L.Rescaling(scale)(L.Reshape((-1, channels))(L.Conv2D(channels, 1)(h)))


def scores(h, channels=3):
    return L.Reshape((-1, channels))(L.Conv2D(channels, 1, activation="sigmoid")(h))


def last_axis():
    x, h = features()
    return keras.Model(x, L.Concatenate()([boxes(h), scores(h)]))


def first_axis():
    x, h = features()
    return keras.Model(x, L.Concatenate(axis=1)([boxes(h, 3), scores(h)]))


def three_branches():
    x, h = features()
    return keras.Model(x, ops.concatenate([boxes(h), boxes(h, 2, 40.0), scores(h)], axis=-1))


def reshaped_after():
    x, h = features()
    joined = L.Concatenate()([L.Concatenate(axis=1)([make(h), make(h)]) for make in (boxes, scores)])
    return keras.Model(x, L.Reshape((9, 2, 7))(joined))


def joined_twice():
    x, h = features()
    inner = L.Concatenate()([boxes(h), scores(h)])
    return keras.Model(x, L.Concatenate()([inner, scores(h, 2)]))


def joined_alike_before():
    x, h = features()
    inner = L.Concatenate()([scores(h), scores(h, 2)])
    return keras.Model(x, [L.Concatenate()([boxes(h), inner]), inner])


def output_and_input():
    x, h = features()
    box = boxes(h)
    return keras.Model(x, [box, L.Concatenate()([box, scores(h)])])


def stacked():
    x, h = features()
    box, score = L.Flatten()(boxes(h, 2)), L.Flatten()(scores(h, 2))
    return keras.Model(x, ops.stack([box, score], axis=-1))


def lesser():
    x, h = features()
    return keras.Model(x, L.Minimum()([L.Rescaling(1.0, 320.0)(boxes(h, 3)), scores(h)]))


def taken_apart():
    x, h = features()
    joined = L.Concatenate()([boxes(h), scores(h)])
    return keras.Model(x, [joined[..., :4], joined[..., 4:]])


def inside(scale):
    """A kernel that weighs the narrow branch only, behind a join in the middle."""
    x, h = features()
    h = L.GlobalAveragePooling2D()(h)
    joined = L.Concatenate()([L.Rescaling(scale)(L.Dense(4)(h)), L.Dense(6)(h)])
    last = L.Dense(1, name="score")
    model = keras.Model(x, last(joined))
    last.set_weights([np.r_[np.zeros((4, 1)), np.ones((6, 1))], np.zeros(1)])
    return model


def read_by_a_kernel():
    return inside(500.0)


def alike_inside():
    return inside(4.0)


def alike():
    x, h = features()
    return keras.Model(x, L.Concatenate()([boxes(h, 4, 4.0), scores(h)]))


def relu_behind():
    x, h = features()
    return keras.Model(x, L.ReLU()(L.Concatenate()([boxes(h), scores(h)])))


def computed_on():
    """Activations, sums, slices and a normalization, that is a depthwise convolution, behind one another."""
    x, h = features()
    joined = L.Concatenate()([L.Conv2D(4, 1)(h) * 320.0, L.Conv2D(3, 1, activation="sigmoid")(h)])
    joined = L.LeakyReLU()(L.BatchNormalization()(joined))
    joined = L.Reshape((9, 7))(L.MaxPooling2D(1)(L.Add()([joined, joined])))
    return keras.Model(x, L.ReLU()(joined[:, 1:]))


UNLIKE = (
    last_axis, first_axis, three_branches, reshaped_after, joined_twice, joined_alike_before, output_and_input, stacked, lesser,
    taken_apart, read_by_a_kernel, relu_behind, computed_on,
)  # fmt: skip


def built(make):
    keras.utils.set_random_seed(0)
    return make()


def check(model, exported, path, record):
    """Every channel of every output agrees with the float model, in units of its own scale."""
    wanted = keras.tree.flatten(model.predict(X, verbose=0))
    for got, want in zip(Runner(path)([X], output_names(exported, len(wanted))), wanted, strict=True):
        flat, wanted = got.reshape(-1, got.shape[-1]), want.reshape(-1, want.shape[-1])
        errors = np.sqrt(((flat - wanted) ** 2).mean(0) / (wanted**2).mean(0))
        assert errors.max() < 0.15, errors
    assert record.verification.relative_error < 0.15


@pytest.mark.parametrize("make", UNLIKE)
def test_after_training(make, tmp_path):
    model = built(make)
    record = export.export_tflite(model, tmp_path / "m.tflite", "int8", representative_data=X)
    check(model, model, tmp_path / "m.tflite", record)
    assert {"CONCATENATION", "PACK", "MINIMUM"} & set(record.float_ops)
    # The kernels before stay in integers.
    assert "CONV_2D" not in record.float_ops


def wide_behind(scale):
    x, h = features()
    joined = L.Concatenate()([L.Rescaling(scale)(h), L.Conv2D(8, 1, activation="relu")(h)])
    return keras.Model(x, L.GlobalAveragePooling2D()(L.Conv2D(128, 3, name="wide")(joined)))


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_files_that_are_mostly_floats_say_so(scale, tmp_path):
    """An int8 file was as large as one in float32, and nothing was said."""
    model = built(lambda: wide_behind(scale))
    record = export.export_tflite(model, tmp_path / "m.tflite", "int8", representative_data=X)
    kernel = model.get_layer("wide").count_params() - 128
    said = [doubt for doubt in record.verification.doubts if "bytes are kernels in floats, the largest" in doubt]
    assert bool(said) == bool(record.wider) == (scale > 1)
    assert not said or f"{4 * kernel:,} of its {record.num_bytes:,} bytes" in said[0] and "wide" in said[0]


# The same rule decides here: fewer are enough, each with another way of joining; `last_axis` trains below.
@pytest.mark.parametrize("make", [output_and_input, relu_behind, computed_on])
def test_quantized(make, tmp_path):
    model = built(make)
    qat = tfr.quantize(model)
    calibrate(qat, X)
    record = export.export_tflite(qat, tmp_path / "m.tflite", "int8", verify_data=X)
    check(model, qat, tmp_path / "m.tflite", record)
    assert {"CONCATENATION", "PACK", "MINIMUM"} & set(record.float_ops) and "CONV_2D" not in record.float_ops
    loaded = keras.saving.load_model(save(qat, tmp_path / "q.keras"))
    np.testing.assert_array_equal(
        *(np.concatenate([np.ravel(y) for y in keras.tree.flatten(m.predict(X, verbose=0))]) for m in (qat, loaded))
    )


def save(model, path):
    model.save(path)
    return path


@pytest.mark.parametrize("make", [alike, alike_inside])
def test_joins_of_like_scale_stay_integers(make, tmp_path):
    model = built(make)
    assert not export.export_tflite(model, tmp_path / "m.tflite", "int8", representative_data=X).float_ops
    qat = tfr.quantize(model)
    calibrate(qat, X)
    assert not export.export_tflite(qat, tmp_path / "q.tflite", "int8", verify_data=X).float_ops


def test_a_quantized_detector_trains(tmp_path):
    model = built(last_axis)
    want = model.predict(X, verbose=0)
    qat = tfr.quantize(model)
    qat.compile(keras.optimizers.Adam(1e-4), "mse")
    qat.fit(X, want, epochs=2, batch_size=16, verbose=0)
    before = qat.predict(X, verbose=0)
    record = export.export_tflite(qat, tmp_path / "q.tflite", "int8", verify_data=X)
    got = Runner(tmp_path / "q.tflite")([X])[0]
    assert len(np.unique(got[..., 4:])) > 20 and "CONCATENATION" in record.float_ops
    np.testing.assert_allclose(got[..., 4:], before[..., 4:], atol=0.02)


@pytest.mark.parametrize(
    "maxima, floats, shared",
    [
        ([320, 1, 320, 1, 1], [True, True], []),
        ([320, 100, 320, 1, 320], [False, True], [(0, 1, 2)]),
        ([2, 1, 2, 1, 2], [False, False], [(0, 1, 2, 3, 4)]),
        ([320, 0, 320, 300, 320], [False, False], [(0, 1, 2, 3, 4)]),
        ([0, 0, 0, 0, 0], [False, False], [(0, 1, 2, 3, 4)]),
    ],
)  # fmt: skip
def test_who_shares_a_range(maxima, floats, shared):
    """Places 0 and 1 are joined to 2, 2 and 3 to 4: what reads a float join is float, a dead branch decides nothing."""
    limit = rules.LIMIT_AT_OUTPUT
    links = Links([[[0, 1], 2, [0, 1], limit], [[2, 3], 4, [2, 3], limit]], 5)
    minimum, maximum = np.zeros(5, "float32"), np.array(maxima, "float32")
    assert links.apart(minimum, maximum).tolist() == floats
    together, is_float = (ops.convert_to_numpy(x) for x in links(minimum, maximum))
    assert is_float.tolist() == [False, False, floats[0], False, floats[1]]
    wanted = np.eye(5)
    for places in shared:
        wanted[np.ix_(places, places)] = 1
    np.testing.assert_array_equal(together, wanted)


def shared_by_loop(joins, places, minimum, maximum):
    """What the joins decide, one after the other: float where ranges are unlike or a float join is read, else one range.

    One that compares nothing has a range of its own.
    """
    widths, floats, group = np.maximum(-minimum, maximum), [], list(range(places))
    for number, (inputs, output, compared, limit) in enumerate(joins):
        widest = max(widths[place] for place in ([*inputs, output] if compared else [output]))
        alive = [widths[place] for place in compared if widths[place] > 1e-6 * widest]
        unlike = widest > 0 and widest >= limit * min(alive, default=widest)
        floats.append(bool(unlike or any(floats[i] and joins[i][1] in inputs for i in range(number))))
    for is_float, (inputs, output, compared, _) in zip(floats, joins):
        for place in inputs if compared and not is_float else []:
            group = [group[output] if one == group[place] else one for one in group]
    return floats, np.equal.outer(group, group)


def test_who_shares_a_range_against_a_plain_loop():
    """Chains and trees of joins, also of places that are joined twice, with limits of both kinds and dead branches."""
    rng, kinds = np.random.default_rng(0), set()
    for _ in range(150):
        places = int(rng.integers(2, 8))
        outputs = np.sort(rng.permutation(np.arange(1, places))[: rng.integers(1, min(4, places))])
        joins = []
        for output in map(int, outputs):
            inputs = sorted(map(int, rng.permutation(output)[: rng.integers(1, output + 1)]))
            limit = float(rng.choice([rules.LIMIT_AT_OUTPUT, rules.LIMIT_INSIDE]))
            compared = [inputs, [output], []][rng.choice(3, p=[0.5, 0.2, 0.3])]
            joins.append([inputs, output, compared, limit if compared else rules.NO_LIMIT])
        maximum = rng.choice([0, 1e-9, 3e-5, 1, 2, 7.9, 8, 29, 30, 64], places).astype("float32")
        minimum = -rng.choice([0, 0, 1, 16], places).astype("float32")
        links = Links(joins, places)
        floats, expected = shared_by_loop(joins, places, minimum, maximum)
        assert links.apart(minimum, maximum).tolist() == floats
        together, is_float = (ops.convert_to_numpy(x) for x in links(minimum, maximum))
        np.testing.assert_array_equal(together, expected)
        assert [place for place in range(places) if is_float[place]] == [j[1] for j, apart in zip(joins, floats) if apart]
        kinds |= {(any(floats), all(floats), len(joins))}
    assert len(kinds) >= 6


def test_limits_of_joins():
    """The figures that the examples of the pages were measured with."""
    assert (rules.LIMIT_AT_OUTPUT, rules.LIMIT_INSIDE, rules.NOISE) == (8.0, 30.0, 1e-6)


def test_ranges_of_places_that_share_one_and_that_do_not():
    """The layer rounds a place in the range of all that share it, and nothing behind a join that stays float."""
    x = np.linspace(-2, 2, 41, dtype="float32")[None]
    for scale, is_float in ((4.0, False), (100.0, True)):
        layer = tfr.quantization.QuantizedActivation(8, places=3, joins=[[[0, 1], 2, [0, 1], 8.0]])
        for place, size in enumerate((1.0, scale, scale)):
            layer(size * x, place=place, training=True)
        assert layer.float_joins() == ((0,) if is_float else ())
        for place, size in enumerate((1.0, scale, scale)):
            given, width = size * x, 2 * (size if is_float else scale)
            found = np.asarray(layer(given, place=place))
            if is_float and place == 2:
                np.testing.assert_array_equal(found, given)
            else:
                step = 2 * width / 255
                assert np.abs(found / step - np.round(found / step)).max() < 1e-3
                assert 0.2 * step < np.abs(found - given).max() <= 0.51 * step


def test_marks_of_joins_that_stay_float_in_a_file():
    """The first entry in reverse order, and only while a file is made of it."""
    layer = tfr.quantization.QuantizedActivation(8, places=3, joins=[[[0, 1], 2, [0, 1], 8.0]] * 2)
    flat, image = np.arange(6, dtype="float32").reshape(2, 3), np.arange(12, dtype="float32").reshape(2, 3, 2)
    layer.build()
    assert layer.exporting_float == ()
    np.testing.assert_array_equal(np.asarray(layer(image, join=0)), image)
    layer.exporting_float = (1,)
    np.testing.assert_array_equal(np.asarray(layer(image, join=0)), image)
    # Of one entry the reverse is the entry: what counts is that there is an operation.
    np.testing.assert_array_equal(np.asarray(layer(image[:1], join=1)), image[:1])
    np.testing.assert_array_equal(np.asarray(layer(flat[0, :1], join=1)), flat[0, :1])
    np.testing.assert_array_equal(np.asarray(layer(flat[:1], join=1)), flat[:1])
    assert float(ops.max(layer.observed)) == 0
    layer(image, training=True, place=0)
    for options in ({}, {"training": True}):
        np.testing.assert_array_equal(np.asarray(layer(9.7 * image, join=0, **options)), np.float32(9.7) * image)
    assert layer.observed.numpy().tolist() == [1, 0, 0]
    assert tfr.quantization.QuantizedActivation(8).float_joins() == ()


def one_kernel():
    """Boxes and scores of one kernel, beside an output of like scale."""
    x, h = features()
    head = L.Conv2D(7, 1, name="head")
    model = keras.Model(x, [head(h), L.Conv2D(3, 1, name="other")(h)])
    kernel, bias = head.get_weights()
    head.set_weights([kernel * np.r_[np.full(4, 300.0), np.full(3, 0.3)], bias])
    return model


def test_small_channels_of_one_kernel_are_said_to_be_lost(tmp_path):
    """The file is compared with the quantized model, in which they are lost as well."""
    qat = tfr.quantize(built(one_kernel))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        calibrate(qat, X)
    said = [str(item.message) for item in told if item.category is UserWarning]
    assert len(said) == 1 and "head, channel 4 of the last axis" in said[0] and "other" not in said[0]
    assert "channel 0" not in said[0]
    record = export.export_tflite(qat, tmp_path / "q.tflite", "int8", verify_data=X)
    assert said[0] in record.verification.doubts


@pytest.mark.parametrize("make", [last_axis, alike, read_by_a_kernel])
def test_channels_that_are_kept_are_not_said_to_be_lost(make):
    for bits in (2, 8):
        calibrate(tfr.quantize(built(make), weight_bits=bits), X)  # warnings are errors
