"""Looking for the smallest model within a drop, sweeping budgets, and the comparison with pruning at once."""

import importlib.util
import json
import pathlib
import types

import keras
import numpy as np
import pytest

import tf_reweight as tfr
from tests import tasks
from tf_reweight.cli import main
from tf_reweight.graph.counting import count_macs
from tf_reweight.reports import front as pages
from tf_reweight.reports.alarms import alarms_of
from tf_reweight.reports.progress import QUIET
from tf_reweight.tflite.latency import Latencies
from tf_reweight.workflow import fingerprints, fronts, judging, one_shot, search
from tf_reweight.workflow.config import load
from tf_reweight.workflow.folder import Folder
from tf_reweight.workflow.trainer import Trainer

EXPORT = {"precisions": ["int8"], "latency_runs": 1, "representative": 32, "verify": 16, "pack": False}
SMALL = {"export": EXPORT, "train": {"batch_size": 16}}
SHRUNK_TO_16 = {"shrink": {"multiple_of": 16}}
# Two rules on each kernel.
TWICE = {"rules": [{"structure": "filter"}, {}], "solver": "proximal"}
pytestmark = pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")


def data():
    keras.utils.clear_session()  # the same names each time, whichever test comes first
    model, x, y = tasks.integer_labels()
    return model, (x[:48], y[:48]), (x[48:], y[48:])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search in which every model is good enough, and its folder."""
    out = tmp_path_factory.mktemp("search") / "run"
    keras.utils.set_random_seed(0)
    how = {"budget": "accuracy_drop=0.99", "epochs": {"train": 1, "regularize": 2, "retrain": 2}, "config": SMALL, "out": out}
    return tfr.compress(*data(), console=QUIET, **how), how


def test_the_smallest_model_within_the_drop_is_shipped(found):
    result, _ = found
    tries = result["search"]["tries"]
    assert all(attempt["good_enough"] for attempt in tries) and 1 <= len(tries) <= 6
    assert [attempt["left"] for attempt in tries] == sorted((attempt["left"] for attempt in tries), reverse=True)
    dense, *_, last = result["stages"]
    assert last["num_macs"] <= tries[-1]["macs"] < dense["num_macs"]
    assert result["files"][-1]["num_bytes"] < result["files"][0]["num_bytes"]
    assert json.loads((result.best_file.parent / "search.json").read_text()) == result["search"]


def test_a_search_judges_the_file_that_is_shipped(found):
    """It judged the Keras model: an int8 file that lost 0.060 was shipped where 0.005 were asked for."""
    result, how = found
    *_, last = result["search"]["tries"]
    shipped = next(file for file in result["files"] if file["name"] == result["shipped"])
    assert result["search"]["precision"] == shipped["precision"] == "int8"
    assert last["file"] == shipped["validation"]["accuracy"] and result["summary"]["over_budget"] == {}
    assert len(list((how["out"] / "search").glob("*/judged.json"))) == len(result["search"]["tries"])


def test_where_no_file_is_good_enough_the_smallest_keras_model_that_is_goes_on(tmp_path, monkeypatch):
    measured = iter([1.0, None])
    monkeypatch.setattr(judging, "executed", lambda *given: next(measured))
    monkeypatch.setattr(search, "_tries", lambda config: 1)
    epochs, out = {"train": 1, "regularize": 1, "retrain": 0}, tmp_path / "run"
    result = tfr.compress(*data(), budget="accuracy_drop=0.99", epochs=epochs, config=SMALL, out=out, console=QUIET)
    assert [(attempt["file"], attempt["good_enough"]) for attempt in result["search"]["tries"]] == [(None, False)]
    assert result["stages"][-1]["num_macs"] < result["stages"][0]["num_macs"]


@pytest.mark.parametrize("dense, precision", [(0.5, "int8"), (0.2, None), (None, None)])
def test_keras_models_are_judged_where_the_dense_model_has_no_file_that_is_good_enough(dense, precision, monkeypatch):
    """No smaller model will have one: every try would be too far behind."""
    monkeypatch.setattr(judging, "executed", lambda *given: dense)
    metric = {"name": "accuracy", "mode": "max", "proportion": True}
    scorer = types.SimpleNamespace(measures_files=True)
    run = types.SimpleNamespace(config=load({}), model=None, metric=metric, console=QUIET, scorer=scorer)
    assert search._precision_of(run, 0.55, 0.1) == precision


def test_what_was_judged_is_kept_and_measured_again_where_its_record_is_damaged(tmp_path, monkeypatch):
    measured = iter([0.5, 0.6, 0.7, np.float32(0.75)])
    monkeypatch.setattr(judging, "_measured", lambda *given: next(measured))
    run = types.SimpleNamespace(folder=Folder(tmp_path / "run", "a: b"))
    assert [judging.executed(run, None, "int8") for _ in range(2)] == [0.5, 0.5]
    assert judging.executed(run, None, "int16") == 0.6
    for damage in (b"{", b"[1]", b"{}", b"\xff", b'{"precision": "int16", "validation": true}'):
        (tmp_path / "run" / "judged.json").write_bytes(damage)
        assert judging._known(tmp_path / "run" / "judged.json").get("validation") in (None, True)
    assert judging.executed(run, None, "int16") == 0.7
    # A value that was changed had been believed, and led the search elsewhere.
    path = tmp_path / "run" / "judged.json"
    path.write_text(path.read_text().replace("0.7", "-0.5"))
    assert [judging.executed(run, None, "int16") for _ in range(2)] == [0.75, 0.75]
    path.write_text(json.dumps({"precision": "int16", "validation": 0.25}))  # of an older version
    assert judging.executed(run, None, "int16") == 0.25


@pytest.mark.parametrize(
    "sections, precision",
    [({}, "int8"), ({"export": {"precisions": ["int8", "float32"]}}, "float32"), ({"quantize": {}}, None)],
)
def test_a_rounding_that_is_learned_later_is_not_judged(sections, precision):
    assert judging.precision_of(load(sections)) == precision


def test_the_report_names_what_was_given_and_not_what_was_not_used(found):
    """It said `digits` and `small_cnn`, the defaults of a configuration, of a user's model and arrays."""
    result, how = found
    assert result["config"]["data"]["name"] == result["data"]["name"] == "arrays"
    assert result["config"]["model"]["name"] == fingerprints.name_of(data()[0])
    for name in ("report.json", "report.html"):
        text = (how["out"] / name).read_text()
        assert "digits" not in text and "small_cnn" not in text
    keras.utils.set_random_seed(0)
    other = {**SMALL, "train": {"batch_size": 8}}
    with pytest.raises(ValueError, match="What differs: train.batch_size: 16 there, 8 now[.] Received"):
        tfr.compress(*data(), console=QUIET, **{**how, "config": other})


