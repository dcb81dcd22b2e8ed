"""Files made by litert-quantizer are packed as those of the converter are: to the last bit."""

import keras
import numpy as np
import pytest
from litert_quantizer import qtyping, quantizer, recipe
from packed_nets import NETS, content_of, converted, kernels, ops_of, sequential, zeroed
from test_arm import mobile
from test_emulation import emulated

from tf_reweight.export import litert_quantizer, mixed
from tf_reweight.packing import arm, equivalence, pack
from tf_reweight.tflite import emulation, litert

pytestmark = [
    # Its calibration asks LiteRT for all tensors, and the bias of a filter without weights has no scale it can express.
    pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning"),
]
L = keras.layers
_EVERY = qtyping.TFLOperationName.ALL_SUPPORTED


def requantized(content, how):
    """A float32 file with its weights in int8 or int4, and integers throughout where `how` begins with "static"."""
    work, calibration = quantizer.Quantizer(bytearray(content)), None
    if how.startswith("static"):
        work.load_quantization_recipe(recipe.static_wi8_ai8() if how == "static int8" else recipe.static_wi8_ai16())
        signature = next(iter(litert.load(content, False).get_signature_list()))
        details = litert.load(content, False).get_signature_runner(signature).get_input_details()
        rng = np.random.default_rng(0)
        examples = [{name: rng.normal(size=d["shape"]).astype("float32") for name, d in details.items()} for _ in range(4)]
        calibration = work.calibrate({signature: examples})
    else:
        kind, bits = how.split(" int")
        (work.add_weight_only_config if kind == "weight" else work.add_dynamic_config)(".*", _EVERY, int(bits))
    return bytes(work.quantize(calibration, enable_progress_bar=False, enable_progress_report=False).quantized_model)


@pytest.mark.parametrize("how", ["weight int8", "weight int4", "dynamic int8", "static int8", "static int16"])
@pytest.mark.parametrize("kind", NETS)
def test_packed_to_the_last_bit(kind, how):
    content = requantized(zeroed(converted(kind, "float32"), fraction=0.9), how)
    result = pack.pack(content)
    equivalence.check_same(content, result.content)
    assert len(result.content) <= len(content) and ops_of(result.content).count("DENSIFY") == result.num_packed
    before, after = kernels(content), kernels(result.content)
    assert all(after[name].tobytes() == values.tobytes() for name, values in before.items())
    if how in ("weight int8", "static int8"):
        assert result.num_packed == len(result.tensors)
    assert all(tensor.reason for tensor in result.tensors if tensor.decision == "left")


def test_int8_weights_of_a_net_that_computes_in_float():
    """Eligible for sparse kernels on ARM as the float32 file is: int8, DENSIFY, DEQUANTIZE, convolution."""
    content = requantized(zeroed(content_of(mobile(full=True), "float32"), fraction=0.9), "weight int8")
    report = arm.arm_eligibility(content)
    assert report.stem_found and report.eligible
    result = pack.pack(content)
    assert result.num_packed == len(result.tensors) == 8
    names = ops_of(result.content)
    assert [names[i + 1] for i, name in enumerate(names) if name == "DENSIFY"] == ["DEQUANTIZE"] * 8
    assert len(result.content) < 0.7 * len(content)
    equivalence.check_same(content, result.content)


def test_int8_weights_beside_a_reader_of_weights_outside_of_the_delegate_are_left():
    """LiteRT gives garbage there, packed as that reader's weights are or not; other operations outside do no harm."""
    small = L.Conv2DTranspose(16, 1, strides=2, padding="same")
    for layers, packed in (
        ((L.Conv2D(32, 1), small, L.Conv2D(32, 1)), 0),
        ((L.Conv2DTranspose(16, 2, strides=2, padding="same"), L.Conv2D(32, 1), small), 0),
        ((L.Conv2D(32, 1), L.Lambda(keras.ops.sin), L.Conv2D(32, 1)), 2),
    ):
        dense = zeroed(content_of(sequential((6, 6, 16), *layers), "float32"), fraction=0.9)
        content = requantized(dense, "weight int8")
        result = pack.pack(content)
        equivalence.check_same(content, result.content)
        assert result.num_packed == packed
        assert packed or any("TRANSPOSE_CONV" in tensor.reason for tensor in result.tensors)


def _half_beside_int8():
    """A file with float16 kernels before and behind an int8 convolution, all dequantized where they are used."""
    layers = (L.Conv2D(24, 3, activation="relu"), L.Conv2D(32, 3, activation="relu"), L.Flatten(), L.Dense(10))
    content = zeroed(content_of(sequential((8, 8, 8), *layers), "float32"), fraction=0.9)
    outputs = [output for _, output, _ in mixed.kernels(content)]
    return litert_quantizer.requantize(content, dict(zip(outputs, ("float16", "weight_int8", "float16"))))


def test_half_precision_beside_a_convolution_of_dequantized_int8_is_left():
    content = _half_beside_int8()
    result = pack.pack(content)
    equivalence.check_same(content, result.content)
    assert result.num_packed == 1
    assert ["CONV_2D #3" in tensor.reason for tensor in result.tensors if tensor.decision == "left"] == [True, True]


@emulated
def test_half_precision_beside_int8_would_be_wrong_on_arm(monkeypatch):
    content, emulator = _half_beside_int8(), emulation.Emulator()
    equivalence.check_same(content, pack.pack(content).content, emulator=emulator)
    monkeypatch.setattr(pack, "_breaks_unpacking", lambda graph, dtype: "")
    with pytest.raises(Exception, match="with the default delegate on an emulated ARM machine"):
        equivalence.check_same(content, pack.pack(content).content, emulator=emulator)


@emulated
def test_int8_weights_run_on_sparse_kernels_on_arm():
    content = requantized(zeroed(content_of(mobile(full=True), "float32"), fraction=0.9), "weight int8")
    packed = pack.pack(content).content
    emulator = emulation.Emulator()
    equivalence.check_same(content, packed, reordered=True, emulator=emulator)
    with pytest.raises(Exception, match="with the default delegate on an emulated ARM machine"):
        # Another order of sums is the trace that sparse kernels leave.
        equivalence.check_same(content, packed, emulator=emulator)
