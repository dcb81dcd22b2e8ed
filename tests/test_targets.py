"""The table of kernels: every kind is found, reads in standard order, and what is left out has a reason."""

import keras
import numpy as np
import pytest
from keras import ops
from tables import KERNEL_KINDS, STRUCTURES, random_kernel

from tf_reweight import structures
from tf_reweight.kernels import selection
from tf_reweight.kernels.layout import Layout
from tf_reweight.kernels.table import find, output_paths, register
from tf_reweight.penalties.reweighted import Reweighted

L = keras.layers
kinds = pytest.mark.parametrize("kind", KERNEL_KINDS)


@kinds
def test_every_kernel_is_found_in_standard_shape(kind):
    build, expected = KERNEL_KINDS[kind]
    found, left_out = find(build())
    assert [target.standard_shape for target in found] == expected
    assert left_out == []


@kinds
def test_layout_round_trip(kind):
    found = find(KERNEL_KINDS[kind][0]())[0]
    assert found
    for target in found:
        kernel = random_kernel(target.layout.shape)
        back = target.layout.from_standard(target.layout.to_standard(kernel))
        np.testing.assert_array_equal(ops.convert_to_numpy(back), kernel)
        assert Layout.from_config(target.layout.get_config()) == target.layout


def test_filters_are_outputs_whatever_the_layer_stores():
    """Zeroing one filter in standard order silences exactly one output channel (transposed, depthwise, einsum)."""
    for kind in ("conv2d_transpose", "depthwise2d", "conv2d groups", "einsum_dense", "dense", "conv1d"):
        model = KERNEL_KINDS[kind][0]()
        (target,) = find(model)[0]
        standard = ops.convert_to_numpy(target.standard_kernel()).copy()
        standard[..., 1] = 0.0
        target.variable.assign(target.layout.from_standard(standard))
        x = random_kernel((2, *model.input_shape[1:]))
        silent = np.abs(model.predict_on_batch(x)).reshape(-1, standard.shape[-1]).max(axis=0) == 0
        np.testing.assert_array_equal(silent, np.arange(standard.shape[-1]) == 1, err_msg=kind)


def test_a_shared_layer_appears_once_and_nested_models_are_walked():
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4, name="inside")], name="block")
    shared = L.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(2, name="head")(shared(inner(shared(inputs)))))
    assert [target.name for target in find(model)[0]] == ["shared/kernel", "block/inside/kernel", "head/kernel"]
    assert output_paths(model) == {"head"}


def test_subclassed_models_are_walked():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.top = L.Dense(5, name="hidden"), L.Dense(2, name="top")

        def call(self, x):
            return self.top(self.hidden(x))

    model = Net()
    model(np.zeros((1, 3), "float32"))
    assert [target.name for target in find(model)[0]] == ["hidden/kernel", "top/kernel"]
    assert output_paths(model) == {"top"}


def test_what_cannot_be_pruned_is_left_out_with_a_reason():
    class Odd(L.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 3))

        def call(self, x):
            return x @ self.matrix

    dense, integers = L.Dense(4, name="lora"), L.Dense(5, name="integers")
    spectral = L.SpectralNormalization(L.Dense(4, name="sn"))
    model = keras.Sequential([keras.Input((6,)), integers, dense, spectral, Odd(name="odd")])
    dense.enable_lora(2)
    integers.quantize("int8")
    found, left_out = find(model)
    reasons = {item.name: item.reason for item in left_out}
    assert not found
    assert "LoRA" in reasons["lora/kernel"]
    assert "SpectralNormalization" in reasons["spectral_normalization/sn/kernel"]
    assert "register" in reasons["odd"]
    assert "already quantized (int8)" in reasons["integers/kernel"]


def test_depthwise_kernels_are_left_out_of_channel_pruning_by_name():
    selected, left_out = selection.select(KERNEL_KINDS["separable2d"][0](), "channel")
    assert [item.target.attribute for item in selected] == ["pointwise_kernel"]
    with pytest.raises(ValueError, match="single input channel"):
        selection.select(KERNEL_KINDS["depthwise2d"][0](), "channel", L.DepthwiseConv2D)
    (item,) = left_out
    assert item.name.endswith("depthwise_kernel") and "single input channel" in item.reason


