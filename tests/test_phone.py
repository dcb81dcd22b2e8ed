"""Measuring on a phone: the script is run against an adb of our own, and logs are read as the tools write them."""

import json
import os
import subprocess
import sys

import keras
import pytest

from tf_reweight.cli import main
from tf_reweight.export import conversion, samples
from tf_reweight.tflite import flatbuffer, phone, phone_log

L = keras.layers
# As benchmark_model prints it, figures of our own.
PROFILE = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t ModifyGraphWithDelegate\t    0.500\t    0.500\t100.000%\t100.000%\t   512.000\t        1\tModifyGraphWithDelegate/0

Number of nodes executed: 1
============================== Summary by node type ==============================
\t             [Node type]\t  [count]\t  [avg ms]\t    [avg %]\t    [cdf %]\t  [mem KB]\t[times called]
\t ModifyGraphWithDelegate\t        1\t     0.500\t   100.000%\t   100.000%\t   512.000\t        1

Timings (microseconds): count=1 curr=500
Memory (bytes): count=0
1 nodes observed

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t   TfLiteXNNPackDelegate\t    1.100\t    1.000\t 80.000%\t 80.000%\t     0.000\t        1\t[conv/Relu, dense/BiasAdd]:3
\t                 SOFTMAX\t    0.300\t    0.250\t 20.000%\t100.000%\t     0.000\t        1\t[scores]:2

============================== Top by Computation Time ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t   TfLiteXNNPackDelegate\t    1.100\t    1.000\t 80.000%\t 80.000%\t     0.000\t        1\t[conv/Relu, dense/BiasAdd]:3

Number of nodes executed: 2
============================== Summary by node type ==============================
\t             [Node type]\t  [count]\t  [avg ms]\t    [avg %]\t    [cdf %]\t  [mem KB]\t[times called]
\t   TfLiteXNNPackDelegate\t        1\t     1.000\t    80.000%\t    80.000%\t     0.000\t        1

Timings (microseconds): count=50 first=1400 curr=1250 min=1200 max=1400 avg=1250 std=20
Memory (bytes): count=0
2 nodes observed
"""
LOG = """\
Device: Pixel 8, Tensor G3, Android 15
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [50]
INFO: Num threads: [4]
INFO: Graph: [model.tflite]
INFO: Enable op profiling: [1]
INFO: Loaded model model.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 2 out of 3 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions for subgraph 0 (main).
INFO: The input model file size (MB): 0.5
INFO: Initialized session in 3.25ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=300 first=2500 curr=1300 min=1210 max=2500 avg=1340.5 std=90 p5=1220 median=1301 p95=1500

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=800 first=1310 curr=1240 min=1190 max=1.9e+03 avg=1255.25 std=33 p5=1200 median=1250 p95=1320

