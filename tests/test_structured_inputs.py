"""Subclassed models that take and give dicts, tuples and lists: the structure is that of their first call."""

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import export
from tf_reweight.graph.walking import input_structure, output_structure

# Zeros and penalties of a class of the user's own; see test_zeros_stay.
pytestmark = pytest.mark.filterwarnings("ignore:The (zeros|penalties) .* now, but will not be:UserWarning")
L = keras.layers
rng = np.random.default_rng(0)
U, V = (rng.normal(size=(64, width)).astype("float32") for width in (5, 4))
KINDS, SIZES = rng.integers(0, 3, 64), rng.normal(size=(64, 1)).astype("float32")
BRIEF = {"precisions": ["float32"], "latency_runs": 1, "representative": 16, "verify": 16, "pack": False}
# What goes in, and the two arrays of it that `call` uses.
TAKES = {
    "dict": ({"v": V, "u": U}, lambda x: (x["u"], x["v"])),
    "one key": ({"u": U}, lambda x: (x["u"], x["u"])),
    "nested": ({"z": {"u": U}, "a": V}, lambda x: (x["z"]["u"], x["a"])),
    "tuple": ((U, V), lambda x: x),
    "list of one": ([U], lambda x: (x[0], x[0])),
    "dict in a tuple": (({"u": U}, V), lambda x: (x[0]["u"], x[1])),
    "one array": (U, lambda x: (x, x)),
}
GIVES = {
    "one": (KINDS, lambda kinds, sizes: kinds + sizes),
    "dict": ({"size": SIZES, "kind": KINDS}, lambda kinds, sizes: {"size": sizes, "kind": kinds}),
}


@keras.saving.register_keras_serializable(package="test_structured_inputs")
class Net(keras.Model):
    def __init__(self, takes="dict", gives="one", **arguments):
        super().__init__(**arguments)
        self.takes, self.gives = takes, gives
        self.first, self.second = L.Dense(6), L.Dense(6)
        self.norm, self.kinds, self.sizes = L.BatchNormalization(), L.Dense(3), L.Dense(1)

    def get_config(self):
        return {**super().get_config(), "takes": self.takes, "gives": self.gives}

    def call(self, x, training=False):
        first, second = TAKES[self.takes][1](x)
        hidden = keras.ops.relu(self.norm(self.first(first) + self.second(second), training=training))
        return GIVES[self.gives][1](self.kinds(hidden), self.sizes(hidden))


def trained(takes, gives="one", eager=True):
    keras.utils.set_random_seed(0)
    model = Net(takes, gives)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", {"kind": loss, "size": "mse"} if gives == "dict" else loss, run_eagerly=eager)
    model.fit(TAKES[takes][0], GIVES[gives][0], verbose=0)
    return model, TAKES[takes][0], GIVES[gives][0]


@pytest.mark.parametrize("takes", TAKES)
def test_each_function_hands_on_the_structure(takes, tmp_path):
    """A tuple had been handed to every `call`, and the labels were blamed for its error."""
    model, x, y = trained(takes, "dict")
    # A model that is loaded has its structure from its file.
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    if keras.tree.is_nested(x):  # a model of one array may take others as well
        for one in (model, loaded):
            keras.tree.assert_same_structure(input_structure(one), keras.tree.lists_to_tuples(x))
    assert export.export_tflite(loaded, tmp_path / "a.tflite", verify_data=x).verification.relative_error < 1e-5
    # Examples with labels are told from inputs.
    record = export.export_tflite(model, tmp_path / "b.tflite", "int8", representative_data=(x, y))
    assert record.verification.num_examples == 64
    assert export.check_file(tmp_path / "b.tflite", agrees_with=model, data=(x, y)).passed
    assert tfr.refresh_statistics(model, x, y).num_examples == 48
    assert tfr.prune(model, "unstructured", sparsity=0.2, scope="layer", criterion="taylor", data=(x, y)).sparsity > 0.1


def test_names_in_the_file_are_the_keys(tmp_path):
    model, x, _ = trained("dict", "dict")
    export.export_tflite(model, tmp_path / "a.tflite", verify_data=x)
    runner = export.Runner(tmp_path / "a.tflite")
    assert set(runner.inputs) == {"u", "v"} and set(runner.outputs) == {"kind", "size"}
    outputs = dict(zip(runner.outputs, runner(x)))
    for name, expected in model(x).items():
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


def test_a_list_is_a_tuple(tmp_path):
    model, x, _ = trained("dict in a tuple")
    records = [export.export_tflite(model, tmp_path / "a.tflite", verify_data=given) for given in (x, list(x))]
    assert records[0].verification == records[1].verification and records[0].verification.relative_error < 1e-4


def test_an_unknown_key_is_named(tmp_path):
    model, x, _ = trained("dict")
    with pytest.raises(ValueError, match="Did you mean 'u'"):
        export.export_tflite(model, tmp_path / "a.tflite", verify_data={"uu": U, "v": V})


def test_several_arguments_and_calls_that_want_integers_say_nothing():
    class Several(keras.Model):
        def build(self, first_shape, second_shape):
            self.dense = L.Dense(2)
            self.dense.build(first_shape)

        def call(self, first, second):
            return self.dense(first + second)

    class Picky(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(2)

        def call(self, x):
            assert x["words"].dtype == "int32"
            return self.dense(keras.ops.one_hot(x["words"], 4))

    several, picky = Several(), Picky()
    several(U, U)
    picky({"words": np.zeros((2, 3), "int32")})
    assert input_structure(several) is None and output_structure(several) is None
    assert list(input_structure(picky)) == ["words"] and output_structure(picky) is None


def test_a_whole_run_takes_a_dict(tmp_path):
    model, x, y = trained("dict", "dict", eager=False)
    result = tfr.compress(
        model, train=(x, y), validation=(x, y), structure="unstructured", budget="weights=0.5", out=tmp_path / "run",
        epochs={"train": 0, "regularize": 6, "retrain": 1}, config={"train": {"batch_size": 4}, "export": BRIEF},
    )  # fmt: skip
    assert result.best_file.exists()
