"""Files: executed, compared, whole or not there at all; and what is said of them is what is in them."""

import os

import keras
import nets
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import data, export
from tf_reweight.data import models
from tf_reweight.export import conversion, recurrent, samples, verification
from tf_reweight.pruning.masked import Masked
from tf_reweight.pruning.prune import prune
from tf_reweight.tflite import flatbuffer
from tf_reweight.tflite.comparing import compare

L = keras.layers


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)
    model = models.build("small_cnn", digits.input_shape, digits.num_classes)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*digits.train, epochs=3, verbose=0)
    return model


@pytest.fixture
def small():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((6, 6, 2), name="pixels"), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(3)])


def inputs(num=16, shape=(6, 6, 2), seed=0):
    return np.random.default_rng(seed).normal(size=(num, *shape)).astype("float32")


@pytest.mark.parametrize("precision", export.PRECISIONS)
def test_every_precision_agrees_with_keras(trained, digits, precision, tmp_path):
    """The record's figures are those of an independent run of the file on disk."""
    path = tmp_path / "model.tflite"
    held_out = digits.validation[0]
    record = export.export_tflite(trained, path, precision, digits.representative(100), held_out)
    assert path.stat().st_size == record.num_bytes and record.gzip_bytes < record.num_bytes
    expected = np.asarray(trained(held_out))
    given = export.Runner(path)([held_out])[0]
    assert record.verification.max_abs_error >= np.abs(expected - given).max() - 1e-6
    assert record.verification.top1_agreement == np.mean(expected.argmax(-1) == given.argmax(-1))
    assert record.verification.top1_agreement >= (0.9 if precision.endswith("int4") else 0.97)
    assert record.verification.relative_error <= verification.TOLERANCES[precision]
    assert record.verification.num_examples == len(held_out)
    assert export.evaluate_tflite(path, *digits.test) == pytest.approx(
        np.mean(np.asarray(trained(digits.test[0])).argmax(-1) == digits.test[1]), abs=0.02
    )
    assert not list(tmp_path.glob(".*"))


def test_precisions_shrink_the_file_in_order(trained, digits, tmp_path):
    sizes = {}
    for precision in export.PRECISIONS:
        record = export.export_tflite(trained, tmp_path / f"{precision}.tflite", precision, digits.representative(50))
        sizes[precision] = record.num_bytes
    assert sizes["float32"] > 1.8 * sizes["float16"] > 1.5 * sizes["int8"]
    assert sizes["dynamic_int8"] < 0.4 * sizes["float32"]


@pytest.mark.parametrize("build", [nets.plain, nets.residual, nets.squeeze_excite, nets.dense_block, nets.unet, nets.grouped])
def test_float_files_of_every_kind_of_net(build, tmp_path):
    """In half precision; `test_shrinking` executes the files in float32 of all nets."""
    keras.utils.set_random_seed(0)
    record = export.export_tflite(build(), tmp_path / "a.tflite", "float16")
    assert record.verification.relative_error <= verification.TOLERANCES["float16"] and record.num_ops > 0


def test_zeros_in_the_file_are_those_of_the_model(trained, digits, tmp_path):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    prune(model, sparsity=0.8, structure="unstructured")
    kernels = [w.numpy() for w in model.weights if w.name == "kernel"]
    share = sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)
    exact = export.export_tflite(model, tmp_path / "a.tflite", "float32", verify_data=digits.validation[0])
    assert exact.sparsity == pytest.approx(share)
    # Rounding to int8 can make zeros of small weights, and unmakes none.
    rounded = export.export_tflite(model, tmp_path / "b.tflite", "int8", digits.representative(50))
    assert share <= rounded.sparsity < share + 0.02
    assert rounded.gzip_bytes < 0.6 * rounded.num_bytes


