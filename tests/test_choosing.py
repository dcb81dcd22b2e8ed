"""The file that a run ships is the best by the user's wish."""

import pytest

from tf_reweight.reports.choosing import WISHES, best_file, over, shipped_of

ACCURACY = {"name": "accuracy", "mode": "max", "proportion": True}
ERROR = {"name": "mae", "mode": "min", "proportion": False}


def file(name, value, num_bytes, latency_ms, metric=ACCURACY):
    figures = {"name": name, "num_bytes": num_bytes, "latency_ms": latency_ms}
    # Test examples say the contrary: they must not be asked.
    return {**figures, "validation": {metric["name"]: value}, "test": {metric["name"]: 1.0 - value}}


FILES = [
    file("dense_float32.tflite", 0.95, 400, 4.0),
    file("dense_int8.tflite", 0.95, 10, 0.1),
    file("shrunk_float32.tflite", 0.93, 200, 2.0),
    file("shrunk_dynamic_int8.tflite", 0.92, 60, 1.0),
    file("shrunk_int8.tflite", 0.70, 50, 3.0),
]


@pytest.mark.parametrize(
    ("wish", "max_drop", "chosen"),
    [
        ("size", None, "dynamic_int8"), ("size", 0.5, "int8"), ("size", 0.0, "float32"),
        ("speed", None, "dynamic_int8"), ("speed", 0.5, "dynamic_int8"), ("speed", 0.001, "float32"),
        ("accuracy", None, "float32"), ("accuracy", 0.5, "float32"),
    ],
)  # fmt: skip
def test_the_wish_decides(wish, max_drop, chosen):
    assert best_file(FILES, ACCURACY, wish, max_drop, num=1000) == f"shrunk_{chosen}.tflite"


def test_a_drop_that_chance_explains_is_none():
    assert best_file(FILES, ACCURACY, "size", None, num=10) == "shrunk_int8.tflite"


def test_lower_is_better_where_it_is():
    files = [file("a_float32.tflite", 2.0, 9, 1.0, ERROR), file("a_int8.tflite", 2.1, 3, 1.0, ERROR)]
    assert best_file(files, ERROR, "size") == "a_float32.tflite"
    near = [files[0], file("a_int8.tflite", 2.03, 3, 1.0, ERROR)]
    assert best_file(near, ERROR, "size") == "a_int8.tflite", "a difference of any size is no loss"
    assert best_file(files, ERROR, "size", 0.1) == "a_int8.tflite"
    assert best_file(files, ERROR, "size", 0.01) == "a_float32.tflite"
    assert best_file(files, ERROR, "accuracy", 0.1) == "a_float32.tflite"


@pytest.mark.parametrize("wish", WISHES)
def test_without_a_direction_or_a_figure_the_accuracy_does_not_count(wish):
    undirected = {**ACCURACY, "mode": None}
    chosen = best_file(FILES, undirected, wish)
    assert chosen == ("shrunk_dynamic_int8.tflite" if wish == "speed" else "shrunk_int8.tflite")
    assert best_file(FILES, {**ACCURACY, "name": "another"}, wish) == chosen


def test_dense_files_alone_are_chosen_among():
    assert best_file(FILES[:2], ACCURACY, "size") == "dense_int8.tflite"


@pytest.mark.parametrize(
    ("drop", "wish", "chosen"),
    [
        (0.3, "size", "int8"), (0.03, "size", "dynamic_int8"), (0.02, "size", "float32"), (0.3, "accuracy", "float32"),
        (0.03, "speed", "dynamic_int8"), (0.005, "size", "dynamic_int8"),
    ],
)  # fmt: skip
def test_a_file_that_holds_the_drop_goes_before_one_that_does_not(drop, wish, chosen):
    """The Keras model was compared alone, and an int8 file was shipped that lost ten times as much as was asked for."""
    budget = {"accuracy_drop": drop}
    assert best_file(FILES, ACCURACY, wish, None, 1000, budget, 0.95) == f"shrunk_{chosen}.tflite"
    found = over(FILES[4], FILES, budget, ACCURACY, 0.95)
    assert found == ({} if drop == 0.3 else {"accuracy_drop": (pytest.approx(0.25), drop)})


def test_a_drop_goes_by_the_way_that_is_worse():
    files = [file("a_float32.tflite", 2.0, 9, 1.0, ERROR), file("a_int8.tflite", 2.1, 3, 1.0, ERROR)]
    for drop, chosen in ((0.05, "a_float32.tflite"), (0.2, "a_int8.tflite")):
        assert best_file(files, ERROR, "size", None, 0, {"accuracy_drop": drop}, 1.95) == chosen
    assert over(files[0], files, {"accuracy_drop": 0.1}, ERROR, 5.0) == {}, "better than the dense model is no drop"