def test_register_teaches_the_table():
    class Linear(L.Layer):
        def build(self, shape):
            self.weight = self.add_weight(shape=(3, shape[-1]))

        def call(self, x):
            return x @ ops.transpose(self.weight)

    register(Linear, "weight", axes=("out", "in"))
    model = keras.Sequential([keras.Input((5,)), Linear()])
    assert [target.standard_shape for target in find(model)[0]] == [(5, 3)]


def test_a_registered_kernel_has_no_axis_of_an_unknown_role():
    class Other(L.Layer):
        pass

    with pytest.raises(ValueError, match="`axes` may hold only"):
        register(Other, "weight", axes=("in", "output"))


def test_of_a_layer_with_several_kernels_the_last_one_makes_the_output():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, L.MultiHeadAttention(2, 3, name="attention")(inputs, inputs))
    assert output_paths(model) == {"attention/attention_output"}


@pytest.mark.parametrize("mode", ["concat", "sum", None])
def test_both_directions_make_the_output(mode):
    inputs = keras.Input((5, 3))
    layer = L.Bidirectional(L.LSTM(4), backward_layer=L.GRU(4, go_backwards=True, name="back"), merge_mode=mode, name="both")
    model = keras.Model(inputs, layer(L.Dense(6, name="before")(inputs)))
    assert output_paths(model) == {"both/forward_lstm/lstm_cell", "both/back/gru_cell"}
    selected, _ = selection.select(model, "filter")
    assert [item.target.name for item in selected] == ["before/kernel"]


def test_the_output_is_found_behind_activations():
    inputs = keras.Input((4,))
    hidden = L.Dense(4, name="hidden")(inputs)
    model = keras.Model(inputs, [L.Softmax()(L.Dense(3, name="a")(hidden)), L.Reshape((2, 1))(L.Dense(2, name="b")(hidden))])
    assert output_paths(model) == {"a", "b"}


def test_layers_that_other_models_call_too_are_no_outputs():
    """A model that was quantized calls layers of the one it came from, and all its kernels were said to make its outputs."""
    inputs = keras.Input((8,))
    middle = L.Dense(4, name="middle")(L.Dense(8, name="first")(inputs))
    pooled = L.Activation("relu", name="shared")
    first, other = keras.Model(inputs, L.Dense(2, name="old")(pooled(middle))), L.Dense(4, name="other")(inputs)
    second = keras.Model(inputs, pooled(other))
    assert output_paths(second) == {"other"} and output_paths(first) == {"old"}


def test_a_layer_before_a_quantized_output_is_no_output():
    model = two_layers()
    model.get_layer("top").quantize("int8")
    assert output_paths(model) == set()
    selected, left_out = selection.select(model, "filter")
    assert [item.target.path for item in selected] == ["conv"]
    assert [(item.name, item.reason[:24]) for item in left_out] == [("top/kernel", "already quantized (int8)")]


def two_layers():
    return keras.Sequential([keras.Input((8, 8, 2)), L.Conv2D(4, 3, name="conv"), L.Flatten(), L.Dense(3, name="top")])


@pytest.mark.parametrize(
    "layers, expected",
    [
        (None, ["conv"]),
        ("conv*", ["conv"]),
        ("top", ["top"]),
        (["conv", "top"], ["conv", "top"]),
        (L.Conv2D, ["conv"]),
        (lambda target: target.standard_shape[-1] == 4, ["conv"]),
        # What means layers of a kind does not name the output layer, which stays.
        ("*", ["conv"]),
        (L.Layer, ["conv"]),
        (lambda layer: True, ["conv"]),
    ],
)
def test_selection(layers, expected):
    selected, left_out = selection.select(two_layers(), "filter", layers)
    assert [item.target.path for item in selected] == expected
    assert len(selected) + len(left_out) == 2 and all(item.reason for item in left_out)