def test_a_search_goes_on_where_it_was(found, monkeypatch):
    result, how = found
    monkeypatch.setattr("tf_reweight.workflow.trainer.Trainer.fit", None)  # nothing is trained again
    keras.utils.set_random_seed(0)
    again = tfr.compress(*data(), console=QUIET, **how)
    assert again["search"] == result["search"]


def test_tries_cost_at_most_three_runs():
    for every, retrain in ((10, 10), (8, 5), (1, 1), (3, 0)):
        config = load({"regularize": {"rounds": 1, "every": every}, "retrain": {"epochs": retrain}})
        half = search._config_of(load(config.model_dump(mode="json")), {"weights": 0.5})
        one = half.regularize.epochs + half.retrain.epochs
        assert search._tries(config) * one <= 3 * (every + retrain) and half.train.epochs == 0
    # A method that prunes at once trains in `retrain` alone.
    config = load({"regularize": {"method": "one_shot"}, "prune": {"budget": "weights=0.5"}, "retrain": {"epochs": 1}})
    assert search._tries(config) == 3


class Run:
    """What a path of tries looks at."""

    config = load({"regularize": {"method": "deadline"}, "prune": {"sparsity": 0.5}})


def test_the_path_halves_until_it_misses_and_then_comes_closer():
    path, seen = search._Path(Run(), {"num_weights": 1000}, 9), []
    while (fraction := path.next()) is not None:
        seen.append(fraction)
        path.tell(fraction, fraction, fraction >= 0.2)
    assert seen[:3] == [0.5, 0.25, 0.125] and 0.2 <= min(f for f in seen if f >= 0.2) < 0.2 * 1.08
    assert path.budget(0.25) == {"weights": 250}


def test_budgets_that_leave_the_same_model_are_not_tried_again():
    """Multiples of channels leave 0.73 of all whatever is asked between 0.73 and 0.99."""
    path, seen = search._Path(Run(), {"num_weights": 1000}, 9), []
    while len(seen) < 9 and (fraction := path.next()) is not None:
        seen.append(fraction)
        path.tell(fraction, 0.73 if fraction >= 0.73 else fraction, False)
    assert len(seen) < 9 and all(later > 1.03 * earlier for earlier, later in zip(seen, seen[1:]))


