"""Budgets of bytes and milliseconds: what files have is predicted, measured, and met."""

import contextlib
import importlib.util
import re
import warnings

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tf_reweight import budget as budgets
from tf_reweight import structures
from tf_reweight.coupling.attachment import regularize_coupled
from tf_reweight.coupling.pruning import check_within_reach
from tf_reweight.filecost import files, operations, zeros
from tf_reweight.graph.counting import count_macs, kernel_uses
from tf_reweight.kernels import filed, measured
from tf_reweight.kernels.quantities import Curve, Linear, Product, Timed, interpolated
from tf_reweight.kernels.table import find
from tf_reweight.penalties.attachment import attachments, regularize
from tf_reweight.workflow import folder, reach
from tf_reweight.workflow.as_trained import as_trained
from tf_reweight.workflow.config import Config

L = keras.layers


def small(width=48):
    keras.utils.set_random_seed(0)
    hidden = [L.Dense(width, activation="relu"), L.Dense(width, activation="relu")]
    return keras.Sequential([keras.Input((20,)), *hidden, L.Dense(4)])


def open_ended():
    return keras.Sequential([keras.Input((None, 3)), L.Conv1D(8, 3), L.Conv1D(2, 3)])


def test_texts_name_a_precision_and_measurements_come_back():
    budget = budgets.get("bytes=0.5, precision=float32")
    assert budget == budgets.Budget(bytes=0.5, precision="float32") == budgets.Budget.parse("bytes=0.5,precision=float32")
    assert budgets.get(budget.to_dict()) == eval(repr(budget), {"Budget": budgets.Budget}) == budget
    known = budgets.Budget(bytes=0.5, calibration={"bytes": {"points": [[1.0], [2.0]]}})
    assert known.is_calibrated and not budget.is_calibrated and budgets.get(known.to_dict()).calibration == known.calibration
    assert budgets.Budget(latency_ms=2.5).amounts == {"latency_ms": 2.5}


def test_a_text_in_the_place_of_numbers_is_explained():
    with pytest.raises(TypeError, match=r"Budget.parse\('macs=0.5'\)"):
        budgets.Budget("macs=0.5")
    with pytest.raises(ValueError, match="Received: budget=Budget\\(accuracy_drop=0.01\\). Call compress"):
        tfr.prune_groups(small(), budget="accuracy_drop=0.01")


def test_curves_go_through_their_points_and_on():
    found = interpolated([0.0, 1.0, 2.0, 4.0, 6.0], [1.0, 2.0, 4.0], [10.0, 20.0, 60.0])
    assert np.allclose(found, [0.0, 10.0, 20.0, 60.0, 100.0])
    assert interpolated(5.0, [3.0], [10.0]) == 12.0


def test_what_one_group_changes_is_the_difference_of_two_amounts():
    members, fixed = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 1.0]]), np.array([1.0, 0.0])
    times = (([0.0, 54.0], [1.0, 4.0]), ([5.0, 15.0], [1.0, 3.0]))
    timed = Timed((Product(3.0, 2, (0, 1)), Product(1.0, 5, (1,))), members, fixed, times)
    curve = Curve(Linear(np.array([4.0, 2.0, 2.0, 1.0]), 1.0), [1.0, 5.0, 10.0], [3.0, 4.0, 9.0])
    for quantity in (timed, curve):
        for keep in (np.ones(4, bool), np.array([1, 0, 1, 0], bool)):
            changes = quantity.changes(keep)
            for group in range(4):
                other = keep.copy()
                other[group] = not other[group]
                assert np.isclose(changes[group], abs(quantity.at(other) - quantity.at(keep)))
    assert timed.at(np.ones(4, bool)) == 4.0 + 3.0


@pytest.mark.parametrize("name", ["bytes", "zipped_bytes"])
def test_files_without_channels_have_what_the_budget_says(name):
    model = small()
    dense = files.sizes(files.content_of(model, "float32"))
    tfr.prune_groups(model, budget={name: 0.5, "precision": "float32"})
    left = files.sizes(files.content_of(tfr.shrink(model), "float32"))
    assert 0.97 < left[name] / dense[name] / 0.5 <= (1.0 if name == "bytes" else 1.02)