def test_a_masked_wrapper_is_baked_in(small, tmp_path):
    inner = L.Dense(3)
    inputs_ = keras.Input((5,))
    model = keras.Model(inputs_, Masked(inner)(inputs_))
    prune(model, sparsity=0.5, structure="unstructured")
    record = export.export_tflite(model, tmp_path / "a.tflite", "float32")
    assert record.sparsity == pytest.approx(7 / 15)


def test_names_of_inputs_and_outputs_and_batch_of_one(tmp_path):
    first, second = keras.Input((4,), name="left side"), keras.Input((3,), name="right")
    outputs = {"sum": L.Dense(2, name="a")(first), "product": L.Dense(5, name="b")(second)}
    model = keras.Model([first, second], outputs)
    export.export_tflite(model, tmp_path / "a.tflite", verify_data=[inputs(8, (4,)), inputs(8, (3,), 1)])
    runner = export.Runner(tmp_path / "a.tflite")
    assert set(runner.inputs) == {"left_side", "right"} and len(runner.outputs) == 2
    assert all(detail["shape"][0] == 1 for detail in runner.inputs.values())
    assert export.inspect_tflite(tmp_path / "a.tflite").signatures == ("serving_default",)
    # A dict of arrays goes by the order of the inputs, as Keras flattens it.
    assert {out.shape for out in runner([inputs(2, (4,)), inputs(2, (3,))])} == {(2, 2), (2, 5)}


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_names_in_a_file_are_short_and_its_own(trained, digits, precision, tmp_path):
    export.export_tflite(trained, tmp_path / "a.tflite", precision, digits.representative(50))
    graph = flatbuffer.parse((tmp_path / "a.tflite").read_bytes()).subgraphs[0]
    names = [tensor.name.decode() for tensor in graph.tensors]
    assert len(set(names)) == len(names) and not any(";" in name for name in names)
    kernels = {operator.inputs[1]: operator.outputs[0] for operator in graph.operators if len(operator.inputs) == 3}
    assert len(kernels) == 4
    for kernel, output in kernels.items():
        layers = {names[index].split("/")[1] for index in (kernel, output) if "/" in names[index]}
        assert len(layers) == 1, "kernels and what they compute are called after one layer"


def test_joined_names_without_a_first_part():
    schema = flatbuffer.schema()
    model = schema.ModelT(buffers=[schema.BufferT()], subgraphs=[schema.SubGraphT()])
    before = (b";x/y;z", b"x/y", b"x/y_1", b";", b"x/y;", None)
    model.subgraphs[0].tensors = [schema.TensorT(name=name, buffer=0) for name in before]
    flatbuffer.shorten_names(model)
    names = [tensor.name for tensor in model.subgraphs[0].tensors]
    assert names == [b"x/y_2", b"x/y", b"x/y_1", b"merged", b"x/y_3", None]


def test_quantized_io_takes_and_gives_int8(trained, digits, tmp_path):
    record = export.export_tflite(trained, tmp_path / "a.tflite", "int8", digits.representative(50), quantized_io=True)
    runner = export.Runner(tmp_path / "a.tflite")
    ends = [*runner.inputs.values(), *runner.outputs.values()]
    assert all(detail["dtype"] == np.int8 for detail in ends)
    assert record.verification.top1_agreement >= 0.95


def test_open_sizes_are_read_off_the_data(tmp_path):
    model = keras.Sequential([keras.Input((None, None, 2)), L.Conv2D(3, 3), L.GlobalAveragePooling2D(), L.Dense(2)])
    with pytest.raises(ValueError, match="inputs of one size"):
        export.export_tflite(model, tmp_path / "a.tflite")
    export.export_tflite(model, tmp_path / "a.tflite", verify_data=inputs(4, (7, 9, 2)))
    assert tuple(next(iter(export.Runner(tmp_path / "a.tflite").inputs.values()))["shape"]) == (1, 7, 9, 2)


