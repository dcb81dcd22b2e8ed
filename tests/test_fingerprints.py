"""What tells a model and its training from others: all that changes a run, and nothing that a process makes by itself."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tf_reweight.data import code
from tf_reweight.workflow import differences, own_code
from tf_reweight.workflow import task as tasks
from tf_reweight.workflow.fingerprints import fingerprint, name_of

L = keras.layers


class NoSplits:
    feeds = {}


def made(activation="relu", loss="mse", metrics=("mae",), joined=True, gamma=2.0, **options):
    """The same weights each time, whatever else is asked for."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    one, two = L.Dense(5, activation=activation)(inputs), L.Dense(5)(inputs)
    both = L.Add()([L.Add()([one, two]), one if joined else two])
    model = keras.Model(inputs, L.Dense(1)(L.Activation("softmax")(both)))

    def own(y, outputs):
        return keras.ops.mean(keras.ops.abs(y - outputs) ** gamma, -1)

    options = {"optimizer": "adam", **options}
    model.compile(loss=own if loss == "own" else loss, metrics=list(metrics), **options)
    return model


def mark(model):
    return fingerprint(model, tasks.of_model(model), NoSplits)


def test_a_model_made_again_is_the_same_whatever_keras_calls_it():
    """Layers, metrics and optimizers without a name of their own are numbered by how many there were before."""
    options = {"loss": "own", "metrics": ["mae", keras.metrics.AUC()], "optimizer": keras.optimizers.Adam(1e-3)}
    first = mark(made(**options))
    again = mark(made(**{**options, "metrics": ["mae", keras.metrics.AUC()], "optimizer": keras.optimizers.Adam(1e-3)}))
    assert first == again and first["model"] == "functional"


@pytest.mark.parametrize(
    ("name", "told"), [(None, "sequential"), ("sequential_7", "sequential"), ("net_7", "net_7"), ("sequential_", "sequential_")]
)
def test_only_the_number_that_keras_counts_up_is_no_part_of_a_name(name, told):
    assert name_of(keras.Sequential([keras.Input((4,)), L.Dense(2)], name=name)) == told


@pytest.mark.parametrize(
    "key, change",
    [
        ("layers", {"activation": "tanh"}), ("layers", {"joined": False}), ("loss", {"loss": "mae"}),
        ("loss", {"loss": keras.losses.Huber(0.01)}), ("loss_weights", {"loss_weights": [3.0]}),
        ("metrics", {"metrics": ["mse"]}), ("optimizer", {"optimizer": keras.optimizers.Adam(0.1)}),
        ("optimizer", {"optimizer": keras.optimizers.Adam(clipnorm=1.0)}),
        ("optimizer", {"optimizer": keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 7))}),
    ],
)  # fmt: skip
def test_each_change_shows_under_its_name(key, change):
    one, other = mark(made()), mark(made(**change))
    assert one["optimizer"]["learning_rate"] == 0.001
    assert {name for name in {*one, *other} - {"model"} if one.get(name) != other.get(name)} == {key}


def test_the_body_of_a_loss_and_what_it_closes_over_count():
    assert mark(made(loss="own"))["loss"] != mark(made(loss="own", gamma=3.0))["loss"]

    def loss_of(number):  # the same name, another body
        def loss(y, outputs):
            return keras.ops.mean(y - outputs, -1)

        def other(y, outputs):
            return keras.ops.mean(outputs - y, -1)

        other.__qualname__ = loss.__qualname__
        return [loss, other][number]

    assert mark(made(loss=loss_of(0)))["loss"] != mark(made(loss=loss_of(1)))["loss"]
    assert mark(made(loss=loss_of(0)))["loss"] == mark(made(loss=loss_of(0)))["loss"]

    def with_default(number):
        def loss(y, outputs, *, weight=number):
            return weight * keras.ops.mean(y - outputs, -1) if weight else later

        if not number:
            later = 0.0
        return loss

    marks = [mark(made(loss=with_default(number)))["loss"] for number in (2.0, 3.0)]
    assert marks[0] != marks[1]


def test_a_seed_that_a_layer_has_drawn_is_none_of_the_users():
    def with_crop():
        inputs = keras.Input((6, 6, 1))
        outputs = L.Dense(1, kernel_initializer="zeros")(L.Flatten()(L.RandomCrop(4, 4)(inputs)))
        model = keras.Model(inputs, outputs, name="same")
        model.compile("sgd", "mse")
        return model

    one, other = with_crop(), with_crop()
    assert one.layers[1].seed != other.layers[1].seed and mark(one) == mark(other)


