"""The ARM rule: floating-point kernels are packed only where phones compute the same."""

import keras
import pytest
from packed_nets import Written, content_of, sequential, zeroed

from tf_reweight.packing import arm, pack

L = keras.layers


def mobile(stem="pad", middle=(), head=None, full=False):
    """A net that XNNPACK runs on sparse kernels on ARM, unless told otherwise; `full` has one of everything that it runs."""
    x = inputs = keras.Input((16, 15, 3) if stem == "odd" else (16, 16, 3))
    if stem == "same":
        x = L.Conv2D(16, 3, strides=2, padding="same", activation="relu6")(x)
    else:
        x = L.Conv2D(16, 3, strides=2, activation="relu6")(L.ZeroPadding2D(1)(x))
    x = y = L.Conv2D(64, 1, activation="relu6")(x)
    if full:
        x = L.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
        x = L.Add()([L.Conv2D(64, 1)(x), y])
        gate = L.Conv2D(64, 1, activation="sigmoid")(L.Conv2D(16, 1)(L.GlobalAveragePooling2D(keepdims=True)(x)))
        x = L.Activation("silu")(L.Multiply()([x, gate]))
        x = L.DepthwiseConv2D(5, strides=2)(L.ZeroPadding2D(2)(x))
    for layer in middle:
        x = layer(x)
    x = L.Conv2D(64, 1)(x)
    return keras.Model(inputs, head(x) if head else L.GlobalAveragePooling2D()(x))


WRONG_ON_ARM = {
    "DEPTHWISE_CONV_2D": lambda: mobile(middle=[L.DepthwiseConv2D(3, strides=2, padding="same")]),
    "MAX_POOL_2D": lambda: mobile(middle=[L.MaxPooling2D(2)]),
    "AVERAGE_POOL_2D": lambda: mobile(middle=[L.AveragePooling2D(2)]),
    "CONCATENATION": lambda: mobile(middle=[lambda x: L.Concatenate()([x, L.ReLU()(x)])]),
    "CONV_2D": lambda: mobile(middle=[L.Conv2D(64, 3, padding="same")]),
    "CONV_2D strided": lambda: mobile(middle=[L.Conv2D(64, 1, strides=2)]),
    "CONV_2D grouped": lambda: mobile(middle=[L.Conv2D(64, 1, groups=4)]),
    "CONV_2D odd": lambda: mobile("odd"),
    "MEAN": lambda: mobile(head=L.GlobalAveragePooling2D(keepdims=True)),
    "RESHAPE": lambda: mobile(head=L.Flatten()),
}
# Right in the one place where they were executed, or not on sparse kernels: that is no proof for others.
UNVERIFIED = ("CONCATENATION", "CONV_2D odd", "RESHAPE")


def test_a_net_on_the_list_is_packed():
    for precision in ("float32", "float16"):
        content = zeroed(content_of(mobile(full=precision == "float32"), precision))
        report = arm.arm_eligibility(content)
        assert (report.stem_found, report.eligible, report.reason) == (True, True, "")
        verdicts = [op.verdict for op in report.ops]
        assert verdicts.count("stem") == verdicts.count("mean") == 1
        assert set(verdicts) <= {"stem", "verified", "mean", "outside"}
        assert pack.pack(content).num_packed >= 2


@pytest.mark.parametrize("case", WRONG_ON_ARM)
def test_nets_that_arm_would_compute_wrongly_stay_dense(case):
    content = zeroed(content_of(WRONG_ON_ARM[case](), "float32"))
    report = arm.arm_eligibility(content)
    assert report.stem_found and not report.eligible
    verdict = "unverified" if case in UNVERIFIED else "wrong"
    assert report.verdict == verdict and case.split()[0] in [op.name for op in report.ops if op.verdict == verdict]
    assert {"wrong": ": not safe", "unverified": ": unverified"}[verdict] in str(report)
    result = pack.pack(content)
    assert result.content == content
    assert all(tensor.reason.startswith("ARM phones") and report.reason in tensor.reason for tensor in result.tensors)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_without_a_stem_or_in_int8_the_rule_does_not_apply(precision):
    model = mobile("same" if precision == "float32" else "pad", [L.MaxPooling2D(2)])
    content = zeroed(content_of(model, precision))
    report = arm.arm_eligibility(content)
    assert (report.stem_found, report.eligible) == (False, True) and {op.verdict for op in report.ops} == {"outside"}
    assert pack.pack(content).num_packed


