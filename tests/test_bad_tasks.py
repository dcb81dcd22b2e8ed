"""What cannot be trained on is refused in three parts before any training; what breaks in training stops where it breaks."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_reweight as tfr
from tests import tasks
from tf_reweight import workflow
from tf_reweight.cli import main
from tf_reweight.data import feeds, raised
from tf_reweight.reports.progress import QUIET
from tf_reweight.workflow import class_weights, scoring
from tf_reweight.workflow.finite import Finite
from tf_reweight.workflow.task import Task

X, Y = np.zeros((8, 8, 8, 1), "float32"), np.zeros((8, 2), "float32")
KINDS = {make.__name__: make()[0] for make in tasks.KINDS}


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(4)


def with_nan():
    x = X.copy()
    x[3, 0, 0, 0] = np.nan
    return x


class Late(keras.utils.PyDataset):
    """Batches, and a length that need not be theirs."""

    def __init__(self, batches, length=None):
        super().__init__()
        self.batches, self.length = batches, length

    def __len__(self):
        return len(self.batches) if self.length is None else self.length

    def __getitem__(self, index):
        return self.batches[index]


WEIGHTS = {"config": {"train": {"class_weight": {0: 1.0, 1: 2.0}}}}
WEIGHT_OF_9 = {"config": {"train": {"class_weight": {9: 1.0}}}}
WEIGHTED = (X, Y, np.ones((8, 3), "float32"))


def second(labels):
    """A source whose second batch has these labels."""
    return lambda: iter([(X[:4], Y[:4]), (X[4:], labels)])


BAD = [
    ("regression", second(np.array(["a"] * 4)), {}, "labels of `train` must be alike.*batch=2, labels='text of 1 dimensions'"),
    ("regression", second(np.zeros((4, 2, 1))), {}, "must be alike.*labels='numbers of 3 dim.*of_the_first='numbers of 2 dim"),
    ("regression", WEIGHTED, {}, r"sample_weight=\(\d+, 3\).*Sample weights are one number for each example"),
    ("regression", (X[:0], Y[:0]), {}, "at least one example"),
    ("regression", dataset(X, Y).take(0), {}, "`train` must yield at least one batch"),
    ("regression", iter([(X, Y)]), {}, "`train` must be read in every epoch, and a generator ends"),
    ("regression", lambda: iter([]), {}, "`train` must yield at least one batch"),
    ("regression", dataset(X, Y).repeat(), {}, "`train` must have an end, or a number of steps"),
    ("regression", None, {"validation": (X, Y)}, "have their own splits"),
    ("regression", "digits", {}, "`train` must hold examples"),
    ("regression", (tf.ragged.constant([[1.0, 2.0], [3.0]]), Y[:2]), {}, "numbers, or of text.*RaggedTensor.*Pad sequences"),
    ("regression", (np.array([[1, None]] * 8, object), Y), {}, "numbers, or of text.*item=1.*astype"),
    ("regression", (np.array(["a", None] * 4, object), Y), {}, "numbers, or of text.*item=None.*Fill in what is missing"),
    ("regression", (np.array(["a", np.nan] * 4, object), Y), {}, "numbers, or of text.*item=nan.*Fill in what is missing"),
    ("regression", (X, Y[:5]), {}, "arrays of one length"),
    ("regression", (with_nan(), Y), {}, r"`train` must be finite \(no NaN, no infinity\), in its x. Received: example=3"),
    ("regression", (X, np.full_like(Y, np.inf)), {}, "in its y"),
    ("regression", (X, Y), {"validation": (with_nan(), Y)}, "`validation` must be finite"),
    ("regression", (X, Y, -np.ones(8)), {}, "One of the sample weights of `train` at least must be above zero"),
    ("regression", lambda: iter([(X, Y), (X[:, :7], Y)]), {}, "take the data's inputs.*split='train', batch=2"),
    ("regression", lambda: iter([(X, Y), (with_nan(), Y)]), {}, "`train` must be finite.*batch=2, example=3"),
    ("regression", (X[:, :7], Y), {}, "The model must take the data's inputs"),
    ("regression", (X, Y[:, :1]), {}, r"output 'out' in `train` must have the shape \('batch', 2\)"),
    ("regression", (X, Y), {"test": (X, Y[:, :1])}, "output 'out' in `test` must have the shape"),
    ("regression", (X,), {}, "`train` must hold labels"),
    ("integer_labels", (X, np.eye(3)[np.zeros(8, int)]), {}, "must be integers, not one-hot.*argmax"),
    ("integer_labels", (X, np.full(8, 3)), {}, r"must be in 0..2, the model's outputs"),
    ("integer_labels", lambda: iter([(X, np.full(8, i)) for i in (0, 1, 7, 2)]), {}, r"must be in 0..2.*highest=7"),
    ("integer_labels", Late([(X, np.full(8, i)) for i in (0, 1, -1, 2)]), {}, r"must be in 0..2.*lowest=-1"),
    ("regression", Late([], length=-3), {}, "`train` must yield batches; .*__len__"),
    ("regression", Late([], length=2.5), {}, "`train` must yield batches; .*float"),
    ("integer_labels", lambda: iter([(X, np.full(8, i)) for i in (0.0, 1.0, 0.5, 2.0)]), {}, "must be whole numbers"),
    ("integer_labels", Late([(X, np.zeros(8, "uint8")), (X, np.full(8, 258))]), {}, r"must be in 0..2.*highest=258"),
    ("regression", (X.astype(str), Y), {}, r"`train` must hold numbers for 'image', and not text.*astype"),
    ("regression", (X.astype(str).astype(object), Y), {}, "must hold numbers for 'image', and not text"),
    ("regression", dataset(X.astype(str), Y), {}, "must hold numbers for 'image', and not text"),
    ("integer_labels", (X, np.full(8, 0.5)), {}, "must be whole numbers"),
    ("one_hot", (X, np.zeros(8, "int32")), {}, "must be one-hot, not integers.*to_categorical"),
    ("one_sigmoid", (X, np.full(8, 2.0)), {}, r"must be in 0..1"),
    ("two_outputs", (X, {"boxes": np.zeros((8, 4))}), {}, "must hold labels for each output"),
    ("two_outputs", (X, {"boxs": np.zeros((8, 4)), "kind": np.zeros(8, int)}), {}, "Did you mean 'boxes'"),
    ("two_outputs", (X, np.zeros((8, 4))), {}, "must hold labels for each output, 2.*None for an output without loss"),
    ("two_outputs", (X, [np.zeros((8, 4)), None]), {}, r"must hold labels .*Received: labels=.'boxes'.. Add 'kind'\."),
    ("two_outputs", (X, {"kind": np.zeros(8, int), "boxes": None}), {}, r"Received: labels=.'kind'.. Add 'boxes'\."),
    ("segmentation", (X, np.zeros((8, 4, 4), int)), {}, "must have the shape"),
    ("integer_labels", (X, np.zeros(8, int), np.ones(8)), WEIGHTS, "cannot stand beside weights of the examples"),
    ("two_outputs", (X, {"boxes": np.zeros((8, 4)), "kind": np.zeros(8, int)}), WEIGHTS, "for models with one output"),
    ("segmentation", (X, np.zeros((8, 8, 8), int)), WEIGHTS, "for one label for each example"),
    ("multi_label", (X, np.zeros((8, 4))), WEIGHTS, "for examples of one class each"),
    ("regression", (X, Y), WEIGHTS, "for examples of one class each"),
    ("regression", (X, Y), {"monitor": "val_maee"}, "Did you mean 'mae'"),
    ("regression", (X, Y), {"monitor": "mae", "mode": "max"}, "of 'mae', which decides, it is known: 'min'.*Leave `mode` out"),
    ("regression", (X, Y), {"monitor": "val_loss", "mode": "max"}, "of 'loss', which decides, it is known"),
    ("regression", (X, Y), {"mode": "max"}, "`mode` must be for a monitored metric"),
    ("integer_labels", (X, np.zeros(8, int)), {"monitor": "accuracy", "mode": "min"}, "of 'accuracy', which decides, it is"),
    ("integer_labels", (X, np.zeros(8, int)), {"config": {"task": {"mode": "min"}}}, "`mode` must be for a monitored metric"),
    ("regression", (X, Y), {"budget": {"mac": 0.5}}, "Did you mean 'macs'"),
    ("regression", (X, Y), {"epochs": {"retrian": 3}}, "Did you mean 'retrain'"),
    ("regression", (X, Y), {"epochs": "many"}, "`epochs` must be a number"),
    ("regression", (X, Y), {"structure": "chanels"}, "Did you mean 'channel"),
    ("regression", (X, Y), {"config": {"trian": {}}}, "Did you mean 'train'"),
    ("regression", (X, Y), {"config": {"train": {"steps": 1000}}}, "`train.steps` is for sources of batches.*batches=1. Leave"),
    ("integer_labels", (X, np.zeros(8, int)), WEIGHT_OF_9, r"must be of the classes 0..2. Received: unknown=.9.. Number"),
    ("one_hot", (X, np.eye(3)[np.zeros(8, int)]), WEIGHT_OF_9, "must be of the classes 0..2"),
    ("one_sigmoid", (X, np.zeros(8)), WEIGHT_OF_9, "must be of the classes 0..1"),
    ("regression", (X, Y), {"budget": "macs=0.5", "config": {"prune": {"macs": 0.5}}}, "said twice"),
]  # fmt: skip


@pytest.mark.parametrize("form", [np.array, tf.constant, lambda words: np.array(words, object)])
def test_models_of_text_are_told_what_no_file_can_do_in_whichever_form_the_text_comes(form, tmp_path):
    """Tensors of text and columns of tables are arrays of objects, which were no examples."""
    text, lookup = keras.Input((1,), dtype="string"), keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    model = keras.Model(text, keras.layers.Dense(2)(keras.layers.Dense(4)(lookup(text))))
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="No layer may look up or hash"):
        tfr.compress(model, (form([["a"], ["b"]] * 4), np.zeros((8, 2))), out=tmp_path / "run", console=QUIET)


@pytest.mark.parametrize("loss", [None, {"out": None}])
@pytest.mark.parametrize("train", [(X,), (X, Y)])
def test_a_model_that_adds_its_own_loss_alone_needs_no_labels_but_a_loss(loss, train, tmp_path):
    """Without labels they were asked for; with them it trained, and then failed in the words of Python."""
    model = keras.Model(KINDS["regression"].inputs, KINDS["regression"].outputs)
    model.compile("adam", loss)
    for config in ({}, {"distill": {"weight": 0.5}}):
        with pytest.raises(ValueError, match="with a loss on an output.*Received: loss=.*a test_step beside its train_step"):
            tfr.compress(model, train, out=tmp_path / "run", console=QUIET, config=config)


def half_labelled(metrics, kind=keras.Model, form=dict):
    """A net of two outputs, of which only the first has a loss."""
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(4)(inputs)
    outputs = {name: keras.layers.Dense(2, name=name)(hidden) for name in "ab"}
    model = kind(inputs, outputs if form is dict else list(outputs.values()))
    model.compile("sgd", {"a": "mse", "b": None}, metrics=metrics)
    return model


ONE = np.random.default_rng(0).random((16, 8)).astype("float32")
FEW = {"precisions": ["float32"], "latency_runs": 1, "representative": 8, "verify": 8, "pack": False}
UNREAD = pytest.mark.filterwarnings(
    "ignore:No loss is about the outputs b", "ignore:Only .* training steps come before", "ignore:Gradients do not exist for"
)


@UNREAD
@pytest.mark.parametrize("form, labels", [(dict, {"a": ONE[:, :2], "b": None}), (list, [ONE[:, :2], None])])
def test_an_output_without_loss_and_metrics_may_have_none_for_labels(form, labels, tmp_path):
    """As in Keras' own `fit` of arrays: the first batch of the training had ended in the words of Python."""
    config = {"export": FEW, "train": {"batch_size": 8}}
    epochs = {"train": 1, "regularize": 1, "retrain": 1}
    options = {"epochs": epochs, "config": config, "out": tmp_path / "run", "console": QUIET}
    result = tfr.compress(half_labelled({"a": ["mae"], "b": None}, form=form), (ONE, labels), **options)
    assert {metric["name"] for metric in result["metrics"]} == {"loss", "a_mae"}
    assert result["stages"][-1]["validation"]["a_mae"] > 0


