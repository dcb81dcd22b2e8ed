"""Where a quantized model rounds: every site of small nets, in which range, with whom it shares one, and what stays float."""

import keras
import numpy as np
import pytest
from keras import ops
from nets import randomize

from tf_reweight import quantization
from tf_reweight.graph.walking import graph_of
from tf_reweight.pruning.masked import Masked
from tf_reweight.pruning.prune import prune
from tf_reweight.quantization import QuantizedActivation, QuantizedKernel, rules
from tf_reweight.quantization.plan import Plan

L = keras.layers
AT_OUTPUT, INSIDE = 8.0, 30.0


def conv(filters=4, size=3, **options):
    return L.Conv2D(filters, size, padding="same", **options)


def flat_head(x):
    return L.Dense(2, name="head")(L.GlobalAveragePooling2D(name="mean")(x))


def image(build):
    x = keras.Input((8, 8, 3), name="x")
    return keras.Model(x, build(x))


def vector(build):
    x = keras.Input((6,), name="x")
    return keras.Model(x, build(x))


def planned(model, **options):
    """`(fixed range, places, joins, calls)` of each rounding layer by the operation before it, and what is left out."""
    qat, report = quantization.quantize(model, return_report=True, **options)
    found = {}
    for layer in qat.layers:
        if isinstance(layer, QuantizedActivation):
            calls = []
            for node in layer._inbound_nodes:
                known = node.arguments.kwargs
                source = node.input_tensors[0]._keras_history.operation.name
                if "join" in known:
                    calls.append((source, "join", known["join"]))
                else:
                    calls.append((source, known.get("place", 0), known.get("observe", True)))
            found[layer.name.removesuffix("_range")] = (layer.fixed_range, layer.places, layer.joins, calls)
    learned = sum(fixed is None for fixed, *_ in found.values())
    assert report.num_ranges == learned
    return found, {item.name: item.reason for item in report.left_out}


FLOAT, NO_RULE = "what it reads is float", "LayerNormalization has no rule for integers"
SIGMOID = (0.0, 255 / 256)


def read_twice(x, layer):
    """What reads a layer's output both through a relu and as it is."""
    return flat_head(L.Add(name="s")([L.ReLU(name="r")(layer), layer]))


def two_branches(x):
    return conv(name="a")(x), conv(name="b")(x)


def norm(name):
    return L.LayerNormalization(name=name)


def pool(x):
    return L.MaxPooling2D(name="p")(conv(name="a")(x))