def test_files_with_zeros_have_what_the_budget_says_and_the_penalty_knows_it(monkeypatch):
    monkeypatch.setattr("tf_reweight.filecost.zeros._LEFT", (1.0, 0.3, 0.05))
    model = small(64)
    dense = files.sizes(files.content_of(model, "float32"))
    regularize(model, "unstructured", budget="bytes=0.6,precision=float32")
    penalty = attachments(model)[0].regularizer
    assert penalty.budget.is_calibrated and type(penalty).from_config(penalty.get_config()).budget.is_calibrated
    tfr.detach(model)
    tfr.prune(model, "unstructured", budget=penalty.budget)
    left = files.sizes(files.content_of(model, "float32"), packed=True)
    assert 0.98 < left["bytes"] / dense["bytes"] / 0.6 <= 1.01


def test_zipped_files_are_measured_again_when_training_has_moved_the_weights(monkeypatch):
    """Values of other frequencies zip to another size: the file has what the budget says all the same."""
    monkeypatch.setattr("tf_reweight.filecost.zeros._LEFT", (1.0, 0.3))
    model = small(96)
    regularize(model, "unstructured", budget="zipped_bytes=0.5,precision=int8")
    dense = attachments(model)[0].regularizer.budget.calibration["zipped_bytes"]["points"][1][-1]
    for variable in model.trainable_variables:
        variable.assign(np.sign(variable) * np.abs(variable) ** 0.3)
    rng = np.random.default_rng(0)
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    model.fit(
        rng.normal(size=(64, 20)), rng.normal(size=(64, 4)), batch_size=1, verbose=0,
        callbacks=[tfr.callbacks.BudgetProximal(until=0.5)],
    )  # fmt: skip
    tfr.prune(model)
    left = files.sizes(files.content_of(model, "int8"), packed=True)["zipped_bytes"]
    assert 0.98 < left / dense / 0.5 <= 1.01


@pytest.mark.parametrize("budget", ["bytes=100000", "bytes=100000,weights=1000000", "bytes=1.0"])
def test_a_budget_that_the_dense_file_meets_is_met_whether_or_not_zeros_make_files_smaller(budget, monkeypatch):
    """It was refused, since what has to go was asked before whether anything has to."""
    monkeypatch.setattr("tf_reweight.filecost.files.content_of", lambda model, precision: b"")
    monkeypatch.setattr("tf_reweight.filecost.files.sizes", lambda content, packed: {"bytes": 2000, "zipped_bytes": 1500})
    model = small(4)
    before = model.get_weights()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tfr.prune(model, "unstructured", budget=budget)
    assert any("met by the dense model" in str(item.message) and "nothing has to go" in str(item.message) for item in said)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
    with pytest.raises(ValueError, match="bytes does not fall with them here"):
        tfr.prune(model, "unstructured", budget="bytes=0.9")


def test_a_budget_of_files_is_put_on_once():
    """Each call measured files in which its own kernels alone have zeros, and the first one's curve was taken for all."""
    model = small()
    regularize(model, "unstructured", budget="zipped_bytes=0.95", layers=model.layers[:1])
    with pytest.raises(ValueError, match="all kernels at once.*Received: budget="):
        regularize(model, "unstructured", budget="zipped_bytes=0.95", layers=model.layers[1:])
    assert [item.target.layer.name for item in attachments(model)] == [model.layers[0].name]


def test_times_are_predicted_by_single_operations_and_fitted_to_files(monkeypatch):
    """With a clock that counts bytes, which falls with channels whatever else the machine does."""
    clock = lambda contents: [len(content) * 1e-3 for content in contents]  # noqa: E731
    monkeypatch.setattr("tf_reweight.filecost.channels.times", clock)
    monkeypatch.setattr(operations, "times", clock)
    model = small()
    dense = len(files.content_of(model, "float32"))
    report = regularize_coupled(model, budget="latency_ms=0.6,precision=float32")
    budget = report.penalties[0].budget
    assert len(budget.calibration["latency_ms"]["operations"]) == 3
    tfr.detach(model)
    tfr.prune_groups(model, budget=budget)
    assert 0.93 < len(files.content_of(tfr.shrink(model), "float32")) / dense / 0.6 <= 1.03


