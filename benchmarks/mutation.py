"""How many small slips in the code the tests notice: drawn by a seed, put in one at a time, met by the nearest tests.

A slip is one small change of the source, found in its syntax tree: another comparison or arithmetic operator, another constant,
`and` for `or`, a dropped `not`, minus, `abs`, keyword argument, call, early return or assignment to an attribute, mean for sum,
min for max. None is put into docstrings, error and warning texts, `raise`, annotations, decorators, `__repr__` and `__str__`,
`verbose=`, `name=`, `strict=` and `fix=` arguments, or into the tables at the top of `__init__.py`: nothing is computed there
that a test should pin.

The tests are first run once under coverage.py, each a context of its own, which tells for every line which tests run it and how
long they take. A slip is then met by the tests that run its line, the fastest case of each test function first, up to `--limit`
seconds of measured time, and counts as noticed when one of them fails, dies or runs several times as long as measured. A test
that fails without the slip as well does not count. A slip on a line that no test runs counts as unnoticed, and is listed so.

mutmut and cosmic-ray are good tools for this, but start every slip with a fresh interpreter or with the modules under test
already loaded: here a fresh interpreter spends 6 s on importing TensorFlow, and a package that registers its classes by name
cannot be loaded twice. This script forks a process that has imported TensorFlow and nothing of the package.

Needs coverage.py (`pip install coverage`) and a system that forks. Everything happens in copies in a temporary folder.

    python benchmarks/mutation.py --measure coverage.json                        # about as long as the test suite
    python benchmarks/mutation.py 300 --seed 20 --coverage coverage.json --output mutation.json
    python benchmarks/mutation.py 40 --seed 1 --coverage coverage.json --rooms coupling --jobs 2
    python benchmarks/mutation.py --coverage coverage.json --at penalties/proximal.py:111    # every slip on one line
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from slips import PACKAGE, changed, find

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
ROOMS = ("penalties", "structures", "kernels", "coupling", "shrinking", "quantization", "packing", "pruning", "deadline")
# They train whole examples, install the package or execute notebooks: far from any single line, and slow.
FAR_TESTS = (
    "test_notebooks.py", "test_readme.py", "test_examples.py", "test_workflow.py", "test_commands.py", "test_latency.py",
    "test_architecture.py", "test_page.py", "test_data.py",
)  # fmt: skip
# What a slip may take beyond the measured time of its tests, in seconds and as a factor: the first run compiles.
_GRACE, _FACTOR = 40.0, 4.0
# Of plugins that were imported before the fork, which pytest would have liked to import itself.
_REWRITE = "ignore::pytest.PytestAssertRewriteWarning"


# Which tests run which lines.


class Measured:
    """A plugin of pytest: the seconds of every test, a coverage context for each, and what failed."""

    def __init__(self, coverage=None):
        self.coverage, self.seconds, self.failed = coverage, collections.Counter(), []

    def pytest_runtest_logstart(self, nodeid, location):
        if self.coverage is not None:
            self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration
        if report.failed or report.skipped:
            self.failed.append(report.nodeid)


def measure(output, tests):
    """Runs the tests under coverage, in this process, and writes what they took and which lines each ran."""
    import coverage
    import pytest

    measured = Measured(coverage.Coverage(data_file=None, source=[PACKAGE]))
    measured.coverage.start()
    pytest.main(["-q", "-p", "no:cacheprovider", *tests], plugins=[measured])
    measured.coverage.stop()
    data = measured.coverage.get_data()
    names = sorted(set(measured.seconds) - set(measured.failed))
    number = {name: index for index, name in enumerate(names)}
    lines = {}
    for path in sorted(data.measured_files()):
        file = pathlib.Path(path).relative_to(pathlib.Path(PACKAGE).resolve()).as_posix()
        found = data.contexts_by_lineno(path)
        lines[file] = {line: [number[name] for name in found[line] if name in number] for line in sorted(found)}
    seconds = [round(measured.seconds[name], 3) for name in names]
    pathlib.Path(output).write_text(json.dumps({"tests": names, "seconds": seconds, "lines": lines}), encoding="utf-8")
    print(f"{len(names)} tests measured, {sum(seconds):.0f} s; left out as failed or skipped: {sorted(set(measured.failed))}")


class Nearest:
    """For each line the tests that run it, from one or more files that `measure` wrote."""

    def __init__(self, files):
        self.seconds, self._lines = {}, collections.defaultdict(lambda: collections.defaultdict(set))
        for file in files:
            known = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
            names = known["tests"]
            self.seconds.update(zip(names, known["seconds"]))
            for path, lines in known["lines"].items():
                for line, tests in lines.items():
                    self._lines[path][int(line)] |= {names[index] for index in tests}

    def tests(self, slip, scopes, limit, unsound):
        """Names of the tests for a slip; what runs on import has those of the function it belongs to, or of the file."""
        lines = self._lines.get(slip.file, {})
        found = self._inside(lines, slip, scopes.get(slip.line))
        chosen, total = [], 0.0
        for name in self._in_order(set(found) - unsound):
            total += self.seconds[name]
            if chosen and total > limit:
                break
            chosen.append(name)
        return chosen

    def _in_order(self, names):
        """The fastest case of every test function, then the second of each, and so on: cases of one function are alike."""
        ranks, rank_of = collections.Counter(), {}
        for name in sorted(names, key=lambda name: (self.seconds[name], name)):
            function = name.split("[")[0]
            rank_of[name] = ranks[function]
            ranks[function] += 1
        return sorted(rank_of, key=lambda name: (rank_of[name], self.seconds[name], name))

    @staticmethod
    def _inside(lines, slip, scope):
        if lines.get(slip.line):
            return lines[slip.line]
        if scope is not None and slip.line >= scope[0] and slip.line not in lines:
            # The middle of a statement over several lines: coverage has its first line alone.
            above = [line for line in lines if scope[0] <= line < slip.line]
            return lines[max(above)] if above else []
        if scope is not None and slip.line >= scope[0]:
            return []
        first, last = scope or (0, 10**9)
        return {name for line, tests in lines.items() if first <= line <= last for name in tests}


# One slip after the other.


class Tree:
    """A copy of the repository that one process after the other runs its tests in."""

    def __init__(self, folder):
        self.folder = folder
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".pytest_cache", ".hypothesis")
        shutil.copytree(REPOSITORY, folder, ignore=ignored)
        self._count = 0

    def put_in(self, slip):
        """Puts a slip in; returns a function that takes it out again."""
        path = self.folder / PACKAGE / slip.file
        source, times = path.read_bytes(), path.stat()

        def take_out():
            path.write_bytes(source)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

        path.write_bytes(changed(source, slip))
        # Python tells compiled files apart by size and whole seconds alone.
        self._count += 1
        os.utime(path, (10_000 * self._count, 10_000 * self._count))
        return take_out

    def run(self, tests, timeout):
        """Forks a process that runs the tests here; returns it, to be waited for."""
        log = self.folder / "log.txt"
        log.unlink(missing_ok=True)
        process = os.fork()
        if not process:
            _run_tests(self.folder, tests, log)
        return Run(process, log, time.monotonic() + timeout)


@dataclasses.dataclass
class Run:
    """A forked process that runs tests."""

    process: int
    log: pathlib.Path
    deadline: float

    def result(self):
        """None while it runs, then `"passed"`, `"dead"`, `"late"` or the name of the test that failed."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        if not done and time.monotonic() < self.deadline:
            return None
        try:
            os.killpg(self.process, signal.SIGKILL)  # also what it started
        except ProcessLookupError:
            pass
        if not done:
            os.waitpid(self.process, 0)
            return "late"
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return "passed"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        named = [line.removeprefix("failed: ") for line in lines if line.startswith("failed: ")]
        return named[0] if named else "dead"


