"""Several replicas give what one device gives; the work is in `distributed.py` and `workers.py`, which need own processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tf_reweight.workflow import config, strategies

ROOT = pathlib.Path(__file__).parent.parent
# Sums over a batch in another order differ by the rounding of float32, 1.2e-7, and a few dozen steps add some of it up.
TOLERANCE = 2e-6
CASES = ("penalties_to_integers", "coupled_and_clusters", "coupled_budget", "wrapped_admm_and_gradual", "whole_run")
# What callbacks do to variables of replicas is the same as in those: between epochs outside of their scope or inside, in a
# constraint, or by a kernel of zeros.
LONG = ("constructor_and_proximal", "levels_lasso_and_clipping", "iterative", "single_budget", "two_objectives")


ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def compared(request):
    cases = (*CASES, *LONG) if request.config.getoption("--slow") else CASES
    command = [sys.executable, ROOT / "tests" / "distributed.py", *cases]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What each of two workers found. One that died would leave the other waiting: both end then."""
    ports, folder = free_ports(2), tmp_path_factory.mktemp("workers")
    files = [(open(folder / f"{index}.json", "w+"), open(folder / f"{index}.txt", "w+")) for index in range(2)]
    command = [sys.executable, ROOT / "tests" / "workers.py"]
    started = [
        subprocess.Popen([*command, str(index), *ports], stdout=out, stderr=err, env=ENV)
        for index, (out, err) in enumerate(files)
    ]
    try:
        codes = [worker.wait(timeout=240) for worker in started]
    finally:
        for worker in started:
            worker.kill()
            worker.wait()
    outs, errs = ([file.seek(0) or file.read() for file in kind] for kind in zip(*files))
    for file in (file for pair in files for file in pair):
        file.close()
    assert codes == [0, 0], "".join(err[-3000:] for err in errs)
    return [json.loads(out) for out in outs]


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in LONG)])
def test_replicas_give_what_one_device_gives(compared, case):
    assert compared[case]["difference"] <= TOLERANCE
    assert not compared[case]["apart"], "every replica has a copy of every variable, and all copies are equal"


def test_every_case_is_asked_for(compared):
    assert {*CASES, "refused"} <= set(compared) <= {*CASES, *LONG, "refused"}
    assert {compared[case]["where"] for case in CASES} == {"inside", "outside", "run"}


@pytest.mark.parametrize("case", ["single", "coupled"])
def test_two_processes_give_what_one_gives(workers, case):
    assert [found["replicas"] for found in workers] == [2, 2]
    first, second = (found[case] for found in workers)
    assert first["losses"] == second["losses"] and first["zeros"] == second["zeros"]
    assert max(first["difference"], second["difference"]) <= TOLERANCE
    if case == "single":
        assert first["zeros"][:3:2] == [24, 32], "the zeros of both kernels stay in training after `prune`"
    else:
        assert first["sizes"][0] < 48 and first["losses"][-1] < first["losses"][0]


def test_fit_of_keras_still_refuses_several_processes(workers):
    assert all("unsupported type" in found["fit"] and "PerReplica" in found["fit"] for found in workers)


def test_batches_that_do_not_divide_are_refused(compared):
    message = compared["refused"]
    assert "`train.batch_size` must be a multiple of the 2 devices" in message and "batch_size=7" in message


def test_one_device_is_said():
    assert "is the only device here" in strategies.Mirrored().note()


@pytest.mark.parametrize("wrong", ["mirored", {"name": "mirrored", "devices": 2}, 3])
def test_unknown_strategies_are_refused(wrong):
    with pytest.raises(ValueError, match="distribute"):
        config.load({"distribute": wrong})
