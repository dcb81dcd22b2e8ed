"""What is said of a run's files that compute what their models do, and yet may not be what is wanted."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from tf_reweight.export import doubts
from tf_reweight.reports import tables
from tf_reweight.reports.metrics import is_slower
from tf_reweight.workflow.doubts import with_doubts


def file(name, precision, num_bytes, milliseconds, accuracy=0.9, doubts=(), spread=0.1):
    low, high = milliseconds * (1 - spread), milliseconds * (1 + spread)
    times = {"latency_ms": milliseconds, "latency_low_ms": low, "latency_high_ms": high}
    figures = {"name": f"{name}.tflite", "precision": precision, "num_bytes": num_bytes, "test_accuracy": accuracy}
    return {**figures, "doubts": doubts, **times}


DENSE = file("dense_float32", "float32", 1000, 1.0)


def said(*files):
    return [item["doubts"] for item in with_doubts([DENSE, *files])]


def test_good_files_raise_no_doubt():
    assert said(file("small_float32", "float32", 400, 0.6), file("small_int8", "int8", 200, 0.3)) == [[], [], []]


def test_a_slower_file_is_named_where_the_times_do_not_overlap():
    _, slower, alike = said(file("a", "int16", 300, 15.6), file("b", "float32", 400, 1.05))
    (sentence,) = slower
    assert "slower than dense_float32.tflite: 15.600 ms to 1.000 ms" in sentence and alike == []


def test_what_no_report_shows_is_no_difference():
    fast, other, slow = (file("a", "int8", 300, milliseconds, spread=1e-6) for milliseconds in (0.001, 0.0014, 0.0031))
    assert not is_slower(other, fast) and is_slower(slow, fast) and not is_slower(fast, slow)


def test_an_integer_file_that_loses_to_a_smaller_float_one_is_named():
    small = file("small_float16", "float16", 200, 0.2)
    assert "small_float16.tflite is smaller and faster" in said(small, file("dense_int8", "int8", 300, 0.5))[2][0]
    assert said(small, file("dense_int8", "int8", 150, 0.5))[2] == []
    assert said(small, file("dense_weight_int8", "weight_int8", 300, 0.5))[2] == []
    assert said(small, file("any", "mixed", 300, 0.5))[2] == []


def test_the_checks_own_doubts_stay():
    _, own, fine = said(file("a", "int8", 200, 0.3, doubts=("seen",)), file("b", "int8", 200, 0.3))
    assert own == ["seen"] and fine == []


@pytest.mark.parametrize("kernels", [[], [SimpleNamespace(used_by="CONV_2D")]])
def test_a_time_that_was_measured_is_not_guessed_at(kernels):
    """40 to 60 times slower than float32, a sentence had said beside a file that was measured twelve times slower."""
    guesses = doubts._slow("int16", kernels)
    (guess,) = guesses
    assert doubts.is_of_time(guess) and ("convolutions" in guess) == bool(kernels) and doubts._slow("int8", kernels) == ()
    _, slow, fast = said(file("a", "int16", 300, 12.0, doubts=guesses), file("b", "int16", 300, 0.5, doubts=(*guesses, "seen")))
    assert slow == ["It is slower than dense_float32.tflite: 12.000 ms to 1.000 ms here."] and fast == ["seen"]


def test_doubts_are_in_the_terminal(tmp_path):
    console = Console(record=True, width=120, file=open(tmp_path / "log", "w"))
    console.print(*tables._doubt_tables(with_doubts([DENSE, file("a", "int16", 300, 15.6)])))
    console.file.close()
    assert "slower than" in console.export_text() and tables._doubt_tables([DENSE]) == []
