"""Any compiled model on any data through one call: ten kinds of task, each ending in executed files and a true report."""

import io
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

import tf_reweight as tfr
from tests import tasks
from tf_reweight import export
from tf_reweight.cli import main
from tf_reweight.data import code, feeds
from tf_reweight.reports.progress import QUIET
from tf_reweight.reports.sensitivity import sensitivity
from tf_reweight.workflow import scoring
from tf_reweight.workflow.carried import compile_for_file
from tf_reweight.workflow.folder import Folder
from tf_reweight.workflow.run import Run
from tf_reweight.workflow.task import Task, of_model

L = keras.layers
ROOT = pathlib.Path(__file__).parent.parent
EXPORT = {"precisions": ["float32"], "latency_runs": 1, "representative": 32, "verify": 16, "pack": False}
SMALL = {"export": EXPORT, "train": {"batch_size": 16}}
INT8 = {**SMALL, "export": {**EXPORT, "precisions": ["int8"]}}
ONE_EACH = {"train": 1, "regularize": 1, "retrain": 1}
pytestmark = pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")


def compress(model, *data, out, config=SMALL, epochs=ONE_EACH, **options):
    return tfr.compress(model, *data, epochs=epochs, config=config, out=out, console=QUIET, **options)


def part(y, wanted):
    return keras.tree.map_structure(lambda array: array[wanted], y)


def as_arrays(x, y):
    return (x[:48], part(y, slice(48))), (x[48:], part(y, slice(48, None)))


def as_dataset(x, y):
    return [tf.data.Dataset.from_tensor_slices(pair).batch(16) for pair in as_arrays(x, y)]


def seen_of(given, *data):
    """What a run knows of a task before any training: figures of the model, metrics, and what a constant answer would get."""
    run = Run({"train": {"epochs": 1}}, given, (*data, None), (), QUIET, None)
    facts = {name: fact for name, fact in run.data.facts().items() if name != "name"}
    return run._measured(), run.metrics, run._guess(), facts


@pytest.mark.parametrize("make", tasks.KINDS, ids=lambda make: make.__name__)
def test_datasets_are_measured_as_arrays_are(make):
    """Of every kind of task, whatever the forms are that the runs below train on."""
    keras.utils.set_random_seed(0)
    model, x, y = make()
    (figures, *arrays), (others, *datasets) = (seen_of(model, *form(x, y)) for form in (as_arrays, as_dataset))
    assert arrays == datasets and arrays[1] and arrays[2]["num_train"] == 48
    assert figures.pop("validation") == pytest.approx(others.pop("validation"), rel=1e-6)
    assert figures.pop("test") == pytest.approx(others.pop("test"), rel=1e-6)
    assert figures == pytest.approx(others, rel=1e-6)


# Whole runs, each kind in one form: what differs between the forms is looked at above.
FORMS = {"integer_labels": as_arrays, "two_outputs": as_dataset, "one_hot": as_dataset, "multi_label": as_arrays}
FORMS |= {"one_sigmoid": as_dataset, "regression": as_arrays, "segmentation": as_dataset}


# Whose files, metrics and losses are those of others here, in another combination.
LIKE_OTHERS = ("one_sigmoid",)
RUNS = [
    pytest.param(make, FORMS[make.__name__], marks=pytest.mark.slow if make.__name__ in LIKE_OTHERS else ())
    for make in tasks.KINDS
]