def _path(folder):
    """PYTHONPATH with a copy before all else."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(REPOSITORY)]
    return os.pathsep.join([str(folder), *others])


def _run_tests(folder, tests, log):
    """What a forked process does: it becomes a fresh run of pytest in the copy, and never returns."""
    import pytest

    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["PYTHONPATH"] = _path(folder)
        sys.path[:] = [str(folder), *(path for path in sys.path if path not in ("", str(REPOSITORY)))]
        measured = Measured()
        options = ["-x", "-q", "-p", "no:cacheprovider", "-W", _REWRITE, f"--basetemp={folder}-tests"]
        status = int(pytest.main([*options, *tests], plugins=[measured]))
        os.write(1, "".join(f"\nfailed: {name}\n" for name in measured.failed[:1]).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def warm_up():
    """Imports what is slow to import and no part of the package, and computes nothing: threads do not survive a fork."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import ai_edge_litert.interpreter  # noqa: F401
    import hypothesis  # noqa: F401
    import keras  # noqa: F401
    import pytest  # noqa: F401

    sys.modules.pop("conftest", None)
    assert PACKAGE not in sys.modules


class Experiment:
    """Puts slips in and lets their tests run, `jobs` at a time."""

    def __init__(self, options, folder, scopes):
        self.options, self.scopes = options, scopes
        self.nearest = Nearest(options.coverage)
        self.trees = [Tree(folder / f"tree{number}") for number in range(options.jobs)]
        self.sound, self.unsound, self.rows = set(), set(), []

    def tests(self, slip):
        return self.nearest.tests(slip, self.scopes[slip.file], self.options.limit, self.unsound)

    def run(self, slips):
        tasks, end = [self.examine(tree, slips) for tree in self.trees], object()
        while tasks:
            tasks = [task for task in tasks if next(task, end) is not end]
            time.sleep(0.02)
        return self.rows

    def examine(self, tree, slips):
        """Takes slips from the common list until it is empty; yields while a process runs."""
        while slips:
            slip = slips.pop(0)
            started, noticed, by = time.monotonic(), False, None
            while tests := self.tests(slip):
                take_out = tree.put_in(slip)
                by = yield from self._wait(tree, tests)
                take_out()
                noticed = by != "passed"
                suspect = tests[0] if by == "dead" else by
                if not noticed or by == "late" or (yield from self._is_sound(tree, suspect)):
                    break
                noticed = False
            self._keep(slip, noticed, by if tests else "no test runs this line", time.monotonic() - started)

    def _wait(self, tree, tests):
        measured = sum(self.nearest.seconds[name] for name in tests)
        run = tree.run(tests, _GRACE + _FACTOR * measured)
        while (result := run.result()) is None:
            yield
        return result

    def _is_sound(self, tree, name):
        """Whether a test is there and passes without any slip, when it runs alone in a process that was forked."""
        if name not in self.sound | self.unsound:
            result = yield from self._wait(tree, [name])
            (self.sound if result == "passed" else self.unsound).add(name)
        return name in self.sound

    def _keep(self, slip, noticed, by, seconds):
        row = dataclasses.asdict(slip) | {"noticed": noticed, "by": by, "seconds": round(seconds, 1)}
        self.rows.append(row)
        print(f"{len(self.rows):4} {'noticed ' if noticed else 'SURVIVED'} {slip} ({by}, {seconds:.0f} s)", flush=True)
        if self.options.output:
            self.options.output.write_text(json.dumps(summary(self.options, self.rows), indent=1), encoding="utf-8")