@keras.saving.register_keras_serializable(package="test_export")
class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_subclassed_and_integer_inputs(tmp_path):
    model = Subclassed()
    model(inputs(2, (4,)))
    with pytest.raises(ValueError, match="must be known"):
        export.export_tflite(model, tmp_path / "a.tflite")
    export.export_tflite(model, tmp_path / "a.tflite", verify_data=inputs(8, (4,)))
    words = keras.Sequential([keras.Input((5,), dtype="int32"), L.Embedding(20, 4), L.Flatten(), L.Dense(2)])
    assert export.export_tflite(words, tmp_path / "b.tflite").verification.relative_error < 1e-4


def test_operations_left_in_float_are_named(tmp_path):
    model = keras.Sequential([keras.Input((8,)), L.Dense(8), L.Lambda(lambda x: keras.ops.sin(x) + x), L.Dense(3)])
    record = export.export_tflite(model, tmp_path / "a.tflite", "int8", inputs(64, (8,)), tolerance=0.5)
    assert "SIN" in record.float_ops
    quantized = keras.Sequential([keras.Input((8,)), L.Dense(8, activation="relu"), L.Dense(3)])
    assert export.export_tflite(quantized, tmp_path / "b.tflite", "int8", inputs(64, (8,))).float_ops == ()


# Refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"precision": "int4"}, "Valid: "),
        ({"precision": "int8"}, "needs `representative_data`"),
        ({"precision": "int8", "representative_data": inputs(4, (5, 6, 2))}, "must have the shape"),
        ({"precision": "int8", "representative_data": inputs(0)}, "must have the shape"),
        ({"precision": "int8", "representative_data": np.full((4, 6, 6, 2), np.nan)}, "must be finite"),
        ({"precision": "int8", "representative_data": np.full((4, 6, 6, 2), "a")}, "must hold numbers"),
        ({"precision": "int8", "representative_data": [inputs(4), inputs(4)]}, "one array per input"),
        ({"verify_data": inputs(4, (6, 6))}, "must have the shape"),
        ({"tolerance": 0}, "must be a number > 0"),
        ({"quantized_io": True}, "is for int8 and int16 files"),
        ({"classes": [True, False]}, "one bool for each output"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(small, arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        export.export_tflite(small, tmp_path / "a.tflite", **arguments)
    assert "Received: " in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("classes", ["no", True, [2], np.array([True])])
def test_classes_are_a_list_of_bools(small, classes, tmp_path):
    with pytest.raises(TypeError, match="`classes` must be bools, one for each output. Received: classes="):
        export.export_tflite(small, tmp_path / "a.tflite", classes=classes)


def test_bad_paths_and_models(small, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="end in .tflite"):
        export.export_tflite(small, tmp_path / "a.lite")
    with pytest.raises(FileNotFoundError, match="folder of `path` must exist"):
        export.export_tflite(small, tmp_path / "none" / "a.tflite")
    unbuilt = keras.Sequential([L.Dense(3)])
    with pytest.raises(ValueError, match="built"):
        export.export_tflite(unbuilt, tmp_path / "a.tflite")
    stateful = keras.Sequential([keras.Input(batch_shape=(1, 4, 3)), L.LSTM(4, stateful=True), L.Dense(2)])
    with pytest.raises(ValueError, match="stateful.*initial_state"):
        export.export_tflite(stateful, tmp_path / "a.tflite")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
        export.export_tflite(small, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["int8", "float8"])
@pytest.mark.parametrize("precision", ["float32", "int8", "weight_int8"])
def test_models_that_keras_has_quantized_are_refused_before_any_work(mode, precision, tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="d"), keras.layers.Dense(2)])
    for layer in model.layers:
        layer.quantize(mode)
    words = f"quantized by Keras.*Received: layers=.*'d': '{mode}'.*from before `model.quantize`"
    with pytest.raises(ValueError, match=words):
        export.export_tflite(model, tmp_path / "m.tflite", precision, representative_data=np.ones((4, 6), "float32"))
    assert not list(tmp_path.iterdir())