@pytest.mark.parametrize("make, form", RUNS, ids=lambda given: given.__name__)
def test_every_kind_ends_in_an_executed_file_and_a_true_report(make, form, tmp_path):
    keras.utils.set_random_seed(0)
    model, x, y = make()
    model.run_eagerly = make not in (tasks.integer_labels, tasks.two_outputs)  # three steps in a stage
    before = [np.array(weight) for weight in model.get_weights()]
    # A first training as well where the task is the simplest: the model of a user is trained mostly.
    epochs = {**ONE_EACH, "train": int(make is tasks.integer_labels)}
    result = compress(model, *form(x, y), out=tmp_path / "run", epochs=epochs, config=INT8)
    held_x, held_y = as_arrays(x, y)[1]
    # The model as given stays as it is, and what came of it is smaller.
    small, told = result.model, result["stages"][-1]["validation"]
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights()))
    assert 0.2 * model.count_params() < small.count_params() < 0.8 * model.count_params()
    # Every metric of every output is what Keras itself measures of that model, with the user's own objects.
    given = tfr.graph.compiled.compiled_with(model)
    small.compile("sgd", given["loss"], metrics=given["metrics"], loss_weights=given["loss_weights"])
    for metric in keras.tree.flatten(given["metrics"]):
        if isinstance(metric, keras.Metric):
            metric.reset_state()  # Keras does not, of objects that another model has used
    measured = small.evaluate(held_x, held_y, verbose=0, return_dict=True)
    assert set(told) == set(measured) and {metric["name"] for metric in result["metrics"]} == set(measured)
    assert told == pytest.approx(measured, rel=1e-4, abs=1e-5)
    # A float file has the figures of its model, by the same objects; int8 rounds them.
    files = {file["name"]: file for file in result["files"]}
    refused = {file["name"] for file in result["refused"]}  # of a net that was hardly trained int8 may lose everything
    assert {*files, *refused} == {"dense_float32.tflite", "dense_int8.tflite", "shrunk_int8.tflite"}
    dense = result["stages"][0]["test"]
    assert files["dense_float32.tflite"]["test"]["loss"] == pytest.approx(dense["loss"], rel=1e-3, abs=1e-4)
    assert files["dense_float32.tflite"]["test"] == pytest.approx(dense, abs=0.05)
    assert result.best_file.name == "shrunk_int8.tflite" and result.files[-1] == result.best_file
    outputs = export.Runner(result.best_file)([held_x])
    assert sorted(output.shape for output in outputs) == sorted(
        array.shape for array in keras.tree.flatten(small.predict(held_x, verbose=0))
    )
    assert len(files["shrunk_int8.tflite"]["outputs"]) == len(outputs)
    for output in files["shrunk_int8.tflite"]["outputs"]:
        assert (output["agreement"] is None) == (output["kind"] == "numbers") and output["error"] < 0.5
    # The first compiled metric heads the report, and lower is better where it is an error.
    head = {"regression": ("mae", "min"), "two_outputs": ("boxes_mae", "min"), "multi_label": ("hits", "max")}
    assert (result["metrics"][0]["name"], result["metrics"][0]["mode"]) == head.get(make.__name__, ("accuracy", "max"))
    assert result["guess"].keys() == measured.keys()
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == json.loads(json.dumps(result))


class Batches(keras.utils.PyDataset):
    def __init__(self, pair):
        super().__init__()
        self.x, self.y = pair

    def __len__(self):
        return -(-len(self.x) // 16)

    def __getitem__(self, index):
        return self.x[16 * index : 16 * index + 16], self.y[16 * index : 16 * index + 16]


def endless(pair):
    while True:
        for index in range(0, len(pair[0]), 16):
            yield pair[0][index : index + 16], pair[1][index : index + 16]


def one_pass(pair):
    return (batch for _, batch in zip(range(3), endless(pair)))


SOURCES = {
    "pydataset": (Batches, {}),
    "function": (lambda pair: lambda: one_pass(pair), {}),
    "generator": (endless, {"steps": 3}),
    "endless dataset": (lambda pair: tf.data.Dataset.from_tensor_slices(pair).batch(16).repeat(), {"steps": 3}),
    "single examples": (tf.data.Dataset.from_tensor_slices, {}),
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources_of_batches_give_every_fit_as_many(source):
    """As arrays would, whatever they come from: what a run hands to the `fit` of a stage, three times."""
    model, x, y = tasks.regression()
    train, validation = as_arrays(x, y)
    make, settings = SOURCES[source]
    config = {"train": {"epochs": 1, "batch_size": 16, **settings}}
    run, seen = Run(config, model, (make(train), validation, None), (), QUIET, None), Counter()
    for _ in range(3):
        batches, options, in_order = run.data.training()
        model.fit(batches, **options, shuffle=False, verbose=0, callbacks=[*in_order, seen])
    assert seen.batches == [3, 3, 3] and run.data.facts()["num_train"] == 48


def test_a_source_of_batches_trains_every_stage(tmp_path):
    """Every stage sees as many batches as arrays would give it, also of a source that goes on where it was."""
    model, x, y = tasks.regression()
    train, validation = as_arrays(x, y)
    make, settings = SOURCES["generator"]
    seen = Counter()
    result = compress(
        model, make(train), validation, out=tmp_path / "run", callbacks=[seen],
        config={**SMALL, "train": {"batch_size": 16, **settings}},
    )  # fmt: skip
    assert seen.batches == [3, 3, 3] and result["data"]["num_train"] == 48
    assert not result["data"]["has_test"] and result["stages"][-1]["test"] == result["stages"][-1]["validation"]


class Counter(keras.callbacks.Callback):
    """How many batches each `fit` had."""

    def __init__(self):
        super().__init__()
        self.batches, self.rates, self.losses = [], [], []

    def on_train_begin(self, logs=None):
        self.batches.append(0)
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch, logs=None):
        self.batches[-1] += 1


def test_the_users_optimizer_and_callbacks_are_used_in_every_stage(tmp_path):
    model, x, y = tasks.regression()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.03, 100, 0.5)
    optimizer = keras.optimizers.SGD(schedule, momentum=0.8, nesterov=True)
    model.compile(optimizer, "mse", weighted_metrics=["mae"], run_eagerly=True)  # three steps in a stage
    made, kinds = {}, []

    class Kind(Counter):
        def on_train_end(self, logs=None):
            kinds.append((type(self.model.optimizer).__name__, self.model.optimizer.momentum, self.model.optimizer.nesterov))

    def fresh(stage):
        made[stage] = Kind()
        return [made[stage]]

    weight = np.linspace(0, 1, 48)
    result = compress(
        model, (x[:48], y[:48], weight), (x[48:], y[48:], np.ones(16)), out=tmp_path / "run", callbacks=fresh, monitor="val_mae"
    )
    assert list(made) == ["dense", "regularized", "retrained"] and kinds == [("SGD", 0.8, True)] * 3
    assert [kind.rates for kind in made.values()] == [[pytest.approx(0.03)]] * 3
    assert result["metrics"][0] == {"name": "mae", "mode": "min", "proportion": False}


