"""Files run on an emulated ARM machine, where its two commands were run; else what is missing is named."""

import stat

import keras
import numpy as np
import pytest
from packed_nets import content_of, converted, sequential, zeroed
from test_arm import WRONG_ON_ARM, mobile, with_all_that_is_right

from tf_reweight import export, workflow
from tf_reweight.cli import main
from tf_reweight.export import verification
from tf_reweight.packing import equivalence, pack
from tf_reweight.tflite import emulation, litert

L = keras.layers
emulated = pytest.mark.skipif(bool(emulation.missing()), reason=f"no emulated ARM machine: {emulation.missing()}")


@pytest.fixture
def root(tmp_path):
    """A folder that looks like the Debian tree."""
    for part in ("usr/bin/python3", "opt/litert/ai_edge_litert/x", "opt/litert/numpy/x"):
        (tmp_path / "root" / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / part).touch()
    return tmp_path / "root"


@pytest.fixture
def stand_in(root, tmp_path, monkeypatch):
    """An emulator that runs files on this very machine, so that everything around it is tested everywhere."""
    import shlex
    import sys

    script = tmp_path / "bin" / "qemu-aarch64"
    script.parent.mkdir()
    # Called with -cpu NAME -L ROOT PYTHON -B -s SCRIPT FOLDER.
    path = ":".join(sys.path)
    script.write_text(f'#!/bin/sh\nshift 5\nPYTHONPATH={shlex.quote(path)} exec {shlex.quote(sys.executable)} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(script.parent))
    monkeypatch.setenv(emulation.VARIABLE, str(root))
    return script


def test_what_is_missing_is_named(root, stand_in, tmp_path, monkeypatch):
    assert emulation.missing() == "" and emulation.Emulator().root == root
    (root / "opt/litert/numpy/x").rename(tmp_path / "x")
    (root / "opt/litert/numpy").rmdir()
    assert emulation.missing() == "opt/litert/numpy is missing in its folder"
    stand_in.unlink()
    assert emulation.missing() == "qemu-aarch64 is not installed"
    monkeypatch.delenv(emulation.VARIABLE)
    assert emulation.VARIABLE in emulation.missing()
    model = sequential((4,), L.Dense(3))
    source = tmp_path / "a.tflite"
    source.write_bytes(converted("conv 3x3", "int8"))
    before = sorted(tmp_path.rglob("*"))
    for check in (
        lambda: export.export_tflite(model, tmp_path / "b.tflite", verify_arm=True),
        lambda: pack.pack_tflite(source, tmp_path / "b.tflite", verify_arm=True),
        lambda: workflow.compress({"export": {"verify_arm": True}}, out=tmp_path / "run"),
    ):
        with pytest.raises(FileNotFoundError, match="(?s)two commands in docs/arm.md.*|.*Received: "):
            check()
    assert main.console(["pack", str(source), str(tmp_path / "b.tflite"), "--verify_arm"]) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_outputs_come_back_in_order(stand_in):
    content = content_of(sequential((6,), L.Dense(4)), "float32")
    inputs = [np.random.default_rng(0).normal(size=(5, 1, 6)).astype("float32")]
    runs = emulation.Emulator().run(content, inputs)
    for name, delegate in litert.RUNS.items():
        (made,), (expected,) = runs[name], litert.run(content, inputs, delegate)
        np.testing.assert_array_equal(made, expected)


def test_what_the_emulated_machine_says_is_passed_on(stand_in):
    emulator = emulation.Emulator()
    with pytest.raises(RuntimeError, match="Error"):
        emulator.run(b"no model", [np.zeros((1, 1))])
    stand_in.write_text("#!/bin/sh\nkill -SEGV $$\n")
    with pytest.raises(RuntimeError, match="died of SIGSEGV"):
        emulator.run(b"", [])
    content = converted("conv 3x3", "int8")
    with pytest.raises(export.VerificationError, match="on an emulated ARM machine.*SIGSEGV"):
        equivalence.check_same(content, content, emulator=emulator)


def test_a_file_that_is_wrong_there_alone_is_not_kept(stand_in, tmp_path, monkeypatch):
    """Right on this machine, wrong on the other: neither exported nor packed."""
    model, path = sequential((6, 6, 8), L.Conv2D(16, 3), L.Flatten(), L.Dense(4)), tmp_path / "a.tflite"
    record = export.export_tflite(model, path, verify_arm=True)
    assert record.verification.arm_error <= verification.TOLERANCES["float32"] and record.to_dict()["arm_error"] is not None
    assert export.export_tflite(model, path).verification.arm_error is None
    assert equivalence.check_on_arm(path.read_bytes(), emulation.Emulator()) < 1e-5
    path.write_bytes(zeroed(path.read_bytes()))
    assert pack.pack_tflite(path, tmp_path / "b.tflite", verify_arm=True).num_packed
    run = emulation.Emulator.run

    def wrong(self, content, inputs):
        made = run(self, content, inputs)
        return made | {"with": [2 * array for array in made["with"]]} if b"dense/" in content or not packed else made

    monkeypatch.setattr(emulation.Emulator, "run", wrong)
    kept = sorted(tmp_path.rglob("*"))
    for packed, check in (
        (True, lambda: pack.pack_tflite(path, tmp_path / "c.tflite", verify_arm=True)),
        (False, lambda: export.export_tflite(model, tmp_path / "c.tflite", verify_arm=True)),
        (False, lambda: equivalence.check_on_arm(path.read_bytes(), emulation.Emulator())),
    ):
        with pytest.raises(export.VerificationError, match="emulated ARM machine|arm_error=1"):
            check()
    assert sorted(tmp_path.rglob("*")) == kept


def test_a_run_and_its_command_check_on_arm(stand_in, tmp_path, capsys):
    config = {
        "train": {"epochs": 1}, "retrain": {"epochs": 0}, "regularize": {"rounds": 1, "every": 1}, "prune": {"sparsity": 0.9},
        "export": {"precisions": ["int8"], "verify": 4, "representative": 16, "latency_runs": 1, "verify_arm": True},
    }  # fmt: skip
    figures = workflow.compress(config, out=tmp_path / "run")
    assert len(figures["files"]) == 4 and all(file["arm_error"] is not None for file in figures["files"])
    capsys.readouterr()
    packed = figures["files"][-1]["path"]
    assert packed.endswith("_packed.tflite") and main.console(["arm", packed, "--verify_arm"]) == 0
    assert "Executed on an emulated ARM machine" in capsys.readouterr().out


# On the emulated machine itself.


@emulated
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_packed_files_are_right_on_arm(precision):
    content = zeroed(converted("conv 3x3", precision))
    result = pack.pack(content)
    assert result.num_packed
    equivalence.check_same(content, result.content, emulator=emulation.Emulator())
    assert equivalence.check_on_arm(result.content, emulation.Emulator()) < 2e-2


@emulated
def test_a_net_on_the_list_is_right_on_arm():
    content = zeroed(content_of(mobile(full=True), "float32"))
    result = pack.pack(content)
    assert result.num_packed
    equivalence.check_same(content, result.content, reordered=True, emulator=emulation.Emulator())
    # Sparse kernels did run there: nothing else rounds differently.
    with pytest.raises(export.VerificationError, match="with the default delegate on an emulated ARM machine"):
        equivalence.check_same(content, result.content, emulator=emulation.Emulator())


@emulated
def test_elementwise_operations_and_resizing_are_right_on_arm():
    content = zeroed(with_all_that_is_right())
    result = pack.pack(content)
    assert result.num_packed
    equivalence.check_same(content, result.content, reordered=True, emulator=emulation.Emulator())
    with pytest.raises(export.VerificationError, match="with the default delegate on an emulated ARM machine"):
        equivalence.check_same(content, result.content, emulator=emulation.Emulator())


@emulated
@pytest.mark.parametrize("case", ["DEPTHWISE_CONV_2D", "MEAN"])
def test_a_file_that_is_wrong_on_arm_is_caught_there(case, monkeypatch):
    """Packed against the rule, it is right on this machine and wrong on that one."""
    monkeypatch.setattr(pack, "_file_obstacle", lambda *arguments: "")
    content = zeroed(content_of(WRONG_ON_ARM[case](), "float32"))
    made = pack.pack(content).content
    equivalence.check_same(content, made)
    with pytest.raises(export.VerificationError, match="with the default delegate on an emulated ARM machine"):
        equivalence.check_same(content, made, reordered=True, emulator=emulation.Emulator())
    with pytest.raises(export.VerificationError, match="as here"):
        equivalence.check_on_arm(made, emulation.Emulator())
