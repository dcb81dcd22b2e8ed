"""What `simplify` rewrites and what it leaves: every kind of layer that a normalization is folded into, and every obstacle."""

import collections

import keras
import numpy as np
import pytest
from keras import ops
from nets import randomize

from tf_reweight import quantization
from tf_reweight.graph import comparing
from tf_reweight.quantization import activations, rules, simplification

L = keras.layers
IMAGE, SEQUENCE = (7, 6, 3), (9, 3)
INTO, FOLDED = "normalization folded into it", "folded into the layer before"
AFFINE = "became a 1x1 depthwise convolution"


def net(shape, *layers):
    return randomize(keras.Sequential([keras.Input(shape), *layers]))


def normalization(**options):
    return L.BatchNormalization(name="normalization", epsilon=0.01, **options)


def outputs(model, num=4):
    rng = np.random.default_rng(3)
    given = [rng.normal(size=(num, *(size or 5 for size in x.shape[1:]))).astype(x.dtype) for x in model.inputs]
    return [np.asarray(y) for y in keras.tree.flatten(model(given if len(given) > 1 else given[0], training=False))]


def simplified(model):
    """`(simple model, what was rewritten)`, with the same outputs on other inputs than those that it compares itself."""
    before = [weight.numpy() for weight in model.weights]
    simple, rewritten = quantization.simplify(model)
    for one, other in zip(outputs(model), outputs(simple), strict=True):
        assert one.std() > 1e-3
        np.testing.assert_allclose(other, one, atol=1e-5 * np.abs(one).max())
    assert all(np.array_equal(old, weight.numpy()) for old, weight in zip(before, model.weights))
    return simple, rewritten


def kinds(model):
    """Without inputs, and identities: these give an output the name that it had."""
    return [type(layer).__name__ for layer in model.layers if not isinstance(layer, (L.InputLayer, L.Identity))]


KERNELS = {
    "Conv1D": (SEQUENCE, lambda **own: L.Conv1D(5, 2, strides=2, **own)),
    "Conv1D groups": ((9, 4), lambda **own: L.Conv1D(6, 3, groups=2, **own)),
    "Conv2D": (IMAGE, lambda **own: L.Conv2D(5, (2, 4), **own)),
    "Conv2D dilated": (IMAGE, lambda **own: L.Conv2D(5, 3, dilation_rate=2, padding="same", **own)),
    "Conv3D": ((5, 4, 6, 3), lambda **own: L.Conv3D(5, (2, 3, 4), **own)),
    "Dense": ((6,), lambda **own: L.Dense(5, **own)), "Dense on images": (IMAGE, lambda **own: L.Dense(5, **own)),
    "DepthwiseConv1D": (SEQUENCE, lambda **own: L.DepthwiseConv1D(2, depth_multiplier=4, **own)),
    "DepthwiseConv2D": (IMAGE, lambda **own: L.DepthwiseConv2D((2, 4), depth_multiplier=5, **own)),
    "Conv1DTranspose": (SEQUENCE, lambda **own: L.Conv1DTranspose(5, 4, strides=2, **own)),
    "Conv2DTranspose": (IMAGE, lambda **own: L.Conv2DTranspose(5, (2, 4), strides=2, **own)),
    "SeparableConv1D": (SEQUENCE, lambda **own: L.SeparableConv1D(5, 4, dilation_rate=2, padding="same", **own)),
    "SeparableConv2D": (IMAGE, lambda **own: L.SeparableConv2D(5, (2, 4), strides=2, depth_multiplier=2, **own)),
}


@pytest.mark.parametrize("use_bias, center, scale", [(True, True, True), (False, False, True), (True, True, False),
                                                     (False, False, False)])  # fmt: skip