@keras.saving.register_keras_serializable("test_tasks")
class Doubled(keras.Model):
    """Trains on twice its loss, and says so."""

    def train_step(self, data):
        logs = super().train_step(data)
        return {**logs, "own": logs["loss"] * 0 + 42.0}


def test_a_class_with_its_own_train_step_trains_in_every_stage(tmp_path):
    plain, x, y = tasks.regression()
    model = Doubled(plain.inputs, plain.outputs)
    model.compile("adam", "mse", metrics=["mae"])
    result = compress(model, *as_arrays(x, y), out=tmp_path / "run")
    assert type(result.model) is Doubled
    own = {record["stage"]: record.get("own") for record in result["curves"]}
    assert own == {"dense": 42.0, "regularized": 42.0, "retrained": 42.0}


class Measures(keras.Model):
    """Trains and measures in its own way, without a compiled loss."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tracker = keras.metrics.Mean(name="own_error")

    @property
    def metrics(self):
        return [self.tracker]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(y - self(x, training=True)))
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        return {"own_error": loss}

    def test_step(self, data):
        x, y = data
        self.tracker.update_state(keras.ops.mean(keras.ops.square(y - self(x, training=False))))
        return {"own_error": self.tracker.result()}


def test_a_class_that_measures_by_itself_is_asked(tmp_path, eager_steps):
    """Its figures are those of its models; a file's outputs it cannot measure, and the report says so."""
    plain, x, y = tasks.regression()
    model = Measures(plain.inputs, plain.outputs)
    model.compile("adam")
    # Shrinking would build it anew, which a class with an __init__ of its own does not allow.
    epochs = {"train": 0, "retrain": 1}
    console = Console(file=io.StringIO(), width=200)
    told = {"epochs": epochs, "structure": "filter", "config": INT8, "console": console}
    result = tfr.compress(model, *as_arrays(x, y), out=tmp_path / "run", **told)
    outputs = result.model.predict(x[48:], verbose=0)
    measured = result["stages"][-1]["validation"]["own_error"]
    assert measured == pytest.approx(float(np.mean((outputs - y[48:]) ** 2)), rel=1e-4)
    assert result["metrics"] == [{"name": "own_error", "mode": "min", "proportion": False}]
    assert result["summary"]["change"] == "not measured" and result["files"][-1]["outputs"][0]["error"] < 0.5
    (alarm,) = [alarm for alarm in result["alarms"] if alarm["seen"].startswith("own_error of files cannot be measured")]
    assert "chosen by its size alone" in alarm["seen"] and "Compile the model with" in alarm["look"]
    said = console.file.getvalue().splitlines()
    # Before the first training, and in the report.
    assert said[0].startswith("files: own_error of files cannot be measured") and alarm["look"] in said[0]


def compiled_metrics(self, data):
    """A `test_step` as Keras' guide writes it: the logs hold a dict of all that was compiled."""
    x, y = data
    outputs = self(x, training=False)
    self.compute_metrics(x, y, outputs)
    loss = self.compute_loss(x, y, outputs)
    for metric in self.metrics:
        if metric.name == "loss":
            metric.update_state(loss)
    return {metric.name: metric.result() for metric in self.metrics}


def own_logs(self, data):
    x, y = data
    loss = self.compute_loss(x, y, self(x, training=False))
    return {"loss": loss, "doubled_loss": 2 * loss}


