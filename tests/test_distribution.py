"""Several replicas give what one device gives; the work is in `distributed.py`, which needs a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tf_reweight.workflow import config, strategies

ROOT = pathlib.Path(__file__).parent.parent
# Sums over a batch in another order differ by the rounding of float32, 1.2e-7, and a few dozen steps add some of it up.
TOLERANCE = 2e-6
CASES = (
    "penalties_to_integers", "constructor_and_proximal", "coupled_and_clusters", "coupled_budget", "single_budget",
    "wrapped_admm_and_gradual", "levels_lasso_and_clipping", "saved_and_calibrated", "whole_run",
)  # fmt: skip


@pytest.fixture(scope="module")
def compared():
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command, env = [sys.executable, ROOT / "tests" / "distributed.py"], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_replicas_give_what_one_device_gives(compared, case):
    assert compared[case]["difference"] <= TOLERANCE
    assert not compared[case]["apart"], "every replica has a copy of every variable, and all copies are equal"


def test_every_case_is_asked_for(compared):
    assert set(compared) == {*CASES, "refused"}
    assert {compared[case]["where"] for case in CASES} == {"inside", "outside", "run"}


def test_batches_that_do_not_divide_are_refused(compared):
    message = compared["refused"]
    assert "`train.batch_size` must be a multiple of the 2 devices" in message and "batch_size=7" in message


def test_one_device_is_said():
    assert "is the only device here" in strategies.Mirrored().note()


@pytest.mark.parametrize("wrong", ["mirored", {"name": "mirrored", "devices": 2}, 3])
def test_unknown_strategies_are_refused(wrong):
    with pytest.raises(ValueError, match="distribute"):
        config.load({"distribute": wrong})