def test_models_too_large_for_a_file_are_refused_before_any_work(small, tmp_path, monkeypatch):
    from tf_reweight.export import tflite
    from tf_reweight.tflite import flatbuffer

    monkeypatch.setattr(flatbuffer, "LIMIT", 600)
    monkeypatch.setattr(tflite, "convert", lambda *arguments: pytest.fail("it was converted"))
    with pytest.raises(ValueError, match="smaller than 2 GiB"):
        export.export_tflite(small, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


@keras.saving.register_keras_serializable(package="test_export")
class Leaky(L.Layer):
    """A recurrent cell of one's own: state = 0.9 state + dense(x)."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.dense = L.Dense(units)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x, states, training=False):
        state = 0.9 * states[0] + self.dense(x)
        return state, [state]


def _nested():
    x = keras.Input((3, 3))
    return keras.Model(x, L.LSTM(3, return_sequences=True)(x), name="inner")


@pytest.mark.parametrize(
    "layers",
    [
        [lambda: L.LSTM(4)],
        [lambda: L.LSTM(4, unroll=True)],
        [lambda: L.GRU(4, reset_after=False)],
        [lambda: L.SimpleRNN(4, go_backwards=True)],
        [lambda: L.Bidirectional(L.GRU(4))],
        [lambda: L.Bidirectional(L.LSTM(4, return_sequences=True), merge_mode="sum"), lambda: L.GRU(3)],
        [lambda: L.TimeDistributed(L.Dense(4)), lambda: L.GRU(4, return_sequences=True), L.GlobalAveragePooling1D],
        [lambda: L.RNN(Leaky(4))],
        [lambda: L.RNN([L.LSTMCell(4), L.GRUCell(3)])],
        [_nested, L.Flatten],
        [lambda: L.Masking(0.0), lambda: L.GRU(4)],
        [lambda: L.Masking(0.0), lambda: L.Bidirectional(L.GRU(4, return_sequences=True)), lambda: L.LSTM(3)],
        [lambda: L.Masking(0.0), lambda: L.Bidirectional(L.LSTM(4, return_sequences=True)), L.GlobalAveragePooling1D],
        [lambda: L.Masking(0.0), lambda: L.Bidirectional(L.RNN(Leaky(4), return_sequences=True)), lambda: L.GRU(3)],
    ],
)
def test_recurrent_layers_are_exported_as_keras_makes_them(layers, tmp_path):
    """Their loops are written out in the file, and the model's own layers stay as they were."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3, 3)), *(make() for make in layers), L.Dense(2)])
    x = inputs(6, (3, 3))
    x[:2, 2:] = 0
    x[2:4, :1] = 0
    rolled = [layer.unroll for layer in recurrent.recurrent_layers(model)]
    before = model.predict(x, verbose=0)
    assert export.export_tflite(model, tmp_path / "a.tflite", verify_data=x).verification.relative_error < 1e-4
    np.testing.assert_allclose(export.Runner(tmp_path / "a.tflite")([x])[0], before, atol=1e-5)
    assert [layer.unroll for layer in recurrent.recurrent_layers(model)] == rolled


def test_sequences_of_open_length_take_that_of_the_data(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), L.GRU(4), L.Dense(2)])
    with pytest.raises(ValueError, match="inputs of one size"):
        export.export_tflite(model, tmp_path / "a.tflite")
    assert export.export_tflite(model, tmp_path / "a.tflite", verify_data=inputs(4, (7, 3))).verification.relative_error < 1e-4