def test_normalization_becomes_part_of_every_kind_of_kernel(use_bias, center, scale):
    """With the zeros of the kernel where they were, and with a scale, an offset, both or none."""
    for kind, (shape, make) in KERNELS.items():
        model = net(shape, make(use_bias=use_bias, name="kernel"), normalization(center=center, scale=scale))
        kernel = model.get_layer("kernel").weights[0]
        kernel.assign(np.where(np.random.default_rng(1).random(kernel.shape) < 0.5, 0, kernel.numpy()))
        simple, rewritten = simplified(model)
        assert rewritten == {"kernel": INTO, "normalization": FOLDED}
        separable = kind.startswith("Separable")
        plain = kind.split()[0].removeprefix("Separable")
        assert kinds(simple) == ([f"Depthwise{plain}", plain] if separable else [plain])
        weighted = [layer for layer in simple.layers if layer.weights]
        assert weighted[-1].use_bias and weighted[-1].name == "kernel" and simple.output_names == ["normalization"]
        assert not separable or not weighted[0].use_bias  # between both kernels there was none to be trained
        found = weighted[0].weights[0].numpy()
        assert ((found == 0) == (kernel.numpy() == 0)).all()


def test_layers_without_a_normalization_get_a_bias_of_zeros():
    for kind in ["Conv2D", "Dense", "DepthwiseConv2D", "SeparableConv1D"]:
        shape, make = KERNELS[kind]
        simple, rewritten = simplified(net(shape, make(use_bias=False, name="kernel")))
        assert rewritten == {} and not simple.layers[-1].bias.numpy().any()


def test_training_and_types_of_copies_are_those_of_the_layers():
    for trainable in (True, False):
        model = net(IMAGE, L.SeparableConv2D(5, 3, name="separable"), L.Conv2D(4, 1), normalization())
        for layer in model.layers:
            layer.trainable = trainable
        simple, _ = simplified(model)
        assert [layer.trainable for layer in simple.layers if layer.weights] == [trainable] * 3
        assert bool(simple.trainable_variables) == trainable
    keras.utils.set_random_seed(0)
    half = keras.Sequential([keras.Input(IMAGE), L.SeparableConv2D(5, 3, dtype="mixed_float16"), L.Conv2D(3, 1)])
    simple, _ = quantization.simplify(half)
    assert [layer.compute_dtype for layer in simple.layers if layer.weights] == ["float16", "float16", "float32"]


def called_twice(x):
    conv = L.Conv2D(3, 1)
    return normalization()(conv(conv(x)))


def read_twice(x):
    h = L.Conv2D(5, 3)(x)
    return L.Concatenate()([h, normalization()(h)])


def an_output(x):
    h = L.Conv2D(5, 3)(x)
    return [h, normalization()(h)]


def read_thrice(x):
    h = L.Conv2D(5, 3)(x)
    return [h, L.ReLU()(h), normalization()(h)]


def normalized_twice(x):
    same = normalization()
    return L.Add()([same(L.Conv2D(5, 3)(x)), same(L.Conv2D(5, 3)(x))])


def penalised(x):
    return normalization()(L.Conv2D(5, 3, activity_regularizer=keras.regularizers.L2(0.1))(x))


NOT_FOLDED = {
    "an activation between": lambda x: normalization()(L.Conv2D(5, 3, activation="relu")(x)),
    "a layer between": lambda x: normalization()(L.ReLU()(L.Conv2D(5, 3)(x))),
    "another kind": lambda x: normalization()(L.MaxPooling2D()(x)),
    "another axis": lambda x: L.BatchNormalization(axis=2, name="normalization")(L.Conv2D(6, 3, padding="same")(x)),
    "the first axis": lambda x: L.BatchNormalization(axis=1, name="normalization")(L.Conv2D(6, 3, padding="same")(x)),
    "called twice": called_twice, "read twice": read_twice, "an output": an_output, "read thrice": read_thrice,
    "normalized twice": normalized_twice, "penalised outputs": penalised,
}  # fmt: skip


def test_normalization_that_is_not_folded():
    for case in NOT_FOLDED:
        x = keras.Input(IMAGE)
        model = randomize(keras.Model(x, NOT_FOLDED[case](x)))
        simple, rewritten = simplified(model)
        assert rewritten == ({} if "axis" in case else {"normalization": AFFINE})
        assert kinds(simple).count("BatchNormalization") == ("axis" in case)
        assert kinds(simple).count("DepthwiseConv2D") == ("axis" not in case)


