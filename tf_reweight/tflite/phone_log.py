"""Reading what a benchmark tool wrote on a phone: TFLite's `benchmark_model`, or `litert-benchmark` of the LiteRT wheel."""

import dataclasses
import json
import pathlib
import re

from rich.table import Table

from tf_reweight import errors
from tf_reweight.files import as_path, check_is_file
from tf_reweight.records import Report

_SHOWN = 10
# What logcat, or the tool's own logger, puts before a line.
_PREFIX = re.compile(
    r"^(?:.*\b[IWE][ /]tflite\s*(?:\(\s*\d+\))?\s*: ?|(?:INFO|WARNING|ERROR): |\S+ \S+ [A-Z]+ benchmark_litert_model: )"
)
_NUMBER = r"([-+.\de]+)"
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, "
    rf"Inference \(avg\): {_NUMBER}"
)
_MEMORY = re.compile(
    rf"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): init={_NUMBER} overall={_NUMBER}"
)
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_NUMBER}")
_REPLACED = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\) node, yielding (\d+) partitions"
)
_APPLIED = re.compile(r"Explicitly applied (.+?) delegate, and the model graph will be (completely|partially) executed")
_REFUSED = re.compile(r"Though (.+?) delegate is explicitly applied, the model graph will not be executed")
_OPERATIONS = "Operator-wise Profiling Info for Regular Benchmark Runs:"
_SECTION = re.compile(r"^=+ (.+?) =+$")
_FIX = "Run the tool again, and pull the log once it has ended; `tf-reweight phone FILE --out DIR` writes a script that does."


@dataclasses.dataclass(frozen=True)
class PhoneRun(Report):
    """What a benchmark tool measured; milliseconds and MB. What a tool does not say is None.

    Attributes:
        log: the file that was read.
        tool: `"benchmark_model"` or `"litert-benchmark"`.
        device: what the script of `phone.write_script` noted of the phone; "" for other logs.
        model: path of the model on the device.
        num_threads: as asked for.
        init_ms: to load the model and prepare it.
        first_ms: the first inference, which is slower.
        mean_ms: steady inferences, `num_runs` of them; with `median_ms`, `min_ms`, `max_ms`, `p95_ms`, `std_ms`.
        init_memory: memory that the model took once it was prepared.
        memory: the same once it had run; the tool itself is in it, so that it is approximate.
        peak_memory: the largest use of memory of the whole process.
        fully_delegated: whether one delegate runs all operations.
        delegates: dicts with `delegate`, `operations`, `of` and `partitions`.
        operations: dicts with `type`, `name`, `mean_ms`, `share` and `calls`, in the order in which they run; empty without a
            profile. What a delegate runs as one is one entry.
    """

    log: str
    tool: str
    device: str
    model: str
    num_threads: int | None
    init_ms: float
    first_ms: float
    mean_ms: float
    median_ms: float | None
    min_ms: float | None
    max_ms: float | None
    p95_ms: float | None
    std_ms: float | None
    num_runs: int | None
    init_memory: float | None
    memory: float | None
    peak_memory: float | None
    fully_delegated: bool | None
    delegates: tuple[dict, ...]
    operations: tuple[dict, ...]

    def to_tables(self):
        """The figures, the delegates' partitions, and the slowest operations."""
        tables = [self._figures()]
        if self.delegates:
            table = Table("delegate", "operations", "partitions", title="Where operations ran")
            for item in self.delegates:
                table.add_row(item["delegate"], f"{item['operations']} of {item['of']}", str(item["partitions"]))
            tables.append(table)
        return [*tables, *([self._slowest()] if self.operations else [])]

    def _figures(self):
        where = f" on {self.device}" if self.device else ""
        table = Table("figure", "value", title=f"{pathlib.PurePath(self.model).name or self.log}{where}, by {self.tool}")
        times = {"initialisation": self.init_ms, "first inference": self.first_ms, f"mean of {self.num_runs}": self.mean_ms}
        times |= {"median": self.median_ms, "95th percentile": self.p95_ms, "fastest": self.min_ms, "slowest": self.max_ms}
        memory = {"memory, initialised": self.init_memory, "memory, having run": self.memory, "peak memory": self.peak_memory}
        for name, value in times.items():
            table.add_row(name, "-" if value is None else f"{value:,.3f} ms")
        for name, value in memory.items():
            table.add_row(name, "-" if value is None else f"{value:,.1f} MB")
        table.add_row("threads", "-" if self.num_threads is None else str(self.num_threads))
        table.add_row("one delegate runs all", {True: "yes", False: "no", None: "not said"}[self.fully_delegated])
        return table

    def _slowest(self):
        slowest = sorted(self.operations, key=lambda item: -item["mean_ms"])[:_SHOWN]
        title = f"The slowest {len(slowest)} of {len(self.operations)} operations"
        table = Table("operation", "output of", title=title)
        for heading in ("mean ms", "share"):
            table.add_column(heading, justify="right")
        for item in slowest:
            table.add_row(item["type"], item["name"][-48:], f"{item['mean_ms']:.3f}", f"{item['share']:.1%}")
        return table