def results_alone(self, data):
    return self.get_metrics_result()


def with_own(**steps):
    """The classifier of `tasks`, with an accuracy and with steps of its class's own."""
    plain, x, y = tasks.integer_labels()
    model = type("Steps", (keras.Model,), steps)(plain.input, plain.output)
    model.compile("sgd", plain.loss, metrics=["accuracy"])
    return model, (x, y)


@pytest.mark.parametrize("step, names", [(compiled_metrics, ["loss", "accuracy"]), (own_logs, ["loss", "doubled_loss"])])
def test_figures_of_a_test_step_are_those_that_evaluate_gives(step, names):
    """A dict among the logs ended in the words of Python; an own log stands for itself, though nothing updates the accuracy."""
    model, (x, y) = with_own(test_step=step)
    scorer, feed = scoring.Scorer(of_model(model), model, x[:8]), feeds.feed(model, (x, y), "train")
    scorer.begin((x[:8], y[:8], None))
    assert [metric.name for metric in scorer.metrics] == names
    model.fit(x, y, verbose=0)  # makes the accuracy, for whose result Keras asks
    evaluated = model.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True)
    assert scorer.of_model(model, feed) == pytest.approx(evaluated, rel=1e-5)


def test_steps_that_leave_compiled_metrics_without_a_value_are_told_what_to_call(tmp_path):
    """Keras said "Cannot get result() since the metric has not yet been built" in the middle of a training."""
    asked = r"Steps must update them.*Received: metrics=\['accuracy'\]\. Call `self.compute_metrics"
    model, data = with_own(test_step=results_alone)
    with pytest.raises(ValueError, match=asked):
        compress(model, data, out=tmp_path / "run")
    assert not (tmp_path / "run" / "dense.keras").exists()
    model, data = with_own(test_step=own_logs, train_step=lambda self, data: {"loss": 0.0})
    with pytest.raises(ValueError, match=asked):
        compress(model, data, out=tmp_path / "another")
    with pytest.raises(ValueError, match=asked):
        sensitivity(model, data, sparsities=(0.5,), monitor="doubled_loss")
    # Another error of the user's own is as it was.
    model, data = with_own(test_step=lambda self, data: int("ten"))
    with pytest.raises(ValueError, match="invalid literal"):
        compress(model, data, out=tmp_path / "third")


def test_a_model_trained_before_is_not_trained_again_and_class_weights_count(tmp_path):
    model, x, y = tasks.integer_labels()
    model.fit(x, y, verbose=0)
    config = {**SMALL, "train": {"batch_size": 16, "class_weight": {0: 1.0, 1: 2.0, 2: 1.0}}}
    result = compress(model, (x, y), out=tmp_path / "run", epochs=2, config=config)
    assert result["config"]["train"]["epochs"] == 0 and result["config"]["retrain"]["epochs"] == 1
    assert result["config"]["regularize"]["rounds"] * result["config"]["regularize"]["every"] == 1
    assert result["data"]["num_train"] == 58 and result["data"]["num_validation"] == 6
    assert "held out" in result["data"]["notes"][0]
    assert result["config"]["train"]["class_weight"] == {"0": 1.0, "1": 2.0, "2": 1.0}


def small_backbone():
    image = keras.Input((32, 32, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, strides=2)(image)))
    return keras.Model(image, L.Conv2D(12, 3, strides=2, activation="relu")(L.Conv2D(12, 3, activation="relu")(x)))


EXAMPLES = {
    "segmentation": {"num": 64, "width": 4},
    "tabular": {"num": 256, "width": 16},
    "detector": {"num": 128, "width": 8},
    "text": {"num": 64, "width": 16},
    "transfer": {"num": 64, "num_frozen": 3},
}
# Whose steps are compiled, as all are above: of two steps in an epoch that takes longer than anything else.
COMPILED = ("tabular", "transfer")
# Whose task runs above as well, on a net of its kind.
ALIKE = ("segmentation",)


@pytest.mark.filterwarnings("ignore:The channels of .* are left whole")
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in EXAMPLES])
def test_examples_run_in_their_smallest_form(name, tmp_path, request):
    keras.utils.set_random_seed(0)
    if name not in COMPILED:
        request.getfixturevalue("eager_steps")
    run = code.function(str(ROOT / "examples" / f"{name}.py:main"), "the example")
    precision = "dynamic_int8" if name == "tabular" else "int8"
    given = {**EXAMPLES[name], "backbone": small_backbone()} if name == "transfer" else EXAMPLES[name]
    result = run(**given, epochs=3, out=tmp_path / "run", config={"export": {**EXPORT, "precisions": [precision]}})
    assert result.best_file.is_file() and result.model.count_params() < result["stages"][0]["num_parameters"]