# Builder -> names of what is rounded in a range of its own, and of what stays float.
SITES = {
    "relu behind a kernel": (lambda x: flat_head(L.ReLU(name="r")(conv(name="a")(x))), "x r mean head", {}),
    "read by a relu and another": (lambda x: read_twice(x, conv(name="a")(x)), "x a r s mean head", {}),
    "dropout between": (lambda x: flat_head(L.ReLU(name="r")(L.Dropout(0.1)(conv(name="a")(x)))), "x r mean head", {}),
    "dropout read twice": (lambda x: read_twice(x, L.Dropout(0.1)(conv(name="a")(x))), "x a r s mean head", {}),
    "relu of the input": (lambda x: flat_head(L.ReLU(name="r")(x)), "mean head", {"r": FLOAT, "mean": FLOAT}),
    "input behind moves": (
        lambda x: flat_head(conv(name="a")(L.ZeroPadding2D(name="z")(L.Dropout(0.1)(x)))), "x a mean head", {}),
    "input and kernel added": (lambda x: L.Add(name="s")([x, conv(3, name="a")(x)]), "x a s", {}),
    "relu behind a sum": (
        lambda x: flat_head(L.ReLU(6.0, name="r")(L.Add(name="s")(two_branches(x)))), "x a b r mean head", {}),
    "relu with a slope": (lambda x: flat_head(L.ReLU(negative_slope=0.1, name="r")(conv(name="a")(x))), "x a r mean head", {}),
    "transposed with a relu": (
        lambda x: flat_head(L.Conv2DTranspose(4, 2, name="t", activation="relu")(x)), "x t t_activation mean head", {}),
    "sums of floats": (
        lambda x: flat_head(conv(name="c")(L.Add(name="s")(
            [norm("n")(conv(name="a")(x)), L.ReLU(name="r")(norm("m")(conv(name="b")(x)))]))),
        "x a b s c mean head", {"n": NO_RULE, "m": NO_RULE, "r": FLOAT, "s": FLOAT}),
}  # fmt: skip
# Builder -> the one range that several have: its name, its calls, and its joins.
SHARED = {
    "relu behind a pooling": (
        lambda x: flat_head(L.ReLU(name="r")(pool(x))), "a", [("quantized_a", 0, True), ("r", 0, False)], []),
    "relu behind a pooling and dropout": (
        lambda x: flat_head(L.ReLU(name="r")(L.Dropout(0.1)(pool(x)))), "a", [("quantized_a", 0, True), ("r", 0, False)], []),
    "pooling read twice": (
        lambda x: (lambda p: flat_head(L.Add(name="s")([conv(name="b")(p), conv(name="c")(p)])))(pool(x)),
        "a", [("quantized_a", 0, True), ("p", 0, False)], []),
    "average": (lambda x: flat_head(L.AveragePooling2D(2, name="p")(conv(name="a")(x))),
                "a", [("quantized_a", 0, True), ("p", 0, False)], []),
    "smooth upsampling": (lambda x: flat_head(L.UpSampling2D(interpolation="bilinear", name="u")(conv(name="a")(x))),
                          "a", [("quantized_a", 0, True), ("u", 0, False)], []),
    "joined at an output": (
        lambda x: L.Concatenate(name="j")([conv(name="a", activation="sigmoid")(x), conv(name="b")(x)]), "a_activation",
        [("a_activation", 1, True), ("quantized_b", 2, True), "join 0", "join 0", ("j_inner", 0, True)],
        [[[1, 2], 0, [1, 2], AT_OUTPUT]]),
    "joined inside": (
        lambda x: flat_head(conv(name="c")(
            L.Concatenate(name="j")([conv(name="a", activation="tanh")(x), conv(name="b")(x), x]))), "a_activation",
        [("a_activation", 1, True), ("quantized_b", 2, True), ("x", 3, True), "join 0", "join 0", "join 0", ("j", 0, True)],
        [[[1, 2, 3], 0, [1, 2, 3], INSIDE]]),
    "joined and moved to an output": (
        lambda x: L.Reshape((-1,), name="f")(
            L.Concatenate(name="j")([L.AveragePooling2D(2, name=name)(h) for name, h in zip("qr", two_branches(x))])),
        "b", [("quantized_a", 1, True), ("quantized_b", 2, True), ("q", 1, False), ("r", 2, False), "join 0", "join 0",
              ("j", 0, True)], [[[1, 2], 0, [1, 2], AT_OUTPUT]]),
    "joined and multiplied at an output": (
        lambda x: (lambda j: L.Multiply(name="m")([j, j]))(L.ReLU(name="r")(L.Concatenate(name="j")(two_branches(x)))), "a",
        [("quantized_a", 1, True), ("quantized_b", 2, True), "join 0", "join 0", ("j", 0, True), ("r", 3, True),
         ("m_inner", 4, True)],
        [[[1, 2], 0, [1, 2], AT_OUTPUT], [[0], 3, [], rules.NO_LIMIT], [[3], 4, [], rules.NO_LIMIT]]),
    "chosen from": (
        lambda x: flat_head(conv(name="c")(L.Maximum(name="j")(two_branches(x)))), "a",
        [("quantized_a", 1, True), ("quantized_b", 2, True), "join 0", "join 0", ("j", 0, True)], [[[1, 2], 0, [0], INSIDE]]),
    "the lesser": (
        lambda x: flat_head(conv(name="c")(L.Minimum(name="j")(two_branches(x)))), "a",
        [("quantized_a", 1, True), ("quantized_b", 2, True), "join 0", "join 0", ("j", 0, True)], [[[1, 2], 0, [0], INSIDE]]),
    "joined twice": (
        lambda x: (lambda a, b: flat_head(conv(name="c")(L.Concatenate(name="k")([L.Concatenate(name="j")([a, b]), a]))))(
            *two_branches(x)), "a",
        [("quantized_a", 2, True), ("quantized_b", 3, True), *["join 0", "join 1"] * 2, ("j", 1, True), ("k", 0, True)],
        [[[2, 3], 1, [2, 3], INSIDE], [[1, 2], 0, [1, 2], INSIDE]]),
    "joined with floats": (
        lambda x: flat_head(conv(name="c")(L.Concatenate(name="j")([norm("n")(conv(name="a")(x)), conv(name="b")(x)]))), "b",
        [("quantized_b", 2, True), ("n", 1, True), "join 0", "join 0", ("j", 0, True)], [[[1, 2], 0, [1, 2], INSIDE]]),
    "joined after what was planned to be rounded": (
        lambda x: L.Concatenate(name="j")(
            [conv(name="b")(x), L.Add(name="s")([norm("m")(x), norm("o")(x)])]), "b",
        [("quantized_b", 1, True), ("s", 2, True), "join 0", "join 0", ("j_inner", 0, True)],
        [[[1, 2], 0, [1, 2], AT_OUTPUT]]),
}  # fmt: skip