def test_quantized_kernels_beside_a_float_mean_stay_dense():
    """In XNNPACK a packed kernel makes such files count zeros of types that the counting does not know."""
    model = sequential((8, 8, 256), L.DepthwiseConv2D(3), L.GlobalAveragePooling2D(), L.Dense(64))
    content = zeroed(content_of(model, "dynamic_int8"), "channel")
    report = arm.arm_eligibility(content)
    assert not report.stem_found and not report.eligible and report.reason.startswith("MEAN")
    assert pack.pack(content).content == content


def with_all_that_is_right():
    """Each operation that was added to the list after it had been executed, one behind the other."""
    import tensorflow as tf

    steps = [
        tf.tanh, tf.nn.elu, lambda x: tf.nn.leaky_relu(x, 0.2), tf.nn.gelu, lambda x: tf.exp(-tf.abs(x)), tf.round,
        lambda x: tf.sqrt(tf.square(x)), tf.math.ceil, tf.floor,
        lambda x: tf.image.resize(x, (14, 14)), lambda x: tf.nn.depth_to_space(x, 2),
    ]  # fmt: skip
    # Each behind a convolution of its own: on rounded numbers alone little would be left to see.
    layers = [layer for step in steps for layer in (L.Conv2D(64, 1), L.Lambda(step))]
    return content_of(mobile(middle=layers), "float32")


def test_elementwise_operations_and_resizing_are_on_the_list():
    report = arm.arm_eligibility(zeroed(with_all_that_is_right()))
    assert report.stem_found and report.eligible and report.verdict == "safe"
    found = {op.name for op in report.ops if op.verdict == "verified"}
    assert {"TANH", "ELU", "LEAKY_RELU", "GELU", "EXP", "NEG", "ABS", "ROUND", "SQRT", "SQUARE", "CEIL", "FLOOR"} <= found
    assert {"RESIZE_BILINEAR", "DEPTH_TO_SPACE"} <= found
    blocks = mobile(middle=[L.Lambda(lambda x: __import__("tensorflow").nn.depth_to_space(x, 4))])
    report = arm.arm_eligibility(zeroed(content_of(blocks, "float32")))
    assert report.verdict == "unverified" and "only blocks of 2" in report.reason


def test_what_is_in_the_way_is_printed_once_and_not_a_row_per_operation():
    """Three poolings are one row, and what is right has none; what is wrong comes before what is unverified."""
    pools = [L.Concatenate(), *[L.MaxPooling2D(2, 1, padding="same") for _ in range(7)]]
    middle = [lambda x: pools[0]([x, L.ReLU()(x)]), *pools[1:]]
    report = arm.arm_eligibility(zeroed(content_of(mobile(middle=middle), "float32")))
    assert report.verdict == "wrong" and report.reason.startswith("MAX_POOL_2D") and report.to_dict()["verdict"] == "wrong"
    (table,) = report.to_tables()
    said = str(report)
    assert table.row_count == 2 and said.count("MAX_POOL_2D") == 1 and "and 2 more" in said and "CONCATENATION" in said
    assert len(report.to_dict()["ops"]) == len(report.ops) > 9
    safe = arm.arm_eligibility(content_of(mobile(), "float32"))
    assert ": safe" in str(safe) and safe.to_tables()[0].row_count == 1 and "operations: " in str(safe)


# Files that are written operation by operation.

SAME, VALID = 0, 1
STRIDED = ("strideH", "strideW", "dilationHFactor", "dilationWFactor")
AROUND = ((0, 0), (1, 1), (1, 1), (0, 0))