def test_reports_name_the_file_and_older_ones_ship_the_last():
    assert shipped_of({"files": FILES, "shipped": "shrunk_float32.tflite"}) is FILES[2]
    assert shipped_of({"files": FILES}) is FILES[-1]


def sized(name, num_bytes, gzip_bytes, latency_ms, value=0.9):
    figures = file(name, value, num_bytes, latency_ms)
    return {**figures, "gzip_bytes": gzip_bytes, "precision": name.split("_", 1)[1].removesuffix(".tflite")}


SIZED = [
    sized("dense_float32.tflite", 1000, 900, 4.0), sized("dense_int8.tflite", 600, 300, 2.0),
    sized("shrunk_float32.tflite", 300, 250, 1.0), sized("shrunk_int8.tflite", 350, 150, 1.5),
]  # fmt: skip
LOSING = [*SIZED[:3], sized("shrunk_int8.tflite", 350, 150, 1.5, value=0.5)]


@pytest.mark.parametrize(
    ("budget", "wish", "chosen"),
    [
        (None, "size", "float32"), ({"macs": 0.5}, "size", "float32"),
        ({"zipped_bytes": 200}, "size", "int8"), ({"zipped_bytes": 0.5}, "speed", "int8"),
        ({"zipped_bytes": 0.5}, "accuracy", "int8"), ({"zipped_bytes": 100}, "size", "int8"),
        ({"zipped_bytes": 280}, "size", "int8"),
        ({"bytes": 320}, "accuracy", "float32"), ({"bytes": 0.5, "zipped_bytes": 0.5}, "size", "int8"),
        ({"latency_ms": 0.5}, "size", "float32"), ({"latency_ms": 0.5}, "accuracy", "float32"),
    ],
)  # fmt: skip
def test_of_files_that_meet_a_budget_one_is_shipped(budget, wish, chosen):
    budget = budget if budget is None else {**budget, "precision": "int8"}
    for files in (SIZED, [*SIZED[:2], *SIZED[:1:-1]]):
        assert best_file(files, ACCURACY, wish, None, 1000, budget) == f"shrunk_{chosen}.tflite"


def test_a_budget_goes_before_accuracy_where_one_file_alone_meets_it():
    chosen = [best_file(LOSING, ACCURACY, "size", None, 1000, {"zipped_bytes": most}) for most in (200, 260)]
    assert chosen == ["shrunk_int8.tflite", "shrunk_float32.tflite"]


def test_what_a_file_has_more_of_is_named_with_what_is_allowed():
    budget = {"bytes": 0.5, "zipped_bytes": 200, "macs": 0.1, "precision": "int8"}
    assert over(SIZED[2], SIZED, budget) == {"zipped_bytes": (250, 200)}
    assert over(SIZED[3], SIZED, budget) == {"bytes": (350, 300)}
    assert over(SIZED[3], SIZED, {"latency_ms": 1.4}) == {}, "the spread of a measurement is no fault"
    assert over(SIZED[3], SIZED, {"bytes": 0.1, "precision": "int16"}) == {}, "without a dense file a fraction says nothing"


@pytest.mark.parametrize("name, has", [("bytes", 350), ("zipped_bytes", 150)])
def test_bytes_are_counted_and_one_too_many_is_too_many(name, has):
    """A file of 7,024 bytes was shipped in silence where 7,000 were asked for."""
    assert over(SIZED[3], SIZED, {name: has - 1}) == {name: (has, has - 1)}
    assert over(SIZED[3], SIZED, {name: has}) == {}
    dense = SIZED[1]["num_bytes" if name == "bytes" else "gzip_bytes"]
    for part in (has / dense, (has - 1) / dense):
        budget = {name: part, "precision": "int8"}
        assert bool(over(SIZED[3], SIZED, budget)) == (part < has / dense)
    larger = {**SIZED[3], "name": "shrunk_larger.tflite", "num_bytes": 351, "gzip_bytes": 151, "latency_ms": 0.1}
    budget = {name: has, "precision": "int8"}
    assert best_file([*SIZED, larger], ACCURACY, "speed", None, 1000, budget) == "shrunk_int8.tflite"


@pytest.mark.parametrize("most, chosen", [(290, "int8"), (320, "float32"), (400, "int8")])
def test_a_budget_counts_for_the_precision_that_was_asked_for(most, chosen):
    """Where no file met it, or both did, a float32 file was shipped for int8 files that were asked for, being smaller."""
    assert best_file(SIZED, ACCURACY, "size", None, 1000, {"bytes": most, "precision": "int8"}) == f"shrunk_{chosen}.tflite"
    losing = best_file(LOSING, ACCURACY, "size", None, 1000, {"bytes": 400, "precision": "int8"})
    assert losing == "shrunk_float32.tflite", "what loses is not shipped for its precision"
