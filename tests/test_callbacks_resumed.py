"""What a callback keeps when its training is cut off and another process, with a callback of its own, goes on."""

import collections
import functools
import io
import json
import pathlib
import threading
import time

import keras
import numpy as np
import pytest
from rich.console import Console

from tf_reweight.reports.curves import Curves
from tf_reweight.workflow import attributes, plain
from tf_reweight.workflow.attributes import Attributes
from tf_reweight.workflow.checkpoint import Checkpoint


class Own(keras.callbacks.Callback):
    """Arguments, a clock, and collections that its epochs change in place."""

    def __init__(self, limit=20, size=4):
        super().__init__()
        self.limit, self.data, self.average, self.epochs = limit, np.arange(size), np.zeros(size), 0
        self.counts, self.by_name, self.seen = collections.Counter(), collections.defaultdict(list), set()
        self.last, self.ordered, self.plain = collections.deque(maxlen=2), collections.OrderedDict(), []

    def on_train_begin(self, logs=None):
        self.begun, self.waited = time.perf_counter(), 0

    def on_epoch_end(self, epoch, logs=None):
        self.average += epoch + 1
        self.epochs += 1
        self.waited += 1
        self.counts["epochs"] += 1
        self.by_name["loss"].append(epoch)
        self.seen.add((epoch, "a"))
        self.last.append(epoch)
        self.ordered[epoch] = None
        self.plain.append(epoch)


def begun(callback):
    found = Attributes(callback)
    callback.on_train_begin()
    found.begin()
    return found


def kept(found):
    """What is kept, as a file holds it, and its arrays."""
    arrays = {}
    values = json.loads(json.dumps(found.kept(arrays)))
    return values, {name: array.copy() for name, array in arrays.items()}


def cut_after(callback, epochs):
    found = begun(callback)
    for epoch in range(epochs):
        callback.on_epoch_end(epoch)
    return kept(found)