class Image(Written):
    """Operations on images; the stem makes one of 8 x 8 pixels and 16 channels."""

    def pad(self, x, pads=AROUND, name="PAD"):
        return self.op(name, [x, self.numbers(pads)], [n + sum(more) for n, more in zip(self.part.tensors[x].shape, pads)])

    def conv(self, x, filters=16, size=(1, 1), strides=(1, 1), dilations=(1, 1), padding=VALID, dtype="FLOAT32", channels=None,
             fusedActivationFunction=0):  # fmt: skip
        batch, height, width, own = self.part.tensors[x].shape
        weights = self.tensor((filters, *size, own if channels is None else channels), dtype)
        made = (batch, *_sizes((height, width), size, strides, padding), filters)
        options = dict(zip(STRIDED, (*strides, *dilations)), padding=padding, fusedActivationFunction=fusedActivationFunction)
        return self.op("CONV_2D", [x, weights], made, kind="Conv2DOptions", **options)

    def depthwise(self, x, size=(3, 3), strides=(1, 1), dilations=(1, 1), padding=SAME, dtype="FLOAT32", depthMultiplier=1):
        batch, height, width, channels = self.part.tensors[x].shape
        weights = self.tensor((1, *size, channels), dtype)
        options = dict(zip(STRIDED, (*strides, *dilations)), padding=padding, depthMultiplier=depthMultiplier)
        made = (batch, *_sizes((height, width), size, strides, padding), channels)
        return self.op("DEPTHWISE_CONV_2D", [x, weights], made, kind="DepthwiseConv2DOptions", **options)

    def mean(self, x, axes=(1, 2), keep=False):
        shape = self.part.tensors[x].shape
        gone = [axis % len(shape) for axis in axes]
        made = [1 if i in gone else n for i, n in enumerate(shape) if keep or i not in gone]
        return self.op("MEAN", [x, self.numbers(axes)], made, kind="ReducerOptions", keepDims=keep)

    def blocks(self, x, size):
        return self.op("DEPTH_TO_SPACE", [x], (1, 16, 16, 4), kind="DepthToSpaceOptions", blockSize=size)

    def stem(self, shape=(1, 16, 16, 3), pads=AROUND, name="PAD", before=None, **options):
        x = self.input(shape)
        padded = self.pad(x if before is None else before(x), pads, name)
        return self.conv(padded, **({"size": (3, 3), "strides": (2, 2)} | options))