@UNREAD
@pytest.mark.parametrize(
    "metrics, labels, told",
    [
        ({"a": ["mae"], "b": None}, {"a": ONE[:, :2]}, r"must name each output.*Received: labels=\['a'\]\. Add None for 'b'\."),
        ({"b": ["mae"]}, {"a": ONE[:, :2]}, r"that has a loss or metrics. Received: labels=\['a'\]\. Add 'b'\."),
        ({"b": ["mae"]}, {"a": ONE[:, :2], "b": None}, r"that has a loss or metrics. Received: labels=\['a'\]\. Add 'b'\."),
    ],
)
def test_labels_that_metrics_need_are_asked_for(metrics, labels, told, tmp_path):
    """Keras says KeyError: 'b'."""
    with pytest.raises(ValueError, match=told):
        tfr.compress(half_labelled(metrics), (ONE, labels), out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight, training)


@pytest.mark.parametrize("loss", ["mse", {"a": "mse", "b": "mse"}])
@pytest.mark.parametrize(
    "form, labels, told",
    [
        (dict, {"a": ONE[:, :2]}, r"each output that OwnLoss measures.*Received: labels=\['a'\]\. Add 'b', or compile"),
        (list, ONE[:, :2], r"each output that OwnLoss measures.*Received: labels=\['a'\]\. Add 'b', or compile"),
        (list, [ONE[:, :2], None], r"no None among its labels.*Received: labels=\[\(\d+, 2\), None\]\. In a dict leave out"),
    ],
)
def test_a_class_with_a_loss_of_its_own_is_told_which_output_has_no_labels(loss, form, labels, told, tmp_path):
    """It may take labels of any form; Keras' `compute_loss` then said KeyError, or that structures differ."""
    model = half_labelled(None, OwnLoss, form)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=told):
        tfr.compress(model, (ONE, labels), out=tmp_path / "run", console=QUIET)


