"""Operations that mix no channels are followed: what is pruned behind and before them shrinks, and computes the same."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_reweight as tfr
from tf_reweight import coupling, export, shrinking

L = keras.layers


def seen(h, scale=1.0):
    """A map of one channel that depends on the input: the mean of a convolution of its own, kept whole."""
    return ops.mean(L.Conv2D(2, 1, name="seen")(h), axis=-1, keepdims=True) * scale


# What stands between two convolutions; the input is (8, 8, 8), channels last.
FOLLOWED = {
    "resizing": L.Resizing(5, 6),
    "resizing, nearest, padded": L.Resizing(5, 7, interpolation="nearest", pad_to_aspect_ratio=True),
    "resize": lambda h: ops.image.resize(h, (11, 9)),
    "center crop": L.CenterCrop(5, 4),
    "center crop that enlarges": L.CenterCrop(9, 10),
    "pad": lambda h: ops.pad(h, [[0, 0], [1, 2], [0, 1], [0, 0]]),
    "pad with ones": lambda h: ops.pad(h, [[0, 0], [1, 2], [0, 1], [0, 0]], constant_values=1.0),
    "pad by reflection": lambda h: ops.pad(h, [[0, 0], [1, 2], [0, 1], [0, 0]], mode="reflect"),
    "average pool": lambda h: ops.average_pool(h, 3, 2, padding="same"),
    "max pool": lambda h: ops.max_pool(h, (2, 3), 1, padding="valid"),
    "flip": lambda h: ops.flip(h, axis=1),
    "flip of channels": lambda h: ops.flip(h, axis=(2, -1)),
    "roll": lambda h: ops.roll(h, 3, axis=1),
    "roll of two": lambda h: ops.roll(h, (1, -2), axis=(1, 2)),
    "stop gradient": ops.stop_gradient,
    "tile": lambda h: ops.tile(h, (1, 2, 1, 1)),
    "tile of channels": lambda h: ops.tile(h, (2, 3)),
    "repeat": lambda h: ops.repeat(h, 2, axis=2),
    "repeat of channels": lambda h: ops.repeat(h, 2, axis=-1),
    "stack": lambda h: ops.reshape(ops.stack([h, 2 * h], axis=2), (-1, 16, 8, 8)),
    "swap axes": lambda h: ops.swapaxes(h, 1, 2),
    "move axis": lambda h: ops.moveaxis(ops.moveaxis(h, -1, 1), 1, -1),
    "where": lambda h: ops.where(h > 0.1, h, 0.1 * h),
    "where of one channel": lambda h: ops.where(seen(h) > 0, h, 0.5),
    "where of two": lambda h: ops.where(ops.logical_and(h > 0, h < 1), L.Conv2D(8, 1)(h), ops.square(h)),
    "floor": lambda h: ops.round(2 * ops.sin(h)) + ops.floor(h),
    "logarithm": lambda h: ops.log(1.5 + ops.abs(h)) + ops.rsqrt(1.5 + ops.square(h)) + ops.log1p(ops.exp(h)),
}
REDUCED = ("amax", "amin", "max", "min", "sum", "prod", "std", "var", "logsumexp")
FOLLOWED |= {name: lambda h, name=name: getattr(ops, name)(h, axis=(1, 2), keepdims=True) for name in REDUCED}
# What mixes channels, or the batch, and the reason that is told.
REFUSED = {
    "pads the channels": lambda h: ops.pad(h, [[0, 0], [0, 0], [0, 0], [1, 2]]),
    "pads the channels, or the batch": lambda h: ops.pad(h, 1)[:, :, :, :8],
    "rolls the channels": lambda h: ops.roll(h, 2, axis=-1),
    "rolls the channels, or the batch": lambda h: ops.reshape(ops.roll(h, 2), (-1, 8, 8, 8)),
    "reverses the batch": lambda h: ops.flip(h),
    "another number of times": lambda h: ops.repeat(h, [1, 2, 1, 1, 1, 1, 1, 1], axis=-1),
    "for an axis of one image": lambda h: ops.expand_dims(L.Resizing(3, 4)(ops.max(h, axis=1)), 1),
    "reduces over the channels": lambda h: ops.amax(h, axis=-1, keepdims=True),
    "combines channels with an array": lambda h: ops.where(np.ones((1, 8, 8, 8), bool), h, 0.0),
    "along different axes": lambda h: ops.stack([h, ops.swapaxes(h, 1, 3)], axis=1)[:, 0],
    "what Cumsum does": lambda h: ops.where(ops.cumsum(h, axis=1) > 0, h, 0.5),
    "moves the batch axis": lambda h: ops.swapaxes(ops.swapaxes(h, 0, 1), 0, 1),
}


def net(between, head="valid"):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(8, 3, padding="same", bias_initializer="normal", name="before")(x)
    h = L.Conv2D(6, 1, padding=head, activation="softplus", name="behind")(between(h))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(h)))


def layer_of(between):
    """Layers of the tables are made anew: one that was called belongs to its model."""
    return type(between).from_config(between.get_config()) if isinstance(between, L.Layer) else between


def assert_shrinks(model, path=None):
    """The small model, which computes the same, is saved, loaded and exported where there is a path."""
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    small = shrinking.shrink(model)
    expected = ops.convert_to_numpy(model(x))
    assert np.abs(expected).max() > 1e-3, "a vacuous comparison"
    np.testing.assert_allclose(small(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert small.count_params() < model.count_params()
    if path is not None:
        small.save(path / "small.keras")
        loaded = keras.models.load_model(path / "small.keras")
        np.testing.assert_allclose(loaded(x), small(x), atol=1e-6)
        assert export.export_tflite(loaded, path / "small.tflite", verify_data=x).verification.relative_error < 1e-4
    return small


# LiteRT has no kernel for some of them, and some are others put together.
EXPORTED = (
    "resizing", "resize", "center crop", "pad with ones", "average pool", "tile", "stack", "where of one channel", "amax",
)  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_pruned_around_it_goes(name, tmp_path):
    model = net(layer_of(FOLLOWED[name]))
    assert coupling.groups(model).find("before"), coupling.groups(model)
    tfr.prune_groups(model, 0.5, scope="set")
    small = assert_shrinks(model, tmp_path if name in EXPORTED else None)
    assert small.get_layer("before").filters == 4


@pytest.mark.parametrize("head", ["valid", "same"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_constants_that_pass_it_are_folded_only_where_they_stay_constant(name, head):
    """A filter of zeros leaves its bias: beside zeros that were padded, or chosen by another channel, it is no constant."""
    model = net(layer_of(FOLLOWED[name]), head)
    kernel = model.get_layer("before").kernel
    kernel.assign(ops.convert_to_numpy(kernel.value) * (np.arange(8) > 1))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    small = shrinking.shrink(model)
    np.testing.assert_allclose(small(x), model(x), rtol=0, atol=1e-5 * np.abs(model(x)).max())
    assert small.get_layer("before").filters == (8 if name in KEPT else 6)


# Where a constant does not stay one over the image, or differs between what was joined.
KEPT = ("resizing, nearest, padded", "pad", "pad with ones", "where of one channel", "where of two", "stack")


@pytest.mark.parametrize("reason", REFUSED)
def test_what_mixes_channels_is_refused_with_the_reason(reason):
    found = coupling.groups(net(REFUSED[reason]))
    assert not found.find("before")
    assert any(reason in told for item in found.frozen for told in item.reasons), found


@pytest.mark.parametrize("between", [
    lambda h: ops.max_pool(h, 2, data_format="channels_first"),
    lambda h: ops.image.resize(h, (8, 6), data_format="channels_first"),
])  # fmt: skip
def test_channels_along_the_other_axis_stay(between):
    found = coupling.groups(net(between))
    assert not found.find("before") and any("works along" in told for item in found.frozen for told in item.reasons)