def _sizes(image, size, strides, padding):
    """Height and width of what a convolution makes."""
    return [-(-(n if padding == SAME else n - k + 1) // step) for n, k, step in zip(image, size, strides)]


def verdicts(net, *outputs):
    """`(name, verdict, reason)` of all operations, and whether there is a stem."""
    report = arm.examine(net.graph(*outputs))
    assert [op.index for op in report.ops] == list(range(len(report.ops)))
    assert report.eligible == (report.verdict == "safe") == (not {"wrong", "unverified"} & {op.verdict for op in report.ops})
    return [(op.name, op.verdict, op.reason) for op in report.ops], report.stem_found


def behind_stem(make, **stem):
    """Verdicts on what a function adds behind the stem; where it gives an image, a convolution and the mean follow."""
    net = Image()
    before = net.stem(**stem)
    first, made = len(net.part.operators), make(net, before)
    last = len(net.part.operators)
    outputs = [made] if isinstance(made, int) else made
    if len(net.part.tensors[outputs[0]].shape) == 4 and outputs[0] not in net.part.outputs:
        outputs = [net.mean(net.conv(outputs[0])), *outputs[1:]]
    found, has_stem = verdicts(net, *net.part.outputs, *outputs)
    assert has_stem
    return found[:first], found[first:last], found[last:]


STEMS = {
    "plain": ({}, True), "five filters": ({"filters": 5}, True), "with relu6": ({"fusedActivationFunction": 3}, True),
    "padded by PADV2": ({"name": "PADV2"}, True), "mirrored": ({"name": "MIRROR_PAD"}, False),
    "no strides": ({"strides": (1, 1)}, False), "stride of width": ({"strides": (1, 2)}, False),
    "stride of height": ({"strides": (2, 1)}, False), "strides of three": ({"strides": (3, 3)}, False),
    "pads itself": ({"padding": SAME}, False), "two high": ({"size": (2, 3)}, False), "four wide": ({"size": (3, 4)}, False),
    "four channels": ({"shape": (1, 16, 16, 4)}, False), "gray": ({"shape": (1, 16, 16, 1)}, False),
    "padded by two": ({"pads": ((0, 0), (2, 2), (2, 2), (0, 0))}, False),
    "padded below": ({"pads": ((0, 0), (0, 1), (0, 1), (0, 0))}, False),
    "padded above": ({"pads": ((0, 0), (1, 0), (1, 0), (0, 0))}, False),
    "padded in height": ({"pads": ((0, 0), (1, 1), (0, 0), (0, 0))}, False),
    "padded in width": ({"pads": ((0, 0), (0, 0), (1, 1), (0, 0))}, False),
    "padded batch": ({"pads": ((0, 1), (1, 1), (1, 1), (0, 0))}, False),
    "padded channels": ({"shape": (1, 16, 16, 2), "pads": ((0, 0), (1, 1), (1, 1), (0, 1))}, False),
}  # fmt: skip


def test_what_is_a_stem():
    for case in STEMS:
        options, is_stem = STEMS[case]
        net = Image()
        found, has_stem = verdicts(net, net.mean(net.stem(**options)))
        assert has_stem == is_stem and [name for name, _, _ in found][1:] == ["CONV_2D", "MEAN"]
        if not is_stem:
            assert {verdict for _, verdict, _ in found} == {"outside"}
        elif case == "padded by PADV2":
            assert found[1][1:] == ("unverified", "its padding is not known beforehand") and found[2][1] == "mean"
        else:
            assert found == [("PAD", "outside", ""), ("CONV_2D", "stem", ""), ("MEAN", "mean", "")]


def test_integers_and_convolutions_without_a_padding_before_are_no_stem():
    for pad, dtype in ((False, "FLOAT32"), (True, "INT8"), (True, "FLOAT16")):
        net = Image()
        x = net.input((1, 17, 17, 3), dtype)
        made = net.conv(net.pad(x) if pad else net.op("RELU", [x]), size=(3, 3), strides=(2, 2))
        found, has_stem = verdicts(net, net.mean(made))
        assert not has_stem and {verdict for _, verdict, _ in found} == {"outside"}


def test_images_of_odd_sizes_are_unverified():
    for size, right in [((16, 16), True), ((15, 16), False), ((16, 15), False), ((15, 15), False)]:
        net = Image()
        found, _ = verdicts(net, net.mean(net.stem((1, *size, 3))))
        odd = ("unverified", "only images of even height and width were executed")
        assert found[1][1:] == (("stem", "") if right else odd)


def test_two_stems_and_all_that_they_lead_to():
    net = Image()
    first, second = net.stem(), net.stem()
    added = net.op("ADD", [net.conv(first), net.op("RELU", [second])], kind="AddOptions")
    found, has_stem = verdicts(net, net.mean(added), net.mean(net.conv(added)))
    assert has_stem and [verdict for _, verdict, _ in found] == [
        "outside", "stem", "outside", "stem", "verified", "verified", "verified", "mean", "verified", "mean"
    ]  # fmt: skip


def test_a_convolution_that_is_like_the_stem_is_right_behind_it():
    """Its input is no image of three channels as the first is, but what counts is how it is padded."""
    def middle(net, x):
        return net.conv(net.pad(net.conv(x, 3)), size=(3, 3), strides=(2, 2))

    _, (narrow, padding, again), _ = behind_stem(middle)
    assert narrow[1] == "verified" and again[1] == "stem"
    assert padding[1:] == ("unverified", "only padding of one depthwise convolution was executed")


RIGHT, STRIDES = None, "strided and dilated 1x1 convolutions give wrong results"
LARGE, GROUPED = "convolutions other than 1x1 give wrong results", "grouped convolutions give wrong results"
SIZES = "only depthwise 3x3 and 5x5 with one filter per channel were executed"
STEPS, NO_PADS = "only strides 1 and 2 without dilation were executed", "without padding it was not executed"
EVEN = "stride 2 was executed on even heights and widths only"
OUTPUT, ENDLESS = "it is an output that no mean over the image leads to", "no mean over the image follows"
QUANTIZED, OTHER = "its weights are quantized and its input is not", "operands of different shapes were not executed"
MEANS = "only means over height and width were executed"
ELSEWHERE = "one of its operands does not come from the stem"
ONE_SIDED = "stride 2 with 'same' padding gives wrong results"
OUT_OF_PLACE = "a mean that keeps its axes gives wrong results outside of squeeze-and-excite"
# What is added behind the stem -> why the last of it is not right.
ADDED = {
    "1x1": (lambda n, x: n.conv(x, 24), RIGHT), "1x1 padded": (lambda n, x: n.conv(x, padding=SAME), RIGHT),
    **{f"1x1 with {name}": (lambda n, x, i=i: n.conv(x, fusedActivationFunction=i), RIGHT)
       for i, name in enumerate(("none", "relu", "relu to one", "relu6"))},
    "1x1 with tanh": (lambda n, x: n.conv(x, fusedActivationFunction=4), "its activation TANH was not executed"),
    "1x1 of integers": (lambda n, x: n.conv(x, dtype="INT8"), QUANTIZED),
    "1x3": (lambda n, x: n.conv(x, size=(1, 3)), LARGE), "3x1": (lambda n, x: n.conv(x, size=(3, 1)), LARGE),
    "1x1 height": (lambda n, x: n.conv(x, strides=(2, 1)), STRIDES),
    "1x1 width": (lambda n, x: n.conv(x, strides=(1, 2)), STRIDES),
    "1x1 dilated": (lambda n, x: n.conv(x, dilations=(2, 1)), STRIDES),
    "1x1 dilated in width": (lambda n, x: n.conv(x, dilations=(1, 2)), STRIDES),
    "1x1 grouped": (lambda n, x: n.conv(x, channels=8), GROUPED),
    "depthwise": (lambda n, x: n.depthwise(x), RIGHT), "depthwise 5x5": (lambda n, x: n.depthwise(x, (5, 5)), RIGHT),
    **{f"depthwise {h}x{w}": (lambda n, x, size=(h, w): n.depthwise(x, size), SIZES)
       for h, w in ((3, 5), (5, 3), (4, 4), (6, 6), (3, 4), (4, 3), (1, 1), (7, 7))},
    "depthwise of two": (lambda n, x: n.depthwise(x, depthMultiplier=2), SIZES),
    "depthwise of integers": (lambda n, x: n.depthwise(x, dtype="INT8"), QUANTIZED),
    **{f"depthwise strides {s}": (lambda n, x, s=s: n.depthwise(x, strides=s), STEPS)
       for s in ((1, 2), (2, 1), (3, 3), (3, 2))},
    **{f"depthwise dilated {d}": (lambda n, x, d=d: n.depthwise(x, dilations=d), STEPS) for d in ((2, 1), (1, 2), (2, 2))},
    "depthwise stride 2": (lambda n, x: n.depthwise(x, strides=(2, 2)), ONE_SIDED),
    "depthwise unpadded": (lambda n, x: n.depthwise(x, padding=VALID), NO_PADS),
    "depthwise after pad": (lambda n, x: n.depthwise(n.pad(x), padding=VALID), RIGHT),
    "depthwise stride 2 after pad": (lambda n, x: n.depthwise(n.pad(x), strides=(2, 2), padding=VALID), RIGHT),
    "depthwise 5x5 after pad": (
        lambda n, x: n.depthwise(n.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), (5, 5), padding=VALID), RIGHT),
    "depthwise 5x5 after a small pad": (lambda n, x: n.depthwise(n.pad(x), (5, 5), padding=VALID), NO_PADS),
    "depthwise after a wide pad": (
        lambda n, x: n.depthwise(n.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), padding=VALID), NO_PADS),
    **{f"depthwise after pads {pads}": (
        lambda n, x, p=((0, 0), *pads, (0, 0)): n.depthwise(n.pad(x, p), padding=VALID), NO_PADS)
       for pads in (((0, 1), (0, 1)), ((1, 1), (0, 0)), ((0, 0), (1, 1)), ((1, 0), (1, 0)))},
    "depthwise after a padded batch": (
        lambda n, x: n.depthwise(n.pad(x, ((1, 1), (1, 1), (1, 1), (0, 0))), padding=VALID), NO_PADS),
    "depthwise after padded channels": (
        lambda n, x: n.depthwise(n.pad(x, ((0, 0), (1, 1), (1, 1), (0, 1))), padding=VALID), NO_PADS),
    "depth to space": (lambda n, x: n.blocks(x, 2), RIGHT),
    **{f"depth to space {size}": (lambda n, x, size=size: n.blocks(x, size), "only blocks of 2 were executed")
       for size in (1, 3, 4)},
    "ADD": (lambda n, x: n.op("ADD", [x, n.conv(x)]), RIGHT), "MUL": (lambda n, x: n.op("MUL", [x, n.conv(x)]), RIGHT),
    "ADD to a constant": (lambda n, x: n.op("ADD", [x, n.tensor((1, 8, 8, 16))]), ELSEWHERE),
    "MUL of a constant": (lambda n, x: n.op("MUL", [n.tensor((1, 8, 8, 16)), x]), ELSEWHERE),
    "MUL by a gate": (lambda n, x: n.op("MUL", [x, n.conv(n.mean(x, keep=True))]), RIGHT),
    "MUL of a gate": (lambda n, x: n.op("MUL", [n.conv(n.mean(x, keep=True)), x], (1, 8, 8, 16)), RIGHT),
    "ADD of a gate": (lambda n, x: n.op("ADD", [x, n.conv(n.mean(x, keep=True))]), OTHER),
    "MUL by one channel": (lambda n, x: n.op("MUL", [x, n.conv(x, 1)]), OTHER),
    "MUL by a column": (lambda n, x: n.op("MUL", [x, n.op("RESIZE_BILINEAR", [n.conv(x)], (1, 8, 1, 16))]), OTHER),
    "MUL by a row": (lambda n, x: n.op("MUL", [x, n.op("RESIZE_BILINEAR", [n.conv(x)], (1, 1, 8, 16))]), OTHER),
    "kept mean of other axes": (lambda n, x: n.conv(n.mean(x, (2, 3), keep=True)), RIGHT),
    "something else": (lambda n, x: n.op("SIN", [x]), "it was not executed there"),
    "half numbers": (lambda n, x: n.op("CAST", [x], dtype="FLOAT16"), "it computes in FLOAT16"),
    "integers": (lambda n, x: n.op("QUANTIZE", [x], dtype="INT8"), "it computes in INT8"),
    **{name: (lambda n, x, name=name: n.op(name, [x]), "it gives wrong results there")
       for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "PRELU", "TRANSPOSE_CONV")},
    **{name: (lambda n, x, name=name: n.op(name, [x]), RIGHT) for name in (
        "ABS", "CEIL", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG", "RELU", "RELU6",
        "RESIZE_BILINEAR", "ROUND", "SQRT", "SQUARE", "TANH",
    )},
}  # fmt: skip