@pytest.mark.parametrize("case", SITES)
def test_what_is_rounded_in_a_range_of_its_own(case):
    build, names, floats = SITES[case]
    found, left = planned(image(build))
    assert set(found) == set(names.split()) and left == floats
    for fixed, places, joins, calls in found.values():
        assert fixed is None and places == 1 and joins == [] and [call[1:] for call in calls] == [(0, True)]


@pytest.mark.parametrize("case", SHARED)
def test_who_is_rounded_in_one_range(case):
    build, name, expected, joins = SHARED[case]
    found, _ = planned(image(build))
    fixed, places, known, calls = found.pop(name)
    said = [f"join {call[2]}" if call[1] == "join" else call for call in calls]
    assert sorted(map(str, said)) == sorted(map(str, expected)) and fixed is None and known == joins
    assert places == (1 if not joins else 1 + max(max(*join[0], join[1]) for join in joins))
    for _, places, joins, calls in found.values():
        assert places == 1 and joins == [] and len(calls) == 1


def test_ranges_that_files_prescribe():
    def build(x):
        return [L.Softmax(name="one")(conv(name="a")(x)), L.Activation("tanh", name="two")(conv(name="b")(x)),
                L.Activation("sigmoid", name="three")(conv(name="c")(x))]  # fmt: skip

    for bits, wide in ((8, False), (9, True), (16, True)):
        found, _ = planned(image(build), activation_bits=bits)
        fixed = {name: found[name][0] for name in ("one", "two", "three")}
        if wide:
            assert set(fixed.values()) == {(-1.0, 32767 / 32768)}
        else:
            assert fixed == {"one": SIGMOID, "two": (-1.0, 127 / 128), "three": SIGMOID}
        assert all(found[name][0] is None for name in "abc")


def test_joins_of_more_than_eight_bits_have_one_range():
    for bits, num in ((7, 1), (8, 1), (9, 0), (16, 0)):
        found, _ = planned(image(lambda x: L.Concatenate(name="j")(two_branches(x))), activation_bits=bits)
        _, places, joins, calls = found["a"]
        assert places == 3 and len(joins) == num and len(calls) == 3 + 2 * num