INFO: Inference timings in us: Init: 3250, First inference: 2500, Warmup (avg): 1340.5, Inference (avg): 1255.25
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory \
footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=4.5 overall=9.25
INFO: Overall peak memory footprint (MB) via periodic monitoring: 21.5
""" + PROFILE


def read(folder, text):
    (folder / "some.log").write_text(text)
    return phone_log.read_log(folder / "some.log")


def test_a_log_of_benchmark_model_is_read_whole(tmp_path):
    found = read(tmp_path, LOG)
    assert (found.tool, found.device, found.model) == ("benchmark_model", "Pixel 8, Tensor G3, Android 15", "model.tflite")
    assert (found.init_ms, found.first_ms, found.mean_ms, found.num_runs, found.num_threads) == (3.25, 2.5, 1.25525, 800, 4)
    assert (found.median_ms, found.min_ms, found.max_ms, found.p95_ms, found.std_ms) == (1.25, 1.19, 1.9, 1.32, 0.033)
    assert (found.init_memory, found.memory, found.peak_memory) == (4.5, 9.25, 21.5)
    assert found.delegates == ({"delegate": "TfLiteXNNPackDelegate", "operations": 2, "of": 3, "partitions": 2},)
    assert found.fully_delegated is False
    assert [(item["type"], item["mean_ms"], item["share"]) for item in found.operations] == [
        ("TfLiteXNNPackDelegate", 1.0, 0.8), ("SOFTMAX", 0.25, 0.2)
    ]  # fmt: skip
    assert found.operations[1]["name"] == "[scores]:2"
    said = str(found)
    assert all(words in said for words in ("Pixel 8", "1.255 ms", "21.5 MB", "2 of 3", "SOFTMAX"))


LOGCAT = ("I tflite  : ", "07-08 15:33:56.256 I/tflite  ( 5395): ", "05-30 15:16:44.858  3380  3380 I tflite  : ")


@pytest.mark.parametrize("start", ["", *LOGCAT])
def test_logcat_and_older_versions_are_read_too(tmp_path, start):
    """Without percentiles, with an older line of memory and a column more, pasted with carriage returns."""
    old = LOG.replace(" p5=1200 median=1250 p95=1320", "").replace("INFO: ", "").replace("VERBOSE: ", "")
    old = old.replace("Memory footprint delta from the start of the tool", "Peak memory footprint")
    for before, column in (("\t  [first]", "\t  [start]"), ("\t    1.100", "\t  0.000"), ("\t    0.300", "\t  1.000")):
        old = old.replace(before, column + before)
    lines = old.split("\n")
    found = read(tmp_path, "\r\n".join([lines[0], *(start + line for line in lines[1:])]))
    assert (found.mean_ms, found.median_ms, found.min_ms, found.memory) == (1.25525, None, 1.19, 9.25)
    assert [item["mean_ms"] for item in found.operations] == [1.0, 0.25] and found.device.startswith("Pixel")


def test_whether_one_delegate_runs_all(tmp_path):
    replaced = next(line for line in LOG.splitlines(keepends=True) if "Replacing" in line)
    applied = "INFO: Explicitly applied GPU delegate, and the model graph will be"
    for line, whole in (
        (replaced.replace("2 out of 3", "3 out of 3").replace("yielding 2", "yielding 1"), True),
        (f"{applied} completely executed by the delegate.\n", True),
        (f"{applied} partially executed by the delegate w/ 4 delegate kernels.\n", False),
        ("Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.\n", False),
        ("", None),
    ):
        assert read(tmp_path, LOG.replace(replaced, line)).fully_delegated is whole


def test_a_log_that_was_cut_off_is_refused_wherever_it_ends(tmp_path):
    """Every prefix is either read with the very figures of the whole, or refused; most are refused."""
    whole, refused = read(tmp_path, LOG), 0
    for end in range(40, len(LOG) - 1, 97):
        try:
            assert read(tmp_path, LOG[:end]) == whole
        except ValueError as error:
            refused += 1
            assert "must " in str(error) and "Received: log=" in str(error) and "pull the log" in str(error)
    assert refused > 0.95 * (len(LOG) - 41) / 97
    with pytest.raises(ValueError, match="The tool says: Failed to initialize the interpreter"):
        read(tmp_path, LOG[: LOG.index("INFO: Created")] + "ERROR: Failed to initialize the interpreter\n")
    for text in ("", "some other log\n", "\x00" * 100, "{}", '{"latency": 1}'):
        with pytest.raises(ValueError, match="Received: log="):
            read(tmp_path, text)
    with pytest.raises(FileNotFoundError, match="must exist"):
        phone_log.read_log(tmp_path / "none.log")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    net = keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(8, 3, activation="relu"), L.Flatten(), L.Dense(4)])
    path = tmp_path_factory.mktemp("model") / "model.tflite"
    path.write_bytes(conversion.convert(net, "float32", samples.input_specs(net)))
    return path


def test_what_litert_benchmark_writes_is_read(model, tmp_path):
    """The tool that comes with LiteRT, run here: its text and its JSON say the same."""
    command = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", f"--model={model}", "--num_runs=7"]
    done = subprocess.run([*command, f"--result_json={tmp_path / 'r.json'}"], capture_output=True, text=True, check=True)
    (tmp_path / "both.log").write_text(done.stderr + done.stdout)
    text, figures = (phone_log.read_log(tmp_path / name) for name in ("both.log", "r.json"))
    assert text.num_runs == figures.num_runs == 7 and text.fully_delegated is figures.fully_delegated is True
    assert text.model == figures.model == str(model) and text.num_threads == figures.num_threads == 1
    for name in ("init_ms", "first_ms", "mean_ms", "median_ms", "min_ms", "max_ms", "p95_ms", "std_ms"):
        assert vars(text)[name] == pytest.approx(vars(figures)[name], abs=0.011) and text.init_ms > 0
    printed = done.stdout
    for text in (printed[: printed.index("(p95)")], done.stderr + printed[: printed.index("(max)")]):
        with pytest.raises(ValueError, match="litert-benchmark are not all there"):
            read(tmp_path, text)
    with pytest.raises(ValueError, match="Received: log="):
        read(tmp_path, (tmp_path / "r.json").read_text()[:200])


# An adb that runs on this machine what it should on the phone, in a folder of its own.
ADB = """\
#!/bin/sh
ROOT="$(dirname "$0")/device"
case "$1" in
  get-state) exit 0 ;;
  push) mkdir -p "$ROOT/data/local/tmp/tf_reweight"; cp "$2" "$ROOT$3" ;;
  pull) cp "$ROOT$2" "$3" ;;
  shell) shift; case "$1" in getprop) echo "a $2" ;; *) sh -c "$(echo "$*" | sed "s|/data/local|$ROOT/data/local|g")" ;; esac ;;