def test_lambdas_are_the_same_wherever_they_stand():
    def with_lambda():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), L.Dense(2)], name="same")
        wrapped = keras.metrics.MeanMetricWrapper(lambda y, outputs: y - outputs)
        model.compile("adam", lambda y, outputs: keras.ops.mean(y - outputs), metrics=[wrapped])
        return mark(model)

    assert with_lambda() == with_lambda()


def test_a_class_with_a_compile_of_its_own_is_told_by_what_it_says():
    @keras.saving.register_keras_serializable("test_fingerprints")
    class Own(keras.Model):
        def compile(self, optimizer, rate):
            super().compile(optimizer, "mse")
            self.rate = rate

        def get_compile_config(self):
            return {"rate": self.rate, "optimizer": keras.saving.serialize_keras_object(self.optimizer)}

        def compile_from_config(self, config):
            self.compile(keras.saving.deserialize_keras_object(config["optimizer"]), config["rate"])

    inputs = keras.Input((4,))
    model = Own(inputs, L.Dense(2)(inputs))
    model.compile("sgd", 0.5)
    before = mark(model)
    model.compile("sgd", 0.25)
    assert before["compile"]["rate"] == 0.5 and mark(model)["compile"]["rate"] == 0.25
    assert np.all([before[name] == value for name, value in mark(model).items() if name != "compile"])


OWN_PARTS = """
import keras, tensorflow as tf
from keras import ops

class Other:
    pass

class Base(keras.layers.Layer):
    def helper(self, x):
        return x + 0.0

class Scale(Base):
    by = 1.0
    def call(self, x):
        return self.helper(x) * self.by

class Loss(keras.losses.Loss):
    def call(self, y, outputs):
        return 31.0 * ops.mean(ops.square(y - outputs), -1)

class Metric(keras.metrics.Mean):
    @property
    def factor(self):
        return 5.0
    def update_state(self, y, outputs, sample_weight=None):
        return super().update_state(self.factor * ops.mean(y - outputs))

@tf.function
def gradient_of(x):
    return x - 11.0

class Own(keras.Model):
    def train_step(self, data):
        return 13.0 * super().train_step(data)

class Penalty(keras.regularizers.Regularizer):
    def __call__(self, kernel):
        return 17.0 * ops.sum(kernel)
    def get_config(self):
        return {}

def shifted(by=19.0):
    def activation(x):
        return x + by
    return activation

def make():
    L = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = L.Lambda(lambda x: x - 23.0)(Scale()(inputs))
    x = L.TimeDistributed(L.Dense(3, kernel_regularizer=Penalty()))(L.Reshape((2, 2))(x))
    x = L.Activation(shifted())(x)
    model = Own(inputs, L.Dense(1, activation=gradient_of)(L.Flatten()(x)), name="own")
    model.compile("sgd", loss=[Loss()], metrics=[[Metric(name="mine")]])
    return model
"""


def changed(tmp_path, old, new, text=OWN_PARTS):
    """What differs after an edit of a file, in words; nothing where all is the same."""
    marks = []
    for source in (text, text.replace(old, new)):
        (tmp_path / "parts.py").write_text(source)
        marks.append(json.dumps(mark(code.imported(tmp_path / "parts.py").make())))
    assert text != source and marks[0] == json.dumps(json.loads(marks[0]))
    return differences.told(differences.of_given(*marks))


@pytest.mark.parametrize(
    "old, new, names",
    [
        ("self.helper(x) *", "self.helper(x) * -", ["Scale.call"]), ("x + 0.0", "x + 1.0", ["Base.helper"]),
        ("by = 1.0", "by = 2.0", ["Scale"]), ("31.0", "8.0", ["Loss.call"]), ("5.0\n", "4.0\n", ["Metric.factor"]),
        ("11.0", "12.0", ["gradient_of"]), ("13.0", "14.0", ["Own.train_step"]), ("17.0", "18.0", ["Penalty.__call__"]),
        ("x - 23.0", "x - 24.0", ["make.<locals>.<lambda>"]),
        ("x + by", "x * by", ["shifted.<locals>.activation"]),
        ("Scale(Base)", "Scale(Base, Other)", ["Scale", "Other"]),
    ],
)  # fmt: skip
def test_code_of_classes_and_functions_of_the_users_is_told(old, new, names, tmp_path):
    """A layer whose `call` was edited made the file of another network, with all stages done before."""
    text = changed(tmp_path, old, new)
    assert [part.partition(" (fingerprint")[0] for part in text.split("; ")] == [f"the code of {name}" for name in names]