def test_limits_of_joins_that_reach_an_output_and_another():
    """Channel by channel at most between: an activation does, and a normalization, a kernel or a fixed range does not."""
    for last, limit in (
        (lambda j: L.Activation("gelu")(L.ZeroPadding2D()(j)), AT_OUTPUT), (lambda j: j, AT_OUTPUT),
        (lambda j: j + 1.0, AT_OUTPUT), (L.ReLU(), AT_OUTPUT), (lambda j: L.Concatenate()([j, j]), AT_OUTPUT),
        (norm("n"), INSIDE), (conv(), INSIDE), (L.Activation("sigmoid"), INSIDE),
    ):  # fmt: skip
        def build(x):
            joined = L.Concatenate(name="j")(two_branches(x))
            return [last(joined), flat_head(conv(name="c")(joined))]

        joins = planned(image(build))[0]["a"][2]
        assert joins[0][3] == limit


def test_kernels_that_are_left_out_leave_what_reads_them_float():
    def build(x):
        return flat_head(L.ReLU(name="r")(conv(name="a")(x)))

    found, left = planned(image(build), layers=["head"])
    assert set(found) == {"mean", "head"} and left == {"a": "left out by `layers`", "r": FLOAT, "mean": FLOAT}


def test_integers_that_are_joined_are_on_no_grid():
    x, i = keras.Input((6,), name="x"), keras.Input((3,), dtype="int32", name="i")
    found, left = planned(keras.Model([x, i], [L.Dense(2, name="o")(x), L.Concatenate(name="ints")([i, i])]))
    assert set(found) == {"x", "o"} and left == {"ints": FLOAT}


def test_a_layer_that_is_called_often_has_a_range_for_each_call():
    def build(x):
        shared = conv(3, name="a")
        return flat_head(L.Add(name="s")([shared(x), shared(shared(x))]))

    found, _ = planned(image(build))
    assert set(found) == {"x", "a", "a_range_2", "a_range_3", "s", "mean", "head"}


def test_parts_of_a_split_share_the_range_of_the_whole():
    x = keras.Input((6,), name="x")
    a, b = ops.split(L.Dense(6, name="a")(x), 2, axis=-1)
    found, _ = planned(keras.Model(x, L.Dense(2, name="o")(ops.concatenate([b, a], axis=-1))))
    assert set(found) == {"x", "a", "o"} and found["a"][1:3] == (2, [[[1, 1], 0, [1, 1], INSIDE]])


# What is chosen, and what is told.


def test_defaults_are_eight_bits_for_all():
    model = keras.Sequential([keras.Input((8, 8, 3)), conv(), L.DepthwiseConv2D(3), L.Flatten(), L.Dense(3, name="last")])
    for options in ({}, {"weight_bits": 8}, {"weight_bits": {"last": 8}}, {"activation_bits": 8}):
        qat, report = quantization.quantize(model, return_report=True, **options)
        assert [(kernel.kind, kernel.bits, kernel.per_channel) for kernel in report.kernels] == [
            ("Conv2D", 8, True), ("DepthwiseConv2D", 8, True), ("Dense", 8, False)
        ]  # fmt: skip
        assert {layer.bits for layer in qat.layers if isinstance(layer, (QuantizedActivation, QuantizedKernel))} == {8}
        axes = [layer.num_channel_axes for layer in qat.layers if isinstance(layer, QuantizedKernel)]
        assert axes == [1, 2, 0] and all(layer.momentum == 0.999 for layer in qat.layers if hasattr(layer, "momentum"))
    assert isinstance(quantization.quantize(model), keras.Model)
    for flag in (1, None, "yes"):
        with pytest.raises(TypeError, match="`return_report` must be a bool"):
            quantization.quantize(model, return_report=flag)


