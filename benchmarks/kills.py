"""Runs that are killed inside their file operations, or at random times, and started again: do they end as if nothing was?

A library that is loaded before all others counts every operation on a file of the run folder (open for writing, write, rename,
fsync, unlink, mkdir, truncate), from Python and from C alike, and kills the process inside the one that it is told: of a write
only the first half is done. The same call is then made again. It must end with bit-identical weights in every `.keras`,
bit-identical `.tflite` files, and the same report but for times.

    python benchmarks/kills.py                          # every operation of every scenario; needs a C compiler and Linux
    python benchmarks/kills.py single coupled --every 7
    python benchmarks/kills.py single --random 20       # at random times of the run instead
    python benchmarks/kills.py --copies                 # every operation, but each folder that kills would leave only once
    python benchmarks/kills.py sweep --every 90 --output benchmarks/results/kills.json

With `--copies` the run is not killed: the library copies the folder inside every operation, as a kill there would have left it.
Many operations leave the same folder, so only those that differ are started again; what a file holds that has a name for
half-written ones does not count as a difference, since such files are removed unread. Some places are killed in truth as well,
and the folder compared with its copy.

Not covered: what happens to a disk whose power fails. Files are forced to it before they are renamed, which a killed process
cannot show.
"""

import argparse
import ctypes
import datetime
import hashlib
import io
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
import warnings
import zipfile

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int count;
int kills_count(void) { return count; }

/* Processes that the run starts count for themselves, and would begin at one. */
static int inside(const char *path) {
  const char *folder = getenv("KILLS_FOLDER"), *process = getenv("KILLS_PROCESS");
  if (process && atoi(process) != getpid()) return 0;
  return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}
static int inside_fd(int fd) {
  char link[64], path[PATH_MAX];
  if (!getenv("KILLS_FOLDER")) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return inside(path);
}
/* The number of this operation where the process is to stop in it, else 0. */
static int due(void) {
  const char *at = getenv("KILLS_AT");
  int number = __sync_add_and_fetch(&count, 1);
  return getenv("KILLS_COPIES") || number == (at ? atoi(at) : 0) ? number : 0;
}
/* Dies, or copies the folder as it would be left. */
static void stop(int number) {
  static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
  const char *copies = getenv("KILLS_COPIES");
  char command[3 * PATH_MAX];
  if (!copies) { kill(getpid(), SIGKILL); pause(); }
  snprintf(command, sizeof command, "test ! -e '%s' || LD_PRELOAD= cp -a '%s' '%s/%d'", getenv("KILLS_FOLDER"),
           getenv("KILLS_FOLDER"), copies, number);
  pthread_mutex_lock(&one);
  if (system(command)) abort();
  pthread_mutex_unlock(&one);
}
#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define OPEN(name)                                                            \
  int name(const char *path, int flags, ...) {                                \
    REAL(name);                                                               \
    va_list list; va_start(list, flags);                                      \
    int mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(list, int) : 0;       \
    va_end(list);                                                             \
    int hit = (flags & (O_WRONLY | O_RDWR)) && inside(path) ? due() : 0;      \
    int made = real(path, flags, mode);                                       \
    if (hit) stop(hit);                                                       \
    return made;                                                              \
  }
OPEN(open)
OPEN(open64)
/* Half of what was to be written, then the rest. */
#define WRITE(name, SIGNATURE, ARGUMENTS, HALF, REST)                         \
  ssize_t name SIGNATURE {                                                    \
    REAL(name);                                                               \
    int number = inside_fd(fd) ? due() : 0;                                   \
    if (!number) return real ARGUMENTS;                                       \
    ssize_t half = real HALF;                                                 \
    stop(number);                                                             \
    ssize_t rest = real REST;                                                 \
    return half < 0 || rest < 0 ? -1 : half + rest;                           \
  }
#define FROM(data) (const char *)data + size / 2, size - size / 2
WRITE(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2), (fd, FROM(data)))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at),
      (fd, FROM(data), at + size / 2))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), (fd, data, size / 2, at),
      (fd, FROM(data), at + size / 2))
WRITE(writev, (int fd, const struct iovec *parts, int num), (fd, parts, num), (fd, parts, num / 2),
      (fd, parts + num / 2, num - num / 2))
/* Before and after a change of names: odd numbers of operations die before, even ones after. */
#define NAME(name, SIGNATURE, ARGUMENTS, path)                                \
  int name SIGNATURE {                                                        \
    REAL(name);                                                               \
    if (inside(path)) {                                                       \
      int number = due();                                                     \
      if (number) stop(number);                                               \
      int result = real ARGUMENTS;                                            \
      if ((number = due())) stop(number);                                     \
      return result;                                                          \
    }                                                                         \
    return real ARGUMENTS;                                                    \
  }