def test_each_operation_behind_the_stem_has_its_verdict():
    for case in ADDED:
        make, reason = ADDED[case]
        before, (*between, last), after = behind_stem(make)
        assert before[1][1] == "stem"
        # Kernels of integers make the mean wrong as well, and a convolution of other numbers is unverified itself.
        others = {"1x1 of integers": ["verified", "wrong"]}
        others |= dict.fromkeys(("half numbers", "integers"), ["unverified", "mean"])
        assert [verdict for _, verdict, _ in after] == others.get(case, ["verified", "mean"])
        wrong = reason is not None and ("wrong results" in reason)
        assert last[1:] == (("verified", "") if reason is None else ("wrong" if wrong else "unverified", reason))
        if "axes" not in case:
            assert all(verdict == "verified" for _, verdict, _ in between)
        else:
            assert between[0][1:] == ("unverified", MEANS)


def test_numbers_that_a_file_leaves_out_are_the_ones_of_the_format():
    """No options at all: strides and dilations of one, one filter for a channel, 'same' padding, no activation."""
    def middle(net, x):
        x = net.op("DEPTHWISE_CONV_2D", [x, net.tensor((1, 3, 3, 16))])
        return net.op("CONV_2D", [x, net.tensor((16, 1, 1, 16))])

    assert [verdict for _, verdict, _ in behind_stem(middle)[1]] == ["verified"] * 2
    assert behind_stem(lambda net, x: net.op("MEAN", [x, net.numbers((1, 2))], (1, 16)))[1] == [("MEAN", "mean", "")]
    (padding,) = behind_stem(lambda net, x: [net.mean(x), net.pad(x)])[1][1:]
    assert padding[1:] == ("unverified", OUTPUT)