def test_where_code_stands_is_no_difference(tmp_path):
    assert changed(tmp_path, "import keras,", "# a comment\n\nimport keras,") == ""


def test_parts_of_keras_have_no_code_and_folders_of_older_versions_go_on():
    new = mark(made(metrics=["mae", keras.metrics.AUC()], optimizer=keras.optimizers.Adam(1e-3)))
    assert new["code"] == {}
    old = {name: value for name, value in mark(made(loss="own")).items() if name != "code"}
    assert differences.of_given(json.dumps(old), json.dumps(mark(made(loss="own")))) == {}
    assert "loss" in differences.of_given(json.dumps(old), json.dumps(mark(made(loss="own", gamma=3.0))))


def test_a_training_in_between_changes_no_code(tmp_path):
    (tmp_path / "parts.py").write_text(OWN_PARTS.replace("13.0 * super()", "super()"))
    model = code.imported(tmp_path / "parts.py").make()
    before = mark(model)["code"]
    model.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0)
    assert mark(model)["code"] == before and len(before) > 8


READ = """
import math, time, keras
import numpy as np
from keras import ops

STARTED = time.time()
W = 1.0
CLASSES = {"a": [1, 2], "b": (None, "text")}
TABLE = np.array([1.0, 2.0])
LOG, STATE, COUNT, SEEN = [], {"epoch": 0}, 0, {3, 1}
MARK = object()

def deeper(x):
    return x - 29.0

def helper(x):
    return deeper(x) * W

class Annealing(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        STATE["epoch"] = epoch

class Helper:
    def twice(self, x):
        return 2.0 * x

HELP = Helper()
ALL = {"one": lambda x: x + 37.0}

def loss(y, outputs):
    global COUNT
    COUNT += 1
    LOG.append(1.0)
    out = {}
    out["a"] = HELP.twice(helper(outputs)) + STATE["epoch"] + len(CLASSES["a"]) + TABLE[0] + (3 in SEEN) + math.pi
    return ops.mean(ALL["one"](out["a"]) - y + (MARK is None) + min(STARTED, 0.0), -1)

def make():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)], name="same")
    model.compile("sgd", loss)
    return model
"""


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("W = 1.0", "W = 50.0", "W in your code: 1.0 there, 50.0 now"), ("29.0", "30.0", "the code of deeper (fingerprint"),
        ("[1, 2]", "[1, 3]", "CLASSES in your code: {'a': [1, 2], 'b'"),
        ("{3, 1}", "{3, 2}", "SEEN in your code: {3, 1} there, {3"),
        ("1.0, 2.0]", "1.0, 3.0]", "TABLE in your code: np.array("), ("2.0 * x", "3.0 * x", "the code of Helper.twice (finger"),
        ("37.0", "38.0", "the code of <lambda> (finger"), ("29.0", "29.0  # the same", ""),
        ("[], {", "[7], {", "LOG in your code: [] there, [7] now"),
        ("time.time()", "time.time() + 0.5", "STARTED in your code: time."),
    ],
)  # fmt: skip
def test_what_code_reads_of_its_file_is_told(old, new, told, tmp_path):
    """A constant of the module and a function that the loss calls could be edited with all stages done before."""
    text = changed(tmp_path, old, new, READ)
    assert text.startswith(told) and bool(text) == bool(told)


@pytest.mark.parametrize("old, new, told", [("by = 1.0", "by = 2.0", "Scale"), ("by=19.0", "by=20.0", "shifted")])
def test_constants_of_classes_and_defaults_are_told_as_they_are_written(old, new, told, tmp_path):
    found = []
    for source in (OWN_PARTS, OWN_PARTS.replace(old, new)):
        (tmp_path / "parts.py").write_text(source)
        module = code.imported(tmp_path / "parts.py")
        found.append(own_code.of(module.Scale, module.shifted))
    assert {name for name in found[0] if found[0][name] != found[1][name]} == {told}


