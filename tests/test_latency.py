"""Times of files: in turns, with spread; and no comparison of what was not measured together."""

import json
import pathlib
import runpy
import sys

import keras
import numpy as np
import packed_nets
import pytest

from tf_reweight import export
from tf_reweight.cli import main
from tf_reweight.tflite import compiled, latency

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def files(tmp_path):
    content = packed_nets.converted("dense", "float32")
    paths = [tmp_path / name for name in ("a.tflite", "b.tflite")]
    for path in paths:
        path.write_bytes(content)
    return paths


def test_files_take_turns(files, monkeypatch):
    calls, invoke = [], export.Runner.invoke
    monkeypatch.setattr(export.Runner, "invoke", lambda self: (calls.append(id(self)), invoke(self)))
    export.benchmark(files, num_runs=4, warmup=0)
    first, second = dict.fromkeys(calls)
    assert calls == [first, second, *[first, second, second, first] * 2]  # each runs once before: whether it does
    calls.clear()
    export.benchmark(files, num_runs=1, warmup=3)
    assert len(calls) == 2 + 8


def test_figures_against_plain_loops(files, monkeypatch):
    """Medians, percentiles and ratios of times that are known."""
    own = [[3.0, 1.0], [5.0, 2.0], [4.0, 4.0]]
    monkeypatch.setattr(latency, "_in_turns", lambda runners, num_runs, warmup: np.array(own))
    timed = export.benchmark(files, num_runs=3)
    first, second = timed.rows
    assert first["name"] == "a.tflite" and first["median_ms"] == 4.0 and first["speedup"] == first["speedup_low"] == 1.0
    assert second["median_ms"] == 2.0 and second["speedup"] == 2.0
    ratios = sorted(slow / fast for slow, fast in own)
    assert ratios[0] < second["speedup_low"] < ratios[1] < second["speedup_high"] < ratios[2]
    assert second["low_ms"] == pytest.approx(1.2) and second["high_ms"] == pytest.approx(3.6)


def test_files_of_one_name_are_told_apart(files, tmp_path):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "a.tflite"
    twin.write_bytes(files[0].read_bytes())
    rows = export.benchmark([files[0], twin], num_runs=1, warmup=0).rows
    assert [row["name"] for row in rows] == [str(files[0]), str(twin)]


def test_files_take_turns_in_the_newer_runtime_too(files, monkeypatch):
    calls, invoke = [], compiled.Program.invoke
    monkeypatch.setattr(compiled.Program, "invoke", lambda self: (calls.append(self.read()), invoke(self)))
    timed = export.benchmark(files, num_runs=3, warmup=1, num_threads=2, runtime="compiled")
    assert len(calls) == 8 and all(row["median_ms"] > 0 for row in timed.rows)
    assert timed.measurement["runtime"].endswith("CompiledModel") and timed.num_threads == 2
    # It computes what the interpreter does from the same inputs.
    runner = latency._prepared(files[0], 1, None)
    runner.invoke()
    ((name, output),) = calls[-1].items()
    np.testing.assert_allclose(output, runner.get(name), atol=1e-5)
    assert np.abs(output).max() > 0


def test_a_file_that_the_newer_runtime_does_not_run_is_refused(files, monkeypatch):
    monkeypatch.setattr(compiled, "missing", lambda: "this version of ai-edge-litert has no CompiledModel")
    with pytest.raises(ValueError, match='CompiledModel must run the files; it says: this version.*runtime="interpreter"'):
        export.benchmark(files, num_runs=1, runtime="compiled")
    with pytest.raises(ValueError, match="Did you mean 'compiled'"):
        export.benchmark(files, num_runs=1, runtime="compild")


def test_bad_arguments(files):
    for bad in ({"num_runs": 0}, {"num_threads": 0}, {"warmup": -1}, {"num_runs": True}, {"num_runs": 2.0}):
        with pytest.raises(ValueError, match=f"`{list(bad)[0]}` must be an int"):
            export.benchmark(files, **bad)
    with pytest.raises(ValueError, match="at least one"):
        export.benchmark([])