def test_depthwise_strides_on_odd_sizes_are_unverified():
    for rows, columns, right in [(8, 8, True), (7, 8, False), (8, 7, False), (7, 7, False)]:
        for strides in ((1, 1), (2, 2)):
            def middle(net, x):
                x = net.op("RESIZE_BILINEAR", [x], (1, rows, columns, 16))
                return net.depthwise(net.pad(x), strides=strides, padding=VALID)

            found = behind_stem(middle)[1][-1]
            assert found[1:] == (("verified", "") if right or strides == (1, 1) else ("unverified", EVEN))


def test_padding_is_that_of_one_depthwise_convolution():
    why = ("unverified", "only padding of one depthwise convolution was executed")

    def twice(net, x):
        padded = net.pad(x)
        return [net.depthwise(padded, padding=VALID), net.mean(net.depthwise(padded, padding=VALID))]

    def another(net, x):
        return net.conv(net.pad(x))

    assert behind_stem(twice)[1][0][1:] == behind_stem(another)[1][0][1:] == why
    assert behind_stem(lambda net, x: net.depthwise(net.pad(x), padding=VALID))[1][0][1] == "verified"


def test_means_lead_out_of_what_runs_on_sparse_kernels():
    """Behind a mean over the image nothing is looked at; other means are operations as any other."""
    def head(net, x):
        return net.op("SIN", [net.mean(x)])

    assert behind_stem(head)[1] == [("MEAN", "mean", ""), ("SIN", "outside", "")]
    for axes in ((2, 1), (-3, -2), (-2, 1)):
        assert behind_stem(lambda net, x: net.mean(x, axes))[1] == [("MEAN", "mean", "")]
    for axes in ((1,), (2,), (3,), (1, 3), (2, 3), (1, 2, 3), (0, 1)):
        assert behind_stem(lambda net, x: net.mean(x, axes))[1] == [("MEAN", "unverified", MEANS)]
        assert behind_stem(lambda net, x: [net.mean(x), net.mean(x, axes, keep=True)])[1][1] == ("MEAN", "unverified", MEANS)
    computed = behind_stem(lambda net, x: net.op("MEAN", [x, net.op("RELU", [net.tensor((2,), "INT32")])], (1, 16)))[1]
    assert computed[1] == ("MEAN", "unverified", MEANS)
    flat = behind_stem(lambda net, x: net.mean(net.op("RELU", [x], (8, 8, 16)), (1, 2)))[1]
    assert flat[1] == ("MEAN", "unverified", MEANS)