def test_names_of_layers_that_begin_alike():
    """The parts of a layer that was written out are its own, and no other's whose name is shorter."""
    x = keras.Input((4, 6))
    h = L.SimpleRNN(5, return_sequences=True, name="a")(x)
    h = L.Dense(5, name="a_b")(L.SimpleRNN(5, return_sequences=True, name="a_b_c")(h))
    model = keras.Model(x, L.Dense(2, name="b")(h))
    for bits in ({"a": 4, "a_b": 5, "a_b_c": 6}, {"a_b_c": 6, "a_b": 5, "a": 4}, {"a_b*": 6, "a": 4}, {"a*": 3, "a_b": 5}):
        _, report = quantization.quantize(model, bits, return_report=True)
        found = {kernel.name: kernel.bits for kernel in report.kernels}
        first = {name: next((n for key, n in bits.items() if key == name or key[-1] == "*" and name.startswith(key[:-1])), 8)
                 for name in ("a", "a_b", "a_b_c", "b")}  # fmt: skip
        assert found == {"a": first["a"], "a_recurrent": first["a"], "a_b": first["a_b"], "a_b_c": first["a_b_c"],
                         "a_b_c_recurrent": first["a_b_c"], "b": first["b"]}  # fmt: skip
    _, report = quantization.quantize(model, layers=["a"], return_report=True)
    assert [kernel.name for kernel in report.kernels] == ["a", "a_recurrent"]