def test_an_operation_at_each_step_takes_as_long_as_all_its_runs(monkeypatch):
    monkeypatch.setattr(operations, "times", lambda contents: [len(content) * 1e-3 for content in contents])
    row, steps = (L.Input(shape) for shape in ((8, 3), (5, 8, 3)))
    inner = keras.Sequential([L.Input((None, 3)), L.Conv1D(4, 3)])
    alone, repeated = keras.Model(row, inner(row)), keras.Model(steps, L.TimeDistributed(inner)(steps))
    (once,), (often,) = (operations.curves(kernel_uses(model), "float32") for model in (alone, repeated))
    np.testing.assert_allclose(often, 5 * np.asarray(once))
    assert once[0][-1] == count_macs(alone) == 6 * 36


def test_files_that_channels_do_not_make_faster_are_said(monkeypatch):
    monkeypatch.setattr("tf_reweight.filecost.channels.times", lambda contents: [1.0] * len(contents))
    monkeypatch.setattr(operations, "times", lambda contents: [len(content) * 1e-3 for content in contents])
    with pytest.raises(ValueError, match="must have less latency_ms than the dense one"):
        tfr.prune_groups(small(12), budget="latency_ms=0.8,precision=float32")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: tfr.prune(small(), "filter", budget="latency_ms=0.5"), "make no file faster"),
        (lambda: regularize(small(), "unstructured", budget="latency_ms=0.5"), "make no file faster"),
        (lambda: tfr.prune_groups(small(), budget="bytes=0.5,precision=int9"), "Did you mean 'int8'"),
        (lambda: tfr.prune_groups(open_ended(), budget="bytes=0.5"), "known sizes"),
        (lambda: tfr.prune_groups(small(8), budget="bytes=100,precision=float32"), "at least .* of the dense model's .* bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_limited_is_refused_and_says_why(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_milliseconds_without_a_runtime_are_refused(monkeypatch):
    find = importlib.util.find_spec
    without = lambda name, *more: None if name == "ai_edge_litert" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ImportError, match="needs LiteRT"):
        tfr.prune_groups(small(), budget="latency_ms=0.5")


def least_said(model, amount, multiple):
    """The bytes that a refusal calls the least."""
    with pytest.raises(ValueError, match="must leave at least") as caught:
        check_within_reach(model, budgets.get({"bytes": amount, "precision": "float32"}), multiple)
    return int(re.search(r"at least ([\d,]+)", str(caught.value))[1].replace(",", ""))


@pytest.mark.parametrize("multiple", [1, 8])
def test_the_least_that_a_refusal_names_is_accepted(multiple):
    """It was a prediction from the dense file alone, and one without the multiple that channels are kept to."""
    model = as_trained(small(32))
    least = least_said(model, 1000, multiple)
    check_within_reach(model, budgets.get({"bytes": least, "precision": "float32"}), multiple)
    assert least_said(model, round(0.95 * least), multiple) <= 1.02 * least