def test_means_that_keep_their_axes_are_read_by_convolutions_alone():
    def gate(net, x):
        kept = net.mean(x, keep=True)
        return net.op("MUL", [net.conv(kept), net.conv(kept)])

    assert [verdict for _, verdict, _ in behind_stem(gate)[1]] == ["verified"] * 4

    def as_output(net, x):
        return [net.mean(x), net.mean(x, keep=True)]

    def read_by_both(net, x):
        kept = net.mean(x, keep=True)
        return net.op("ADD", [net.conv(kept), kept])

    def read_by_another(net, x):
        return net.conv(net.op("RELU", [net.mean(x, keep=True)]))

    assert behind_stem(as_output)[1][1][1:] == ("wrong", OUT_OF_PLACE)
    for make in (read_by_both, read_by_another):
        assert behind_stem(make)[1][0][1:] == ("wrong", OUT_OF_PLACE)


def test_outputs_and_ends_without_a_mean_are_unverified():
    def head(net, x):
        return [net.mean(x), net.op("RELU", [x])]

    def image(net, x):
        return [net.mean(x), net.blocks(x, 2)]

    def unread(net, x):
        net.op("RELU", [x])
        return net.mean(x)

    assert behind_stem(head)[1][1] == ("RELU", "unverified", OUTPUT) and behind_stem(image)[1][1][1:] == ("verified", "")
    assert behind_stem(unread)[1][0] == ("RELU", "unverified", ENDLESS)
    net = Image()
    found, _ = verdicts(net, net.stem())
    assert found[1] == ("CONV_2D", "unverified", OUTPUT)