def summary(options, rows):
    noticed = sum(row["noticed"] for row in rows)
    return {
        "seed": options.seed, "num": len(rows), "noticed": noticed, "share": noticed / max(1, len(rows)),
        "limit": options.limit, "rooms": list(options.rooms), "rows": rows,
    }  # fmt: skip


def table(rows):
    """Lines with the share of each room."""
    for room in dict.fromkeys(row["file"].split("/")[0] for row in rows):
        inside = [row["noticed"] for row in rows if row["file"].startswith(f"{room}/")]
        yield f"{room:<14}{sum(inside):>5} of {len(inside):>4}  {sum(inside) / len(inside):>6.1%}"


def parser():
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("num", type=int, nargs="?", default=300, help="how many slips to draw")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--rooms", nargs="+", choices=ROOMS, default=ROOMS, help="the folders to put slips into")
    found.add_argument("--at", nargs="+", metavar="FILE:LINE", help="every slip on these lines, in place of drawing")
    found.add_argument("--coverage", type=pathlib.Path, nargs="+", help="what --measure wrote, of one state of the code")
    found.add_argument("--measure", type=pathlib.Path, metavar="FILE", help="run the tests under coverage, write this, end")
    found.add_argument("--tests", nargs="+", help="test files to measure; default: all but those far from single lines")
    found.add_argument("--limit", type=float, default=60.0, help="seconds of tests for each slip")
    found.add_argument("--jobs", type=int, default=1, help="how many slips at a time")
    found.add_argument("--output", type=pathlib.Path, help="write JSON here, after each slip")
    found.add_argument("--inside", type=pathlib.Path, help=argparse.SUPPRESS)
    return found


def main():
    options = parser().parse_args()
    if options.inside:
        measure(options.inside, options.tests)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if options.measure:
            tree, near = Tree(folder / "tree"), sorted((REPOSITORY / "tests").glob("test_*.py"))
            tests = options.tests or [f"tests/{path.name}" for path in near if path.name not in FAR_TESTS]
            command = [sys.executable, __file__, "--inside", str(options.measure.resolve()), "--tests", *tests]
            subprocess.run(command, cwd=tree.folder, env=os.environ | {"PYTHONPATH": _path(tree.folder)}, check=True)
            return
        if not options.coverage:
            sys.exit("Pass --coverage FILE, which --measure FILE writes.")
        slips, scopes = find(REPOSITORY, options.rooms)
        print(f"{len(slips)} slips are possible in {', '.join(options.rooms)}.")
        if options.at:
            drawn = [slip for slip in slips if f"{slip.file}:{slip.line}" in options.at]
        else:
            drawn = random.Random(options.seed).sample(slips, min(options.num, len(slips)))
        warm_up()
        rows = Experiment(options, folder, scopes).run(drawn)
    print("\n".join(table(rows)))
    noticed = sum(row["noticed"] for row in rows)
    print(f"{noticed} of {len(rows)} slips noticed, {noticed / max(1, len(rows)):.1%}; seed {options.seed}. Survivors:")
    for row in rows:
        if not row["noticed"]:
            print(f"{row['file']}:{row['line']}: {row['before']!r} -> {row['after']!r} ({row['by']})")


if __name__ == "__main__":
    main()