def test_saved_times_are_shown_again_and_never_put_together(files, tmp_path, capsys):
    saved = []
    for number in range(2):
        assert main.console(["benchmark", *map(str, files), "--runs", "2", "--warmup", "0", "--json"]) == 0
        saved.append(tmp_path / f"{number}.json")
        saved[-1].write_text(capsys.readouterr().out)
    assert main.console(["benchmark", str(saved[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(saved[0].read_text())
    assert main.console(["benchmark", str(saved[0])]) == 0
    assert "no times of single operations" in " ".join(capsys.readouterr().out.split())
    assert latency.reopen([saved[0], saved[0]]).rows == latency.reopen([saved[0]]).rows
    for paths, words in (
        (saved, "measured in turns in one process; these were not"),
        ([saved[0], files[0]], "cannot be compared with those of a file measured now"),
        ([tmp_path / "none.json"], "must exist"),
    ):
        assert main.console(["benchmark", *map(str, paths)]) == 2
        assert words in capsys.readouterr().err
    for text in ("no json", "{}", '{"rows": []}', "[1]"):
        saved[0].write_text(text)
        assert main.console(["benchmark", str(saved[0])]) == 2
        assert "what tf-reweight benchmark --json printed" in capsys.readouterr().err


def test_the_table_of_runs(files, tmp_path, monkeypatch, capsys):
    """The benchmark's command, on a folder as a run leaves it and on single files."""
    run, output = tmp_path / "runs" / "mine", tmp_path / "latency.json"
    run.mkdir(parents=True)
    for name in ("pruned_int8", "dense_float32", "left_over"):
        (run / f"{name}.tflite").write_bytes(files[0].read_bytes())
    listed = [{"name": f"{name}.tflite"} for name in ("dense_float32", "pruned_int8")]
    (run / "report.json").write_text(json.dumps({"name": "mine", "files": listed}))
    command = ["latency.py", run, *files, "--runs", "2", "--output", output]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    runpy.run_path(str(ROOT / "benchmarks" / "latency.py"), run_name="__main__")
    tables = json.loads(output.read_text())
    assert [table["run"] for table in tables] == ["mine", "mine", "files", "files"]
    assert [table["in"] for table in tables] == ["interpreter", "compiled"] * 2 and "dense_float32" in capsys.readouterr().out
    assert [row["name"] for row in tables[0]["rows"]] == ["dense_float32.tflite", "pruned_int8.tflite"]
    assert tables[0]["num_threads"] == 1 and tables[0]["num_runs"] == 2
    (run / "pruned_int8.tflite").unlink()
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "benchmarks" / "latency.py"), run_name="__main__")
    assert "pruned_int8.tflite" in capsys.readouterr().err


def test_a_file_that_divides_by_the_length_of_a_text_is_timed_on_one_that_is_not_empty(tmp_path):
    tokens = keras.Input((6,), dtype="int32")
    means = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4, mask_zero=True)(tokens))
    model = keras.Model(tokens, keras.layers.Dense(2)(means))
    words = np.random.default_rng(0).integers(1, 9, (32, 6)).astype("int32")
    path = tmp_path / "text.tflite"
    export.export_tflite(model, path, "int8", words, words)
    with pytest.raises(RuntimeError):  # the integers' own division
        export.Runner(path)([np.zeros((1, 6), "int32")])
    assert export.benchmark([path], num_runs=2).rows[0]["median_ms"] > 0
    assert export.check_file(path).passed


def test_a_file_that_runs_on_no_random_input_is_refused_in_our_words(files, monkeypatch):
    def fails(self):
        raise RuntimeError("node 7 failed\nto invoke")

    monkeypatch.setattr(export.Runner, "invoke", fails)
    with pytest.raises(ValueError, match="must run on random inputs; LiteRT says: node 7 failed to invoke. Received: inputs="):
        export.benchmark(files, num_runs=1)