def test_quantized_kernels_beside_float_reductions_of_images():
    """XNNPACK counts the zeros of 1x1 kernels there, and knows no 8 bits."""
    for kernel in ["fully connected", "1x1", "1x3", "3x1", "half", "float", "half 1x1"]:
        for name in ["MEAN", "SUM", "DEPTH_TO_SPACE", "RELU", "of an input", "dequantized", "flat", "integers"]:
            net = Image()
            x = net.input((1, 8, 8, 16), "INT8" if name in ("dequantized", "integers") else "FLOAT32")
            dtype = {"half": "FLOAT16", "half 1x1": "FLOAT16", "float": "FLOAT32"}.get(kernel, "INT8")
            if kernel in ("fully connected", "half", "float"):
                other = net.op("FULLY_CONNECTED", [net.input((1, 4)), net.tensor((3, 4), dtype)], (1, 3))
            else:
                size = {"1x3": (1, 3), "3x1": (3, 1)}.get(kernel, (1, 1))
                other = net.conv(net.input((1, 8, 8, 4)), size=size, dtype=dtype)
            if name != "of an input":
                x = net.op("DEQUANTIZE", [x], dtype="FLOAT32") if name == "dequantized" else net.op("ABS", [x])
            if name == "flat":
                made = net.mean(net.op("RESHAPE", [x], (1, 64, 16)), (1,))
            else:
                made = net.op(name if name in ("SUM", "DEPTH_TO_SPACE", "RELU") else "MEAN", [x, net.numbers((1, 2))], (1, 16))
            found, has_stem = verdicts(net, made, other)
            is_wrong = kernel in ("fully connected", "1x1") and name in ("MEAN", "SUM", "DEPTH_TO_SPACE")
            assert not has_stem and all(op == (op[0], "outside", "") for op in found[:-1])
            wrong = ("wrong", "it computes in floating point beside quantized kernels")
            assert found[-1][1:] == (wrong if is_wrong else ("outside", ""))


@pytest.mark.parametrize("num, said", [(5, "#0, #1, #2, #3, #4"), (6, "#0, #1, #2, #3, #4 and 1 more")])
def test_reports_show_five_places_and_count_the_others(num, said):
    ops = [arm.OpVerdict("SIN", i, "unverified", "why") for i in range(num)]
    ops += [arm.OpVerdict("PRELU", num, "wrong", "bad"), arm.OpVerdict("RELU", num + 1, "outside")]
    report = arm.ArmReport(True, False, tuple(ops))
    (table,) = report.to_tables()
    cells = [[*column.cells] for column in table.columns]
    assert cells == [["SIN", "PRELU"], ["unverified", "wrong"], ["why", "bad"], [said, f"#{num}"]]
    assert table.caption == f"{num + 2} operations: {num} unverified, 1 wrong, 1 outside of the part that a sparse stem begins"
    assert table.title == "Sparse weights on ARM: not safe, with a sparse stem"
    assert (report.verdict, report.reason) == ("wrong", f"PRELU #{num}: bad")
    found = report.to_dict()
    assert found["ops"][num] == {"name": "PRELU", "index": num, "verdict": "wrong", "reason": "bad"}
    assert (found["stem_found"], found["eligible"], found["verdict"], found["reason"]) == (True, False, "wrong", report.reason)
    calm = arm.ArmReport(False, True, tuple(ops[-1:]))
    assert (calm.verdict, calm.reason) == ("safe", "") and [[*column.cells] for column in calm.to_tables()[0].columns] == [
        ["all of them"], ["safe"], ["nothing is in the way"], [""]
    ]
    assert calm.to_tables()[0].title == "Sparse weights on ARM: safe, without a sparse stem"