def test_what_code_changes_as_it_runs_is_no_difference(tmp_path):
    """A cell that is stopped and run again goes on, also where the code has counted, kept or annealed something."""
    (tmp_path / "parts.py").write_text(READ)
    module = code.imported(tmp_path / "parts.py")
    model, before = module.make(), mark(module.make())
    model.fit(np.ones((4, 4)), np.ones((4, 1)), epochs=2, callbacks=[module.Annealing()], verbose=0)
    assert mark(module.make()) == before and module.COUNT and module.LOG and module.STATE == {"epoch": 1}
    read = ["ALL", "CLASSES", "COUNT", "HELP", "LOG", "MARK", "SEEN", "STARTED", "STATE", "TABLE", "W"]
    names = [*read, "Helper", "deeper", "helper", "loss"]
    assert sorted(set(before["code"]) & set(vars(module))) == sorted(names)


def test_constants_of_other_files_and_of_notebooks_are_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_numbers.py").write_text("FIRST = [1.0, 2.0]\nSECOND = 3.0\nSECOND += 1.0\n")
    (tmp_path / "parts.py").write_text(
        "from own_numbers import FIRST as ONE\nfrom own_numbers import *\nif True:\n    THIRD: int = 5\n"
        "def loss(y, p):\n    return ONE[0] * SECOND * THIRD * sum(p - y)\n"
    )
    found = own_code.of(code.imported(tmp_path / "parts.py").loss)
    assert found.pop("loss") and found == {"ONE": "[1.0, 2.0]", "SECOND": "3.0; SECOND += 1.0", "THIRD": "5"}
    cell = {"W": 2.0, "TABLE": [1], "COUNT": 0}
    exec("def loss(y, p):\n    global COUNT\n    COUNT += 1\n    return W * TABLE[0] * sum(p - y)", cell)
    assert own_code.of(cell["loss"]).keys() == {"loss"}  # values may differ in the next run: a time, a path


PASSING = """
import datetime, functools, itertools, random, tempfile, time, uuid
import keras
from keras import ops

NODES = {}
NODES["self"] = NODES
OTHER = """ + " + ".join(["1"] * 400) + """
random_by = random.random()

class Raising:
    __slots__ = ("_d",)
    def __init__(self):
        self._d = {}
    def __getattr__(self, name):
        return self._d[name]

class Layer(keras.layers.Layer):
    created, run, count = time.time(), uuid.uuid4(), itertools.count()
    seen, tree = [], NODES
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.seen.append(next(self.count))
        self.held = Raising()
    def call(self, x):
        return x

class Loss(keras.losses.Loss):
    def call(self, y, p):
        return ops.mean(y - p + 0.0 * random_by, -1)

Loss.folder = tempfile.mkdtemp()

def timed(function):
    times = []
    @functools.wraps(function)
    def inner(y, p, stamp=time.time(), cache={}, run=None):
        times.append(1)
        cache[len(cache)] = stamp, run
        return function(y, p)
    return inner

@timed
def metric(y, p):
    return ops.mean(y - p, -1)

def make():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), Layer(), keras.layers.Dense(1)], name="same")
    model.compile("sgd", Loss(), metrics=[functools.partial(metric, run=str(uuid.uuid4()))])
    return model
"""


def test_what_differs_from_run_to_run_is_no_difference(tmp_path):
    """Times, paths, counters and places in memory, and objects and sums that nothing can look into."""
    (tmp_path / "parts.py").write_text(PASSING)
    codes = []
    for _ in range(2):
        module = code.imported(tmp_path / "parts.py")
        model = module.make()
        model.evaluate(np.ones((4, 4)), np.ones((4, 1)), verbose=0)
        codes.append(own_code.of(model, module.Loss(), module.metric))
        (tmp_path / "parts.py").write_text(PASSING + "# edited, so that it is imported anew")
    assert codes[0] == codes[1] and {"Layer", "Layer.call", "Loss.call", "metric"} <= codes[0].keys()


def test_what_code_reads_is_the_same_in_a_process_that_hashes_otherwise(tmp_path):
    (tmp_path / "parts.py").write_text(READ)
    made = "from tf_reweight.data import code; from tf_reweight.workflow import own_code; import sys; "
    made += "print('told:', own_code.of(code.imported(sys.argv[1]).loss))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-W", "ignore", "-c", made, str(tmp_path / "parts.py")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split("told: ")[1].strip() == str(own_code.of(code.imported(tmp_path / "parts.py").loss))