def test_class_weights_need_labels():
    """A model with a loss of its own trains without: Keras passed the weights over."""
    feed, task = feeds.feed(KINDS["regression"], (X,), "train"), types.SimpleNamespace(loss=None)
    class_weights.check(None, task, feed)
    with pytest.raises(ValueError, match="needs labels.*Received: labels=None. Leave it out"):
        class_weights.check({0: 1.0, 1: 2.0}, task, feed)
    labelled = feeds.feed(KINDS["regression"], (X, np.zeros(8, int)), "train")
    class_weights.check({0: 1.0, 1: 2.0}, types.SimpleNamespace(loss={}), labelled)  # nothing to refuse, no loss to look at


@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy", "categorical_crossentropy", None])
@pytest.mark.parametrize("labels", [np.arange(8) % 4, np.eye(4)[np.arange(8) % 4], (np.arange(8) % 2)[:, None]])
def test_class_weights_go_with_classes_whatever_the_loss(loss, labels):
    """Keras takes the largest of several as the class, which it is in one-hot labels alone."""
    kind = KINDS["multi_label"]
    task = types.SimpleNamespace(loss=loss)
    class_weights.check({0: 1.0, 1: 2.0}, task, feeds.feed(kind, (X, labels), "train"))
    with pytest.raises(ValueError, match="must be of .*classes.* Received: unknown=.-1"):
        class_weights.check({-1: 1.0, 0: 1.0}, task, feeds.feed(kind, (X, labels), "train"))
    for wrong in (labels + 0.5, np.stack([labels] * 2, axis=1).astype(int) * 0 + 1):
        with pytest.raises(ValueError, match="`train.class_weight` is for .* Received: "):
            class_weights.check({0: 1.0, 1: 2.0}, task, feeds.feed(kind, (X, wrong), "train"))


