"""The ARM rule: floating-point kernels are packed only where phones compute the same."""

import keras
import pytest
from packed_nets import content_of, sequential, zeroed

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
