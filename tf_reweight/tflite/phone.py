"""A folder with a script that measures a file on a phone with TFLite's benchmark tool, and brings the logs back."""

import pathlib
import re
import shlex
import shutil
import tempfile

from tf_reweight import errors
from tf_reweight.checks import check_integer
from tf_reweight.tflite import constants, operations
from tf_reweight.tflite.execution import Runner, check_threads, read_file
from tf_reweight.tflite.file_graph import Graph
from tf_reweight.tflite.latency import MOST_RUNS

# Runs on the phone: name of the log to the tool's flags. A profile slows what it measures, so that it has a run of its own.
_PROFILE = "--enable_op_profiling=true"
RUNS = {"cpu": "", "cpu_ops": _PROFILE, "gpu": "--use_gpu=true", "gpu_ops": f"--use_gpu=true {_PROFILE}"}
_TOOL = "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest"

_SCRIPT = """\
#!/bin/sh
# Measures {name} on a phone that adb reaches, on its CPU and its GPU, and brings the logs back into this folder.
#
#   sh run.sh            with one phone attached
#   ANDROID_SERIAL=... sh run.sh
#
# It needs adb, and the benchmark tool for the phone's processor beside this script, or where BENCHMARK says. For most phones:
#   curl -o benchmark_model {tool}/android_aarch64_benchmark_model
#
# Then: tf-reweight phone {reads}
set -eu
cd "$(dirname "$0")"
BENCHMARK="${{BENCHMARK:-./benchmark_model}}"
FOLDER=/data/local/tmp/tf_reweight
FLAGS={flags}
command -v adb > /dev/null || {{ echo "adb must be installed: it is in Android's platform-tools." >&2; exit 1; }}
[ -f "$BENCHMARK" ] || {{ echo "The benchmark tool must be at $BENCHMARK; see the head of this script." >&2; exit 1; }}
adb get-state > /dev/null
adb shell mkdir -p "$FOLDER"
adb push {name} "$FOLDER/{name}"
adb push "$BENCHMARK" "$FOLDER/benchmark_model"
adb shell chmod 755 "$FOLDER/benchmark_model"
DEVICE="$(adb shell getprop ro.product.model | tr -d '\\r'), $(adb shell getprop ro.soc.model | tr -d '\\r')"
DEVICE="$DEVICE, Android $(adb shell getprop ro.build.version.release | tr -d '\\r')"

measure() {{
    echo "== $1"
    adb shell "cd $FOLDER && ./benchmark_model --graph={name} $FLAGS $2 > $1.log 2>&1" ||
        echo "The run $1 failed; its log says why." >&2
    adb pull "$FOLDER/$1.log" "$1.part" > /dev/null
    {{ echo "Device: $DEVICE"; cat "$1.part"; }} > "$1.log"
    rm "$1.part"
}}

{runs}
adb shell rm -r "$FOLDER"
"""


def write_script(path, folder, num_threads=4, num_runs=50, shapes=None):
    """Writes a folder with a copy of a file, and a script `run.sh` that measures it on a phone.

    The script pushes the file and the benchmark tool with adb, runs it on CPU and GPU, without and with a profile of single
    operations, and pulls one log for each, which `phone_log.read_log` reads.

    Args:
        path: the `.tflite`.
        folder: where to write; must not exist, or be empty.
        num_threads: of the CPU.
        num_runs: measured inferences, at least.
        shapes: of inputs whose sizes the file leaves open: one whole shape as `(1, 224, 224, 3)`, or a dict by input name.

    Returns:
        Tuple of sentences about operations that the tool does not run; empty for most files.

    Raises:
        FileNotFoundError: when there is no such file, or no folder to write in.
        ValueError: for a file that does not load, or a folder that has something in it.

    Example:
        >>> write_script("model.tflite", "phone")
    """
    path, folder = pathlib.Path(path).expanduser(), pathlib.Path(folder).expanduser()
    content = read_file(path)
    check_threads(num_threads)
    check_integer("num_runs", num_runs, 1, MOST_RUNS, fix="For example 50.")
    _check_folder(folder)
    # Two shells read the name, and neither must take it for anything else.
    name = re.sub(r"[^A-Za-z0-9_.]", "_", path.name)
    graph = Graph(constants.parse(content, path))
    foreign = operations.foreign(graph.names)
    flags = [f"--num_threads={num_threads}", f"--num_runs={num_runs}", "--report_peak_memory_footprint=true"]
    # A file with operations of others does not load here, and may on the phone.
    flags += [] if foreign and shapes is None else _input_flags(graph, Runner(content, delegate=False, shapes=shapes), shapes)
    runs = "\n".join(f'measure {name} "{extra}"' for name, extra in RUNS.items())
    script = _SCRIPT.format(
        name=name, tool=_TOOL, runs=runs, flags=shlex.quote(" ".join(map(shlex.quote, flags))),
        reads=" ".join(f"--read {name}.log" for name in RUNS),
    )  # fmt: skip
    _write(folder, {name: content, "run.sh": script.encode()})
    return foreign


def _input_flags(graph, runner, shapes):
    """The tool's flags for sizes that the file leaves open."""
    if shapes is None:
        return []
    details = {detail["index"]: tuple(int(size) for size in detail["shape"]) for detail in runner.input_details}
    names = [graph.tensors[index].name.decode(errors="replace") for index in graph.inputs]
    sizes = [",".join(map(str, details[index])) for index in graph.inputs]
    return [f"--input_layer={','.join(names)}", f"--input_layer_shape={':'.join(sizes)}"]


def _check_folder(folder):
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fix = "Choose a new one: logs of another file beside this one's would mislead."
        raise ValueError(errors.message("The folder (--out) must not exist, or be empty.", fix, folder=str(folder)))
    if not folder.parent.is_dir():
        raise FileNotFoundError(errors.message("The folder that --out lies in must exist.", "Create it.", folder=str(folder)))


def _write(folder, files):
    """The whole folder or nothing."""
    made = pathlib.Path(tempfile.mkdtemp(prefix=".phone", dir=folder.parent))
    try:
        for name, content in files.items():
            (made / name).write_bytes(content)
        (made / "run.sh").chmod(0o755)
        made.chmod(0o755)
        made.replace(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