def test_selectors_are_checked_before_any_work():
    model = keras.Sequential([keras.Input((6,)), L.Dense(3, name="one"), L.Dense(2, name="two")])
    other = L.Dense(3, name="elsewhere")
    for options in (
        {"layers": "on"}, {"layers": ["one", "three"]}, {"weight_bits": {"one": 4, "three": 8}}, {"layers": other}
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Received: "):
            quantization.quantize(model, **options)
    for bits in ({"one": 1}, {"one": 8, "two": 17}, {"one": 4.0}, 1, 17):
        with pytest.raises(ValueError, match="`weight_bits` must be"):
            quantization.quantize(model, bits)
    for bits in (1, 17, 8.0):
        with pytest.raises(ValueError, match="`activation_bits` must be"):
            quantization.quantize(model, 8, bits)
    _, report = quantization.quantize(model, {model.layers[0]: 4, "two": 5}, return_report=True)
    assert [kernel.bits for kernel in report.kernels] == [4, 5]


def test_zeros_that_are_held_in_one_kernel_are_held_in_the_new_model():
    for pruned in (["a"], ["b"], []):
        model = randomize(keras.Sequential([keras.Input((6,)), L.Dense(8, name="a"), L.Dense(5, name="b")]))
        for layer in model.layers:
            layer.kernel.assign(np.where(np.abs(layer.kernel) < 0.2, 0, layer.kernel))
        if pruned:
            prune(model, sparsity=0.5, structure="unstructured", layers=pruned)
        qat = quantization.quantize(model)
        kernels = [layer.layer.kernel for layer in qat.layers if isinstance(layer, QuantizedKernel)]
        before = [kernel.numpy() == 0 for kernel in kernels]
        qat.compile("adam", "mse")
        qat.fit(np.random.default_rng(0).normal(size=(8, 6)), np.ones((8, 5)), epochs=2, verbose=0)
        for name, kernel, zeros in zip("ab", kernels, before):
            assert zeros.any() and ((kernel.numpy() == 0) == zeros).all() == bool(pruned), name


def test_data_set_the_ranges_and_none_leaves_them():
    model = keras.Sequential([keras.Input((6,)), L.Dense(8), L.Dense(5)])
    x = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    for data, seen in ((None, 0.0), (x, 2.0), ((x, np.ones(40)), 2.0)):
        qat = quantization.quantize(model, data=data)
        assert {float(layer.observed[0]) for layer in quantization.ranges.rounders(qat)} == {seen}


class Own(keras.Model):
    """A class of the user's that Keras' constructor makes."""


def test_class_names_and_outputs_are_those_of_the_model():
    x = keras.Input((6,), name="x")
    model = Own(x, {"first": L.Dense(3, name="one")(x), "second": L.Concatenate(name="two")([x, x])}, name="mine")
    qat = quantization.quantize(model)
    assert type(qat) is Own and qat.name == "mine" and set(qat.output) == {"first", "second"}
    assert type(quantization.simplify(model)[0]) is Own
    assert sorted(qat.output_names) == sorted(model.output_names)


def test_models_without_a_kernel_to_round_name_six_of_what_is_in_the_way():
    layers = [L.LayerNormalization(name=f"norm_{i}") for i in range(8)]
    with pytest.raises(ValueError, match="At least one kernel must be quantizable") as caught:
        quantization.quantize(keras.Sequential([keras.Input((3,)), *layers]))
    said = str(caught.value)
    assert [f"norm_{i}" in said for i in range(8)] == [True] * 6 + [False] * 2 and said.count(NO_RULE) == 6
    dense = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    with pytest.raises(ValueError, match="At least one kernel"):
        quantization.quantize(dense, layers=lambda layer: False)


# The table.


RULES = [
    (L.ReLU(), rules.CLAMP), (L.ReLU(6), rules.CLAMP), (L.ReLU(5), rules.RANGED), (L.ReLU(threshold=0.5), rules.RANGED),
    (L.ReLU(negative_slope=0.1), rules.RANGED), (L.ReLU(6, threshold=1.0), rules.RANGED), (L.Softmax(), SIGMOID),
    (L.UpSampling2D(), rules.SAME), (L.UpSampling2D(interpolation="bilinear"), rules.AVERAGE),
    (L.Activation("relu"), rules.CLAMP), (L.Activation("relu6"), rules.CLAMP), (L.Activation("linear"), rules.ABSENT),
    (L.Activation("gelu"), rules.RANGED), (L.Activation("hard_silu"), rules.RANGED), (L.Activation("tanh"), (-1.0, 127 / 128)),
    (L.Activation("sigmoid"), SIGMOID), (L.Dense(2), rules.KERNEL), (L.Conv1DTranspose(2, 2), rules.KERNEL),
    (L.Add(), rules.RANGED), (L.Concatenate(), rules.JOINED), (L.AveragePooling1D(2), rules.AVERAGE),
    (L.Flatten(), rules.SAME),
    (L.Dropout(0.1), rules.ABSENT), (L.GaussianNoise(0.1), rules.ABSENT), (L.LeakyReLU(), rules.RANGED),
]  # fmt: skip


class Derived(L.Dense):
    """A layer of the user's that may compute anything."""


def own(x):
    return x


def test_rules_of_layers():
    for layer, rule in RULES:
        assert rules.rule_of(layer) == (rule, None)


def test_layers_without_a_rule_tell_why():
    for layer, reason in (
        (L.Activation("elu"), "no integer kernel for the activation 'elu'"), (Derived(2), "Derived has no rule for integers"),
        (L.Activation(own), "no integer kernel for the activation 'own'"), (norm("n"), NO_RULE),
        (L.LSTM(2), rules.REASONS[L.LSTM]),
        (L.Conv3D(2, 2), "three-dimensional convolutions have no integer operation in files"),
    ):  # fmt: skip
        assert rules.rule_of(layer) == (None, reason)


def test_operations_and_layers_of_one_name_are_told_apart():
    x = keras.Input((6,))
    made = {
        "relu": (ops.relu(x), rules.CLAMP), "relu6": (ops.relu6(x), rules.CLAMP), "tanh": (ops.tanh(x), (-1.0, 127 / 128)),
        "multiply": (x * 2.0, rules.RANGED), "reshape": (ops.reshape(x, (-1, 2, 3)), rules.SAME),
        "stack": (ops.stack([x, x]), "joined"),
    }  # fmt: skip
    for tensor, rule in made.values():
        assert rules.rule_of(tensor._keras_history.operation) == (rule, None)
    cast = ops.cast(x, "float16")._keras_history.operation
    assert rules.rule_of(cast) == (None, "a change of type; its result is rounded where a kernel reads it")
    assert rules.rule_of(ops.sin(x)._keras_history.operation) == (None, "Sin has no rule for integers")


AXES_OF_CHANNELS = [
    (lambda: L.Conv2D(2, 2), 1), (lambda: L.DepthwiseConv2D(2), 2), (lambda: L.Conv1D(2, 2), 0),
    (lambda: L.DepthwiseConv1D(2), 0),
    (lambda: L.Conv2DTranspose(2, 2), 0), (lambda: L.Conv1DTranspose(2, 2), 0), (lambda: L.Dense(2), 0),
]  # fmt: skip


def test_axes_of_channels():
    """Dense kernels have a step per channel with wide activations alone, as the converter makes them."""
    for make, axes in AXES_OF_CHANNELS:
        layer = make()
        assert rules.channel_axes(layer) == rules.channel_axes(layer, 8) == axes and rules.has_kernel(layer)
        for bits in (9, 16):
            assert rules.channel_axes(layer, bits) == (1 if isinstance(layer, L.Dense) else axes)
        assert not rules.has_kernel(L.ReLU()) and rules.computes_clamp(layer) == ("Transpose" not in type(layer).__name__)


def test_who_computes_a_relu_behind_it():
    x = keras.Input((6,))
    operation = (x + 1.0)._keras_history.operation
    for layer in (L.Dense(2), L.Conv1D(2, 2), L.DepthwiseConv2D(2), L.Add(), L.Subtract(), L.Multiply(), operation):
        assert rules.takes_clamp(layer)
    for layer in (L.Dense(2, activation="relu"), L.Conv2DTranspose(2, 2), L.Conv1DTranspose(2, 2), L.Concatenate(),
                  L.Maximum(), L.MaxPooling2D(), ops.matmul(x, ops.ones((6, 2)))._keras_history.operation):  # fmt: skip
        assert not rules.takes_clamp(layer)
    assert all(map(rules.chooses, (L.Maximum(), L.Minimum()))) and not any(map(rules.chooses, (L.Concatenate(), L.Add())))
    assert rules.chooses(ops.maximum(x, x)._keras_history.operation)


def test_names_of_functions():
    assert rules.function_name(None) == "linear" and rules.function_name(keras.activations.relu) == "relu"
    assert rules.function_name(ops.relu6) == "relu6" and rules.function_name(own) is None

    def relu(x):
        return x

    assert rules.function_name(relu) is None and rules.function_name(L.ReLU()) is None
    assert rules.activation_name(L.Dense(2, activation="gelu")) == "gelu" and rules.activation_name(L.Flatten()) == "linear"


def test_rules_that_can_be_registered(monkeypatch):
    monkeypatch.setattr(rules, "_LAYERS", dict(rules._LAYERS))
    for rule in (rules.RANGED, rules.SAME, rules.AVERAGE, rules.JOINED):
        rules.register(Derived, rule)
        assert rules.rule_of(Derived(2)) == (rule, None)
    for rule in (rules.KERNEL, rules.CLAMP, rules.ABSENT, (0.0, 1.0), None):
        with pytest.raises(ValueError, match="rule"):
            rules.register(Derived, rule)
    for layer in (Derived(2), "Dense", int, own):
        with pytest.raises(TypeError, match="`layer_type` must be a Layer class"):
            rules.register(layer, rules.SAME)


def test_every_table_has_a_verdict():
    assert all(rules.has_verdict(kind) for kind in (L.Dense, L.LSTM, L.Embedding, L.Conv3D, L.ConvLSTM2D, L.Flatten))
    assert not rules.has_verdict(Derived) and not rules.has_verdict(L.LayerNormalization)


# Names of the sites, those of one group with a plus between.
PLANNED = {
    "relu behind a kernel": "head mean r", "read by a relu and another": "a head mean r s", "dropout between": "head mean r",
    "dropout read twice": "a head mean r s", "relu of the input": "head mean r", "input behind moves": "a head mean",
    "input and kernel added": "a s", "relu behind a sum": "a b head mean r", "relu with a slope": "a head mean r",
    "transposed with a relu": "head mean t t_activation", "sums of floats": "a b c head mean r s",
    "relu behind a pooling": "a head mean", "relu behind a pooling and dropout": "a head mean",
    "pooling read twice": "a b c head mean s", "average": "a head mean", "smooth upsampling": "a head mean",
    "joined at an output": "a a_activation+b+j", "joined inside": "a a_activation+b+j+x c head mean",
    "joined and moved to an output": "a+b+j", "joined and multiplied at an output": "a+b+j+m+r",
    "chosen from": "a+b+j c head mean", "the lesser": "a+b+j c head mean", "joined twice": "a+b+j+k c head mean",
    "joined with floats": "a b+j+n c head mean", "joined after what was planned to be rounded": "b+j+s",
}


def test_plans_alone_without_a_model_made_of_them():
    """Which sites there are, which of them are in one group, and the joins, for every net above."""
    assert set(PLANNED) == {*SITES, *SHARED}
    for case, (build, *_, last) in {**SITES, **SHARED}.items():
        plan = Plan(quantization.simplify(image(build))[0], lambda layer: True)
        sites = [*plan.sites.values(), *plan.entries.values()]
        groups = {id(site.group): site.group for site in sites}.values()
        assert sum(map(len, groups)) == len({id(site) for site in sites})
        names = ["+".join(sorted(site.name.removesuffix("_inner") for site in group)) for group in groups]
        assert " ".join(sorted(names)) == PLANNED[case]
        assert [join.places() for join in plan.joins] == (last if case in SHARED else [])
        assert all(site.fixed_range is None for group in groups if len(group) > 1 for site in group)
        assert all(join in plan.joins_of(join.output.group) for join in plan.joins)


def test_what_a_model_was_compiled_with_is_carried_over():
    model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
    assert not quantization.quantize(model).compiled
    model.compile(keras.optimizers.Adam(0.25), "mae", metrics=["mse"])
    qat = quantization.quantize(model)
    assert qat.compiled and qat.loss == "mae" and float(qat.optimizer.learning_rate) == 0.25
    assert qat.optimizer is not model.optimizer and not model.get_config()["layers"][-1]["config"].get("bits")


def test_a_relu_behind_a_kernel_is_part_of_it_where_it_alone_reads_the_kernel():
    for name in (
        "relu behind a kernel", "read by a relu and another", "dropout between", "dropout read twice", "relu of the input",
        "relu behind a sum", "relu behind a pooling", "pooling read twice", "chosen from",
    ):  # fmt: skip
        model = image((SITES.get(name) or SHARED.get(name))[0])
        plan = Plan(graph_of(model), lambda layer: True)
        planned = PLANNED[name].replace("+", " ").split()
        assert sorted(site.name for site in plan.sites.values()) == sorted(planned), name


def test_models_that_are_refused_name_five_of_their_layers():
    def stack(*layers):
        return keras.Sequential([keras.Input((4,)), *layers])

    adapted, rounded = (stack(*[L.Dense(4, name=f"dense_{i}") for i in range(7)]) for _ in range(2))
    for layer in adapted.layers:
        layer.enable_lora(2)
    for layer in rounded.layers:
        layer.quantize("int8")
    masked = stack(*[Masked(L.Dense(4), name=f"dense_{i}") for i in range(7)])
    for model, told in ((adapted, "have LoRA weights"), (rounded, "be quantized by Keras"), (masked, "Masked wrappers")):
        with pytest.raises(ValueError, match=told) as caught:
            quantization.quantize(model)
        assert str(caught.value).count("'dense_") == 5
    with pytest.raises(ValueError, match="must not be quantized yet"):
        quantization.quantize(quantization.quantize(stack(L.Dense(2))))