NAME(rename, (const char *old, const char *new), (old, new), new)
NAME(unlink, (const char *path), (path), path)
NAME(rmdir, (const char *path), (path), path)
NAME(mkdir, (const char *path, mode_t mode), (path, mode), path)
#define FD(name, SIGNATURE, ARGUMENTS)                                        \
  int name SIGNATURE {                                                        \
    REAL(name);                                                               \
    int number = inside_fd(fd) ? due() : 0;                                   \
    if (number) stop(number);                                                 \
    return real ARGUMENTS;                                                    \
  }
FD(fsync, (int fd), (fd))
FD(ftruncate, (int fd, off_t size), (fd, size))
FD(ftruncate64, (int fd, off64_t size), (fd, size))
"""

_EXPORT = {"precisions": ["float32"], "latency_runs": 1, "representative": 16, "verify": 8, "pack": False}
_BASE = {"train": {"batch_size": 16}, "export": _EXPORT}
_BRIEF = {**_BASE, "train": {"epochs": 2, "batch_size": 16}, "retrain": {"epochs": 2}}
_ALL = ["train", "regularize", "prune", "retrain", "shrink", "cluster", "quantize"]
_SINGLE = {"rules": [{"structure": "unstructured", "strength": 1e-2}], "rounds": 2, "every": 1}
# Name -> (function of the workflow, keyword arguments).
SCENARIOS = {
    "single": ("compress", {"config": {
        **_BRIEF, "regularize": _SINGLE, "prune": {"sparsity": 0.5}, "cluster": {"clusters": 4, "epochs": 2},
        "stages": ["train", "regularize", "prune", "retrain", "cluster"],
    }}),
    "coupled": ("compress", {"config": {
        **_BRIEF, "regularize": {"coupled": {"strength": 1.0}, "rounds": 2, "every": 1, "solver": "proximal"},
        "prune": {"sparsity": 0.3}, "shrink": {}, "quantize": {"epochs": 2},
        "distill": {"weight": 0.5, "temperature": 2.0}, "stages": [step for step in _ALL if step != "cluster"],
        "export": {**_EXPORT, "precisions": ["int8"]},
    }}),
    "budget": ("compress", {"budget": "macs=0.6", "config": _BASE, "epochs": {"train": 1, "regularize": 3, "retrain": 1}}),
    "weights": ("compress", {
        "structure": "unstructured", "budget": "weights=0.4", "config": {**_BASE, "export": {**_EXPORT, "pack": True}},
        "epochs": {"train": 1, "regularize": 3, "retrain": 1},
    }),
    "gradual": ("compress", {"config": {
        **_BRIEF, "regularize": {**_SINGLE, "rules": [{"structure": "unstructured"}], "method": "gradual"},
        "prune": {"sparsity": 0.5}, "stages": ["train", "regularize", "prune", "retrain"],
    }}),
    "search": ("compress", {
        "budget": "accuracy_drop=0.9", "config": _BASE, "epochs": {"train": 1, "regularize": 2, "retrain": 1}
    }),
    "sweep": ("sweep", {
        "budgets": ["macs=0.8", "macs=0.6"], "config": _BASE, "epochs": {"train": 1, "regularize": 2, "retrain": 1}
    }),
}  # fmt: skip
# Names of files while they are written, in this package.
HALF_WRITTEN = ".*.partial*"
# What of a report says how long something took, and when.
_TIMES = ("seconds", "latency", "latency_ms", "latency_low_ms", "latency_high_ms", "speedup", "speedup_low", "speedup_high")
_TIMES += ("model_file", "sha256")  # the date is in it, and the times are in the digest of the stages
_TIMES += ("environment", "command", "date", "path", "out", "alarms", "best_by", "knee_by", "faster", "summary", "doubts")


def net():
    """A net of a few dozen weights with all that has a state: dropout, statistics, random orders."""
    import keras

    layers = keras.layers
    inputs = keras.Input((8,), name="x")
    x = layers.BatchNormalization(name="norm")(layers.Dense(8, name="first")(inputs))
    x = layers.Dropout(0.2, name="dropout")(layers.ReLU(name="relu")(x))
    x = layers.Dense(6, activation="relu", name="second")(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x), name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def whole_run(scenario, out):
    """One scenario from its beginning to its end, or from where it was."""
    import keras
    import numpy as np

    import tf_reweight as tfr
    from tf_reweight.reports.progress import QUIET

    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 8)).astype("float32")
    y = np.argmax(x[:, :3] + 0.1 * x[:, 3:6], 1)
    function, how = SCENARIOS[scenario]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(tfr, function)(net(), (x[:64], y[:64]), (x[64:], y[64:]), **how, out=out, console=QUIET)


def fingerprints(folder):
    """What has to be the same, by the path in the folder: hashes of weights and files, reports without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.startswith("."):
            found[name] = "left behind"
        elif path.suffix == ".keras":
            found[name] = _digest(_weights(path))
        elif path.suffix == ".tflite":
            found[name] = _digest([path.read_bytes()])
        elif path.name in ("report.json", "sweep.json", "search.json", "state.json"):
            found[name] = json.dumps(_without_times(json.loads(path.read_text())), sort_keys=True)
    return found