@pytest.mark.parametrize("size", [4, attributes._DATA_BYTES // 8 + 1])
def test_what_epochs_change_goes_on_however_large_and_in_whatever_collection(size):
    whole, again = Own(size=size), Own(size=size)
    cut_after(whole, 4)
    values, arrays = cut_after(Own(size=size), 2)
    assert begun(again).go_on(values, arrays) == []
    for epoch in (2, 3):
        again.on_epoch_end(epoch)
    np.testing.assert_array_equal(again.average, whole.average)
    for name in ("epochs", "waited", "counts", "by_name", "seen", "last", "ordered", "plain"):
        value = vars(again)[name]
        assert value == vars(whole)[name] and type(value) is type(vars(whole)[name]), name
    assert again.last.maxlen == 2 and again.by_name["new"] == []
    # Data that no epoch changes are not written each time.
    assert len(arrays) == (2 if size == 4 else 1)


def test_arguments_and_clocks_are_those_of_the_process_that_goes_on():
    values, arrays = cut_after(Own(limit=1), 2)
    again = Own(limit=99)
    found = begun(again)
    clock = again.begun
    assert found.go_on(values, arrays) == ["Own: limit as given now, not as in the part that is done"]
    assert (again.limit, again.begun, again.epochs) == (99, clock, 2)


def test_the_same_object_goes_on_in_its_own_process():
    """Broken off inside an epoch, which is trained again: what it had changed there is put back, its arguments are not."""
    callback = Own()
    found = begun(callback)
    first = kept(found)
    callback.on_epoch_end(0)
    assert begun(callback).go_on(*first) == [] and callback.epochs == 0 and callback.plain == [] and not callback.average.any()
    values = cut_after(callback, 2)
    callback.on_epoch_end(2)
    assert begun(callback).go_on(*values) == [] and callback.plain == [0, 1] and callback.average[0] == 3


def test_what_an_earlier_stage_changed_is_state_in_the_next_one():
    """As the best value of `ModelCheckpoint`, which later stages need not reach."""
    callback = keras.callbacks.ModelCheckpoint("a.weights.h5", save_weights_only=True, save_best_only=True)
    begun(callback)
    callback.best = 0.25
    values, arrays = kept(begun(callback))
    other = keras.callbacks.ModelCheckpoint("b.weights.h5", save_weights_only=True, save_best_only=True)
    assert begun(other).go_on(values, arrays) == ["ModelCheckpoint: filepath as given now, not as in the part that is done"]
    assert other.best == 0.25 and other.filepath == "b.weights.h5"


def test_keras_own_callbacks_take_new_arguments_and_old_state():
    for make in (
        functools.partial(keras.callbacks.EarlyStopping, "loss", mode="min", restore_best_weights=True),
        functools.partial(keras.callbacks.ReduceLROnPlateau, "loss", mode="min"),
    ):
        old, new = make(patience=1), make(patience=99)
        found = begun(old)
        old.wait, old.best, old.best_weights = 1, 0.5, [np.ones(3)]
        values, arrays = kept(found)
        begun(new).go_on(values, arrays)
        assert (new.wait, new.best, new.patience) == (1, 0.5, 99) and new.best_weights[0].sum() == 3


def test_a_run_folder_that_was_moved_is_not_worth_a_line():
    values = kept(begun(Curves("dense", "here/curves.jsonl")))
    assert begun(Curves("dense", "there/curves.jsonl")).go_on(*values) == []


def test_what_cannot_be_kept_is_named():
    def made():
        callback = Own()
        callback.lock, callback.by_name, callback.made = threading.Lock(), collections.defaultdict(lambda: []), len
        callback.itself = [callback]
        return callback

    (line,) = begun(made()).go_on(*cut_after(made(), 1))
    assert line.startswith("Own: not kept, as this process has made it: by_name (defaultdict), lock (lock), itself (list); see")
    # Keras' own writers and files are made anew.
    logger = keras.callbacks.CSVLogger("a.csv")
    logger.csv_file = io.StringIO()
    assert kept(Attributes(logger))[0]["lost"] == {}


def test_a_callback_says_itself_what_goes_on():
    class Timed(Own):
        def checkpoint_state(self):
            return {"elapsed": 5.0} if self.epochs < 9 else object()

        def continue_from(self, state):
            self.begun -= state["elapsed"] * self.epochs  # the attributes are there already

    again = Timed()
    found = begun(again)
    clock = again.begun
    assert found.go_on(*cut_after(Timed(), 2)) == [] and again.begun == clock - 10.0
    again.epochs = 9
    with pytest.raises(TypeError, match=r"`Timed.checkpoint_state` must return numbers.*Received: contains='object'"):
        kept(found)


def test_callbacks_are_found_again_by_their_class(tmp_path):
    """Another one before them, and one less, shifts nobody's state; what is not as it was is said once."""
    x = np.ones((4, 2), "float32")
    console = Console(file=io.StringIO(), width=400)

    def fit(callbacks, epochs):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
        checkpoint = Checkpoint(tmp_path / "a.checkpoint", "dense", callbacks, console)
        model.fit(x, x[:, :1], epochs=epochs, verbose=0, callbacks=[*callbacks, checkpoint])

    fit([Own(1), Own(2), keras.callbacks.TerminateOnNaN()], 2)
    again = [keras.callbacks.EarlyStopping("loss"), Own(1), Own(3), Own(4)]
    fit(again, 3)
    assert [callback.epochs for callback in again[1:]] == [3, 3, 1]
    assert console.file.getvalue() == "dense: Own: limit as given now, not as in the part that is done\n"


def test_fingerprints_are_of_the_content_alone():
    values = [0, 0.0, False, None, "0", (0,), [0], {0}, frozenset({0}), {0: 0}, collections.Counter({0: 0}), b"0", 0j]
    values += [np.zeros(2), np.zeros(2, "float32"), np.zeros((2, 1)), np.zeros(2, complex), np.float32(0), pathlib.Path("0")]
    values += [float("nan"), collections.deque([0]), collections.deque([0], 1), collections.defaultdict(int, {0: 0})]
    assert len({plain.fingerprint(value).digest for value in values}) == len(values)
    assert plain.fingerprint({"b", "a", "c"}) == plain.fingerprint({"c", "b", "a"})
    for value in values:
        arrays = {}
        again = plain.unpacked(json.loads(json.dumps(plain.packed(value, arrays))), arrays)
        assert plain.fingerprint(again) == plain.fingerprint(value) and type(again) is type(value)
    for other in (np.ma.zeros(2), np.array([None]), collections.namedtuple("Point", "x")(1), range(3)):
        with pytest.raises(plain.NotPlain):
            plain.fingerprint(other)
