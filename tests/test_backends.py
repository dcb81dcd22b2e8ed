"""Core laws on JAX and torch, each in a process of its own, where they are installed."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


# Sums over a batch in another order differ by the rounding of float32, 1.2e-7, and a few dozen steps add some of it up.
TOLERANCE = 2e-6
WAYS = ("whole_model_on_each", "channels_apart")
CASES = ("proximal_then_zeros_stay", "zeros_of_a_file_stay", "coupled_then_smaller", "coupled_budget", "clusters_and_ranges")


def run(file, backend, folder, **variables):
    """The output of a script of this folder on a backend; skips where that is not installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed; see docs/contributing.md")
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": paths, **variables}
    done = subprocess.run([sys.executable, ROOT / "tests" / file], capture_output=True, text=True, env=env, cwd=folder)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_core_laws(backend, tmp_path):
    run("backends.py", backend, tmp_path)


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return json.loads(run("jax_distributed.py", "jax", tmp_path_factory.mktemp("jax"), **two))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_two_devices_of_jax_give_what_one_gives(distributed, case, way):
    found = distributed[f"{case}, {way}"]
    assert found["difference"] <= TOLERANCE
    assert set(found["devices"]) == {2}, "every weight lives on both devices"
    assert found["split"] == ([] if way == "whole_model_on_each" else ["a/kernel", "b/kernel"])
    if case not in ("coupled_then_smaller", "clusters_and_ranges"):
        assert found["zeros"][0] >= 12, "the zeros of the first kernel stay"