@pytest.mark.parametrize(
    "mode, reached, good", [("max", 0.895, True), ("max", 0.88, False), ("min", 0.905, True), ("min", 0.95, False)]
)
def test_a_drop_is_absolute_in_the_direction_that_is_worse(mode, reached, good):
    assert search.within({"mode": mode}, 0.9, reached, 0.01) is good


def test_a_drop_without_a_metric_or_beside_another_amount_is_refused(tmp_path):
    model, x, y = tasks.regression()
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="needs a metric"):
        tfr.compress(model, (x, y), budget="accuracy_drop=0.01", config=SMALL, epochs=3, out=tmp_path / "a", console=QUIET)
    model, train, validation = data()
    both = "accuracy_drop=0.01,macs=0.5"
    with pytest.raises(ValueError, match="stands alone"):
        tfr.compress(model, train, validation, budget=both, config=SMALL, out=tmp_path / "b", console=QUIET)


@pytest.mark.parametrize(
    "how, words",
    [
        ({"budget": "macs=0.0001"}, "The budget must leave at least"),
        ({"budget": "weights=3", "structure": "filter"}, "The budget must leave at least"),
        ({"budget": "bytes=0.001"}, "The budget must leave at least .* bytes"),
        ({"budget": "macs=0.2", "config": {**SMALL, **SHRUNK_TO_16}}, "where channels stay a multiple of 16"),
        ({"budget": "latency_ms=0.5", "structure": "filter"}, "make no file faster"),
        ({"budget": "accuracy_drop=5"}, "Did you mean 0.05"),
        ({"config": {**SMALL, "regularize": {"coupled": {}}, "prune": {"macs": 0.999}}}, "`macs` must be at most"),
        ({"config": {**SMALL, **SHRUNK_TO_16, "regularize": {"coupled": {}}, "prune": {"macs": 0.8}}},
         "`macs` must be at most"),
        ({"config": {**SMALL, "regularize": {"method": "one_shot", "coupled": {}}, "prune": {"macs": 0.999}}},
         "`macs` must be at most"),
        ({"config": {**SMALL, "regularize": TWICE}, "structure": "filter"}, "one on each"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_reach_is_refused_before_any_training(how, words, tmp_path, monkeypatch):
    monkeypatch.setattr("tf_reweight.workflow.trainer.Trainer.fit", None)
    with pytest.raises(ValueError, match=words) as raised:
        tfr.compress(*data(), **{"config": SMALL, "epochs": 3, "out": tmp_path / "run", "console": QUIET, **how})
    assert "Received: " in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_run_for_milliseconds_without_a_runtime_is_refused_before_any_training(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    without = lambda name, *more: None if name == "ai_edge_litert" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ImportError, match="needs LiteRT"):
        tfr.compress(*data(), budget="latency_ms=0.5", config=SMALL, out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_drop_that_nothing_keeps_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("tf_reweight.workflow.search.within", lambda *given: False)
    monkeypatch.setattr("tf_reweight.workflow.search._tries", lambda config: 1)
    epochs = {"train": 1, "regularize": 1, "retrain": 0}
    with pytest.raises(ValueError, match="that a smaller model can keep"):
        tfr.compress(*data(), budget="accuracy_drop=0.01", epochs=epochs, config=SMALL, out=tmp_path / "run", console=QUIET)


def test_a_sweep_holds_every_budget_and_marks_the_front(tmp_path, monkeypatch, eager_steps):
    epochs = {"train": 1, "regularize": 1, "retrain": 1}
    keras.utils.set_random_seed(0)
    front = tfr.sweep(
        *data(), budgets=["macs=0.7", "macs=0.4"], epochs=epochs, config=SMALL, out=tmp_path / "front", console=QUIET
    )
    assert [point["name"] for point in front.points] == ["dense", "macs_0.7", "macs_0.4"]
    assert front.folder == tmp_path / "front"
    macs = [point["num_macs"] for point in front.points]
    assert macs[1] <= 0.7 * macs[0] and macs[2] <= 0.4 * macs[0]
    page = (tmp_path / "front" / "sweep.html").read_text()
    for point in front.points:
        assert (front.folder / point["file"]).is_file() and point["file"] in page
        report = json.loads((tmp_path / "front" / point["folder"] / "report.json").read_text())
        own = next(file for file in report["files"] if point["file"].endswith(file["name"]))
        assert point["validation"] == own["validation"]["accuracy"] and point["num_bytes"] == own["num_bytes"]
    assert json.loads((tmp_path / "front" / "sweep.json").read_text()) == front.to_dict()
    assert "macs_0.4" in str(front) and page.count("<circle") == 9
    times = json.loads((tmp_path / "front" / "times.json").read_text())["times"]
    assert [point["latency_ms"] for point in front.points] == [row["median_ms"] for row in times["rows"]]
    assert front.latency["measurement"] == times["measurement"] and "all files in turns" in page
    # Budgets can be added, in any place; what was done is not trained again. It went only where the last one stayed the last.
    fit, before = Trainer.fit, [path.stat().st_mtime_ns for path in (tmp_path / "front").glob("macs_0.[47]/*.keras")]
    trained = []
    monkeypatch.setattr(Trainer, "fit", lambda self, *given, **options: trained.append(self) or fit(self, *given, **options))
    how = {"epochs": epochs, "config": SMALL, "out": tmp_path / "front", "console": QUIET}
    config = tmp_path / "front" / "config.yaml"
    assert "budget: null" in config.read_text()
    # An older version wrote down the budget that came last.
    config.write_text(config.read_text().replace("budget: null", "budget:\n    macs: 0.4"))
    keras.utils.set_random_seed(0)
    front = tfr.sweep(*data(), budgets=["macs=0.4", "macs=0.7"], **how)
    assert [point["name"] for point in front.points] == ["dense", "macs_0.4", "macs_0.7"] and not trained
    assert [path.stat().st_mtime_ns for path in (tmp_path / "front").glob("macs_0.[47]/*.keras")] == before
    keras.utils.set_random_seed(0)
    front = tfr.sweep(*data(), budgets=["macs=0.4", "macs=0.5"], **how)
    assert [point["name"] for point in front.points] == ["dense", "macs_0.4", "macs_0.5"] and trained
    # A budget's folder that came from a sweep of another model is told; those of before have no mark.
    mark, trained[:] = tmp_path / "front" / "macs_0.5" / "given.json", []
    mark.write_text(json.dumps({"weights": "0" * 64}, indent=1) + "\n")
    keras.utils.set_random_seed(0)
    with pytest.raises(ValueError, match="What differs: the weights .*00000000 there"):
        tfr.sweep(*data(), budgets=["macs=0.4", "macs=0.5"], **how)
    mark.unlink()
    keras.utils.set_random_seed(0)
    assert len(tfr.sweep(*data(), budgets=["macs=0.4", "macs=0.5"], **how).points) == 3 and not trained
    keras.utils.set_random_seed(0)
    with pytest.raises(ValueError, match="What differs: .*prune.budget"):
        tfr.compress(*data(), budget="macs=0.4", **how)


def test_times_of_a_sweep_are_of_one_measurement_which_is_kept(tmp_path, monkeypatch):
    """Each run had measured its own files: stars and the knee were drawn from times that cannot be compared."""
    measured = []

    def benchmark(paths, num_runs):
        measured.append([path.read_text() for path in paths])
        names = ("median_ms", "low_ms", "high_ms", "speedup", "speedup_low", "speedup_high")
        rows = [{"name": path.name, **dict.fromkeys(names, len(measured) + place)} for place, path in enumerate(paths)]
        return Latencies(tuple(rows), num_runs, 1, 10, {"id": str(len(measured)), "date": "today"})

    monkeypatch.setattr(fronts.export, "benchmark", benchmark)
    run = types.SimpleNamespace(folder=Folder(tmp_path / "run", "a: b"), config=load(SMALL))
    given = [{"name": name, "file": f"{name}.tflite"} for name in ("dense", "macs_0.5")]
    for point in given:
        (tmp_path / "run" / point["file"]).write_text(point["name"])
    found, how = fronts._timed(given, run)
    assert [point["latency_ms"] for point in found] == [1, 2] and how["measurement"]["id"] == "1"
    assert fronts._timed(given, run) == (found, how) and len(measured) == 1
    path = tmp_path / "run" / "times.json"
    text = path.read_text()
    others = [("median_ms", "median"), ('"id"', '"di"'), ('"median_ms": 1', '"median_ms": 3')]
    for damage in ("", "[]", "{}", *(text.replace(*pair) for pair in others)):
        path.write_text(damage)
        again = fronts._timed(given, run)
        assert fronts._timed(given, run) == again and again[1]["measurement"]["id"] == str(len(measured))
    assert len(measured) == 7
    (tmp_path / "run" / "macs_0.5.tflite").write_text("another")
    fronts._timed(given, run)
    assert measured[1:] == [["dense", "macs_0.5"]] * 6 + [["dense", "another"]]


@pytest.mark.parametrize("position, keras_model, row", [(0, 0.9, 0.7), (-1, 0.8, 0.6)])
def test_all_of_a_row_is_of_the_file_it_names(position, keras_model, row):
    """The validation figure was that of the Keras model, beside test, bytes and time of the file: 0.81 of a file with 0.765."""
    files = [
        {"name": name, "precision": "int8", "num_bytes": size, "latency_ms": 1.0, "validation": {"accuracy": value},
         "test": {"accuracy": value / 2}}
        for name, size, value in (("dense_int8.tflite", 9, 0.7), ("pruned_int8.tflite", 4, 0.65), ("last_int8.tflite", 5, 0.6))
    ]  # fmt: skip
    stages = [{"validation": {"accuracy": value}, "num_macs": 1} for value in (0.9, 0.8)]
    run = types.SimpleNamespace(metric={"name": "accuracy"}, folder=types.SimpleNamespace(path=pathlib.Path("macs_0.5")))
    point = fronts._point("one", {"files": files, "stages": stages, "shipped": "last_int8.tflite"}, position, run)
    named = next(file for file in files if point["file"] == f"macs_0.5/{file['name']}")
    assert point["validation"] == named["validation"]["accuracy"] == row
    assert (point["test"], point["num_bytes"]) == (named["test"]["accuracy"], named["num_bytes"])
    # Where only the class of the model measures, there is no other figure.
    unmeasured = [{**file, "validation": {}, "test": {}} for file in files]
    point = fronts._point("one", {"files": unmeasured, "stages": stages, "shipped": "last_int8.tflite"}, position, run)
    assert (point["validation"], point["test"]) == (keras_model, None)


def points(*pairs):
    return [{"validation": v, "num_macs": m, "num_bytes": m, "latency_ms": m} for v, m in pairs]


def test_points_that_another_beats_are_not_on_the_front_and_the_knee_stands_out():
    found = fronts.marked(points((0.9, 100), (0.88, 50), (0.6, 40), (0.87, 60), (0.5, 10)), "max")
    assert [bool(point["best_by"]) for point in found] == [True, True, True, False, True]
    assert [bool(point["knee_by"]) for point in found] == [False, True, False, False, False]
    lower = fronts.marked(points((0.1, 100), (0.12, 50), (0.5, 10), (0.2, 60)), "min")
    assert [bool(point["best_by"]) for point in lower] == [True, True, True, False]
    assert not any(point["knee_by"] for point in fronts.marked(points((0.9, 100), (0.8, 50)), "max"))
    # Where nothing is lost at any budget, points may be equal in both.
    equal = fronts.marked(points((1.0, 50), (1.0, 50), (1.0, 50)), "max")
    assert all(point["best_by"] for point in equal) and not any(point["knee_by"] for point in equal)


def timed(*given):
    return [
        {**points((value, 9))[0], "latency_ms": ms, "latency_low_ms": ms - by, "latency_high_ms": ms + by}
        for value, ms, by in given
    ]


def test_times_within_their_spread_beat_nothing():
    """A star went to whichever of two equal files was timed a little faster."""
    fronts_of = (
        [(0.9, 1.0, 0.2), (0.9, 1.1, 0.2)], [(0.9, 1.0, 0.02), (0.9, 1.1, 0.02)], [(0.8, 1.2, 0.2), (0.9, 1.1, 0.2)],
        [(0.5, 0.4, 0.1), (0.89, 0.9, 0.2), (0.9, 1.0, 0.2)], [(0.5, 0.4, 0.1), (0.89, 0.9, 0.01), (0.9, 1.0, 0.01)],
    )  # fmt: skip
    found = [fronts.marked(timed(*given), "max") for given in fronts_of]
    marks = [[["latency_ms" in point[by] for point in each] for by in ("best_by", "knee_by")] for each in found]
    assert marks == [
        [[True, True], [False] * 2], [[True, False], [False] * 2], [[False, True], [False] * 2],
        [[True] * 3, [False] * 3], [[True] * 3, [False, True, False]],
    ]  # fmt: skip


def test_a_cost_that_is_not_known_is_neither_drawn_nor_marked():
    """A model of the user's own class does not say how much it computes; it is no model that computes nothing."""
    known = {"name": "one", "test": 0.5, "folder": "one", "file": "one.tflite"}
    found = fronts.marked([{**point, **known, "num_macs": None} for point in points((0.9, 100), (0.6, 40))], "max")
    assert [point["best_by"] for point in found] == [["num_bytes", "latency_ms"]] * 2
    front = fronts.Front({"name": "accuracy", "mode": "max", "proportion": True}, tuple(found))
    assert " - " in str(front)
    page = pages.render(front.to_dict(), fronts.axes_of(found))
    assert page.count("<circle") == 4 and "multiply-accumulates" not in page and "<td>-</td>" in page


@pytest.mark.parametrize(
    "budgets, words",
    [
        (["macs=0.5"], "two budgets"),
        ("macs=0.5", "two budgets"),
        (None, "two budgets"),
        (0.5, "`budgets` must be a list"),
        ({"macs=0.5", "macs=0.7"}, "`budgets` must be a list"),
        ((each for each in ["macs=0.5", "macs=0.7"]), "`budgets` must be a list"),
        ([{"macs": "half"}, "macs=0.7"], "macs"),
        (["macs=0.5", "macs=0.5"], "each once"),
        (["macs=0.5", "accuracy_drop=0.1"], "over sizes"),
        (["macs=0.5", "macs=0.0001"], "must leave at least"),
    ],
)
def test_bad_sweeps_are_refused(budgets, words):
    with pytest.raises((ValueError, TypeError), match=words):
        tfr.sweep(*data(), budgets=budgets)


def test_the_command_line_says_what_a_sweep_needs(capsys):
    assert main.console(["sweep", "--model", "m.keras"]) == 2
    assert "`sweep` needs --config, or --model and --data" in capsys.readouterr().err


def report(**changes):
    stage = {"validation": {"accuracy": 0.7}, "num_macs": 50}
    file = {"name": "shrunk_int8.tflite", "precision": "int8", "num_bytes": 700, "latency_ms": 1.0, "latency_low_ms": 1.0}
    file |= {"latency_high_ms": 1.0, "gzip_bytes": 500, "test": {"accuracy": 0.7}}
    return {
        "data": {"num_validation": 1000, "num_test": 1000}, "config": {"prune": {}}, "stages": [{"num_macs": 100}, stage],
        "files": [{**file, "name": "dense_int8.tflite", "num_bytes": 1000}, file], **changes,
    }  # fmt: skip


def test_a_run_behind_pruning_at_once_is_an_alarm():
    behind = alarms_of(report(one_shot={"validation": {"accuracy": 0.8}, "num_macs": 50}))
    assert [alarm["level"] for alarm in behind] == ["red"] and "70.00% to 80.00%" in behind[0]["seen"]
    counted = {"at_most": {"bytes": 9, "zipped_bytes": 9, "macs": 50}, "reconstructed": True, "num_examples": 256}
    (told,) = alarms_of(report(one_shot={"validation": {"accuracy": 0.8}, **counted}))
    assert "no more bytes of weights and multiply-accumulates than the run has, not trained but fitted by" in told["seen"]
    for value in (0.69, 0.71):  # better, or no measurable difference
        assert not alarms_of(report(one_shot={"validation": {"accuracy": value}, "num_macs": 50}))


@pytest.mark.parametrize(
    "metrics, reached, cut, levels",
    [
        ([("mae", "min")], [0.3], [0.2], ["red"]), ([("mae", "min")], [0.2], [0.3], []),
        ([("r2", "max")], [0.2], [0.3], ["red"]),
        ([("mae", "min")], [0.2001], [0.2], []), ([("mae", None)], [0.3], [0.2], []),
        ([("a_mae", "min"), ("b_mae", "min")], [0.2, 0.3], [0.2, 0.2], ["amber"]),
        ([("mae", "min"), ("loss", "min"), ("b_loss", "min")], [0.2, 0.3, 0.3], [0.2, 0.2, 0.2], []),
        ([("loss", "min")], [0.3], [0.2], ["red"]),
    ],
)  # fmt: skip
def test_behind_is_what_is_worse_whichever_way_and_in_any_output(metrics, reached, cut, levels):
    names = [name for name, _ in metrics]
    entries = [{"name": name, "mode": mode, "proportion": False} for name, mode in metrics]
    figures = report(metrics=entries, one_shot={"validation": dict(zip(names, cut)), "num_macs": 50})
    figures["stages"][-1]["validation"] = dict(zip(names, reached))
    found = [alarm for alarm in alarms_of(figures) if "pruned at once" in alarm["seen"]]
    assert [alarm["level"] for alarm in found] == levels and all(f"{0.3:.4g}" in alarm["seen"] for alarm in found)


@pytest.mark.parametrize(
    "budget, seen", [({"bytes": 0.5}, "700 bytes, and 500"), ({"bytes": 600}, "600"), ({"bytes": 0.7}, None)]
)
def test_a_file_over_its_budget_is_an_alarm(budget, seen):
    asked = {**budget, "precision": "int8"}
    found = [alarm["seen"] for alarm in alarms_of(report(config={"prune": {"budget": asked}}))]
    assert len(found) == (seen is not None) and all(seen in text for text in found)


def test_a_drop_that_no_file_tells_is_said():
    """Where a class measures its own models, outputs alone do not tell its metric."""
    figures = report(config={"prune": {"budget": {"accuracy_drop": 0.01}}})
    figures["stages"][0]["validation"] = {"accuracy": 0.6}
    assert [alarm["seen"] for alarm in alarms_of(figures) if "Nothing tells whether shrunk_int8.tflite" in alarm["seen"]]
    run = types.SimpleNamespace(config=load({}), scorer=types.SimpleNamespace(measures_files=False))
    assert search._precision_of(run, 0.6, 0.01) is None


@pytest.mark.parametrize("value, seen", [(0.55, "5.00 points of accuracy"), (0.59, None), (0.65, None)])
def test_a_file_that_does_not_hold_its_drop_is_an_alarm(value, seen):
    """Also where the rounding was learned later: the file that is shipped is compared, whatever the search judged."""
    figures = report(config={"prune": {"budget": {"accuracy_drop": 0.01}}})
    figures["stages"][0]["validation"], figures["files"][-1]["validation"] = {"accuracy": 0.6}, {"accuracy": value}
    found = [alarm for alarm in alarms_of(figures) if "may go" in alarm["seen"]]
    assert [alarm["level"] for alarm in found] == ["red"] * (seen is not None)
    assert all(seen in alarm["seen"] and "1.00 points may go" in alarm["seen"] for alarm in found)


def test_a_budget_is_about_the_file_that_is_shipped():
    """The alarm had looked at the last file of the budget's precision, and another that was over was shipped in silence."""
    dense, small = report()["files"]
    other = {**small, "name": "shrunk_float32.tflite", "precision": "float32", "num_bytes": 400, "gzip_bytes": 600}
    for shipped, budget, seen in (
        (other, {"zipped_bytes": 550}, ["600 zipped_bytes, and 550"]),
        (small, {"zipped_bytes": 550}, []),
        (other, {"bytes": 500}, []),
    ):
        config = {"prune": {"budget": {**budget, "precision": "int8"}}}
        figures = report(files=[dense, other, small], shipped=shipped["name"], config=config)
        found = [alarm["seen"] for alarm in alarms_of(figures) if "asked for" in alarm["seen"]]
        assert len(found) == len(seen) and all(part in text for part, text in zip(seen, found))


def test_the_record_says_what_pruning_at_once_gives(found):
    figures, (dense, *_, last) = found[0]["one_shot"], found[0]["stages"]
    # Whole channels go: not one fits that the run has left.
    assert 0.8 * last["num_macs"] <= figures["num_macs"] <= last["num_macs"] < dense["num_macs"]
    assert np.isfinite(figures["validation"]["accuracy"])


@pytest.fixture(scope="module")
def narrow():
    """A dense model, and one of few parameters but most of the computing: the first layer computes most."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, padding="same", activation="relu"), keras.layers.Flatten(), keras.layers.Dense(64)]
    model = keras.Sequential([keras.Input((6, 6, 4)), *layers, keras.layers.ReLU(), keras.layers.Dense(8)])
    small = keras.models.clone_model(model)
    kernel = small.layers[2].kernel
    kernel.assign(kernel * np.where(np.arange(64) < 6, 1.0, 0.0))
    last = small.layers[4].kernel
    last.assign(last * np.where(np.arange(64) < 6, 1.0, 0.0)[:, None])
    return model, tfr.shrink(small)


@pytest.mark.parametrize(
    "prune, counted",
    [
        ({"budget": {"macs": 0.5}}, ["macs"]), ({"macs": 0.5}, ["macs"]), ({"budget": {"parameters": 0.5}}, ["parameters"]),
        ({"budget": {"sparsity": 0.5}}, ["weights"]), ({"budget": {"bytes": 0.5}}, ["bytes"]),
        ({"budget": {"zipped_bytes": 0.5, "macs": 0.9}}, ["macs", "zipped_bytes"]),
        ({"budget": {"latency_ms": 0.5}}, ["macs", "parameters"]), ({"sparsity": 0.5}, ["macs", "parameters"]),
    ],
)  # fmt: skip
def test_a_cut_of_channels_at_once_has_no_more_of_what_the_budget_counts(narrow, prune, counted):
    """It had as many multiply-accumulates, whatever the budget was: of bytes, it had up to half as many again as the run."""
    dense, small = keras.models.clone_model(narrow[0]), narrow[1]
    dense.set_weights(narrow[0].get_weights())
    config = load({"regularize": {"coupled": {}}, "prune": prune, "shrink": {}})
    stages = [{"name": step, "num_macs": 9 - place} for place, step in enumerate(config.steps)]
    run = types.SimpleNamespace(config=config, folder=types.SimpleNamespace(load=lambda name: small))
    has = one_shot._amounts(small, "int8")
    assert (has["macs"], has["parameters"]) == (count_macs(small), small.count_params())
    examples = np.random.default_rng(0).normal(size=(32, 6, 6, 4)).astype("float32")
    cut = one_shot._cut_channels(dense, run, stages, examples)
    left = one_shot._amounts(dense, "int8")
    assert list(cut["at_most"]) == counted and all(left[name] <= amount for name, amount in cut["at_most"].items())
    assert all(has[name] <= amount <= has[name] + 1 for name, amount in cut["at_most"].items())
    # As much as whole channels allow.
    assert max(left[name] / has[name] for name in counted) > 0.7


@pytest.mark.filterwarnings("ignore:1 kernels of layers with trainable=False")
@pytest.mark.parametrize(
    "rule, part, group",
    [({}, 0.3, 1), ({"layers": "middle"}, 0.6, 1), ({"structure": "filter"}, 0.7, 8), ({"structure": "n_of_m"}, 0.7, None)],
)
def test_a_cut_at_once_leaves_as_much_of_all_kernels_as_the_run_and_tells_what(rule, part, group):
    """Kernels that are not selected, frozen ones and the output's with their filters stay whole, and count all the same."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(12), keras.layers.Dense(16, name="middle"), keras.layers.Dense(4, trainable=False)]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(5)])
    whole = sum(size for _, size in tfr.sparsity(model).values())
    stages = [{"num_weights": whole}, {"num_weights": whole, "num_nonzero": round(part * whole)}]
    run = types.SimpleNamespace(config=load({"regularize": {"rules": [rule]}}))
    cut = one_shot._cut_zeros(model, run, stages, np.ones((8, 8), "float32"))
    left = sum(size - zeros for zeros, size in tfr.sparsity(model).values())
    assert cut["num_nonzero"] == left < whole
    # A structure that says itself how much goes leaves what it leaves.
    assert group is None or 0 <= left - stages[-1]["num_nonzero"] <= 2 * group


def test_a_size_that_no_cut_of_the_selected_kernels_has_is_not_compared():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(12), keras.layers.Dense(16, name="middle")])
    stages = [{"num_weights": 288}, {"num_weights": 288, "num_nonzero": 90}]
    run = types.SimpleNamespace(config=load({"regularize": {"rules": [{"layers": "middle"}]}}))
    assert one_shot._cut_zeros(model, run, stages, np.ones((8, 8), "float32")) is None


@pytest.mark.parametrize("norm", [[keras.layers.BatchNormalization], []])
def test_few_examples_cost_the_comparison_with_pruning_at_once_alone(norm, tmp_path):
    """Less than eight do not renew the statistics of BatchNormalization: the whole run had ended in a refusal of the report."""
    layers = [keras.layers.Dense(8), *(kind() for kind in norm), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
    config = {"export": {**EXPORT, "precisions": ["float32"], "representative": 4}}
    result = tfr.compress(model, (x, x[:, :1]), epochs=3, config=config, out=tmp_path / "a", console=QUIET)
    # Where there are no statistics nothing is too few.
    assert (result["one_shot"] is None) == bool(norm) and result.best_file.exists()


def test_bytes_are_those_of_the_file_that_is_shipped():
    sections = {"regularize": {"method": "deadline", "coupled": {}}, "prune": {"budget": {"bytes": 0.5}}}
    config = load({**sections, "export": {"precisions": ["float32"]}})
    assert config.prune.budget == {"bytes": 0.5, "precision": "float32"}
    assert load(config.model_dump(mode="json")).prune.budget == config.prune.budget


@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline", "ignore:Too many groups of")
def test_what_a_broken_training_left_is_reported_without_a_cut_that_is_as_small(tmp_path, eager_steps):
    """The report of a run whose every stage was done had ended in the refusal of a budget that nobody gave."""

    class Empties(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            for layer in self.model.layers[:-1]:
                layer.set_weights([np.zeros_like(value) for value in layer.get_weights()])

    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    callbacks = lambda stage: [Empties()] if stage == "regularized" else []  # noqa: E731
    found = tfr.compress(
        model, (x, x[:, :1]), (x, x[:, :1]), budget="macs=0.5", epochs=6, callbacks=callbacks, config=SMALL,
        out=tmp_path / "run", console=QUIET,
    )  # fmt: skip
    assert found["one_shot"] is None and (tmp_path / "run" / "report.html").is_file() and found["alarms"]