def test_the_last_axis_by_its_number():
    for axis in (-1, 3):
        _, rewritten = simplified(net(IMAGE, L.Conv2D(5, 3, name="kernel"), normalization(axis=axis)))
        assert rewritten == {"kernel": INTO, "normalization": FOLDED}
    assert simplified(net((6,), L.Dense(5, name="kernel"), normalization(axis=1)))[1]["kernel"] == INTO


def test_scaled_sums_become_plain_ones():
    scaled_sum = keras.applications.InceptionResNetV2.__globals__["CustomScaleLayer"]
    x = keras.Input(IMAGE)
    h = L.Conv2D(5, 1)(x)
    model = randomize(keras.Model(x, scaled_sum(0.3, name="sum")([L.ReLU()(h), L.Conv2D(5, 1, name="scaled")(h)])))
    simple, rewritten = simplified(model)
    assert rewritten == {"scaled": "sum folded into it", "sum": "became a plain sum, its scale folded into the layer before"}
    assert kinds(simple) == ["Conv2D", "ReLU", "Conv2D", "Add"] and simple.layers[-1].name == "sum"
    # The part that is scaled is the second: a kernel in the first is left alone.
    x = keras.Input(IMAGE)
    other = randomize(keras.Model(x, scaled_sum(0.3, name="sum")([L.Conv2D(5, 1)(x), L.ReLU()(L.Conv2D(5, 1)(x))])))
    assert simplified(other)[1] == {} and "CustomScaleLayer" in kinds(simplified(other)[0])


def adapted(**options):
    return L.Normalization(mean=[0.5, -1.0, 2.0], variance=[4.0, 0.25, 1e-20], **options)


def layer_scale():
    return keras.applications.ConvNeXtTiny.__globals__["ConvNeXtBlock"].__globals__["LayerScale"](0.5, 3)


SCALED = {
    "BatchNormalization": (normalization, True), "without center": (lambda: normalization(center=False), True),
    "LayerScale": (layer_scale, True), "Rescaling": (lambda: L.Rescaling(0.3, offset=-2.0), False),
    "Rescaling of channels": (lambda: L.Rescaling([0.3, 1.0, -2.0], offset=[1.0, 2.0, 3.0]), False),
    "Normalization": (adapted, False), "Normalization of axis 3": (lambda: adapted(axis=3), False),
    "Normalization of all": (lambda: L.Normalization(axis=None, mean=0.5, variance=4.0), False),
}
KEPT = {
    "the inverse": (IMAGE, lambda: adapted(invert=True)), "rows": (
        (3, 6, 3), lambda: L.Normalization(axis=1, mean=[0.5, -1.0, 2.0], variance=[4.0, 0.25, 1.0])),
    "two axes": ((1, 1, 3), lambda: L.Normalization(axis=(1, 3), mean=np.ones((1, 3)), variance=np.ones((1, 3)))),
    "vectors": ((3,), normalization), "sequences": (SEQUENCE, normalization),
    "scaled vectors": ((3,), lambda: L.Rescaling(2.0)),
    "volumes": ((2, 3, 4, 3), normalization), "another axis": (IMAGE, lambda: normalization(axis=1)),
}  # fmt: skip


def test_scales_and_offsets_of_images_become_a_depthwise_convolution():
    for case in SCALED:
        make, trains = SCALED[case]
        for frozen in (False, True):
            layer = make()
            layer.trainable = not frozen
            given = net(IMAGE, layer, L.ReLU()) if trains else keras.Sequential([keras.Input(IMAGE), layer])
            simple, rewritten = simplified(given)
            made = simple.layers[1]
            assert rewritten == {layer.name: AFFINE} and type(made) is L.DepthwiseConv2D and made.name == layer.name
            assert made.kernel_size == (1, 1) and made.kernel.shape == (1, 1, 3, 1) and made.bias.shape == (3,)
            assert made.trainable == (trains and not frozen) and made.data_format == "channels_last"


def test_scales_of_other_tensors_stay_what_they_are():
    for case in KEPT:
        shape, make = KEPT[case]
        layer = make()
        simple, rewritten = simplified(keras.Sequential([keras.Input(shape), layer]))
        assert rewritten == {} and kinds(simple) == [type(layer).__name__]