@pytest.mark.parametrize("kind, train, options, words", BAD)
def test_what_cannot_be_trained_on_is_refused_before_any_training(kind, train, options, words, tmp_path):
    with pytest.raises((ValueError, TypeError), match="(?s)" + words) as raised:
        tfr.compress(KINDS[kind], train, out=tmp_path / "run", console=QUIET, **options)
    assert str(raised.value).count("Received: ") == 1 and not (tmp_path / "run").exists()


def test_models_that_cannot_be_trained_are_refused(tmp_path):
    model = keras.Model(KINDS["regression"].inputs, KINDS["regression"].outputs)
    with pytest.raises(ValueError, match="must be compiled, or the loss named"):
        tfr.compress(model, (X, Y), out=tmp_path / "run")
    with pytest.raises(ValueError, match="Did you mean|must name what Keras has"):
        tfr.compress(model, (X, Y), out=tmp_path / "run", config={"task": {"loss": "mean_sqared_error"}})

    class Own(keras.Model):
        def compile(self, how):
            super().compile(how, "mse")

    own = Own(model.inputs, model.outputs)
    own.compile("adam")
    with pytest.raises(ValueError, match="has a `compile` of its own.*get_compile_config"):
        tfr.compress(own, (X, Y), out=tmp_path / "run")
    rounded = keras.Model(model.inputs, keras.ops.cast(model.outputs[0], "int32"))
    rounded.compile("adam", "mse")
    with pytest.raises(ValueError, match="must be of floats.*Received: .*='int32'.*put them on afterwards"):
        tfr.compress(rounded, (X, Y), out=tmp_path / "run")
    with pytest.raises(ValueError, match="a YAML file, and .keras files are models.*load_model"):
        tfr.compress("mine.keras", (X, Y), out=tmp_path / "run")
    linear = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    linear.compile("adam", "mse")
    with pytest.raises(ValueError, match='channels that can be removed.*Or pass structure="unstructured"'):
        tfr.compress(linear, (X, Y), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Breaks(keras.callbacks.Callback):
    """Puts a NaN into one layer in the second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            layer = self.model.get_layer("conv2")
            layer.bias.assign(np.full(layer.bias.shape, np.nan))


def test_a_training_that_breaks_stops_in_its_epoch_and_names_the_layer(tmp_path):
    model, x, y = tasks.regression()
    with pytest.raises(ValueError, match=r"stay finite.*epoch=2, broken='first conv2/bias'"):
        tfr.compress(
            model, (x, y), epochs={"train": 3}, callbacks=[Breaks()], out=tmp_path / "run", console=QUIET,
            config={"train": {"batch_size": 32}},
        )  # fmt: skip
    assert not (tmp_path / "run" / "dense.keras").exists()


def test_a_training_that_leaves_nothing_but_zeros_is_refused_and_one_that_began_with_them_is_not():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    kernels = [layer.kernel for layer in model.layers]
    data = np.ones((4, 4), "float32"), np.ones((4, 1), "float32")

    def fit(change):
        model.fit(*data, verbose=0, callbacks=[Finite("regularized"), change])

    fit(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: kernels[0].assign(np.zeros((4, 2)))))
    with pytest.raises(ValueError, match="Some kernel must keep a weight.*Received: stage='regularized'.*strength"):
        fit(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: kernels[1].assign(np.zeros((2, 1)))))
    fit(keras.callbacks.Callback())


CODE = """
import numpy as np
x, y = np.zeros((8, 2), "float32"), np.zeros(8, "float32")
def load(): return (x, y), (x, y)
def arrays(): return x, y
def fails(): raise OSError("no disk")
"""


@pytest.mark.parametrize(
    "name, words",
    [
        ("none.py:load", "The Python file must exist"),
        ("data.py:lod", "must name a function of .*It has: load, arrays, fails"),
        ("data.py:arrays", "must return the splits"),
        ("data.py:fails", "must load the data; it says: OSError: no disk"),
        ("broken.py:load", "The Python file must run; it says: ZeroDivisionError"),
    ],
)
def test_code_that_gives_no_data_is_explained(name, words, tmp_path, monkeypatch, capsys):
    import re

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("1 / 0")
    KINDS["regression"].save("model.keras")
    assert main.console(["compress", "--model", "model.keras", "--data", name, "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert re.search(words, said) and said.count("Received: ") == 1 and not (tmp_path / "run").exists()


def ending():
    """Two batches where more are needed."""
    return iter([(X, Y)] * 2)


class Failing(keras.utils.PyDataset):
    """It can be read once, as it is before training."""

    def __init__(self, **options):
        super().__init__(**options)
        self.read = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.read += 1
        if self.read > 12:
            raise OSError("disk gone")
        return X, Y


def failing():
    """A function that makes generators, of which a later one fails."""
    source = Failing()
    return lambda: (source[number] for number in range(4))


def small():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    return model


BROKEN = {
    "generator": (ending, 2, ValueError, "must not end before training does. Received: steps=2"),
    "function": (failing, None, OSError, "^disk gone$"),
    "PyDataset": (Failing, None, OSError, "^disk gone$"),
    "PyDataset, workers": (lambda: Failing(workers=2), None, OSError, "^disk gone$"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_reading_batches_raises_comes_out_as_it_is(kind):
    """TensorFlow made an InvalidArgumentError of it, whose text says `Graph execution error` first."""
    make, steps, error, words = BROKEN[kind]
    model = small()
    batches, options, _ = feeds.feed(model, make(), "train", steps=steps).to_fit()
    with pytest.raises(error, match=words), raised.as_raised(batches):
        model.fit(batches, epochs=9, verbose=0, **options)


class Changing(keras.utils.PyDataset):
    """Its second batch is another from the third time on that it is read."""

    def __init__(self, other, **options):
        super().__init__(**options)
        self.other, self.read = other, 0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.read += index
        return (self.other if self.read > 2 else X), Y


@pytest.mark.parametrize(
    "other, words",
    [
        (with_nan(), r"`train` must be finite .*in its x. Received: batch=2, example=3"),
        (X[:, :7], r"must take the data's inputs.*split='train', batch=2, input_shape=\(8, 7, 8, 1\)"),
    ],
)
@pytest.mark.parametrize("kind", ["PyDataset", "function"])
def test_a_later_epoch_that_holds_other_batches_is_refused_where_they_come(kind, other, words):
    """One that is not finite had been put down to the learning rate, other sizes were refused after all stages."""
    source = Changing(other)
    read = source if kind == "PyDataset" else lambda: map(source.__getitem__, (0, 1))
    batches, options, _ = feeds.feed(small(), read, "train").to_fit()
    with pytest.raises(ValueError, match=words), raised.as_raised(batches):
        small().fit(batches, epochs=9, verbose=0, **options)


def test_batches_of_several_sizes_are_refused_before_training_where_no_file_can_be_made_of_them(tmp_path):
    """Those of a model of open sizes can be trained on: at the export after all stages they were refused."""
    layers = [keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(9), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((None, None, 1)), *layers])
    model.compile("adam", "mse")
    for validation in ((X, Y), None):  # held out, all are put together
        with pytest.raises(ValueError, match=r"All examples of `train` must be alike. Received: shapes=.*\(7, 8, 1\).*padding"):
            how = {"structure": "unstructured", "out": tmp_path / "run", "console": QUIET}
            tfr.compress(model, lambda: iter([(X, Y), (X[:, :7], Y)]), validation, **how)
    assert not (tmp_path / "run").exists()


def test_a_data_set_that_is_not_finite_is_named_before_the_training_is():
    """TensorFlow reads it itself; the numbers are looked at when the training breaks."""
    given = tf.Variable(0.0)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).map(lambda x, y: (x + given, y))
    feed = feeds.feed(small(), data, "train")
    given.assign(np.nan)
    with pytest.raises(ValueError, match=r"`train` must be finite .*in its x. Received: batch=1, example=0"):
        small().fit(feed.to_fit()[0], verbose=0, shuffle=False, callbacks=[Finite("dense", [feed])])


@pytest.mark.parametrize("train, validation", [(Failing, lambda: (X, Y)), (lambda: (X, Y), Failing)])
def test_what_reading_batches_raises_in_a_stage_comes_out_as_it_is(train, validation, tmp_path, monkeypatch):
    monkeypatch.setattr(workflow.run, "check_convertible", lambda run: None)
    how = {"structure": "unstructured", "epochs": {"train": 99}, "out": tmp_path / "run", "console": QUIET}
    with pytest.raises(OSError, match="^disk gone$"):
        tfr.compress(small(), train(), validation(), **how)


MSE2 = {"b": "mse", "a": "mae"}
# What Keras takes, by the outputs of the model: in a dict, in a list, or one alone.
LEGAL = {
    "dict": [
        {"loss": "mse"}, {"loss": {"a": "mse"}}, {"loss": {"a": "mse", "b": None}}, {"loss": MSE2, "loss_weights": [1.0, 2.0]},
        {"loss": MSE2, "loss_weights": {"a": 1.0, "b": 2.0}}, {"loss": "mse", "loss_weights": [2.0]}, {"loss": ["mse", "mae"]},
        {"loss": MSE2, "metrics": {"a": ["mae"]}, "weighted_metrics": {"b": "mae"}}, {"loss": MSE2, "metrics": ["mae", None]},
        {"loss": MSE2, "metrics": [["mae", "mse"], ["mae"]]}, {"loss": MSE2, "metrics": []}, {"loss": MSE2, "metrics": {}},
    ],
    "list": [
        {"loss": "mse"}, {"loss": MSE2}, {"loss": {"a": "mse", "b": None}}, {"loss": ["mse", None]}, {"loss": ("mse", "mae")},
        {"loss": MSE2, "loss_weights": {"a": 1.0, "b": 2.0}}, {"loss": ["mse", None], "loss_weights": [2.0, 0.0]},
        {"loss": MSE2, "metrics": {"a": ["mae"]}}, {"loss": "mse", "metrics": [["mae"], []], "weighted_metrics": ["mae", None]},
    ],
    "one": [
        {"loss": "mse"}, {"loss": ["mse"]}, {"loss": ["mse", "mae"]}, {"loss": {"a": "mse"}},
        {"loss": "mse", "loss_weights": [2.0]}, {"loss": "mse", "loss_weights": {"a": 2.0}},
        {"loss": "mse", "loss_weights": 2.0},
        {"loss": "mse", "metrics": [["mae", "mse"]]}, {"loss": "mse", "metrics": {"a": ["mae"]}},
        {"loss": "mse", "metrics": ["mae", "mse"]}, {"loss": ["mse", "mae"], "loss_weights": [1.0, 2.0]},
    ],
}  # fmt: skip
ILLEGAL = {
    "dict": [
        ({"loss": {"c": "mse"}}, "known output of the model in `loss`.*output='c'.*Valid: a, b"),
        ({"loss": ["mse"]}, "A list of losses must have one for each output, 2"),
        ({"loss": MSE2, "loss_weights": {"a": 1.0, "bb": 2.0}}, "in `loss_weights`.*Did you mean 'b'"),
        ({"loss": MSE2, "loss_weights": {"a": 1.0}}, "Each loss must have a weight where any has.*Add 'b' to loss_weights"),
        ({"loss": {"a": "mse"}, "loss_weights": {"a": 1.0, "b": 2.0}}, "must be of an output that has a loss.*Leave 'b' out"),
        ({"loss": MSE2, "loss_weights": [1.0]}, "as many weights as there are losses, 2"),
        ({"loss": "mse", "loss_weights": {"a": 2.0}}, "a single loss has one weight.*Name a loss for each output"),
        ({"loss": MSE2, "metrics": {"aa": ["mae"]}}, "in `metrics`.*Did you mean 'a'"),
        ({"loss": MSE2, "metrics": ["mae"]}, "A list of `metrics` must have those of each output, 2"),
        ({"loss": MSE2, "weighted_metrics": {"aa": ["mae"]}}, "in `weighted_metrics`.*Did you mean 'a'"),
    ],
    "list": [
        ({"loss": {"a": "mse"}}, "must be there for each output.*Add 'b', or None"),
        ({"loss": ["mse"]}, "A list of losses must have one for each output, 2"),
        ({"loss": ["mse", "mae"], "loss_weights": {"a": 1.0, "b": 2.0}},
         "Weights by names .* give the weight of 'a' to the loss of 'b', 'b' to"),
        ({"loss": "mse", "weighted_metrics": ["mae"] * 3}, "A list of `weighted_metrics` must have those of each output, 2"),
    ],
    "one": [
        ({"loss": {"aa": "mse"}}, "in `loss`.*Did you mean 'a'"),
        ({"loss": []}, "A list of losses must have one for each output, 1"),
        ({"loss": "mse", "loss_weights": [1.0, 2.0]}, "as many weights as there are losses, 1"),
        ({"loss": "mse", "loss_weights": {"c": 1.0}}, "in `loss_weights`.*output='c'"),
        ({"loss": "mse", "metrics": {"c": ["mae"]}}, "in `metrics`.*output='c'"),
        ({"loss": "mse", "metrics": [["mae"], ["mse"]]}, "A list of `metrics` must have those of each output, 1"),
        ({"loss": ["mse", lambda y, p: {}[y.shape]]}, "ended with KeyError.*Received: loss="),
    ],
}


def scored(kind, how):
    """A `Scorer` that has measured a batch, of a model of two outputs in a dict or a list, or of one, and what to fit with."""
    x = keras.Input((4,))
    b, a = keras.layers.Dense(2, name="b")(x), keras.layers.Dense(2, name="a")(x)
    model = keras.Model(x, {"dict": {"a": a, "b": b}, "list": [b, a], "one": a}[kind])
    values, label = np.ones((4, 4), "float32"), np.ones((4, 2), "float32")
    y = {"dict": {"a": label, "b": label}, "list": [label, label], "one": label}[kind]
    made = scoring.Scorer(Task(**how), model, values)
    made.begin((values, y, None))
    return model, values, y


@pytest.mark.parametrize("kind", LEGAL)
def test_losses_weights_and_metrics_that_keras_takes_are_taken(kind):
    for how in LEGAL[kind]:
        model, x, y = scored(kind, how)
        model.compile("sgd", **how, run_eagerly=True)
        assert np.isfinite(model.test_on_batch(x, y, return_dict=True)["loss"]), how


@pytest.mark.parametrize("kind", ILLEGAL)
def test_losses_weights_and_metrics_of_outputs_that_there_are_not_are_refused(kind):
    """They trained without them, or ended in Keras' own words; with one weight too many TensorFlow's."""
    for how, words in ILLEGAL[kind]:
        with pytest.raises(ValueError, match="(?s)" + words) as raised:
            scored(kind, how)
        assert str(raised.value).count("Received: ") == 1, how


@pytest.mark.parametrize(
    "kind, loss, weights", [("dict", {"a": "mse", "b": None}, {"a": 1, "b": 5}), ("list", ["mse", None], [1, 5])]
)
def test_a_weight_without_a_loss_is_said(kind, loss, weights):
    with pytest.warns(UserWarning, match="`loss_weights` weighs '[ab]', of which there is no loss: the weight does nothing"):
        scored(kind, {"loss": loss, "loss_weights": weights})


@pytest.mark.parametrize("how", [{"budget": "macs=0.5"}, {"structure": "unstructured", "budget": "sparsity=0.5"}])
def test_a_model_with_lora_is_refused_with_what_merges_it(how, tmp_path):
    """Without channels it "did not come back from its file with its weights", into which Keras merges LoRA."""
    model, x, y = tasks.regression()
    next(layer for layer in model.layers if hasattr(layer, "enable_lora")).enable_lora(2)
    with pytest.raises(ValueError, match="No layer may have LoRA weights. Received: layers=.*tfr.strip.*, and compile"):
        tfr.compress(model, (x, y), **how, out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_images_that_would_move_out_of_sight_are_refused(tmp_path):
    """Memory ran out in training."""
    config = {"data": {"name": "digits", "shift": 8}, "model": {"name": "small_cnn"}}
    with pytest.raises(ValueError, match="`data.shift` must be less than the images are .*Received: shift=8, input_shape="):
        tfr.compress(config=config, out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()
