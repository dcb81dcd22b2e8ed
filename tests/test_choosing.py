"""The file that a run ships is the best by the user's wish."""

import pytest

from tf_reweight.reports.choosing import WISHES, best_file, shipped_of

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


def test_reports_name_the_file_and_older_ones_ship_the_last():
    assert shipped_of({"files": FILES, "shipped": "shrunk_float32.tflite"}) is FILES[2]
    assert shipped_of({"files": FILES}) is FILES[-1]
