"""How long files take, measured side by side in one process."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import time
import uuid

import numpy as np
from rich.table import Table

from tf_reweight import errors
from tf_reweight.checks import check_integer, check_name, listed
from tf_reweight.files import as_path
from tf_reweight.records import Report
from tf_reweight.tflite import compiled
from tf_reweight.tflite.execution import Runner, check_threads
from tf_reweight.tflite.processor import processor_name

# Far more than anyone waits for.
MOST_RUNS = 10_000_000
RUNTIMES = ("interpreter", "compiled")


@dataclasses.dataclass(frozen=True)
class Latencies(Report):
    """Times of several files, measured in turns in one process; only their ratios carry over to other machines.

    Attributes:
        rows: one dict per file: `name`, `median_ms`, `low_ms` and `high_ms` (10th and 90th percentile), `speedup` against
            the first (ratio of the medians), `speedup_low` and `speedup_high` (10th and 90th percentile over the turns).
        num_runs: measured runs of each file.
        num_threads: threads of each interpreter.
        warmup: runs of each file before measuring.
        measurement: `id`, `date`, `runtime`, `machine`, `processor` (its name) and `processor_count`. Times with different ids
            are not comparable.
    """

    rows: tuple[dict, ...]
    num_runs: int
    num_threads: int
    warmup: int
    measurement: dict

    def to_tables(self):
        """The same as rich tables."""
        title = f"Latency here, median of {self.num_runs} runs in turns, {self.num_threads} thread(s); trust the ratios"
        processor = self.measurement.get("processor", self.measurement["machine"])
        caption = f"{processor}, {self.measurement['runtime']}; its Python interface reports no times of single operations"
        table = Table(title=title, caption=caption)
        for heading in ("file", "median ms", "10 % to 90 %", "against the first", "10 % to 90 %"):
            table.add_column(heading, justify="left" if heading == "file" else "right")
        for row in self.rows:
            table.add_row(
                row["name"], f"{row['median_ms']:.3f}", f"{row['low_ms']:.3f} to {row['high_ms']:.3f}",
                f"{row['speedup']:.2f}x faster", f"{row['speedup_low']:.2f} to {row['speedup_high']:.2f}",
            )  # fmt: skip
        return [table]


def benchmark(paths, num_runs=100, num_threads=1, warmup=10, shapes=None, runtime=RUNTIMES[0]):
    """Times files against each other: in turns, in one process, on the same kind of inputs.

    Turns spread whatever else the machine does over all of them; figures of different processes or days are not comparable.
    What single operations take is not reported: LiteRT's Python interface does not tell, and its delegate runs them as one.

    Args:
        paths: the `.tflite` files, a list or tuple, or one alone; the first is what the others are compared with.
        num_runs: measured runs of each.
        num_threads: threads of each interpreter.
        warmup: runs before measuring.
        shapes: of inputs whose sizes the files leave open: one whole shape as `(1, 224, 224, 3)`, or a dict by input name.
        runtime: `"interpreter"`, which apps have used so far, or `"compiled"`, LiteRT's newer `CompiledModel`.

    Returns:
        `Latencies`.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or does not load, or that the runtime does not run; nothing is
            measured then.

    Example:
        >>> benchmark(["dense_int8.tflite", "pruned_int8.tflite"]).rows[1]["speedup"]
    """
    paths = [as_path("paths", path) for path in listed(paths)]
    if not paths:
        raise ValueError(errors.message("Expected at least one .tflite file.", "Pass their paths.", paths=paths))
    for name, value, least in (("num_runs", num_runs, 1), ("warmup", warmup, 0)):
        check_integer(name, value, least, MOST_RUNS, fix="Count runs.")
    check_threads(num_threads)
    num_threads = int(num_threads)
    check_name("runtime", runtime, RUNTIMES)
    runners = [_prepared(path, num_threads, shapes) for path in paths]
    if runtime == "compiled":
        times = _of_compiled(runners, paths, num_runs, num_threads, warmup)
    else:
        times = _in_turns(runners, num_runs, warmup)
    rows = [_row(name, times[:, i], times[:, 0]) for i, name in enumerate(_names(paths))]
    return Latencies(tuple(rows), int(num_runs), int(num_threads), int(warmup), _measurement(runtime))


def reopen(paths):
    """Reads what `benchmark` measured, as saved by `tf-reweight benchmark --json`; refuses to put several together.

    Args:
        paths: JSON files.

    Returns:
        `Latencies`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for anything but the results of one single measurement.
    """
    found = [_saved(pathlib.Path(path)) for path in paths]
    measurements = {item.measurement["id"]: f"{item.measurement['date']}: {item.rows[0]['name']}" for item in found}
    if len(measurements) != 1:
        expected = "Times are comparable only where they were measured in turns in one process; these were not."
        fix = "Pass the .tflite files themselves, all in one call."
        raise ValueError(errors.message(expected, fix, measurements=list(measurements.values())))
    return found[0]


def _saved(path):
    if path.suffix == ".tflite":
        expected = "Saved times cannot be compared with those of a file measured now, in another process."
        raise ValueError(errors.message(expected, "Pass the .tflite files of both, and no .json.", file=str(path)))
    if not path.is_file():
        raise FileNotFoundError(errors.message("The file of saved times must exist.", "Check the path.", file=str(path)))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = Latencies(**{**values, "rows": tuple(values["rows"])})
        # Whatever is shown of it must be there.
        found.to_tables(), found.measurement["id"], found.measurement["date"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        expected = "The file must be what tf-reweight benchmark --json printed."
        raise ValueError(errors.message(expected, "Measure again.", file=str(path))) from error
    return found


def _of_compiled(runners, paths, num_runs, num_threads, warmup):
    """Milliseconds `(num_runs, files)` in `CompiledModel`."""
    files = [(runner.content, {name: array[None] for name, array in runner.raw_inputs.items()}) for runner in runners]
    try:
        with compiled.programs(files, num_threads) as programs:
            return _in_turns(programs, num_runs, warmup)
    except (compiled.Unavailable, RuntimeError) as error:
        expected = f"CompiledModel must run the files; it says: {' '.join(str(error).split())[:300]}."
        fix = 'Measure in the interpreter, runtime="interpreter".'
        raise ValueError(errors.message(expected, fix, files=_names(paths))) from error


def _in_turns(runners, num_runs, warmup):
    """Milliseconds `(num_runs, files)`, after `warmup` runs of each."""
    for _ in range(warmup):
        for runner in runners:
            runner.invoke()
    times = np.zeros((num_runs, len(runners)))
    for turn in range(num_runs):
        # Every other turn backwards, so that no file always runs after the same neighbour.
        order = range(len(runners)) if turn % 2 == 0 else reversed(range(len(runners)))
        for i in order:
            start = time.perf_counter_ns()
            runners[i].invoke()
            times[turn, i] = (time.perf_counter_ns() - start) / 1e6
    return times


def _row(name, own, first):
    median, (low, high) = np.median(own), np.percentile(own, [10, 90])
    ratio_low, ratio_high = np.percentile(first / own, [10, 90])
    figures = {"median_ms": median, "low_ms": low, "high_ms": high}
    figures |= {"speedup": np.median(first) / median, "speedup_low": ratio_low, "speedup_high": ratio_high}
    return {"name": name, **{key: float(value) for key, value in figures.items()}}


def _names(paths):
    """File names; whole paths where two files have the same name."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _measurement(runtime):
    version = importlib.metadata.version("ai-edge-litert")
    return {
        "id": uuid.uuid4().hex,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "runtime": f"ai-edge-litert {version}, {'CompiledModel' if runtime == 'compiled' else 'interpreter'}",
        "machine": platform.machine(),
        "processor": processor_name(),
        "processor_count": os.cpu_count(),
    }