def test_a_model_that_is_to_be_trained_is_measured_as_training_leaves_it():
    """Zero biases are in no file: a budget passed before training, and was refused after it."""
    fresh = small(32)
    trained = keras.models.clone_model(fresh)
    trained.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trained.fit(np.random.default_rng(0).normal(size=(64, 20)).astype("float32"), np.arange(64) % 4, verbose=0)
    sizes = [len(files.content_of(model, "int8")) for model in (fresh, as_trained(fresh), trained)]
    assert sizes[0] < 0.95 * sizes[2] and abs(sizes[1] - sizes[2]) <= 0.01 * sizes[2]
    settings = {"regularize": {"coupled": {}}, "prune": {"budget": {"bytes": (sizes[0] + sizes[2]) // 2, "precision": "int8"}}}
    for epochs, is_met in ((0, True), (1, False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            reach.check_files(Config.model_validate({"train": {"epochs": epochs}, **settings}), fresh)
        assert any("nothing has to go" in str(item.message) for item in caught) == is_met
    assert not np.any(fresh.get_weights()[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_that_is_over_in_truth_is_cut_again(monkeypatch):
    """Other weights are left than in the files that were measured: one of 7,120 bytes came of a budget of 7,000."""
    monkeypatch.setattr("tf_reweight.filecost.zeros._LEFT", (1.0, 0.3))
    left = []
    for has in ([12_900], [15_000, 12_900], [15_000, 14_500, 12_900], [15_000] * 5):
        measured = iter(has)
        monkeypatch.setattr(zeros, "_sizes_now", lambda *given, measured=measured: {"bytes": next(measured)})
        model, stays_over = small(64), has[-1] > 13_000
        with pytest.warns(UserWarning, match="15,000 bytes where 13,000") if stays_over else contextlib.nullcontext():
            tfr.prune(model, "unstructured", budget="bytes=13000,precision=float32")
        left.append(sum(size - zero for zero, size in tfr.sparsity(model).values()))
        assert next(measured, None) is None
    assert left == sorted(left, reverse=True) and len(set(left)) == len(left)


@pytest.mark.parametrize("part", [0.9, pytest.param(0.93, marks=pytest.mark.slow)])
def test_a_second_cut_leaves_less_and_the_report_counts_what_is_left(part):
    """Zipped files of a net whose curve bulges: the first cut had been over by a few bytes, and the next ones cut nothing."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 1))
    h = L.ReLU()(L.BatchNormalization()(L.Conv2D(16, 3, padding="same")(x)))
    h = L.GlobalAveragePooling2D()(L.Conv2D(32, 3, activation="relu")(h))
    model = keras.Model(x, L.Dense(4, activation="softmax")(h))
    limit = part * files.sizes(files.content_of(model, "int8"), packed=True)["zipped_bytes"]
    report = tfr.prune(model, "unstructured", budget=f"zipped_bytes={part}")
    assert files.sizes(files.content_of(model, "int8"), packed=True)["zipped_bytes"] <= limit
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    assert [item.kept_weights for item in report.kernels] == [int(np.count_nonzero(kernel)) for kernel in kernels]


def counted(monkeypatch, cut=None):
    """Files of so many bytes as there are weights that are not zero; the process is cut off instead of the file `cut`."""
    made = []

    def content_of(model, precision):
        if len(made) == cut:
            raise KeyboardInterrupt
        made.append(sum(int(np.count_nonzero(weight)) for weight in model.get_weights()))
        return made[-1]

    monkeypatch.setattr(files, "content_of", content_of)
    monkeypatch.setattr(files, "sizes", lambda content, packed=False: {"bytes": content, "zipped_bytes": content})
    return made


@pytest.mark.parametrize("of", ["of_zeros", "of_channels"])
def test_what_was_measured_before_a_cut_is_not_measured_again(of, tmp_path, monkeypatch):
    """A model with an LSTM was measured for minutes, and the same again after each cut before the first stage was done."""
    model, said = small(12), []
    pairs = [(item, structures.get("unstructured")) for item in find(model)[0]]
    budget = tfr.Budget(bytes=0.5, precision="float32")

    def measured_in(path):
        with measured.kept(path, said.append):
            return filed.calibrated(model, budget, of, pairs).calibration

    every = counted(monkeypatch)
    expected = measured_in(tmp_path / "whole" / "measured.json")
    assert len(every) > 1 and "files of the model are written and measured" in said[0]
    for cut in {1, len(every) - 1}:
        before, path = counted(monkeypatch, cut), tmp_path / f"{cut}" / "measured.json"
        with pytest.raises(KeyboardInterrupt):
            measured_in(path)
        again = counted(monkeypatch)
        assert measured_in(path) == expected and before + again == every
    for damaged in ("damaged", path.read_text().replace("1", "7")):
        path.write_text(damaged)
        assert measured_in(path) == expected
    # Nothing is kept where nobody says where, and other weights are another file.
    assert filed.calibrated(model, budget, of, pairs).calibration == expected
    model.set_weights([weight * 2 for weight in model.get_weights()])
    again = counted(monkeypatch)
    assert measured_in(path) == expected and again == every


def test_long_measurements_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "_LONG", 0.0)
    said = []
    with measured.kept(tmp_path / "measured.json", said.append):
        for _ in range(2):
            assert measured.once(lambda: [b"this"], "the file", lambda: {"bytes": 12345}) == {"bytes": 12345}
        measured.once(None, "the times", lambda: {"latency_ms": 0.25})
    assert said == ["the file: bytes 12,345; 0 s", "the times: latency_ms 0.25; 0 s"]


def test_measurements_alone_make_no_run_and_a_refusal_leaves_none(tmp_path):
    path = tmp_path / "runs" / "mine"
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), folder.without_traces(path):
            path.mkdir(parents=True)
            (path / folder.MEASURED).write_text("{}")
            raise error
        assert (tmp_path / "runs").exists() == (error is KeyboardInterrupt)
    folder.Folder.check(path, "seed: 0\n")
    (path / "other.txt").write_text("")
    with pytest.raises(ValueError, match="must be new, empty"):
        folder.Folder.check(path, "seed: 0\n")