def read_log(path):
    """Reads the log of a benchmark tool, also one that logcat wrote, or the JSON of `litert-benchmark --result_json`.

    Args:
        path: the log.

    Returns:
        `PhoneRun`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for anything else, a log that was cut off, and one of a run that failed.

    Example:
        >>> read_log("cpu.log").mean_ms
    """
    path = as_path("log", path)
    check_is_file(path, "The log", log=str(path))
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r", "")
    if text.lstrip().startswith("{"):
        return _of_json(path, text)
    lines = [_PREFIX.sub("", line) for line in text.split("\n")]
    if "Model initialization:" in text or "benchmark_litert_model" in text:
        return _of_litert(path, lines)
    if "STARTING!" not in text and not _TIMINGS.search(text):
        expected = "The log must be one of TFLite's benchmark_model or of litert-benchmark."
        raise ValueError(errors.message(expected, _FIX, log=str(path), start=text[:40]))
    return _of_benchmark_model(path, lines)


def _cut(path, missing, said=""):
    """The error for a log that ends early."""
    expected = f"The log must reach to its end; {missing}."
    fix = f"The tool says: {said} {_FIX}" if said else _FIX
    return ValueError(errors.message(expected, fix, log=str(path)))


def _complaint(lines):
    """The last line in which a tool says what went wrong; "" where there is none."""
    words = ("fail", "could not", "cannot", "not found", "abort", "error", "no such file")
    # What LiteRT's plugins say of hardware that is not there is no failure.
    told = [line.strip() for line in lines if any(word in line.lower() for word in words) and not line.startswith("[")]
    return f"{told[-1][:200].rstrip('.')}." if told else ""


def _of_benchmark_model(path, lines):
    text = "\n".join(lines)
    found = _TIMINGS.search(text)
    if found is None:
        raise _cut(path, "it has no line of inference timings", _complaint(lines))
    init, first, _, mean = (float(value) / 1e3 for value in found.groups())
    steady = _counts(lines)
    memory, peak = _MEMORY.search(text), _PEAK.search(text)
    threads = re.search(r"^Num threads: \[(-?\d+)\]", text, re.MULTILINE)
    delegates = tuple(
        {"delegate": name, "operations": int(some), "of": int(all_), "partitions": int(partitions)}
        for some, all_, name, partitions in _REPLACED.findall(text)
    )
    return PhoneRun(
        str(path), "benchmark_model", _after(lines, "Device: "), _after(lines, "Loaded model "),
        int(threads[1]) if threads else None, init, first, mean, *(_ms(steady, key) for key in _STEADY),
        int(steady["count"]) if "count" in steady else None,
        *((float(memory[1]), float(memory[2])) if memory else (None, None)), float(peak[1]) if peak else None,
        _is_whole(text, delegates), delegates, _operations(path, lines),
    )  # fmt: skip


_STEADY = ("median", "min", "max", "p95", "std")


def _counts(lines):
    """The figures of the steady runs, in microseconds, by their names: of the last such line before the profile."""
    told = [line for line in lines if line.startswith("count=")]
    return dict(re.findall(r"(\w+)=([-+.\de]+)", told[-1])) if told else {}