def _prepared(path, num_threads, shapes):
    """A runner with inputs set: random numbers, since some kernels are faster on zeros."""
    runner = Runner(path, num_threads, shapes=shapes)
    runnable_example(runner)
    return runner


def runnable_example(runner):
    """Random inputs by name, in real numbers, that a file runs on; they are set.

    Raises:
        ValueError: when it runs neither with indices of one, which are no padding, nor with zeros, which lie in every table.
    """
    for index in (1, 0):
        rng = np.random.default_rng(0)
        arrays = {name: _random_example(detail, rng, index) for name, detail in runner.inputs.items()}
        try:
            for name, array in arrays.items():
                runner.set(name, array)
            runner.invoke()
            return arrays
        except RuntimeError as error:
            said = " ".join(str(error).split())[:300]
    expected = f"The file must run on random inputs; LiteRT says: {said.rstrip('.')}."
    raise ValueError(errors.message(expected, "Run it on examples of your own.", inputs=list(runner.inputs)))


def _random_example(detail, rng, index):
    """A random input `(batch, ...)` for LiteRT's details of it, in real numbers; `index` everywhere where it takes integers."""
    if np.issubdtype(detail["dtype"], np.integer) and not detail["quantization"][0]:
        return np.full(detail["shape"], index, detail["dtype"])
    return rng.random(detail["shape"], dtype="float32")