esac
"""
TOOL = """\
#!/bin/sh
[ -f "${1#--graph=}" ] || exit 1
echo "Arguments: $*"
for word in "$@"; do echo "word $word"; done
cat <<END
%s
END
"""


def ran(folder, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "adb").write_text(ADB)
    (tools / "adb").chmod(0o755)
    (folder / "benchmark_model").write_text(TOOL % LOG.split("\n", 1)[1])
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.run(["sh", str(folder / "run.sh")], capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize("flags", [["--runs", "9" * 26], ["--threads", "9" * 26]])
def test_numbers_that_no_phone_takes_are_refused(flags, model, tmp_path, capsys):
    assert main.console(["phone", str(model), "--out", str(tmp_path / "phone"), *flags]) == 2
    assert f"must be an int in 1..1{'0' * 7 if flags[0] == '--runs' else '024'}. Received:" in capsys.readouterr().err
    assert not (tmp_path / "phone").exists()


def test_the_script_brings_logs_back_that_are_read(model, tmp_path, capsys):
    folder = tmp_path / "phone"
    assert main.console(["phone", str(model), "--out", str(folder), "--threads", "2", "--runs", "9"]) == 0
    assert "run.sh measures model.tflite" in capsys.readouterr().out
    assert (folder / "model.tflite").read_bytes() == model.read_bytes()
    done = ran(folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.glob("*.log")) == sorted(f"{name}.log" for name in phone.RUNS)
    asked = "word --num_threads=2\nword --num_runs=9\nword --report_peak_memory_footprint=true\n"
    assert asked in (folder / "cpu.log").read_text()
    assert "--use_gpu=true --enable_op_profiling=true" in (folder / "gpu_ops.log").read_text()
    assert not list((tmp_path / "tools" / "device" / "data" / "local" / "tmp").iterdir())
    logs = [word for name in phone.RUNS for word in ("--read", str(folder / f"{name}.log"))]
    assert main.console(["phone", *logs, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [item["mean_ms"] for item in figures] == [1.25525] * 4
    assert figures[0]["device"] == "a ro.product.model, a ro.soc.model, Android a ro.build.version.release"
    assert main.console(["phone", *logs[:2]]) == 0 and "The slowest 2 of 2" in capsys.readouterr().out


def test_names_are_no_commands(tmp_path):
    """Of files and of inputs: whatever they are called, two shells read nothing but a name."""
    x = keras.Input((None, None, 3), name="image")
    net = keras.Model(x, L.Conv2D(4, 3)(x))
    specs = [samples.InputSpec("image", (1, None, None, 3), "float32")]
    read_model = flatbuffer.read(conversion.convert(net, "float32", specs))
    bad = "$(touch bad1);`touch bad2`'\"\n touch bad3"
    graph = read_model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = bad.encode()
    path = tmp_path / "a b$(touch bad4)\n;touch bad5.tflite"
    path.write_bytes(flatbuffer.write(read_model))
    folder = tmp_path / "phone"
    assert phone.write_script(path, folder, shapes=(1, 8, 8, 3)) == ()
    done = ran(folder, tmp_path)
    assert done.returncode == 0, done.stderr
    log = (folder / "cpu.log").read_text()
    assert f"word --input_layer={bad}\n" in log and "word --input_layer_shape=1,8,8,3\n" in log
    assert not list(tmp_path.rglob("bad*"))


def test_what_cannot_be_measured_is_refused_and_leaves_nothing(model, tmp_path, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "cpu.log").write_text("of another file")
    (tmp_path / "bad.tflite").write_bytes(b"no model, but a text of some length")
    for arguments, words in (
        ([str(model), "--out", str(full)], "must not exist, or be empty"),
        ([str(model), "--out", str(tmp_path / "no" / "folder")], "must exist"),
        ([str(tmp_path / "bad.tflite"), "--out", str(tmp_path / "new")], "TFLite flatbuffer"),
        ([str(tmp_path / "none.tflite"), "--out", str(tmp_path / "new")], "must exist"),
        ([str(model), "--out", str(tmp_path / "new"), "--shape", "1,2,2,3"], "must fit"),
        ([str(model)], "--read alone"),
        ([str(model), "--read", "cpu.log"], "--read alone"),
        (["--out", str(tmp_path / "new")], "Expected one FILE.tflite"),
    ):
        assert main.console(["phone", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tflite", "full"]
    done = ran_without_tool(model, tmp_path)
    assert done.returncode == 1 and "benchmark tool must be at" in done.stderr


def ran_without_tool(model, tmp_path):
    phone.write_script(model, tmp_path / "phone")
    (tmp_path / "phone" / "adb").write_text(ADB)
    (tmp_path / "phone" / "adb").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path / 'phone'}:{os.environ['PATH']}"}
    return subprocess.run(["sh", str(tmp_path / "phone" / "run.sh")], capture_output=True, text=True, env=env, check=False)


def test_operations_that_the_tool_does_not_have_are_named(model, tmp_path, capsys):
    read_model = flatbuffer.read(model.read_bytes())
    code = read_model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = flatbuffer.schema().BuiltinOperator.CUSTOM
    code.customCode = b"FlexErf"
    (tmp_path / "flex.tflite").write_bytes(flatbuffer.write(read_model))
    assert main.console(["phone", str(tmp_path / "flex.tflite"), "--out", str(tmp_path / "phone")]) == 0
    assert "FlexErf is an operation of TensorFlow (Flex)" in capsys.readouterr().out