def test_images_of_any_size_are_scaled_as_well():
    for shape in ((None, None, 3), (None, 6, 3), (7, None, 3)):
        simple, rewritten = simplified(net(shape, normalization(), L.ReLU()))
        assert rewritten == {"normalization": AFFINE} and kinds(simple) == ["DepthwiseConv2D", "ReLU"]


def test_images_of_integers_become_numbers_before_they_are_scaled():
    for dtype in ("uint8", "int32"):
        x = keras.Input(IMAGE, dtype=dtype)
        model = keras.Model(x, L.Rescaling(0.5, offset=1.0, name="scaled")(x))
        simple, rewritten = quantization.simplify(model)
        given = np.arange(126, dtype=dtype).reshape(1, *IMAGE)
        np.testing.assert_allclose(np.asarray(simple(given)), 0.5 * given + 1, rtol=1e-6)
        assert rewritten == {"scaled": AFFINE}


class Shifted(keras.layers.Layer):
    """An own layer that gives the type that it is given, of which Keras says it is float."""

    def call(self, inputs):
        return inputs + 1

    def compute_output_shape(self, shape):
        return shape


BEFORE_PIXELS = {
    "Resizing": lambda: L.Resizing(9, 9), "Resizing nearest": lambda: L.Resizing(9, 9, interpolation="nearest"),
    "Cropping2D": lambda: L.Cropping2D(1), "ZeroPadding2D": lambda: L.ZeroPadding2D(2),
    "UpSampling2D": lambda: L.UpSampling2D(2), "MaxPooling2D": lambda: L.MaxPooling2D(2),
    "CenterCrop": lambda: L.CenterCrop(4, 4), "ReLU": lambda: L.ReLU(),
    "Dropout": lambda: L.Dropout(0.5), "own": lambda: Shifted(), "Permute": lambda: L.Permute((2, 1, 3)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("name", BEFORE_PIXELS)
def test_integers_stay_integers_behind_layers_that_say_they_give_floats(name, dtype):
    """Keras takes what they give for floats; Rescaling and Normalization cast by themselves, a convolution does not."""
    adapted = L.Normalization(mean=[100.0, 90.0, 80.0], variance=[400.0, 500.0, 600.0])
    for scaled in (L.Rescaling(1 / 255, offset=-0.5), adapted):
        x = keras.Input(IMAGE, dtype=dtype)
        between = BEFORE_PIXELS[name]()
        model = keras.Model(x, L.Conv2D(2, 1)(scaled(L.Identity()(between(x)))))
        simple, _ = quantization.simplify(model)
        given = np.random.default_rng(0).integers(0, 256, (3, *IMAGE)).astype(dtype)
        expected = np.asarray(model(given, training=False))
        np.testing.assert_allclose(np.asarray(simple(given, training=False)), expected, atol=1e-4 * np.abs(expected).max())
        assert "DepthwiseConv2D" in kinds(simple)


def test_integers_that_others_read_too_stay_integers():
    x = keras.Input(IMAGE, dtype="uint8")
    padded = L.ZeroPadding2D(1, name="padded")(x)
    model = keras.Model(x, [L.Conv2D(2, 1)(L.Rescaling(1 / 255)(padded)), padded])
    given = np.random.default_rng(0).integers(0, 256, (3, *IMAGE)).astype("uint8")
    for one, other in zip(quantization.simplify(model)[0](given), model(given), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-5)


def test_what_is_float_all_the_way_is_cast_nowhere():
    simple, rewritten = simplified(net(IMAGE, L.Cropping2D(1), L.Rescaling(0.5, name="scaled"), L.Conv2D(2, 1)))
    assert rewritten == {"scaled": AFFINE} and kinds(simple) == ["Cropping2D", "DepthwiseConv2D", "Conv2D"]
    assert [type(operation).__name__ for operation in simple.operations if "Cast" in type(operation).__name__] == []


KEPT_AND_BEHIND = [
    ("relu", "relu", []), ("relu6", "relu6", []), ("linear", "linear", []), ("tanh", "linear", ["Activation"]),
    ("elu", "linear", ["Activation"]), ("silu", "linear", ["Activation", "Multiply"]), ("hard_sigmoid", "linear", ["ReLU"]),
    ("hard_silu", "linear", ["Activation"]), ("softmax", "linear", ["Activation"]),
]  # fmt: skip


def test_activations_that_kernels_keep_and_those_behind():
    for activation, kept, behind in KEPT_AND_BEHIND:
        for transposed in [False, True]:
            kind = L.Conv2DTranspose if transposed else L.Conv2D
            simple, rewritten = simplified(net(IMAGE, kind(5, 3, activation=activation, name="kernel")))
            if transposed and kept != "linear":
                kept, behind = "linear", ["Activation"]
            layer = next(layer for layer in simple.layers if layer.weights)
            assert rules.activation_name(layer) == kept and kinds(simple)[1:] == behind and rewritten == {}
            # An output keeps the name of its layer: what makes it is called so, or an Identity behind.
            assert simple.output_names == ["kernel"]


WRITTEN_AS = [
    ("silu", ["Activation", "Multiply"]), ("hard_sigmoid", ["ReLU"]), ("tanh", ["Activation"]), ("relu", ["Activation"])
]  # fmt: skip


def test_activations_that_are_layers_or_operations():
    for layer in [L.Activation, lambda name: getattr(ops, name)]:
        for name, made in WRITTEN_AS:
            x = keras.Input(IMAGE)
            simple, _ = simplified(randomize(keras.Model(x, layer(name)(L.Conv2D(5, 3)(x)))))
            expected = made if layer is L.Activation or len(made) == 2 or made == ["ReLU"] else []
            assert kinds(simple) == ["Conv2D", *expected]


def test_hard_sigmoid_and_silu_are_those_of_keras():
    x = np.linspace(-8, 8, 65, dtype="float32")[None]
    names = simplification.Names(keras.Sequential([keras.Input((65,)), L.Dense(1)]))
    for name, expected in (("silu", keras.activations.silu), ("hard_sigmoid", keras.activations.hard_sigmoid)):
        made = activations.EXPANSIONS[name]("a", names)
        np.testing.assert_allclose(np.asarray(made(ops.convert_to_tensor(x))), np.asarray(expected(x)), atol=1e-6)


def test_an_activation_object_of_two_layers_stays_one():
    shared, single = L.PReLU(), L.PReLU()
    x = keras.Input((5,))
    h = L.Dense(4, activation=shared)(L.Dense(4, activation=shared)(x))
    model = keras.Model(x, L.Dense(4, activation=single)(h))
    model(np.ones((1, 5)))
    randomize(model)
    simple, _ = simplified(model)
    found = {id(layer): layer for layer in simple.layers if isinstance(layer, L.PReLU)}
    assert len(found) == 2 and kinds(simple).count("PReLU") == 2


def test_sums_of_many_become_sums_of_two():
    for num in [2, 3, 5]:
        x = keras.Input((4,))
        add = L.Add(name="sum")
        parts = [L.Dense(3)(x) for _ in range(num)]
        model = randomize(keras.Model(x, [L.Dense(2)(add(parts)), L.Dense(2)(add(parts[::-1]))]))
        simple, _ = simplified(model)
        sums = [layer for layer in simple.layers if isinstance(layer, L.Add)]
        names = {layer.name for layer in sums}
        assert len(sums) == len(names) == num - 1 and "sum" in names
        # The second call is of the same layers.
        assert [len(layer._inbound_nodes) for layer in sums] == [2] * (num - 1)


def test_penalties_on_outputs_are_those_of_the_layer_that_was_rewritten():
    """Behind the activation, once, and saved with the model."""
    for activation in ("relu", "silu", "linear"):
        penalty = keras.regularizers.L2(0.1)
        model = net(IMAGE, L.Conv2D(5, 3, activation=activation, activity_regularizer=penalty), L.Conv2D(2, 1))
        simple, _ = simplified(model)
        x = np.random.default_rng(0).normal(size=(4, *IMAGE)).astype("float32")
        for one in (model, simple):
            one(x)
        assert float(sum(model.losses)) > 1e-2
        np.testing.assert_allclose(float(sum(simple.losses)), float(sum(model.losses)), rtol=1e-5)
        assert len(simple.losses) == 1


def test_layers_of_nested_models_have_names_of_their_paths():
    """Two nested models may have layers of one name, and the one outside as well."""
    inner = keras.Sequential([keras.Input(IMAGE), L.Conv2D(3, 3, padding="same", name="conv"), normalization()], name="block")
    other = keras.Sequential([keras.Input(IMAGE), L.Conv2D(3, 3, padding="same", name="conv", activation="silu")], name="more")
    x = keras.Input(IMAGE)
    model = randomize(keras.Model(x, L.Conv2D(2, 1, name="conv")(other(inner(x)))))
    simple, rewritten = simplified(model)
    assert [layer.name for layer in simple.layers if layer.weights] == ["block_conv", "more_conv", "conv"]
    assert rewritten == {"block/conv": INTO, "block/normalization": FOLDED}


def folds(model):
    graph = simplification.graph_of(model)
    uses = collections.Counter(id(node.operation) for node in simplification.nodes_in_order(graph))
    return simplification._find_folds(graph, uses)


def test_the_question_alone_what_is_folded():
    """Channels first as well, which nothing is folded into."""
    for build in NOT_FOLDED.values():
        x = keras.Input(IMAGE)
        assert folds(keras.Model(x, build(x))) == {}
    for data_format, num in (("channels_first", 0), ("channels_last", 2)):
        model = keras.Sequential([keras.Input((6, 6, 6)), L.Conv2D(6, 1, data_format=data_format), normalization()])
        assert len(folds(model)) == num
    for shape, make in KERNELS.values():
        model = keras.Sequential([keras.Input(shape), make(), normalization(), L.ReLU()])
        assert set(folds(model)) == {id(model.layers[0]), id(model.layers[1])}


def test_penalties_on_outputs_of_half_precision_see_them_so():
    x = keras.Input(IMAGE)
    conv = L.Conv2D(5, 3, activity_regularizer=keras.regularizers.L2(0.1), dtype="mixed_float16", activation="silu")
    simple, _ = quantization.simplify(keras.Model(x, L.Conv2D(3, 1)(conv(x))))
    (behind,) = [layer for layer in simple.layers if isinstance(layer, L.Identity)]
    assert behind.compute_dtype == "float16" and behind.output.dtype == "float16" and behind.activity_regularizer is not None


def test_outputs_may_differ_by_rounding_and_no_more(monkeypatch):
    model = net((4,), L.Dense(3))
    limit = 10 * comparing.tolerance_of(model)
    for relative, fits in ((limit, True), (1.01 * limit, False), (float("nan"), False)):
        made = type("Result", (), {"relative": relative, "difference": 0.5, "scale": 2.0})
        monkeypatch.setattr(simplification, "compare", lambda *_: made)
        if fits:
            quantization.simplify(model)
        else:
            with pytest.raises(ValueError, match=f"within {limit:g} of their scale.*Received: difference=0.5, scale="):
                quantization.simplify(model)


def test_axes_of_kernels_that_are_their_outputs():
    """As many as there are biases; all sizes of these kernels are unlike."""
    for kind, (shape, make) in KERNELS.items():
        layer = make()
        layer.build((None, *shape))
        kernel, bias = layer.weights[-2:]
        axes = simplification._FOLDS[type(layer)]
        assert np.prod([kernel.shape[axis] for axis in axes]) == bias.shape[0] and max(axes) < 0, kind


def overflowing():
    model = net((6, 6, 1), L.Conv2D(4, 3), L.Flatten(), L.Dense(2, name="top"))
    for weight in model.weights:
        weight.assign(weight * 1e30)
    return model


def test_outputs_that_are_not_finite_are_named_and_not_the_package_blamed():
    words = r"own outputs must be finite on random inputs.*Received: not_finite=\['top'\]. Mask"
    for call in (quantization.simplify, quantization.quantize):
        with pytest.raises(ValueError, match=words):
            call(overflowing())