def _weights(path):
    import h5py
    import numpy as np

    parts = []
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        config.pop("compile_config", None)  # its optimizer is numbered by how many a process has made
        parts.append(json.dumps(_without_addresses(config)).encode())
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            file.visititems(lambda name, item: parts.extend(
                [name.encode(), np.asarray(item).tobytes()] if isinstance(item, h5py.Dataset) else []
            ))  # fmt: skip
    return parts


def _without_addresses(value):
    """A config without what Keras calls a shared object by: where it lay in memory."""
    if isinstance(value, dict):
        return {name: _without_addresses(item) for name, item in value.items() if name != "shared_object_id"}
    return [_without_addresses(item) for item in value] if isinstance(value, list) else value


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _without_times(value):
    if isinstance(value, dict):
        return {name: _without_times(item) for name, item in value.items() if name not in _TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


class Server:
    """A process that has imported everything and answers with a fork of itself for each run: imports are paid once."""

    def __init__(self, folder):
        library = folder / "kills.so"
        (folder / "kills.c").write_text(LIBRARY)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, folder / "kills.c", "-ldl"], check=True)
        environment = os.environ | {"LD_PRELOAD": str(library), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, "--serve"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def run(self, scenario, out, at=0, after=0.0, copies=""):
        """Runs a scenario to its end, or to its `at`-th operation, or so many seconds; with `copies`, a folder for copies.

        Returns:
            `(exit status, seconds, operations)`; the status is -9 where it was killed.
        """
        self._process.stdin.write(json.dumps([scenario, str(out), at, after, str(copies)]) + "\n")
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).startswith("["):
            if not line:
                raise RuntimeError("The process that runs the scenarios has died.")
        return tuple(json.loads(line))

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve():
    """Answers a `Server`."""
    import tensorflow as tf  # noqa: F401

    from tf_reweight.workflow import fronts, search  # noqa: F401

    for line in sys.stdin:
        scenario, out, at, after, copies = json.loads(line)
        reading, writing = os.pipe()
        started, child = time.monotonic(), os.fork()
        if not child:
            _child(scenario, out, at, writing, copies)
        os.close(writing)
        if after:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with os.fdopen(reading) as file:
            operations = int(file.read() or 0)
        print(json.dumps([status, time.monotonic() - started, operations]), flush=True)


def _child(scenario, out, at, pipe, copies):
    os.environ |= {"KILLS_FOLDER": out, "KILLS_AT": str(at), "KILLS_PROCESS": str(os.getpid())}
    os.environ |= {"KILLS_COPIES": copies} if copies else {}
    status = 1
    try:
        whole_run(scenario, out)
        os.environ.pop("KILLS_FOLDER")
        os.environ.pop("KILLS_COPIES", None)
        os.write(pipe, str(ctypes.CDLL(None).kills_count()).encode())
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def check(server, scenario, folder, every=1, times=0):
    """Kills a scenario and starts it again, at every operation or at random times.

    Returns:
        Dict of `operations`, `where` it was killed, how many times it was `killed` and `tried`, `identical`, and `others`: what
        went wrong, by where it was killed.
    """
    expected, seconds, operations = reference(server, scenario, folder)
    out, killed, others, rng = folder / "cut", 0, {}, random.Random(0)
    places = [(0, rng.uniform(0.01, seconds)) for _ in range(times)] or [(at, 0.0) for at in range(1, operations + 1, every)]
    for at, after in places:
        shutil.rmtree(out, ignore_errors=True)
        killed += server.run(scenario, out, at, after)[0] == -signal.SIGKILL
        wrong = started_again(server, scenario, out, expected)
        if wrong:
            others[at or round(after, 3)] = wrong
    where = "random times" if times else f"one operation in {every}" if every > 1 else "every operation"
    return _row(operations, where, killed, len(places), others)


