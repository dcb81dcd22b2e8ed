"""Keeps the figures of a finished run as a file of `benchmarks/results`, which README and pages are generated from.

    tf-reweight compress --config configs/quickstart.yaml
    python benchmarks/record.py runs/quickstart config_quickstart --what "digits, small CNN: zeros inside kernels"
    python docs/generate.py

Run it in the checkout that the run was made with: the commit is recorded.
"""

import argparse
import json
import pathlib
import subprocess

RESULTS = pathlib.Path(__file__).parent / "results"
_VERSIONS = ("python", "tensorflow", "keras", "ai-edge-litert")


def commit():
    """The commit of the checkout; its tracked files must be as the commit has them."""
    changed = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    if changed:
        raise SystemExit(f"A result belongs to a commit. Received: changed files.\n{changed}Commit them and run again.")
    shown = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True)
    return shown.stdout.strip()


def environment_of(recorded):
    """Processor, versions and day of a run: what its figures depend on."""
    (kind,) = [part for part in recorded["platform"].split("-") if part in ("x86_64", "aarch64", "arm64", "AMD64")]
    versions = {name: recorded[name] for name in _VERSIONS}
    return {"processor": f"{recorded['processor_count']} {kind} cores", **versions, "date": recorded["date"][:10]}


def figures_of(report):
    """What the pages show of a run: accuracy as executed, sizes and speed against both dense files."""
    summary, stages = report["summary"], report["stages"]
    dense, left = stages[0], stages[-1]
    figures = {"before": summary["before"], "after": summary["after"], "examples": report["data"]["num_test"]}
    figures |= {name: summary[name] for name in ("shipped", "metric", "measurable")}
    figures |= {f"{name}_float32": summary[name] for name in ("size", "download", "speed")}
    figures |= {f"{name}_int8": value for name, value in summary["int8"].items()}
    figures |= {"weights": report["num_nonzero"], "dense_weights": dense["num_weights"]}
    return figures | {name: left[f"num_{name}"] / dense[f"num_{name}"] for name in ("macs", "parameters")}


def result_of(report, what, measured_at):
    """The content of a result file."""
    config = report["config"]
    arguments = f" --config configs/{config['name']}.yaml" + (" --data_dir DIR" if config["data"]["data_dir"] else "")
    return {
        "title": what,
        "command": f"tf-reweight compress{arguments}",
        "commit": measured_at,
        "recorded": "written by benchmarks/record.py from the run's report.json",
        "environment": environment_of(report["environment"]),
        "seeds": [config["seed"]],
        "findings": [],
        "columns": [
            ["shipped file", "{shipped}"],
            ["{metric}, dense", "{before:.2%}"],
            ["shipped", "{after:.2%}"],
            ["kernel weights left", "{weights:,} of {dense_weights:,}"],
            ["MACs left", "{macs:.0%}"],
            ["smaller than float32 / int8", "{size_float32:.1f}x / {size_int8:.1f}x"],
            ["zipped", "{download_float32:.1f}x / {download_int8:.1f}x"],
            ["faster than float32 / int8", "{speed_float32:.1f}x / {speed_int8:.1f}x"],
        ],
        "figures": [figures_of(report)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="folder of a finished run")
    parser.add_argument("name", help="name of the result, without .json")
    parser.add_argument("--what", required=True, help="what was done to which network, in a few words")
    options = parser.parse_args()
    report = json.loads((options.folder / "report.json").read_text(encoding="utf-8"))
    path = RESULTS / f"{options.name}.json"
    result = json.dumps(result_of(report, options.what, commit()), indent=1, ensure_ascii=False)
    path.write_text(result + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
