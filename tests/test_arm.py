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


def test_a_net_on_the_list_is_packed():
    for precision in ("float32", "float16"):
        content = zeroed(content_of(mobile(full=precision == "float32"), precision))
        report = arm.arm_eligibility(content)
        assert (report.stem_found, report.eligible, report.reason) == (True, True, "")
        verdicts = [op.verdict for op in report.ops]
        assert verdicts.count("stem") == verdicts.count("mean") == 1 and "not verified" not in verdicts
        assert pack.pack(content).num_packed >= 2


@pytest.mark.parametrize("case", WRONG_ON_ARM)
def test_nets_that_arm_would_compute_wrongly_stay_dense(case):
    content = zeroed(content_of(WRONG_ON_ARM[case](), "float32"))
    report = arm.arm_eligibility(content)
    assert report.stem_found and not report.eligible
    assert case.split()[0] in [op.name for op in report.ops if op.verdict == "not verified"]
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
