"""Latency of what runs shipped: dense float32 against every other file of a run, in turns in one process.

    python benchmarks/latency.py runs/quickstart runs/lenet5_mnist_filter --output latency.json
    python benchmarks/latency.py dense.tflite pruned.tflite --threads 2

Files given by themselves make one table, the first is what the others are compared with. Times are of this machine and this
process; ratios are what to read. Nothing is compared across tables.
"""

import argparse
import json
import pathlib

from rich.console import Console

from tf_reweight.export import benchmark
from tf_reweight.tflite.latency import RUNTIMES


def files_of(folder):
    """The name of a run and its files, the dense float one first, as its report lists them."""
    report = folder / "report.json"
    if not report.is_file():
        raise FileNotFoundError(f"{folder} is no finished run: it has no report.json.")
    figures = json.loads(report.read_text(encoding="utf-8"))
    return figures["name"], [folder / file["name"] for file in figures["files"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=pathlib.Path, help="run folders, or .tflite files")
    parser.add_argument("--runs", type=int, default=300, help="measured runs of each file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=20, help="runs of each file before measuring")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="what runs the files")
    parser.add_argument("--output", type=pathlib.Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    folders = [path for path in options.paths if path.is_dir()]
    files = [path for path in options.paths if not path.is_dir()]
    console, tables = Console(width=120), []
    try:
        groups = [files_of(folder) for folder in folders] + ([("files", files)] if files else [])
        for name, paths in groups:
            for runtime in options.runtimes:
                timed = benchmark(paths, options.runs, options.threads, options.warmup, runtime=runtime)
                console.print(name, *timed.to_tables())
                tables.append({"run": name, "in": runtime, **timed.to_dict()})
                if options.output:
                    options.output.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