def test_the_output_layer_is_left_out_of_filter_pruning_by_name():
    _, left_out = selection.select(two_layers(), "filter")
    assert left_out[0].name == "top/kernel" and "output layer" in left_out[0].reason


def test_bad_selections_are_explained():
    model = two_layers()
    with pytest.raises(ValueError, match="Did you mean 'conv'"):
        selection.select(model, "filter", "cnv")
    with pytest.raises(ValueError, match="must be able to have the structure 'kernel'"):
        selection.select(model, "kernel", "top")
    with pytest.raises(ValueError, match="No kernel of the model can have the structure 'head'"):
        selection.select(model, "head")
    with pytest.raises(TypeError, match="must be None, a name"):
        selection.select(model, "filter", 3)
    with pytest.raises(TypeError, match="Keras 3 model"):
        find("model.keras")
    with pytest.raises(ValueError, match="must be built"):
        find(keras.Sequential([L.Dense(3)]))


def test_heads_are_read_from_the_layer():
    model = KERNEL_KINDS["grouped_attention"][0]()
    selected, _ = selection.select(model, "head")
    assert [(s.structure.num_heads, s.structure.axis) for s in selected] == [
        (4, "out"), (2, "out"), (2, "out"), (4, "in")
    ]  # fmt: skip


@kinds
def test_every_structure_on_every_kernel(kind):
    """Through the layer's own order: groups partition the kernel, a removed group is the zeros and nothing else, the penalty is
    the formula and keeps its structure through its config. What a kernel cannot have is named with a reason."""
    names = [*(structure for structure, _ in STRUCTURES.values()), structures.get("head")]
    model = KERNEL_KINDS[kind][0]()
    kernels = find(model)[0]
    assert kernels and any(fits(structure, target) for structure in names for target in kernels)
    for structure in names:
        # By predicate: the only layer of these models makes their output, which filter pruning leaves alone by default.
        try:
            selected, left_out = selection.select(model, structure, [t.layer for t in kernels if fits(structure, t)] or None)
        except ValueError as error:
            assert "can have the structure" in str(error)
            assert not any(fits(structure, target) for target in kernels)
            continue
        assert len(selected) + len(left_out) == len(kernels) and all(item.reason for item in left_out)
        for item in selected:
            check_kernel(item)


def fits(structure, target):
    return structure.fit(target.layout).misfit(target.standard_shape) is None


def check_kernel(item):
    structure, target = item.structure, item.target
    kernel = ops.convert_to_numpy(target.variable.value)
    norms = ops.convert_to_numpy(structure.group_norms(target.standard_kernel()))
    np.testing.assert_allclose(np.square(norms).sum(), np.square(kernel).sum(), rtol=1e-4)
    members = structure.num_members(target.standard_shape)
    assert members.sum() == kernel.size
    keep = np.ones(norms.shape, bool)
    keep[0, 0] = False
    mask = ops.convert_to_numpy(target.layout.from_standard(structure.mask(keep, target.standard_shape)))
    assert mask.shape == kernel.shape and (mask == 0).sum() == members[0, 0]
    penalty = Reweighted(structure, 0.5, "log_sum", layout=target.layout.get_config())
    penalty.update(kernel)
    weights = ops.convert_to_numpy(structure.penalty_weights(penalty.penalty, norms))
    expected = 0.5 * float(structure.surrogate(weights, norms))
    assert float(penalty(kernel)) == pytest.approx(expected, rel=1e-4) and expected > 0
    assert float(penalty(np.zeros_like(kernel))) == 0.0
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(penalty))
    assert again.structure == structure and again.get_config() == penalty.get_config()


def test_what_is_no_attention_has_no_heads():
    """A kernel of three axes outside of attention, and a wrapper without kernels, which makes no outputs with one."""
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, L.EinsumDense("abc,cde->abde", (5, 2, 3), name="apart")(inputs))
    (target,) = find(model)[0]
    assert target.layout.num_heads is None and target.standard_shape == (6, 6)
    wrapper = L.TimeDistributed(L.ReLU())
    wrapper.build((None, 5, 6))
    assert output_paths(wrapper) == set()