def check_copies(server, scenario, folder, kills=5):
    """Starts a scenario again in each folder that a kill inside one of its operations would leave; a few kills are real.

    Returns:
        As `check`: `tried` are the folders that differ, each by the first operation that leaves it, `killed` the real kills.
    """
    expected, _, operations = reference(server, scenario, folder)
    out, copies, places, others, killed = folder / "cut", folder / "copies", {}, {}, 0
    copies.mkdir()
    if server.run(scenario, out, copies=copies)[0] or fingerprints(out) != expected:
        raise RuntimeError(f"{scenario} ends otherwise while its folder is copied.")
    for number in range(1, operations + 1):
        first = places.setdefault(contents(copies / str(number)), number)
        if first != number:
            shutil.rmtree(copies / str(number), ignore_errors=True)
    for number in sorted(places.values())[:: max(1, len(places) // kills)]:
        shutil.rmtree(out, ignore_errors=True)
        killed += server.run(scenario, out, number)[0] == -signal.SIGKILL
        left, copy = ({*map(str, _paths(each)), *fingerprints(each).items()} for each in (out, copies / str(number)))
        if left != copy:
            others[number] = {"copied": sorted(map(str, left ^ copy))}
    for number in sorted(places.values()):
        shutil.rmtree(out, ignore_errors=True)
        if (copies / str(number)).exists():
            (copies / str(number)).rename(out)
        wrong = started_again(server, scenario, out, expected)
        if wrong:
            others[number] = wrong
    return _row(operations, "every operation, by copies", killed, len(places), others)


def _row(operations, where, killed, tried, others):
    identical = tried - len(others)
    row = {"operations": operations, "where": where, "killed": killed, "tried": tried, "identical": identical}
    return row | {"others": others}


def reference(server, scenario, folder):
    """`(fingerprints, seconds, operations)` of a run that is left alone."""
    status, seconds, operations = server.run(scenario, folder / "whole")
    if status:
        raise RuntimeError(f"{scenario} does not even end when it is left alone.")
    return fingerprints(folder / "whole"), seconds, operations


def started_again(server, scenario, out, expected):
    """What is wrong with how a run ends that goes on from a folder; an empty dict where nothing is."""
    status, _, _ = server.run(scenario, out)
    found = fingerprints(out)
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return {"exit": status, "differing": differing} if status or differing else {}


def contents(folder):
    """What tells a folder from another: paths, and what the files hold but for half-written ones."""
    files = [(path, folder / path) for path in _paths(folder)]
    return tuple(
        (str(path), "" if full.is_dir() or full.match(HALF_WRITTEN) else _digest([full.read_bytes()])) for path, full in files
    )


def _paths(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", default=[], help=f"of {', '.join(SCENARIOS)}; default all")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth operation")
    parser.add_argument("--random", type=int, default=0, help="so many random times instead of operations")
    parser.add_argument("--copies", action="store_true", help="copy the folder inside every operation instead of killing")
    parser.add_argument("--output", help="a JSON file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    values = parser.parse_args()
    if values.serve:
        return serve()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        server = Server(pathlib.Path(name))
        print(f"{'scenario':<10}{'operations':>12}{'killed':>8}{'identical':>11}", flush=True)
        for scenario in values.scenarios or SCENARIOS:
            folder = pathlib.Path(name) / scenario
            folder.mkdir()
            if values.copies:
                row = check_copies(server, scenario, folder)
            else:
                row = check(server, scenario, folder, values.every, values.random)
            rows[scenario] = row
            counts = f"{row['operations']:>12}{row['killed']:>8}{row['identical']:>6} of {row['tried']}"
            print(f"{scenario:<10}{counts}", flush=True)
            for place, what in row["others"].items():
                print(f"  killed at {place}: {what}", flush=True)
            if values.output:
                save(pathlib.Path(values.output), rows)
        server.close()


def save(path, rows):
    """Writes the result; kinds of run that are in the file already and were not run again stay."""
    import record

    from tf_reweight.tflite.processor import processor_name

    known = json.loads(path.read_text())["rows"] if path.exists() else {}
    rows = known | rows
    figures = [{"scenario": name, **{key: row[key] for key in row if key != "others"}} for name, row in rows.items()]
    tried, identical = (sum(row[name] for row in figures) for name in ("tried", "identical"))
    result = {
        "title": "Runs killed inside their file operations",
        "command": "python benchmarks/kills.py",
        "commit": record.commit(),
        "recorded": "written by benchmarks/kills.py",
        "environment": {"processor": processor_name(), "date": datetime.date.today().isoformat()},
        "seeds": [1],
        "findings": [
            f"{identical} of {tried} ended identical when the same call was made again.",
            "By copies: the folder was copied inside every operation, as a kill there leaves it, and each that differs from "
            "the others was started again; what half-written files hold, which are removed unread, is no difference.",
        ],
        "columns": [
            ["kind of run", "{scenario}"], ["operations on files", "{operations}"], ["killed at", "{where}"],
            ["started again", "{tried}"], ["real kills", "{killed}"], ["identical", "{identical}"],
        ],
        "figures": figures,
        "rows": rows,
    }  # fmt: skip
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