@pytest.mark.parametrize(
    "policy, precision",
    [("mixed_float16", "float32"), ("float16", "float32"), ("mixed_bfloat16", "float32"), ("mixed_float16", "int8")],
)
def test_half_precision_models_are_exported_as_their_float32_copy(policy, precision, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        model = nets.randomize(nets.residual())
    finally:
        keras.config.set_dtype_policy("float32")
    batch = [np.random.default_rng(0).normal(size=(16, *x.shape[1:])).astype("float32") for x in model.inputs]
    record = export.export_tflite(model, tmp_path / "a.tflite", precision, batch)
    assert record.verification.relative_error < (1e-5 if precision == "float32" else 0.2)
    half = np.asarray(keras.ops.cast(model(batch[0]), "float32"))
    (found,) = export.Runner((tmp_path / "a.tflite").read_bytes())(batch)
    assert np.abs(found - half).max() < (0.05 if precision == "float32" else 0.2) * np.abs(half).max()


def test_a_half_precision_model_that_cannot_be_made_anew_is_refused(tmp_path):
    class Hidden(keras.Model):
        def __init__(self):
            super().__init__(dtype="mixed_float16")
            self.dense = L.Dense(3, dtype="mixed_float16")

        def call(self, x):
            return self.dense(x)

    hidden = Hidden()
    hidden(inputs(2, (4,)))
    with pytest.raises(ValueError, match="rebuilt in float32.*Received: .*policy float32"):
        export.export_tflite(hidden, tmp_path / "a.tflite", verify_data=inputs(2, (4,)))
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_not_kept(small, tmp_path, monkeypatch):
    """The verifier must notice a file of another model, and of one with NaN in it."""
    from tf_reweight.export import tflite

    other = keras.models.clone_model(small)
    convert = tflite.convert
    monkeypatch.setattr(tflite, "convert", lambda model, *rest: convert(other, *rest))
    with pytest.raises(export.VerificationError, match="must compute what the model does"):
        export.export_tflite(small, tmp_path / "a.tflite")
    broken = keras.models.clone_model(small)
    broken.layers[-1].bias.assign([np.nan, 0, 0])
    monkeypatch.setattr(tflite, "convert", lambda model, *rest: convert(broken, *rest))
    with pytest.raises(export.VerificationError, match="relative_error=inf"):
        export.export_tflite(small, tmp_path / "a.tflite")
    monkeypatch.setattr(tflite, "convert", lambda model, *rest: convert(model, *rest)[:-200] + b"\0" * 200)
    with pytest.raises((export.VerificationError, ValueError)):
        export.export_tflite(small, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


def test_a_tight_tolerance_refuses_int8(trained, digits, tmp_path):
    with pytest.raises(export.VerificationError, match="export.tolerance in a config"):
        export.export_tflite(trained, tmp_path / "a.tflite", "int8", digits.representative(20), tolerance=1e-6)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(small, tmp_path, monkeypatch):
    path = tmp_path / "a.tflite"
    export.export_tflite(small, path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    small.layers[-1].bias.assign([1.0, 2.0, 3.0])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export.export_tflite(small, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.tflite"]


def test_a_read_only_folder_is_refused_before_any_work(small, tmp_path, monkeypatch):
    # Root may write everywhere, so the answer is the system's only for others.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(OSError, match="writable folder"):
        export.export_tflite(small, tmp_path / "a.tflite")


# Looking ---------------------------------------------------------------------------------------------------------------


def test_inspection_counts_what_is_there(trained, digits, tmp_path):
    export.export_tflite(trained, tmp_path / "a.tflite", "int8", digits.representative(50))
    summary = export.inspect_tflite(tmp_path / "a.tflite")
    shapes = sorted(kernel.num_weights for kernel in summary.kernels)
    assert shapes == sorted(int(np.prod(w.shape)) for w in trained.weights if w.name == "kernel")
    assert summary.ops["CONV_2D"] == 2 and summary.ops["FULLY_CONNECTED"] == 2 and summary.num_ops == sum(summary.ops.values())
    assert all(kernel.dtype == "INT8" for kernel in summary.kernels)
    assert summary.to_dict()["sparsity"] == summary.sparsity and len(summary.to_tables()) == 3


def test_foreign_and_cut_files_are_refused(small, tmp_path):
    export.export_tflite(small, tmp_path / "a.tflite")
    content = (tmp_path / "a.tflite").read_bytes()
    (tmp_path / "foreign.tflite").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "empty.tflite").write_bytes(b"")
    (tmp_path / "cut.tflite").write_bytes(content[: len(content) // 8])
    for name in ("foreign", "empty", "cut"):
        for look in (export.inspect_tflite, export.Runner, lambda path: export.benchmark([path])):
            with pytest.raises(ValueError, match="Received: "):
                look(tmp_path / f"{name}.tflite")
    with pytest.raises(FileNotFoundError):
        export.inspect_tflite(tmp_path / "none.tflite")


def test_running_refuses_what_does_not_fit(small, tmp_path):
    export.export_tflite(small, tmp_path / "a.tflite")
    with pytest.raises(ValueError, match="one at a time"):
        export.Runner(tmp_path / "a.tflite")([inputs(4, (5, 5, 2))])
    runner, x = export.Runner(tmp_path / "a.tflite"), inputs(4)
    for given in ({"other": x}, [x, x], []):
        with pytest.raises(ValueError, match="Pass one array for each"):
            runner(given)
    np.testing.assert_array_equal(runner(x)[0], runner([x])[0])
    with pytest.raises(ValueError, match="as many inputs as labels"):
        export.evaluate_tflite(tmp_path / "a.tflite", inputs(4), np.zeros(3))


def test_names_become_identifiers():
    assert samples.identifiers(["a", "a b", "a_b", "1x", ""]) == ["a", "a_b", "a_b_", "tensor_1x", "tensor_"]


@pytest.mark.parametrize("name", ["1abc", "日本", "..", "%s{}", "class", "_a", "self"])
def test_every_name_of_an_input_becomes_one_that_a_signature_takes(name, tmp_path):
    """TensorFlow's words about arguments of a SavedModel were the answer."""
    inputs = keras.Input((6,), name=name)
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    assert export.export_tflite(model, tmp_path / "a.tflite").num_bytes


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_kernels_are_told_by_the_operation_that_computes_with_them(precision, tmp_path):
    """Of float16 files every kernel was used by DEQUANTIZE, which says nothing."""
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32")
    export.export_tflite(model, tmp_path / "a.tflite", precision, *([x] if precision == "int8" else []))
    kernels = export.inspect_tflite(tmp_path / "a.tflite").kernels
    assert sorted(kernel.used_by for kernel in kernels) == ["CONV_2D", "FULLY_CONNECTED"]


def test_names_that_differ_in_the_size_of_letters_alone_are_two(tmp_path):
    inputs = [keras.Input((6,), name="a"), keras.Input((6,), name="A")]
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Subtract()(inputs)))
    assert export.export_tflite(model, tmp_path / "a.tflite").verification.relative_error < 1e-4


def lookups():
    return [
        (keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot"), "string"),
        (keras.layers.IntegerLookup(vocabulary=[4, 7], output_mode="one_hot"), "int64"),
        (keras.layers.Hashing(4, output_mode="one_hot"), "int64"),
    ]


@pytest.mark.parametrize("number", range(3))
def test_lookups_are_refused_by_name(number, tmp_path):
    """TensorFlow's words about an untracked resource were the answer."""
    layer, dtype = lookups()[number]
    inputs = keras.Input((1,), dtype=dtype)
    model = keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))
    for refused in (lambda: export.export_tflite(model, tmp_path / "a.tflite"), lambda: tfr.quantize(model)):
        with pytest.raises(ValueError, match=f"No layer may look up or hash.*layers=\\['{layer.name}'\\].*keras.Model"):
            refused()
    assert not list(tmp_path.iterdir())


def test_outputs_without_a_batch_axis_are_refused(tmp_path):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.ops.sum(keras.layers.Dense(3)(inputs)))
    with pytest.raises(ValueError, match="Outputs must have a batch axis"):
        export.export_tflite(model, tmp_path / "a.tflite")


def test_examples_that_are_one_and_the_same_are_doubted(tmp_path):
    """On zeros a file was measured and compared, and kept without a word: it gave half of the classes right."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
    same, unlike = np.ones((64, 6), "float32"), np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    for given, held, named in ((same, None, "representative_data and"), (same, unlike, "in representative_data are"),
                               (unlike, same, "in verify_data are"), (unlike, None, None)):  # fmt: skip
        record = export.export_tflite(model, tmp_path / "a.tflite", "int8", given, held, tolerance=9.0)
        told = [doubt for doubt in record.verification.doubts if "are one and the same" in doubt]
        assert len(told) == (named is not None) and all(named in doubt for doubt in told)


def test_a_file_without_a_kernel_in_the_bits_asked_for_says_so(tmp_path):
    """A file of "dynamic_int8" was the float32 file, byte for byte nearly, and only a list of kernels told."""
    small = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    large = keras.Sequential([keras.Input((6,)), keras.layers.Dense(400), keras.layers.Dense(3)])
    for model, told in ((small, True), (large, False)):
        record = export.export_tflite(model, tmp_path / "a.tflite", "dynamic_int8")
        assert any("No kernel has the bits of dynamic_int8" in doubt for doubt in record.verification.doubts) == told


@pytest.mark.parametrize("head", (False, True))
@pytest.mark.parametrize("rank", (1, 2, 3))
def test_a_precision_is_advised_where_it_takes_the_kernels(tmp_path, rank, head):
    """A small Conv3D was told to try "weight_int8", which refused it."""
    conv = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[rank]
    model = keras.Sequential([keras.Input((*[6] * rank, 2)), conv(4, 3), keras.layers.Flatten()])
    if head:
        model.add(keras.layers.Dense(1))
    doubts = export.export_tflite(model, tmp_path / "a.tflite", "dynamic_int8").verification.doubts
    (told,) = [doubt for doubt in doubts if "No kernel has the bits" in doubt]
    assert ('"weight_int8"' in told) == (rank < 3 or head)
    if rank < 3 or head:
        export.export_tflite(model, tmp_path / "b.tflite", "weight_int8")


def test_comparison_against_a_plain_loop():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    largest, relative = compare([first], [second])
    errors = [first[i, j] - second[i, j] for i in range(5) for j in range(3)]
    assert largest == pytest.approx(max(map(abs, errors)))
    assert relative == pytest.approx((sum(e * e for e in errors) / sum(x * x for x in first.ravel())) ** 0.5)
    assert compare([first], [first]) == (0.0, 0.0)
    assert compare([first], [second[:4]])[1] == np.inf


def test_the_second_step_is_repeated_while_it_leaves_a_split_in_floats(tmp_path):
    """Of the same calibrated LSTM the converter makes one of two files, by chance."""
    inputs = keras.Input((8,))
    first, second = keras.ops.split(keras.layers.Dense(8)(inputs), 2, axis=-1)
    model = keras.Model(inputs, keras.layers.Dense(2)(first * keras.ops.sigmoid(second)))
    x = np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
    files = []
    for precision in ("float32", "int8"):
        export.export_tflite(model, tmp_path / "a.tflite", precision, *[x] if precision == "int8" else [])
        files.append((tmp_path / "a.tflite").read_bytes())
    in_floats, in_integers = files
    for made, expected, num in (
        ([in_integers], in_integers, 1), ([in_floats, in_floats, in_integers], in_integers, 3), ([in_floats] * 9, in_floats, 6),
    ):  # fmt: skip
        calls = []
        step = lambda *given: calls.append(given) or made[len(calls) - 1]  # noqa: B023, E731
        assert conversion._in_integers(step, "folder", {}, None) == expected and calls == [("folder", {}, None)] * num
