"""The layers of a quantized model and their ranges, number by number: against plain loops, at bounds, and what they refuse."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

from tf_reweight import export, quantization
from tf_reweight.graph.emulation import as_stored
from tf_reweight.quantization import QuantizedActivation, QuantizedKernel, grid, ranges

L = keras.layers
Emulated = (QuantizedActivation, QuantizedKernel)


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def rounded_by_loop(x, low, high, bits):
    """The nearest of `2^bits` steps, zero among them; symmetric but for one step with more than 8 bits."""
    if bits > 8:
        step = max(high / (2 ** (bits - 1) - 1), -low / 2 ** (bits - 1))
        first = -(2 ** (bits - 1))
    else:
        step = (high - low) / (2**bits - 1)
        first = -round(-low / step)
    return np.clip(np.round(np.asarray(x, "float64") / step), first, first + 2**bits - 1) * step, step


def test_rounded_activations_against_a_plain_loop():
    for low, high in [(-1.0, 3.0), (-3.0, 1.0), (0.0, 2.0), (-2.0, 0.0), (-1.0, 1.02), (-100.0, 0.01)]:
        for bits in [2, 4, 8, 9, 16]:
            x = np.concatenate([np.linspace(1.5 * low - 1, 1.5 * high + 1, 501), [0.0, low, high]]).astype("float32")
            found = np.asarray(grid.round_activation(ops.convert_to_tensor(x), low, high, bits))
            expected, step = rounded_by_loop(x, low, high, bits)
            # Halves of a step go either way in float32.
            near = np.abs(x / step - np.floor(x / step) - 0.5) < 1e-2
            np.testing.assert_allclose(found[~near], expected[~near], atol=1e-2 * step)
            assert np.abs(found - expected).max() <= 1.01 * step and found[501] == 0 and len(np.unique(found)) <= 2**bits
            half = np.asarray(grid.round_activation(ops.cast(x, "float16"), low, high, bits))
            assert half.dtype == "float16"


def test_bits_are_integers_between_two_and_sixteen():
    for bits in (2, 8, 16, np.int64(4)):
        assert QuantizedActivation(bits).bits == QuantizedKernel(L.Dense(2), bits).bits == bits
        assert type(QuantizedActivation(bits).bits) is type(QuantizedKernel(L.Dense(2), bits).bits) is int
    for bits in (1, 17, 0, 8.5, "8", True, np.float32(8)):
        for make in (lambda: QuantizedActivation(bits), lambda: QuantizedKernel(L.Dense(2), bits)):
            with pytest.raises(ValueError, match="`bits` must be"):
                make()


def test_defaults_of_both_layers():
    known = QuantizedActivation().get_config()
    assert [known[name] for name in ("bits", "momentum", "fixed_range", "places", "joins")] == [8, 0.999, None, 1, []]
    kernel = QuantizedKernel(L.Dense(2))
    assert (kernel.bits, kernel.num_channel_axes) == (8, 0)
    assert [kernel.get_config()[name] for name in ("bits", "num_channel_axes")] == [8, 0]
    named = QuantizedActivation(4, 0.5, (-1, 2), 3, [[[0], 1, [0], 8.0]], name="own", dtype="float16")
    assert named.name == "own" and named.compute_dtype == "float16" and named.fixed_range == (-1.0, 2.0)
    again = QuantizedActivation.from_config(named.get_config())
    assert again.get_config() == named.get_config()


FIXED_RANGES = [
    ((0, 6), True), ((-1, 0), True), ((-1, 1), True), ((0, 0), False), ((1, 2), False), ((-2, -1), False), ((1, 0), False),
    ((0, 1, 2), False), ((0,), False), ((float("nan"), 1), False),
]  # fmt: skip


def test_fixed_ranges():
    for fixed, fits in FIXED_RANGES:
        if not fits:
            with pytest.raises(ValueError, match=r"`fixed_range` must be \(minimum, maximum\)"):
                QuantizedActivation(fixed_range=fixed)
            continue
        layer, x = QuantizedActivation(8, fixed_range=fixed), np.linspace(-7, 7, 57, dtype="float32")[None]
        for training in (False, True):
            expected, step = rounded_by_loop(x, *fixed, 8)
            assert np.abs(np.asarray(layer(x, training=training)) - expected).max() <= 1.01 * step
        assert layer.weights == []
        layer.calibrating = True
        np.testing.assert_array_equal(np.asarray(layer(x)), x)


def test_momentum_is_a_fraction():
    for momentum, fits in [(0.0, True), (0.999, True), (1.0, False), (-0.1, False)]:
        if fits:
            assert QuantizedActivation(momentum=momentum).momentum == momentum
        else:
            with pytest.raises(ValueError, match="`momentum`"):
                QuantizedActivation(momentum=momentum)


def test_ranges_grow_at_once_and_give_way_slowly():
    """Each place for itself, zero always inside, and nothing moves outside of training or once the range is frozen."""
    for momentum in [0.0, 0.6, 0.99]:
        layer, rng = QuantizedActivation(8, momentum=momentum, places=3), np.random.default_rng(0)
        low, high, seen = np.zeros(3), np.zeros(3), np.zeros(3)
        for step in range(12):
            place = int(rng.integers(2))
            x = (rng.normal(size=(4, 5)) + 4 * rng.integers(-1, 2)).astype("float32")
            layer(x, training=True, place=place)
            for options in ({"training": False}, {"training": True, "observe": False}, {"training": True, "place": None}):
                layer(9 * x, **{"place": place, **options})
            low[place] = min(x.min(), low[place] + (1 - momentum) * (min(x.min(), 0) - low[place]))
            high[place] = max(x.max(), high[place] + (1 - momentum) * (max(x.max(), 0) - high[place]))
            seen[place] += 1
            for variable, expected in ((layer.minimum, low), (layer.maximum, high), (layer.observed, seen)):
                np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-5)
        assert seen.min() == 0 < seen[:2].min()
        layer.frozen.assign(1.0)
        layer(100 * x, training=True)
        np.testing.assert_allclose(layer.maximum.numpy(), high, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(layer.observed.numpy(), seen)
        assert not layer.trainable_variables and [v.dtype for v in layer.weights] == ["float32"] * 4


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_batch_that_is_not_finite_teaches_nothing(wrong):
    """A scaled loss skips the step of such a batch, and the training goes on."""
    layer, x = QuantizedActivation(8), np.linspace(-1, 3, 32, dtype="float32")[None]
    layer(x, training=True)
    layer(np.where(x == 3, np.float32(wrong), x), training=True)
    assert (float(layer.minimum[0]), float(layer.maximum[0]), float(layer.observed[0])) == (-1, 3, 1)


def test_a_place_that_saw_nothing_is_rounded_with_the_others():
    layer, x = QuantizedActivation(8, places=2), np.linspace(-1, 1, 33, dtype="float32")[None]
    for place in (0, 1):
        np.testing.assert_array_equal(np.asarray(layer(x, place=place)), x)
    layer(x, training=True, place=0)
    expected, step = rounded_by_loop(x, -1, 1, 8)
    for place in (0, 1, None):
        found = np.asarray(layer(x, place=place))
        assert 0 < np.abs(found - x).max() and np.abs(found - expected).max() <= 1.01 * step


def test_tensors_that_are_all_zero_have_a_range_of_one():
    for size, width in [(0.0, 1.0), (0.9e-6, 1.0), (2e-6, 2e-6), (1e-3, 1e-3)]:
        layer = QuantizedActivation(8)
        layer(np.array([[0.0, size]], "float32"), training=True)
        x = np.array([[0.25, 0.7]], "float32") * np.float32(width)
        found = np.asarray(layer(x))
        assert np.abs(found - x).max() <= 0.51 * width / 255 and found.max() > 0.6 * width


def test_calibrating_looks_and_does_not_round():
    layer, x = QuantizedActivation(8), numbers((4, 6))
    layer(x, training=True)
    layer.calibrating = True
    np.testing.assert_array_equal(np.asarray(layer(3 * x)), 3 * x)
    assert float(layer.observed[0]) == 2 and float(layer.maximum[0]) == 3 * x.max()
    layer(9 * x, observe=False)
    assert float(layer.observed[0]) == 2


def dense(weight_bits=8, activation_bits=8):
    model = keras.Sequential([keras.Input((5,)), L.Dense(4), L.Dense(3, name="last")])
    return quantization.quantize(model, weight_bits, activation_bits)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_training_leaves_hardly_a_value_outside_its_range_whatever_the_size_of_its_batches(batch_size):
    """Of values of which one in a hundred is ten times the others, and fewer at the end, as where a net calms down."""
    layer, rng = QuantizedActivation(8), np.random.default_rng(0)
    values = rng.exponential(size=(640, 4)).astype("float32") * np.where(rng.random((640, 4)) < 0.01, 10, 1)
    for epoch in range(3):
        order = rng.permutation(len(values))
        for start in range(0, len(values), batch_size):
            layer(values[order[start : start + batch_size]], training=True)
    assert np.mean(values > layer.maximum.numpy()) <= 1 / values.size
    quick = QuantizedActivation(8, momentum=0.9)
    for part in (values, *[0.1 * values[:batch_size]] * 50):
        quick(part, training=True)
    assert quick.maximum[0] < 0.2 * values.max()


@pytest.mark.parametrize("batch_size", [3, 4, 10, 32, None])
def test_calibration_against_a_plain_loop(batch_size):
    """The smallest and the largest value of all examples, however many are looked at together."""
    model, x = dense(), numbers((10, 5)) * np.arange(1, 11, dtype="float32")[:, None]
    quantization.calibrate(model, x, *([] if batch_size is None else [batch_size]))
    first = ranges.rounders(model)[0]
    assert float(first.observed[0]) == -(-10 // (batch_size or 32)) and len(ranges.rounders(model)) == 3
    assert float(first.minimum[0]) == x.min()
    assert float(first.maximum[0]) == x.max()
    assert not any(layer.calibrating for layer in ranges.rounders(model))


def test_calibration_ends_whatever_happens(monkeypatch):
    model = dense()
    monkeypatch.setattr(QuantizedKernel, "call", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quantization.calibrate(model, numbers((4, 5)))
    assert not any(layer.calibrating for layer in ranges.rounders(model))
    for size in (0, -1, 2.5, "4"):
        with pytest.raises((TypeError, ValueError), match="batch_size"):
            quantization.calibrate(model, numbers((4, 5)), size)


@pytest.mark.parametrize("frozen", [False, True])
def test_calibration_sets_the_ranges_whatever_was_learned_before(frozen, monkeypatch):
    """As a model that has seen nothing else; where it fails, all is as before."""
    fresh, model, x = dense(), dense(), numbers((10, 5))
    model.set_weights(fresh.get_weights())
    quantization.calibrate(fresh, x, 4)
    quantization.calibrate(model, 9 * x)
    quantization.freeze(model, frozen)
    with monkeypatch.context() as patched:
        before = model.get_weights()
        patched.setattr(QuantizedKernel, "call", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quantization.calibrate(model, x, 4)
        assert all(map(np.array_equal, before, model.get_weights()))
    quantization.calibrate(model, x, 4)
    for one, two in zip(ranges.rounders(fresh), ranges.rounders(model), strict=True):
        for name in ("minimum", "maximum", "observed"):
            np.testing.assert_array_equal(getattr(one, name).numpy(), getattr(two, name).numpy())
        assert float(two.frozen.value) == float(frozen)


def test_one_batch_of_one_example_will_do():
    model = dense()
    quantization.calibrate(model, numbers((3, 5)), 1)
    assert {float(layer.observed[0]) for layer in ranges.rounders(model)} == {3.0}


def test_frozen_ranges_stay_and_move_again():
    model, x = dense(), numbers((8, 5))
    quantization.calibrate(model, x)
    states = []
    for frozen in (True, False, None):
        quantization.ranges.freeze(model) if frozen is None else quantization.ranges.freeze(model, frozen)
        model(5 * x, training=True)
        states.append([float(layer.maximum[0]) for layer in ranges.rounders(model)])
        assert {float(layer.frozen.value) for layer in ranges.rounders(model)} == {0.0 if frozen is False else 1.0}
    assert states[0] != states[1] == states[2]
    with pytest.raises(TypeError, match="`frozen` must be a bool"):
        quantization.ranges.freeze(model, 1)


@pytest.mark.parametrize("first", [0, 2, 9])
def test_ranges_are_frozen_from_an_epoch_on(first):
    model, x, frozen, moved = dense(), numbers((8, 5)), [], []
    model.compile("sgd", "mse")
    rounder = ranges.rounders(model)[0]

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            frozen.append(bool(rounder.frozen.numpy()))
            moved.append(float(rounder.observed[0]))

    callbacks = [quantization.FreezeRanges(first), Watch()]
    with pytest.warns(UserWarning, match="ends with epoch 3") if first > 3 else contextlib.nullcontext():
        model.fit(x, numbers((8, 3)), epochs=4, verbose=0, callbacks=callbacks)
    assert frozen == [epoch >= first for epoch in range(4)]
    assert moved == [float(min(epoch + 1, first)) for epoch in range(4)]


WIDTHS = [
    (2, 8, "int8"), (4, 8, "int8"), (8, 8, "int8"), (9, 8, None), (8, 16, "int16"), (7, 16, None), (9, 16, None),
    (16, 16, None), (8, 7, None), (8, 9, None), (8, 15, None),
]  # fmt: skip


def test_which_widths_files_hold():
    for weights, activations, fits in WIDTHS:
        model = dense(weights, activations)
        for precision in ("int8", "int16", "float32"):
            if fits is None:
                with pytest.raises(ValueError, match="Files hold 8-bit activations"):
                    ranges.check_exportable(model, precision)
            elif precision != fits:
                with pytest.raises(ValueError, match=f"A model quantized like this is an {fits} model"):
                    ranges.check_exportable(model, precision)
            else:
                with pytest.raises(ValueError, match="ranges of a quantized model must be learned first"):
                    ranges.check_exportable(model, precision)
        for layer in ranges.rounders(model)[:-1]:
            layer.observed.assign([1.0])
        if fits:
            last = ranges.rounders(model)[-1].name
            with pytest.raises(ValueError, match=rf"Received: ranges=\['{last}'\]"):
                ranges.check_exportable(model, fits)
            ranges.rounders(model)[-1].observed.assign([1.0])
            ranges.check_exportable(model, fits)


def test_mixed_widths_are_those_of_the_widest():
    model = keras.Sequential([keras.Input((5,)), L.Dense(4, name="a"), L.Dense(3, name="b")])
    for bits, fits in (({"a": 4, "b": 8}, True), ({"a": 4, "b": 9}, False)):
        qat = quantization.quantize(model, bits)
        quantization.calibrate(qat, numbers((8, 5)))
        if fits:
            ranges.check_exportable(qat, "int8")
        else:
            with pytest.raises(ValueError, match="Files hold 8-bit activations"):
                ranges.check_exportable(qat, "int8")


def test_no_more_than_five_ranges_are_named():
    model = quantization.quantize(keras.Sequential([keras.Input((5,)), *[L.Dense(4) for _ in range(7)]]))
    with pytest.raises(ValueError, match="must be learned first") as caught:
        ranges.check_exportable(model, "int8")
    assert str(caught.value).count("_range") == 5


def test_models_that_are_not_quantized():
    model = keras.Sequential([keras.Input((5,)), L.Dense(4)])
    assert not ranges.is_quantized(model) and ranges.is_quantized(dense())
    for call in (ranges.rounders, ranges.freeze, lambda model: quantization.calibrate(model, numbers((4, 5)))):
        with pytest.raises(ValueError, match="The model must be quantized"):
            call(model)
    kernel_alone = keras.Sequential([keras.Input((5,)), QuantizedKernel(L.Dense(4))])
    activation_alone = keras.Sequential([keras.Input((5,)), QuantizedActivation(fixed_range=(0, 1))])
    assert ranges.is_quantized(kernel_alone) and ranges.is_quantized(activation_alone)
    with pytest.raises(ValueError, match="The model must be quantized"):
        ranges.rounders(activation_alone)


def test_joins_are_float_only_while_a_file_is_made():
    x = keras.Input((6,))
    h = L.Concatenate()([L.Rescaling(500.0)(L.Dense(4)(x)), L.Dense(3)(x)])
    model = quantization.quantize(keras.Model(x, h))
    quantization.calibrate(model, numbers((16, 6)))

    def marked():
        return [layer.exporting_float for layer in model.layers if isinstance(layer, QuantizedActivation)]

    assert set(marked()) == {()}
    with pytest.raises(KeyError), ranges.exporting(model):
        assert sorted(set(marked())) == [(), (0,)]
        raise KeyError
    assert set(marked()) == {()}


# Kernels.


WRAPPED = [(lambda: L.Conv2D(4, 3), 1), (lambda: L.DepthwiseConv2D(2, depth_multiplier=2), 2), (lambda: L.Dense(4), 0)]


def test_a_wrapped_layer_computes_with_rounded_kernels_alone():
    for make, axes in WRAPPED:
        inner, x = make(), numbers((2, 6, 5, 3))
        inner.build(x.shape)
        inner.bias.assign(numbers(inner.bias.shape, 1))
        layer = QuantizedKernel(inner, 3, axes)
        kernel = inner.weights[0].numpy()
        ((key, rounded),) = layer.changed_kernels().items()
        assert key == id(inner.weights[0])
        expected = np.asarray(grid.round_kernel(ops.convert_to_tensor(kernel), 3, axes))
        np.testing.assert_array_equal(np.asarray(rounded), expected)
        found = np.asarray(layer(x))
        np.testing.assert_array_equal(inner.weights[0].numpy(), kernel)
        assert np.abs(found - np.asarray(inner(x))).max() > 1e-3
        inner.weights[0].assign(rounded)
        np.testing.assert_allclose(found, np.asarray(inner(x)), atol=1e-5)
        assert layer.get_config()["num_channel_axes"] == axes and layer.get_config()["bits"] == 3


def test_frozen_kernels_are_rounded_as_well():
    inner, x = L.Dense(4), numbers((2, 3))
    layer = QuantizedKernel(inner, 2)
    one = np.asarray(layer(x))
    inner.trainable = False
    np.testing.assert_array_equal(np.asarray(layer(x)), one)
    assert np.abs(one - np.asarray(inner(x))).max() > 1e-3 and not layer.trainable_variables


def test_masks_and_penalties_of_a_layer_are_its_wrappers():
    penalty = keras.regularizers.L2(0.1)
    for inner in (L.Dense(4, activity_regularizer=penalty), L.Conv2D(4, 3)):
        layer = QuantizedKernel(inner)
        assert layer.supports_masking == inner.supports_masking and layer.activity_regularizer is inner.activity_regularizer
    assert QuantizedActivation().supports_masking and QuantizedActivation().compute_output_shape((None, 3)) == (None, 3)
    x = keras.Input((5, 3))
    masked = L.Masking()(x)
    assert QuantizedActivation()(masked)._keras_mask is not None


def test_exported_files_hold_the_kernel_as_it_is_rounded(tmp_path):
    model = dense(4)
    quantization.calibrate(model, numbers((16, 5)))
    record = export.export_tflite(model, tmp_path / "a.tflite", "int8", verify_data=numbers((16, 5)))
    assert record.float_ops == () and not any(layer.calibrating for layer in ranges.rounders(model))


def test_what_stands_for_both_layers_in_a_file_and_in_the_float_model():
    model, x = dense(3), numbers((8, 5))
    quantization.calibrate(model, x)
    stored, floats = as_stored(model), quantization.strip_quantization(model)
    kinds = [[type(layer) for layer in made.layers if isinstance(layer, (L.Dense, *Emulated))] for made in (stored, floats)]
    assert kinds == [[L.Dense, L.Dense]] * 2
    wrappers = [layer for layer in model.layers if isinstance(layer, QuantizedKernel)]
    for made, is_rounded in ((stored, True), (floats, False)):
        for wrapper, layer in zip(wrappers, [layer for layer in made.layers if isinstance(layer, L.Dense)], strict=True):
            assert layer.name == (wrapper.name if is_rounded else wrapper.layer.name)
            (rounded,) = wrapper.changed_kernels().values()
            expected = rounded if is_rounded else wrapper.layer.kernel
            np.testing.assert_array_equal(layer.kernel.numpy(), np.asarray(expected))
            np.testing.assert_array_equal(layer.bias.numpy(), wrapper.layer.bias.numpy())
    assert made.layers[-1].name == "last" and not np.array_equal(np.asarray(stored(x)), np.asarray(floats(x)))