def _ms(figures, name):
    return float(figures[name]) / 1e3 if name in figures else None


def _after(lines, start):
    return next((line[len(start) :].strip() for line in lines if line.startswith(start)), "")


def _is_whole(text, delegates):
    """Whether one delegate runs all, as far as the log says."""
    if _REFUSED.search(text):
        return False
    applied = _APPLIED.findall(text)
    if applied:
        return any(how == "completely" for _, how in applied)
    return any(item["operations"] == item["of"] and item["partitions"] == 1 for item in delegates) if delegates else None


def _operations(path, lines):
    """The profile of the steady runs, operation by operation."""
    if _OPERATIONS not in lines:
        if any(line.startswith("Enable op profiling: [1]") for line in lines):
            raise _cut(path, "a profile was asked for, and that of the steady runs is missing")
        return ()
    part = lines[lines.index(_OPERATIONS) + 1 :]
    sections = [(number, found[1]) for number, line in enumerate(part) if (found := _SECTION.match(line.strip()))]
    if len(sections) < 3 or not any(line.strip().endswith("nodes observed") for line in part):
        raise _cut(path, "the profile of the steady runs breaks off")
    start, end = sections[0][0] + 1, sections[1][0]
    rows = [_cells(line) for line in part[start:end] if line.strip()]
    headings, rows = rows[0], rows[1:]
    wanted = ("[node type]", "[avg ms]", "[%]", "[times called]", "[Name]")
    if any(len(row) != len(headings) for row in rows) or any(name not in headings for name in wanted):
        raise _cut(path, "a line of the profile is not whole")
    return tuple(_operation(dict(zip(headings, row))) for row in rows)


def _cells(line):
    return re.split(r"\s*\t\s*|\s{2,}", line.strip())


def _operation(cells):
    return {
        "type": cells["[node type]"], "name": cells["[Name]"], "mean_ms": float(cells["[avg ms]"]),
        "share": float(cells["[%]"].rstrip("%")) / 100, "calls": int(cells["[times called]"]),
    }  # fmt: skip


def _of_litert(path, lines):
    """The text that litert-benchmark prints."""
    named = r"^(Model initialization|Warmup \(first\)|Inference \(\w+\)):\s+([\d.]+) ms"
    figures = dict(re.findall(named, "\n".join(lines), re.MULTILINE))
    whole = _after(lines, "Fully accelerated:     ")
    wanted = ("Model initialization", "Warmup (first)", *(f"Inference ({name})" for name in ("avg", *_STEADY)))
    if any(name not in figures for name in wanted) or whole not in ("True", "False"):
        raise _cut(path, "the results of litert-benchmark are not all there", _complaint(lines))
    value = {name: float(text) for name, text in figures.items()}
    runs = re.search(r"^Inference \(avg\):.*\((\d+) runs\)", "\n".join(lines), re.MULTILINE)
    threads = _after(lines, "Num threads:")
    return PhoneRun(
        str(path), "litert-benchmark", _after(lines, "Device: "), _after(lines, "Model:"), int(threads) if threads else None,
        value["Model initialization"], value["Warmup (first)"], value["Inference (avg)"],
        *(value[f"Inference ({name})"] for name in _STEADY), int(runs[1]) if runs else None,
        None, None, None, whole == "True", (), (),
    )  # fmt: skip


def _of_json(path, text):
    """What `litert-benchmark --result_json` writes."""
    try:
        found = json.loads(text)
        times = found["latency"]
        steady = [float(times[f"{name}_ms"]) for name in _STEADY]
        return PhoneRun(
            str(path), "litert-benchmark", "", str(found["model"]), int(found["num_threads"]), float(times["init_ms"]),
            float(times["warmup_first_ms"]), float(times["avg_ms"]), *steady, int(times["num_runs"]), None, None, None,
            bool(found["fully_accelerated"]), (), (),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError) as error:
        raise _cut(path, "what litert-benchmark --result_json writes is not all there") from error
