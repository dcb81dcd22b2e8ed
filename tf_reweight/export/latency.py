"""How long files take, measured side by side in one process."""

import dataclasses
import pathlib
import time

import numpy as np
from rich.table import Table

from tf_reweight import errors
from tf_reweight.export.execution import Runner


@dataclasses.dataclass(frozen=True)
class Latencies:
    """Times of several files, measured in turns in one process; only their ratios carry over to other machines.

    Attributes:
        rows: one dict per file: `name`, `median_ms`, `low_ms` and `high_ms` (10th and 90th percentile), `speedup` against
            the first.
        num_runs: measured runs of each file.
        num_threads: threads of each interpreter.
    """

    rows: tuple[dict, ...]
    num_runs: int
    num_threads: int

    def to_dict(self):
        """Every figure, as plain types."""
        return dataclasses.asdict(self)

    def to_tables(self):
        """The same as rich tables."""
        title = f"Latency here, median of {self.num_runs} runs in turns, {self.num_threads} thread(s); trust the ratios"
        table = Table(title=title)
        for heading in ("file", "median ms", "10 % to 90 %", "against the first"):
            table.add_column(heading, justify="left" if heading == "file" else "right")
        for row in self.rows:
            spread = f"{row['low_ms']:.3f} to {row['high_ms']:.3f}"
            table.add_row(row["name"], f"{row['median_ms']:.3f}", spread, f"{row['speedup']:.2f}x faster")
        return [table]


def benchmark(paths, num_runs=100, num_threads=1, warmup=10):
    """Times files against each other: in turns, in one process, on the same kind of inputs.

    Turns spread whatever else the machine does over all of them; figures of different processes or days are not comparable.

    Args:
        paths: the `.tflite` files; the first is what the others are compared with.
        num_runs: measured runs of each.
        num_threads: threads of each interpreter.
        warmup: runs before measuring.

    Returns:
        `Latencies`.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or does not load; nothing is measured then.

    Example:
        >>> benchmark(["dense_int8.tflite", "pruned_int8.tflite"]).rows[1]["speedup"]
    """
    paths = [pathlib.Path(path) for path in paths]
    if not paths:
        raise ValueError(errors.message("Expected at least one .tflite file.", "Pass their paths.", paths=paths))
    for name, value, least in (("num_runs", num_runs, 1), ("num_threads", num_threads, 1), ("warmup", warmup, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(errors.message(f"`{name}` must be an int >= {least}.", "Count runs or threads.", **{name: value}))
    runners = [_prepared(path, num_threads) for path in paths]
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
    median = np.median(times, axis=0)
    low, high = np.percentile(times, [10, 90], axis=0)
    rows = [
        {
            "name": path.name,
            "median_ms": float(median[i]),
            "low_ms": float(low[i]),
            "high_ms": float(high[i]),
            "speedup": float(median[0] / median[i]),
        }
        for i, path in enumerate(paths)
    ]
    return Latencies(tuple(rows), num_runs, num_threads)


def _prepared(path, num_threads):
    """A runner with inputs set: zeros are too kind to some kernels, so random numbers."""
    runner = Runner(path, num_threads)
    rng = np.random.default_rng(0)
    for name, detail in runner.inputs.items():
        shape = detail["shape"]
        quantized = bool(detail["quantization"][0])
        if np.issubdtype(detail["dtype"], np.integer) and not quantized:
            value = np.zeros(shape, detail["dtype"])  # indices: any other could lie outside a table
        else:
            value = rng.random(shape, dtype="float32")
        runner.set(name, value)
    return runner