def test_the_command_line_takes_a_model_and_data_that_are_code(tmp_path, capsys, monkeypatch):
    """The same run from Python and from the command line, on a model with a layer of the user's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layers.py").write_text(
        "import keras\nclass Twice(keras.layers.Layer):\n    def call(self, x):\n        return 2.0 * x\n"
    )
    (tmp_path / "data.py").write_text(
        "import numpy as np\nx = np.random.default_rng(0).random((64, 8)).astype('float32')\ny = x[:, :1] - x[:, 1:2]\n"
        "def load(): return {'train': (x[:48], y[:48]), 'validation': (x[48:], y[48:])}\n"
    )
    twice = code.imported("layers.py").Twice
    layers = [keras.Input((8,)), twice(), L.Dense(16, activation="relu"), L.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse", metrics=["mae"])
    model.save("mine.keras")
    asked = ["compress", "--model", "mine.keras", "--data", "data.py:load", "--import", "layers.py", "--budget", "macs=0.6"]
    asked += ["--epochs", "3", "--monitor", "val_mae", "--set", "export.precisions=[int8]", "--set", "export.latency_runs=1"]
    assert main.console([*asked, "--dry_run", "--json"]) == 0, capsys.readouterr().err
    plan = json.loads(capsys.readouterr().out)
    assert plan["config"]["prune"]["budget"] == {"macs": 0.6} and sum(plan["epochs"].values()) == 3
    assert main.console([*asked, "--out", "run", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["metrics"][0]["name"] == "mae"
    assert figures["stages"][-1]["num_macs"] <= 0.6 * figures["stages"][0]["num_macs"]
    assert "--import layers.py" in figures["command"] and (tmp_path / "run" / "shrunk_int8.tflite").is_file()


def own_error(y, p):
    return keras.ops.mean(keras.ops.abs(y - p), axis=-1)


class OwnError(keras.losses.Loss):
    def call(self, y, p):
        return own_error(y, p)


OF_KERAS = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "boxes": "mse"}


@pytest.mark.parametrize(
    "given, carried",
    [
        ({"loss": OF_KERAS, "metrics": {"kind": ["accuracy"], "boxes": [keras.metrics.MeanSquaredError()]}}, True),
        ({"loss": {**OF_KERAS, "boxes": None}, "loss_weights": {"kind": 1.0, "boxes": 0.5}}, True),
        ({"loss": {**OF_KERAS, "boxes": own_error}}, False), ({"loss": {**OF_KERAS, "boxes": OwnError()}}, False),
        ({"loss": {**OF_KERAS, "boxes": lambda y, p: y}}, False), ({}, False),
        ({"loss": OF_KERAS, "metrics": {"boxes": [own_error]}}, False),
    ],
)  # fmt: skip
def test_the_file_of_a_stage_that_does_not_train_is_compiled_where_keras_alone_can(given, carried, tmp_path):
    """Without it `check` judged a file by what it could guess of `shrunk.keras`: no loss of its boxes."""
    inputs = keras.Input((16,))
    hidden = L.Dense(64, activation="relu")(inputs)
    model = keras.Model(inputs, {"kind": L.Dense(3, name="kind")(hidden), "boxes": L.Dense(4, name="boxes")(hidden)})
    weights = model.get_weights()
    model.save(tmp_path / "plain.keras")
    folder, mine = Folder(tmp_path / "run", "seed: 0\n"), Task(**given, optimizer=keras.optimizers.Adam(0.25))
    made = compile_for_file(model, mine)
    assert made == model.compiled == carried
    figures = {"name": "shrunk", "seconds": 0.1, "validation": {}, "test": {}, "keeps_zeros": True, "details": {}}
    folder.finish("shrunk", model, {**figures, "num_weights": 1, "num_nonzero": 1, "num_macs": 1}, has_zeros=made)
    path = tmp_path / "run" / "shrunk.keras"
    loaded = keras.saving.load_model(path)  # without the user's code, and without a word
    assert loaded.compiled == carried and all(np.array_equal(a, b) for a, b in zip(loaded.get_weights(), weights))
    # The state of an optimizer that has not trained takes no room.
    assert path.stat().st_size < 1.2 * (tmp_path / "plain.keras").stat().st_size
    assert not Folder(tmp_path / "run", "seed: 0\n").gone and not folder.load("shrunk").compiled
    if carried:
        assert type(loaded.optimizer) is keras.optimizers.Adam and float(loaded.optimizer.learning_rate) == 0.25
        assert loaded.get_compile_config()["loss"] == model.get_compile_config()["loss"]
